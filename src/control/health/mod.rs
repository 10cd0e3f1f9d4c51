//! Health checks: whether each server answers, the way clients reach it.
//!
//! With `via = "service"` a probe is addressed to the *cluster address* and delivered to one server's MAC, as a client's
//! packet is by the data path, through its tunnel where it has one: it fails when the server lacks the alias, when its daemon does not listen on the cluster
//! address, when its MAC is wrong. No TCP stack of our own is needed for that, but a mark on the probe's socket that
//! the kernel routes by (`route`). The server's answer comes from the cluster address to this host's own, so steer lets it
//! pass. With `via = "primary"` a probe is an ordinary connection to the primary address.
//!
//! ```text
//! agenda -> routes: the probe route -> probe: tcp, http, https | echo: icmp -> observer: does it count? -> state: verdict -> change
//! ```
//!
//! Here is when probes begin, and what is done with their results. Every server is probed once an interval, counted from
//! beginning to beginning and shortened at random by up to a tenth, so that probes do not fall into step and `fall`
//! failures never take longer than `fall` intervals and a timeout. At most `HEALTH_PARALLEL` are under way. A server
//! that there is no verdict of yet is probed every `HEALTH_FIRST_PAUSE`. Over https certificates are not verified
//! (`tls` says why), and whole TLS handshakes make such a check four times as dear as one over http.
//!
//! **This host's own trouble is never judged as its servers'.** What fails on this side (no link, no probe route, no free
//! descriptor, a process that stood still) is no result, and silence is one only beside another server that answers
//! (`observer`). The server is *unchecked* since then; its verdict stays.

mod change;
mod check;
mod echo;
mod judging;
mod observer;
mod probe;
pub mod route;
mod routes;
mod silence;
pub mod state;
mod strays;
mod tls;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

pub use self::change::{Change, Error, Status, What};
pub use self::check::Known;
pub use self::state::Verdict;

use self::check::{Check, Service, since_1970};
use self::echo::Echo;
use self::observer::Observer;
use self::probe::{Target, Trouble};
use self::routes::{Access, Installation, Passage, ProbeRoutes, Trip};
use self::silence::Silence;
use self::state::State;
use crate::limits::{FLAP_HOLD_LAST, HEALTH_BEAT, HEALTH_GATHER, HEALTH_PARALLEL, HEALTH_TICKS};
use crate::model::identity::{Identity, continued};
use crate::model::{Mac, Plan, Probe, Via};
use crate::table::TunnelEnd;

/// Checks the servers of a plan.
///
/// Needs `CAP_NET_ADMIN` as long as it lives, `CAP_NET_RAW` while it is opened, and a tokio runtime with time and I/O. Stays
/// in the network namespace of the thread that opened it. Dropped without [`Health::close`], it leaves rules and routes
/// behind that are in nobody's way; the next `open` for that interface removes them.
pub struct Health {
    /// As in the plan; `None`: the servers count as up.
    services: Vec<Option<Service>>,
    routes: ProbeRoutes,
    echo: Arc<Echo>,
    observer: Observer,
    silence: Silence,
    /// Who verifies the MAC of a server that does not answer.
    doubts: Option<mpsc::Sender<IpAddr>>,
    /// Probes under way.
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// When checks fall due; an element that disagrees with its check is out of date and skipped.
    agenda: BinaryHeap<Reverse<(Instant, Id)>>,
    /// Checks with a failure that has no witness yet.
    doubtful: Vec<Id>,
    changes: Vec<Change>,
    /// Nothing is delivered before.
    hold: Instant,
    /// Until when this process meant to sleep.
    planned: Instant,
}

/// How long to sleep where nothing is to be done.
const IDLE: Duration = Duration::from_secs(60);

/// The index of a service, and of a server in it.
type Id = (u32, u32);

/// The end of a probe.
struct Done {
    id: Id,
    began: Instant,
    /// The probe route that was installed for it.
    installed: Option<Installation>,
    trip: Option<Trip>,
    /// What it had to pass on its way out.
    passage: Option<Passage>,
    result: Result<Duration, Trouble>,
}

