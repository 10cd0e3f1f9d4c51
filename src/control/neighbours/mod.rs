//! Which MAC each server has: asked of the kernel's neighbour table, and followed as it changes.
//!
//! The kernel does ARP and neighbour discovery; this asks it to, over rtnetlink, and listens. Every wanted address becomes
//! a *managed* entry (`NTF_EXT_MANAGED`, Linux 5.16), which the kernel verifies and resolves again by itself; older kernels
//! are asked again every `NEIGHBOUR_REFRESH`. The entries are marked `extern_learn`, which exempts them from garbage
//! collection and from the limit of 1,024 neighbours (`net.ipv4.neigh.default.gc_thresh3`, likewise `ipv6`), so more
//! servers than that need no sysctl. Entries that the operator made permanent, or that another program maintains, are used
//! as they are. `ip -d neigh` shows ours as `managed extern_learn proto 111`.
//!
//! ```text
//! open/watch -> route: on the link? -> ask -> Resolved ... Changed ... Unconfirmed -> ask after 1, 2, 4, 8, 8, ... s
//!                                      ^ deleted, link up again, routes mended, a check failed
//! ```
//!
//! A MAC that is known stays known until there is another. The kernel's entry fails for reasons that are not the server's (this
//! host's link, its routes, a lost packet), and a server that is gone is for its checks to find out. What fails a check is doubted
//! ([`Neighbours::doubts`]): the kernel asks everybody on the link anew, so that a MAC that changed silently is found at once, not
//! when the kernel happens to verify it, half a minute later.
//!
//! Here is what is done and when; `heard` has what follows from the kernel's messages, `entry` what an event does to one
//! address, `routes` which neighbour leads to a server behind a router, `kernel` what is said over netlink.

mod change;
mod entry;
mod heard;
mod kernel;
mod routes;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

pub use self::change::{Change, Detour, Error, OffLink, What, Why};
pub use self::kernel::{Reachability, Route, Seen, Table, read, read_route, route, table};

pub use self::routes::Routes;

use self::entry::Entry;
use self::kernel::Notices;
use crate::limits::{NEIGHBOUR_DOUBTS, NEIGHBOUR_GATHER, NEIGHBOUR_REFRESH, NEIGHBOUR_ROUND, NEIGHBOURS_PER_ROUND};
use crate::model::Mac;
use crate::netlink;
use crate::netlink::links::Links;

/// Who has resolved neighbours verified again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// The kernel, by itself.
    Kernel,
    /// We, by asking it now and then.
    Ours,
}

/// Follows the MACs of a set of addresses on the links of one interface or several.
///
/// Needs `CAP_NET_ADMIN` as long as it lives, and a tokio runtime with time and I/O. Stays in the network namespace of the
/// thread that opened it. Dropped without [`Neighbours::close`], it leaves its entries to the kernel, which keeps them
/// fresh; the next `open` for that interface takes them over.
pub struct Neighbours {
    /// For messages: the interfaces' names.
    interface: String,
    names: Vec<String>,
    indices: Vec<u32>,
    upkeep: Upkeep,
    entries: HashMap<IpAddr, Entry>,
    links: Links,
    requests: rtnetlink::Handle,
    notices: Notices,
    /// Conversations with the kernel that are under way.
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Notifications were lost and the table is being, or must be, read anew.
    resync: Resync,
    /// When each entry falls due; an element that disagrees with its entry is out of date and skipped.
    agenda: BinaryHeap<Reverse<(Instant, IpAddr)>>,
    round: Round,
    /// Entries that may have something to tell.
    stirred: BTreeSet<IpAddr>,
    /// Addresses whose MAC somebody doubts.
    doubts: (mpsc::Sender<IpAddr>, mpsc::Receiver<IpAddr>),
    /// Nothing is delivered before.
    hold: Instant,
}

/// The end of a conversation.
enum Done {
    Routed(IpAddr, io::Result<Route>),
    Asked { address: IpAddr, device: u32, manage: bool, answer: io::Result<Option<Seen>> },
    Released(IpAddr, io::Result<()>),
    Listed(io::Result<Table>),
}

