//! What threads share, in every interleaving: the sources themselves, with loom's threads and atomics in the place of the standard
//! library's.
//!
//! `cd tests/loom; cargo test`

// Of the sources, what these models do not call.
#![allow(dead_code)]

extern crate loom_std as std;

pub mod charges;
pub mod heartbeat;
pub mod publication;
pub mod tally;
pub mod timing;

// The sources.
#[path = "../../src/metrics/buckets.rs"]
mod buckets;
#[path = "../../src/metrics/counters.rs"]
mod counters;
#[path = "../../src/metrics/histogram.rs"]
mod histogram;
#[path = "../../src/model/limit.rs"]
mod limit;
#[path = "../../src/table/publish.rs"]
mod publish;
#[path = "../../src/table/limits/tokens.rs"]
mod tokens;
#[path = "../../src/verdict.rs"]
mod verdict;

// What they name besides.
mod model {
    pub use crate::limit::{LimitKind, OddKind};
}

mod snapshot {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct WorkerReport;
}

/// Which one it is.
struct Table {
    layout: u64,
    number: u64,
}

/// No worker frees a table: that takes time.
impl Drop for Table {
    fn drop(&mut self) {
        publication::IS_WORKER.with(|is_worker| assert!(!is_worker.get()));
    }
}
