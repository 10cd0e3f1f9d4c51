//! The control thread once everything runs: it follows the servers, carries out what operators ask for, and has the data path
//! follow both, until a signal ends it. It does not know whether that is workers or a filter.

use super::announcing::Announcing;
use super::capture::Capturing;
use super::grouping::{Grouping, NO_GROUP, next_of_group};
use super::guard::Guard;
use super::list_files::ListFiles;
use super::reload::{Purpose, Reloads, Request};
use super::talkers::Looking;
use crate::admin::finding::{Finding, Grade};
use crate::admin::order::{Answer, Capture, Denied, Order, Trace, TracedFrame};
use crate::admin::status::{State, Status};
use crate::admin::timeline::{Kind, Timeline, Told};
use crate::admin::{Asked, Overview, Seen};
use crate::control::interface::{InterfaceError, InterfaceWatch};
use crate::control::membership::{Membership, Set, Update};
use crate::engine::Engine;
use crate::error::Failure;
use crate::host::clock;
use crate::host::supervisor::Supervisor;
use crate::limits::{CAPTURE_EVERY, OVERVIEW_EVERY, TRACE_MOST, TRACED_FRAMES};
use crate::metrics::latest::Latest;
use crate::model::Plan;
use crate::table::trace::{self, Fate, Watch, protocol_name};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// The servers, with the runtime that follows them. The kernel gets back what was asked of it however the run ends.
pub struct ControlPlane {
    pub runtime: Runtime,
    pub membership: Membership,
    pub signals: Signals,
}

impl ControlPlane {
    /// Takes back what is announced yet, unless another process goes on with it.
    pub fn end_announcing(&mut self, controller: &mut Controller, handed_over: bool) {
        let Some(Announcing { mut announcer, guard, .. }) = controller.announcing.take() else { return };
        if handed_over {
            return guard.into_iter().for_each(Guard::hand_over);
        }
        self.runtime.block_on(announcer.stop());
        guard.into_iter().for_each(Guard::dismiss);
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.runtime.block_on(self.membership.close());
    }
}

/// From when it is made, a signal is a request to stop, or to reload: one that comes during the start is followed at its end, so
/// that nothing is left behind.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Inside a runtime.
    pub fn catch() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) -> Command {
        tokio::select! {
            _ = self.interrupt.recv() => Command::Stop,
            _ = self.terminate.recv() => Command::Stop,
            _ = self.hangup.recv() => Command::Reload,
        }
    }
}

/// Why the control thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a signal.
    Stopped,
    /// Another process goes on with what dispatches.
    HandedOver,
}

enum Command {
    Stop,
    Reload,
}

/// What the control thread works with besides the servers.
pub struct Controller<'a> {
    pub config: PathBuf,
    pub orders: mpsc::Receiver<Asked>,
    pub started: std::time::Instant,
    /// `None`: the kernel has no interface for this dispatcher.
    pub watch: Option<InterfaceWatch>,
    /// What is wrong with the host.
    pub findings: Latest<Vec<Finding>>,
    /// Where it puts down how things are.
    pub overview: Latest<Overview>,
    pub engine: &'a mut dyn Engine,
    /// Who has started this process, and wants to know how it is.
    pub supervisor: Supervisor,
    /// `None`: a filter announces nothing.
    pub announcing: Option<Announcing>,
    /// `None`: there is no `[group]`.
    pub group: Option<Grouping>,
}

/// What goes on beside the servers.
#[derive(Default)]
pub(super) struct Tasks {
    watching: Option<Watching>,
    capturing: Option<(Capturing, Instant)>,
    pub(super) looking: Option<Looking>,
    reloads: Reloads,
    lists: ListFiles,
}

/// An operator watches the frames of a client.
struct Watching {
    watch: Arc<Watch>,
    trace: Trace,
    began: u64,
    end: Instant,
    to: oneshot::Sender<Answer>,
}

