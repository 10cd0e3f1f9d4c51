//! The control thread's work: ordinary code and libraries, away from the frames.

pub mod config;
pub mod neighbours;
