//! `oneip run`: what starts in which order, on which thread, and how it stops.
//!
//! Everything that can refuse does so before the first frame is taken from the kernel: the configuration, the interface, the
//! cores, the servers' places on the link. Then the queues are bound, each gets its worker on its core, and this thread
//! follows the servers, where they are and whether they serve, until a signal ends it. At the end the program is detached first, so that the kernel has all
//! frames again; the workers finish what is in their rings; the figures of the run are printed.

mod announcing;
mod capture;
mod controller;
pub mod decap;
mod detach;
mod edit;
pub mod filter;
pub mod grouping;
pub mod guard;
mod list_files;
pub mod on_server;
mod publishing;
mod reload;
mod sharing;
mod talkers;

use crate::admin::order::{Answer, Order};
use crate::admin::{self, Watched};
use crate::control::announce::Announcer;
use crate::control::interface::{InterfaceError, InterfaceWatch};
use crate::control::membership::{Membership, Side};
use crate::control::state_file::StateFile;
use crate::ctl::client::{self, Client};
use crate::doctor;
use crate::engine::{self, Facts, Start};
use crate::error::Failure;
use crate::hash::vector::Level;
use crate::host::lock::InterfaceLock;
use crate::host::share::Share;
use crate::host::supervisor::Supervisor;
use crate::host::{self, confine, cores, privileges};
use crate::metrics::collect::{Reports, say};
use crate::metrics::latest::Latest;
use crate::metrics::summary::Summary;
use crate::model::{Dispatcher, Engine, Idle, Plan, Prefix};
use crate::netlink::kinds::{self, Use};
use crate::netlink::{self, addresses};
use crate::table::{TunnelEnd, families};
use crate::verbs;
use announcing::Announcing;
use controller::{ControlPlane, Controller, Ended, Signals};
use grouping::Grouping;
use guard::Guard;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

const NO_DISPATCHER: &str = "the configuration has no [dispatcher]; `oneip run` needs one:\n  [dispatcher]\n  interface = \"eth1\"  # where \
         clients' frames arrive and leave";

/// What the command line adds to the configuration.
pub struct Options {
    /// The configuration file, to be read again at a reload; an absolute path.
    pub config: PathBuf,
    /// Servers to take as down.
    pub down: Vec<String>,
    /// A line of figures a second on standard output.
    pub stats: bool,
    /// Where to write the interval log.
    pub hlog: Option<PathBuf>,
    /// Take the place of a dispatcher that runs.
    pub takeover: bool,
    /// Print the final figures as JSON, and everything else to standard error.
    pub json: bool,
}

