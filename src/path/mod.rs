//! The journey's steps, as pure functions over slices and tables: no port, no I/O, total on any input.
//!
//! `parse` reads a frame's headers down to the flow that decides. `select` matches the flow with a service, hashes a
//! whole burst and looks the servers up. `follow` decides the few whose slot is moving, `watch` notes those of a client that an operator watches. `rewrite` writes the two MAC addresses.

mod follow;
pub mod parse;
pub mod rewrite;
pub mod select;
mod watch;
