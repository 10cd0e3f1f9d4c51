//! The verdict table, row by row.

use super::deliver::{Leaving, Sent, leave};
use super::owners::{populate, scaled, siphash};
use super::packet::{self, Facts, Refusal, Topic};
use super::quic;
use oneip::model::{HashInput, List, ListKind, Mac, OddKind, Plan, Prefix, Selection, Service};
use oneip::table::build::Cluster;
use oneip::verdict::{Reason, Verdict};
use std::net::IpAddr;

pub struct Model {
    plan: Plan,
    down: Vec<String>,
    /// By service and slot.
    owners: Vec<Vec<Option<usize>>>,
}

impl Model {
    /// # Panics
    /// If the servers of a service differ in weight otherwise than by having none.
    pub fn new(plan: &Plan, down: &[String]) -> Model {
        let cluster = Cluster::new(plan);
        let owners = |id: usize, service: &Service| -> Vec<Option<usize>> {
            let taking: Vec<usize> = (0..service.servers.len()).filter(|i| service.servers[*i].weight > 0).collect();
            assert!(taking.iter().all(|i| service.servers[*i].weight == service.servers[taking[0]].weight));
            if taking.is_empty() {
                return vec![None; service.slots as usize];
            }
            let names: Vec<&str> = taking.iter().map(|i| service.servers[*i].name.as_str()).collect();
            let is_up = |i: &usize| !down.contains(&service.servers[*i].name);
            let first = populate(plan.hash_key.0, &names, service.slots).into_iter().map(|i| taking[i]);
            // Behind the first choice, any order that all agree on will do; the cluster says which it is.
            let next = |slot: usize| cluster.order(id as u16, slot as u32).into_iter().map(usize::from).find(is_up);
            first.enumerate().map(|(slot, first)| if is_up(&first) { Some(first) } else { next(slot) }).collect()
        };
        let owners = plan.services.iter().enumerate().map(|(id, service)| owners(id, service)).collect();
        Model { plan: plan.clone(), down: down.to_vec(), owners }
    }

    pub fn verdict(&self, frame: &[u8]) -> Verdict {
        let (service, server) = match self.place(frame) {
            Ok(place) => place,
            Err(verdict) => return verdict,
        };
        match leave(&self.plan, frame, service, server, &mut Sent::default(), &[0; 6]) {
            Leaving::Frames(_) => Verdict::Forward { service, server },
            Leaving::TooBig(_) => Verdict::Drop(Reason::TooBig),
        }
    }

    /// The service, the source and whether it begins a TCP connection, of a frame that limits are asked of.
    pub fn subject(&self, frame: &[u8]) -> Option<(usize, IpAddr, bool)> {
        let (service, packet, facts) = self.served(frame).ok()?;
        Some((service, packet.source, facts.begins))
    }

    /// Of a frame to a cluster address: which limit of what is dear to read it is under.
    pub fn odd(&self, frame: &[u8]) -> Option<OddKind> {
        let packet = packet::ip(frame)?.ok().filter(|packet| !self.here(packet.destination).is_empty())?;
        packet.odd()
    }

    /// The service and the server of a frame, if it can come to them.
    pub fn place(&self, frame: &[u8]) -> Result<(u16, u16), Verdict> {
        let (service, packet, facts) = self.served(frame)?;
        let of = &self.plan.services[service];
        let by_id = packet.datagram().and_then(|datagram| quic::server(of, &self.down, datagram));
        let Some(server) = by_id.or_else(|| self.server(service, packet.destination, facts)) else {
            return Err(Verdict::Drop(Reason::NoServer));
        };
        match self.plan.services[service].servers[server].mac {
            None => Err(Verdict::Drop(Reason::Unresolved)),
            Some(_) => Ok((service as u16, server as u16)),
        }
    }

