//! Which prefix an address is in, of several the longest. `src/bpf/prefixes.h` is the twin.

use super::prefix_mark;
use super::ranges::{self, Tree};
use crate::model::Prefix;
use std::net::IpAddr;

/// The prefixes among the cluster addresses.
pub struct Prefixes {
    /// Of both families: a range's value is the number of its prefix, from 1.
    v4: Tree<1>,
    v6: Tree<2>,
    all: Box<[Prefix]>,
    matches: Box<[Match]>,
}

/// The prefix of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Where its services stand: `Address`.
    pub address: u16,
    /// What its port keys have in the place of its length.
    pub mark: u32,
    /// Its first address as it stands in a packet, as a little-endian number.
    pub first: u128,
    /// One of its ports, or `EVERYTHING`, and what the index says of that: most have no other, so that their frames need not ask there.
    pub port: u32,
    pub service: u32,
}

impl Prefixes {
    /// Of prefixes that are longer than 0 and shorter than addresses, each once; each with its `Address` and one of its ports, or `EVERYTHING`.
    pub fn new(prefixes: &[(Prefix, u16, (u32, u32))]) -> Prefixes {
        let all: Box<[Prefix]> = prefixes.iter().map(|(prefix, ..)| *prefix).collect();
        let matches = prefixes.iter().map(|(prefix, id, port)| Match::new(*prefix, *id, *port)).collect();
        Prefixes { v4: Tree::new(&ranges(&all, true)), v6: Tree::new(&ranges(&all, false)), all, matches }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The longest prefix of an address, which is taken as a number.
    #[inline]
    pub fn find_v4(&self, address: u32) -> Option<&Match> {
        self.at(self.v4.find([address.into()]))
    }

    /// As `find_v4`.
    #[inline]
    pub fn find_v6(&self, address: u128) -> Option<&Match> {
        self.at(self.v6.find([(address >> 64) as u64, address as u64]))
    }

    /// The prefix of a number that a range has.
    #[inline]
    pub(super) fn at(&self, number: u32) -> Option<&Match> {
        self.matches.get((number as usize).wrapping_sub(1))
    }

    /// Every prefix with its `Address`, by number.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, u16)> {
        self.all.iter().copied().zip(self.matches.iter().map(|found| found.address))
    }

    pub fn v4(&self) -> &Tree<1> {
        &self.v4
    }

    pub fn v6(&self) -> &Tree<2> {
        &self.v6
    }
}

impl Match {
    fn new(prefix: Prefix, address: u16, (port, service): (u32, u32)) -> Match {
        let first = match prefix.address {
            IpAddr::V4(first) => u32::from_le_bytes(first.octets()).into(),
            IpAddr::V6(first) => u128::from_le_bytes(first.octets()),
        };
        Match { address, mark: prefix_mark(prefix.length), first, port, service }
    }

    /// Of an IPv4 prefix: the key of everything there, to which that of a port is added.
    #[inline(always)]
    pub(super) fn key_v4(&self) -> u64 {
        self.first as u64 | u64::from(self.mark) << 32
    }
}

fn ranges<const W: usize>(all: &[Prefix], is_v4: bool) -> Vec<([u64; W], u32)> {
    let numbered = all.iter().copied().zip(1..);
    let of_family = numbered.filter(|(prefix, _)| prefix.address.is_ipv4() == is_v4);
    ranges::side_by_side(of_family.collect(), 0, |_, alike| alike[0].1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn longest(prefixes: &[(Prefix, u16, (u32, u32))], address: IpAddr) -> Option<Match> {
        let of = prefixes.iter().filter(|(prefix, ..)| prefix.contains(address));
        let longest = of.max_by_key(|(prefix, ..)| prefix.length);
        longest.map(|(prefix, id, port)| Match::new(*prefix, *id, *port))
    }

    fn numbered(prefixes: impl IntoIterator<Item = Prefix>) -> Vec<(Prefix, u16, (u32, u32))> {
        let all: BTreeSet<Prefix> = prefixes.into_iter().map(|prefix| prefix.first()).collect();
        all.into_iter().zip(0..).map(|(prefix, id)| (prefix, id, (id.into(), 0))).collect()
    }

    proptest! {
        /// Few different bits, so that many contain one another.
        #[test]
        fn finds_the_longest(
            v4 in prop::collection::vec((0u32..64, 1u8..32), 0..80), v6 in prop::collection::vec((0u128..64, 1u8..128), 0..80),
            asked in prop::collection::vec((0u32..64, 0u32..64), 1..80),
        ) {
            // Six bits, spread: one in five, or one in twenty.
            let spread = |bits: u32, by: u32| (0..6).fold(0u128, |all, bit| all | u128::from(bits >> bit & 1) << (bit * by));
            let number_v4 = |bits: u32| (spread(bits, 5) as u32).reverse_bits();
            let number_v6 = |bits: u32| spread(bits, 20).reverse_bits();
            let v4 = v4.iter().map(|(bits, length)| Prefix { address: Ipv4Addr::from(number_v4(*bits)).into(), length: *length });
            let v6 = v6.iter().map(|(bits, length)| Prefix { address: Ipv6Addr::from(number_v6(*bits as u32)).into(), length: *length });
            let all = numbered(v4.chain(v6));
            let prefixes = Prefixes::new(&all);
            for (bits, low) in asked {
                let (v4, v6) = (number_v4(bits) ^ low, number_v6(bits) ^ u128::from(low));
                prop_assert_eq!(prefixes.find_v4(v4).copied(), longest(&all, Ipv4Addr::from(v4).into()));
                prop_assert_eq!(prefixes.find_v6(v6).copied(), longest(&all, Ipv6Addr::from(v6).into()));
            }
        }
    }

    #[test]
    fn every_length_at_once() {
        let v4 = (1..32).map(|length| Prefix { address: Ipv4Addr::from_bits(!0).into(), length });
        let v6 = (1..128).map(|length| Prefix { address: Ipv6Addr::from_bits(!0).into(), length });
        let all = numbered(v4.chain(v6));
        let prefixes = Prefixes::new(&all);
        for bit in 0..32 {
            let address = !(1 << bit);
            assert_eq!(prefixes.find_v4(address).copied(), longest(&all, Ipv4Addr::from(address).into()));
        }
        for bit in 0..128 {
            let address = !(1 << bit);
            assert_eq!(prefixes.find_v6(address).copied(), longest(&all, Ipv6Addr::from(address).into()));
        }
    }
}
