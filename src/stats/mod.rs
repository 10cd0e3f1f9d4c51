//! What is counted and timed: the worker's side (plain words and a histogram it owns) and the collector's.

pub mod accounts;
pub mod books;
pub mod buckets;
pub mod collect;
pub mod figures;
pub mod latency;
pub mod latest;
pub mod summary;
pub mod tally;
