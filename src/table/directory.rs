//! Cluster addresses and prefixes, and which service has which of their ports.

use super::bloom_filter::BloomFilter;
use super::index::{Index, Key, NONE, View};
use super::prefixes::{Match, Prefixes};
use super::{PackedMac, ServiceId};
use crate::hash::vector::Level;
use crate::limits::BURST;
use crate::model::{Prefix, Transport};
use arrayvec::ArrayVec;
use std::net::IpAddr;

/// Cluster addresses, and the services on them.
pub struct Directory {
    pub(super) v4: Index<u32>,
    pub(super) v6: Index<u128>,
    /// What both hold: asked where there are prefixes, so that a frame to one of these is looked for in few places.
    pub(super) hosts_v4: BloomFilter,
    pub(super) hosts_v6: BloomFilter,
    /// For what is no cluster address of its own.
    pub(super) prefixes: Prefixes,
    pub(super) addresses: Box<[Address]>,
    /// By `port_key_v4`, and by address and `port_key`, of prefixes with `prefix_mark`: the service that lists the port, or, under
    /// `EVERYTHING`, the one that has everything; with the mark `PLAIN` where it selects by maglev over the source.
    pub(super) ports_v4: Index<u64>,
    pub(super) ports_v6: Index<(u128, u32)>,
}

/// Marks a service that the short way through `path::select` can handle.
pub(super) const PLAIN: u32 = 1 << 16;

/// What cluster addresses and prefixes with the same services have in common.
#[derive(Clone, Copy)]
pub struct Address {
    pub(super) id: u16,
    /// The service that has every protocol and port, or `NO_SERVICE`.
    pub(super) any: ServiceId,
    /// For what belongs to the address as a whole, such as echo requests: `any`, or the first service of the plan.
    pub(super) default: ServiceId,
    /// For packets without ports: the first service of the plan with that transport, else `any`.
    pub(super) by_transport: [ServiceId; Transport::ALL.len()],
}

pub(super) const NO_SERVICE: ServiceId = ServiceId::MAX;

impl Directory {
    /// Every cluster address that is no prefix, and the services for what has no port.
    pub fn hosts(&self) -> impl Iterator<Item = (Prefix, Address)> {
        let v4 = self.v4.iter().map(|(address, id)| (IpAddr::from(address.to_be_bytes()), id));
        let v6 = self.v6.iter().map(|(address, id)| (IpAddr::from(address.to_be_bytes()), id));
        let hosts = v4.chain(v6).map(|(address, id)| (Prefix::host(address), id));
        hosts.map(|(address, id)| (address, self.addresses[id as usize]))
    }

    /// Every prefix, by number, and the services for what has no port.
    pub fn prefixes(&self) -> impl Iterator<Item = (Prefix, Address)> {
        self.prefixes.iter().map(|(prefix, id)| (prefix, self.addresses[id as usize]))
    }

    /// See `prefixes`.
    pub fn ranges(&self) -> &Prefixes {
        &self.prefixes
    }

    /// Every port of every cluster address and prefix: protocol, number, and its service.
    pub fn ports(&self) -> impl Iterator<Item = (Prefix, u8, u16, ServiceId)> {
        let v4 = self
            .ports_v4
            .iter()
            .map(|(key, value)| (IpAddr::from((key as u32).to_le_bytes()), (key >> 32) as u32, value));
        let v6 =
            self.ports_v6.iter().map(|((address, port), value)| (IpAddr::from(address.to_le_bytes()), port, value));
        v4.chain(v6).filter(|(_, port, _)| *port & !PREFIX_MARK != EVERYTHING).map(|(address, port, value)| {
            let [protocol, length, high, low] = port.to_le_bytes();
            let prefix = if length == 0 { Prefix::host(address) } else { Prefix { address, length } };
            (prefix, protocol, u16::from_be_bytes([high, low]), PortService(value).id())
        })
    }

    /// Tells `found` of the services of frames, by their positions, where there are prefixes, too. Of those with `key` 0 nothing is told.
    #[inline(never)]
    pub fn plain_v4(
        &self,
        level: Level,
        frames: impl Iterator<Item = (usize, u64)>,
        mut found: impl FnMut(usize, ServiceId),
    ) {
        let ports = self.ports_v4.view();
        let (mut asked, mut addresses) = (ArrayVec::<_, BURST>::new(), ArrayVec::<_, BURST>::new());
        for (at, key) in frames.filter(|(_, key)| *key != 0) {
            let (address, port) = (u32::from_be(key as u32), (key >> 32) as u32);
            if self.hosts_v4.may_have(address) {
                if let Some(service) = ports.plain(key, key as u32 as u64) {
                    found(at, service);
                    continue;
                }
                if self.v4.get(address).is_some() {
                    continue;
                }
            }
            asked.push((at, port));
            addresses.push([address.into()]);
        }
        let mut numbers = [0; BURST];
        self.prefixes.v4().find_all(level, &addresses, &mut numbers);
        for ((at, port), number) in asked.into_iter().zip(numbers) {
            let Some(prefix) = self.prefixes.at(number) else { continue };
            let everything = prefix.key_v4();
            let key = everything | u64::from(port) << 32;
            let service = if prefix.port == port { plain(prefix.service) } else { ports.plain(key, everything) };
            if let Some(service) = service {
                found(at, service);
            }
        }
    }

