//! oneip makes a cluster of servers answer on one IP address.

pub mod control;
pub mod limits;
pub mod plan;
pub mod port;
pub mod verdict;
