//! The journey's steps, as pure functions over slices and tables: no port, no I/O, total on any input.
//!
//! `plain` reads the headers of the frames that nearly all are, a burst at a time; `parse` any frame's, down to the flow that
//! decides. `select` matches the flow with a service, sorts it into a `batch`, hashes a whole burst and looks the servers up.
//! `screen` takes out those whose source is denied, `limit` those beyond a limit of their service, `odd` those of a kind that is dear to read.
//! `quic` finds the server of a connection ID. `flow_table` decides the few whose slot is migrating, `second_chance` those that a server has sent
//! back, `trace` notes those that an operator
//! watches. `rewrite`
//! writes the two MAC addresses, `encapsulate` what goes through tunnels.

pub mod batch;
pub mod classify;
pub mod encapsulate;
pub mod fast_path;
mod flow_table;
mod limit;
mod odd;
mod quic;
pub mod rewrite;
mod screen;
mod second_chance;
pub mod select;
pub mod trace;