    /// As `plain_v4`; of the little-endian numbers that the destinations are, and their `port_key`s.
    #[inline(never)]
    pub fn plain_v6(
        &self,
        level: Level,
        frames: impl Iterator<Item = (usize, u128, u32)>,
        mut found: impl FnMut(usize, ServiceId),
    ) {
        let ports = self.ports_v6.view();
        let (mut asked, mut addresses) = (ArrayVec::<_, BURST>::new(), ArrayVec::<_, BURST>::new());
        for (at, destination, port) in frames {
            let address = u128::from_be(destination);
            if self.hosts_v6.may_have(address) {
                if let Some(service) = ports.plain((destination, port), (destination, EVERYTHING)) {
                    found(at, service);
                    continue;
                }
                if self.v6.get(address).is_some() {
                    continue;
                }
            }
            asked.push((at, port));
            addresses.push([(address >> 64) as u64, address as u64]);
        }
        let mut numbers = [0; BURST];
        self.prefixes.v6().find_all(level, &addresses, &mut numbers);
        for ((at, port), number) in asked.into_iter().zip(numbers) {
            let Some(prefix) = self.prefixes.at(number) else { continue };
            let Match { first, mark, .. } = *prefix;
            let service = if prefix.port == port {
                plain(prefix.service)
            } else {
                ports.plain((first, port | mark), (first, mark))
            };
            if let Some(service) = service {
                found(at, service);
            }
        }
    }

    /// The longest prefix of an address, and the key of everything there.
    #[inline(always)]
    pub(super) fn prefix_v4(&self, address: u32) -> Option<(&Address, u64)> {
        let found = self.prefixes.find_v4(address)?;
        Some((&self.addresses[found.address as usize], found.key_v4()))
    }

    /// As `prefix_v4`.
    #[inline(always)]
    pub(super) fn prefix_v6(&self, address: u128) -> Option<(&Address, (u128, u32))> {
        let found = self.prefixes.find_v6(address)?;
        Some((&self.addresses[found.address as usize], (found.first, found.mark)))
    }
}

fn service(id: ServiceId) -> Option<ServiceId> {
    (id != NO_SERVICE).then_some(id)
}

impl Address {
    /// What tells it from the others of its directory.
    pub fn id(&self) -> u16 {
        self.id
    }

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

/// What `ports_v4` and `ports_v6` hold.
#[derive(Clone, Copy)]
pub struct PortService(u32);

impl PortService {
    pub fn id(self) -> ServiceId {
        self.0 as ServiceId
    }
}

/// What an index says of a port, if it is a plain service.
#[inline(always)]
fn plain(value: u32) -> Option<ServiceId> {
    (value >> 16 == PLAIN >> 16).then_some(value as ServiceId)
}

impl<K: Key> View<'_, K> {
    /// The service that has a port and is plain: the one that lists it, or, where none does, the one that has everything.
    #[inline(always)]
    fn plain(self, port: K, everything: K) -> Option<ServiceId> {
        let listed = self.find(port);
        plain(listed).or_else(|| plain(if listed == NONE { self.find(everything) } else { NONE }))
    }
}

/// Finds the services of ports, and tells servers' MACs from others.
#[derive(Clone, Copy)]
pub struct Ports<'a> {
    pub(super) v4: View<'a, u64>,
    pub(super) v6: View<'a, (u128, u32)>,
    pub(super) own: View<'a, u64>,
    /// Where there are prefixes.
    pub prefixes: Option<&'a Directory>,
}

impl Ports<'_> {
    /// The service of a port: the one that lists it, else the one that has everything. `at` is the key of everything, as
    /// `Table::address_v4` finds it.
    pub fn v4(&self, at: u64, port: u32) -> Option<PortService> {
        self.v4.get(at | u64::from(port) << 32).or_else(|| self.v4.get(at)).map(PortService)
    }

    /// As `v4`.
    pub fn v6(&self, (address, mark): (u128, u32), port: u32) -> Option<PortService> {
        self.v6.get((address, port | mark)).or_else(|| self.v6.get((address, mark))).map(PortService)
    }

    /// The service of a port of a cluster address, if it selects by maglev over the source. `key` is the `port_key_v4` of the frame's
    /// destination.
    #[inline(always)]
    pub fn plain_v4(&self, key: u64) -> Option<ServiceId> {
        self.v4.plain(key, key as u32 as u64)
    }

    /// As `plain_v4`; of the little-endian number that the destination is, and its `port_key`.
    #[inline(always)]
    pub fn plain_v6(&self, address: u128, port: u32) -> Option<ServiceId> {
        self.v6.plain((address, port), (address, EVERYTHING))
    }

    /// Whether `source` is the MAC of any server.
    #[inline(always)]
    pub fn is_server(&self, source: PackedMac) -> bool {
        self.own.get(source.0).is_some()
    }
}

/// A transport's protocol number and port in one word: protocol, 0, port as it stands in the packet. Never 0.
#[inline(always)]
pub fn port_key(protocol: u8, port: [u8; 2]) -> u32 {
    u32::from_le_bytes([protocol, 0, port[0], port[1]])
}

/// Under this port key stands the service that has every protocol and port.
pub(super) const EVERYTHING: u32 = 0;

/// Where the port keys of a prefix have its length.
const PREFIX_MARK: u32 = 0xff00;

/// What a prefix's port keys have that a cluster address's have not.
#[inline(always)]
pub(super) fn prefix_mark(length: u8) -> u32 {
    u32::from(length) << 8
}

/// An IPv4 address as it stands in the packet, and a port key: the key of `ports_v4`.
#[inline(always)]
pub fn port_key_v4(address: [u8; 4], port: u32) -> u64 {
    u32::from_le_bytes(address) as u64 | (port as u64) << 32
}
