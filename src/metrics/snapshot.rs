//! What was counted and timed from the start up to a moment, by the names of services and servers: the stats thread's answer
//! to whoever asks.

use super::summary::Summary;
use crate::port::Ledger;

use hdrhistogram::Histogram;
use std::sync::Arc;

pub use crate::table::flow_table::FlowTableReport;

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// All counters; those of servers that a reload removed included.
    pub summary: Summary,
    pub workers: Vec<WorkerSnapshot>,
    /// Nanoseconds from arrival to hand-over up to the last harvest, by service.
    pub latency: Vec<(Arc<str>, Arc<Histogram<u64>>)>,
    /// Harvests that every worker has answered in time.
    pub rounds: u64,
    /// What is wrong with the data path, in words.
    pub troubles: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct WorkerSnapshot {
    /// Frames in.
    pub received: u64,
    /// Whether it answered the last harvest in time.
    pub turns: bool,
    /// Frames wait to be sent, and none has left since the harvest before.
    pub stuck: bool,
    /// As of the last harvest.
    pub report: WorkerReport,
}

/// What a worker says of itself when it hands its histograms over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Where the port's frames are.
    pub ledger: Ledger,
    pub pins: FlowTableReport,
}