#[derive(PartialEq)]
enum Resync {
    No,
    Running,
    /// Overrun again while the table was read.
    Again,
}

/// Bounds the rate of questions.
struct Round {
    began: Instant,
    asked: usize,
}

impl Neighbours {
    /// Starts to resolve the addresses in `wanted`, each with a name for messages; an address given twice keeps its first
    /// name. Returns when the kernel has accepted the first questions; answers come from [`Neighbours::next`].
    pub async fn open(interface: &str, wanted: &[(String, IpAddr)]) -> Result<Neighbours, Error> {
        Neighbours::open_with(&[interface.to_owned()], wanted, Upkeep::Kernel).await
    }

    /// As [`Neighbours::open`], on the links of several interfaces; with `Upkeep::Ours` the kernel is not asked to manage entries, as if it were older than 5.16.
    pub async fn open_with(names: &[String], wanted: &[(String, IpAddr)], upkeep: Upkeep) -> Result<Neighbours, Error> {
        let interface = names.join(" or ");
        let failed = |task| {
            let interface = interface.clone();
            move |source| Error::Netlink { interface, task, source }
        };
        let notices = Notices::open().map_err(failed("open a socket for notifications"))?;
        let requests = netlink::requests().map_err(failed("open a socket for requests"))?;
        let table = kernel::table(requests.clone()).await.map_err(failed("list links and neighbours"))?;
        let links = Links::new(table.links);
        let mut indices = Vec::with_capacity(names.len());
        for name in names {
            let index = links.find(name).ok_or_else(|| Error::NoInterface { interface: name.clone() })?;
            if !links.get(index).is_some_and(|link| link.ethernet) {
                return Err(Error::NotEthernet { interface: name.clone() });
            }
            indices.push(index);
        }
        let now = Instant::now();
        let mut neighbours = Neighbours {
            interface,
            names: names.to_vec(),
            indices,
            upkeep,
            entries: HashMap::new(),
            links,
            requests,
            notices,
            running: FuturesUnordered::new(),
            resync: Resync::No,
            agenda: BinaryHeap::new(),
            round: Round { began: now, asked: 0 },
            stirred: BTreeSet::new(),
            doubts: mpsc::channel(NEIGHBOUR_DOUBTS),
            hold: now,
        };
        neighbours.watch(wanted).await?;
        neighbours.release_left_behind(&table.neighbours);
        neighbours.set_neighbours(&table.neighbours, now);
        neighbours.pace(now);
        neighbours.settle().await?;
        Ok(neighbours)
    }

    /// The servers that are not next to the dispatcher, by address. They are looked at again now and then: one whose route
    /// is mended is resolved.
    pub fn off_link(&self) -> Vec<OffLink> {
        let off = self.entries.iter().filter_map(|(address, entry)| {
            let (name, interface) = (entry.name.clone(), self.interface.clone());
            Some(OffLink { name, address: *address, interface, detour: entry.detour()?.clone() })
        });
        let mut off: Vec<_> = off.collect();
        off.sort_by_key(|server| server.address);
        off
    }

    /// The present MAC of a wanted address. May be ahead of what [`Neighbours::next`] has told.
    pub fn mac(&self, address: IpAddr) -> Option<Mac> {
        self.entries.get(&address)?.mac()
    }

    /// The interface by which a wanted address is reached, by its position; the last one that was known. `None`: none was yet.
    pub fn link(&self, address: IpAddr) -> Option<usize> {
        self.entries.get(&address)?.link()
    }

    /// Why the kernel does not know the MAC of a wanted address, and since when; `None`: it does.
    pub fn why(&self, address: IpAddr) -> Option<(&Why, Instant)> {
        self.entries.get(&address)?.why()
    }

    /// For those who notice that a server does not answer: the address they send here is verified at once, at most once a second.
    /// What finds no room need not be sent again.
    pub fn doubts(&self) -> mpsc::Sender<IpAddr> {
        self.doubts.0.clone()
    }

