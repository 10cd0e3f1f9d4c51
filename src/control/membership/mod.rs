//! Who the servers are at this moment: where each is (`neighbours`), whether it serves (`health`), and what the operator
//! wants of it (`operator`). Turns all that into tables for the workers.
//!
//! Here is who is followed and what becomes of what they tell; `state` judges a server, `agreed` by what a group of dispatchers finds, `orders`, `withdrawn` and `denied`
//! carry out what an operator asks for, `client` says what a client meets, `place` finds where servers are, `reload` goes over to another configuration, `report` says how everything is,
//! `tell` what happens.

mod agreed;
mod client;
mod denied;
mod orders;
pub mod peers;
mod place;
mod reload;
mod remember;
mod report;
mod state;
mod tell;
mod withdrawn;

pub use orders::Set;
use peers::{Hearsay, Hearsays};
pub use reload::{Base, Prepared, Refusal, Reloaded};

use self::report::Shown;
use self::tell::{tell, tell_state};
use super::agreement::Agreement;
use super::denials::Denials;
use super::health::{self, Health, Verdict, What};
use super::neighbours::{self, Neighbours, Routes, What as Whereabouts};
use super::overrides::{Name, Overrides, Withdrawn};
use super::state_file::{Remembered, StateFile, StateWriter, from_wall_time};
use crate::admin::status::State;
use crate::admin::timeline::Timeline;
use crate::host::clock;
use crate::limits::{FLOW_CENSUS, LEAVE_AGAIN, START_MOST, VERDICT_MOST};
use crate::model::{Egress, Plan, Server, Via};
use crate::table::build::Cluster;
use crate::table::trace::Watch;
use crate::table::{ServiceId, Table, TunnelEnd};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// Why the servers cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error(transparent)]
    Neighbours(#[from] neighbours::Error),
    /// Servers that are not next to the dispatcher, one a line.
    #[error("{0}")]
    OffLink(String),
    #[error(transparent)]
    Health(#[from] health::Error),
}

/// Who asks. All views of one configuration and one health agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Frames go from here to the servers' MACs.
    Dispatcher,
    /// One of the servers: the frames are there already. It has the cluster address itself, so a probe to that would be
    /// answered on this host, whichever server it is meant for.
    Server,
    /// One of the servers, to which dispatchers send: it judges nobody.
    Decap,
}

impl Side {
    /// The configuration as it is followed from here.
    fn adapted(self, mut plan: Plan) -> Plan {
        if self == Side::Server {
            plan.services.iter_mut().filter_map(|service| service.health.as_mut()).for_each(|h| h.via = Via::Primary);
            // Connections are where their sockets are; nothing says when the last of them is closed.
            plan.services.iter_mut().for_each(|service| service.until_closed = false);
        }
        plan
    }

    /// Whether servers are checked from here.
    fn checks(self, plan: &Plan) -> bool {
        self != Side::Decap && plan.services.iter().any(|service| service.health.is_some())
    }

    /// The servers to resolve, each address once.
    fn unresolved(self, plan: &Plan) -> Vec<(String, IpAddr)> {
        if self != Side::Dispatcher {
            return Vec::new();
        }
        without_mac(plan, false).into_iter().map(|(address, name)| (name, address)).collect()
    }

    /// Those whose packets may go by routers, unless a service has them on the link.
    fn routed(self, plan: &Plan) -> Vec<(String, IpAddr)> {
        if self != Side::Dispatcher {
            return Vec::new();
        }
        let on_link = without_mac(plan, false);
        let routed = without_mac(plan, true).into_iter().filter(|(address, _)| !on_link.contains_key(address));
        routed.map(|(address, name)| (name, address)).collect()
    }
}

/// The servers of services whose packets may go by routers, or may not, that have no MAC in the configuration; or of which it must be known
/// by which interface they are reached.
fn without_mac(plan: &Plan, is_routed: bool) -> BTreeMap<IpAddr, String> {
    let services = plan.services.iter().filter(|service| service.deliver.is_routed() == is_routed);
    let has_others = plan.dispatcher.as_ref().is_some_and(|dispatcher| !dispatcher.others.is_empty());
    let is_wanted = |server: &&Server| server.mac.is_none() || has_others;
    let servers = services.flat_map(|service| &service.servers).filter(is_wanted);
    servers.map(|server| (server.address, server.name.clone())).collect()
}

