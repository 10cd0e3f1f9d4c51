//! What a client meets.

use super::Membership;
use crate::admin::order::TracedService;
use crate::hash;
use crate::model::Selection;
use crate::table::ServiceId;
use std::net::IpAddr;

impl Membership {
    /// Where a client address belongs, in every service of its family.
    pub fn trace(&self, client: IpAddr) -> Vec<TracedService> {
        let number = match client {
            IpAddr::V4(client) => client.to_bits() as u128,
            IpAddr::V6(client) => client.to_bits(),
        };
        let services = self.plan.services.iter().enumerate();
        let of_family = services.filter(|(_, service)| service.address.is_ipv4() == client.is_ipv4());
        of_family
            .map(|(at, service)| {
                let id = at as ServiceId;
                let table = self.cluster.service(id);
                let name = |server: u16| service.servers[server as usize].name.clone();
                let hash = hash::source(table.rule.key, client);
                let (slot, server) = table.select(hash, number);
                let by_rule = |rule: &crate::table::Rule| hash::source(rule.key, client);
                let keeps = table.kept().and_then(|kept| kept.previous_owner(server, by_rule, number).server());
                let order = self.cluster.order(id, hash::slot(hash, table.rule.slots));
                let mut order: Vec<String> = order.into_iter().map(name).collect();
                if service.selection == Selection::Modulo {
                    // Its own server comes first, then whom the slot has.
                    let own = service.servers[slot as usize].name.clone();
                    order.retain(|server| *server != own);
                    order.insert(0, own);
                }
                TracedService {
                    service: service.name.clone(),
                    hash: format!("{hash:#018x}"),
                    slot,
                    server: server.map(name),
                    keeps: keeps.filter(|previous_owner| Some(*previous_owner) != server).map(name),
                    order,
                }
            })
            .collect()
    }
}
