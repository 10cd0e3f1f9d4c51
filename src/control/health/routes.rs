//! The probe routes to the servers that are checked through the cluster address: which number each has, and what becomes of it
//! as the configuration, the MACs and the kernel's tables change. What a probe route is made of, `route` says.
//!
//! A probe route is installed by the first probe that needs it, and again when it was lost: by a network manager's hand, with
//! an interface that was down or got another MAC. Notifications tell of a loss, and they are read before each probe is sent:
//! a probe whose route is not in place is not sent.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::Semaphore;

use super::change::Error;
use super::probe::{Failure, Trouble};
use super::route::{self, Loss, Number, ProbeRoute};
use super::strays;
use crate::limits::HEALTH_PATHS;
use crate::model::{Deliver, Health, Mac, Plan, Via};
use crate::netlink::links::{self, Links};
use crate::netlink::{self, Notifications, Overrun, REQUESTS};
use crate::table::{TunnelEnd, Way};
use crate::xdp::probes::{Probes, ProbesError};

const WATCHED: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

pub(super) struct ProbeRoutes {
    /// For messages: the interfaces' names.
    interface: String,
    indices: Vec<u32>,
    links: Links,
    requests: Handle,
    notifications: Notifications,
    /// Notifications were lost, and with them perhaps what they said of links.
    links_missed: bool,
    /// There are no more notifications.
    deaf: bool,
    /// Bounds the requests under way.
    turnstile: Arc<Semaphore>,
    /// What another dispatcher of this host uses.
    taken: BTreeSet<Number>,
    /// Where tunnels begin.
    end: TunnelEnd,
    /// What puts probes into them. Loaded at the start, while the process still may; if it cannot be, that is an error only when it is needed.
    probes: Result<Probes, ProbesError>,
    entries: BTreeMap<Peer, Entry>,
    /// What has been installed, or begun to be, and must be removed.
    present: HashMap<Number, ProbeRoute>,
    /// The cluster addresses that what strays has no route to.
    blocked: BTreeSet<IpAddr>,
}

/// A server's primary address, and how packets come to it. Services may reach one server in several ways.
type Peer = (IpAddr, Deliver);

struct Entry {
    number: Number,
    device: u32,
    clusters: BTreeSet<IpAddr>,
    /// `None`: not resolved.
    mac: Option<Mac>,
    installed: bool,
    /// How often it was lost: what was begun to be installed before the last time is not in place.
    losses: u64,
    /// How often the kernel has told so: a probe that was under way may have gone elsewhere.
    strayed: u64,
}

impl Entry {
    fn lose(&mut self) {
        self.installed = false;
        self.losses += 1;
    }

    fn stray(&mut self) {
        self.lose();
        self.strayed += 1;
    }
}

/// How a probe reaches its server.
#[derive(Default)]
pub(super) struct Access {
    /// `None`: by the ordinary routes.
    pub mark: Option<u32>,
    /// What must be done first.
    pub installation: Option<Installation>,
    pub passage: Option<Passage>,
    pub trip: Option<Trip>,
}

/// A probe that is under way by its probe route.
pub(super) struct Trip {
    peer: Peer,
    strayed: u64,
}

/// What a probe has to pass on its way out: the program that puts it into the tunnel.
pub(super) struct Passage {
    key: u32,
    device: u32,
    /// What had left so before.
    sent: u64,
}

pub(super) struct Installation {
    pub route: ProbeRoute,
    losses: u64,
    requests: Handle,
    turnstile: Arc<Semaphore>,
}

impl Installation {
    pub async fn run(&self) -> io::Result<()> {
        let _permit = self.turnstile.acquire().await.map_err(io::Error::other)?;
        route::install(&self.requests, &self.route).await
    }
}

/// What the kernel has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Probe routes were lost.
    Lost,
    /// The link of the interface came or went.
    Link,
}

