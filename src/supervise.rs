//! `oneip run`: what starts in which order, on which thread, and how it stops.
//!
//! Everything that can refuse does so before the first frame is taken from the kernel: the configuration, the interface, the
//! cores, the servers' places on the link. Then the queues are bound, each gets its worker on its core, and this thread
//! follows the servers, where they are and whether they serve, until a signal ends it. At the end the program is detached first, so that the kernel has all
//! frames again; the workers finish what is in their rings; the figures of the run are printed.

mod line;

use self::line::{Device, Facts, Line};
use crate::control::membership::Membership;
use crate::control::{cores, host, privileges};
use crate::hash::vector::Level;
use crate::limits::DRAIN;
use crate::plan::{Dispatcher, Engine, Plan};
use crate::port::{Port, af_xdp};
use crate::stats::collect::{self, Collector, Outside, Reports, Sources, say};
use crate::stats::latency;
use crate::stats::summary::Summary;
use crate::stats::tally::Tally;
use crate::table::publish::{self, Publisher};
use crate::verbs::{self, Failure};
use crate::worker::Worker;
use crossbeam::channel::{Sender, bounded};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the command line adds to the configuration.
pub struct Options {
    /// Servers to take as down.
    pub down: Vec<String>,
    /// A line of figures a second on standard output.
    pub stats: bool,
    /// Where to write the interval log.
    pub hlog: Option<PathBuf>,
    /// Print the final figures as JSON, and everything else to standard error.
    pub json: bool,
}

/// Dispatches until SIGINT or SIGTERM.
///
/// # Errors
/// Whatever keeps it from starting; nothing is left behind then.
pub fn run(plan: Plan, options: Options) -> Result<(), Failure> {
    let dispatcher = plan.dispatcher.clone().ok_or(
        "the configuration has no [dispatcher]; `oneip run` needs one:\n  [dispatcher]\n  interface = \"eth1\"  # where \
         clients' frames arrive and leave",
    )?;
    match dispatcher.engine {
        Engine::AfXdp => dispatch::<af_xdp::Device>(plan, &dispatcher, options),
        #[cfg(feature = "dpdk")]
        Engine::Dpdk => dispatch::<crate::port::dpdk::Device>(plan, &dispatcher, options),
        #[cfg(not(feature = "dpdk"))]
        Engine::Dpdk => Err(format!("engine = \"dpdk\": {}", crate::port::NO_DPDK).into()),
    }
}

fn dispatch<D: Device>(plan: Plan, dispatcher: &Dispatcher, options: Options) -> Result<(), Failure> {
    let available = cores::available();
    let cluster = verbs::cluster(&plan, &options.down)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    let device = D::open(dispatcher, &available)?;
    let facts = device.facts();
    let listed = dispatcher.cores.as_deref();
    let cores = cores::assign(&facts.interface, facts.queues, listed, &facts.near_cores, &available)?;
    let hlog = options.hlog.as_deref().map(open_log).transpose()?;
    let addresses: Vec<IpAddr> = plan.services.iter().map(|service| service.address).collect();
    host::check(&addresses)?;
    let plan = Arc::new(plan);
    let membership = runtime.block_on(Membership::open(&plan, &facts.interface, cluster, &options.down))?;
    let mut followed = Followed { runtime, membership, signals };
    let Line { ports, engine, outside, mut hold } = device.attach(&addresses)?;
    // Now that nothing can refuse any more, an older log of that name gives way.
    if let Some(log) = hlog.as_ref().filter(|log| log.metadata().is_ok_and(|facts| facts.is_file())) {
        log.set_len(0)?;
    }
    let reports = Reports { line: options.stats, to_stderr: options.json, hlog };
    let mut crew = Crew::start(&plan, followed.membership.table(), ports, &cores, outside, reports)?;
    let kept = privileges::keep(&privileges::CONTROL)?;
    let mut text = greeting(&plan, &facts, &cores, &engine);
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let _ = write!(text, "  table      generation 1, hashed with {}\n  keeps      ", Level::detect().name());
    let _ = write!(text, "{} (to resolve and check servers); workers keep no capability", kept.join(", "));
    say(&text, options.json);
    say("ready", options.json);
    followed.until_signal(&mut crew.publisher)?;
    hold.detach();
    // Frames that were redirected a moment ago are on their way into the rings still.
    thread::sleep(DRAIN);
    let summary = crew.stop()?;
    let mut out = io::stdout();
    Ok(if options.json { writeln!(out, "{}", summary.json()) } else { writeln!(out, "{summary}") }?)
}

