//! Whether workers remember flows of a server still. Each worker goes through its flow table, a bucket a turn, again and again, and
//! notes here which servers it has found; the control thread reads. Nobody waits for anybody.

use super::flow_table::ticks;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of one layout.
pub struct Census {
    /// By destination: when the latest round began in which a worker found a flow of it, in ticks.
    found: Box<[AtomicU64]>,
    /// By worker: when its latest complete round began; 0: none is complete.
    rounds: Box<[AtomicU64]>,
}

impl Census {
    pub fn new(workers: usize, destinations: usize) -> Census {
        let zeroes = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Census { found: zeroes(destinations), rounds: zeroes(workers) }
    }

    pub fn note(&self, destination: u32, round: u64) {
        self.found[destination as usize].fetch_max(round, Ordering::Relaxed);
    }

    /// The worker has noted all that it found in the round that began then.
    pub fn complete(&self, worker: usize, round: u64) {
        self.rounds[worker].store(round, Ordering::Release);
    }

    /// Whether workers may remember flows of these destinations, as of rounds that all began after `since`, in nanoseconds.
    pub fn may_know(&self, destinations: Range<usize>, since: u64) -> bool {
        let first = self.rounds.iter().map(|round| round.load(Ordering::Acquire)).min().unwrap_or(0);
        first <= ticks(since) || self.found[destinations].iter().any(|found| found.load(Ordering::Relaxed) >= first)
    }
}
