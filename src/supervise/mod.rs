//! `oneip run`: what starts in which order, on which thread, and how it stops.
//!
//! Everything that can refuse does so before the first frame is taken from the kernel: the configuration, the interface, the
//! cores, the servers' places on the link. Then the queues are bound, each gets its worker on its core, and this thread
//! follows the servers, where they are and whether they serve, until a signal ends it. At the end the program is detached first, so that the kernel has all
//! frames again; the workers finish what is in their rings; the figures of the run are printed.

pub mod crew;

use crate::control::membership::Membership;
use crate::control::{cores, host, privileges};
use crate::hash::vector::Level;
use crate::limits::DRAIN;
use crate::plan::{Dispatcher, Engine, Plan};
use crate::port::af_xdp::{self, Attached, Device};
use crate::stats::collect::{Outside, Reports, say};
use crate::verbs::{self, Failure};
use crew::Crew;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
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
        Engine::AfXdp => run_af_xdp(plan, &dispatcher, options),
        Engine::Dpdk => Err("engine = \"dpdk\": this build has no DPDK port; use engine = \"af_xdp\"".into()),
    }
}

fn run_af_xdp(plan: Plan, dispatcher: &Dispatcher, options: Options) -> Result<(), Failure> {
    let available = cores::available();
    let cluster = verbs::cluster(&plan, &options.down)?;
    let device = af_xdp::open(&dispatcher.interface)?;
    let listed = dispatcher.cores.as_deref();
    let cores = cores::assign(&device.interface, device.queues as usize, listed, &device.near_cores, &available)?;
    let hlog = options.hlog.as_deref().map(open_log).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let addresses: Vec<IpAddr> = plan.services.iter().map(|service| service.address).collect();
    host::check(&addresses)?;
    let plan = Arc::new(plan);
    let signals = runtime.block_on(async { Signals::catch() })?;
    let membership = runtime.block_on(Membership::open(&plan, &device.interface, cluster, &options.down))?;
    let mut followed = Followed { runtime, membership, signals };
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
    // Now that nothing can refuse any more, an older log of that name gives way.
    if let Some(log) = hlog.as_ref().filter(|log| log.metadata().is_ok_and(|facts| facts.is_file())) {
        log.set_len(0)?;
    }
    let reports = Reports { line: options.stats, to_stderr: options.json, hlog };
    let mut crew = Crew::start(&plan, followed.membership.table(), ports, &cores, Box::new(outside), reports)?;
    let kept = privileges::keep(&privileges::CONTROL)?;
    let mut text = greeting(&plan, &device, &cores, &format!("AF_XDP, {transfer} mode, {mode}"));
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let _ = write!(text, "  table      generation 1, hashed with {}\n  keeps      ", Level::detect().name());
    let _ = write!(text, "{} (to resolve and check servers); workers keep no capability", kept.join(", "));
    say(&text, options.json);
    say("ready", options.json);
    followed.until_signal(&mut crew)?;
    steer.detach();
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
    fn until_signal(&mut self, crew: &mut Crew) -> Result<(), Failure> {
        let Followed { runtime, membership, signals } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    () = signals.any() => return Ok(()),
                    table = membership.next() => {
                        let table = table?;
                        tracing::debug!(generation = table.generation, "published a table");
                        crew.publish(table);
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