impl ControlPlane {
    /// Publishes every change and answers every order, until a signal.
    ///
    /// # Errors
    /// The servers cannot be followed any more, or the interface is not the one that it was.
    pub fn until_signal(&mut self, controller: &mut Controller) -> Result<Ended, Failure> {
        let ControlPlane { runtime, membership, signals } = self;
        let ended = runtime.block_on(async {
            let mut were_up = states(&controller.watch);
            let mut tasks = Tasks::default();
            tasks.lists.watch(membership.plan());
            controller.show(membership);
            tell_start(membership);
            controller.supervisor.ready();
            let mut look = Instant::now() + OVERVIEW_EVERY;
            let mut end: Option<Instant> = None;
            loop {
                controller.announce(membership).await;
                let watched = tasks.watching.as_ref().map(|watching| watching.end);
                let captured = tasks.capturing.as_ref().map(|(_, look)| *look);
                let looking = tasks.looking.as_ref().map(|looking| looking.next);
                let denied = membership.denied_due();
                let (due, feeding) = (controller.engine.due(), controller.supervisor.due());
                tokio::select! {
                    command = signals.any() => match command {
                        Command::Stop if end.is_none() => match controller.withdraw(membership).await {
                            Some(at) => end = Some(at),
                            None => return Ok(Ended::Stopped),
                        },
                        // Whoever asks twice does not want to wait.
                        Command::Stop => return Ok(Ended::Stopped),
                        Command::Reload => controller.begin_reload(membership, Request::BY_SIGNAL, &mut tasks.reloads),
                    },
                    () = tokio::time::sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => return Ok(Ended::Stopped),
                    made = tasks.reloads.made() => {
                        controller.end_reload(membership, made, &mut tasks.reloads).await;
                        tasks.lists.watch(membership.plan());
                        controller.regroup(membership).await;
                        controller.adopt(membership, &mut tasks.reloads);
                    }
                    happened = next_of_group(&mut controller.group) => {
                        controller.take_group(membership, happened).await;
                        controller.adopt(membership, &mut tasks.reloads);
                    }
                    (path, content) = tasks.lists.changed() => {
                        let outcome = content.and_then(|prefixes| membership.set_list_file(&path, &prefixes));
                        if let Ok(Some(_)) = &outcome {
                            controller.engine.publish(membership, Update::Table);
                        }
                        tasks.lists.tell(&path, outcome);
                    }
                    () = tokio::time::sleep(denied.unwrap_or_default()), if denied.is_some() => {
                        if let Some(update) = membership.expire_denied() {
                            controller.engine.publish(membership, update);
                        }
                    }
                    event = membership.next() => {
                        if let Some(update) = membership.take(event?).await {
                            controller.engine.publish(membership, update);
                            controller.show(membership);
                        }
                        controller.tell_checks(membership);
                    }
                    link = next_link(&mut controller.watch) => {
                        let link = link?;
                        for (interface, was_up) in link.all().zip(&mut were_up) {
                            if interface.is_up() != *was_up {
                                *was_up = interface.is_up();
                                tell_link(interface, membership.timeline());
                            }
                        }
                        controller.engine.see(link);
                        controller.show(membership);
                    }
                    () = tokio::time::sleep_until(look) => {
                        controller.compare_frames();
                        controller.tell_checks(membership);
                        controller.show(membership);
                        look = Instant::now() + OVERVIEW_EVERY;
                    }
                    () = poll_fn(|context| controller.engine.poll_work(context)) => controller.engine.work(membership),
                    Some((order, to)) = controller.orders.recv() => {
                        if order == Order::HandOver {
                            match controller.engine.can_hand_over() {
                                Ok(()) => {
                                    let _ = to.send(Answer::Done { changes: vec!["it ends, and leaves what dispatches".to_owned()] });
                                    return Ok(Ended::HandedOver);
                                }
                                Err(error) => drop(to.send(Answer::Refused { error })),
                            }
                            continue;
                        }
                        if !to.is_closed() {
                            controller.carry_out(membership, order, to, &mut tasks).await;
                        }
                    }
                    () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                        controller.engine.publish(membership, Update::Table);
                    }
                    () = tokio::time::sleep_until(feeding.unwrap_or_else(Instant::now)), if feeding.is_some() => {
                        let progress = controller.engine.progress();
                        controller.supervisor.feed(progress);
                    }
                    () = tokio::time::sleep_until(captured.unwrap_or_else(Instant::now)), if captured.is_some() => {
                        controller.look_at_capture(membership, &mut tasks);
                    }
                    () = tokio::time::sleep_until(looking.unwrap_or_else(Instant::now)), if looking.is_some() => {
                        controller.count_talkers(membership, &mut tasks);
                    }
                    () = tokio::time::sleep_until(watched.unwrap_or_else(Instant::now)), if watched.is_some() => {
                        let seen = tasks.watching.take().expect("somebody watches");
                        controller.engine.read_watched();
                        membership.set_watch(None);
                        controller.engine.publish(membership, Update::Table);
                        let frames = seen.frames(membership.plan());
                        let _ = seen.to.send(Answer::Trace(Trace { frames, ..seen.trace }));
                    }
                }
            }
        });
        controller.supervisor.stopping();
        ended
    }
}

