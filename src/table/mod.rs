//! Who owns which client: the tables that the data path reads, and how they come to be.
//!
//! `maglev` gives every slot its first choice, `rendezvous` the order behind it, `cluster` holds both for every service and
//! compiles a `Table` whenever a server's state or MAC changes, `publish` carries it to the workers.

pub mod cluster;
pub mod index;
pub mod maglev;
pub mod publish;
pub mod rendezvous;

use crate::hash::{self, Key};
use crate::plan::{Mac, Transport};
use index::{Index, View};
use maglev::NOBODY;
use std::sync::Arc;

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
    macs: Box<[PackedMac]>,
    /// The servers' MACs, and (MAC, address) of those that must never send to that cluster address.
    own: Index<u64>,
    loops: Index<(u64, u32)>,
}

/// Cluster addresses, and the services on them.
struct Directory {
    v4: Index<u32>,
    v6: Index<u128>,
    addresses: Box<[Address]>,
    /// By `port_key_v4`, and by address and `port_key`: the service that lists the port, or, under `EVERYTHING`, the one that has everything; with
    /// the mark `PLAIN` where it selects by maglev over the source.
    ports_v4: Index<u64>,
    ports_v6: Index<(u128, u32)>,
}

/// Marks a service that the short way through `path::select` can handle.
const PLAIN: u32 = 1 << 16;

/// A cluster address.
#[derive(Clone, Copy)]
pub struct Address {
    id: u16,
    /// The service that has every protocol and port, or `NO_SERVICE`.
    any: ServiceId,
    /// For what belongs to the address as a whole, such as echo requests: `any`, or the first service of the plan.
    default: ServiceId,
    /// For packets without ports: the first service of the plan with that transport, else `any`.
    by_transport: [ServiceId; Transport::ALL.len()],
}

const NO_SERVICE: ServiceId = ServiceId::MAX;

fn service(id: ServiceId) -> Option<ServiceId> {
    (id != NO_SERVICE).then_some(id)
}

impl Address {
    pub fn any(&self) -> Option<ServiceId> {
        service(self.any)
    }

    pub fn default(&self) -> ServiceId {
        self.default
    }

    pub fn by_transport(&self, transport: Transport) -> Option<ServiceId> {
        service(self.by_transport[transport as usize])
    }
}

/// The service of a port.
#[derive(Clone, Copy)]
pub struct PortService(u32);

impl PortService {
    #[inline(always)]
    pub fn id(self) -> ServiceId {
        self.0 as ServiceId
    }

    /// Whether it selects by maglev over the source.
    #[inline(always)]
    pub fn is_plain(self) -> bool {
        self.0 & PLAIN != 0
    }
}

/// Finds the services of ports, and tells servers' MACs from others.
#[derive(Clone, Copy)]
pub struct Ports<'a> {
    v4: View<'a, u64>,
    v6: View<'a, (u128, u32)>,
    own: View<'a, u64>,
}

impl Ports<'_> {
    /// The service of a port: the one that lists it, else the one that has everything. `key` is the `port_key_v4` of both.
    #[inline(always)]
    pub fn v4(&self, key: u64) -> Option<PortService> {
        self.v4.get(key).or_else(|| self.v4.get(key as u32 as u64)).map(PortService)
    }

    /// As `v4`; `port` is its `port_key`.
    #[inline(always)]
    pub fn v6(&self, destination: [u8; 16], port: u32) -> Option<PortService> {
        let address = u128::from_le_bytes(destination);
        self.v6.get((address, port)).or_else(|| self.v6.get((address, EVERYTHING))).map(PortService)
    }

    /// Whether `source` is the MAC of any server.
    #[inline(always)]
    pub fn is_server(&self, source: PackedMac) -> bool {
        self.own.get(source.0).is_some()
    }
}

/// The owner of a slot.
#[derive(Clone, Copy, Default)]
pub struct Place {
    /// The server's position in its service, or `NOBODY`.
    pub owner: u16,
    pub destination: u32,
}

/// What one service selects by.
pub struct ServiceTable {
    /// Slot -> server, or `NOBODY`.
    owners: Arc<[u16]>,
    slots: u32,
    base: u32,
    /// Whether ports take part in the hash.
    pub flow: bool,
    /// `selection = "modulo"`: remainder -> server, or `NOBODY` where that server is down.
    remainders: Option<Arc<[u16]>>,
}

