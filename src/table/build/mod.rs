//! The control side of the tables: every service's first choices and failover orders, which servers are up, where they are;
//! compiles a `Table` of it. Owned by one control thread.

mod history;
mod idents;
mod lists;
pub mod maglev;
pub mod migration;
pub mod rendezvous;
mod service;
mod shared;

use self::idents::Idents;
use self::maglev::Candidate;
use self::service::{Ranking, ServerState, ServiceState, candidates};
use super::{
    Address, Directory, EVERYTHING, Leaving, NO_SERVICE, PLAIN, PackedMac, PackedNextHop, ServiceId, ServiceTable,
    Table, TunnelEnd, Way, port_key, port_key_v4, prefix_mark,
};
use crate::hash::Key;
use crate::model::identity::{Identity, continued};
use crate::model::{Egress, HashInput, List, Mac, NextHop, Plan, Prefix, Selection, Service, Transport};
use crate::table::bloom_filter::BloomFilter;
use crate::table::census::Census;
use crate::table::index::Index;
use crate::table::limits::Limiter;
use crate::table::lists::Lists;
use crate::table::prefixes::Prefixes;
use crate::table::trace::Watch;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

pub use self::history::History;
pub use self::service::State;

/// Times are nanoseconds on the clock of the ports. A copy shares what is large.
#[derive(Clone)]
pub struct Cluster {
    key: Key,
    generation: u64,
    layout: u64,
    directory: Arc<Directory>,
    services: Vec<ServiceState>,
    rankings: Arc<Rankings>,
    idents: Idents,
    watch: Option<Arc<Watch>>,
    /// What operators deny beside the plan's lists, and what all come to.
    denied: Arc<[List]>,
    lists: Option<Arc<Lists>>,
    limiter: Limiter,
    egresses: Arc<[Egress]>,
    tunnel_end: TunnelEnd,
    identifications: Arc<AtomicU32>,
    workers: usize,
    /// What workers remember, of this layout.
    census: Arc<Census>,
}

/// By what they depend on: names and weights, slots.
type Rankings = HashMap<RankingKey, Arc<Ranking>>;
type RankingKey = (Vec<(String, u32)>, u32);

/// A cluster by another plan, in the making: all that takes long. Servers may go on to come and go meanwhile.
pub struct Renewal {
    key: Key,
    directory: Directory,
    rankings: Rankings,
    services: Vec<Renewed>,
    idents: Idents,
    /// The layout that it follows.
    layout: u64,
    began: u64,
}

struct Renewed {
    state: ServiceState,
    /// The service that it continues, and the version of that.
    of: Option<(usize, u64)>,
    addresses: Arc<[u16]>,
    ranking: Arc<Ranking>,
}

impl Cluster {
    /// All servers take clients, MACs as configured.
    pub fn new(plan: &Plan) -> Cluster {
        let key = Key::from(plan.hash_key);
        let (directory, addresses) = directory(&plan.services);
        let (of_service, rankings) = rankings(key, &plan.services, &Rankings::new());
        let mut idents = Idents::default();
        let services = plan.services.iter().zip(addresses).zip(of_service);
        let services = services
            .map(|((service, addresses), ranking)| ServiceState::new(key, service, (addresses, ranking), &mut idents))
            .collect();
        let mut cluster = Cluster {
            key,
            generation: 0,
            layout: 0,
            services,
            directory: Arc::new(directory),
            rankings: Arc::new(rankings),
            idents,
            watch: None,
            denied: Arc::default(),
            lists: None,
            limiter: Limiter::new(key, plan),
            egresses: Arc::new([]),
            tunnel_end: tunnel_end(plan),
            identifications: Arc::default(),
            workers: 1,
            census: Arc::new(Census::new(1, plan.services.iter().map(|service| service.servers.len()).sum())),
        };
        cluster.set_lists(&plan.lists, Arc::default()).expect("a plan has few groups of services");
        cluster
    }

    /// How many workers remember flows; 1 until then.
    pub fn set_workers(&mut self, workers: usize) {
        self.workers = workers;
        self.renew_census();
    }

