//! A worker's counters. One thread writes, any thread may read: plain 64-bit words, no lock, no read-modify-write.
//!
//! Received = forwarded + dropped + passed, exactly, whenever the worker is between two turns.

use crate::model::{LimitKind, OddKind};
use crate::verdict::Reason;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with a single writer. `add` is a load and a store, which never tear; no bus lock.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What went to one server of one service.
#[derive(Default)]
pub struct Sent {
    pub frames: Counter,
    /// Of whole frames, Ethernet header included, FCS not.
    pub bytes: Counter,
    /// TCP connections begun: SYN without ACK.
    pub flows: Counter,
}

/// What lists say of the frames to one service.
#[derive(Default)]
pub struct Listed {
    /// Dropped as `denied`.
    pub denied: Counter,
    /// Dispatched, though a list that only counts has them.
    pub would_deny: Counter,
}

/// What a limit says of the frames to one service, or of a kind.
#[derive(Default)]
pub struct Limited {
    /// Dropped as `limited`.
    pub limited: Counter,
    /// Dispatched, though beyond a limit that only counts.
    pub would_limit: Counter,
}

pub struct Tally {
    pub received: Counter,
    pub passed: Counter,
    dropped: [Counter; Reason::COUNT],
    /// By `Table::destination`.
    sent: Box<[Sent]>,
    /// By service.
    listed: Box<[Listed]>,
    limited: Box<[[Limited; LimitKind::COUNT]]>,
    odd: [Limited; OddKind::COUNT],
}

impl Tally {
    /// For the tables of a layout, by how many services and destinations they have.
    pub fn new(services: usize, destinations: usize) -> Tally {
        Tally {
            received: Counter::default(),
            passed: Counter::default(),
            dropped: Default::default(),
            sent: (0..destinations).map(|_| Sent::default()).collect(),
            listed: (0..services).map(|_| Listed::default()).collect(),
            limited: (0..services).map(|_| Default::default()).collect(),
            odd: Default::default(),
        }
    }

    #[inline(always)]
    pub fn sent(&self, destination: usize) -> &Sent {
        &self.sent[destination]
    }

    #[inline(always)]
    pub fn dropped(&self, reason: Reason) -> &Counter {
        &self.dropped[reason as usize]
    }

    #[inline(always)]
    pub fn listed(&self, service: usize) -> &Listed {
        &self.listed[service]
    }

    #[inline(always)]
    pub fn limited(&self, service: usize, kind: LimitKind) -> &Limited {
        &self.limited[service][kind as usize]
    }

    #[inline(always)]
    pub fn odd(&self, kind: OddKind) -> &Limited {
        &self.odd[kind as usize]
    }

    /// Adds frames that a limit would drop if it did more than count.
    pub fn would_limit_odd(&self, counts: &[u64; OddKind::COUNT]) {
        self.odd.iter().zip(counts).filter(|(_, count)| **count > 0).for_each(|(of, count)| of.would_limit.add(*count));
    }

    pub fn services(&self) -> usize {
        self.listed.len()
    }

    pub fn destinations(&self) -> usize {
        self.sent.len()
    }

    /// Frames sent to all servers together.
    pub fn forwarded(&self) -> u64 {
        self.sent.iter().map(|sent| sent.frames.get()).sum()
    }

    /// Frames dropped for all reasons together.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(Counter::get).sum()
    }
}
