//! `oneip filter`: the filter of one server, its table kept up with the cluster until a signal ends the process. The program
//! stays on the interface after that, and goes on by its last table; the next process takes it over without a gap.

use super::controller::{ControlPlane, Controller, Signals};
use super::tell;
use crate::admin::{self, Watched};
use crate::control::interface::InterfaceWatch;
use crate::control::membership::{Membership, Side};
use crate::control::state_file::StateFile;
use crate::engine::filter::keeping::Keeping;
use crate::engine::filter::speaker::Speaker;
use crate::engine::filter::takeover;
use crate::engine::filter::{Attachment, Filter, Interface};
use crate::error::Failure;
use crate::host::lock::InterfaceLock;
use crate::host::privileges::{self, FILTER};
use crate::host::supervisor::Supervisor;
use crate::limits::FILTER_LEASE;
use crate::metrics::collect::say;
use crate::metrics::latest::Latest;
use crate::model::{self, Plan};
use crate::server::{self, Dispatch, Grade};
use crate::verbs;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What the command line adds to the configuration.
pub struct Options {
    /// The configuration file, to be read again at a reload.
    pub config: PathBuf,
    /// Which server this is; `None`: the one whose primary address this host has.
    pub server: Option<String>,
    /// Servers to take as down.
    pub down: Vec<String>,
    /// Print the final figures as JSON, and everything else to standard error.
    pub json: bool,
}

/// Keeps this server's clients until SIGINT or SIGTERM, and leaves the program on the interface.
///
/// # Errors
/// Whatever keeps it from starting. What can be known beforehand is found before the program is attached; once it is, it stays.
pub fn run(plan: Plan, options: Options) -> Result<(), Failure> {
    let Options { config, server, down, json } = options;
    let started = Instant::now();
    let (interface, model::Filter { xdp, pins, .. }) = settings(&plan)?;
    let _alone = InterfaceLock::take(&interface.name)?;
    let server = server::name(&plan, server.as_deref())?;
    verbs::cluster(&plan, &down)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    let watch = runtime.block_on(InterfaceWatch::open(&interface.name, Some(interface.mac), None))?;
    let listeners = admin::bind(&plan.admin)?;
    let state = listeners.socket().map(|_| StateFile::new(&plan.admin.state, &config));
    warn_of_settings(&plan, &server);
    let side = (Side::Server, interface.name.as_str());
    let left = Filter::is_left(&interface, &pins)?;
    let speaker = runtime.block_on(async { Speaker::open(&plan, &server, &interface.name, left) })?;
    let membership = runtime.block_on(Membership::open(plan, side, &down, state))?;
    let mut followed = ControlPlane { runtime, membership, signals };
    let inside = followed.runtime.enter();
    let (mut path, attachment) =
        Keeping::begin(&mut followed.membership, (&server, started), &interface, (xdp, &pins, left), speaker)?;
    drop(inside);
    let kept: Vec<String> = privileges::keep(&FILTER)?.iter().map(ToString::to_string).collect();
    let mut text = greeting(followed.membership.plan(), &server, &interface, attachment);
    let _ = write!(text, "  keeps      {} (to make tables)", kept.join(", "));
    say(&text, json);
    let counting = path.counting.clone();
    let (now, overview) = (path.counting.clone(), Latest::default());
    // The kernel counts: it is read on the spot.
    let figures = Box::new(move || Some((Arc::new(now.figures()), Duration::ZERO)));
    let watched = Watched { overview: overview.clone(), figures };
    let (backend, orders) = admin::channel(watched, move |to| drop(to.send(counting.figures())));
    let admin = listeners.start(backend)?;
    say("ready", json);
    let mut controller = Controller {
        config: config.clone(),
        findings: Latest::default(),
        orders,
        started: started.into_std(),
        watch: Some(watch),
        overview,
        engine: &mut path,
        supervisor: Supervisor::of_environment(),
        announcing: None,
    };
    let ended = followed.until_signal(&mut controller);
    drop(admin);
    if ended.is_ok() && Filter::is_left(&interface, &pins)? {
        let (name, file) = (&interface.name, config.display());
        let stays = format!(
            "the filter stays on {name} and goes on by its last table; what it has for other servers it lets go after {} s; \
             `oneip filter -c {file} --detach` takes it off",
            FILTER_LEASE.as_secs()
        );
        say(&stays, json);
    }
    tell(&path.counting.figures().summary, json)?;
    ended.map(|_| ())
}

/// Takes off the interface what a filter has left there.
///
/// # Errors
/// There is none, or the kernel refuses.
pub fn detach(plan: &Plan) -> Result<(), Failure> {
    let (interface, model::Filter { pins, .. }) = settings(plan)?;
    let name = &interface.name;
    if !Filter::forget(&interface, &pins)? {
        return Err(format!("there is no filter on {name}; nothing was changed").into());
    }
    say(&format!("the filter is off {name}; where an `oneip filter` runs, as soon as that ends"), false);
    Ok(())
}

/// The interface, and how the program is there.
fn settings(plan: &Plan) -> Result<(Interface, model::Filter), Failure> {
    let settings = plan.filter.clone().ok_or(
        "the configuration has no [filter]; `oneip filter` needs one:\n  [filter]\n  interface = \"eth1\"  # where the \
         router's frames arrive",
    )?;
    Ok((Interface::read(&settings.interface)?, settings))
}

/// What loses clients, or lets two servers answer one. It starts all the same: without its filter a server has no clients at
/// all, or everybody's.
fn warn_of_settings(plan: &Plan, server: &str) {
    match server::check(plan, Some(server), Dispatch::Broadcast { group: None }) {
        Ok(report) => report.lines.iter().filter(|line| line.grade == Grade::Wrong).for_each(|line| match &line.mend {
            Some(mend) => tracing::warn!("{}; mend it: {mend}", line.text),
            None => tracing::warn!("{}", line.text),
        }),
        Err(error) => tracing::warn!("the settings of this host cannot be checked: {error}"),
    }
}

/// What a person wants to see at the start.
fn greeting(plan: &Plan, server: &str, interface: &Interface, attachment: Attachment) -> String {
    let Interface { name, mac, .. } = interface;
    let Attachment { mode, taken_over, .. } = attachment;
    let how = if taken_over { ", taken over from the process before" } else { "" };
    let mut text = format!("oneip {}\n  interface  {name}, {mac}, {mode}{how}\n", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "  filter     keeps the clients of server {server}");
    let port = plan.filter.as_ref().map_or(model::Filter::PORT, |filter| filter.port);
    let _ = writeln!(text, "  filters    speak to each other on UDP port {port} of the servers' primary addresses");
    text += &super::services(plan);
    let hold = takeover::hold(plan).as_millis();
    let _ = writeln!(text, "  table      generation 1; takes over what others give up {hold} ms later");
    text
}