impl Health {
    /// Begins to check the servers of the plan, from `interface`; removes what a predecessor that was killed has left. `end`: where
    /// tunnels to servers begin.
    pub async fn open(plan: &Plan, interface: &str, end: TunnelEnd) -> Result<Health, Error> {
        Health::open_on(plan, &[interface.to_owned()], end).await
    }

    /// As `open`, from several interfaces.
    pub async fn open_on(plan: &Plan, interfaces: &[String], end: TunnelEnd) -> Result<Health, Error> {
        let routes = ProbeRoutes::open(interfaces, end).await?;
        let now = Instant::now();
        let mut observer = Observer::new(now);
        observer.set_link(routes.link_is_up(), now);
        let mut health = Health {
            services: Vec::new(),
            routes,
            echo: Arc::new(Echo::open()),
            observer,
            silence: Silence::default(),
            doubts: None,
            running: FuturesUnordered::new(),
            agenda: BinaryHeap::new(),
            doubtful: Vec::new(),
            changes: Vec::new(),
            hold: now,
            planned: now,
        };
        health.watch(plan).await?;
        Ok(health)
    }

    /// Checks the servers of this plan from now on. What stays the same service, cluster address, server and primary address
    /// keeps its state; everything else begins anew. Changes that were not told yet are told still of services whose servers
    /// are the same in the same places; whoever gives others judges all. On an error everything stays as it was.
    pub async fn watch(&mut self, plan: &Plan) -> Result<(), Error> {
        let with_echo = plan.services.iter().filter(|s| s.health.as_ref().is_some_and(|h| h.probe == Probe::Icmp));
        for (service, health) in with_echo.filter_map(|service| Some((service, service.health.as_ref()?))) {
            let primary = service.servers.iter().map(|server| server.address);
            let cluster = std::iter::once(service.address);
            let mut asked =
                primary.filter(|_| health.via == Via::Primary).chain(cluster.filter(|_| health.via == Via::Service));
            asked
                .try_for_each(|address| self.echo.check(address.is_ipv4()))
                .map_err(|source| Error::RawSocket { source })?;
        }
        self.routes.watch(plan).await?;
        self.observer.set_local(self.routes.own_addresses().await?);
        // Probes that are under way are given up with their connections.
        self.running = FuturesUnordered::new();
        let places = self.places();
        let mut before: Vec<Option<Service>> =
            std::mem::take(&mut self.services).into_iter().filter(Option::is_some).collect();
        let old: Vec<Identity> = before.iter().flatten().map(|service| service.identity.clone()).collect();
        let new: Vec<Identity> = plan.services.iter().map(Identity::of).collect();
        let services = plan.services.iter().zip(continued(&old, &new));
        self.services =
            services.map(|(service, of)| Service::new(service, of.and_then(|at| before[at].take()))).collect();
        self.silence = Silence::of(self.checks().map(|(_, check)| check));
        let places_now = self.places();
        self.changes.retain(|change| places.get(change.service) == places_now.get(change.service));
        let ids = self.services.iter().enumerate().flat_map(|(s, service)| {
            let checks = service.iter().flat_map(|service| &service.checks).enumerate();
            checks.map(move |(c, check)| Reverse((check.due, (s as u32, c as u32))))
        });
        self.agenda = ids.collect();
        self.doubtful.clear();
        if !self.observer.has_link() {
            self.lose_link(Instant::now());
        }
        self.release_if_alone();
        Ok(())
    }

    /// The names of each checked service and its servers.
    fn places(&self) -> Vec<Option<(String, Vec<String>)>> {
        let servers = |service: &Service| service.checks.iter().map(|check| check.server.name.clone()).collect();
        let services = self.services.iter().map(Option::as_ref);
        services.map(|service| service.map(|service| (service.name.clone(), servers(service)))).collect()
    }

