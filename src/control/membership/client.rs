//! What a client meets: who has it, and why; and whether a list drops its frames.

use super::Membership;
use crate::admin::order::{ClientCheck, ClientFlow, ClientService, ListVerdict, Listing, TracedService};
use crate::admin::status::State;
use crate::hash;
use crate::model::{HashInput, List, ListKind, Port, Prefix, Selection, Service, names};
use crate::table::lists::Listed;
use crate::table::{Rule, ServiceId};
use std::net::IpAddr;

impl Membership {
    /// Where a client address belongs, in every service of its family.
    pub fn trace(&self, client: IpAddr) -> Vec<TracedService> {
        self.of_family(client).map(|(at, _)| self.trace_in(at, client, |rule| hash::source(rule.key, client))).collect()
    }

    /// What a client meets in every service of its family, or in one. `port`: the client's, where that decides; `to`: of a service that does not
    /// list its ports.
    ///
    /// # Errors
    /// There is no such service, or it is of the other family; in words.
    pub fn check_client(
        &self,
        client: IpAddr,
        service: Option<&str>,
        (port, to): (Option<u16>, Option<Port>),
    ) -> Result<ClientCheck, String> {
        let services: Vec<(usize, &Service)> =
            self.of_family(client).filter(|(_, known)| service.is_none_or(|name| known.name == name)).collect();
        if let (Some(name), true) = (service, services.is_empty()) {
            let known = self.plan.services.iter().find(|known| known.name == name);
            return Err(match known {
                Some(known) => {
                    format!(
                        "service {name} has the address {}: {client} is of the other family",
                        known.addresses_text()
                    )
                }
                None => {
                    let known = names::first(self.plan.services.iter().map(|known| known.name.as_str()));
                    format!("there is no service {name}; there are {known}")
                }
            });
        }
        let entries = self.list_entries(client);
        let checked = services.into_iter().map(|(at, service)| {
            let place = self.trace_in(at, client, |rule| hash::source(rule.key, client));
            ClientService {
                address: service.address,
                listed: listing(self.cluster.listed(at as ServiceId, client), &service.name, &entries),
                limit: service.limit.as_ref().map(ToString::to_string),
                hash_input: service.hash.name().to_owned(),
                why: self.why(at, &place),
                flows: port.map_or_else(Vec::new, |port| self.flows(at, client, port, to)),
                place,
            }
        });
        Ok(ClientCheck { client, services: checked.collect() })
    }

    fn of_family(&self, client: IpAddr) -> impl Iterator<Item = (usize, &Service)> {
        let services = self.plan.services.iter().enumerate();
        services.filter(move |(_, service)| service.address.is_ipv4() == client.is_ipv4())
    }

    fn trace_in(&self, at: usize, client: IpAddr, hash: impl Fn(&Rule) -> u64) -> TracedService {
        let number = match client {
            IpAddr::V4(client) => client.to_bits() as u128,
            IpAddr::V6(client) => client.to_bits(),
        };
        let (id, service) = (at as ServiceId, &self.plan.services[at]);
        let table = self.cluster.service(id);
        let name = |server: u16| service.servers[server as usize].name.clone();
        let hashed = hash(&table.rule);
        let (slot, server) = table.select(hashed, number);
        let keeps = table.kept().and_then(|kept| kept.previous_owner(server, &hash, number).server());
        let order = self.cluster.order(id, hash::slot(hashed, table.rule.slots));
        let mut order: Vec<String> = order.into_iter().map(name).collect();
        if service.selection == Selection::Modulo {
            // Its own server comes first, then whom the slot has.
            let own = service.servers[slot as usize].name.clone();
            order.retain(|server| *server != own);
            order.insert(0, own);
        }
        TracedService {
            service: service.name.clone(),
            hash: format!("{hashed:#018x}"),
            slot,
            server: server.map(name),
            keeps: keeps.filter(|previous_owner| Some(*previous_owner) != server).map(name),
            order,
        }
    }

