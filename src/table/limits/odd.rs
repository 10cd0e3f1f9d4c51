//! Limits of packets whose headers are read the long way: `[limit.odd]`. One bucket a kind, whatever the service.
//!
//! They are asked as soon as the IP header says what a packet is, before anything behind it is read: what is beyond costs little. What
//! is within takes its token when it was read, unless a list denies its source: who is denied takes nothing from others.

use super::tokens::{PARTS, lack, take};
use super::{Gauge, ServiceBuckets};
use crate::model::{OddKind, OddLimit};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const _: () = assert!(OddKind::COUNT <= super::SHARED, "their buckets are as those of a service");

pub struct OddLimits {
    gauges: [Gauge; OddKind::COUNT],
    only_counts: bool,
    buckets: Arc<ServiceBuckets>,
}

/// Of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// There is no limit for it.
    Free,
    /// It is to be charged.
    Yes,
    /// It would be dropped, if the limit did more than count.
    Counted,
    Dropped,
}

impl OddLimits {
    /// Goes on with the buckets of those before.
    pub fn new(limit: &OddLimit, before: Option<&OddLimits>) -> OddLimits {
        OddLimits {
            gauges: limit.rates.map(Gauge::of),
            only_counts: limit.only_counts,
            buckets: before.map_or_else(Arc::default, |before| Arc::clone(&before.buckets)),
        }
    }

    /// Judges a packet.
    #[inline]
    pub fn judge(&self, kind: OddKind, now_ns: u64) -> Within {
        let Gauge { cost, depth } = self.gauges[kind as usize];
        if depth == 0 {
            return Within::Free;
        }
        let full_at = self.buckets.0[kind as usize].load(Relaxed);
        match lack(full_at, now_ns << PARTS, depth) + cost > depth {
            false => Within::Yes,
            true if self.only_counts => Within::Counted,
            true => Within::Dropped,
        }
    }

    /// Takes the token of a packet that is within.
    #[inline]
    pub fn charge(&self, kind: OddKind, now_ns: u64) {
        let (Gauge { cost, depth }, full_at) = (self.gauges[kind as usize], &self.buckets.0[kind as usize]);
        let (now, seen) = (now_ns << PARTS, full_at.load(Relaxed));
        take(full_at, (seen, lack(seen, now, depth)), now, cost);
    }

    /// By `OddKind`.
    pub fn gauges(&self) -> &[Gauge; OddKind::COUNT] {
        &self.gauges
    }

    pub fn only_counts(&self) -> bool {
        self.only_counts
    }
}
