//! oneip makes a cluster of servers answer on one IP address.

pub mod control;
pub mod hash;
pub mod limits;
pub mod path;
pub mod plan;
pub mod port;
pub mod server;
pub mod stats;
pub mod supervise;
pub mod table;
pub mod verbs;
pub mod verdict;
pub mod wire;
pub mod worker;