impl Controller<'_> {
    /// Whether the program sees what the interfaces receive.
    fn compare_frames(&mut self) {
        if let Some(watch) = &mut self.watch
            && let Some(seen) = self.engine.seen()
            && watch.compare(seen)
        {
            self.engine.see(watch);
        }
    }

    async fn carry_out(
        &mut self,
        membership: &mut Membership,
        order: Order,
        to: oneshot::Sender<Answer>,
        tasks: &mut Tasks,
    ) {
        let (order, is_local) = match order {
            Order::Local { inner } => (*inner, true),
            order => (order, false),
        };
        let may = match order.is_shared() {
            true => self.may_order(&order, is_local),
            false if is_local => {
                Err("every order but those for servers and prefixes is for this process only".to_owned())
            }
            false => Ok(()),
        };
        if let Err(error) = may {
            return drop(to.send(Answer::Refused { error }));
        }
        let ordered = order.clone();
        let (server, service, set, force) = match order {
            Order::HandOver | Order::Local { .. } => unreachable!("it ends the loop, or was taken apart"),
            Order::Group => return self.show_group(to, membership),
            Order::Status => return drop(to.send(Answer::Status(Box::new(self.status(membership))))),
            Order::Trace { client, watch_ms } => {
                return self.trace(membership, client, watch_ms, to, tasks);
            }
            Order::CheckClient { client, service, port, to: port_of_service } => {
                let checked = membership.check_client(client, service.as_deref(), (port, port_of_service));
                return drop(to.send(checked.map_or_else(|error| Answer::Refused { error }, Answer::Client)));
            }
            Order::Capture(capture) => return self.capture(membership, capture, to, tasks),
            Order::Talkers(asked) => return self.look_for_talkers(membership, asked, to, tasks),
            Order::Reload { force, dry_run } => {
                let purpose = if dry_run { Purpose::Rehearse { force } } else { Purpose::Reload { force } };
                return self.begin_reload(membership, Request::new(purpose, Some(to)), &mut tasks.reloads);
            }
            Order::Diff { config } => {
                let request = Request::new(Purpose::Compare(config), Some(to));
                return self.begin_reload(membership, request, &mut tasks.reloads);
            }
            Order::Publish { text, force } => {
                let draft = self.group.as_ref().ok_or(NO_GROUP.to_owned()).and_then(|group| group.draft(text, force));
                return match draft {
                    Ok(draft) => {
                        let request = Request::new(Purpose::Publish(Box::new(draft)), Some(to));
                        self.begin_reload(membership, request, &mut tasks.reloads);
                    }
                    Err(error) => drop(to.send(Answer::Refused { error })),
                };
            }
            Order::Withdraw { service } => return self.set_withdrawn(membership, service.as_deref(), true, to).await,
            Order::Announce { service } => return self.set_withdrawn(membership, service.as_deref(), false, to).await,
            Order::Deny { prefix, service, for_s } => {
                let (answer, update) = membership.deny(prefix, service.as_deref(), for_s);
                update.into_iter().for_each(|update| self.engine.publish(membership, update));
                return self.share(membership, &ordered, is_local, (answer, to));
            }
            Order::Undeny { prefix, service } => {
                let (answer, update) = membership.undeny(prefix, service.as_deref());
                update.into_iter().for_each(|update| self.engine.publish(membership, update));
                return self.share(membership, &ordered, is_local, (answer, to));
            }
            Order::Denied => {
                let lists = tasks.lists.shown(membership.plan());
                return drop(to.send(Answer::Denied(Denied { denied: membership.denied(), lists })));
            }
            Order::Drain { server, service, timeout_s, force } => (server, service, Set::Drain(timeout_s), force),
            Order::Undrain { server, service } => (server, service, Set::Undrain, false),
            Order::Weight { server, service, weight, force } => (server, service, Set::Weight(weight), force),
            Order::Disable { server, service, force } => (server, service, Set::Disable, force),
            Order::Enable { server, service } => (server, service, Set::Enable, false),
        };
        let (mut answer, update) = membership.set(&server, service.as_deref(), set, force).await;
        if let Answer::Done { changes } = &mut answer {
            changes.extend(self.engine.remark());
        }
        update.into_iter().for_each(|update| self.engine.publish(membership, update));
        // Whoever hears of it and looks sees it.
        self.show(membership);
        self.share(membership, &ordered, is_local, (answer, to));
    }

    async fn set_withdrawn(
        &mut self,
        membership: &mut Membership,
        service: Option<&str>,
        withdrawn: bool,
        to: oneshot::Sender<Answer>,
    ) {
        let answer = match &self.announcing {
            Some(_) => membership.set_withdrawn(service, withdrawn),
            None => Answer::Refused { error: "a filter announces nothing; give the order to a dispatcher".to_owned() },
        };
        self.show(membership);
        self.announce(membership).await;
        let _ = to.send(answer);
    }

    /// Puts down how things are.
    pub(super) fn show(&mut self, membership: &mut Membership) {
        let (services, head) = (membership.look(), self.head(membership));
        self.supervisor.status(in_a_line(&services));
        let announcements = self.announcing.as_mut().map(|announcing| {
            announcing.judge(membership, &head, &services, self.group.as_ref());
            announcing.statuses.clone()
        });
        self.tell_progress(membership);
        let announcements = announcements.unwrap_or_default();
        self.overview.put(Overview { head, at: std::time::Instant::now(), services, announcements });
    }

    fn status(&self, membership: &Membership) -> Status {
        let mut services = membership.services();
        let announced = self.announcing.iter().flat_map(|announcing| &announcing.statuses);
        services.iter_mut().zip(announced).for_each(|(service, status)| service.announce = Some(status.clone()));
        Status { services, ..self.head(membership) }
    }

    /// The status without services.
    fn head(&self, membership: &Membership) -> Status {
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: String::new(),
            engine: None,
            program: None,
            server: None,
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            config: self.config.display().to_string(),
            interface: membership.interface().to_owned(),
            findings: self.findings.get().map_or_else(Vec::new, |(findings, _)| findings.to_vec()),
            peers: Vec::new(),
            group: self.group.as_ref().map(|group| group.summary(membership)),
            interface_up: self.watch.as_ref().map(InterfaceWatch::is_up),
            generation: membership.generation(),
            services: Vec::new(),
            odd_limit: membership.plan().odd_limit.as_ref().map(ToString::to_string),
            workers: Vec::new(),
            counted_s: None,
            frames: 0,
            forwarded: 0,
            passed: 0,
            dropped: BTreeMap::new(),
        };
        self.engine.describe(&mut status);
        status
    }

    /// Says where a client belongs, and has the workers watch its frames for a while if that is wanted.
    fn trace(
        &mut self,
        membership: &mut Membership,
        client: IpAddr,
        watch_ms: u64,
        to: oneshot::Sender<Answer>,
        tasks: &mut Tasks,
    ) {
        let trace = Trace { client, services: membership.trace(client), frames: Vec::new() };
        if watch_ms == 0 {
            return drop(to.send(Answer::Trace(trace)));
        }
        if let Err(error) = self.may_watch(membership, tasks) {
            return drop(to.send(Answer::Refused { error }));
        }
        let time = Duration::from_millis(watch_ms);
        if time > TRACE_MOST {
            let error = format!("a trace of {watch_ms} ms is too long; the longest is {} s", TRACE_MOST.as_secs());
            return drop(to.send(Answer::Refused { error }));
        }
        let watch = Arc::new(Watch::new(client, TRACED_FRAMES));
        membership.set_watch(Some(Arc::clone(&watch)));
        self.engine.publish(membership, Update::Table);
        let began = clock::now_ns();
        tasks.watching = Some(Watching { watch, trace, began, end: Instant::now() + time, to });
    }
}

