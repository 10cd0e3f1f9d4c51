//! Health checks: whether each server answers, the way clients reach it.
//!
//! With `via = "service"` a probe is addressed to the *cluster address* and delivered to one server's MAC, as a client's
//! packet is by the data path: it fails when the server lacks the alias, when its daemon does not listen on the cluster
//! address, when its MAC is wrong. No TCP stack of our own is needed for that, but a mark on the probe's socket that
//! the kernel routes by (`kernel`). The server's answer comes from the cluster address to this host's own, so steer lets it
//! pass. With `via = "primary"` a probe is an ordinary connection to the primary address.
//!
//! ```text
//! agenda -> path: the way to the server -> probe: tcp, http, https | echo: icmp -> state: verdict -> change
//! ```
//!
//! Here is when probes begin, and what is done with their results. Every server is probed once an interval, counted from
//! beginning to beginning and shortened at random by up to a tenth, so that probes do not fall into step and `fall`
//! failures never take longer than `fall` intervals and a timeout. At most `HEALTH_PARALLEL` are under way. A server
//! that there is no verdict of yet is probed every `HEALTH_FIRST_PAUSE`. Over https certificates are not verified
//! (`tls` says why), and whole TLS handshakes make such a check four times as dear as one over http. What fails on this host's side (no route, no free
//! descriptor, a process that stood still) is no result: it is told, and the verdict stays.

mod change;
mod echo;
mod kernel;
mod path;
mod probe;
pub mod state;
mod tls;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};

pub use self::change::{Change, Error, Status, What};
pub use self::state::Verdict;

use self::echo::Echo;
use self::kernel::Way;
use self::path::{Pass, Paths};
use self::probe::{Failure, Target, Trouble};
use self::state::{Rules, State};
use crate::limits::{HEALTH_FIRST_PAUSE, HEALTH_GATHER, HEALTH_JITTER, HEALTH_PARALLEL, HEALTH_RELAY, HEALTH_TICKS};
use crate::plan::{self, Mac, Plan, Probe, Via};

/// Checks the servers of a plan.
///
/// Needs `CAP_NET_ADMIN` as long as it lives, `CAP_NET_RAW` while it is opened, and a tokio runtime with time and I/O. Stays
/// in the network namespace of the thread that opened it. Dropped without [`Health::close`], it leaves rules and routes
/// behind that are in nobody's way; the next `open` for that interface removes them.
pub struct Health {
    /// As in the plan; `None`: the servers count as up.
    services: Vec<Option<Service>>,
    paths: Paths,
    echo: Arc<Echo>,
    index: u32,
    /// Probes under way.
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// When each check that is not running falls due.
    agenda: BinaryHeap<Reverse<(Instant, Id)>>,
    changes: Vec<Change>,
    /// Nothing is delivered before.
    hold: Instant,
}

struct Service {
    name: String,
    cluster: IpAddr,
    health: Arc<plan::Health>,
    rules: Rules,
    /// As in the plan.
    checks: Vec<Check>,
    all_down: bool,
}

/// One server of one service.
struct Check {
    server: plan::Server,
    state: State,
    due: Instant,
    /// Failures since the last success.
    failures: u32,
    failure: Option<(Instant, String)>,
    checked: Option<Instant>,
    latency: Option<Duration>,
    unchecked: Option<String>,
}

/// How long to sleep where nothing is to be done.
const IDLE: Duration = Duration::from_secs(60);

/// The index of a service, and of a server in it.
type Id = (u32, u32);

/// The end of a probe.
struct Done {
    id: Id,
    began: Instant,
    /// The way that was laid for it.
    laid: Option<Way>,
    result: Result<Duration, Trouble>,
}

