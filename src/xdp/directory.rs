//! Directories in BPF tables: hash tables whose every look-up reads one bucket, which is a cell, and at most `PROBES` entries
//! of it, because a BPF program's loops are bounded. Their keys come from the configuration, never from a client.

use std::net::IpAddr;

use super::cell::{CELL_WORDS, Cell};
use crate::hash::splitmix;
use crate::model::{Prefix, Transport};
use crate::table;

/// src/bpf/table.h
const PROBES: u64 = 8;

/// Factors tried, of which the best is taken; where none will do, the table is doubled.
const TRIES: usize = 16;
/// With many keys, fewer: as many as make this many keys in all, once one will do.
const TRIED: usize = 1 << 18;

/// Odd (Knuth, TAOCP vol. 3, section 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const OTHER: u64 = 0xbf58_476d_1ce4_e5b9;

pub struct Directory {
    pub factor: u64,
    /// Of the hash: what is above is the bucket and the place in it.
    pub shift: u32,
    pub cells: Vec<Cell>,
}

/// `struct entry`, by words.
pub type Entry = [u64; 4];

impl Directory {
    /// Of the services of cluster addresses, by address and by port.
    pub fn new(directory: &table::Directory) -> Directory {
        Directory::of_entries(addresses(directory).chain(ports(directory)))
    }

    /// By address alone.
    pub fn addresses(directory: &table::Directory) -> Directory {
        Directory::of_entries(addresses(directory))
    }

    /// By port alone.
    pub fn ports(directory: &table::Directory) -> Directory {
        Directory::of_entries(ports(directory))
    }

    /// Of other ports than those of services, each once: address, protocol, port, and what stands in the service's place.
    pub fn of_ports(ports: impl IntoIterator<Item = (IpAddr, u8, u16, u16)>) -> Directory {
        let each = |(address, protocol, port, service)| {
            entry(Prefix::host(address), protocol, port, u64::from(service) << 32, 0)
        };
        Directory::of_entries(ports.into_iter().map(each))
    }

    pub fn of_entries(entries: impl Iterator<Item = Entry>) -> Directory {
        let key = |[low, high, port, _]: &Entry| {
            low.wrapping_add(high.wrapping_mul(GOLDEN)).wrapping_add((*port as u32 as u64).wrapping_mul(OTHER))
        };
        let entries: Vec<(u64, Entry)> = entries.map(|entry| (key(&entry), entry)).collect();
        Directory::of(&entries, |entry| entry[2] == 0)
    }

    /// Of words that are not 0, each with its key.
    pub fn of_words(words: &[(u64, u64)]) -> Directory {
        let entries: Vec<(u64, [u64; 1])> = words.iter().map(|(key, word)| (*key, [*word])).collect();
        Directory::of(&entries, |entry| entry[0] == 0)
    }

    fn of<const W: usize>(entries: &[(u64, [u64; W])], is_free: impl Fn(&[u64]) -> bool) -> Directory {
        let least = (4 * entries.len()).div_ceil(CELL_WORDS / W).next_power_of_two().max(2);
        // Factors that have nothing in common: addresses that follow one another are a lattice, most of which one factor misplaces, and the
        // next one nothing.
        let enough = TRIED / entries.len().max(1);
        let factor = |at: usize| splitmix::mix(splitmix::STEP.wrapping_mul(at as u64)) | 1;
        let best_of = |bits: u32| {
            let mut best: Option<(Directory, u64)> = None;
            for at in 1..=TRIES {
                let least = best.as_ref().map_or(u64::MAX, |(_, displaced)| *displaced);
                if least == 0 || (best.is_some() && at > enough) {
                    break;
                }
                best = Directory::with(entries, &is_free, bits, factor(at)).filter(|it| it.1 < least).or(best);
            }
            best
        };
        (least.ilog2()..32).find_map(best_of).expect("different keys have different hashes").0
    }

    /// With 2^`bits` buckets, and by how many places entries are from theirs; `None`: one would be too far.
    fn with<const W: usize>(
        entries: &[(u64, [u64; W])],
        is_free: &impl Fn(&[u64]) -> bool,
        bits: u32,
        factor: u64,
    ) -> Option<(Directory, u64)> {
        let of_bucket = (CELL_WORDS / W) as u64;
        let shift = u64::BITS - bits - of_bucket.ilog2();
        let mut cells = vec![[0; CELL_WORDS]; 1 << bits];
        let mut displaced = 0;
        for (key, entry) in entries {
            let hash = key.wrapping_mul(factor) >> shift;
            let bucket = &mut cells[(hash / of_bucket) as usize];
            let places = (0..PROBES).map(|i| (i, ((hash + i) % of_bucket) as usize * W));
            let (by, free) = places.into_iter().find(|(_, place)| is_free(&bucket[*place..][..W]))?;
            bucket[free..][..W].copy_from_slice(entry);
            displaced += by;
        }
        Some((Directory { factor, shift, cells }, displaced))
    }
}

fn addresses(directory: &table::Directory) -> impl Iterator<Item = Entry> {
    directory.hosts().map(of_address)
}

/// Of a cluster address or a prefix.
pub fn of_address((prefix, services): (Prefix, table::Address)) -> Entry {
    let id = |service: Option<u16>| u64::from(service.unwrap_or(u16::MAX));
    let [tcp, udp, sctp] = Transport::ALL.map(|transport| id(services.by_transport(transport)));
    let own = id(services.any()) << 32 | u64::from(services.default()) << 48;
    entry(prefix, 0, 0, own, tcp | udp << 16 | sctp << 32 | u64::from(services.id()) << 48)
}

fn ports(directory: &table::Directory) -> impl Iterator<Item = Entry> {
    directory
        .ports()
        .map(|(address, protocol, port, service)| entry(address, protocol, port, u64::from(service) << 32, 0))
}

/// `PREFIX_V4` and `PREFIX_V6` of src/bpf/table.h, with the length: what port keys of prefixes have for a family.
fn mark(family: u8, length: u8) -> u8 {
    length | if family == 4 { 0x40 } else { 0x80 }
}

/// `own` and `by_transport` are what stands behind the port.
fn entry(prefix: Prefix, protocol: u8, port: u16, own: u64, by_transport: u64) -> Entry {
    let (low, high, family) = match prefix.address {
        IpAddr::V4(address) => (u32::from_le_bytes(address.octets()) as u64, 0, 4u8),
        IpAddr::V6(address) => {
            let number = u128::from_le_bytes(address.octets());
            (number as u64, (number >> 64) as u64, 6)
        }
    };
    let family = if prefix.is_host() { family } else { mark(family, prefix.length) };
    let [high_port, low_port] = port.to_be_bytes();
    [low, high, u64::from(u32::from_le_bytes([protocol, family, high_port, low_port])) | own, by_transport]
}