    fn renew_census(&mut self) {
        let destinations = self.services.iter().map(|service| service.servers.len()).sum();
        self.census = Arc::new(Census::new(self.workers, destinations));
    }

    /// Goes over to another plan. Servers that are in both keep their state and, through the change, their connections,
    /// for their service's `drain`; new ones are out at first. What must not lose its connections at once though the
    /// configuration dropped it stands in the plan as leaving.
    pub fn renew(&mut self, plan: &Plan, now: u64) {
        let renewal = self.renewal(plan, now);
        self.adopt(renewal, plan, now);
    }

    /// What it takes to go over to another plan.
    pub fn renewal(&self, plan: &Plan, now: u64) -> Renewal {
        let key = Key::from(plan.hash_key);
        let (directory, addresses) = directory(&plan.services);
        let none = Rankings::new();
        let known = if key == self.key { &*self.rankings } else { &none };
        let (of_service, rankings) = rankings(key, &plan.services, known);
        let old: Vec<Identity> = self.services.iter().map(|service| service.identity.clone()).collect();
        let new: Vec<Identity> = plan.services.iter().map(Identity::of).collect();
        let mut idents = self.idents.clone();
        idents.keep(self.services.iter().flat_map(|service| &service.servers).map(|server| server.ident));
        let mut services = Vec::with_capacity(plan.services.len());
        let made = plan.services.iter().zip(addresses).zip(of_service).zip(continued(&old, &new));
        for (((service, addresses), ranking), of) in made {
            let place = (Arc::clone(&addresses), Arc::clone(&ranking));
            let state = match of.map(|at| self.services[at].clone()) {
                Some(known) => {
                    let until = now + service.drain.as_nanos() as u64;
                    known.renew(key, service, place, &mut idents, (now, until))
                }
                None => {
                    let mut new = ServiceState::new(key, service, place, &mut idents);
                    new.set_states(&vec![State::Down; service.servers.len()], now, now);
                    new
                }
            };
            let of = of.map(|at| (at, self.services[at].version()));
            services.push(Renewed { state, of, addresses, ranking });
        }
        Renewal { key, directory, rankings, services, idents, layout: self.layout, began: now }
    }

    /// Whether that is for the plan that is in use.
    pub fn can_adopt(&self, renewal: &Renewal) -> bool {
        renewal.layout == self.layout
    }

    /// Goes over to the plan. What has changed in the meantime is gone through again.
    pub fn adopt(&mut self, renewal: Renewal, plan: &Plan, now: u64) {
        assert!(self.can_adopt(&renewal), "the services are those that it was made for");
        let Renewal { key, directory, rankings, services, mut idents, began, .. } = renewal;
        let renewed = services.into_iter().zip(&plan.services).map(|(renewed, service)| {
            let Renewed { mut state, of, addresses, ranking } = renewed;
            let until = now + service.drain.as_nanos() as u64;
            match of {
                Some((at, version)) if self.services[at].version() != version => {
                    let known = self.services[at].clone();
                    known.renew(key, service, (addresses, ranking), &mut idents, (now, until))
                }
                _ => {
                    state.postpone(began, (now, until));
                    state
                }
            }
        });
        self.services = renewed.collect();
        (self.key, self.directory, self.rankings) = (key, Arc::new(directory), Arc::new(rankings));
        self.idents = idents;
        self.layout += 1;
        self.limiter.renew(key, plan);
        if self.set_lists(&plan.lists, Arc::clone(&self.denied)).is_err() {
            // What is denied for all services makes no groups.
            let for_all = self.denied.iter().filter(|list| list.services.is_empty()).cloned().collect();
            self.set_lists(&plan.lists, for_all).expect("a plan has few groups of services");
        }
        self.renew_census();
    }

