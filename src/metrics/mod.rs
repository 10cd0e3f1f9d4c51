//! What is counted and timed: the worker's side (plain words and a histogram it owns) and the collector's.

pub mod aggregate;
pub mod buckets;
pub mod collect;
pub mod counters;
pub mod histogram;
pub mod interval_log;
pub mod latest;
pub mod snapshot;
pub mod source;
pub mod space_saving;
pub mod summary;
pub mod worker;
