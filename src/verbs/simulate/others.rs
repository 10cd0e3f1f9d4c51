//! What others do, for comparison: modulo, plain Maglev, plain rendezvous hashing. Each knows weights as far as it does where it
//! comes from. The server that may be added stands behind the others.

use super::change::{Change, Moves, Scheme, loads};
use super::clients::{Client, Clients, Load};
use crate::hash::{self, Key};
use crate::table::build::maglev::{self, Candidate, NOBODY};
use crate::table::build::rendezvous;
use std::collections::HashMap;

/// The address as a number modulo the servers that are there: all the same weight, if they have one.
pub struct Modulo<'a> {
    clients: &'a Clients,
    servers: usize,
    live: Vec<u16>,
    /// By how many servers there are after a change: clients by their remainder before and the one after.
    remainders: HashMap<usize, Vec<Vec<Load>>>,
}

impl<'a> Modulo<'a> {
    pub fn new(servers: &[Candidate], clients: &'a Clients) -> Modulo<'a> {
        let live = (0u16..).zip(servers).filter(|(_, server)| server.weight > 0).map(|(at, _)| at).collect();
        Modulo { clients, servers: servers.len(), live, remainders: HashMap::new() }
    }

    fn remainder(client: &Client, servers: usize) -> usize {
        (client.number % servers as u128) as usize
    }
}

impl Scheme for Modulo<'_> {
    fn name(&self) -> &'static str {
        "modulo"
    }

    fn loads(&self) -> Vec<Load> {
        let server = |client: &Client| self.live[Self::remainder(client, self.live.len())];
        loads(self.servers, self.clients.all.iter().map(|client| (server(client), client.load())))
    }

    fn tell(&mut self, change: &Change, moves: &mut Moves) {
        let mut after: Vec<u16> = self.live.iter().copied().filter(|server| !change.out().contains(server)).collect();
        if matches!(change, Change::Add) {
            after.push(self.servers as u16);
        }
        // With nobody left all have the remainder 0, and at that place is nobody.
        let (before, divisor) = (self.live.len(), after.len().max(1));
        let by_remainders = self.remainders.entry(divisor).or_insert_with(|| {
            let mut by_remainders = vec![vec![Load::default(); divisor]; before];
            for client in &self.clients.all {
                by_remainders[Self::remainder(client, before)][Self::remainder(client, divisor)] += client.load();
            }
            by_remainders
        });
        for (from, row) in self.live.iter().zip(by_remainders) {
            for (at, load) in row.iter().enumerate() {
                moves.note(*from, after.get(at).copied(), *load);
            }
        }
    }
}

/// Maglev as in the paper (see `table::maglev`): each change populates the table anew with those that are there.
pub struct Maglev<'a> {
    key: Key,
    servers: &'a [Candidate<'a>],
    added: Option<Candidate<'a>>,
    by_slot: Vec<Load>,
    now: Box<[u16]>,
}

impl<'a> Maglev<'a> {
    pub fn new(
        key: Key,
        servers: &'a [Candidate<'a>],
        added: Option<Candidate<'a>>,
        slots: u32,
        clients: &Clients,
    ) -> Maglev<'a> {
        let mut by_slot = vec![Load::default(); slots as usize];
        clients.all.iter().for_each(|client| by_slot[hash::slot(client.hash, slots) as usize] += client.load());
        Maglev { key, servers, added, by_slot, now: maglev::populate(key, servers, slots) }
    }
}

impl Scheme for Maglev<'_> {
    fn name(&self) -> &'static str {
        "maglev"
    }

    fn loads(&self) -> Vec<Load> {
        loads(self.servers.len(), self.now.iter().copied().zip(self.by_slot.iter().copied()))
    }

    fn tell(&mut self, change: &Change, moves: &mut Moves) {
        let mut candidates = self.servers.to_vec();
        // Without weight it has no turn in the population, as if it were not there.
        change.out().iter().for_each(|server| candidates[*server as usize].weight = 0);
        if matches!(change, Change::Add) {
            candidates.extend(self.added);
        }
        let after = maglev::populate(self.key, &candidates, self.by_slot.len() as u32);
        for ((from, to), load) in self.now.iter().zip(&after).zip(&self.by_slot) {
            moves.note(*from, Some(*to).filter(|to| *to != NOBODY), *load);
        }
    }
}

/// Weighted rendezvous hashing of (client, server), see `table::rendezvous`: the client's hash in place of the slot.
pub struct Rendezvous {
    ranking: rendezvous::Rendezvous,
    /// Whether each server takes clients; the one that may be added does not yet.
    up: Vec<bool>,
    /// By server: the clients that are its own.
    owned: Vec<Vec<Owned>>,
}

struct Owned {
    hash: u32,
    requests: u64,
}

impl Owned {
    fn load(&self) -> Load {
        Load { clients: 1, requests: self.requests }
    }
}

impl Rendezvous {
    pub fn new(key: Key, servers: &[Candidate], added: Option<Candidate>, clients: &Clients) -> Rendezvous {
        let all: Vec<Candidate> = servers.iter().copied().chain(added).collect();
        let ranking = rendezvous::Rendezvous::new(key, &all);
        let up: Vec<bool> = (0..all.len()).map(|at| at < servers.len()).collect();
        let mut owned: Vec<Vec<Owned>> = servers.iter().map(|_| Vec::new()).collect();
        let mut election = ranking.among(&up);
        for Client { hash, requests, .. } in &clients.all {
            let hash = (hash >> 32) as u32;
            let owner = election.winner(hash).expect("a server takes clients");
            owned[owner as usize].push(Owned { hash, requests: *requests });
        }
        Rendezvous { ranking, up, owned }
    }
}

