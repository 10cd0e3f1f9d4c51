//! Which clients a server has by one state of the cluster. What it gets more by the next, others must have given up before
//! it takes it: for a moment nobody answers those clients, but never two.

use std::collections::HashMap;

use crate::table::build::Cluster;
use crate::table::build::maglev::NOBODY;
use crate::table::{MIGRATING, Rule, ServiceId, ServiceTable};

/// The places of every service's table that are one server's.
#[derive(Default)]
pub struct View {
    /// By name.
    services: HashMap<String, Places>,
}

/// A service's.
pub struct Places {
    /// By another one clients have other places.
    rule: Rule,
    slots: Set,
    /// `modulo`: by remainder.
    remainders: Set,
    /// `modulo`: the remainders whose server is out, so that the slot decides.
    free: Set,
}

/// Small numbers, a bit each.
struct Set(Box<[u64]>);

impl View {
    /// By the present state of the cluster, of the server of that name.
    pub fn of(cluster: &Cluster, server: &str) -> View {
        let services = (0..cluster.services() as ServiceId).filter_map(|id| {
            let me = cluster.position(id, server)?;
            Some((cluster.name(id).to_owned(), Places::of(&cluster.service(id), me)))
        });
        View { services: services.collect() }
    }

    /// `None`: the server had no clients of that service, or clients had other places.
    pub fn places(&self, service: &str, now: &ServiceTable) -> Option<&Places> {
        self.services.get(service).filter(|places| places.rule == now.rule)
    }

    /// Whether it is certain that every client that the server has here it has by `other` as well.
    pub fn is_within(&self, other: &View) -> bool {
        self.services.iter().all(|(name, here)| {
            let there = other.services.get(name).filter(|there| there.rule == here.rule);
            match there {
                Some(there) => here.sets().into_iter().zip(there.sets()).all(|(here, there)| here.is_within(there)),
                None => here.sets().into_iter().all(Set::is_empty),
            }
        })
    }

    /// Leaves what the server has by `other` as well.
    pub fn keep(&mut self, other: &View) {
        self.services.retain(|name, here| {
            let there = other.services.get(name).filter(|there| there.rule == here.rule);
            there.is_some_and(|there| {
                here.slots.keep(&there.slots);
                here.remainders.keep(&there.remainders);
                here.free.keep(&there.free);
                true
            })
        });
    }
}

impl Places {
    fn of(table: &ServiceTable, me: u16) -> Places {
        let of = |whose: u16, owners: &[u16]| Set::of(owners.iter().map(|owner| owner & !MIGRATING == whose));
        let by_remainder = table.remainders().unwrap_or_default();
        Places {
            rule: table.rule,
            slots: of(me, table.owners()),
            remainders: of(me, by_remainder),
            free: of(NOBODY, by_remainder),
        }
    }

    fn sets(&self) -> [&Set; 3] {
        [&self.slots, &self.remainders, &self.free]
    }

    pub fn has_slot(&self, slot: usize) -> bool {
        self.slots.has(slot)
    }

    pub fn has_remainder(&self, remainder: usize) -> bool {
        self.remainders.has(remainder)
    }

    pub fn is_free(&self, remainder: usize) -> bool {
        self.free.has(remainder)
    }
}

impl Set {
    fn of(members: impl ExactSizeIterator<Item = bool>) -> Set {
        let mut words = vec![0; members.len().div_ceil(64)];
        members.enumerate().for_each(|(at, is)| words[at / 64] |= u64::from(is) << (at % 64));
        Set(words.into())
    }

    fn has(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Both are of as many.
    fn is_within(&self, other: &Set) -> bool {
        self.0.iter().zip(&other.0).all(|(here, there)| here & !there == 0)
    }

    fn keep(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(here, there)| *here &= there);
    }
}
