//! Latency histograms, from a frame's arrival at the driver to its hand-over to the transmit ring, a service each.
//!
//! A worker records into a set that it owns. Once an interval the collector puts an empty set into the exchange; the
//! worker, at its next turn, hands the full one over for it, whole, and says how it is with it. Nobody waits, nothing is copied
//! or shared. When the recorder is dropped, what it still holds goes the same way.

use super::buckets::{BUCKETS, bucket_of, lowest};
use super::snapshot::WorkerReport;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;

/// A histogram a service. Recording is most of what a frame's statistics cost, so it is ours: `metrics::buckets`, without what
/// `hdrhistogram` keeps beside the counts. The collector goes on with that.
#[derive(Default)]
pub struct Latencies {
    /// Whether the service was timed at all.
    timed: Box<[bool]>,
    /// By service and bucket; of one interval, so that 32 bits do.
    counts: Box<[u32]>,
}

impl Latencies {
    pub fn new(services: usize) -> Latencies {
        Latencies { timed: vec![false; services].into(), counts: vec![0; services * BUCKETS].into() }
    }

    #[inline(always)]
    pub fn record(&mut self, service: usize, ns: u64) {
        self.timed[service] = true;
        let count = &mut self.counts[service * BUCKETS + bucket_of(ns)];
        *count = count.saturating_add(1);
    }

    /// As many times of a bucket.
    pub fn add(&mut self, service: usize, bucket: usize, count: u32) {
        self.timed[service] = true;
        let sum = &mut self.counts[service * BUCKETS + bucket];
        *sum = sum.saturating_add(count);
    }

    /// What was timed of each service: from the shortest on, the lowest time of a bucket and how many are in it.
    pub fn services(&self) -> impl ExactSizeIterator<Item = impl Iterator<Item = (u64, u32)>> {
        self.timed.iter().zip(self.counts.chunks_exact(BUCKETS)).map(|(timed, counts)| {
            let counts = if *timed { counts } else { &[] };
            counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(at, count)| (lowest(at), *count))
        })
    }

    pub fn clear(&mut self) {
        for (timed, counts) in self.timed.iter_mut().zip(self.counts.chunks_exact_mut(BUCKETS)) {
            // Most services see no frame in most intervals.
            if std::mem::take(timed) {
                counts.fill(0);
            }
        }
    }
}

struct Exchange {
    empty: ArrayQueue<Latencies>,
    full: ArrayQueue<(Latencies, WorkerReport)>,
    /// What the recorder held when it was dropped.
    last: ArrayQueue<Latencies>,
}

/// The worker's end.
pub struct Recorder {
    current: Latencies,
    exchange: Arc<Exchange>,
}

/// The collector's end.
pub struct Harvest {
    /// The set that goes to the worker next; `None` while both are with the worker.
    spare: Option<Latencies>,
    exchange: Arc<Exchange>,
}

/// What the collector hears from a recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: it was not asked, or the worker has not come round yet.
    None,
    /// What it had recorded since it was last asked, and this.
    Full(WorkerReport),
    /// All that was left: the recorder is gone.
    Last,
}

/// A recorder and where its sets are harvested.
pub fn channel(services: usize) -> (Recorder, Harvest) {
    let queues = Exchange { empty: ArrayQueue::new(1), full: ArrayQueue::new(1), last: ArrayQueue::new(1) };
    let exchange = Arc::new(queues);
    let recorder = Recorder { current: Latencies::new(services), exchange: Arc::clone(&exchange) };
    (recorder, Harvest { spare: Some(Latencies::new(services)), exchange })
}

impl Recorder {
    #[inline(always)]
    pub fn record(&mut self, service: usize, ns: u64) {
        self.current.record(service, ns);
    }

    /// Hands the full set over if the collector has asked, and the report with it. Once a turn.
    #[inline(always)]
    pub fn exchange(&mut self, report: impl FnOnce() -> WorkerReport) {
        if !self.exchange.empty.is_empty() {
            self.swap(report);
        }
    }

    #[cold]
    fn swap(&mut self, report: impl FnOnce() -> WorkerReport) {
        let Some(empty) = self.exchange.empty.pop() else { return };
        let full = std::mem::replace(&mut self.current, empty);
        assert!(
            self.exchange.full.push((full, report())).is_ok(),
            "the collector asks again only after it has harvested"
        );
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let last = std::mem::take(&mut self.current);
        assert!(self.exchange.last.push(last).is_ok(), "a recorder is dropped once");
    }
}

impl Harvest {
    /// Asks the worker for what it has recorded since it was last asked. A second request before `collect` does nothing.
    pub fn request(&mut self) {
        if let Some(spare) = self.spare.take() {
            assert!(self.exchange.empty.push(spare).is_ok(), "there is one spare set");
        }
    }

    /// Shows `with` the set that was asked for, if the worker has handed it over, then keeps it, emptied, for the next
    /// request; in the end, all that is left.
    pub fn collect(&mut self, mut with: impl FnMut(&Latencies)) -> Answer {
        // Looked for first: when it is there, so is what was handed over before it.
        let last = self.exchange.last.pop();
        let full = self.exchange.full.pop().map(|(mut full, report)| {
            with(&full);
            full.clear();
            self.spare = Some(full);
            report
        });
        match last {
            Some(last) => {
                with(&last);
                Answer::Last
            }
            None => full.map_or(Answer::None, Answer::Full),
        }
    }
}
