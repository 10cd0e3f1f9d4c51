//! The clients of a service, and sums over them.

use super::census::Census;
use crate::hash::{self, Key};
use crate::model::Service;
use serde::Serialize;
use std::collections::HashMap;
use std::iter::Sum;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{AddAssign, Sub};

/// How much of the clients a server has, or a change moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    pub clients: u64,
    pub requests: u64,
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Load) {
        self.clients += other.clients;
        self.requests += other.requests;
    }
}

impl Sum for Load {
    fn sum<I: Iterator<Item = Load>>(loads: I) -> Load {
        loads.fold(Load::default(), |mut sum, load| {
            sum += load;
            sum
        })
    }
}

impl Sub for Load {
    type Output = Load;

    fn sub(self, other: Load) -> Load {
        Load { clients: self.clients - other.clients, requests: self.requests - other.requests }
    }
}

#[derive(Clone, Copy)]
pub struct Client {
    /// The address in host byte order.
    pub number: u128,
    /// SipHash-1-3 of the address.
    pub hash: u64,
    pub requests: u64,
}

impl Client {
    pub fn load(&self) -> Load {
        Load { clients: 1, requests: self.requests }
    }
}

/// Clients that selection cannot tell apart, by one of them.
#[derive(Clone, Copy)]
pub struct Group {
    pub number: u128,
    pub hash: u64,
    pub load: Load,
}

pub struct Clients {
    /// Each once, in no order.
    pub all: Vec<Client>,
    pub total: Load,
    /// What was left out because its addresses are of the other family than the cluster address.
    pub foreign: Load,
    is_v4: bool,
}

impl Clients {
    pub fn of(census: Census, service: &Service, key: Key) -> Clients {
        let is_v4 = service.address.is_ipv4();
        let Census { v4, v6 } = census;
        let (v4_load, v6_load) = (load(v4.values()), load(v6.values()));
        let client =
            |number: u128, requests: u64| Client { number, hash: hash::source(key, address(number, is_v4)), requests };
        match is_v4 {
            true => {
                let all = v4.into_iter().map(|(number, requests)| client(u128::from(number), requests)).collect();
                Clients { all, total: v4_load, foreign: v6_load, is_v4 }
            }
            false => {
                let all = v6.into_iter().map(|(number, requests)| client(number, requests)).collect();
                Clients { all, total: v6_load, foreign: v4_load, is_v4 }
            }
        }
    }

    #[cfg(test)]
    pub fn some(all: Vec<Client>) -> Clients {
        let total = all.iter().map(Client::load).sum();
        Clients { all, total, foreign: Load::default(), is_v4: true }
    }

    pub fn address(&self, client: &Client) -> IpAddr {
        address(client.number, self.is_v4)
    }

    /// The `most` clients with the most requests; of equals the lower address first.
    pub fn heaviest(&self, most: usize) -> Vec<Client> {
        let mut clients: Vec<&Client> = self.all.iter().collect();
        let rank = |client: &&Client| (std::cmp::Reverse(client.requests), client.number);
        if clients.len() > most {
            clients.select_nth_unstable_by_key(most, rank);
            clients.truncate(most);
        }
        clients.sort_unstable_by_key(rank);
        clients.into_iter().copied().collect()
    }

    /// Together those for whom `alike` is the same.
    pub fn groups(&self, alike: impl Fn(&Client) -> (u32, u32)) -> Vec<Group> {
        let mut groups: HashMap<(u32, u32), Group> = HashMap::new();
        for client in &self.all {
            let Client { number, hash, .. } = *client;
            let new = Group { number, hash, load: Load::default() };
            groups.entry(alike(client)).or_insert(new).load += client.load();
        }
        groups.into_values().collect()
    }
}

fn load<'a>(requests: impl Iterator<Item = &'a u64>) -> Load {
    requests.map(|requests| Load { clients: 1, requests: *requests }).sum()
}

fn address(number: u128, is_v4: bool) -> IpAddr {
    match is_v4 {
        true => Ipv4Addr::from_bits(number as u32).into(),
        false => Ipv6Addr::from_bits(number).into(),
    }
}