    /// The verdicts of now, for a process that comes after this one.
    pub fn known(&self) -> Vec<Known> {
        let of = |service: &Service, check: &Check| Known {
            service: service.name.clone(),
            server: check.server.name.clone(),
            address: check.server.address,
            verdict: check.state.verdict,
            since: check.since,
            hold_s: check.state.hold().map(|hold| hold.as_secs()),
        };
        let services = self.services.iter().flatten();
        let checked = |check: &&Check| check.state.verdict != Verdict::Unknown;
        services
            .flat_map(|service| service.checks.iter().filter(checked).map(move |check| of(service, check)))
            .collect()
    }

    /// Begins with the verdicts of a process before this one, where there are none yet. A service all of whose servers were
    /// down begins without: it is hardly so still, and nobody would be served until it is found out.
    pub fn recall(&mut self, known: &[Known]) {
        let now = Instant::now();
        for service in self.services.iter_mut().flatten() {
            let of = |check: &Check| {
                let mut known = known.iter().filter(|known| known.service == service.name);
                known.find(|known| known.server == check.server.name && known.address == check.server.address)
            };
            let found: Vec<Option<&Known>> = service.checks.iter().map(of).collect();
            if found.iter().all(|known| known.is_some_and(|known| known.verdict == Verdict::Down)) {
                continue;
            }
            let unknown = |check: &Check| check.state.verdict == Verdict::Unknown;
            for (check, known) in service.checks.iter_mut().zip(found).filter(|(check, _)| unknown(check)) {
                let Some(known) = known else { continue };
                let ago = Duration::from_secs(since_1970().saturating_sub(known.since));
                let since = now.checked_sub(ago).unwrap_or(now);
                check.since = known.since;
                let hold = known.hold_s.map(|hold| Duration::from_secs(hold).min(FLAP_HOLD_LAST));
                check.state = State::recalled(known.verdict, hold, since, now);
            }
        }
        self.silence = Silence::of(self.checks().map(|(_, check)| check));
    }

    /// The MAC that the data path uses for a server from now on; `None`: it has none, and checks of it by way of the
    /// cluster address fail. Without this it is the one of the plan.
    pub fn set_mac(&mut self, server: IpAddr, mac: Option<Mac>) {
        self.routes.set_mac(server, mac);
    }

    /// Servers that begin to fail, or go on failing, are sent there.
    pub fn send_doubts(&mut self, to: mpsc::Sender<IpAddr>) {
        self.doubts = Some(to);
    }

    /// Waits for changes and returns all that are there, in their order. Never empty; waits for ever where nothing is
    /// checked. Cancel-safe: nothing is lost when the future is dropped. Probes go on only while this is polled.
    pub async fn next(&mut self) -> Vec<Change> {
        loop {
            let now = Instant::now();
            self.observer.go_on(self.planned, now);
            self.hear(now);
            // Before probes are found to be late: this process may have stood still, and the answers be here.
            self.echo.receive().now_or_never();
            while let Some(Some(done)) = self.running.next().now_or_never() {
                self.finish(done);
            }
            let now = Instant::now();
            if !self.changes.is_empty() && now >= self.hold {
                self.hold = now + HEALTH_GATHER;
                return std::mem::take(&mut self.changes);
            }
            self.launch(now);
            let wake = self.wake(now);
            self.planned = wake;
            let done = tokio::select! {
                Some(done) = self.running.next() => Some(done),
                told = self.routes.told() => { self.take_in(&told, Instant::now()); None }
                () = self.echo.receive() => None,
                () = tokio::time::sleep_until(wake.into()) => None,
            };
            if let Some(done) = done {
                self.observer.go_on(self.planned, Instant::now());
                self.finish(done);
            }
        }
    }

    /// Since when nobody is judged, because this host is cut off: it has no link, or no server answers at all. `None`: it is
    /// not. Ends when a server answers.
    pub fn isolated(&self) -> Option<Instant> {
        self.observer.isolated()
    }

