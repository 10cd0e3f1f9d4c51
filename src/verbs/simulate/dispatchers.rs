//! Several dispatchers behind a router that spreads flows over them by hash (ECMP): what a death does, and what it costs when they
//! do not choose alike.

use super::clients::{Client, Clients};
use super::configured::cluster;
use crate::hash::{self, Key, splitmix};
use crate::model::{HashKey, Plan, Service};
use crate::table::build::State;
use crate::table::{ServiceId, ServiceTable};
use serde::Serialize;

/// The only service of the clusters here.
const SERVICE: ServiceId = 0;

/// Flows that are made of a client: as many as it has requests, and at most these.
const FLOWS: u64 = 16;

/// What several dispatchers do. Shares are parts of all flows.
#[derive(Serialize)]
pub struct Dispatchers {
    pub count: u32,
    /// What each gets.
    pub shares: Vec<f64>,
    /// One of them dies, on average over which.
    pub deaths: Vec<Death>,
    /// Flows that get another server because one dispatcher has another `hash_key`.
    pub another_key: f64,
    pub servers: Vec<Disagreement>,
}

/// What a router does with the flows of a dispatcher that dies.
#[derive(Serialize)]
pub struct Death {
    pub ecmp: &'static str,
    /// Reach another dispatcher than before.
    pub moved: f64,
    /// Those of them whose own dispatcher lives.
    pub needlessly: f64,
    /// Those of them that get another server there. The dispatchers' files list the servers in different orders.
    pub another_server: f64,
}

impl Death {
    fn of(ecmp: &'static str) -> Death {
        Death { ecmp, moved: 0.0, needlessly: 0.0, another_server: 0.0 }
    }

    /// A part of all flows moves.
    fn note(&mut self, part: f64, has_to: bool, is_alike: bool) {
        self.moved += part;
        self.needlessly += if has_to { 0.0 } else { part };
        self.another_server += if is_alike { 0.0 } else { part };
    }
}

/// About a server.
#[derive(Serialize)]
pub struct Disagreement {
    pub server: String,
    /// Get another server while one dispatcher alone takes this one for down.
    pub one_sees_it_down: f64,
    /// New flows that a dispatcher must remember while this server drains: its death then loses the memory of its own.
    pub remembered_while_it_drains: f64,
}

/// How a router chooses among next hops.
#[derive(Clone, Copy)]
enum Ecmp {
    /// Each has an equal region of the hash's range: RFC 2992, and Linux without resilient groups.
    HashThreshold,
    /// Buckets keep their next hop as long as it lives: Linux's resilient next-hop groups, and most switches.
    Resilient,
}

impl Ecmp {
    fn name(self) -> &'static str {
        match self {
            Ecmp::HashThreshold => "hash threshold",
            Ecmp::Resilient => "resilient",
        }
    }

    /// Who gets a flow when `dead` has died, of `count` before.
    fn after(self, flow: u64, count: u32, dead: u32) -> u32 {
        let hash = match (self, region(flow, count)) {
            (Ecmp::Resilient, before) if before != dead => return before,
            (Ecmp::Resilient, _) => mix(flow),
            (Ecmp::HashThreshold, _) => flow,
        };
        let alive = region(hash, count - 1);
        alive + u32::from(alive >= dead)
    }
}

/// Which of `count` equal regions a hash is in.
fn region(hash: u64, count: u32) -> u32 {
    splitmix::scale(hash, u64::from(count)) as u32
}

/// A stand-in for the router's hash.
fn mix(number: u64) -> u64 {
    splitmix::mix(number.wrapping_add(splitmix::STEP))
}

/// The router's hash of each flow of a client, and how many requests each stands for.
fn flows(client: &Client) -> impl Iterator<Item = (u64, f64)> {
    let count = client.requests.min(FLOWS);
    let address = mix(client.number as u64) ^ mix((client.number >> 64) as u64 ^ 1);
    (0..count).map(move |flow| (mix(address ^ flow), client.requests as f64 / count as f64))
}

/// What `count` of them do with these clients.
pub fn simulate(plan: &Plan, service: &Service, clients: &Clients, count: u32) -> Dispatchers {
    let servers = service.servers.len();
    let mut cluster_ = cluster(plan, service.clone());
    let table = cluster_.service(SERVICE);
    let of = |table: &ServiceTable, client: &Client| table.select(client.hash, client.number).1;

    let mut reversed = service.clone();
    reversed.servers.reverse();
    let reversed = cluster(plan, reversed).service(SERVICE);
    let mirrored = |server: u16| servers as u16 - 1 - server;

    let all = clients.total.requests as f64;
    let mut shares = vec![0.0; count as usize];
    let mut deaths = [Ecmp::HashThreshold, Ecmp::Resilient].map(|ecmp| (ecmp, Death::of(ecmp.name())));
    for client in &clients.all {
        let is_alike = of(&reversed, client).map(mirrored) == of(&table, client);
        for (flow, requests) in flows(client) {
            let (before, part) = (region(flow, count), requests / all);
            shares[before as usize] += part;
            for (ecmp, death) in &mut deaths {
                for dead in (0..count).filter(|dead| ecmp.after(flow, count, *dead) != before) {
                    death.note(part / f64::from(count), dead == before, is_alike);
                }
            }
        }
    }

    // At the first dispatcher alone something is otherwise: of its flows those count that it gives to another server.
    let at_first =
        |client: &Client| flows(client).filter(|(flow, _)| region(*flow, count) == 0).map(|(_, n)| n).sum::<f64>();
    let differing = |differs: &dyn Fn(&Client) -> bool| {
        clients.all.iter().filter(|client| differs(client)).map(at_first).fold(0.0, |sum, n| sum + n) / all
    };

    let other = HashKey(plan.hash_key.0.map(|byte| !byte));
    let other_table = cluster(&Plan { hash_key: other, ..plan.clone() }, service.clone()).service(SERVICE);
    let other = Key::from(other);
    let another_key = differing(&|client| {
        let hash = hash::source(other, clients.address(client));
        other_table.select(hash, client.number).1 != of(&table, client)
    });

    let taking = (0..servers).filter(|at| service.servers[*at].weight > 0);
    let disagreement = |at: usize| {
        let mut with = |state: State| {
            let mut states = vec![State::Active; servers];
            states[at] = state;
            cluster_.set_states(SERVICE, &states, 0, 0);
            cluster_.service(SERVICE)
        };
        let (down, draining) = (with(State::Down), with(State::Draining));
        let new = clients.all.iter().filter(|client| of(&draining, client) != of(&table, client));
        Disagreement {
            server: service.servers[at].name.clone(),
            one_sees_it_down: differing(&|client| of(&down, client) != of(&table, client)),
            remembered_while_it_drains: new.map(|client| client.requests as f64).sum::<f64>() / all,
        }
    };
    let servers = taking.map(disagreement).collect();
    Dispatchers { count, shares, deaths: deaths.map(|(_, death)| death).into(), another_key, servers }
}
