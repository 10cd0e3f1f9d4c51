//! Which clients a server has by one state of the cluster. What it gets more by the next, others must have given up before
//! it takes it: for a moment nobody answers those clients, but never two.

use std::collections::{HashMap, HashSet};

use crate::table::build::maglev::NOBODY;
use crate::table::build::{Cluster, State};
use crate::table::{MIGRATING, Rule, ServiceId, ServiceTable};

/// The places of every service's table that are one server's.
#[derive(Clone, Default)]
pub struct View {
    /// By name.
    services: HashMap<String, Places>,
}

/// A service's.
#[derive(Clone)]
pub struct Places {
    /// By another one clients have other places.
    rule: Rule,
    slots: Set,
    /// Those that are the server's whoever else is up.
    firsts: Set,
    /// `modulo`: by remainder.
    remainders: Set,
    /// `modulo`: the remainders whose server is out, so that the slot decides.
    free: Set,
}

/// Small numbers, a bit each.
#[derive(Clone)]
struct Set(Box<[u64]>);

impl View {
    /// By the present state of the cluster, of the server of that name.
    pub fn of(cluster: &Cluster, server: &str) -> View {
        let services = (0..cluster.services() as ServiceId).filter_map(|id| {
            let me = cluster.position(id, server)?;
            Some((cluster.name(id).to_owned(), Places::of(&cluster.service(id), cluster.first_choices(id), me)))
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

    /// What the server has of its own, whoever else is up.
    pub fn own(&self) -> View {
        View { services: self.services.iter().map(|(name, places)| (name.clone(), places.own())).collect() }
    }

    /// Takes what the server has by `other` and has a place here.
    pub fn join(&mut self, other: &View) {
        for (name, there) in &other.services {
            match self.services.get_mut(name) {
                Some(here) if here.rule == there.rule => {
                    here.slots.join(&there.slots);
                    here.remainders.join(&there.remainders);
                    here.free.join(&there.free);
                }
                Some(_) => {}
                None => _ = self.services.insert(name.clone(), there.clone()),
            }
        }
    }

    /// Leaves what the server does not have by `other`, of services that are there too.
    pub fn leave_out(&mut self, other: &View) {
        self.services.retain(|name, here| {
            let there = other.services.get(name).filter(|there| there.rule == here.rule);
            there.is_some_and(|there| {
                here.slots.leave_out(&there.slots);
                here.remainders.leave_out(&there.remainders);
                here.free.leave_out(&there.free);
                !here.slots.is_empty() || !here.remainders.is_empty()
            })
        });
    }

    /// Leaves services for which the server is there, if only for connections that it has.
    pub fn keep_served(&mut self, cluster: &Cluster, server: &str) {
        if self.is_empty() {
            return;
        }
        for id in 0..cluster.services() as ServiceId {
            let is_down = |me: u16| cluster.state(id, me.into()) == State::Down;
            if cluster.position(id, server).is_none_or(is_down) {
                self.services.remove(cluster.name(id));
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
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

/// Which servers take clients, by service and name.
#[derive(Default, PartialEq, Eq)]
pub struct Active(HashSet<(String, String)>);

impl Active {
    pub fn of(cluster: &Cluster) -> Active {
        let of = |id: ServiceId| cluster.active(id).map(move |name| (cluster.name(id).to_owned(), name.to_owned()));
        Active((0..cluster.services() as ServiceId).flat_map(of).collect())
    }

    /// Whether any takes clients that did not.
    pub fn has_more_than(&self, before: &Active) -> bool {
        !self.0.is_subset(&before.0)
    }
}

impl Places {
    fn of(table: &ServiceTable, first_choices: &[u16], me: u16) -> Places {
        let of = |whose: u16, owners: &[u16]| Set::of(owners.iter().map(|owner| owner & !MIGRATING == whose));
        let by_remainder = table.remainders().unwrap_or_default();
        Places {
            rule: table.rule,
            slots: of(me, table.owners()),
            // By remainder it is not the slot that says whose a client is while all are up.
            firsts: of(if table.remainders().is_some() { NOBODY } else { me }, first_choices),
            remainders: of(me, by_remainder),
            free: of(NOBODY, by_remainder),
        }
    }

    /// What the server has whoever else is up.
    fn own(&self) -> Places {
        let mut own = self.clone();
        own.slots.keep(&self.firsts);
        own
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

    fn join(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(here, there)| *here |= there);
    }

    fn leave_out(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(here, there)| *here &= !there);
    }

    fn keep(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(here, there)| *here &= there);
    }
}