/// Follows the servers of a plan. Needs `CAP_NET_ADMIN` as long as it lives, and a tokio runtime with time and I/O.
pub struct Membership {
    side: Side,
    /// The first one, and the others.
    interfaces: Vec<String>,
    /// What the configuration says.
    configured: Arc<Plan>,
    /// What is followed: with the operator's weights, and with the servers that a reload removed and that are leaving.
    plan: Arc<Plan>,
    cluster: Cluster,
    /// Servers that the command line takes as down.
    down: Vec<String>,
    /// What the operator set.
    overrides: Overrides,
    withdrawn: Withdrawn,
    /// What operators deny.
    denials: Denials,
    /// Writes the state file. `None`: nothing is remembered.
    file: Option<StateWriter>,
    /// `None`: no server is behind a router, or those have a MAC in the configuration.
    routes: Option<Routes>,
    /// `None`: every MAC is in the configuration.
    neighbours: Option<Neighbours>,
    /// `None`: no service is checked.
    health: Option<Health>,
    /// `None`: what the checks find counts, whatever others find.
    agreement: Option<Agreement>,
    /// Until when a drained server keeps its connections, by name, or `None`: they are the others' now. Its time ends in
    /// `pass`, not on the clock: until the data path knows, the server has its connections, and is said to have them.
    draining: HashMap<Name, Option<u64>>,
    /// Until when a removed one keeps them.
    leaving: HashMap<Name, u64>,
    /// When it was last looked what is over. Servers whose time was over then stay while workers remember connections of theirs.
    passed: u64,
    /// New by a reload, and not known to serve yet.
    joining: HashSet<Name>,
    /// New services, whose servers join together: until when they wait for each other. One by one, the first would have
    /// everybody, and each that follows would take clients from the others.
    starting: HashMap<String, u64>,
    /// Not up, but serving since no other server of its service was; and what it was then. When others serve again, the
    /// connections that it has stay with it.
    standing_in: HashMap<Name, Verdict>,
    /// Found down by this member alone: until when they keep their connections.
    in_doubt: HashMap<Name, u64>,
    /// What the filters of the other servers say.
    hearsays: Hearsays,
    /// The state of each server, and since when.
    states: HashMap<Name, (State, Instant)>,
    shown: Shown,
    timeline: Timeline,
    /// Where no server was found, and the timeline has that.
    doubted: HashSet<IpAddr>,
}

/// Something happened that has yet to be taken in.
pub enum Event {
    Neighbours(Vec<neighbours::Change>),
    /// The routes to servers are others.
    Routes,
    Verdicts(Vec<health::Change>),
    /// Time has passed.
    Due,
}

/// What has changed for the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Who has which clients, or where a server is.
    Table,
    /// The services or servers may be others.
    Layout,
}