impl ServiceTable {
    /// `modulo`: the server of a client address taken as a number. `None`: that server is down, the hash decides.
    pub fn by_remainder(&self, client: u128) -> Option<u16> {
        let remainders = self.remainders.as_ref()?;
        somebody(remainders[remainder(client, remainders.len())])
    }

    fn owner(&self, hash: u64) -> Option<u16> {
        somebody(self.owners[hash::slot(hash, self.slots) as usize])
    }

    /// Slot (for `modulo`, the remainder) and server of a client. What the data path does, in one step.
    pub fn select(&self, hash: u64, client: u128) -> (u32, Option<u16>) {
        match &self.remainders {
            None => (hash::slot(hash, self.slots), self.owner(hash)),
            Some(remainders) => {
                let server = self.by_remainder(client).or_else(|| self.owner(hash));
                (remainder(client, remainders.len()) as u32, server)
            }
        }
    }
}

fn somebody(server: u16) -> Option<u16> {
    (server != NOBODY).then_some(server)
}

fn remainder(client: u128, servers: usize) -> usize {
    match u32::try_from(client) {
        Ok(client) => client as usize % servers,
        Err(_) => (client % servers as u128) as usize,
    }
}

/// A MAC as the low six bytes of a little-endian word; `UNRESOLVED` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedMac(u64);

impl PackedMac {
    pub const UNRESOLVED: PackedMac = PackedMac(u64::MAX);

    #[inline(always)]
    pub fn from_bytes([a, b, c, d, e, f]: [u8; 6]) -> PackedMac {
        PackedMac(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// Of a word whose low six bytes are the address; the two above are ignored.
    #[inline(always)]
    pub fn from_low_word(word: u64) -> PackedMac {
        PackedMac(word & 0xffff_ffff_ffff)
    }

    #[inline(always)]
    pub fn bytes(self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// The six bytes, little-endian, below two zero ones.
    #[inline(always)]
    pub fn low_word(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub fn is_resolved(self) -> bool {
        self != Self::UNRESOLVED
    }
}

impl From<Option<Mac>> for PackedMac {
    fn from(mac: Option<Mac>) -> PackedMac {
        mac.map_or(Self::UNRESOLVED, |mac| PackedMac::from_bytes(mac.0))
    }
}

/// A transport's protocol number and port in one word: protocol, 0, port as it stands in the packet. Never 0.
#[inline(always)]
pub fn port_key(protocol: u8, port: [u8; 2]) -> u32 {
    u32::from_le_bytes([protocol, 0, port[0], port[1]])
}

/// Under this port key stands the service that has every protocol and port.
const EVERYTHING: u32 = 0;

/// An IPv4 address as it stands in the packet, and a port key: the key of `ports_v4`.
#[inline(always)]
pub fn port_key_v4(address: [u8; 4], port: u32) -> u64 {
    u32::from_le_bytes(address) as u64 | (port as u64) << 32
}

impl Table {
    #[inline(always)]
    pub fn address_v4(&self, destination: [u8; 4]) -> Option<&Address> {
        let id = self.directory.v4.get(u32::from_be_bytes(destination))?;
        Some(&self.directory.addresses[id as usize])
    }

    #[inline(always)]
    pub fn address_v6(&self, destination: [u8; 16]) -> Option<&Address> {
        let id = self.directory.v6.get(u128::from_be_bytes(destination))?;
        Some(&self.directory.addresses[id as usize])
    }

    /// What finds the services of ports.
    #[inline(always)]
    pub fn ports(&self) -> Ports<'_> {
        Ports { v4: self.directory.ports_v4.view(), v6: self.directory.ports_v6.view(), own: self.own.view() }
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
        self.macs.len() - 1
    }

    /// Where a hash leads in a service.
    #[inline(always)]
    pub fn place(&self, service: ServiceId, hash: u64) -> Place {
        let service = &self.services[service as usize];
        let owner = service.owners[hash::slot(hash, service.slots) as usize];
        let nowhere = self.macs.len() as u32 - 1;
        Place { owner, destination: if owner == NOBODY { nowhere } else { service.base + owner as u32 } }
    }

    /// Index of a server among all servers of all services.
    #[inline(always)]
    pub fn destination(&self, service: ServiceId, server: u16) -> usize {
        self.services[service as usize].base as usize + server as usize
    }

    #[inline(always)]
    pub fn mac(&self, destination: usize) -> PackedMac {
        self.macs[destination]
    }
}
