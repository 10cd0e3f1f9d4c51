//! What `oneip filter` and `oneip decap` have in common: a program on a server's interface that is followed until a signal ends the
//! process. The program stays after that, and goes on by its last table; the next process takes it over without a gap.

use super::controller::{ControlPlane, Controller, Signals};
use super::grouping::Grouping;
use super::tell;
use crate::admin::{self, Watched};
use crate::control::interface::InterfaceWatch;
use crate::control::membership::{Membership, Side};
use crate::control::state_file::StateFile;
use crate::engine::Engine;
use crate::engine::on_server::Counting;
use crate::error::Failure;
use crate::host::confine;
use crate::host::lock::InterfaceLock;
use crate::host::privileges::{self, SERVER};
use crate::host::supervisor::Supervisor;
use crate::metrics::collect::say;
use crate::metrics::latest::Latest;
use crate::model::Plan;
use crate::server::{self, Dispatch, Grade};
use crate::xdp::interface::Interface;
use crate::xdp::link::{self, Attachment, Kept, Place};
use crate::xdp::program::Program;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

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

/// A program that is to be followed.
pub(super) struct Start {
    pub plan: Plan,
    pub side: Side,
    pub interface: Interface,
    pub place: Place,
    pub options: Options,
    pub started: std::time::Instant,
}

/// The program, in service.
pub(super) struct Begun<E, P> {
    pub engine: E,
    pub counting: Counting<P>,
    /// What a person wants to see at the start.
    pub greeting: String,
}

/// Begins, and follows the program until SIGINT or SIGTERM. `open` does what may refuse before anything is asked of the kernel; `stays` is
/// what is said of the program at the end.
pub(super) fn follow<O, E: Engine, P: AsRef<Program> + Send + Sync + 'static>(
    start: Start,
    open: impl FnOnce(&Runtime, &Plan) -> Result<O, Failure>,
    begin: impl FnOnce(&mut Membership, O) -> Result<Begun<E, P>, Failure>,
    stays: impl FnOnce(&str) -> String,
) -> Result<(), Failure> {
    let Start { plan, side, interface, place, options: Options { config, down, json, .. }, started } = start;
    if let Some(text) = without_effect(&plan, place.kept) {
        tracing::warn!("{text}");
    }
    let _alone = InterfaceLock::take(&interface.name)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    let watch = runtime.block_on(InterfaceWatch::open(&interface.name, Some(interface.mac), None))?;
    let listeners = admin::bind(&plan.admin)?;
    let remembers = listeners.socket().is_some();
    let state = listeners.socket().map(|_| StateFile::new(&plan.admin.state, &config));
    let confined = confine::confine_to(&plan.admin, &place.pins)?;
    let opened = open(&runtime, &plan)?;
    let membership = runtime.block_on(Membership::open(plan, (side, &interface.name, None), &down, state))?;
    let mut followed = ControlPlane { runtime, membership, signals };
    let inside = followed.runtime.enter();
    let Begun { mut engine, counting, greeting } = begin(&mut followed.membership, opened)?;
    drop(inside);
    let kept: Vec<String> = privileges::keep(&SERVER)?.iter().map(ToString::to_string).collect();
    say(&format!("{greeting}  keeps      {} (to make tables)\n{confined}", kept.join(", ")), json);
    let (now, figures, overview) = (counting.clone(), counting.clone(), Latest::default());
    // The kernel counts: it is read on the spot.
    let at_once = Box::new(move || Some((Arc::new(now.figures()), Duration::ZERO)));
    let timeline = followed.membership.timeline().clone();
    let watched = Watched { overview: overview.clone(), figures: at_once, timeline };
    let (backend, orders) = admin::channel(watched, move |to| drop(to.send(figures.figures())));
    let admin = listeners.start(backend)?;
    say("ready", json);
    let (watch, supervisor) = (Some(watch), Supervisor::of_environment());
    let config_file = config.clone();
    let group = match side {
        Side::Server => Grouping::start(&followed.membership, "filter", remembers)?,
        _ => None,
    };
    let engine = &mut engine;
    let mut controller = Controller {
        config: config_file,
        findings: Latest::default(),
        orders,
        started,
        watch,
        overview,
        engine,
        supervisor,
        announcing: None,
        group,
    };
    let ended = followed.until_signal(&mut controller);
    drop(admin);
    if ended.is_ok() && counting.trouble().is_none() && link::is_pinned(&place)? {
        let (kept, name, file) = (place.kept, &interface.name, config.display());
        let stays = stays(&format!("the {kept} stays on {name}"));
        say(&format!("{stays}; `oneip {kept} -c {file} --detach` detaches it"), json);
    }
    tell(&counting.figures().summary, json)?;
    ended.map(|_| ())
}