impl Membership {
    /// Resolves the servers that have no `mac` in the configuration and begins to check those of services with health checks.
    /// Goes on with what the state file remembers: what an operator has set, verdicts, and changes that were open. Waits for the
    /// first verdict of each server that has none from before, for `START_MOST` at most. `down` is taken as down. `end`: where tunnels begin,
    /// if not where the configuration says.
    ///
    /// # Errors
    /// A server is not on the interface's link, or the kernel refuses; the kernel has back then what was asked of it.
    pub async fn open(
        configured: Plan,
        (side, interface, end): (Side, &str, Option<TunnelEnd>),
        down: &[String],
        file: Option<StateFile>,
    ) -> Result<Membership, MembershipError> {
        let configured = side.adapted(configured);
        let (file, remembered, age) = remember::load(file);
        let leaving = remember::leaving(&remembered, &configured);
        let servers: Vec<(String, Server)> =
            leaving.iter().map(|left| (left.service.clone(), left.server.clone())).collect();
        let overrides = remembered.orders.clone();
        let plan = Arc::new(reload::effective(&configured, &overrides, &servers));
        let others = configured.dispatcher.iter().filter(|_| side == Side::Dispatcher).flat_map(|of| of.others.clone());
        let interfaces = std::iter::once(interface.to_owned()).chain(others).collect();
        let agreement = if side == Side::Dispatcher { agreed::wanted(&plan) } else { None };
        let mut membership = Membership {
            side,
            interfaces,
            cluster: Cluster::new(&plan),
            configured: Arc::new(configured),
            plan,
            down: down.to_vec(),
            overrides,
            withdrawn: remembered.withdrawn.clone(),
            denials: remembered.denied.clone(),
            file,
            routes: None,
            neighbours: None,
            health: None,
            agreement,
            draining: HashMap::new(),
            leaving: remember::times(&leaving),
            passed: 0,
            joining: HashSet::new(),
            starting: HashMap::new(),
            in_doubt: HashMap::new(),
            standing_in: HashMap::new(),
            hearsays: Hearsays::new(),
            states: HashMap::new(),
            shown: Shown::default(),
            timeline: Timeline::default(),
            doubted: HashSet::new(),
        };
        if let Some(end) = end {
            membership.cluster.set_tunnel_end(end);
        }
        membership.redrain();
        membership.tell_overrides();
        membership.denials.expire();
        membership.relist();
        let opened = membership.start(&remembered, age).await;
        if let Err(error) = opened {
            // What stands in the file is for the next start.
            membership.file = None;
            membership.close().await;
            return Err(error);
        }
        // Of connections that are elsewhere no more is known than what the file says.
        membership.judge_all(0);
        membership.reopen(&remembered);
        membership.note();
        Ok(membership)
    }

    async fn start(&mut self, remembered: &Remembered, age: Duration) -> Result<(), MembershipError> {
        let plan = Arc::clone(&self.plan);
        self.follow_routes(&plan).await?;
        let wanted = self.wanted(&plan);
        if !wanted.is_empty() {
            self.resolve(&wanted).await?;
        }
        if self.side.checks(&self.plan) {
            let plan = Arc::clone(&self.plan);
            let mut health = Health::open_on(&plan, &self.interfaces, self.cluster.tunnel_end()).await?;
            if age < VERDICT_MOST {
                health.recall(&remembered.verdicts);
            }
            self.health = Some(health);
            self.recall_agreed(if age < VERDICT_MOST { &remembered.agreed } else { &[] });
            self.verify_what_fails();
            wanted.iter().for_each(|(_, address)| self.tell_mac(*address));
            self.first_verdicts().await;
            self.agree();
        }
        Ok(())
    }

