//! The control thread's work: ordinary code and libraries, away from the frames.

pub mod agreement;
pub mod announce;
pub mod cost;
pub mod denials;
pub mod diff;
pub mod health;
pub mod interface;
pub mod membership;
pub mod neighbours;
pub mod overrides;
pub mod state_file;