impl ProbeRoutes {
    /// Also removes what a process that was killed has left.
    pub async fn open(names: &[String], end: TunnelEnd) -> Result<ProbeRoutes, Error> {
        let interface = names.join(" or ");
        let failed = |task| {
            let interface = interface.clone();
            move |source| Error::Netlink { interface, task, source }
        };
        let notifications = Notifications::open(&WATCHED).map_err(failed("open a socket for notifications"))?;
        let requests = netlink::requests().map_err(failed("open a socket"))?;
        let links = Links::new(links::all(&requests).await.map_err(failed("list links"))?);
        let mut indices = Vec::with_capacity(names.len());
        for name in names {
            indices.push(links.find(name).ok_or_else(|| Error::NoInterface { interface: name.clone() })?);
        }
        let taken = route::sweep(&requests, |device| links.leads_to_one(device, &indices).is_some())
            .await
            .map_err(failed("remove what a dispatcher that was killed has left"))?;
        Ok(ProbeRoutes {
            interface,
            indices,
            links,
            requests,
            notifications,
            links_missed: false,
            deaf: false,
            turnstile: Arc::new(Semaphore::new(REQUESTS)),
            taken,
            end,
            probes: Probes::load(),
            entries: BTreeMap::new(),
            present: HashMap::new(),
            blocked: BTreeSet::new(),
        })
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Of the first interface.
    pub fn index(&self) -> u32 {
        self.indices[0]
    }

    /// Whether each interface is administratively up, with carrier, as far as was told.
    pub fn link_is_up(&self) -> bool {
        self.indices.iter().all(|index| self.links.get(*index).is_some_and(|link| link.up))
    }

    /// Takes in everything that the kernel has to tell at this moment. What of it matters.
    pub fn hear(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        while !self.deaf
            && let Some(notified) = self.notifications.poll().transpose()
        {
            match notified {
                Ok(notified) => told.extend(self.take_in(notified)),
                Err(error) => return self.fall_back(&error),
            }
        }
        told
    }

    /// Waits for something that matters. Cancel-safe.
    pub async fn told(&mut self) -> Vec<Told> {
        loop {
            if self.links_missed
                && let Ok(links) = links::all(&self.requests).await
            {
                self.links = Links::new(links);
                self.links_missed = false;
                return vec![Told::Link];
            }
            if self.deaf {
                return std::future::pending().await;
            }
            let told = match self.notifications.receive().await {
                Ok(notified) => self.take_in(notified),
                Err(error) => self.fall_back(&error),
            };
            if !told.is_empty() {
                return told;
            }
        }
    }

    fn take_in(&mut self, notified: Result<Vec<RouteNetlinkMessage>, Overrun>) -> Vec<Told> {
        let Ok(messages) = notified else {
            // Anything may have happened.
            self.links_missed = true;
            return self.lose(Loss::All).into_iter().collect();
        };
        let mut told = Vec::new();
        for message in messages {
            told.extend(Loss::of(&message).and_then(|loss| self.lose(loss)));
            match &message {
                RouteNetlinkMessage::NewLink(message) => {
                    let Some((index, link)) = links::read(message) else { continue };
                    let changed = self.links.get(index).is_none_or(|before| before.up != link.up);
                    self.links.set(index, link);
                    told.extend(changed.then(|| self.link_changed(index)).flatten());
                }
                RouteNetlinkMessage::DelLink(message) => {
                    let Some((index, _)) = links::read(message) else { continue };
                    self.links.remove(index);
                    told.extend(self.link_changed(index));
                }
                _ => {}
            }
        }
        told
    }

    /// Without notifications no probe route is taken to be in place: each probe asks the kernel.
    fn fall_back(&mut self, error: &io::Error) -> Vec<Told> {
        if !self.deaf {
            let interface = &self.interface;
            tracing::error!(
                "{interface}: notifications from the kernel (rtnetlink) have failed: {error}; restart oneip"
            );
        }
        self.deaf = true;
        self.lose(Loss::All).into_iter().collect()
    }

    /// A device that goes down takes its routes along, which IPv4 tells nobody (`fib_sync_down_dev`, net/ipv4/fib_semantics.c).
    fn link_changed(&mut self, device: u32) -> Option<Told> {
        self.entries.values_mut().filter(|entry| entry.device == device).for_each(Entry::stray);
        self.indices.contains(&device).then_some(Told::Link)
    }

    fn lose(&mut self, loss: Loss) -> Option<Told> {
        let mut any = false;
        let lost = |entry: &&mut Entry| loss.concerns(entry.number, entry.mac, &entry.clusters);
        for entry in self.entries.values_mut().filter(lost) {
            any |= entry.installed;
            entry.stray();
        }
        any.then_some(Told::Lost)
    }

    /// Whether the route to a server is known to be in place.
    pub fn is_in_place(&self, server: IpAddr, deliver: Deliver) -> bool {
        self.entries.get(&(server, deliver)).is_some_and(|entry| entry.installed)
    }

    /// Has a probe route for each server that the plan checks through the cluster address, and for no other.
    pub async fn watch(&mut self, plan: &Plan) -> Result<(), Error> {
        let wanted = wanted(plan);
        if wanted.len() + self.taken.len() > HEALTH_PATHS {
            return Err(Error::TooMany { count: wanted.len(), most: HEALTH_PATHS - self.taken.len() });
        }
        let all = links::all(&self.requests).await.map_err(|source| self.failed("list links", source))?;
        self.links = Links::new(all);
        let devices = self.devices(wanted.keys().copied()).await?;
        self.check_reverse_path(&wanted, &devices).await?;
        self.prepare_tunnels(&wanted, &devices)?;

        let clusters = wanted.values().flat_map(|(clusters, _)| clusters.iter().copied()).collect();
        self.block(clusters).await?;
        let mut before = std::mem::take(&mut self.entries);
        let kept: BTreeSet<Number> =
            wanted.keys().filter_map(|peer| before.get(peer)).map(|entry| entry.number).collect();
        let mut free = Number::all().filter(|number| !kept.contains(number) && !self.taken.contains(number));
        let mut stale = Vec::new();
        for (peer, (clusters, mac)) in wanted {
            let device = devices[&peer];
            let old = before.remove(&peer);
            let number = match &old {
                Some(old) => old.number,
                None => free.next().expect("no more probe routes than numbers"),
            };
            let mac = mac.or(old.as_ref().and_then(|old| old.mac));
            let same = old
                .as_ref()
                .is_some_and(|old| old.installed && old.device == device && old.clusters == clusters && old.mac == mac);
            stale.extend(self.present.remove(&number).filter(|_| !same));
            if same && let Some(mac) = mac {
                let route = self.probe_route(peer, number, device, mac, clusters.clone());
                self.present.insert(number, route);
            }
            let (losses, strayed) = old.map_or((0, 0), |old| (old.losses, old.strayed));
            self.entries.insert(peer, Entry { number, device, clusters, mac, installed: same, losses, strayed });
        }
        for gone in before.into_values() {
            stale.extend(self.present.remove(&gone.number));
            if let Ok(probes) = &mut self.probes {
                for ipv4 in [true, false] {
                    _ = probes.set(gone.number.key(ipv4), None);
                }
            }
        }
        self.remove(stale).await
    }

    /// Has the program that puts probes into tunnels be where they leave.
    fn prepare_tunnels(&mut self, wanted: &Wanted, devices: &BTreeMap<Peer, u32>) -> Result<(), Error> {
        for (peer, (clusters, _)) in wanted.iter().filter(|((_, deliver), _)| deliver.is_routed()) {
            let (server, deliver) = *peer;
            let closed = |cluster: &IpAddr| Way::new(deliver, *cluster, server, &self.end) == Way::Closed;
            if clusters.iter().any(closed) {
                return Err(Error::NoSource { server });
            }
            let interface = self.links.name(devices[peer]);
            let done = match &mut self.probes {
                Ok(probes) => probes.attach(&interface).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            done.map_err(|reason| Error::NoTunnel { reason })?;
        }
        Ok(())
    }

    /// Has probes of that number leave as clients' packets do.
    fn set_ways(
        &mut self,
        (server, deliver): Peer,
        number: Number,
        clusters: &BTreeSet<IpAddr>,
    ) -> Result<(), ProbesError> {
        let Ok(probes) = &mut self.probes else { return Ok(()) };
        for ipv4 in [true, false] {
            let cluster = clusters.iter().find(|cluster| cluster.is_ipv4() == ipv4).filter(|_| deliver.is_routed());
            let way = cluster.map(|cluster| Way::new(deliver, *cluster, server, &self.end));
            probes.set(number.key(ipv4), way.as_ref())?;
        }
        Ok(())
    }

    /// The addresses of this host.
    pub async fn own_addresses(&self) -> Result<HashSet<IpAddr>, Error> {
        let answers = self.requests.address().get().execute().map_err(netlink::to_io);
        let of = |message: AddressMessage| {
            message.attributes.into_iter().filter_map(|attribute| match attribute {
                AddressAttribute::Address(address) | AddressAttribute::Local(address) => Some(address),
                _ => None,
            })
        };
        let all: Vec<AddressMessage> =
            answers.try_collect().await.map_err(|source| self.failed("list addresses", source))?;
        Ok(all.into_iter().flat_map(of).collect())
    }

    /// Those of one server.
    fn entries_of(&mut self, server: IpAddr) -> impl Iterator<Item = &mut Entry> {
        // The first and the last in order.
        let all = (server, Deliver::L2)..=(server, Deliver::L3dsr { dscp: u8::MAX });
        self.entries.range_mut(all).map(|(_, entry)| entry)
    }

    /// The MAC that the data path uses for a server from now on.
    pub fn set_mac(&mut self, server: IpAddr, mac: Option<Mac>) {
        for entry in self.entries_of(server).filter(|entry| entry.mac != mac) {
            entry.mac = mac;
            entry.lose();
        }
    }

    /// For a probe over IPv4 or over IPv6.
    pub fn access(&mut self, server: IpAddr, deliver: Deliver, ipv4: bool) -> Result<Access, Trouble> {
        let unresolved = || Trouble::Server(Failure::Unresolved);
        let entry = self.entries.get(&(server, deliver)).ok_or_else(unresolved)?;
        let (number, device, mac) = (entry.number, entry.device, entry.mac.ok_or_else(unresolved)?);
        let (mark, losses, strayed) = (Some(number.mark()), entry.losses, entry.strayed);
        let (clusters, installed) = (entry.clusters.clone(), entry.installed);
        let mut installation = None;
        if !installed {
            self.set_ways((server, deliver), number, &clusters).map_err(|error| Trouble::Here(error.to_string()))?;
            let route = self.probe_route((server, deliver), number, device, mac, clusters);
            self.present.insert(number, route.clone());
            let (requests, turnstile) = (self.requests.clone(), Arc::clone(&self.turnstile));
            installation = Some(Installation { route, losses, requests, turnstile });
        }
        let passage = match &self.probes {
            Ok(probes) if deliver.is_routed() => {
                let key = number.key(ipv4);
                Some(Passage { key, device, sent: probes.sent(key) })
            }
            _ => None,
        };
        let trip = Some(Trip { peer: (server, deliver), strayed });
        Ok(Access { mark, installation, passage, trip })
    }

    fn probe_route(
        &self,
        (server, deliver): Peer,
        number: Number,
        device: u32,
        mac: Mac,
        clusters: BTreeSet<IpAddr>,
    ) -> ProbeRoute {
        let mtu = clusters.first().and_then(|cluster| match Way::new(deliver, *cluster, server, &self.end) {
            Way::Tunnel(template) => Some(template.inner_mtu(self.end.mtu as usize) as u32),
            Way::Direct | Way::Readdressed(_) | Way::Closed => None,
        });
        ProbeRoute { number, server, deliver, device, mac, mtu, clusters }
    }

    /// Why a probe that had to pass has not, if so. Then the program is put back.
    pub fn not_passed(&mut self, passage: &Passage) -> Option<String> {
        let name = self.links.name(passage.device);
        let probes = self.probes.as_mut().ok()?;
        if probes.sent(passage.key) != passage.sent {
            return None;
        }
        let done = match probes.attach_again(&name) {
            Ok(()) => "it is attached there again".to_owned(),
            Err(error) => error.to_string(),
        };
        Some(format!(
            "its probe left {name} outside of the tunnel: somebody has detached the program that puts probes into it \
             ({done}), or a firewall rule changes the mark of outgoing packets"
        ))
    }

    /// Whether a probe may have gone elsewhere, as far as the kernel has told.
    pub fn is_astray(&self, trip: &Trip) -> bool {
        self.entries.get(&trip.peer).is_some_and(|entry| entry.strayed != trip.strayed)
    }

    /// It is in the tables now, unless it was lost meanwhile.
    pub fn set_installed(&mut self, Installation { route, losses, .. }: &Installation) {
        if let Some(entry) = self.entries.get_mut(&(route.server, route.deliver)) {
            entry.installed = !self.deaf && entry.losses == *losses && entry.clusters == route.clusters;
        }
    }

    /// The routes to a server may have been lost.
    pub fn doubt(&mut self, server: IpAddr) {
        self.entries_of(server).for_each(Entry::lose);
    }

    /// Removes everything.
    pub async fn close(mut self) -> Result<(), Error> {
        let all = std::mem::take(&mut self.present).into_values().collect();
        self.remove(all).await?;
        self.block(BTreeSet::new()).await?;
        route::remove_unused_rules(&self.requests).await.map_err(|source| self.failed("remove rules", source))
    }

    /// Leaves what strays no route to these cluster addresses, and has it again to others.
    async fn block(&mut self, clusters: BTreeSet<IpAddr>) -> Result<(), Error> {
        for gone in self.blocked.difference(&clusters) {
            let done = strays::unblock(&self.requests, *gone).await;
            done.map_err(|source| self.failed("remove routes", source))?;
        }
        for new in clusters.difference(&self.blocked) {
            let done = strays::block(&self.requests, *new).await;
            done.map_err(|source| self.failed("add routes", source))?;
        }
        self.blocked = clusters;
        Ok(())
    }

    async fn remove(&self, routes: Vec<ProbeRoute>) -> Result<(), Error> {
        let work = routes.into_iter().map(|route| async move { route::remove(&self.requests, &route).await });
        let done = stream::iter(work).buffer_unordered(REQUESTS).try_collect().await;
        done.map_err(|source| self.failed("remove routes and rules", source))
    }

    /// The device through which each server is reached: the one of its route if that is an interface of the dispatcher's or a VLAN on it.
    async fn devices(&self, peers: impl Iterator<Item = Peer>) -> Result<BTreeMap<Peer, u32>, Error> {
        let look = |(server, deliver): Peer| async move {
            let path = netlink::path(&self.requests, server, None).await?;
            let leads = path.filter(|path| deliver.is_routed() || path.gateway.is_none()).map(|path| path.device);
            let leads = leads.filter(|device| self.links.leads_to_one(*device, &self.indices).is_some());
            let device = leads.unwrap_or(self.indices[0]);
            Ok(((server, deliver), device))
        };
        let found = stream::iter(peers.map(look)).buffer_unordered(REQUESTS).try_collect().await;
        found.map_err(|source| self.failed("look up routes to servers", source))
    }

    /// Refuses where the kernel would drop what servers answer, because packets from the cluster address should not come
    /// in where they do (`fib_validate_source`, net/ipv4/fib_frontend.c). IPv6 has no such check.
    async fn check_reverse_path(&self, wanted: &Wanted, devices: &BTreeMap<Peer, u32>) -> Result<(), Error> {
        let pairs = wanted.iter().flat_map(|(peer, (clusters, _))| clusters.iter().map(|c| (*c, devices[peer])));
        for (cluster, device) in pairs.filter(|(cluster, _)| cluster.is_ipv4()).collect::<BTreeSet<_>>() {
            let name = self.links.name(device);
            let strictness = rp_filter("all").max(rp_filter(&name));
            if strictness == 0 {
                continue;
            }
            let path = netlink::path(&self.requests, cluster, None).await;
            let path = path.map_err(|source| self.failed("look up the route to a cluster address", source))?;
            let expected = path.map(|path| path.device);
            if expected.is_none() || (strictness == 1 && expected != Some(device)) {
                let routed = expected.map(|device| self.links.name(device));
                return Err(Error::ReversePath { cluster, device: name, strictness, routed });
            }
        }
        Ok(())
    }

    fn failed(&self, task: &'static str, source: io::Error) -> Error {
        Error::Netlink { interface: self.interface.clone(), task, source }
    }
}

/// The cluster addresses of each, and its MAC if that is configured.
type Wanted = BTreeMap<Peer, (BTreeSet<IpAddr>, Option<Mac>)>;

fn wanted(plan: &Plan) -> Wanted {
    let mut wanted = Wanted::new();
    for service in &plan.services {
        if !matches!(service.health, Some(Health { via: Via::Service, .. })) {
            continue;
        }
        for server in &service.servers {
            let (clusters, mac) = wanted.entry((server.address, service.deliver)).or_default();
            clusters.insert(service.address);
            *mac = mac.or(server.mac);
        }
    }
    wanted
}

/// 0 off, 1 strict, 2 loose; the kernel goes by the greater one of the interface's own value and that of `all`.
fn rp_filter(interface: &str) -> u32 {
    let value = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"));
    value.ok().and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