    /// The service of a frame that comes to one, whoever its servers are.
    fn served<'f>(&self, frame: &'f [u8]) -> Result<(usize, packet::Packet<'f>, Facts), Verdict> {
        let packet = match packet::ip(frame) {
            None => return Err(Verdict::Pass),
            Some(Err(_)) => return Err(Verdict::Drop(Reason::Malformed)),
            Some(Ok(packet)) => packet,
        };
        let here = self.here(packet.destination);
        if here.is_empty() {
            return Err(Verdict::Pass);
        }
        let facts = match packet.facts() {
            Err(Refusal::Malformed) => return Err(Verdict::Drop(Reason::Malformed)),
            Err(Refusal::Ttl) => return Err(Verdict::Drop(Reason::Ttl)),
            Ok(facts) => facts,
        };
        let sender = Mac(frame[6..12].try_into().expect("six bytes"));
        let on_address = here.iter().map(|service| &self.plan.services[*service]);
        if on_address.flat_map(|service| &service.servers).any(|server| server.mac == Some(sender)) {
            return Err(Verdict::Drop(Reason::Loop));
        }
        let Some(service) = self.service(packet.destination, facts.topic) else {
            return Err(Verdict::Drop(Reason::NoService));
        };
        if self.longest(service, packet.source, ListKind::Deny) > self.longest(service, packet.source, ListKind::Allow)
        {
            return Err(Verdict::Drop(Reason::Denied));
        }
        Ok((service, packet, facts))
    }

    /// Whose a frame is, whatever becomes of it.
    pub fn service_of(&self, frame: &[u8]) -> Option<usize> {
        let packet = packet::ip(frame)?.ok()?;
        self.service(packet.destination, packet.facts().ok()?.topic)
    }

    /// Whether a list that only counts has the source of a frame that comes to a service.
    pub fn would_deny(&self, frame: &[u8]) -> bool {
        let Some(Ok(packet)) = packet::ip(frame) else { return false };
        let Ok(facts) = packet.facts() else { return false };
        let service = self.service(packet.destination, facts.topic).filter(|_| {
            let verdict = self.verdict(frame);
            let before = [Reason::Loop, Reason::NoService, Reason::Denied];
            verdict != Verdict::Pass && before.iter().all(|reason| verdict != Verdict::Drop(*reason))
        });
        service.is_some_and(|service| {
            let longest = |kind| self.longest(service, packet.source, kind);
            longest(ListKind::Count) > longest(ListKind::Allow)
        })
    }

    /// The length of the longest prefix of that kind of list that has an address.
    fn longest(&self, service: usize, source: IpAddr, kind: ListKind) -> Option<u8> {
        let name = &self.plan.services[service].name;
        let has = |list: &&List| list.kind == kind && (list.services.is_empty() || list.services.contains(name));
        let prefixes = self.plan.lists.iter().filter(has).flat_map(List::all);
        prefixes.filter(|prefix| prefix.contains(source)).map(|prefix| prefix.length).max()
    }

    /// The services of the longest prefix that an address is in, itself the longest.
    fn here(&self, address: IpAddr) -> Vec<usize> {
        let services = || self.plan.services.iter().map(|service| service.addresses()).enumerate();
        let of = services().flat_map(|(_, prefixes)| prefixes).filter(|prefix| prefix.contains(address));
        let longest = of.max_by_key(|prefix| prefix.length);
        let has = |prefixes: &[Prefix]| longest.is_some_and(|longest| prefixes.contains(&longest));
        services().filter(|(_, prefixes)| has(prefixes)).map(|(service, _)| service).collect()
    }

    fn service(&self, address: IpAddr, topic: Topic) -> Option<usize> {
        let services = &self.plan.services;
        let on_address = self.here(address);
        let here = || on_address.iter().copied();
        let catch_all = || here().find(|i| services[*i].ports.is_empty());
        match topic {
            Topic::Ports { protocol, destination, .. } => {
                let lists = |i: &usize| {
                    services[*i].ports.iter().any(|p| (p.transport.protocol(), p.number) == (protocol, destination))
                };
                here().find(lists).or_else(catch_all)
            }
            Topic::Portless(protocol) => {
                let lists = |i: &usize| services[*i].ports.iter().any(|p| p.transport.protocol() == protocol);
                here().find(lists).or_else(catch_all)
            }
            Topic::Address => catch_all().or_else(|| here().next()),
            Topic::OtherProtocol => catch_all(),
            Topic::NotOurs => None,
        }
    }

    fn server(&self, id: usize, cluster: IpAddr, Facts { client, topic, .. }: Facts) -> Option<usize> {
        let service = &self.plan.services[id];
        if service.selection == Selection::Modulo {
            let number = octets(client).iter().fold(0u128, |number, octet| number << 8 | *octet as u128);
            let own = (number % service.servers.len() as u128) as usize;
            let server = &service.servers[own];
            if server.weight > 0 && !self.down.contains(&server.name) {
                return Some(own);
            }
        }
        let input = match topic {
            Topic::Ports { protocol, source, destination, hashed: true } if service.hash == HashInput::Flow => {
                let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
                [octets(client), octets(cluster), ports, vec![protocol]].concat()
            }
            _ => octets(client),
        };
        let slot = scaled(siphash(self.plan.hash_key.0, &input), service.slots);
        self.owners[id][slot as usize]
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
