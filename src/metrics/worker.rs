//! A worker's metrics: what it counts and times for the services and servers of one layout.
//!
//! The worker gets new ones together with the table of another layout (`table::publish`), within one turn, and gives the old
//! ones back whole. Whoever drops them closes them: the collector, which has had its view of them from the start, then finds
//! their last histograms, and knows that their counters stand still.

use super::counters::Tally;
use super::histogram::{self, Harvest, Recorder};
use crate::table::Table;
use std::sync::Arc;

pub struct WorkerMetrics {
    pub tally: Arc<Tally>,
    pub latency: Recorder,
}

/// The collector's view of a worker's metrics.
pub struct View {
    pub tally: Arc<Tally>,
    pub harvest: Harvest,
}

/// Metrics for the tables of this one's layout.
pub fn open(table: &Table) -> (WorkerMetrics, View) {
    let tally = Arc::new(Tally::new(table.services(), table.destinations()));
    let (latency, harvest) = histogram::channel(table.services());
    (WorkerMetrics { tally: Arc::clone(&tally), latency }, View { tally, harvest })
}
