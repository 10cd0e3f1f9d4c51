//! The threads that dispatch and count: a worker a port, a thread a core, which turns the workers of that core one after the other, and the
//! stats thread. Begins and ends them, and takes
//! new tables to them.

use crate::error::Failure;
use crate::hash::Key;
use crate::host::privileges;
use crate::limits::{BEAT_TURNS, IDLE_MOST, IDLE_PAUSE, IDLE_TURNS};
use crate::metrics::collect::{self, Collector, ReadDevice, Reports, Sources, Stats, Troubles};
use crate::metrics::source::{Source, boxed};
use crate::metrics::summary::Summary;
use crate::metrics::worker::{self, View, WorkerMetrics};
use crate::model::{Dispatcher, Idle, Plan};
use crate::port::Port;
use crate::table::Table;
use crate::table::flow_table::FlowTable;
use crate::table::publish::{self, Publisher};
use crate::worker::Worker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Makes the flow tables of a worker, by its number: one for each queue of its port. The first one's number among those of all workers comes
/// with them.
pub type FlowTables = Arc<dyn Fn(usize) -> (usize, Vec<FlowTable>) + Send + Sync>;

/// One a worker, in its own memory, for so many flows. `key` is the cluster's.
pub fn own_flow_tables(flows: usize, key: Key) -> FlowTables {
    Arc::new(move |worker| (worker, vec![FlowTable::new(flows, key)]))
}

pub struct WorkerPool {
    tables: Publisher<WorkerMetrics>,
    stats: Stats,
    stop: Arc<AtomicBool>,
    workers: usize,
    threads: Vec<JoinHandle<()>>,
    collector: JoinHandle<Collector>,
    /// What is wrong with the device, in words; for the figures.
    pub troubles: Troubles,
}

impl WorkerPool {
    /// Starts a worker on each of `ports`, on the core at the same position, with the flow tables of its number. Workers of one core share
    /// a thread. `table` is of the services and servers of `plan`. `beside` counts what is dispatched without workers.
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
        let troubles = Troubles::default();
        let sources = Sources {
            workers: ports.len(),
            beside: count,
            close: Box::new(move || retired.clear()),
            device_counters: Some(device_counters),
            troubles: troubles.clone(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let sleep = plan.dispatcher.as_ref().and_then(longest_sleep);
        let workers = ports.len();
        let mut by_core: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for (number, (port, reader)) in ports.into_iter().zip(readers).enumerate() {
            by_core.entry(cores[number]).or_default().push((number, port, reader));
        }
        let mut threads = Vec::with_capacity(by_core.len());
        for (core, parts) in by_core {
            let (stop, flow_tables) = (Arc::clone(&stop), Arc::clone(&flow_tables));
            let thread = thread::Builder::new().name(format!("oneip-worker{}", parts[0].0));
            threads.push(thread.spawn(move || {
                pin(core);
                // Here, so that their memory is near the core.
                let worker = |(number, port, reader)| Worker::over(port, reader, flow_tables(number));
                work(&mut parts.into_iter().map(worker).collect::<Vec<_>>(), &stop, sleep);
            })?);
        }
        let collector = thread::Builder::new().name("oneip-stats".into()).spawn(move || {
            privileges::drop_all();
            collect::run(sources, reports, &inbox)
        })?;
        Ok(WorkerPool { tables, stats, stop, workers, threads, collector, troubles })
    }

    /// Every worker's next turn sees `table`, which is of the layout of the one before. Waits for nobody.
    pub fn publish(&mut self, table: Table) {
        self.tables.publish(table);
    }

    /// As `publish`, for a table of another layout: of the services and servers of `plan`, in that order. What is counted
    /// from then on is counted under their names.
    pub fn publish_layout(&mut self, plan: &Arc<Plan>, table: Table, beside: Option<Box<dyn Source>>) {
        let (metrics, views) = open(&table, self.workers);
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
        for thread in self.threads {
            thread.join().map_err(|_| "a worker ended in a panic")?;
        }
        self.stats.stop();
        let collector = self.collector.join().map_err(|_| "the stats thread ended in a panic")?;
        Ok(collector.last_summary())
    }
}

/// Sleeps until one of these becomes readable, at most for so long. Where there is none, a moment.
fn wait(events: &[BorrowedFd<'_>], most: Duration) {
    if events.is_empty() {
        return thread::sleep(most.min(IDLE_PAUSE));
    }
    let mut waited: Vec<PollFd> = events.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let most = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: most.subsec_nanos().into() };
    // Interrupted, it looks for frames all the same.
    let _: Result<usize, Errno> = poll(&mut waited, Some(&most));
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

/// How long workers may sleep while nothing comes, without being taken for gone. `None`: they do not.
fn longest_sleep(dispatcher: &Dispatcher) -> Option<Duration> {
    (dispatcher.idle == Idle::Sleep).then(|| IDLE_MOST.min(dispatcher.heartbeat / 4))
}

/// The life of a thread, with the workers of its core. `sleep`: how long it may sleep while nothing comes. Each of them ends with an empty
/// turn, or with as many frames as can have waited when it was told to: a device that is not detached (DPDK) goes on receiving.
fn work<P: Port>(workers: &mut [Worker<P>], stop: &AtomicBool, sleep: Option<Duration>) {
    privileges::drop_all();
    let mut quiet = 0;
    while !stop.load(Relaxed) {
        let mut any = false;
        for worker in &mut *workers {
            any |= !worker.turn().is_empty();
        }
        let Some(most) = sleep else { continue };
        quiet = if any { 0 } else { quiet + 1 };
        if quiet >= IDLE_TURNS {
            wait(&workers.iter().flat_map(|worker| worker.port().events()).collect::<Vec<_>>(), most);
            // As many as it takes to say that they turn.
            quiet -= BEAT_TURNS;
        }
    }
    for worker in workers {
        let mut waiting = worker.port().ledger().total;
        while waiting > 0 {
            let received = worker.turn().len();
            waiting = if received == 0 { 0 } else { waiting.saturating_sub(received) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::AsFd;

    #[test]
    fn what_becomes_readable_ends_a_sleep() {
        let [one, other] = [0, 0].map(|count| eventfd(count, EventfdFlags::CLOEXEC).expect("an event"));
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| wait(&[one.as_fd(), other.as_fd()], Duration::from_secs(3600)));
            thread::sleep(Duration::from_millis(20));
            assert!(!sleeper.is_finished(), "nothing has come");
            rustix::io::write(&other, &1u64.to_ne_bytes()).expect("written");
        });
        // By itself at the latest then.
        wait(&[one.as_fd()], Duration::from_millis(1));
        wait(&[], Duration::from_secs(3600));
    }
}
