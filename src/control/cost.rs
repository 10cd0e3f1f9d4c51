//! What another configuration costs the clients: how many get another server, and how many of them for nothing.
//!
//! Both configurations are asked about the same clients, chosen at random. When servers come, go or get another weight, some
//! clients must move: as many as the shares change by. Whatever moves beyond that moves for a change of the rule (the key,
//! `slots`, `hash`, the number of servers under `modulo`) or of the servers' names.

use crate::hash::{self, Key};
use crate::limits::{COST_CLIENTS, MOVED_MOST, MOVED_TOLD};
use crate::model::{HashInput, Plan, Service};
use crate::table::build::{Cluster, Renewal};
use crate::table::{ServiceId, ServiceTable};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

/// That of one service. Parts of its clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    pub service: String,
    /// Get another server.
    pub moved: f64,
    /// Must, since its servers come, go or get another weight.
    pub must: f64,
    pub slots: u32,
    /// Slots that get another server; `None`: the rule is another one, and a slot's clients are others.
    pub moved_slots: Option<u32>,
    pub drain: Duration,
}

impl Cost {
    /// Whether somebody should hear of it before it is done.
    pub fn is_told(&self) -> bool {
        self.moved - self.must >= MOVED_TOLD
    }

    /// Whether so many move for nothing that somebody must have meant it.
    pub fn is_too_much(&self) -> bool {
        self.moved - self.must > MOVED_MOST
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { service, moved, must, drain, .. } = self;
        let percent = |part: f64| (100.0 * part).round();
        write!(f, "service {service}: {} % of its clients get another server", percent(*moved))?;
        write!(f, ", although the change of servers needs only {} %; ", percent(*must))?;
        match drain.as_secs() {
            0 => write!(f, "their connections break (drain_s = 0)"),
            stay => write!(f, "connections stay where they are for {stay} s"),
        }
    }
}

/// The services in which clients move.
pub fn of(old: &Plan, new: &Plan, cluster: &Cluster, renewal: &Renewal) -> Vec<Cost> {
    let mut sample = Sample::default();
    let services = new.services.iter().enumerate();
    let costs = services.filter_map(|(at, service)| {
        let before = &old.services[renewal.continues(at as ServiceId)? as usize];
        sample.cost((cluster, renewal), before, (at as ServiceId, service))
    });
    costs.filter(|cost| cost.moved > 0.0 || cost.moved_slots != Some(0)).collect()
}

/// The clients that are asked about, and their hashes.
#[derive(Default)]
struct Sample {
    /// By source, of IPv4 or not, by key.
    known: Vec<(bool, Key, Rc<[u64]>)>,
}

impl Sample {
    /// `None`: nobody is served, or by the same rule and servers as before.
    fn cost(
        &mut self,
        (cluster, renewal): (&Cluster, &Renewal),
        before: &Service,
        (id, after): (ServiceId, &Service),
    ) -> Option<Cost> {
        let then = renewal.promised(id, cluster)?;
        let now = cluster.service(renewal.continues(id)?);
        let hashes = [self.hashes(now.rule.key, before), self.hashes(then.rule.key, after)];
        let mut shares: HashMap<IpAddr, (u32, u32)> = HashMap::new();
        let (mut served, mut moved) = (0, 0);
        for (at, client) in clients(after.address.is_ipv4()).enumerate() {
            let number = match client {
                IpAddr::V4(client) => client.to_bits().into(),
                IpAddr::V6(client) => client.to_bits(),
            };
            let Some(was) = now.select(hashes[0][at], number).1.map(|at| before.servers[at as usize].address) else {
                continue;
            };
            let will = then.select(hashes[1][at], number).1.map(|at| after.servers[at as usize].address);
            served += 1;
            moved += u32::from(will != Some(was));
            shares.entry(was).or_default().0 += 1;
            will.into_iter().for_each(|will| shares.entry(will).or_default().1 += 1);
        }
        let must: u32 = shares.values().map(|(before, after)| before.saturating_sub(*after)).sum();
        let part = |clients: u32| f64::from(clients) / f64::from(served);
        let (service, drain) = (after.name.clone(), after.drain);
        let moved_slots = moved_slots((&now, before), (&then, after));
        let slots = then.rule.slots;
        (served > 0).then(|| Cost { service, moved: part(moved), must: part(must), slots, moved_slots, drain })
    }

    /// Thousands of services hash the same clients by the same key.
    fn hashes(&mut self, key: Key, service: &Service) -> Rc<[u64]> {
        let v4 = service.address.is_ipv4();
        if service.hash == HashInput::Flow {
            let flow = |(at, client)| hash::flow(key, client, service.address, (at as u16, 443), 6);
            return clients(v4).enumerate().map(flow).collect();
        }
        if let Some((.., hashes)) = self.known.iter().find(|(family, of, _)| (*family, *of) == (v4, key)) {
            return Rc::clone(hashes);
        }
        let hashes: Rc<[u64]> = clients(v4).map(|client| hash::source(key, client)).collect();
        self.known.push((v4, key, Rc::clone(&hashes)));
        hashes
    }
}

/// How many slots get another server. `None`: a slot does not have the same clients then, or the hash is not all that decides.
fn moved_slots((now, before): (&ServiceTable, &Service), (then, after): (&ServiceTable, &Service)) -> Option<u32> {
    let rule = |table: &ServiceTable| (table.rule.key, table.rule.flow, table.rule.slots);
    if rule(now) != rule(then) || now.remainders().is_some() || then.remainders().is_some() {
        return None;
    }
    let server = |table: &ServiceTable, of: &Service, slot| table.owner(slot).map(|at| of.servers[at as usize].address);
    let is_moved = |slot: &u32| server(now, before, *slot) != server(then, after, *slot);
    Some((0..now.rule.slots).filter(is_moved).count() as u32)
}

/// The same each time.
fn clients(v4: bool) -> impl Iterator<Item = IpAddr> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..COST_CLIENTS).map(move |_| match v4 {
        true => IpAddr::from(random.u32(..).to_be_bytes()),
        false => IpAddr::from(Ipv6Addr::from_bits(random.u128(..))),
    })
}