    /// Waits for the first verdict of each checked server: one that accepts connections and does not answer takes `fall` timeouts
    /// to be found, and until then its clients, which another server has had, would be sent to it.
    async fn first_verdicts(&mut self) {
        let give_up = tokio::time::Instant::now() + START_MOST;
        while let Some(health) = self.health.as_mut().filter(|health| health.pending() > 0) {
            let Ok(changes) = timeout_at(give_up, health.next()).await else {
                // Not how many: of those that cannot be checked, as this host is cut off, none is awaited any more.
                tracing::warn!(
                    "not every server has a check result after {START_MOST:?}: those that have none take clients until a \
                     check finds them down"
                );
                return;
            };
            changes.iter().for_each(|change| tell(change, ""));
        }
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Of the tables that it compiles: see `Table::layout`.
    pub fn layout(&self) -> u64 {
        self.cluster.layout()
    }

    /// Has watched frames noted from the next table on.
    pub fn set_watch(&mut self, watch: Option<Arc<Watch>>) {
        self.cluster.set_watch(watch);
    }

    /// Says by which interfaces frames leave, where there are several, in their order.
    pub fn set_egresses(&mut self, egresses: &[Egress]) {
        self.cluster.set_egresses(egresses);
    }

    /// How many workers remember flows.
    pub fn set_workers(&mut self, workers: usize) {
        self.cluster.set_workers(workers);
    }

    /// The table of the present state, one generation on.
    pub fn table(&mut self) -> Table {
        self.cluster.compile()
    }

    /// The present state, counted as one generation on.
    pub fn state(&mut self) -> &Cluster {
        self.cluster.count_generation();
        &self.cluster
    }

    /// Since when this host is cut off, so that no server is judged; see [`Health::isolated`].
    pub fn isolated(&self) -> Option<Instant> {
        self.health.as_ref().and_then(Health::isolated)
    }

    /// Waits until something happens. Cancel-safe.
    ///
    /// # Errors
    /// The neighbours cannot be followed any more.
    pub async fn next(&mut self) -> Result<Event, MembershipError> {
        let due = self.due().map(|due| Duration::from_nanos(due.saturating_sub(clock::now_ns())));
        let Membership { neighbours, routes, health, .. } = self;
        Ok(tokio::select! {
            changes = next_neighbours(neighbours) => Event::Neighbours(changes?),
            changed = next_routes(routes) => changed.map(|()| Event::Routes)?,
            changes = next_verdicts(health) => Event::Verdicts(changes),
            () = tokio::time::sleep(due.unwrap_or(Duration::MAX)), if due.is_some() => Event::Due,
        })
    }

    /// Takes in what has happened. Returns what the data path must know of it. Not to be cancelled.
    pub async fn take(&mut self, event: Event) -> Option<Update> {
        let update = self.take_in(event).await;
        self.note();
        update
    }

    async fn take_in(&mut self, event: Event) -> Option<Update> {
        let moved = match event {
            Event::Neighbours(changes) => self.locate(&changes),
            Event::Routes => self.reroute().await,
            Event::Verdicts(changes) => {
                self.tell_verdicts(&changes);
                let services = changes.iter().map(|change| change.service);
                let services: HashSet<usize> = services.chain(self.agree()).collect();
                let now = clock::now_ns();
                let moved = services.into_iter().fold(false, |moved, service| self.judge(service, now, None) | moved);
                // What a server has by right depends on whether it was cut off.
                let isolation = |change: &health::Change| matches!(change.what, What::Isolated(_) | What::NotIsolated);
                moved | (self.side == Side::Server && changes.iter().any(isolation))
            }
            Event::Due => return self.pass().await,
        };
        moved.then_some(Update::Table)
    }

    /// Notes who is drained: until when is known, or was remembered.
    fn redrain(&mut self) {
        let (now, known) = (clock::now_ns(), std::mem::take(&mut self.draining));
        let until = |wall| Some(now + from_wall_time(wall).as_nanos() as u64).filter(|until| *until > now);
        for service in &self.plan.services {
            for server in &service.servers {
                let Some(wall) = self.overrides.get(&service.name, &server.name).drained_until else { continue };
                let name = (service.name.clone(), server.name.clone());
                let until = known.get(&name).copied().unwrap_or_else(|| until(wall));
                self.draining.insert(name, until);
            }
        }
    }

    /// When something ends by itself.
    fn due(&self) -> Option<u64> {
        let times = self.draining.values().flatten().chain(self.leaving.values()).copied();
        let starting = self.starting.values().copied();
        let again = self.passed + FLOW_CENSUS.as_nanos() as u64;
        times
            .map(|until| if until <= self.passed { again } else { until })
            .chain(starting)
            .chain(self.cluster.due())
            .min()
    }

    /// Ends what is over.
    async fn pass(&mut self) -> Option<Update> {
        let now = clock::now_ns();
        let expired = self.cluster.expire(now);
        for ((service, server), until) in &mut self.draining {
            *until = until.filter(|until| *until > now || self.cluster.remembers(service, server));
        }
        self.passed = now;
        let has_left = self.let_go(now).await;
        let moved = self.judge_all(now) | expired;
        if has_left { Some(Update::Layout) } else { moved.then_some(Update::Table) }
    }

    /// Takes out the removed servers whose time is over; whether there were any. What a reload would be refused for ends no
    /// dispatcher that runs: they stay for a while then.
    async fn let_go(&mut self, now: u64) -> bool {
        let gone: Vec<Name> = {
            let over = |(service, name): &Name, until: u64| until <= now && !self.cluster.remembers(service, name);
            self.leaving.extract_if(|name, until| over(name, *until)).map(|(name, _)| name).collect()
        };
        if gone.is_empty() {
            return false;
        }
        let plan = reload::effective(&self.configured, &self.overrides, &self.still_leaving());
        if let Err(error) = self.follow(plan).await {
            let more = LEAVE_AGAIN.as_secs();
            tracing::warn!("drained servers whose timeout has passed are removed only {more} s later: {error}");
            self.leaving.extend(gone.into_iter().map(|name| (name, now + LEAVE_AGAIN.as_nanos() as u64)));
            return false;
        }
        for (service, server) in gone {
            self.tell_removed(&service, &server);
        }
        true
    }

    /// Judges every service. Connections stay for the service's time, if `now` is one.
    fn judge_all(&mut self, now: u64) -> bool {
        let until = (now == 0).then_some(0);
        let now = if now == 0 { clock::now_ns() } else { now };
        (0..self.plan.services.len()).fold(false, |moved, service| self.judge(service, now, until) | moved)
    }

    /// Takes the servers of a service in and out as everybody says. Whether that changed anything. Connections stay until
    /// `until`, or for as long as the service says. What happens to several services at once happens at one time `now`: so those that
    /// have the same servers share what comes of it.
    fn judge(&mut self, service: usize, now: u64, until: Option<u64>) -> bool {
        self.shown.touch(service);
        self.start_together(service, now);
        let until = until.or(self.doubt(service, now));
        let judged: Vec<state::Judged> =
            (0..self.plan.services[service].servers.len()).map(|server| self.judged(service, server)).collect();
        let may: Vec<bool> = judged.iter().map(|judged| judged.may).collect();
        let mut takes = self.taking(service, &may);
        for (server, takes) in takes.iter_mut().enumerate() {
            *takes |= matches!(self.hearsay(service, server), Some(Hearsay::Serves(_)));
        }
        let plan = Arc::clone(&self.plan);
        let Plan { services, .. } = &*plan;
        let mut states = Vec::with_capacity(judged.len());
        for ((server, judged), takes) in services[service].servers.iter().zip(&judged).zip(takes) {
            let name = (services[service].name.clone(), server.name.clone());
            let stood_in = self.stand_in(&name, judged.state, takes);
            states.push(judged.in_table(takes, stood_in));
            if judged.state != State::Joining {
                self.joining.remove(&name);
            }
            if self.states.get(&name).is_some_and(|(before, _)| *before != judged.state) {
                tell_state(&self.timeline, &name, judged, self.agreement.is_some());
            }
            let seen = self.states.entry(name).or_insert((judged.state, Instant::now()));
            if seen.0 != judged.state {
                *seen = (judged.state, Instant::now());
            }
        }
        let until = until.unwrap_or(now + services[service].drain.as_nanos() as u64);
        self.cluster.set_states(service as ServiceId, &states, now, until)
    }

    /// Has the MAC of a server that fails its checks verified.
    fn verify_what_fails(&mut self) {
        if let (Some(neighbours), Some(health)) = (&self.neighbours, &mut self.health) {
            health.send_doubts(neighbours.doubts());
        }
    }

    /// Gives the kernel back what was asked of it: neighbour entries, rules and routes. What is known is remembered.
    pub async fn close(&mut self) {
        self.note();
        self.file.take().into_iter().for_each(StateWriter::close);
        if let Some(health) = self.health.take()
            && let Err(error) = health.close().await
        {
            tracing::warn!(%error, "rules and routes of health checks stay behind; the next start removes them");
        }
        if let Some(neighbours) = self.neighbours.take()
            && let Err(error) = neighbours.close().await
        {
            tracing::warn!(%error, "entries for the servers stay in the kernel's neighbour table");
        }
    }
}

async fn next_neighbours(neighbours: &mut Option<Neighbours>) -> Result<Vec<neighbours::Change>, neighbours::Error> {
    match neighbours {
        Some(neighbours) => neighbours.next().await,
        None => std::future::pending().await,
    }
}

async fn next_routes(routes: &mut Option<Routes>) -> Result<(), neighbours::Error> {
    match routes {
        Some(routes) => routes.next().await,
        None => std::future::pending().await,
    }
}

async fn next_verdicts(health: &mut Option<Health>) -> Vec<health::Change> {
    match health {
        Some(health) => health.next().await,
        None => std::future::pending().await,
    }
}