    /// How many servers there is no verdict of yet. They count as up; a start, or a reload that adds servers, does well to
    /// wait a moment until there are none.
    pub fn pending(&self) -> usize {
        let checks = self.services.iter().flatten().flat_map(|service| &service.checks);
        let is_open = |check: &&Check| check.state.verdict == Verdict::Unknown && check.unchecked.is_none();
        checks.filter(|check| check.is_on).filter(is_open).count()
    }

    /// Which servers of a service take clients, as in the plan; `may` says of each whether it may take any at all: its weight
    /// is above 0, and nobody has taken it out. Those that are up; if none is, those that are held down for flapping; if
    /// there are none either, none or all, by `all_down`.
    pub fn serving(&self, service: usize, may: &[bool]) -> Vec<bool> {
        let Some(checked) = &self.services[service] else { return may.to_vec() };
        let found: Vec<Verdict> = checked.checks.iter().map(|check| check.state.verdict).collect();
        self.serving_by(service, &found, may)
    }

    /// The same by these verdicts.
    pub fn serving_by(&self, service: usize, verdicts: &[Verdict], may: &[bool]) -> Vec<bool> {
        let Some(service) = &self.services[service] else { return may.to_vec() };
        let servers: Vec<_> = verdicts.iter().copied().zip(may.iter().copied()).collect();
        state::serving(&servers, service.health.all_down)
    }

    /// What is known of a server, by indices into the plan. `None`: it is not checked, or not from here.
    pub fn status(&self, service: usize, server: usize) -> Option<Status<'_>> {
        let Check { state, failures, failure, checked, latency, unchecked, .. } =
            self.services[service].as_ref()?.checks.get(server).filter(|check| check.is_on)?;
        Some(Status {
            verdict: state.verdict,
            since: state.since,
            hold: state.hold(),
            failing: *failures > 0,
            failure: failure.as_ref().map(|(at, reason)| (*at, reason.as_str())),
            checked: *checked,
            latency: *latency,
            unchecked: unchecked.as_ref().map(|(since, reason)| (*since, reason.as_str())),
        })
    }

    /// What this host's own checks have found of a server, and find still. `None`: nothing yet, or nothing that can be said at the moment.
    pub fn finds(&self, service: usize, server: usize) -> Option<Verdict> {
        let check = self.services.get(service)?.as_ref()?.checks.get(server)?;
        let is_judged = check.is_on && check.checked.is_some() && check.unchecked.is_none();
        (is_judged && !self.observer.is_isolated(check.asked.is_ipv4())).then_some(check.state.verdict)
    }

    /// Has servers be probed from here, by indices into the plan, or not any more: others check these.
    pub fn assign(&mut self, is_mine: impl Fn(usize, usize) -> bool) {
        let now = Instant::now();
        let mut begin = Vec::new();
        for (s, service) in self.services.iter_mut().enumerate() {
            let Some(Service { health, checks, .. }) = service else { continue };
            for (c, check) in checks.iter_mut().enumerate() {
                let on = is_mine(s, c);
                if check.is_on != on {
                    check.turn(on, now, health.interval);
                    begin.extend(on.then_some(Reverse((check.due, (s as u32, c as u32)))));
                }
            }
        }
        self.agenda.extend(begin);
        self.silence = Silence::of(self.checks().map(|(_, check)| check));
        self.release_if_alone();
    }

    /// How many probes of a service have come to a result since it was watched: what `status` says of it may be new.
    pub fn results(&self, service: usize) -> u64 {
        self.services[service].as_ref().map_or(0, |service| service.results)
    }

    /// Ends all probes and leaves nothing behind in the kernel.
    pub async fn close(self) -> Result<(), Error> {
        let Health { running, routes, .. } = self;
        drop(running);
        routes.close().await
    }
}

/// What is done.
impl Health {
    fn launch(&mut self, now: Instant) {
        while self.observer.has_link()
            && self.running.len() < HEALTH_PARALLEL
            && let Some((due, id)) = self.first_due()
            && due <= now + self.tick(id)
        {
            self.agenda.pop();
            self.begin(id, now);
        }
    }

