//! The control thread's work: ordinary code and libraries, away from the frames.

pub mod config;
pub mod cores;
pub mod host;
pub mod neighbours;
pub mod privileges;