    /// Takes a server in or out in every service that has it, with all its clients. Returns in how many its state changed;
    /// `None`: no service has a server of that name.
    pub fn set_up(&mut self, name: &str, up: bool) -> Option<usize> {
        let state = if up { State::Active } else { State::Down };
        let mut known = false;
        let mut changed = 0;
        for service in &mut self.services {
            if let Some(server) = service.servers.iter().position(|s| s.name == name) {
                known = true;
                let mut states: Vec<State> = (0..service.servers.len()).map(|at| service.state(at)).collect();
                states[server] = state;
                changed += usize::from(service.set_states(&states, 0, 0));
            }
        }
        known.then_some(changed)
    }

    /// What the servers of one service are there for, in the order of the plan. The connections of those that stay keep
    /// their servers until `until`, whoever owns their slots then. Returns whether that changed anything.
    pub fn set_states(&mut self, service: ServiceId, states: &[State], now: u64, until: u64) -> bool {
        self.services[service as usize].set_states(states, now, until)
    }

    /// Notes the interfaces by which frames leave besides the one that they come in on.
    pub fn set_egresses(&mut self, egresses: &[Egress]) {
        self.egresses = egresses.into();
    }

    /// Says where tunnels begin; until then, where the plan says.
    pub fn set_tunnel_end(&mut self, end: TunnelEnd) {
        self.tunnel_end = end;
    }

    pub fn tunnel_end(&self) -> TunnelEnd {
        self.tunnel_end
    }

    /// Has workers note the frames of a client from the next table on; `None`: no more.
    pub fn set_watch(&mut self, watch: Option<Arc<Watch>>) {
        self.watch = watch;
    }

    /// Lets connections stay at least until then, where they stay already.
    pub fn prolong(&mut self, service: ServiceId, until: u64, now: u64) {
        self.services[service as usize].prolong(until, now);
    }

    pub fn state(&self, service: ServiceId, server: usize) -> State {
        self.services[service as usize].state(server)
    }

    /// What a process that comes after this one must know to go on with the changes of a service that are open.
    pub fn history(&self, service: ServiceId) -> Option<&History> {
        self.services[service as usize].history()
    }

    /// Goes on with changes of services that were open in a process before this one.
    pub fn recall(&mut self, plan: &Plan, changes: &[(ServiceId, &History)], now: u64) {
        // Their servers are called as flow tables call them. Nothing calls those yet that have these numbers here.
        let named: HashSet<u32> = changes.iter().flat_map(|(_, history)| history.idents()).collect();
        self.idents.keep(self.services.iter().flat_map(ServiceState::idents).chain(named.iter().copied()));
        for service in &mut self.services {
            service.avoid(&named, &mut self.idents);
        }
        for &(service, history) in changes {
            let (of, state) = (&plan.services[service as usize], &self.services[service as usize]);
            if let Some(recalled) = state.recalled(self.key, of, state.ranking(), &mut self.idents, (history, now)) {
                self.services[service as usize] = recalled;
            }
        }
    }

    /// When `expire` will find something.
    pub fn due(&self) -> Option<u64> {
        self.services.iter().filter_map(ServiceState::due).min()
    }

    /// Ends the changes whose time is over. Whether that changed anything.
    pub fn expire(&mut self, now: u64) -> bool {
        let mut base = 0;
        self.services.iter_mut().fold(false, |changed, service| {
            let first = base;
            base += service.servers.len();
            service.expire(now, (&self.census, first)) | changed
        })
    }

    /// Whether workers may remember connections of a server that stay for as long as they last.
    pub fn remembers(&self, service: &str, server: &str) -> bool {
        let mut base = 0;
        self.services.iter().any(|known| {
            let first = base;
            base += known.servers.len();
            let is_it = known.identity.name == service;
            let at = known.servers.iter().position(|known| is_it && known.name == server);
            at.is_some_and(|at| known.remembers(first + at..first + at + 1, &self.census))
        })
    }

    /// Notes the next hop of the servers with that primary address; `None`: not resolved.
    pub fn set_next_hop(&mut self, address: IpAddr, next_hop: Option<NextHop>) {
        for server in self.services.iter_mut().flat_map(|s| &mut s.servers).filter(|s| s.address == address) {
            server.next_hop = next_hop;
        }
    }

    pub fn mac(&self, service: ServiceId, server: usize) -> Option<Mac> {
        self.services[service as usize].servers[server].mac()
    }