/// Takes off the interface what an earlier process has left there.
///
/// # Errors
/// There is none, or the kernel refuses.
pub(super) fn detach(place: Place) -> Result<(), Failure> {
    super::detach::detach(&[place], |place| Ok(link::unpin(place)?))
}

/// What loses clients, or lets two servers answer one. It starts all the same: without its program a server has no clients at all,
/// or everybody's.
pub(super) fn warn_of_settings(plan: &Plan, server: &str, dispatch: Dispatch) {
    match server::check(plan, Some(server), dispatch) {
        Ok(report) => report.lines.iter().filter(|line| line.grade == Grade::Wrong).for_each(|line| match &line.mend {
            Some(mend) => tracing::warn!("{}; fix: {mend}", line.text),
            None => tracing::warn!("{}", line.text),
        }),
        Err(error) => tracing::warn!("the settings of this host cannot be checked: {error}"),
    }
}

/// What of the configuration counts on dispatchers alone, in words.
fn without_effect(plan: &Plan, kept: Kept) -> Option<String> {
    let limited = plan.services.iter().filter(|service| service.limit.is_some());
    let limited = limited.map(|service| format!("[service.limit] of {}", service.name));
    let lists = (!plan.lists.is_empty()).then(|| "[[deny]] and [[allow]]".to_owned());
    let odd = plan.odd_limit.as_ref().map(|_| "[limit.odd]".to_owned());
    let all: Vec<String> = lists.into_iter().chain(limited).chain(odd).collect();
    (!all.is_empty()).then(|| {
        format!(
            "oneip {kept} applies no limits and no lists, so these have no effect: {}; drop such frames on the router, \
             or on each server with nftables",
            all.join(", ")
        )
    })
}

/// The first lines of a greeting.
pub(super) fn heading(interface: &Interface, attachment: Attachment) -> String {
    let Interface { name, mac, .. } = interface;
    let Attachment { mode, taken_over, .. } = attachment;
    let how = if taken_over { ", taken over from the process before" } else { "" };
    let mut text = String::new();
    let _ = writeln!(text, "oneip {}\n  interface  {name}, {mac}, {mode}{how}", env!("CARGO_PKG_VERSION"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_on_a_server_is_named() {
        let parse = |more: &str| {
            let text = format!(
                "[cluster]\nhash_key = '8F3A1C5E7B9D2046A1B3C5D7E9F00112'\n{more}\n[[service.server]]\nname = 'b'\naddress = '192.0.2.1'\n"
            );
            crate::config::parse(&text, "t.toml").unwrap().plan
        };
        let service = "[[service]]\nname = 'web'\naddress = '203.0.113.80'";
        assert_eq!(without_effect(&parse(service), Kept::Filter), None);
        let text = format!("[[deny]]\nprefixes = ['198.51.100.7']\n{service}\n[service.limit]\nsyn = 5");
        let said = without_effect(&parse(&text), Kept::Decap).unwrap();
        let expected = "oneip decap applies no limits and no lists, so these have no effect: [[deny]] and [[allow]], \
                        [service.limit] of web";
        assert!(said.starts_with(expected), "{said}");
    }
}
