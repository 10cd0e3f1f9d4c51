//! Which source addresses are denied, by service: what lists of prefixes come to, compiled for the data path.
//!
//! The longest prefix that has an address decides; of equal ones, "allow" does. What becomes of a range (`ranges`) is an entry of a few words,
//! the same for all ranges that are treated alike. `src/bpf/lists.h` is the twin: it reads these words.

use super::ranges::{self, Tree};
use crate::model::list::{self, TooManyGroups};
use crate::model::{List, ListKind, Prefix};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What becomes of the frames of a range, by groups of services, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Fate {
    drops: u64,
    counts: u64,
}

/// Of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// By no list, or allowed.
    No,
    /// It would be dropped, if its list did more than count.
    Counted,
    Denied,
}

/// The lists of a table.
#[derive(Debug)]
pub struct Lists {
    v4: Tree<1>,
    v6: Tree<2>,
    /// Two words each: what is dropped, and what is only counted.
    fates: Arc<[u64]>,
    /// By service.
    groups: Box<[u8]>,
}

impl Lists {
    /// Of the lists that services with these names have. `None`: there are none.
    ///
    /// # Errors
    /// See `TooManyGroups`.
    pub fn new(lists: &[List], services: &[&str]) -> Result<Option<Lists>, TooManyGroups> {
        if lists.iter().all(|list| list.all().next().is_none()) {
            return Ok(None);
        }
        let (groups, of_lists) = list::groups(lists, services)?;
        let mut fates = Fates::default();
        fates.number(Fate::default());
        let v4 = Tree::new(&ranges(lists, &of_lists, true, &mut fates));
        let v6 = Tree::new(&ranges(lists, &of_lists, false, &mut fates));
        let words = fates.all.iter().flat_map(|fate| [fate.drops, fate.counts]).collect();
        Ok(Some(Lists { v4, v6, fates: words, groups }))
    }

    /// `source` as a number.
    #[inline]
    pub fn listed_v4(&self, source: u32, service: u16) -> Listed {
        self.listed(self.v4.find([source.into()]), service)
    }

    /// `source` as a number.
    #[inline]
    pub fn listed_v6(&self, source: u128, service: u16) -> Listed {
        self.listed(self.v6.find([(source >> 64) as u64, source as u64]), service)
    }

    pub fn listed_ip(&self, source: IpAddr, service: u16) -> Listed {
        match source {
            IpAddr::V4(source) => self.listed_v4(source.to_bits(), service),
            IpAddr::V6(source) => self.listed_v6(source.to_bits(), service),
        }
    }

    #[inline(always)]
    fn listed(&self, fate: u32, service: u16) -> Listed {
        if fate == 0 {
            return Listed::No;
        }
        let group = 1 << (self.groups[service as usize] % 64);
        match [self.fates[2 * fate as usize] & group, self.fates[2 * fate as usize + 1] & group] {
            [0, 0] => Listed::No,
            [0, _] => Listed::Counted,
            _ => Listed::Denied,
        }
    }

    pub fn v4(&self) -> &Tree<1> {
        &self.v4
    }

    pub fn v6(&self) -> &Tree<2> {
        &self.v6
    }

    /// See `Lists::fates`.
    pub fn fates(&self) -> &Arc<[u64]> {
        &self.fates
    }

    pub fn group(&self, service: u16) -> u8 {
        self.groups[service as usize]
    }
}

/// All fates that there are, each once.
#[derive(Default)]
struct Fates {
    all: Vec<Fate>,
    known: HashMap<Fate, u32>,
}

impl Fates {
    fn number(&mut self, fate: Fate) -> u32 {
        *self.known.entry(fate).or_insert_with(|| {
            self.all.push(fate);
            self.all.len() as u32 - 1
        })
    }
}