    /// Of what was compiled last.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn key(&self) -> Key {
        self.key
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// How many services there are.
    pub fn services(&self) -> usize {
        self.services.len()
    }

    pub fn name(&self, service: ServiceId) -> &str {
        &self.services[service as usize].identity.name
    }

    /// A server's position in a service.
    pub fn position(&self, service: ServiceId, name: &str) -> Option<u16> {
        let servers = &self.services[service as usize].servers;
        servers.iter().position(|server| server.name == name).map(|at| at as u16)
    }

    /// The names of a service's servers that take clients.
    pub fn active(&self, service: ServiceId) -> impl Iterator<Item = &str> {
        let ServiceState { servers, .. } = &self.services[service as usize];
        let is_active = move |at: &usize| self.state(service, *at) == State::Active;
        (0..servers.len()).filter(is_active).map(|at| servers[at].name.as_str())
    }

    /// What a service selects by now.
    pub fn service(&self, service: ServiceId) -> ServiceTable {
        self.services[service as usize].table(0)
    }

    /// Which server of a service each slot has while all are up, by position, or `NOBODY`.
    pub fn first_choices(&self, service: ServiceId) -> &[u16] {
        self.services[service as usize].first_choices()
    }

    /// How many slots of a service each server owns now.
    pub fn shares(&self, service: ServiceId) -> Arc<[u32]> {
        Arc::clone(self.services[service as usize].shares())
    }

    /// How often what is known of a service here has changed, MACs apart.
    pub fn version(&self, service: ServiceId) -> u64 {
        self.services[service as usize].version()
    }

    /// Which list of services and servers this is.
    pub fn layout(&self) -> u64 {
        self.layout
    }

    /// How many slots of a service are moving: their connections stay with one server while new ones go to another.
    pub fn moving(&self, service: ServiceId) -> u32 {
        self.services[service as usize].moving()
    }

    /// The failover order of a slot: the first choice, then every other server of weight above 0.
    pub fn order(&self, service: ServiceId, slot: u32) -> Vec<u16> {
        self.services[service as usize].order(slot)
    }

    /// Numbers the list of services and servers that tables are compiled of from now on; 0 until then.
    pub fn set_layout(&mut self, layout: u64) {
        self.layout = layout;
    }

    /// One generation on, for who compiles something else than a `Table`.
    pub fn count_generation(&mut self) {
        self.generation += 1;
    }

    /// A new table of the present state, one generation on.
    pub fn compile(&mut self) -> Table {
        self.count_generation();
        let mut base = 0;
        let (mut next_hops, mut idents, mut previous_owners) = (Vec::new(), Vec::new(), Vec::new());
        let (mut own, mut loops, mut ways) = (Vec::new(), Vec::new(), Vec::new());
        let mut services = Vec::with_capacity(self.services.len());
        for service in &self.services {
            let table = service.table(base);
            for (server, destination) in service.servers.iter().zip(base..) {
                let way =
                    Way::new(service.deliver, service.identity.addresses[0].address, server.address, &self.tunnel_end);
                let next_hop = PackedNextHop::from(server.next_hop.filter(|_| way != Way::Closed));
                let leaving = Leaving { way, tags: server.tags };
                next_hops.push(if next_hop.is_forward() && !leaving.changes_no_more_than_macs() {
                    next_hop.with_way()
                } else {
                    next_hop
                });
                ways.push(leaving);
                idents.push(server.ident);
                if table.kept().is_some() && server.keeps() {
                    previous_owners.push((server.ident, destination));
                }
                // A router sends clients' frames as well.
                if let Some(mac) = server.mac().filter(|_| server.next_hop.is_some_and(|hop| !hop.is_gateway)) {
                    let mac = PackedMac::from_bytes(mac.0).0;
                    own.push((mac, 0));
                    loops.extend(service.addresses.iter().map(|address| ((mac, u32::from(*address)), 0)));
                }
            }
            base += service.servers.len() as u32;
            services.push(table);
        }
        next_hops.push(PackedNextHop::UNRESOLVED);
        let horizon = services.iter().filter_map(|service| Some(service.kept()?.horizon)).min().unwrap_or(0);
        Table {
            generation: self.generation,
            layout: self.layout,
            key: self.key,
            directory: Arc::clone(&self.directory),
            services: services.into(),
            next_hops: next_hops.into(),
            ways: if ways.iter().all(Leaving::changes_no_more_than_macs) { Box::default() } else { ways.into() },
            tunnel_mtu: self.tunnel_end.mtu,
            identifications: Arc::clone(&self.identifications),
            egresses: Arc::clone(&self.egresses),
            idents: idents.into(),
            previous_owners: Index::new(previous_owners),
            horizon,
            own: Index::new(own),
            loops: Index::new(loops),
            lists: self.lists.clone(),
            limits: self.limiter.limits(),
            odd_limits: self.limiter.odd(),
            limit_sources: self.limiter.sources(),
            watch: self.watch.clone(),
            census: self.services.iter().any(ServiceState::is_settled).then(|| Arc::clone(&self.census)),
        }
    }
}