impl Scheme for Rendezvous {
    fn name(&self) -> &'static str {
        "rendezvous"
    }

    fn loads(&self) -> Vec<Load> {
        self.owned.iter().map(|clients| clients.iter().map(Owned::load).sum()).collect()
    }

    /// Who wins among all wins among fewer: only clients of those that leave are asked about again, and about a server that
    /// comes only whether it wins against the owner.
    fn tell(&mut self, change: &Change, moves: &mut Moves) {
        if matches!(change, Change::Add) {
            let added = self.owned.len() as u16;
            for (from, clients) in (0..).zip(&self.owned) {
                let to = |client: &Owned| if self.ranking.precedes(added, from, client.hash) { added } else { from };
                clients.iter().for_each(|client| moves.note(from, Some(to(client)), client.load()));
            }
            return;
        }
        let mut up = self.up.clone();
        change.out().iter().for_each(|server| up[*server as usize] = false);
        let mut election = self.ranking.among(&up);
        for from in change.out() {
            for client in &self.owned[*from as usize] {
                moves.note(*from, election.winner(client.hash), client.load());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::simulate::clients::Client;

    const WEIGHTS: [u32; 5] = [2, 1, 0, 1, 3];
    const SLOTS: u32 = 1009;
    const NAMES: [&str; 6] = ["web1", "web2", "web3", "web4", "web5", "web6"];

    fn key() -> Key {
        Key::new(1, 2)
    }

    fn clients() -> Clients {
        let client = |n: u32| {
            let address = n.wrapping_mul(2_654_435_761);
            let hash = hash::source(key(), std::net::Ipv4Addr::from_bits(address).into());
            Client { number: u128::from(address), hash, requests: u64::from(n % 7 + 1) }
        };
        Clients::some((0..3000).map(client).collect())
    }

    /// Servers by weight; the last may be added.
    fn candidates(weights: &[u32]) -> Vec<Candidate<'static>> {
        NAMES.into_iter().zip(weights).map(|(name, weight)| Candidate { name, weight: *weight }).collect()
    }

    /// What a scheme says of every change, beside `owner`: whose client it is, with servers of such weights.
    fn agree(scheme: &mut dyn Scheme, clients: &Clients, owner: impl Fn(&[u32], &Client) -> Option<u16>) {
        let before = scheme.loads();
        let of = |client: &Client| owner(&WEIGHTS, client).unwrap();
        assert_eq!(before, loads(5, clients.all.iter().map(|client| (of(client), client.load()))));
        let outs: [&[u16]; 6] = [&[0], &[1], &[4], &[0, 4], &[1, 3], &[0, 1, 3, 4]];
        for change in outs.map(Change::Fail).into_iter().chain(outs.map(Change::Drain)).chain([Change::Add]) {
            let mut weights = WEIGHTS.to_vec();
            change.out().iter().for_each(|server| weights[*server as usize] = 0);
            weights.extend(matches!(change, Change::Add).then_some(1));
            let (mut told, mut naive) = (Moves::new(&change, &before), Moves::new(&change, &before));
            scheme.tell(&change, &mut told);
            clients.all.iter().for_each(|client| naive.note(of(client), owner(&weights, client), client.load()));
            let all = |moves: Moves| (moves.moved, moves.healthy, moves.to, moves.nobody, moves.after);
            let (told, naive) = (all(told), all(naive));
            assert!(naive.0.clients > 0, "{change:?} moves someone");
            assert_eq!(told, naive, "{} {change:?}", scheme.name());
        }
    }

    #[test]
    fn modulo_is_the_remainder() {
        let clients = clients();
        agree(&mut Modulo::new(&candidates(&WEIGHTS), &clients), &clients, |weights, client| {
            let live: Vec<u16> = (0..).zip(weights).filter(|(_, weight)| **weight > 0).map(|(at, _)| at).collect();
            live.get((client.number as usize).checked_rem(live.len())?).copied()
        });
    }

    #[test]
    fn maglev_is_populated_with_those_that_are_there() {
        let (clients, servers) = (clients(), candidates(&WEIGHTS));
        let added = Some(Candidate { name: NAMES[5], weight: 1 });
        agree(&mut Maglev::new(key(), &servers, added, SLOTS, &clients), &clients, |weights, client| {
            let there: Vec<Candidate> = candidates(weights).into_iter().filter(|server| server.weight > 0).collect();
            let table = maglev::populate(key(), &there, SLOTS);
            let name = there.get(table[hash::slot(client.hash, SLOTS) as usize] as usize)?.name;
            NAMES.iter().position(|known| *known == name).map(|at| at as u16)
        });
    }

    #[test]
    fn rendezvous_is_won_by_the_best_of_all() {
        let (clients, servers) = (clients(), candidates(&WEIGHTS));
        let added = Some(Candidate { name: NAMES[5], weight: 1 });
        agree(&mut Rendezvous::new(key(), &servers, added, &clients), &clients, |weights, client| {
            let ranking = rendezvous::Rendezvous::new(key(), &candidates(weights));
            ranking.order((client.hash >> 32) as u32).first().copied()
        });
    }
}