/// Dispatches until SIGINT or SIGTERM.
///
/// # Errors
/// Whatever keeps it from starting; nothing is left behind then.
pub fn run(plan: Plan, options: Options) -> Result<(), Failure> {
    let dispatcher = plan.dispatcher.clone().ok_or(NO_DISPATCHER)?;
    let started = Instant::now();
    let available = cores::available();
    verbs::cluster(&plan, &options.down)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    if dispatcher.engine != Engine::Dpdk {
        runtime.block_on(check_kinds(&dispatcher))?;
    }
    let device = engine::open(&dispatcher, &available)?;
    let facts = device.facts();
    if options.takeover {
        ask_to_hand_over(&plan)?;
    }
    // Before anything is asked of the kernel.
    let others = dispatcher.others.iter().filter(|_| !facts.egresses.is_empty());
    let names = std::iter::once(&facts.interface).chain(others);
    let _alone = names.map(|name| InterfaceLock::take(name)).collect::<Result<Vec<_>, _>>()?;
    // Before there are sockets that another process must not have.
    let guard = plan.announce.as_ref().map(|settings| Guard::start(&facts.interface, settings)).transpose()?;
    let watch = || {
        let queues = |at: usize| Some(facts.queues[at]).filter(|_| facts.share.is_some());
        runtime.block_on(async {
            let mut others = Vec::new();
            for (at, (name, egress)) in dispatcher.interfaces().zip(&facts.egresses).enumerate().skip(1) {
                // The kernel may give a tap of DPDK's whatever MAC.
                let mac = facts.mac.map(|_| egress.source);
                others.push(InterfaceWatch::open(name, mac, queues(at)).await?);
            }
            let first = InterfaceWatch::open(&facts.interface, facts.mac, queues(0)).await?;
            Ok::<_, InterfaceError>(first.with_others(others))
        })
    };
    let watch = facts.has_interface.then(watch).transpose()?;
    let assign = |share: &Share| share.assign(dispatcher.cores.as_deref(), &facts.near_cores, &available);
    let cores = facts.share.as_ref().map(assign).transpose()?.unwrap_or_default();
    let hlog = options.hlog.as_deref().map(open_log).transpose()?;
    let addresses: Vec<Prefix> = plan.cluster_addresses().into_iter().collect();
    host::check(&addresses)?;
    let listeners = admin::bind(&plan.admin)?;
    // Of two dispatchers with the default socket, what is remembered is the first one's.
    let remembers = listeners.socket().is_some();
    let file = listeners.socket().map(|_| StateFile::new(&plan.admin.state, &options.config));
    // Before there is another thread. DPDK has files of its own, and threads by now.
    let confined = (dispatcher.engine != Engine::Dpdk).then(|| confine::confine_to(&plan.admin, &dispatcher.pins));
    let confined = confined.transpose()?;
    cores::leave(&cores, &available);
    let end = runtime.block_on(tunnel_end(&plan, &dispatcher, &facts))?;
    let side = (Side::Dispatcher, facts.interface.as_str(), Some(end));
    let membership = runtime.block_on(Membership::open(plan, side, &options.down, file))?;
    let plan = Arc::clone(membership.plan());
    let mut followed = ControlPlane { runtime, membership, signals };
    followed.membership.set_workers(facts.flow_tables);
    followed.membership.set_egresses(&facts.egresses);
    let attached = device.attach(&addresses, followed.membership.table())?;
    let reports = Reports { line: options.stats, to_stderr: options.json, hlog };
    let mut text = greeting(&plan, &facts, &cores, (&attached.text(), attached.advice()));
    let mut engine = attached.start(Start { plan: &plan, cores, flows: dispatcher.flows as usize, reports })?;
    // Frames are dispatched by now: they do not wait for it.
    let findings = doctor::glance(&plan);
    let kept = privileges::keep(engine.needs())?;
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let _ = write!(text, "  table      generation 1, hashed with {}\n  keeps      ", Level::detect().name());
    let _ = write!(
        text,
        "{} (to resolve and check servers{}",
        kept.join(", "),
        if facts.share.is_some() { "); workers keep no capability" } else { ", and to publish tables)" }
    );
    confined.iter().for_each(|confined| _ = write!(text, "\n{confined}"));
    // Not before: the first line of a start that fails is its error.
    doctor::warn(&findings);
    say(&text, options.json);
    let findings = doctor::watch(Plan::clone(&plan), &findings, privileges::drop_all)?;
    let (stats, latest, figures, overview) = (engine.stats(), engine.stats(), engine.stats(), Latest::default());
    let timeline = followed.membership.timeline().clone();
    let figures_put_down = Box::new(move || latest.latest());
    let watched = Watched { overview: overview.clone(), figures: figures_put_down, timeline: timeline.clone() };
    let (backend, orders) = admin::channel(watched, move |to| stats.figures(|figures| drop(to.send(figures))));
    let admin = listeners.start(backend)?;
    say("ready", options.json);
    let _answers = guard.as_ref().map(|_| guard::answer_for(&facts.interface)).transpose()?;
    let announcer = followed.runtime.block_on(Announcer::open(plan.announce.as_ref(), &facts.interface, timeline))?;
    let announcing = Announcing { announcer, guard, figures: Box::new(move || figures.latest()), statuses: Vec::new() };
    let group = Grouping::start(&followed.membership, "dispatcher", remembers)?;
    let mut controller = Controller {
        config: options.config,
        orders,
        started,
        watch,
        findings,
        overview,
        engine: &mut *engine,
        supervisor: Supervisor::of_environment(),
        announcing: Some(announcing),
        group,
    };
    let ended = followed.until_signal(&mut controller);
    followed.end_announcing(&mut controller, matches!(ended, Ok(Ended::HandedOver)));
    drop(controller);
    drop(admin);
    let summary = match ended {
        Ok(Ended::HandedOver) => engine.leave()?,
        _ => engine.stop()?,
    };
    tell(&summary, options.json)?;
    ended.map(|_| ())
}

/// Refuses interfaces that frames do not come to, such as a bridge.
async fn check_kinds(dispatcher: &Dispatcher) -> Result<(), Failure> {
    let all = kinds::all(&netlink::requests()?).await;
    let all = all.map_err(|error| format!("the interfaces of this host cannot be listed: {error}"))?;
    let is_one_of_several = !dispatcher.others.is_empty();
    let by = Use { engine: dispatcher.engine, xdp: dispatcher.xdp, is_one_of_several };
    for name in dispatcher.interfaces() {
        kinds::check(&all, name, by)?;
    }
    Ok(())
}