impl Health {
    /// Begins to check the servers of the plan, from `interface`; removes what a predecessor that was killed has left.
    pub async fn open(plan: &Plan, interface: &str) -> Result<Health, Error> {
        let paths = Paths::open(interface).await?;
        let index = paths.index();
        let mut health = Health {
            services: Vec::new(),
            paths,
            echo: Arc::new(Echo::open()),
            index,
            running: FuturesUnordered::new(),
            agenda: BinaryHeap::new(),
            changes: Vec::new(),
            hold: Instant::now(),
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
        self.paths.watch(plan).await?;
        // Probes that are under way are given up with their connections.
        self.running = FuturesUnordered::new();
        let places = self.places();
        let mut before: Vec<Service> = std::mem::take(&mut self.services).into_iter().flatten().collect();
        self.services = plan.services.iter().map(|service| Service::new(service, &mut before)).collect();
        let places_now = self.places();
        self.changes.retain(|change| places.get(change.service) == places_now.get(change.service));
        let ids = self.services.iter().enumerate().flat_map(|(s, service)| {
            let checks = service.iter().flat_map(|service| &service.checks).enumerate();
            checks.map(move |(c, check)| Reverse((check.due, (s as u32, c as u32))))
        });
        self.agenda = ids.collect();
        Ok(())
    }

    /// The names of each checked service and its servers.
    fn places(&self) -> Vec<Option<(String, Vec<String>)>> {
        let servers = |service: &Service| service.checks.iter().map(|check| check.server.name.clone()).collect();
        let services = self.services.iter().map(Option::as_ref);
        services.map(|service| service.map(|service| (service.name.clone(), servers(service)))).collect()
    }

    /// The MAC that the data path uses for a server from now on; `None`: it has none, and checks of it by way of the
    /// cluster address fail. Without this it is the one of the plan.
    pub fn set_mac(&mut self, server: IpAddr, mac: Option<Mac>) {
        self.paths.set_mac(server, mac);
    }

    /// Waits for changes and returns all that are there, in their order. Never empty; waits for ever where nothing is
    /// checked. Cancel-safe: nothing is lost when the future is dropped. Probes go on only while this is polled.
    pub async fn next(&mut self) -> Vec<Change> {
        loop {
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
            tokio::select! {
                Some(done) = self.running.next() => self.finish(done),
                () = self.echo.receive() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// How many servers there is no verdict of yet. They count as up; a start, or a reload that adds servers, does well to
    /// wait a moment until there are none.
    pub fn pending(&self) -> usize {
        let checks = self.services.iter().flatten().flat_map(|service| &service.checks);
        checks.filter(|check| check.state.verdict == Verdict::Unknown && check.unchecked.is_none()).count()
    }

    /// Which servers of a service take clients, as in the plan; `may` says of each whether it may take any at all: its weight
    /// is above 0, and nobody has taken it out. Those that are up; if none is, those that are held down for flapping; if
    /// there are none either, none or all, by `all_down`.
    pub fn serving(&self, service: usize, may: &[bool]) -> Vec<bool> {
        let Some(service) = &self.services[service] else { return may.to_vec() };
        let servers: Vec<_> = service.checks.iter().map(|check| check.state.verdict).zip(may.iter().copied()).collect();
        state::serving(&servers, service.health.all_down)
    }

    /// What is known of a server, by indices into the plan. `None`: its service is not checked.
    pub fn status(&self, service: usize, server: usize) -> Option<Status<'_>> {
        let Check { state, failure, checked, latency, unchecked, .. } =
            self.services[service].as_ref()?.checks.get(server)?;
        Some(Status {
            verdict: state.verdict,
            since: state.since,
            hold: state.hold(),
            failure: failure.as_ref().map(|(at, reason)| (*at, reason.as_str())),
            checked: *checked,
            latency: *latency,
            unchecked: unchecked.as_deref(),
        })
    }

    /// Ends all probes and leaves nothing behind in the kernel.
    pub async fn close(self) -> Result<(), Error> {
        let Health { running, paths, .. } = self;
        drop(running);
        paths.close().await
    }
}

/// What is done.
impl Health {
    fn launch(&mut self, now: Instant) {
        while self.running.len() < HEALTH_PARALLEL
            && let Some(&Reverse((due, id))) = self.agenda.peek()
            && due <= now + self.tick(id)
        {
            self.agenda.pop();
            self.begin(id, now);
        }
    }

    /// What falls due within this is probed together with what is due.
    fn tick(&self, id: Id) -> Duration {
        self.services[id.0 as usize].as_ref().map_or(Duration::ZERO, |service| service.health.interval / HEALTH_TICKS)
    }

    fn wake(&self, now: Instant) -> Instant {
        let free = self.running.len() < HEALTH_PARALLEL;
        let next = self.agenda.peek().map(|Reverse((due, _))| *due).filter(|_| free);
        let held = (!self.changes.is_empty()).then_some(self.hold);
        next.into_iter().chain(held).min().unwrap_or(now + IDLE)
    }

    fn begin(&mut self, id: Id, began: Instant) {
        let Some(Service { cluster, health, checks, .. }) = self.services[id.0 as usize].as_ref() else { return };
        let (primary, cluster, health) = (checks[id.1 as usize].server.address, *cluster, Arc::clone(health));
        let pass = match health.via {
            Via::Service => self.paths.pass(primary),
            Via::Primary => Some(Pass::default()),
        };
        let Some(Pass { mark, work }) = pass else {
            return self.finish(Done { id, began, laid: None, result: Err(Trouble::Server(Failure::Unresolved)) });
        };
        let address = if health.via == Via::Service { cluster } else { primary };
        let target = Target { address, scope: self.index, mark, cluster, health };
        let echo = Arc::clone(&self.echo);
        self.running.push(
            async move {
                let mut laid = None;
                if let Some(work) = work {
                    if let Err(error) = work.run().await {
                        let result = Err(Trouble::Here(format!("the way to {address} cannot be laid: {error}")));
                        return Done { id, began, laid, result };
                    }
                    laid = Some(work.way);
                }
                let result = match &target.health.probe {
                    Probe::Tcp { port } => probe::connection(&target, *port, None).await,
                    Probe::Http(http) => probe::connection(&target, http.port, Some(http)).await,
                    Probe::Icmp => probe::echo(&target, &echo).await,
                };
                Done { id, began, laid, result }
            }
            .boxed(),
        );
    }
}

/// What is made of the results.
impl Health {
    fn finish(&mut self, Done { id, began, laid, result }: Done) {
        let now = Instant::now();
        let Some(service) = self.services[id.0 as usize].as_mut() else { return };
        let (interval, server) = (service.health.interval, id.1 as usize);
        if let Some(way) = laid {
            self.paths.set_laid(&way);
        }
        let check = &mut service.checks[server];
        let unknown = check.state.verdict == Verdict::Unknown;
        if check.needs_relay(&result) {
            self.paths.doubt(check.server.address);
        }
        let here = matches!(result, Err(Trouble::Here(_)));
        let what = check.take(result, &service.rules, server, now);
        check.due = match (unknown, check.state.verdict) {
            (true, Verdict::Unknown) if !here => now + interval.min(HEALTH_FIRST_PAUSE),
            // All began at once; from here on they are spread.
            (true, _) => now + interval.mul_f64(fastrand::f64()),
            (false, _) => now.max(began + interval.mul_f64(1.0 - HEALTH_JITTER * fastrand::f64())),
        };
        self.agenda.push(Reverse((check.due, id)));
        if let Some(what) = what {
            let names = (service.name.clone(), Some(check.server.name.clone()));
            self.changes.push(Change { service: id.0 as usize, what, names });
            if let Some(what) = service.count() {
                self.changes.push(Change { service: id.0 as usize, what, names: (service.name.clone(), None) });
            }
        }
    }
}

impl Service {
    /// What is in `before` keeps its state.
    fn new(service: &plan::Service, before: &mut [Service]) -> Option<Service> {
        let health = service.health.clone()?;
        let now = Instant::now();
        let interval = health.interval;
        let old = before.iter_mut().find(|old| old.name == service.name && old.cluster == service.address);
        let (mut checks, all_down) =
            old.map_or_else(Default::default, |old| (std::mem::take(&mut old.checks), old.all_down));
        let check = |server: &plan::Server| {
            let same = |old: &Check| old.server.name == server.name && old.server.address == server.address;
            match checks.iter().position(same).map(|at| checks.swap_remove(at)) {
                Some(old) => Check { server: server.clone(), due: old.due.min(now + interval), ..old },
                None => Check::new(server.clone(), now, interval),
            }
        };
        let checks = service.servers.iter().map(check).collect();
        let rules = Rules::from(&health);
        let (name, cluster) = (service.name.clone(), service.address);
        Some(Service { name, cluster, health: Arc::new(health), rules, checks, all_down })
    }

    /// Whether all servers that count are down, if that has changed.
    fn count(&mut self) -> Option<What> {
        let mut count = self.checks.iter().filter(|check| check.server.weight > 0).peekable();
        let all_down = count.peek().is_some() && count.all(|check| check.state.verdict == Verdict::Down);
        if all_down == self.all_down {
            return None;
        }
        self.all_down = all_down;
        Some(if all_down { What::AllDown(self.health.all_down) } else { What::NotAllDown })
    }
}

impl Check {
    fn new(server: plan::Server, now: Instant, interval: Duration) -> Check {
        Check {
            server,
            state: State::new(now),
            due: now + interval.min(HEALTH_FIRST_PAUSE).mul_f64(fastrand::f64()),
            failures: 0,
            failure: None,
            checked: None,
            latency: None,
            unchecked: None,
        }
    }

    /// Whether the way to the server may be what is wrong.
    fn needs_relay(&self, result: &Result<Duration, Trouble>) -> bool {
        match result {
            Ok(_) => false,
            Err(Trouble::Server(_)) => self.failures.is_multiple_of(HEALTH_RELAY),
            Err(Trouble::Here(_)) => true,
        }
    }

    /// Takes in a result. What is to be told of it.
    fn take(&mut self, result: Result<Duration, Trouble>, rules: &Rules, server: usize, now: Instant) -> Option<What> {
        let success = result.is_ok();
        match result {
            Ok(latency) => {
                self.failures = 0;
                self.latency = Some(latency);
            }
            Err(Trouble::Server(failure)) => {
                self.failures += 1;
                self.failure = Some((now, failure.to_string()));
            }
            Err(Trouble::Here(reason)) => {
                let told = self.unchecked.as_ref() == Some(&reason);
                self.unchecked = Some(reason.clone());
                return (!told).then_some(What::Unchecked { server, reason });
            }
        }
        self.checked = Some(now);
        self.unchecked = None;
        if !self.state.judge(success, rules, now) {
            return None;
        }
        let hold = self.state.hold();
        Some(match self.state.verdict {
            Verdict::Unknown | Verdict::Up => What::Up { server, latency: self.latency.unwrap_or_default() },
            Verdict::Held => What::Held { server, hold: hold.unwrap_or_default() },
            Verdict::Down => {
                let reason = self.failure.as_ref().map(|(_, reason)| reason.clone()).unwrap_or_default();
                What::Down { server, reason, hold }
            }
        })
    }
}
