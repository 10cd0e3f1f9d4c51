//! The control thread's work: ordinary code and libraries, away from the frames.

pub mod admin;
pub mod clock;
pub mod config;
pub mod cores;
pub mod cost;
pub mod differences;
pub mod health;
pub mod host;
pub mod interface;
pub mod lock;
pub mod membership;
pub mod neighbours;
mod netlink;
pub mod operator;
pub mod privileges;
pub mod state_file;
