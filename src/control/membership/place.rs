//! Where the servers are: their MACs, or the routers that lead to them.

use super::{Membership, MembershipError, Whereabouts};
use crate::control::neighbours::{self, Neighbours, Routes, Upkeep};
use crate::host::clock;
use crate::limits::QUIET;
use crate::model::{Mac, NextHop, Plan};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::timeout;

impl Membership {
    pub(super) async fn resolve(&mut self, wanted: &[(String, IpAddr)]) -> Result<(), MembershipError> {
        let neighbours = self.neighbours.insert(Neighbours::open_with(&self.interfaces, wanted, Upkeep::Kernel).await?);
        on_link(neighbours)?;
        while wanted.iter().any(|(_, address)| neighbours.mac(*address).is_none()) {
            let Ok(changes) = timeout(QUIET, neighbours.next()).await else { break };
            if changes?.iter().all(|change| matches!(change.what, Whereabouts::Unresolved(_))) {
                break;
            }
        }
        for (name, address) in wanted {
            if neighbours.mac(*address).is_none() {
                tracing::warn!(
                    "server {name} {address} is not resolved yet: its clients' frames are dropped until it is"
                );
            }
        }
        wanted.iter().for_each(|(_, address)| self.tell_mac(*address));
        Ok(())
    }

    pub(super) fn locate(&mut self, changes: &[neighbours::Change]) -> bool {
        for change in changes {
            self.tell_neighbour(change);
            self.tell_mac(change.address);
        }
        let addresses: HashSet<IpAddr> = changes.iter().flat_map(|change| self.reached_by(change.address)).collect();
        let now = clock::now_ns();
        for (at, service) in Arc::clone(&self.plan).services.iter().enumerate() {
            if service.servers.iter().any(|server| addresses.contains(&server.address)) {
                self.judge(at, now, None);
            }
        }
        !changes.is_empty()
    }

    /// Passes on what the neighbour table says of an address.
    pub(super) fn tell_mac(&mut self, address: IpAddr) {
        let found = self.neighbours.as_ref().and_then(|neighbours| neighbours.mac(address));
        let link = self.neighbours.as_ref().and_then(|neighbours| neighbours.link(address));
        for server in self.reached_by(address) {
            let mac = self.configured_mac(server).or(found);
            let by = if server == address { NextHop::on_link } else { NextHop::by_gateway };
            let next_hop = match self.interfaces.len() {
                1 => mac.map(by),
                // Egresses are numbered from 1.
                _ => mac.zip(link).map(|(mac, link)| NextHop { egress: link as u8 + 1, ..by(mac) }),
            };
            self.cluster.set_next_hop(server, next_hop);
            if let Some(health) = &mut self.health {
                health.set_mac(server, mac);
            }
        }
    }

    fn configured_mac(&self, server: IpAddr) -> Option<Mac> {
        let servers = self.plan.services.iter().flat_map(|service| &service.servers);
        servers.filter(|known| known.address == server).find_map(|known| known.mac)
    }

    /// The servers whose packets go to that neighbour: it is one itself, or their gateway.
    fn reached_by(&self, neighbour: IpAddr) -> Vec<IpAddr> {
        let routes = self.routes.as_ref();
        let itself = Some(neighbour).filter(|it| routes.is_none_or(|routes| !routes.follows(*it)));
        let behind = routes.into_iter().flat_map(|routes| routes.behind(neighbour));
        itself.into_iter().chain(behind).collect()
    }

    /// Whose MACs must be known, each address once.
    pub(super) fn wanted(&self, plan: &Plan) -> Vec<(String, IpAddr)> {
        let mut wanted = self.side.unresolved(plan);
        let routed = self.routes.iter().flat_map(Routes::neighbours);
        for (name, address) in routed {
            if wanted.iter().all(|(_, known)| *known != address) {
                wanted.push((name, address));
            }
        }
        wanted
    }

    /// Looks up the routes to the servers of a plan that may be behind routers.
    pub(super) async fn follow_routes(&mut self, plan: &Plan) -> Result<(), MembershipError> {
        let routed = self.side.routed(plan);
        if self.routes.is_none() {
            if routed.is_empty() {
                return Ok(());
            }
            self.routes = Some(Routes::open(&self.interfaces)?);
        }
        let Some(routes) = &mut self.routes else { return Ok(()) };
        routes.watch(&routed, plan.cluster_addresses()).await?;
        let wrong: Vec<String> = routes.wrong().iter().map(ToString::to_string).collect();
        if wrong.is_empty() { Ok(()) } else { Err(MembershipError::OffLink(wrong.join("\n"))) }
    }

    /// Goes over to the neighbours that the routes lead to now.
    pub(super) async fn reroute(&mut self) -> bool {
        let plan = Arc::clone(&self.plan);
        let wrong = self.routes.iter().flat_map(Routes::wrong);
        wrong.for_each(|wrong| tracing::warn!("{wrong}; its packets still go to the previous next hop"));
        let wanted = self.wanted(&plan);
        let followed = match &mut self.neighbours {
            Some(neighbours) => neighbours.watch(&wanted).await,
            None => {
                let opened = Neighbours::open_with(&self.interfaces, &wanted, Upkeep::Kernel).await;
                opened.map(|neighbours| self.neighbours = Some(neighbours))
            }
        };
        if let Err(error) = followed {
            tracing::warn!("changes of next hops cannot be tracked: {error}");
            return false;
        }
        wanted.iter().for_each(|(_, address)| self.tell_mac(*address));
        true
    }
}

pub(super) fn on_link(neighbours: &Neighbours) -> Result<(), MembershipError> {
    let off_link: Vec<String> = neighbours.off_link().iter().map(ToString::to_string).collect();
    if off_link.is_empty() { Ok(()) } else { Err(MembershipError::OffLink(off_link.join("\n"))) }
}
