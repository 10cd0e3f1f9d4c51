//! Where facts come from.
//!
//! - `files`: /proc and /sys; `host`: this machine and its cores; `interface`: the NIC; `network`: addresses, routes, rules, neighbours
//! - `frames`: what comes in while we listen
//! - `running`: a process that dispatches

pub mod files;
pub mod frames;
pub mod host;
pub mod interface;
pub mod network;
pub mod running;
