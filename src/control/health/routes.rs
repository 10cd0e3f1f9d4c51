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
use super::route::{self, Loss, Number, ProbeRoute};
use super::strays;
use crate::limits::HEALTH_PATHS;
use crate::model::{Health, Mac, Plan, Via};
use crate::netlink::links::{self, Links};
use crate::netlink::{self, Notifications, Overrun, REQUESTS};

const WATCHED: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

pub(super) struct ProbeRoutes {
    interface: String,
    index: u32,
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
    /// By the server's primary address.
    entries: HashMap<IpAddr, Entry>,
    /// What has been installed, or begun to be, and must be removed.
    present: HashMap<Number, ProbeRoute>,
    /// The cluster addresses that what strays has no route to.
    blocked: BTreeSet<IpAddr>,
}

struct Entry {
    number: Number,
    device: u32,
    clusters: BTreeSet<IpAddr>,
    /// `None`: not resolved.
    mac: Option<Mac>,
    installed: bool,
    /// How often it was lost: what was begun before the last time counts for nothing.
    losses: u64,
}

impl Entry {
    fn lose(&mut self) {
        self.installed = false;
        self.losses += 1;
    }
}

/// How a probe reaches its server.
#[derive(Default)]
pub(super) struct Access {
    /// `None`: by the ordinary routes.
    pub mark: Option<u32>,
    /// What must be done first.
    pub installation: Option<Installation>,
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
    pub async fn open(interface: &str) -> Result<ProbeRoutes, Error> {
        let failed = |task| move |source| Error::Netlink { interface: interface.to_owned(), task, source };
        let notifications = Notifications::open(&WATCHED).map_err(failed("open a socket for notifications"))?;
        let requests = netlink::requests().map_err(failed("open a socket"))?;
        let links = Links::new(links::all(&requests).await.map_err(failed("list links"))?);
        let index = links.find(interface).ok_or_else(|| Error::NoInterface { interface: interface.to_owned() })?;
        let taken = route::sweep(&requests, |device| links.leads_to(device, index))
            .await
            .map_err(failed("remove what a dispatcher that was killed has left"))?;
        Ok(ProbeRoutes {
            interface: interface.to_owned(),
            index,
            links,
            requests,
            notifications,
            links_missed: false,
            deaf: false,
            turnstile: Arc::new(Semaphore::new(REQUESTS)),
            taken,
            entries: HashMap::new(),
            present: HashMap::new(),
            blocked: BTreeSet::new(),
        })
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Of the interface.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether the interface is administratively up, with carrier, as far as was told.
    pub fn link_is_up(&self) -> bool {
        self.links.get(self.index).is_some_and(|link| link.up)
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
                "{interface}: changes of the kernel's tables are not heard of any more: {error}; restart oneip"
            );
        }
        self.deaf = true;
        self.lose(Loss::All).into_iter().collect()
    }

    /// A device that goes down takes its routes along, which IPv4 tells nobody (`fib_sync_down_dev`, net/ipv4/fib_semantics.c).
    fn link_changed(&mut self, device: u32) -> Option<Told> {
        self.entries.values_mut().filter(|entry| entry.device == device).for_each(Entry::lose);
        (device == self.index).then_some(Told::Link)
    }

    fn lose(&mut self, loss: Loss) -> Option<Told> {
        let mut any = false;
        for entry in self.entries.values_mut().filter(|entry| entry.installed && loss.concerns(entry.number, entry.mac))
        {
            entry.lose();
            any = true;
        }
        any.then_some(Told::Lost)
    }

    /// Whether the route to a server is known to be in place.
    pub fn is_in_place(&self, server: IpAddr) -> bool {
        self.entries.get(&server).is_some_and(|entry| entry.installed)
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

        let clusters = wanted.values().flat_map(|(clusters, _)| clusters.iter().copied()).collect();
        self.block(clusters).await?;
        let mut before = std::mem::take(&mut self.entries);
        let kept: BTreeSet<Number> =
            wanted.keys().filter_map(|server| before.get(server)).map(|entry| entry.number).collect();
        let mut free = Number::all().filter(|number| !kept.contains(number) && !self.taken.contains(number));
        let mut stale = Vec::new();
        for (server, (clusters, mac)) in wanted {
            let device = devices[&server];
            let old = before.remove(&server);
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
                self.present.insert(number, ProbeRoute { number, server, device, mac, clusters: clusters.clone() });
            }
            let losses = old.map_or(0, |old| old.losses);
            self.entries.insert(server, Entry { number, device, clusters, mac, installed: same, losses });
        }
        stale.extend(before.into_values().filter_map(|entry| self.present.remove(&entry.number)));
        self.remove(stale).await
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

    /// The MAC that the data path uses for a server from now on.
    pub fn set_mac(&mut self, server: IpAddr, mac: Option<Mac>) {
        if let Some(entry) = self.entries.get_mut(&server)
            && entry.mac != mac
        {
            entry.mac = mac;
            entry.lose();
        }
    }

    /// `None`: the server's MAC is not known.
    pub fn access(&mut self, server: IpAddr) -> Option<Access> {
        let entry = self.entries.get(&server)?;
        let (mac, mark) = (entry.mac?, Some(entry.number.mark()));
        if entry.installed {
            return Some(Access { mark, installation: None });
        }
        let route =
            ProbeRoute { number: entry.number, server, device: entry.device, mac, clusters: entry.clusters.clone() };
        self.present.insert(entry.number, route.clone());
        let (requests, turnstile) = (self.requests.clone(), Arc::clone(&self.turnstile));
        Some(Access { mark, installation: Some(Installation { route, losses: entry.losses, requests, turnstile }) })
    }

    /// It is in the tables now, unless it was lost meanwhile.
    pub fn set_installed(&mut self, Installation { route, losses, .. }: &Installation) {
        if let Some(entry) = self.entries.get_mut(&route.server) {
            entry.installed = !self.deaf && entry.losses == *losses && entry.clusters == route.clusters;
        }
    }

    /// The route to a server may have been lost.
    pub fn doubt(&mut self, server: IpAddr) {
        self.entries.get_mut(&server).into_iter().for_each(Entry::lose);
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

    /// The device through which each server is reached: the one of its route if that is the interface or a VLAN on it.
    async fn devices(&self, servers: impl Iterator<Item = IpAddr>) -> Result<HashMap<IpAddr, u32>, Error> {
        let look = |server| async move {
            let path = netlink::path(&self.requests, server, None).await?;
            let straight = path.filter(|path| path.gateway.is_none()).map(|path| path.device);
            let device = straight.filter(|device| self.links.leads_to(*device, self.index)).unwrap_or(self.index);
            Ok((server, device))
        };
        let found = stream::iter(servers.map(look)).buffer_unordered(REQUESTS).try_collect().await;
        found.map_err(|source| self.failed("look up routes to servers", source))
    }

    /// Refuses where the kernel would drop what servers answer, because packets from the cluster address should not come
    /// in where they do (`fib_validate_source`, net/ipv4/fib_frontend.c). IPv6 has no such check.
    async fn check_reverse_path(&self, wanted: &Wanted, devices: &HashMap<IpAddr, u32>) -> Result<(), Error> {
        let pairs = wanted.iter().flat_map(|(server, (clusters, _))| clusters.iter().map(|c| (*c, devices[server])));
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

/// By the server's primary address: its cluster addresses, and its MAC if that is configured.
type Wanted = BTreeMap<IpAddr, (BTreeSet<IpAddr>, Option<Mac>)>;

fn wanted(plan: &Plan) -> Wanted {
    let mut wanted = Wanted::new();
    for service in &plan.services {
        if !matches!(service.health, Some(Health { via: Via::Service, .. })) {
            continue;
        }
        for server in &service.servers {
            let (clusters, mac) = wanted.entry(server.address).or_default();
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
