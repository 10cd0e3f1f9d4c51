//! The control side of the tables: every service's first choices and failover orders, which servers are up, where they are;
//! compiles a `Table` of it. Owned by one control thread.

use super::index::Index;
use super::maglev::{self, Candidate, NOBODY};
use super::rendezvous::Rendezvous;
use super::{
    Address, Directory, EVERYTHING, NO_SERVICE, PLAIN, PackedMac, ServiceId, ServiceTable, Table, port_key, port_key_v4,
};
use crate::hash::Key;
use crate::plan::{HashInput, Mac, Plan, Selection, Service};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

pub struct Cluster {
    key: Key,
    generation: u64,
    layout: u64,
    directory: Arc<Directory>,
    services: Vec<ServiceState>,
}

struct ServiceState {
    /// Index into the directory's addresses.
    address: u16,
    flow: bool,
    modulo: bool,
    ranking: Arc<Ranking>,
    /// The first server of each slot's order that is up; shared with tables.
    owners: Arc<[u16]>,
    servers: Vec<ServerState>,
}

struct ServerState {
    name: String,
    address: IpAddr,
    weight: u32,
    up: bool,
    mac: Option<Mac>,
}

/// What depends on names, weights and slots alone; services that have the same share it.
struct Ranking {
    first: Arc<[u16]>,
    rendezvous: Rendezvous,
}

impl Cluster {
    /// All servers up, MACs as configured.
    pub fn new(plan: &Plan) -> Cluster {
        let key = Key::from(plan.hash_key);
        let (directory, addresses) = directory(&plan.services);
        let rankings = rankings(key, &plan.services);
        let services = plan.services.iter().zip(addresses).zip(rankings);
        let services = services.map(|((service, address), ranking)| ServiceState::new(service, address, ranking));
        Cluster { key, generation: 0, layout: 0, services: services.collect(), directory: Arc::new(directory) }
    }

    /// Takes a server up or down in every service that has it. Returns in how many its state changed; `None`: no service
    /// has a server of that name.
    pub fn set_up(&mut self, name: &str, up: bool) -> Option<usize> {
        let mut known = false;
        let mut changed = 0;
        for service in &mut self.services {
            if let Some(server) = service.servers.iter().position(|s| s.name == name) {
                known = true;
                changed += usize::from(service.switch(server, up));
            }
        }
        known.then_some(changed)
    }

    /// Takes the servers of one service up or down, as `up` says of each in the order of the plan. Returns how many changed.
    pub fn set_serving(&mut self, service: ServiceId, up: &[bool]) -> usize {
        let service = &mut self.services[service as usize];
        assert_eq!(up.len(), service.servers.len(), "one a server");
        up.iter().enumerate().filter(|(server, up)| service.switch(*server, **up)).count()
    }

    /// Notes the MAC of the servers with that primary address; `None`: not resolved.
    pub fn set_mac(&mut self, address: IpAddr, mac: Option<Mac>) {
        for server in self.services.iter_mut().flat_map(|s| &mut s.servers).filter(|s| s.address == address) {
            server.mac = mac;
        }
    }

    /// How many slots of a service each server owns now.
    pub fn shares(&self, service: ServiceId) -> Vec<u32> {
        let service = &self.services[service as usize];
        let mut shares = vec![0; service.servers.len()];
        for owner in service.owners.iter().filter(|owner| **owner != NOBODY) {
            shares[*owner as usize] += 1;
        }
        shares
    }

    /// The failover order of a slot: the first choice, then every other server of weight above 0.
    pub fn order(&self, service: ServiceId, slot: u32) -> Vec<u16> {
        let ranking = &self.services[service as usize].ranking;
        let first = ranking.first[slot as usize];
        let others = ranking.rendezvous.order(slot).into_iter().filter(|server| *server != first);
        std::iter::once(first).filter(|first| *first != NOBODY).chain(others).collect()
    }

    /// Numbers the list of services and servers that tables are compiled of from now on; 0 until then.
    pub fn set_layout(&mut self, layout: u64) {
        self.layout = layout;
    }

    /// A new table of the present state, one generation on.
    pub fn compile(&mut self) -> Table {
        self.generation += 1;
        let mut base = 0;
        let mut macs = Vec::new();
        let (mut own, mut loops) = (Vec::new(), Vec::new());
        let mut services = Vec::with_capacity(self.services.len());
        for service in &self.services {
            services.push(service.table(base));
            base += service.servers.len() as u32;
            for server in &service.servers {
                macs.push(PackedMac::from(server.mac));
                if let Some(mac) = server.mac {
                    own.push((PackedMac::from_bytes(mac.0).0, 0));
                    loops.push(((PackedMac::from_bytes(mac.0).0, service.address as u32), 0));
                }
            }
        }
        macs.push(PackedMac::UNRESOLVED);
        Table {
            generation: self.generation,
            layout: self.layout,
            key: self.key,
            directory: Arc::clone(&self.directory),
            services: services.into(),
            macs: macs.into(),
            own: Index::new(own),
            loops: Index::new(loops),
        }
    }
}

impl ServiceState {
    fn new(service: &Service, address: u16, ranking: Arc<Ranking>) -> ServiceState {
        ServiceState {
            address,
            flow: service.hash == HashInput::Flow,
            modulo: service.selection == Selection::Modulo,
            owners: Arc::clone(&ranking.first),
            ranking,
            servers: service
                .servers
                .iter()
                .map(|s| ServerState {
                    name: s.name.clone(),
                    address: s.address,
                    weight: s.weight,
                    up: true,
                    mac: s.mac,
                })
                .collect(),
        }
    }

