//! The ways to the servers that are checked through the cluster address: which number each has, and what becomes of it as
//! the configuration and the MACs change. What a way is made of, `kernel` says.
//!
//! A way is laid by the first probe that needs it, and again after failures: an interface that was down, or got another
//! MAC, has lost it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use rtnetlink::Handle;
use tokio::sync::Semaphore;

use super::change::Error;
use super::kernel::{self, Number, Way};
use crate::control::neighbours::links::{self, Links};
use crate::control::netlink::{self, REQUESTS};
use crate::limits::HEALTH_PATHS;
use crate::plan::{Health, Mac, Plan, Via};

pub(super) struct Paths {
    interface: String,
    index: u32,
    links: Links,
    requests: Handle,
    /// Bounds the requests under way.
    turnstile: Arc<Semaphore>,
    /// What another dispatcher of this host uses.
    taken: BTreeSet<Number>,
    /// By the server's primary address.
    paths: HashMap<IpAddr, Path>,
    /// What has been laid, or begun to be, and must be taken up.
    down: HashMap<Number, Way>,
}

struct Path {
    number: Number,
    device: u32,
    clusters: BTreeSet<IpAddr>,
    /// `None`: not resolved.
    mac: Option<Mac>,
    laid: bool,
}

/// How a probe reaches its server.
#[derive(Default)]
pub(super) struct Pass {
    /// `None`: the ordinary way.
    pub mark: Option<u32>,
    /// What must be laid first.
    pub work: Option<Work>,
}

pub(super) struct Work {
    pub way: Way,
    requests: Handle,
    turnstile: Arc<Semaphore>,
}

impl Work {
    pub async fn run(&self) -> io::Result<()> {
        let _permit = self.turnstile.acquire().await.map_err(io::Error::other)?;
        kernel::lay(&self.requests, &self.way).await
    }
}

impl Paths {
    /// Also sweeps what a process that was killed has left.
    pub async fn open(interface: &str) -> Result<Paths, Error> {
        let failed = |task| move |source| Error::Netlink { interface: interface.to_owned(), task, source };
        let requests = netlink::requests().map_err(failed("open a socket"))?;
        let links = Links::new(links::all(&requests).await.map_err(failed("list links"))?);
        let index = links.find(interface).ok_or_else(|| Error::NoInterface { interface: interface.to_owned() })?;
        let taken = kernel::sweep(&requests, |device| links.leads_to(device, index))
            .await
            .map_err(failed("remove what a dispatcher that was killed has left"))?;
        Ok(Paths {
            interface: interface.to_owned(),
            index,
            links,
            requests,
            turnstile: Arc::new(Semaphore::new(REQUESTS)),
            taken,
            paths: HashMap::new(),
            down: HashMap::new(),
        })
    }

    /// Of the interface.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Has a way for each server that the plan checks through the cluster address, and for no other.
    pub async fn watch(&mut self, plan: &Plan) -> Result<(), Error> {
        let wanted = wanted(plan);
        if wanted.len() + self.taken.len() > HEALTH_PATHS {
            return Err(Error::TooMany { count: wanted.len(), most: HEALTH_PATHS - self.taken.len() });
        }
        let all = links::all(&self.requests).await.map_err(|source| self.failed("list links", source))?;
        self.links = Links::new(all);
        let devices = self.devices(wanted.keys().copied()).await?;
        self.check_reverse_path(&wanted, &devices).await?;

        let mut before = std::mem::take(&mut self.paths);
        let kept: BTreeSet<Number> =
            wanted.keys().filter_map(|server| before.get(server)).map(|path| path.number).collect();
        let mut free = Number::all().filter(|number| !kept.contains(number) && !self.taken.contains(number));
        let mut stale = Vec::new();
        for (server, (clusters, mac)) in wanted {
            let device = devices[&server];
            let old = before.remove(&server);
            let number = match &old {
                Some(old) => old.number,
                None => free.next().expect("no more ways than numbers"),
            };
            let mac = mac.or(old.as_ref().and_then(|old| old.mac));
            let same =
                old.is_some_and(|old| old.laid && old.device == device && old.clusters == clusters && old.mac == mac);
            stale.extend(self.down.remove(&number).filter(|_| !same));
            if same && let Some(mac) = mac {
                self.down.insert(number, Way { number, server, device, mac, clusters: clusters.clone() });
            }
            self.paths.insert(server, Path { number, device, clusters, mac, laid: same });
        }
        stale.extend(before.into_values().filter_map(|path| self.down.remove(&path.number)));
        self.take_up(stale).await
    }

    /// The MAC that the data path uses for a server from now on.
    pub fn set_mac(&mut self, server: IpAddr, mac: Option<Mac>) {
        if let Some(path) = self.paths.get_mut(&server)
            && path.mac != mac
        {
            path.mac = mac;
            path.laid = false;
        }
    }

    /// `None`: the server's MAC is not known.
    pub fn pass(&mut self, server: IpAddr) -> Option<Pass> {
        let path = self.paths.get(&server)?;
        let (mac, mark) = (path.mac?, Some(path.number.mark()));
        if path.laid {
            return Some(Pass { mark, work: None });
        }
        let way = Way { number: path.number, server, device: path.device, mac, clusters: path.clusters.clone() };
        self.down.insert(path.number, way.clone());
        let (requests, turnstile) = (self.requests.clone(), Arc::clone(&self.turnstile));
        Some(Pass { mark, work: Some(Work { way, requests, turnstile }) })
    }

    /// A way is in the tables now.
    pub fn set_laid(&mut self, way: &Way) {
        if let Some(path) = self.paths.get_mut(&way.server) {
            path.laid = path.mac == Some(way.mac) && path.clusters == way.clusters;
        }
    }

    /// The way may have been lost.
    pub fn doubt(&mut self, server: IpAddr) {
        if let Some(path) = self.paths.get_mut(&server) {
            path.laid = false;
        }
    }

    /// Takes everything up.
    pub async fn close(mut self) -> Result<(), Error> {
        let all = std::mem::take(&mut self.down).into_values().collect();
        self.take_up(all).await?;
        kernel::close(&self.requests).await.map_err(|source| self.failed("remove rules", source))
    }

    async fn take_up(&self, ways: Vec<Way>) -> Result<(), Error> {
        let work = ways.into_iter().map(|way| async move { kernel::take_up(&self.requests, &way).await });
        let done = stream::iter(work).buffer_unordered(REQUESTS).try_collect().await;
        done.map_err(|source| self.failed("remove routes and rules", source))
    }

    /// The device through which each server is reached: the one of its route if that is the interface or a VLAN on it.
    async fn devices(&self, servers: impl Iterator<Item = IpAddr>) -> Result<HashMap<IpAddr, u32>, Error> {
        let look = |server| async move {
            let course = kernel::course(&self.requests, server).await?;
            let straight = course.filter(|course| course.straight).map(|course| course.device);
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
            let course = kernel::course(&self.requests, cluster).await;
            let course = course.map_err(|source| self.failed("look up the route to a cluster address", source))?;
            let expected = course.map(|course| course.device);
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
