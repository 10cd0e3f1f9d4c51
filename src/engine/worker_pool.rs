//! The threads that dispatch and count: a worker a port, on its core, and the stats thread. Begins and ends them, and takes
//! new tables to them.

use crate::error::Failure;
use crate::hash::Key;
use crate::host::privileges;
use crate::metrics::collect::{self, Collector, ReadDevice, Reports, Sources, Stats, Troubles};
use crate::metrics::source::{Source, boxed};
use crate::metrics::summary::Summary;
use crate::metrics::worker::{self, View, WorkerMetrics};
use crate::model::Plan;
use crate::port::Port;
use crate::table::Table;
use crate::table::flow_table::FlowTable;
use crate::table::publish::{self, Publisher};
use crate::worker::Worker;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

/// Makes the flow table of a worker, by its number.
pub type FlowTables = Arc<dyn Fn(usize) -> FlowTable + Send + Sync>;

/// Each in the worker's own memory, for so many flows. `key` is the cluster's.
pub fn own_flow_tables(flows: usize, key: Key) -> FlowTables {
    Arc::new(move |_| FlowTable::new(flows, key))
}

pub struct WorkerPool {
    tables: Publisher<WorkerMetrics>,
    stats: Stats,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    collector: JoinHandle<Collector>,
}

impl WorkerPool {
    /// Starts a worker on each of `ports`, pinned to the core at the same position, with the flow table of its number. `table` is of the services and servers of `plan`. `beside` counts what is dispatched without workers.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start<P: Port<Frame: Send> + Send + 'static>(
        plan: &Arc<Plan>,
        table: Table,
        ports: Vec<P>,
        (cores, flow_tables): (&[usize], FlowTables),
        (device_counters, beside): (ReadDevice, Option<Box<dyn Source>>),
        reports: Reports,
    ) -> io::Result<WorkerPool> {
        let (stats, inbox) = collect::channel();
        let (metrics, views) = open(&table, ports.len());
        let count = usize::from(beside.is_some());
        stats.open(Arc::clone(plan), boxed(views).into_iter().chain(beside).collect());
        let (tables, readers) = publish::channel(table, metrics);
        let retired = tables.retired();
        let sources = Sources {
            workers: ports.len(),
            beside: count,
            close: Box::new(move || retired.clear()),
            device_counters: Some(device_counters),
            troubles: Troubles::default(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Vec::new();
        for (i, (port, reader)) in ports.into_iter().zip(readers).enumerate() {
            let (core, stop, flow_tables) = (cores[i], Arc::clone(&stop), Arc::clone(&flow_tables));
            let thread = thread::Builder::new().name(format!("oneip-worker{i}"));
            workers.push(thread.spawn(move || {
                pin(core);
                // Here, so that its memory is near the core.
                work(Worker::new(port, reader, flow_tables(i)), &stop)
            })?);
        }
        let collector = thread::Builder::new().name("oneip-stats".into()).spawn(move || {
            privileges::drop_all();
            collect::run(sources, reports, &inbox)
        })?;
        Ok(WorkerPool { tables, stats, stop, workers, collector })
    }

    /// Every worker's next turn sees `table`, which is of the layout of the one before. Waits for nobody.
    pub fn publish(&mut self, table: Table) {
        self.tables.publish(table);
    }

    /// As `publish`, for a table of another layout: of the services and servers of `plan`, in that order. What is counted
    /// from then on is counted under their names.
    pub fn publish_layout(&mut self, plan: &Arc<Plan>, table: Table, beside: Option<Box<dyn Source>>) {
        let (metrics, views) = open(&table, self.workers.len());
        self.stats.open(Arc::clone(plan), boxed(views).into_iter().chain(beside).collect());
        self.tables.publish_layout(table, metrics);
    }

    /// The way to the figures, for any thread and any time.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// Ends the workers, each after what was waiting for it, and then the collector, which finds all their metrics closed. Returns
    /// the figures of the run.
    ///
    /// # Errors
    /// A thread ended in a panic.
    pub fn stop(self) -> Result<Summary, Failure> {
        self.stop.store(true, Relaxed);
        for worker in self.workers {
            worker.join().map_err(|_| "a worker ended in a panic")?;
        }
        self.stats.stop();
        let collector = self.collector.join().map_err(|_| "the stats thread ended in a panic")?;
        Ok(collector.summary())
    }
}

#[cfg(test)]
impl WorkerPool {
    /// A worker that no frame comes to.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn idle(plan: &Arc<Plan>, table: Table) -> io::Result<WorkerPool> {
        let reports = Reports { line: false, to_stderr: true, hlog: None };
        let ports = vec![crate::port::memory::Memory::new::<&[u8]>(&[])];
        let flow_tables = own_flow_tables(16, table.key);
        WorkerPool::start(
            plan,
            table,
            ports,
            (&[0], flow_tables),
            (Box::new(collect::DeviceCounters::default), None),
            reports,
        )
    }
}

/// Metrics for each worker, and the collector's views of them.
fn open(table: &Table, workers: usize) -> (Vec<WorkerMetrics>, Vec<View>) {
    (0..workers).map(|_| worker::open(table)).unzip()
}

fn pin(core: usize) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        tracing::warn!(core, "the worker cannot be pinned to its core");
    }
}

/// A worker thread's life. It ends with an empty turn, or with as many frames as can have waited when it was told to: a device
/// that is not detached (DPDK) goes on receiving.
fn work<P: Port>(mut worker: Worker<P>, stop: &AtomicBool) {
    privileges::drop_all();
    while !stop.load(Relaxed) {
        worker.turn();
    }
    let mut waiting = worker.port().ledger().total;
    while waiting > 0 {
        let received = worker.turn().len();
        waiting = if received == 0 { 0 } else { waiting.saturating_sub(received) };
    }
}
