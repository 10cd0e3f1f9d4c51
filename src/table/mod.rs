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
use index::Index;
use maglev::NOBODY;
use std::sync::Arc;

/// A service's position in the plan.
pub type ServiceId = u16;

/// All that a burst is decided by. Immutable once published.
pub struct Table {
    pub generation: u64,
    pub key: Key,
    directory: Arc<Directory>,
    services: Box<[ServiceTable]>,
    /// By destination: the service's `base` plus the server's position.
    macs: Box<[PackedMac]>,
    /// Server MACs by cluster address: who must never send to it.
    loops: Index<u64>,
}

/// Cluster addresses, and the services on them.
struct Directory {
    v4: Index<u32>,
    v6: Index<u128>,
    addresses: Box<[Address]>,
    /// By address, transport and port.
    ports: Index<u64>,
}

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
    /// The owner of a hash's slot. `None`: no server is up.
    #[inline(always)]
    pub fn owner(&self, hash: u64) -> Option<u16> {
        let owner = self.owners[hash::slot(hash, self.slots) as usize];
        (owner != NOBODY).then_some(owner)
    }

    #[inline(always)]
    pub fn is_modulo(&self) -> bool {
        self.remainders.is_some()
    }

    /// `modulo`: the server of a client address taken as a number. `None`: that server is down, the hash decides.
    pub fn by_remainder(&self, client: u128) -> Option<u16> {
        let remainders = self.remainders.as_ref()?;
        let server = remainders[remainder(client, remainders.len())];
        (server != NOBODY).then_some(server)
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
    const UNRESOLVED: PackedMac = PackedMac(u64::MAX);

    #[inline(always)]
    pub fn from_bytes([a, b, c, d, e, f]: [u8; 6]) -> PackedMac {
        PackedMac(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    #[inline(always)]
    pub fn bytes(self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
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

fn loop_key(address: u16, source: PackedMac) -> u64 {
    source.0 | (address as u64) << 48
}

fn port_key(address: u16, transport: Transport, port: u16) -> u64 {
    (address as u64) << 32 | (transport as u64) << 16 | port as u64
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

    /// The service of a transport port: the one that lists it, else the one that has everything.
    #[inline(always)]
    pub fn by_port(&self, address: &Address, transport: Transport, port: u16) -> Option<ServiceId> {
        match self.directory.ports.get(port_key(address.id, transport, port)) {
            Some(id) => Some(id as ServiceId),
            None => address.any(),
        }
    }

    /// Whether `source` is the MAC of a server of the services on `address`.
    #[inline(always)]
    pub fn is_loop(&self, address: &Address, source: PackedMac) -> bool {
        self.loops.get(loop_key(address.id, source)).is_some()
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
        self.macs.len()
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