    /// Whether that changed anything.
    fn switch(&mut self, server: usize, up: bool) -> bool {
        if self.servers[server].up == up {
            return false;
        }
        self.servers[server].up = up;
        if up {
            self.give_back(server as u16)
        } else {
            self.hand_over(server as u16)
        }
        true
    }

    /// `server` went down: its slots go to the next in their order that is up. No other slot is looked at, because the
    /// owner of a slot is the first of its order that is up, and that has not changed.
    fn hand_over(&mut self, server: u16) {
        let up: Vec<bool> = self.servers.iter().map(|s| s.up).collect();
        let mut election = self.ranking.rendezvous.among(&up);
        let owner = |(slot, owner): (usize, &u16)| match *owner == server {
            true => election.winner(slot as u32).unwrap_or(NOBODY),
            false => *owner,
        };
        self.owners = self.owners.iter().enumerate().map(owner).collect();
    }

    /// `server` came back: it gets the slots of which it is the first choice, and of those whose first choice is down the
    /// ones in which it comes before the present owner.
    fn give_back(&mut self, server: u16) {
        if self.servers[server as usize].weight == 0 {
            return;
        }
        let Ranking { first, rendezvous } = &*self.ranking;
        let owner = |(slot, (owner, first)): (usize, (&u16, &u16))| match *owner {
            _ if *first == server => server,
            NOBODY => server,
            owner if owner != *first && rendezvous.precedes(server, owner, slot as u32) => server,
            owner => owner,
        };
        self.owners = self.owners.iter().zip(first.iter()).enumerate().map(owner).collect();
    }

    fn table(&self, base: u32) -> ServiceTable {
        let remainder = |(i, s): (usize, &ServerState)| if s.up && s.weight > 0 { i as u16 } else { NOBODY };
        ServiceTable {
            owners: Arc::clone(&self.owners),
            slots: self.owners.len() as u32,
            base,
            flow: self.flow,
            remainders: self.modulo.then(|| self.servers.iter().enumerate().map(remainder).collect()),
        }
    }
}

/// Each service's ranking. Those that differ are made on all cores at once: thousands of services shall not keep a start
/// waiting.
fn rankings(key: Key, services: &[Service]) -> Vec<Arc<Ranking>> {
    let mut positions: HashMap<(Vec<Candidate>, u32), usize> = HashMap::new();
    let mut distinct: Vec<&Service> = Vec::new();
    let of_service: Vec<usize> = services
        .iter()
        .map(|service| {
            *positions.entry((candidates(service), service.slots)).or_insert_with(|| {
                distinct.push(service);
                distinct.len() - 1
            })
        })
        .collect();
    let made: Vec<OnceLock<Arc<Ranking>>> = distinct.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let make = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(service) = distinct.get(at) else { return };
            let candidates = candidates(service);
            made[at].get_or_init(|| {
                Arc::new(Ranking {
                    first: maglev::populate(key, &candidates, service.slots).into(),
                    rendezvous: Rendezvous::new(key, &candidates),
                })
            });
        }
    };
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get()).min(distinct.len());
    thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(make)));
        make();
    });
    of_service.into_iter().map(|at| Arc::clone(made[at].get().expect("all were made"))).collect()
}

fn candidates(service: &Service) -> Vec<Candidate<'_>> {
    service.servers.iter().map(|s| Candidate { name: &s.name, weight: s.weight }).collect()
}

/// The directory of the services, and each service's address in it.
fn directory(services: &[Service]) -> (Directory, Vec<u16>) {
    let mut ids: HashMap<IpAddr, u16> = HashMap::new();
    let mut addresses: Vec<Address> = Vec::new();
    let (mut ports_v4, mut ports_v6) = (Vec::new(), Vec::new());
    let mut of_service = Vec::with_capacity(services.len());
    for (i, service) in services.iter().enumerate() {
        let id = *ids.entry(service.address).or_insert_with(|| {
            let id = addresses.len() as u16;
            addresses.push(Address { id, any: NO_SERVICE, default: i as ServiceId, by_transport: [NO_SERVICE; 3] });
            id
        });
        of_service.push(id);
        let address = &mut addresses[id as usize];
        if service.ports.is_empty() {
            address.any = i as ServiceId;
            address.default = i as ServiceId;
        }
        for port in &service.ports {
            let first = &mut address.by_transport[port.transport as usize];
            *first = (*first).min(i as ServiceId);
        }
        let plain = service.hash == HashInput::Source && service.selection == Selection::Maglev;
        let value = i as u32 | if plain { PLAIN } else { 0 };
        let everything = service.ports.is_empty().then_some(EVERYTHING);
        let keys =
            service.ports.iter().map(|p| port_key(p.transport.protocol(), p.number.to_be_bytes())).chain(everything);
        match service.address {
            IpAddr::V4(address) => ports_v4.extend(keys.map(|key| (port_key_v4(address.octets(), key), value))),
            IpAddr::V6(address) => {
                ports_v6.extend(keys.map(|key| ((u128::from_le_bytes(address.octets()), key), value)))
            }
        }
    }
    for address in &mut addresses {
        for first in address.by_transport.iter_mut().filter(|first| **first == NO_SERVICE) {
            *first = address.any;
        }
    }
    let v4 = ids.iter().filter_map(|(a, id)| match a {
        IpAddr::V4(a) => Some((a.to_bits(), *id as u32)),
        IpAddr::V6(_) => None,
    });
    let v6 = ids.iter().filter_map(|(a, id)| match a {
        IpAddr::V4(_) => None,
        IpAddr::V6(a) => Some((a.to_bits(), *id as u32)),
    });
    let directory = Directory {
        v4: Index::new(v4),
        v6: Index::new(v6),
        addresses: addresses.into(),
        ports_v4: Index::new(ports_v4),
        ports_v6: Index::new(ports_v6),
    };
    (directory, of_service)
}