    /// Where flows from a port go, by the ports of the service, or to that one where it lists none.
    fn flows(&self, at: usize, client: IpAddr, port: u16, to: Option<Port>) -> Vec<ClientFlow> {
        let service = &self.plan.services[at];
        let to_ports = match (service.hash, &service.ports[..]) {
            (HashInput::Source, _) => &[],
            (HashInput::Flow, []) => to.as_slice(),
            (HashInput::Flow, ports) => ports,
        };
        let flow = |to: &Port| {
            let (ports, protocol) = ((port, to.number), to.transport.protocol());
            let hash = |rule: &Rule| match rule.flow {
                true => hash::flow(rule.key, client, service.address, ports, protocol),
                false => hash::source(rule.key, client),
            };
            let place = self.trace_in(at, client, hash);
            let why = self.why(at, &place);
            let TracedService { hash, slot, server, keeps, .. } = place;
            ClientFlow { port, to: to.to_string(), hash, slot, server, keeps, why }
        };
        to_ports.iter().map(flow).collect()
    }

    /// Why a client has the server that it has.
    fn why(&self, at: usize, TracedService { server, order, .. }: &TracedService) -> String {
        let of = &self.plan.services[at];
        let judged = |name: &String| {
            let server = of.servers.iter().position(|server| server.name == *name)?;
            Some(self.judged(at, server))
        };
        let before: Vec<&String> = order.iter().take_while(|name| Some(*name) != server.as_ref()).collect();
        let passed: Vec<String> = before.into_iter().filter_map(|name| Some((name, judged(name)?))).map(told).collect();
        let passed = names::first(passed.iter().map(String::as_str));
        let Some(server) = server else {
            return if passed.is_empty() { "no server has a weight".to_owned() } else { passed };
        };
        let doubt = judged(server).filter(|judged| judged.state != State::Up || !judged.why.is_empty());
        let doubt = doubt.map_or(String::new(), |judged| format!("; {}", told((server, judged))));
        match passed.is_empty() {
            true => format!("first choice{doubt}"),
            false => format!("failover, since {passed}{doubt}"),
        }
    }

    /// All entries of lists that have the client.
    fn list_entries(&self, client: IpAddr) -> Vec<Entry> {
        let ordered = self.denials.lists();
        let lists =
            self.configured.lists.iter().map(|list| (list, false)).chain(ordered.iter().map(|list| (list, true)));
        let mut entries = Vec::new();
        for (list, by_order) in lists {
            let mut add = |prefixes: &[Prefix], by: String| {
                let has = prefixes.iter().filter(|prefix| prefix.contains(client));
                entries.extend(has.max_by_key(|prefix| prefix.length).map(|prefix| Entry::new(list, *prefix, by)));
            };
            let title = match list.kind {
                _ if by_order => "ctl deny",
                ListKind::Deny => "[[deny]]",
                ListKind::Count => "[[deny]] with mode = \"count\"",
                ListKind::Allow => "[[allow]]",
            };
            add(&list.prefixes, title.to_owned());
            list.files.iter().for_each(|file| add(&file.prefixes, format!("{title}, file {}", file.path.display())));
        }
        entries
    }
}

/// A prefix of a list.
struct Entry {
    kind: ListKind,
    services: Vec<String>,
    prefix: Prefix,
    by: String,
}

impl Entry {
    fn new(list: &List, prefix: Prefix, by: String) -> Entry {
        Entry { kind: list.kind, services: list.services.clone(), prefix, by }
    }
}

/// Which entry decides what was found of a client.
fn listing(found: Listed, service: &str, entries: &[Entry]) -> Option<Listing> {
    let (kind, verdict) = match found {
        Listed::Denied => (ListKind::Deny, ListVerdict::Denied),
        Listed::Counted => (ListKind::Count, ListVerdict::Counted),
        Listed::No => (ListKind::Allow, ListVerdict::Allowed),
    };
    let is_of = |entry: &&Entry| entry.services.is_empty() || entry.services.iter().any(|name| name == service);
    let longest =
        entries.iter().filter(is_of).filter(|entry| entry.kind == kind).max_by_key(|entry| entry.prefix.length)?;
    Some(Listing { verdict, prefix: longest.prefix, by: longest.by.clone() })
}

/// How a server is.
fn told((name, judged): (&String, super::state::Judged)) -> String {
    let why = if judged.why.is_empty() { String::new() } else { format!(" ({})", judged.why) };
    format!("{name} is {}{why}", judged.state.name())
}
