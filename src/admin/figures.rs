//! What was counted, put into the status by the names of services and servers.

use super::status::{LatencyStatus, Status, WorkerStatus};
use crate::metrics::snapshot::{Snapshot, WorkerSnapshot};
use crate::metrics::summary::Percentiles;
use std::collections::HashMap;

/// Fills in every counter of the status. A server that has no figures yet keeps its zeros.
pub fn fill(status: &mut Status, figures: &Snapshot) {
    let summary = &figures.summary;
    status.frames = summary.frames;
    status.forwarded = summary.forwarded;
    status.passed = summary.passed;
    status.dropped = summary.reasons().map(|(reason, count)| (reason.name().to_owned(), count)).collect();
    let sent: HashMap<(&str, &str), _> =
        summary.servers.iter().map(|sent| ((&*sent.service, &*sent.server), sent)).collect();
    let latency: HashMap<&str, _> =
        figures.latency.iter().map(|(service, histogram)| (&**service, histogram)).collect();
    for service in &mut status.services {
        for server in &mut service.servers {
            if let Some(sent) = sent.get(&(service.name.as_str(), server.name.as_str())) {
                (server.frames, server.bytes, server.new_flows) = (sent.frames, sent.bytes, sent.flows);
            }
        }
        let percentiles = latency.get(service.name.as_str()).and_then(|histogram| Percentiles::of(histogram));
        service.latency_ns = percentiles.map(|Percentiles { count, p50, p90, p99, p999, max }| LatencyStatus {
            count,
            p50,
            p90,
            p99,
            p999,
            max,
        });
    }
    for (worker, of_worker) in figures.workers.iter().enumerate() {
        let known = status.workers.iter_mut().position(|status| status.worker == worker);
        let at = known.unwrap_or_else(|| {
            status.workers.push(WorkerStatus { worker, ..WorkerStatus::default() });
            status.workers.len() - 1
        });
        fill_worker(&mut status.workers[at], of_worker);
    }
}

fn fill_worker(status: &mut WorkerStatus, figures: &WorkerSnapshot) {
    status.received = figures.received;
    status.turns = figures.turns;
    status.stuck = figures.stuck;
    status.pins = figures.report.pins.held;
    status.pins_most = figures.report.pins.capacity;
}
