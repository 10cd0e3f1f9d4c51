//! `oneip run`: what starts in which order, on which thread, and how it stops.
//!
//! Everything that can refuse does so before the first frame is taken from the kernel: the configuration, the interface, the
//! cores, the servers' places on the link. Then the queues are bound, each gets its worker on its core, and this thread
//! follows the servers' MACs until a signal ends it. At the end the program is detached first, so that the kernel has all
//! frames again; the workers finish what is in their rings; the figures of the run are printed.

use crate::control::neighbours::{Change, Neighbours};
use crate::control::{cores, host, privileges};
use crate::hash::vector::Level;
use crate::limits::{DRAIN, RESOLVE};
use crate::plan::{Dispatcher, Engine, Plan};
use crate::port::Port;
use crate::port::af_xdp::{self, Attached, Device};
use crate::stats::collect::{self, Collector, Outside, Reports, Sources, say};
use crate::stats::latency;
use crate::stats::summary::Summary;
use crate::stats::tally::Tally;
use crate::table::cluster::Cluster;
use crate::table::publish::{self, Publisher};
use crate::verbs::{self, Failure};
use crate::worker::Worker;
use crossbeam::channel::{Sender, bounded};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout_at};

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
        Engine::AfXdp => run_af_xdp(plan, &dispatcher, options),
        Engine::Dpdk => Err("engine = \"dpdk\": this build has no DPDK port; use engine = \"af_xdp\"".into()),
    }
}

fn run_af_xdp(plan: Plan, dispatcher: &Dispatcher, options: Options) -> Result<(), Failure> {
    let available = cores::available();
    let mut cluster = verbs::cluster(&plan, &options.down)?;
    let device = af_xdp::open(&dispatcher.interface)?;
    let listed = dispatcher.cores.as_deref();
    let cores = cores::assign(&device.interface, device.queues as usize, listed, &device.near_cores, &available)?;
    let hlog = options.hlog.as_ref().map(|path| {
        File::create(path).map_err(|error| format!("--hlog {}: cannot be written: {error}", path.display()))
    });
    let hlog = hlog.transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let addresses: Vec<IpAddr> = plan.services.iter().map(|service| service.address).collect();
    host::check(&addresses)?;
    let neighbours = runtime.block_on(resolve(&plan, &device, &mut cluster))?;
    let mut followed = Followed { runtime, neighbours };
    let Attached { mut steer, mode, ports } = device.attach(&addresses)?;
    let transfer = ports[0].transfer();
    let (counters, losses) = (steer.counters(), ports.iter().map(|port| port.losses()).collect::<Vec<_>>());
    let outside = move || {
        let lost = losses.iter().map(|losses| losses.total()).sum::<u64>();
        counters.read().map_or_else(
            |error| {
                tracing::warn!(%error, "the device's counters cannot be read");
                Outside::default()
            },
            |counts| Outside { seen: counts.seen, passed: counts.passed, lost: lost + counts.no_socket },
        )
    };
    let reports = Reports { line: options.stats, to_stderr: options.json, hlog };
    let plan = Arc::new(plan);
    let mut crew = Crew::start(&plan, cluster.compile(), ports, &cores, Box::new(outside), reports)?;
    let kept = privileges::keep(&privileges::CONTROL)?;
    let mut text = greeting(&plan, &device, &cores, &format!("AF_XDP, {transfer} mode, {mode}"));
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let _ = write!(text, "  table      generation 1, hashed with {}\n  keeps      ", Level::detect().name());
    let _ = write!(text, "{} (to resolve servers); workers keep no capability", kept.join(", "));
    say(&text, options.json);
    say("ready", options.json);
    followed.runtime.block_on(follow(&mut followed.neighbours, &mut cluster, &mut crew.publisher))?;
    steer.detach();
    // Frames that were redirected a moment ago are on their way into the rings still.
    thread::sleep(DRAIN);
    let summary = crew.stop()?;
    let mut out = io::stdout();
    Ok(if options.json { writeln!(out, "{}", summary.json()) } else { writeln!(out, "{summary}") }?)
}

/// The servers' neighbour entries, which the kernel gets back however the run ends.
struct Followed {
    runtime: Runtime,
    neighbours: Option<Neighbours>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        let Some(neighbours) = self.neighbours.take() else { return };
        if let Err(error) = self.runtime.block_on(neighbours.close()) {
            tracing::warn!(%error, "entries for the servers stay in the kernel's neighbour table");
        }
    }
}

/// Finds the servers that have no `mac` in the configuration, and waits a moment until they have answered. `None`: all have.
async fn resolve(plan: &Plan, device: &Device, cluster: &mut Cluster) -> Result<Option<Neighbours>, Failure> {
    let unknown: BTreeMap<IpAddr, String> = plan
        .services
        .iter()
        .flat_map(|service| &service.servers)
        .filter(|server| server.mac.is_none())
        .map(|server| (server.address, server.name.clone()))
        .collect();
    if unknown.is_empty() {
        return Ok(None);
    }
    let wanted: Vec<(String, IpAddr)> = unknown.into_iter().map(|(address, name)| (name, address)).collect();
    let mut neighbours = Neighbours::open(&device.interface, &wanted).await?;
    let off_link = neighbours.off_link();
    if !off_link.is_empty() {
        neighbours.close().await?;
        let all: Vec<String> = off_link.iter().map(ToString::to_string).collect();
        return Err(all.join("\n").into());
    }
    let give_up = Instant::now() + RESOLVE;
    let open =
        |neighbours: &Neighbours| wanted.iter().filter(|(_, address)| neighbours.mac(*address).is_none()).count();
    while open(&neighbours) > 0 {
        let Ok(changes) = timeout_at(give_up, neighbours.next()).await else { break };
        changes?;
    }
    for (name, address) in &wanted {
        let mac = neighbours.mac(*address);
        cluster.set_mac(*address, mac);
        if mac.is_none() {
            tracing::warn!(server = name, %address, "not resolved yet: its clients' frames are dropped until it answers");
        }
    }
    Ok(Some(neighbours))
}

/// Publishes what changes, until a signal.
async fn follow(
    neighbours: &mut Option<Neighbours>,
    cluster: &mut Cluster,
    publisher: &mut Publisher,
) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let changes: Vec<Change> = tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            changes = next(neighbours) => changes?,
        };
        for change in &changes {
            let mac = neighbours.as_ref().and_then(|neighbours| neighbours.mac(change.address));
            cluster.set_mac(change.address, mac);
            tracing::info!("{change}");
        }
        let table = cluster.compile();
        tracing::debug!(generation = table.generation, "published a table");
        publisher.publish(table);
    }
}

async fn next(neighbours: &mut Option<Neighbours>) -> Result<Vec<Change>, Failure> {
    match neighbours {
        Some(neighbours) => Ok(neighbours.next().await?),
        None => std::future::pending().await,
    }
}

/// The threads besides this one.
struct Crew {
    publisher: Publisher,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    /// Closing it ends the collector.
    collecting: Sender<()>,
    collector: JoinHandle<io::Result<Collector>>,
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
        Ok(collector?.summary())
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
fn greeting(plan: &Plan, device: &Device, cores: &[usize], engine: &str) -> String {
    let Device { interface, driver, mac, mtu, queues, .. } = device;
    let mut text = format!(
        "oneip {}\n  interface  {interface} ({driver}), {mac}, MTU {mtu}\n  engine     {engine}\n  \
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