/// Opens the interval log, and leaves what it holds: the start may be refused yet.
fn open_log(path: &Path) -> Result<File, Failure> {
    let file = File::options().write(true).create(true).truncate(false).open(path);
    file.map_err(|error| format!("--hlog {}: cannot be written: {error}", path.display()).into())
}

/// The servers, with the runtime that follows them. The kernel gets back what was asked of it however the run ends.
struct Followed {
    runtime: Runtime,
    membership: Membership,
    signals: Signals,
}

/// From when it is made, a signal is a wish to stop: one that comes during the start is followed at its end, so that nothing
/// is left behind.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Inside a runtime.
    fn catch() -> io::Result<Signals> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

impl Followed {
    /// Publishes every change, until a signal.
    fn until_signal(&mut self, publisher: &mut Publisher) -> Result<(), Failure> {
        let Followed { runtime, membership, signals } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    () = signals.any() => return Ok(()),
                    table = membership.next() => {
                        let table = table?;
                        tracing::debug!(generation = table.generation, "published a table");
                        publisher.publish(table);
                    }
                }
            }
        })
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.runtime.block_on(self.membership.close());
    }
}

/// The threads besides this one.
struct Crew {
    publisher: Publisher,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    /// Closing it ends the collector.
    collecting: Sender<()>,
    collector: JoinHandle<Collector>,
}

impl Crew {
    fn start<P: Port<Frame: Send> + Send + 'static>(
        plan: &Arc<Plan>,
        table: crate::table::Table,
        ports: Vec<P>,
        cores: &[usize],
        outside: Box<dyn Fn() -> Outside + Send>,
        reports: Reports,
    ) -> io::Result<Crew> {
        let services = table.services();
        let tallies: Vec<Arc<Tally>> = ports.iter().map(|_| Arc::new(Tally::new(&table))).collect();
        let (publisher, readers) = publish::channel(table, ports.len());
        let stop = Arc::new(AtomicBool::new(false));
        let (mut workers, mut harvests) = (Vec::new(), Vec::new());
        for (i, (port, reader)) in ports.into_iter().zip(readers).enumerate() {
            let (recorder, harvest) = latency::channel(services);
            harvests.push(harvest);
            let worker = Worker::new(port, reader, Arc::clone(&tallies[i]), recorder);
            let (core, stop) = (cores[i], Arc::clone(&stop));
            let thread = thread::Builder::new().name(format!("oneip-worker{i}"));
            workers.push(thread.spawn(move || work(worker, core, &stop))?);
        }
        let (collecting, stop_collecting) = bounded(0);
        let sources = Sources { plan: Arc::clone(plan), tallies, harvests, outside };
        let collector = thread::Builder::new().name("oneip-stats".into()).spawn(move || {
            drop_all_privileges();
            collect::run(sources, reports, &stop_collecting)
        })?;
        Ok(Crew { publisher, stop, workers, collecting, collector })
    }

    /// Ends the collector, with a last harvest from workers that still turn, and then the workers, each after a turn that
    /// found nothing. Returns the figures of the run.
    fn stop(self) -> Result<Summary, Failure> {
        drop(self.collecting);
        let collector = self.collector.join().map_err(|_| "the stats thread ended in a panic")?;
        self.stop.store(true, Relaxed);
        for worker in self.workers {
            worker.join().map_err(|_| "a worker ended in a panic")?;
        }
        Ok(collector.summary())
    }
}

/// A worker thread's life.
fn work<P: Port>(mut worker: Worker<P>, core: usize, stop: &AtomicBool) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        tracing::warn!(core, "the worker cannot be pinned to its core");
    }
    drop_all_privileges();
    while !stop.load(Relaxed) {
        worker.turn();
    }
    while !worker.turn().is_empty() {}
}

fn drop_all_privileges() {
    if let Err(error) = privileges::keep(&[]) {
        tracing::warn!(%error, "a thread keeps privileges that it does not need");
    }
}

/// What a person wants to see at the start.
fn greeting(plan: &Plan, facts: &Facts, cores: &[usize], engine: &str) -> String {
    let Facts { text: device, queues, .. } = facts;
    let mut text = format!(
        "oneip {}\n  interface  {device}\n  engine     {engine}\n  \
         queues     {queues}, on core{} {}\n",
        env!("CARGO_PKG_VERSION"),
        if cores.len() == 1 { "" } else { "s" },
        cores::list(cores)
    );
    const SHOWN: usize = 8;
    for service in plan.services.iter().take(SHOWN) {
        let servers = service.servers.len();
        let s = if servers == 1 { "" } else { "s" };
        let _ = writeln!(text, "  {}, {servers} server{s}", verbs::check::heading(service));
    }
    if plan.services.len() > SHOWN {
        let _ = writeln!(text, "  ... and {} services more", plan.services.len() - SHOWN);
    }
    text
}