impl Renewal {
    /// For each service of the plan, the one that it continues.
    pub fn continues(&self, service: ServiceId) -> Option<ServiceId> {
        self.services[service as usize].of.map(|(at, _)| at as ServiceId)
    }

    /// What clients of a service will be selected by when the servers that are new take clients as well. `None`: by the
    /// same as now, to the same servers.
    pub fn promised(&self, service: ServiceId, now: &Cluster) -> Option<ServiceTable> {
        let Renewed { state, of, .. } = &self.services[service as usize];
        let old = &now.services[of.as_ref()?.0];
        let is_new = |server: &ServerState| old.servers.iter().all(|old| old.address != server.address);
        let is_replaced = |server: &ServerState| {
            old.servers.iter().any(|old| old.name == server.name && old.address != server.address)
        };
        let differs = !state.selects_like(old) || state.servers.iter().any(is_replaced);
        differs.then(|| state.promised(is_new))
    }
}

fn tunnel_end(plan: &Plan) -> TunnelEnd {
    let dispatcher = plan.dispatcher.as_ref();
    let mtu = dispatcher.and_then(|dispatcher| dispatcher.mtu).unwrap_or(TunnelEnd::MTU);
    TunnelEnd::new(dispatcher.map_or(&[], |dispatcher| &dispatcher.source), mtu)
}

/// Each service's ranking, and all by what they depend on. Those that are not known are made on all cores at once:
/// thousands of services shall not keep a start waiting.
fn rankings(key: Key, services: &[Service], known: &Rankings) -> (Vec<Arc<Ranking>>, Rankings) {
    let of = |service: &Service| -> RankingKey {
        let owned = |candidate: Candidate| (candidate.name.to_owned(), candidate.weight);
        (candidates(service).into_iter().map(owned).collect(), service.slots)
    };
    let keys: Vec<RankingKey> = services.iter().map(of).collect();
    let mut wanted: HashMap<&RankingKey, &Service> = HashMap::new();
    keys.iter().zip(services).for_each(|(key, service)| _ = wanted.entry(key).or_insert(service));
    let missing: Vec<(&RankingKey, &Service)> =
        wanted.into_iter().filter(|(key, _)| !known.contains_key(*key)).collect();
    let made: Vec<OnceLock<Ranking>> = missing.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let make = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((_, service)) = missing.get(at) else { return };
            made[at].get_or_init(|| Ranking::new(key, &candidates(service), service.slots));
        }
    };
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get()).min(missing.len());
    thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(make)));
        make();
    });
    let made = made.into_iter().map(|ranking| Arc::new(ranking.into_inner().expect("all were made")));
    let made: HashMap<&RankingKey, Arc<Ranking>> = missing.iter().map(|(key, _)| *key).zip(made).collect();
    let of_service: Vec<Arc<Ranking>> =
        keys.iter().map(|key| Arc::clone(made.get(key).or_else(|| known.get(key)).expect("made or known"))).collect();
    let rankings = keys.iter().cloned().zip(of_service.iter().cloned()).collect();
    (of_service, rankings)
}

