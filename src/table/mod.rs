//! Who owns which client: the tables that the data path reads, and how they come to be.
//!
//! `maglev` gives every slot its first choice, `rendezvous` the order behind it, `service` says who of them owns it now,
//! `moves` who keeps which connections while that changes, `cluster` holds all services and compiles a `Table` of them
//! whenever something changed, `publish` carries it to the workers. There `flow_table` remembers
//! the flows of slots that migrate; by `census` the control side learns whose they are. `quic` finds servers by connection IDs.

mod bloom_filter;
pub mod build;
pub mod census;
mod directory;
pub mod flow_table;
pub mod index;
pub mod limits;
pub mod lists;
mod next_hop;
pub mod prefixes;
pub mod publish;
pub mod quic;
pub mod ranges;
pub mod trace;
mod way;

use crate::hash::{self, Key};
use crate::model::{Egress, Tags};
use build::maglev::NOBODY;
use build::migration::Kept;
use census::Census;
pub use directory::{Address, Directory, PortService, Ports, port_key, port_key_v4};
use directory::{EVERYTHING, NO_SERVICE, PLAIN, prefix_mark};
use index::Index;
use limits::Limits;
use limits::odd::OddLimits;
use lists::Lists;
pub use next_hop::PackedNextHop;
use quic::ConnectionIds;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use trace::Watch;
pub use way::{Leaving, TunnelEnd, Way, families};

/// In a slot, beside its owner: flows of the slot may be kept by others. Whoever looks up finds this or `NOBODY` by one
/// comparison, `owner >= NOBODY`.
pub const MIGRATING: u16 = 0x8000;

/// A service's position in the plan.
pub type ServiceId = u16;

/// All that a burst is decided by. Immutable once published.
pub struct Table {
    pub generation: u64,
    /// Tables of the same number have the same services and servers at the same positions.
    pub layout: u64,
    pub key: Key,
    directory: Arc<Directory>,
    services: Box<[ServiceTable]>,
    /// By destination: the service's `base` plus the server's position; behind them `UNRESOLVED`, for no destination at all.
    next_hops: Box<[PackedNextHop]>,
    /// By destination, with the tags that frames leave with; none where every frame goes as it is.
    ways: Box<[Leaving]>,
    tunnel_mtu: u32,
    /// Identifications of packets that may be fragmented, of all workers and all tables.
    identifications: Arc<AtomicU32>,
    /// By number, from 1: the interfaces besides the one that frames come in on.
    egresses: Arc<[Egress]>,
    /// While any slot moves: the servers whose connections stay with them, by ident, to their destinations.
    previous_owners: Index<u32>,
    /// The servers' idents, by destination.
    idents: Box<[u32]>,
    /// While any slot moves: no flow is remembered for what was last seen before this tick.
    pub horizon: u64,
    /// The servers' MACs, and (MAC, address) of those that must never send to that cluster address.
    own: Index<u64>,
    loops: Index<(u64, u32)>,
    /// Whose frames are denied; `None`: nobody's.
    lists: Option<Arc<Lists>>,
    /// What is beyond a limit; `None`: nothing.
    limits: Option<Arc<Limits>>,
    odd_limits: Option<Arc<OddLimits>>,
    limit_sources: u32,
    /// Whose frames an operator watches.
    pub watch: Option<Arc<Watch>>,
    /// Where workers note of which servers they remember flows, while that must be known.
    census: Option<Arc<Census>>,
}

/// What a look-up finds.
#[derive(Clone, Copy, Default)]
pub struct Place {
    /// The server's position in its service, or `NOBODY`; with the mark `MIGRATING`.
    pub owner: u16,
    pub destination: u32,
}

/// How a service finds the slot of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub key: Key,
    /// Whether ports take part in the hash.
    pub flow: bool,
    pub slots: u32,
    /// `selection = "modulo"`: by how many servers an address is divided.
    modulo: Option<u16>,
    /// How many others the service has had before.
    number: u32,
}

/// Who owns what of a service.
#[derive(Clone)]
pub struct Owners {
    rule: Rule,
    /// Slot -> server, or `NOBODY`.
    slots: Arc<[u16]>,
    /// `selection = "modulo"`: remainder -> server, or `NOBODY` where that server is out and the slot decides.
    remainders: Option<Arc<[u16]>>,
}

/// What one service selects by.
pub struct ServiceTable {
    pub rule: Rule,
    owners: Arc<[u16]>,
    remainders: Option<Arc<[u16]>>,
    base: u32,
    /// While slots move.
    kept: Option<Arc<Kept>>,
    /// Whether servers send back what they have no connection for.
    pub second_chance: bool,
    connection_ids: Option<ConnectionIds>,
}

impl ServiceTable {
    /// By slot: the server that gets new connections, or `NOBODY`; with the mark `MIGRATING`.
    pub fn owners(&self) -> &[u16] {
        &self.owners
    }

    /// The server of a slot; `None`: nobody is up.
    pub fn owner(&self, slot: u32) -> Option<u16> {
        somebody(self.owners[slot as usize])
    }