impl Tasks {
    /// # Errors
    /// Somebody watches already.
    pub(super) fn can_watch(&self) -> Result<(), String> {
        if let Some(other) = &self.watching {
            return Err(format!("somebody traces {} at the moment; try again when that is over", other.trace.client));
        }
        if self.capturing.is_some() {
            return Err("somebody captures frames at the moment; try again when that is over".to_owned());
        }
        if self.looking.is_some() {
            return Err("somebody looks for talkers at the moment; try again when that is over".to_owned());
        }
        Ok(())
    }
}

impl Controller<'_> {
    fn capture(&mut self, membership: &mut Membership, asked: Capture, to: oneshot::Sender<Answer>, tasks: &mut Tasks) {
        let answer = match self.may_watch(membership, tasks).and_then(|()| Capturing::begin(asked, membership)) {
            Ok((capturing, answer)) => {
                membership.set_watch(Some(Arc::clone(&capturing.watch)));
                self.engine.publish(membership, Update::Table);
                tasks.capturing = Some((capturing, Instant::now()));
                answer
            }
            Err(error) => Answer::Refused { error },
        };
        let _ = to.send(answer);
    }

    fn look_at_capture(&mut self, membership: &mut Membership, tasks: &mut Tasks) {
        self.engine.read_watched();
        let Some((capturing, look)) = &mut tasks.capturing else { return };
        *look = Instant::now() + CAPTURE_EVERY;
        if !capturing.look(membership) {
            tasks.capturing = None;
            membership.set_watch(None);
            self.engine.publish(membership, Update::Table);
        }
    }
}