/// Where tunnels begin: at the addresses that the configuration gives, or the interface's.
async fn tunnel_end(plan: &Plan, dispatcher: &Dispatcher, facts: &Facts) -> Result<TunnelEnd, Failure> {
    let Facts { interface, mtu, .. } = facts;
    if let Some(given) = dispatcher.mtu.filter(|given| given > mtu) {
        return Err(
            format!("`mtu` of [dispatcher] is {given}, and {interface} carries {mtu}; write at most that").into()
        );
    }
    let mtu = dispatcher.mtu.unwrap_or(*mtu);
    if !dispatcher.source.is_empty() {
        return Ok(TunnelEnd::new(&dispatcher.source, mtu));
    }
    let found = addresses::of(&netlink::requests()?, interface).await;
    let found = found.map_err(|error| format!("{interface}: its addresses cannot be read: {error}"))?;
    let end = TunnelEnd::new(&found, mtu);
    let known = [("IPv4", end.v4.is_some(), "192.0.2.2"), ("IPv6", end.v6.is_some(), "2001:db8::2")];
    for (server, (family, is_known, example)) in families(&plan.services).into_iter().zip(known) {
        if let Some(server) = server.filter(|_| !is_known) {
            return Err(format!(
                "the tunnel to server {server} needs an {family} source address, and {interface} has none; add one to \
                 it, or write one in [dispatcher], as in source = [\"{example}\"]"
            )
            .into());
        }
    }
    Ok(end)
}

/// Has the dispatcher end that answers at the admin socket. It writes down all that this one needs, and lets the interface go.
fn ask_to_hand_over(plan: &Plan) -> Result<(), Failure> {
    let socket = &plan.admin.socket;
    let nobody = |error: &dyn std::fmt::Display| {
        format!("--takeover: no oneip to take over from at {}: {error}; start it without --takeover", socket.display())
    };
    let client = Client::new(socket.clone()).map_err(|error| nobody(&error))?;
    let answer = client.order(&Order::HandOver).and_then(client::read::<Answer>).map_err(|error| nobody(&error))?;
    match answer {
        Answer::Refused { error } => Err(nobody(&error).into()),
        _ => Ok(()),
    }
}

/// Takes off the interface what a dispatcher that was killed has left there.
///
/// # Errors
/// There is nothing, or the kernel refuses.
pub fn detach(plan: &Plan) -> Result<(), Failure> {
    let dispatcher = plan.dispatcher.as_ref().ok_or(NO_DISPATCHER)?;
    detach::detach(&engine::places(dispatcher)?, engine::forget)
}

/// The figures of the run, on standard output.
fn tell(summary: &Summary, json: bool) -> Result<(), Failure> {
    let mut out = io::stdout();
    Ok(if json { writeln!(out, "{}", summary.json()) } else { writeln!(out, "{summary}") }?)
}

/// Opens the interval log, to go on behind what it holds.
fn open_log(path: &Path) -> Result<File, Failure> {
    let file = File::options().append(true).create(true).open(path);
    file.map_err(|error| format!("--hlog {}: cannot be written: {error}", path.display()).into())
}

/// What a person wants to see at the start.
fn greeting(plan: &Plan, facts: &Facts, cores: &[usize], (engine, advice): (&str, Option<String>)) -> String {
    let Facts { text: device, share, .. } = facts;
    let mut text = format!("oneip {}\n  interface  {device}\n  engine     {engine}\n", env!("CARGO_PKG_VERSION"));
    advice.iter().for_each(|advice| _ = writeln!(text, "  note       {advice}"));
    let on = match cores {
        [] => "on the cores that take their interrupts".to_owned(),
        [core] => format!("on core {core}"),
        cores => format!("on cores {}", cores::list_distinct(cores)),
    };
    let queues = match share {
        Some(share) => share.queues.iter().sum::<u32>() as usize,
        None => facts.queues.iter().sum(),
    };
    let by = match share {
        Some(share) if share.workers.len() == 1 && queues > 1 => "by one worker ".to_owned(),
        Some(share) if share.workers.len() < queues => format!("by {} workers ", share.workers.len()),
        _ => String::new(),
    };
    let sleeps = plan.dispatcher.as_ref().is_some_and(|dispatcher| dispatcher.idle == Idle::Sleep);
    let idle = if sleeps && share.is_some() { ", asleep while nothing comes" } else { "" };
    let _ = writeln!(text, "  queues     {queues}, {by}{on}{idle}");
    text += &services(plan);
    text
}

/// The first few services, a line each.
fn services(plan: &Plan) -> String {
    let mut text = String::new();
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