    /// As `owners`. The same slice is the same slots, in whatever table.
    pub fn shared_owners(&self) -> &Arc<[u16]> {
        &self.owners
    }

    /// As `remainders`.
    pub fn shared_remainders(&self) -> Option<&Arc<[u16]>> {
        self.remainders.as_ref()
    }

    /// The first server's destination.
    pub fn base(&self) -> u32 {
        self.base
    }

    /// `modulo`: the same by remainder; where it is `NOBODY`, the slot decides.
    pub fn remainders(&self) -> Option<&[u16]> {
        self.remainders.as_deref()
    }

    /// `modulo`: what stands at the remainder of a client address taken as a number, mark included. `None`: the hash decides.
    pub fn by_remainder(&self, client: u128) -> Option<u16> {
        let remainders = self.remainders.as_ref()?;
        let owner = remainders[remainder(client, remainders.len())];
        (owner != NOBODY).then_some(owner)
    }

    /// Slot (for `modulo`, the remainder) and server of a client: who gets its new connections.
    pub fn select(&self, hash: u64, client: u128) -> (u32, Option<u16>) {
        let slot = hash::slot(hash, self.rule.slots);
        let by_hash = || somebody(self.owners[slot as usize]);
        match &self.remainders {
            None => (slot, by_hash()),
            Some(remainders) => {
                let slot = remainder(client, remainders.len());
                (slot as u32, somebody(remainders[slot]).or_else(by_hash))
            }
        }
    }

    /// The servers by what QUIC connection IDs say, where they say anything.
    #[inline(always)]
    pub fn connection_ids(&self) -> Option<&ConnectionIds> {
        self.connection_ids.as_ref()
    }

    /// While slots move: who keeps the connections begun before.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_deref()
    }
}

/// The server of what stands in a slot.
fn somebody(owner: u16) -> Option<u16> {
    let server = owner & !MIGRATING;
    (server != NOBODY).then_some(server)
}

fn remainder(client: u128, servers: usize) -> usize {
    match u32::try_from(client) {
        Ok(client) => client as usize % servers,
        Err(_) => (client % servers as u128) as usize,
    }
}

/// A MAC as the low six bytes of a little-endian word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedMac(u64);