    fn verify(&mut self, address: IpAddr) {
        self.with(address, |entry| entry.doubt(Instant::now()));
    }

    /// Who keeps resolved neighbours fresh, as far as is known: found out with the first answer.
    pub fn upkeep(&self) -> Upkeep {
        self.upkeep
    }

    /// Waits for changes of MACs and returns all that are there, at most one an address, in the order of addresses. Never
    /// empty. Cancel-safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Vec<Change>, Error> {
        loop {
            self.drain()?;
            let now = Instant::now();
            self.pace(now);
            if now >= self.hold {
                let changes = self.tell();
                if !changes.is_empty() {
                    self.hold = now + NEIGHBOUR_GATHER;
                    return Ok(changes);
                }
            }
            let wake = self.wake(now);
            tokio::select! {
                received = self.notices.receive() => self.notice(received)?,
                Some(done) = self.running.next() => self.finish(done)?,
                Some(address) = self.doubts.1.recv() => self.verify(address),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Replaces the set of wanted addresses. Those that stay keep their MAC; for those that go, the kernel's entry is left
    /// to its ordinary fate; those that come are looked up, so that [`Neighbours::off_link`] is right on return. No changes
    /// are told of addresses that went.
    pub async fn watch(&mut self, wanted: &[(String, IpAddr)]) -> Result<(), Error> {
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.entries);
        for (name, address) in wanted {
            if self.entries.contains_key(address) {
                continue;
            }
            let mut entry = before.remove(address).unwrap_or_else(|| Entry::new(name.clone(), now));
            entry.name.clone_from(name);
            if let Some(due) = entry.due {
                self.agenda.push(Reverse((due, *address)));
            }
            self.entries.insert(*address, entry);
        }
        for (address, entry) in before {
            self.release(entry.device, address);
        }
        let unplaced = self.entries.iter().filter(|(_, entry)| entry.device.is_none()).map(|(address, _)| *address);
        let mut routes: FuturesUnordered<_> = unplaced.map(|address| self.route(address)).collect();
        while let Some((address, route)) = routes.next().await {
            self.place(address, route)?;
        }
        Ok(())
    }

    /// Hands all entries back to the kernel as ordinary ones, which it may forget.
    pub async fn close(mut self) -> Result<(), Error> {
        self.settle().await?;
        for (address, entry) in std::mem::take(&mut self.entries) {
            self.release(entry.device, address);
        }
        self.settle().await
    }
}

/// What is done.
impl Neighbours {
    /// Asks the kernel for what is due, a bounded number a round.
    fn pace(&mut self, now: Instant) {
        if now >= self.round.began + NEIGHBOUR_ROUND {
            self.round = Round { began: now, asked: 0 };
        }
        while self.round.asked < NEIGHBOURS_PER_ROUND
            && let Some((due, address)) = self.first_due()
            && due <= now
        {
            self.agenda.pop();
            self.ask(address, now);
        }
    }

    fn first_due(&mut self) -> Option<(Instant, IpAddr)> {
        while let Some(&Reverse((due, address))) = self.agenda.peek() {
            if self.entries.get(&address).is_some_and(|entry| entry.due == Some(due)) {
                return Some((due, address));
            }
            self.agenda.pop();
        }
        None
    }

    fn wake(&mut self, now: Instant) -> Instant {
        let round_over = self.round.began + NEIGHBOUR_ROUND;
        let exhausted = self.round.asked >= NEIGHBOURS_PER_ROUND;
        let next = self.first_due().map(|(due, _)| if exhausted { due.max(round_over) } else { due });
        let held = (!self.stirred.is_empty()).then_some(self.hold);
        next.into_iter().chain(held).min().unwrap_or(now + NEIGHBOUR_REFRESH)
    }