    fn first_due(&mut self) -> Option<(Instant, Id)> {
        while let Some(&Reverse((due, id))) = self.agenda.peek() {
            if self.check(id).is_some_and(|check| check.due == due && check.is_on && !check.is_running) {
                return Some((due, id));
            }
            self.agenda.pop();
        }
        None
    }

    fn check(&self, (service, server): Id) -> Option<&Check> {
        self.services[service as usize].as_ref()?.checks.get(server as usize)
    }

    fn check_mut(&mut self, (service, server): Id) -> Option<&mut Check> {
        self.services[service as usize].as_mut()?.checks.get_mut(server as usize)
    }

    /// All of them, by index.
    fn checks(&self) -> impl Iterator<Item = (Id, &Check)> {
        let services = self.services.iter().enumerate().filter_map(|(s, service)| Some((s as u32, service.as_ref()?)));
        services.flat_map(|(s, service)| (0..).map(move |c| (s, c)).zip(&service.checks))
    }

    fn checks_mut(&mut self) -> impl Iterator<Item = (Id, &mut Check)> {
        let services =
            self.services.iter_mut().enumerate().filter_map(|(s, service)| Some((s as u32, service.as_mut()?)));
        services.flat_map(|(s, service)| (0..).map(move |c| (s, c)).zip(&mut service.checks))
    }

    /// What falls due within this is probed together with what is due.
    fn tick(&self, id: Id) -> Duration {
        self.services[id.0 as usize].as_ref().map_or(Duration::ZERO, |service| service.health.interval / HEALTH_TICKS)
    }

    fn wake(&mut self, now: Instant) -> Instant {
        let free = self.observer.has_link() && self.running.len() < HEALTH_PARALLEL;
        let next = if free { self.first_due().map(|(due, _)| due) } else { None };
        let held = (!self.changes.is_empty()).then_some(self.hold);
        let beat = (!self.running.is_empty()).then_some(now + HEALTH_BEAT);
        next.into_iter().chain(held).chain(beat).min().unwrap_or(now + IDLE)
    }

    fn begin(&mut self, id: Id, began: Instant) {
        let Some(Service { cluster, deliver, health, checks, .. }) = self.services[id.0 as usize].as_mut() else {
            return;
        };
        let check = &mut checks[id.1 as usize];
        check.is_running = true;
        let (primary, cluster, deliver, health) = (check.server.address, *cluster, *deliver, Arc::clone(health));
        let access = match health.via {
            Via::Service => self.routes.access(primary, deliver, cluster.is_ipv4()),
            Via::Primary => Ok(Access::default()),
        };
        let Access { mark, installation, passage, trip } = match access {
            Ok(access) => access,
            Err(trouble) => {
                return self.finish(Done {
                    id,
                    began,
                    installed: None,
                    passage: None,
                    trip: None,
                    result: Err(trouble),
                });
            }
        };
        let address = if health.via == Via::Service { cluster } else { primary };
        let target = Target { address, scope: self.routes.index(), mark, cluster, deliver, health };
        let echo = Arc::clone(&self.echo);
        self.running.push(
            async move {
                if let Some(Err(error)) = async { Some(installation.as_ref()?.run().await) }.await {
                    let result = Err(Trouble::Here(format!("the probe route to {primary} is not in place: {error}")));
                    return Done { id, began, installed: None, passage: None, trip: None, result };
                }
                let result = match &target.health.probe {
                    Probe::Tcp { port } => probe::connection(&target, *port, None).await,
                    Probe::Http(http) => probe::connection(&target, http.port, Some(http)).await,
                    Probe::Icmp => probe::echo(&target, &echo).await,
                };
                Done { id, began, installed: installation, passage, trip, result }
            }
            .boxed(),
        );
    }

    /// Has a check probe at that time at the latest.
    fn hasten(&mut self, id: Id, due: Instant) {
        let later = self.check_mut(id).filter(|check| !check.is_running && check.due > due);
        if let Some(check) = later {
            check.due = due;
            self.agenda.push(Reverse((due, id)));
        }
    }
}