impl PackedMac {
    #[inline(always)]
    pub fn from_bytes([a, b, c, d, e, f]: [u8; 6]) -> PackedMac {
        PackedMac(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// Of a word whose low six bytes are the address; the two above are ignored.
    #[inline(always)]
    pub fn from_low_word(word: u64) -> PackedMac {
        PackedMac(word & 0xffff_ffff_ffff)
    }

    /// The six bytes, little-endian, below two zero ones.
    pub fn word(self) -> u64 {
        self.0
    }
}

impl Owners {
    pub fn rule(&self) -> Rule {
        self.rule
    }

    pub fn slots(&self) -> &Arc<[u16]> {
        &self.slots
    }

    pub fn remainders(&self) -> Option<&Arc<[u16]>> {
        self.remainders.as_ref()
    }
}

/// For who lays a table out anew.
impl Table {
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The destinations of a service's servers.
    pub fn destinations_of(&self, service: ServiceId) -> Range<usize> {
        let base = |id: usize| self.services.get(id).map_or(self.destinations(), |service| service.base as usize);
        base(service as usize)..base(service as usize + 1)
    }

    /// MACs that must never send to a cluster address, and the address' id.
    pub fn loops(&self) -> impl Iterator<Item = (PackedMac, u16)> {
        self.loops.iter().map(|((mac, id), _)| (PackedMac(mac), id as u16))
    }

    /// While any slot moves: the servers whose connections stay with them, by ident, with their destinations.
    pub fn previous_owners(&self) -> impl Iterator<Item = (u32, u32)> {
        self.previous_owners.iter()
    }
}

impl Table {
    /// The cluster address that a destination is, or else the longest prefix that it is in; with the key that finds its ports.
    #[inline(always)]
    pub fn address_v4(&self, destination: [u8; 4]) -> Option<(&Address, u64)> {
        let number = u32::from_be_bytes(destination);
        match self.directory.v4.get(number) {
            Some(id) => Some((&self.directory.addresses[id as usize], port_key_v4(destination, EVERYTHING))),
            None => self.directory.prefix_v4(number),
        }
    }

    /// As `address_v4`.
    #[inline(always)]
    pub fn address_v6(&self, destination: [u8; 16]) -> Option<(&Address, (u128, u32))> {
        let number = u128::from_be_bytes(destination);
        match self.directory.v6.get(number) {
            Some(id) => Some((&self.directory.addresses[id as usize], (u128::from_le_bytes(destination), EVERYTHING))),
            None => self.directory.prefix_v6(number),
        }
    }

    /// What finds the services of ports.
    #[inline(always)]
    pub fn ports(&self) -> Ports<'_> {
        let directory = &*self.directory;
        Ports {
            v4: directory.ports_v4.view(),
            v6: directory.ports_v6.view(),
            own: self.own.view(),
            prefixes: (!directory.prefixes.is_empty()).then_some(directory),
        }
    }

    /// Whether `source` is the MAC of a server of the services on `address`.
    pub fn is_loop(&self, address: &Address, source: PackedMac) -> bool {
        self.loops.get((source.0, address.id as u32)).is_some()
    }

    #[inline(always)]
    pub fn service(&self, id: ServiceId) -> &ServiceTable {
        &self.services[id as usize]
    }

    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// Servers of all services together: how many destinations there are.
    pub fn destinations(&self) -> usize {
        self.next_hops.len() - 1
    }

    /// Where a hash leads in a service.
    #[inline(always)]
    pub fn place(&self, service: ServiceId, hash: u64) -> Place {
        let service = &self.services[service as usize];
        let owner = service.owners[hash::slot(hash, service.rule.slots) as usize];
        let nowhere = self.next_hops.len() as u32 - 1;
        Place { owner, destination: if owner >= NOBODY { nowhere } else { service.base + owner as u32 } }
    }

    /// As `place`, of what stands at a remainder.
    pub fn place_of(&self, service: ServiceId, owner: u16) -> Place {
        let nowhere = self.next_hops.len() - 1;
        let destination = if owner >= NOBODY { nowhere } else { self.destination(service, owner) };
        Place { owner, destination: destination as u32 }
    }

    /// Whether it must be known of which servers workers remember flows.
    #[inline(always)]
    pub fn wants_census(&self) -> bool {
        self.census.is_some()
    }

    /// The destination of a server that keeps its connections, by its ident.
    pub fn previous_owner(&self, ident: u32) -> Option<u32> {
        self.previous_owners.get(ident)
    }

    /// As `previous_owner`, if it is a server of that service.
    pub fn previous_owner_in(&self, service: ServiceId, ident: u32) -> Option<u32> {
        let first = self.services[service as usize].base;
        let behind = self.services.get(service as usize + 1).map_or(self.destinations() as u32, |next| next.base);
        self.previous_owner(ident).filter(|destination| (first..behind).contains(destination))
    }

    /// What names a server for as long as it is configured.
    pub fn ident(&self, destination: u32) -> u32 {
        self.idents[destination as usize]
    }

    /// The server's position in its service.
    pub fn server(&self, service: ServiceId, destination: u32) -> u16 {
        (destination - self.services[service as usize].base) as u16
    }

    /// Index of a server among all servers of all services.
    #[inline(always)]
    pub fn destination(&self, service: ServiceId, server: u16) -> usize {
        self.services[service as usize].base as usize + server as usize
    }

    #[inline(always)]
    pub fn next_hop(&self, destination: usize) -> PackedNextHop {
        self.next_hops[destination]
    }

    /// Whether some packets do not go to their servers as they are.
    #[inline(always)]
    pub fn has_ways(&self) -> bool {
        !self.ways.is_empty()
    }

    /// How packets come to a server.
    #[inline(always)]
    pub fn way(&self, destination: u32) -> &Way {
        self.leaving(destination).map_or(&Way::Direct, |it| &it.way)
    }

    /// The VLAN tags that frames to a server leave with.
    #[inline(always)]
    pub fn tags(&self, destination: u32) -> Tags {
        self.leaving(destination).map_or(Tags::AsReceived, |it| it.tags)
    }

    /// Both; `None`: they go as they are.
    #[inline(always)]
    pub fn leaving(&self, destination: u32) -> Option<&Leaving> {
        self.ways.get(destination as usize)
    }

    /// Bytes that a packet may have with its headers.
    #[inline(always)]
    pub fn tunnel_mtu(&self) -> usize {
        self.tunnel_mtu as usize
    }

    /// One that no packet has had for a long time (RFC 6864, section 4.2). Workers share them: few packets need one.
    pub fn next_identification(&self) -> u32 {
        self.identifications.fetch_add(1, Ordering::Relaxed)
    }

    /// Whose frames are denied.
    #[inline(always)]
    pub fn lists(&self) -> Option<&Lists> {
        self.lists.as_deref()
    }

    /// How much comes to services.
    #[inline(always)]
    pub fn limits(&self) -> Option<&Limits> {
        self.limits.as_deref()
    }

    /// How many packets come that are dear to read.
    #[inline]
    pub fn odd_limits(&self) -> Option<&OddLimits> {
        self.odd_limits.as_deref()
    }

    /// For who gets frames that were judged by limits already.
    pub fn without_limits(self) -> Table {
        Table { limits: None, odd_limits: None, ..self }
    }

    /// Cells for what sources are limited by, whether there are limits now or not.
    pub fn limit_sources(&self) -> u32 {
        self.limit_sources
    }

    /// The interfaces by which frames leave besides the one that they come in on; the first has the number 1.
    pub fn egresses(&self) -> &[Egress] {
        &self.egresses
    }

    /// By which of them a next hop is reached; `None`: by the one that the frame came in on.
    #[inline]
    pub fn egress(&self, next_hop: PackedNextHop) -> Option<&Egress> {
        self.egresses.get(usize::from(next_hop.egress()).checked_sub(1)?)
    }
}