/// The directory of the services, and each service's addresses in it.
pub fn directory(services: &[Service]) -> (Directory, Vec<Arc<[u16]>>) {
    let mut on: BTreeMap<Prefix, Vec<ServiceId>> = BTreeMap::new();
    for (i, service) in services.iter().enumerate() {
        service.addresses().into_iter().for_each(|prefix| on.entry(prefix).or_default().push(i as ServiceId));
    }
    // Where the same services are, everything is the same: of thousands of prefixes, most have one `Address`.
    let (mut ids, mut addresses) = (HashMap::<&[ServiceId], u16>::new(), Vec::new());
    let mut of_service = vec![BTreeSet::new(); services.len()];
    let (mut v4, mut v6, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ports_v4, mut ports_v6) = (Vec::new(), Vec::new());
    for (prefix, sharing) in &on {
        let id = *ids.entry(sharing).or_insert_with(|| {
            let id = addresses.len() as u16;
            addresses.push(address(services, sharing, id));
            id
        });
        let mark = if prefix.is_host() { EVERYTHING } else { prefix_mark(prefix.length) };
        for service in sharing {
            of_service[*service as usize].insert(id);
        }
        let keys = || sharing.iter().flat_map(|service| keys(&services[*service as usize], *service));
        match prefix.address {
            IpAddr::V4(it) => {
                ports_v4.extend(keys().map(|(port, value)| (port_key_v4(it.octets(), port | mark), value)))
            }
            IpAddr::V6(it) => {
                let number = u128::from_le_bytes(it.octets());
                ports_v6.extend(keys().map(|(port, value)| ((number, port | mark), value)))
            }
        }
        match prefix.address {
            _ if !prefix.is_host() => {
                let listed = keys().find(|(port, _)| *port != EVERYTHING);
                prefixes.push((*prefix, id, listed.unwrap_or_default()));
            }
            IpAddr::V4(address) => v4.push((address.to_bits(), id.into())),
            IpAddr::V6(address) => v6.push((address.to_bits(), id.into())),
        }
    }
    let directory = Directory {
        hosts_v4: BloomFilter::new(v4.iter().map(|(address, _)| *address)),
        hosts_v6: BloomFilter::new(v6.iter().map(|(address, _)| *address)),
        v4: Index::new(v4),
        v6: Index::new(v6),
        prefixes: Prefixes::new(&prefixes),
        addresses: addresses.into(),
        ports_v4: Index::new(ports_v4),
        ports_v6: Index::new(ports_v6),
    };
    (directory, of_service.into_iter().map(|ids| ids.into_iter().collect()).collect())
}

/// What the services that share a cluster address or prefix make of it.
fn address(services: &[Service], sharing: &[ServiceId], id: u16) -> Address {
    let ports = |id: &ServiceId| &services[*id as usize].ports;
    let any = sharing.iter().rev().copied().find(|id| ports(id).is_empty());
    let with = |transport| sharing.iter().copied().find(|id| ports(id).iter().any(|port| port.transport == transport));
    let by_transport = Transport::ALL.map(|transport| with(transport).or(any).unwrap_or(NO_SERVICE));
    Address { id, any: any.unwrap_or(NO_SERVICE), default: any.unwrap_or(sharing[0]), by_transport }
}

/// The port keys of a service, and what stands behind them. Of QUIC it is not the source alone that decides.
fn keys(service: &Service, id: ServiceId) -> impl Iterator<Item = (u32, u32)> {
    let plain = service.hash == HashInput::Source && service.selection == Selection::Maglev;
    let value = move |plain: bool| u32::from(id) | if plain { PLAIN } else { 0 };
    let is_quic = |transport| transport == Transport::Udp && !service.quic.is_empty();
    let everything = service.ports.is_empty().then_some((EVERYTHING, value(plain)));
    let ports = service.ports.iter().map(move |port| {
        let key = port_key(port.transport.protocol(), port.number.to_be_bytes());
        (key, value(plain && !is_quic(port.transport)))
    });
    ports.chain(everything)
}