impl Watching {
    fn frames(&self, plan: &Plan) -> Vec<TracedFrame> {
        let mut seen: Vec<trace::Seen> = std::iter::from_fn(|| self.watch.take(|seen, _| seen)).collect();
        seen.sort_by_key(|seen| seen.at);
        seen.into_iter().map(|seen| self.frame(seen, plan)).collect()
    }

    fn frame(&self, seen: trace::Seen, plan: &Plan) -> TracedFrame {
        let mut frame = TracedFrame {
            at_us: seen.at.saturating_sub(self.began) / 1000,
            worker: seen.worker,
            bytes: seen.bytes,
            protocol: protocol_name(seen.protocol),
            verdict: "pass".to_owned(),
            service: None,
            server: None,
            reason: None,
        };
        match seen.fate {
            Fate::Forward(service, server) => {
                frame.verdict = "forward".to_owned();
                // A reload may have given the numbers to others meanwhile.
                let service = plan.services.get(service as usize);
                let server = service.and_then(|service| service.servers.get(server as usize));
                frame.service = service.map(|service| service.name.clone());
                frame.server = server.map(|server| server.name.clone());
            }
            Fate::Drop(reason) => {
                frame.verdict = "drop".to_owned();
                frame.reason = Some(reason.to_owned());
            }
            Fate::Pass => {}
        }
        frame
    }
}

/// How the servers are, as the service manager shows it.
fn in_a_line(services: &[Arc<Seen>]) -> String {
    const SHOWN: usize = 4;
    let servers = || services.iter().flat_map(|seen| seen.service.servers.iter().map(move |server| (seen, server)));
    let others = || servers().filter(|(_, server)| server.state != State::Up);
    let (all, out) = (servers().count(), others().count());
    let mut line = format!("{} of {all} servers take clients", all - out);
    for (at, (seen, server)) in others().take(SHOWN).enumerate() {
        let separator = if at == 0 { "; " } else { ", " };
        line += &format!("{separator}{} of {} is {}", server.name, seen.service.name, server.state.name());
    }
    if out > SHOWN {
        line += &format!(", and {} more", out - SHOWN);
    }
    line
}

/// Whether each interface is up.
fn states(watch: &Option<InterfaceWatch>) -> Vec<bool> {
    watch.iter().flat_map(InterfaceWatch::all).map(InterfaceWatch::is_up).collect()
}

async fn next_link(watch: &mut Option<InterfaceWatch>) -> Result<&InterfaceWatch, InterfaceError> {
    match watch {
        Some(watch) => watch.next().await.map(|()| &*watch),
        None => std::future::pending().await,
    }
}

fn tell_start(membership: &Membership) {
    let (services, version) = (membership.plan().services.len(), env!("CARGO_PKG_VERSION"));
    let s = if services == 1 { "" } else { "s" };
    let text = format!("oneip {version} has started with {services} service{s}");
    membership.timeline().tell(Told { kind: Kind::Start, grade: Grade::Ok, text: &text, mark: None });
}

fn tell_link(interface: &InterfaceWatch, timeline: &Timeline) {
    let name = interface.name();
    let (grade, text) = match interface.is_up() {
        true => (Grade::Ok, format!("{name} is up")),
        false => (Grade::Fail, format!("{name} is down: nothing comes or goes there until its link is back")),
    };
    match grade {
        Grade::Ok => tracing::info!("{text}"),
        _ => tracing::warn!("{text}"),
    }
    timeline.tell(Told { kind: Kind::Link, grade, text: &text, mark: None });
}
