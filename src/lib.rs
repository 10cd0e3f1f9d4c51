//! oneip makes a cluster of servers answer on one IP address.

pub mod limits;
pub mod plan;
pub mod port;
pub mod server;
pub mod verdict;