    fn ask(&mut self, address: IpAddr, now: Instant) {
        self.round.asked += 1;
        let link_down = self.entries.get(&address).and_then(|entry| entry.device).filter(|device| !self.is_up(*device));
        let busy = self.entries.get(&address).is_some_and(|entry| entry.asking);
        if let Some(device) = link_down {
            let why = Why::LinkDown { device: self.links.name(device) };
            return self.with(address, |entry| entry.cut(why, now));
        }
        self.with(address, |entry| entry.ask(now));
        if !busy {
            self.running.push(self.route(address).map(|(address, route)| Done::Routed(address, route)).boxed());
        }
    }

    fn route(&self, address: IpAddr) -> impl Future<Output = (IpAddr, io::Result<Route>)> + use<> {
        let (requests, interface) = (self.requests.clone(), self.indices[0]);
        async move { (address, kernel::route(&requests, address, interface).await) }
    }

    fn release(&mut self, device: Option<u32>, address: IpAddr) {
        let Some(device) = device else { return };
        let requests = self.requests.clone();
        self.running
            .push(async move { Done::Released(address, kernel::release(&requests, device, address).await) }.boxed());
    }

    /// Releases what a process that was killed has left on this link and nobody wants now.
    fn release_left_behind(&mut self, neighbours: &[(u32, IpAddr, Seen)]) {
        for (device, address, seen) in neighbours {
            let is_here = self.links.leads_to_one(*device, &self.indices).is_some();
            if seen.ours && !self.entries.contains_key(address) && is_here {
                self.release(Some(*device), *address);
            }
        }
    }

    fn list(&mut self) {
        self.resync = Resync::Running;
        self.running.push(kernel::table(self.requests.clone()).map(Done::Listed).boxed());
    }

    /// Until no conversation is under way.
    async fn settle(&mut self) -> Result<(), Error> {
        while let Some(done) = self.running.next().await {
            self.finish(done)?;
        }
        Ok(())
    }

    fn tell(&mut self) -> Vec<Change> {
        let stirred = std::mem::take(&mut self.stirred);
        let changes = stirred.into_iter().filter_map(|address| {
            let entry = self.entries.get_mut(&address)?;
            Some(Change { what: entry.tell()?, name: entry.name.clone(), address })
        });
        let changes: Vec<Change> = changes.collect();
        self.verify_others(&changes);
        changes
    }

    /// Of a host with several addresses the others have moved as well; and whoever had the MAC that one has now has another. By a
    /// check it may not be found: two servers that swapped their MACs answer for each other.
    fn verify_others(&mut self, changes: &[Change]) {
        let moved = changes.iter().filter_map(|change| match change.what {
            What::Changed { from, to } => Some((change.address, [from, to])),
            _ => None,
        });
        let (followed, macs): (BTreeSet<IpAddr>, Vec<[Mac; 2]>) = moved.unzip();
        let macs: HashSet<Mac> = macs.into_iter().flatten().collect();
        let others = self.addresses(|entry| entry.mac().is_some_and(|mac| macs.contains(&mac)));
        others.into_iter().filter(|address| !followed.contains(address)).for_each(|address| self.verify(address));
    }
}

/// What both need.
impl Neighbours {
    /// Changes an entry, if it is still wanted, and notes what follows from that.
    fn with(&mut self, address: IpAddr, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        let due = entry.due;
        change(entry);
        if entry.due != due
            && let Some(due) = entry.due
        {
            self.agenda.push(Reverse((due, address)));
        }
        self.stirred.insert(address);
    }

    fn addresses(&self, which: impl Fn(&Entry) -> bool) -> Vec<IpAddr> {
        self.entries.iter().filter(|(_, entry)| which(entry)).map(|(address, _)| *address).collect()
    }

    fn is_at(&self, address: IpAddr, device: u32) -> bool {
        self.entries.get(&address).is_some_and(|entry| entry.device == Some(device))
    }

    fn is_up(&self, device: u32) -> bool {
        self.links.get(device).is_some_and(|link| link.up)
    }

    fn failed(&self, task: &'static str, source: io::Error) -> Error {
        Error::Netlink { interface: self.interface.clone(), task, source }
    }

    fn not_permitted(&self, address: IpAddr) -> Error {
        Error::NotPermitted { interface: self.interface.clone(), address }
    }
}