/// The prefixes of one family, as ranges side by side, by their first addresses.
fn ranges<const W: usize>(lists: &[List], groups: &[u64], is_v4: bool, fates: &mut Fates) -> Vec<([u64; W], u32)> {
    let of_family = |prefix: &&Prefix| prefix.address.is_ipv4() == is_v4;
    let listed = lists
        .iter()
        .zip(groups)
        .flat_map(|(list, groups)| list.all().filter(of_family).map(|prefix| (*prefix, (list.kind, *groups))));
    let ranges = ranges::side_by_side(listed.collect(), Fate::default(), |outer, alike| {
        let of_kind = |wanted| {
            let groups = alike.iter().filter(|(_, (kind, _))| *kind == wanted);
            groups.fold(0, |all, (_, (_, groups))| all | groups)
        };
        let allowed: u64 = of_kind(ListKind::Allow);
        Fate {
            drops: (outer.drops | of_kind(ListKind::Deny)) & !allowed,
            counts: (outer.counts | of_kind(ListKind::Count)) & !allowed,
        }
    });
    ranges.into_iter().map(|(first, fate)| (first, fates.number(fate))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LIST_GROUPS;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The rule itself: all prefixes, one after the other.
    fn naive(lists: &[List], source: IpAddr, service: &str) -> Listed {
        let longest = |kinds: &[ListKind]| {
            let of_service =
                |list: &&List| list.services.is_empty() || list.services.iter().any(|name| name == service);
            let lists = lists.iter().filter(of_service).filter(|list| kinds.contains(&list.kind));
            lists.flat_map(List::all).filter(|prefix| prefix.contains(source)).map(|prefix| prefix.length).max()
        };
        let allowed = longest(&[ListKind::Allow]);
        match () {
            () if longest(&[ListKind::Deny]) > allowed => Listed::Denied,
            () if longest(&[ListKind::Count]) > allowed => Listed::Counted,
            () => Listed::No,
        }
    }

    /// Addresses that lie in each other's prefixes often.
    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = prop_oneof![0..64u32, (u32::MAX - 64)..=u32::MAX, any::<u32>().prop_map(|at| at & 0xc0f0_000f)];
        let v6 =
            prop_oneof![0..64u128, (u128::MAX - 64)..=u128::MAX, any::<u128>().prop_map(|at| at & 0xf << 60 | at & 3)];
        prop_oneof![
            v4.prop_map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))),
            v6.prop_map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))),
        ]
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        (address(), any::<u8>()).prop_map(|(address, length)| {
            let most = Prefix::host(address).length;
            Prefix { address, length: length % (most + 1) }.first()
        })
    }

    fn lists() -> impl Strategy<Value = Vec<List>> {
        let kind = prop_oneof![Just(ListKind::Deny), Just(ListKind::Count), Just(ListKind::Allow)];
        let services = prop::collection::vec(prop_oneof![Just("a".to_owned()), Just("b".to_owned())], 0..2);
        let list = (kind, services, prop::collection::vec(prefix(), 0..40));
        let list = list.prop_map(|(kind, services, prefixes)| List { kind, services, prefixes, files: Vec::new() });
        prop::collection::vec(list, 0..6)
    }

    proptest! {
        #[test]
        fn an_address_is_listed_as_its_longest_prefix_says(lists in lists(), more in prop::collection::vec(address(), 40)) {
            let compiled = Lists::new(&lists, &["a", "b", "c"]).expect("few groups");
            let edges = lists.iter().flat_map(List::all).flat_map(|prefix| match (prefix.address, prefix.mask()) {
                (IpAddr::V4(first), IpAddr::V4(mask)) => {
                    let (first, last) = (first.to_bits(), first.to_bits() | !mask.to_bits());
                    [first, last, first.wrapping_sub(1), last.wrapping_add(1)].map(|at| IpAddr::from(Ipv4Addr::from_bits(at)))
                }
                (IpAddr::V6(first), IpAddr::V6(mask)) => {
                    let (first, last) = (first.to_bits(), first.to_bits() | !mask.to_bits());
                    [first, last, first.wrapping_sub(1), last.wrapping_add(1)].map(|at| IpAddr::from(Ipv6Addr::from_bits(at)))
                }
                _ => unreachable!("a mask is of its address's family"),
            });
            for source in edges.chain(more) {
                for (at, service) in ["a", "b", "c"].into_iter().enumerate() {
                    let found = compiled.as_ref().map_or(Listed::No, |lists| lists.listed_ip(source, at as u16));
                    prop_assert_eq!(found, naive(&lists, source, service), "{} of {}", source, service);
                }
            }
        }
    }

    #[test]
    fn a_hundred_thousand_prefixes_are_found() {
        let prefixes: Vec<Prefix> =
            (0..100_000u32).map(|at| Prefix::host(Ipv4Addr::from_bits(at.wrapping_mul(0x9e37_79b9)).into())).collect();
        let list = List { kind: ListKind::Deny, services: Vec::new(), prefixes, files: Vec::new() };
        let lists = Lists::new(std::slice::from_ref(&list), &["a"]).expect("one group").expect("a list");
        for at in 0..100_000u32 {
            let source = at.wrapping_mul(0x9e37_79b9);
            assert_eq!(lists.listed_v4(source, 0), Listed::Denied);
        }
        let listed: std::collections::HashSet<IpAddr> = list.prefixes.iter().map(|prefix| prefix.address).collect();
        let others = (0..100_000u32).map(|at| at.wrapping_mul(0x85eb_ca6b) ^ 5);
        for source in others.filter(|source| !listed.contains(&IpAddr::from(Ipv4Addr::from_bits(*source)))) {
            assert_eq!(lists.listed_v4(source, 0), Listed::No);
        }
    }

    #[test]
    fn services_that_differ_in_too_many_lists_are_refused() {
        let names: Vec<String> = (0..=LIST_GROUPS).map(|at| format!("s{at}")).collect();
        let list = |name: &String| List {
            kind: ListKind::Deny,
            services: vec![name.clone()],
            prefixes: vec![Prefix::host(Ipv4Addr::LOCALHOST.into())],
            files: Vec::new(),
        };
        let lists: Vec<List> = names.iter().map(list).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let refused = Lists::new(&lists, &names);
        assert_eq!(refused.err(), Some(TooManyGroups));
        assert!(Lists::new(&lists[1..], &names[1..]).is_ok());
    }
}
