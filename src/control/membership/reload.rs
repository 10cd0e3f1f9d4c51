//! Going over to another configuration.

use super::{Membership, MembershipError, Name, News, is_checked, on_link};
use crate::control::clock;
use crate::control::differences;
use crate::control::health::Health;
use crate::control::neighbours::Neighbours;
use crate::control::operator::Overrides;
use crate::limits::MAX_SERVERS;
use crate::plan::{Plan, Server};
use crate::table::ServiceId;
use crate::table::cluster::Standing;
use std::collections::HashSet;
use std::sync::Arc;

/// Why a configuration was not taken over. Everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{} cannot change while oneip runs; restart it, or change that back", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    #[error(transparent)]
    Servers(#[from] MembershipError),
}

/// The plan that is followed: the configuration's, with the operator's weights, and with servers that are leaving behind
/// the others of their service.
pub fn effective(configured: &Plan, overrides: &Overrides, leaving: &[(String, Server)]) -> Plan {
    let mut plan = configured.clone();
    for service in &mut plan.services {
        for server in &mut service.servers {
            if let Some(weight) = overrides.get(&server.name).and_then(|set| set.weight) {
                server.weight = weight;
            }
        }
        let gone = leaving.iter().filter(|(of, _)| *of == service.name).map(|(_, server)| server.clone());
        let room = MAX_SERVERS - service.servers.len();
        let gone: Vec<Server> = gone.map(|server| Server { weight: 0, ..server }).take(room).collect();
        service.leaving = gone.len();
        service.servers.extend(gone);
    }
    plan
}

impl Membership {
    /// Goes over to `configured`. Returns what changed, a line each, and what the data path must know.
    ///
    /// # Errors
    /// Everything is as it was then.
    pub async fn reload(&mut self, configured: Plan) -> Result<(Vec<String>, Option<News>), Refusal> {
        let configured = self.side.adapted(configured);
        let keys = differences::needs_restart(&self.configured, &configured, self.side);
        if !keys.is_empty() {
            return Err(Refusal::NeedsRestart(keys));
        }
        let changes = differences::between(&self.configured, &configured);
        if changes.is_empty() {
            return Ok((changes, None));
        }
        let now = clock::now_ns();
        let mut leaving = self.still_leaving();
        let removed = self.removed_by(&configured);
        leaving.retain(|(service, server)| !is_in(&configured, service, server));
        leaving.extend(removed.iter().cloned());
        let plan = effective(&configured, &self.overrides, &leaving);
        let known: HashSet<Name> = names(&self.plan).collect();
        self.follow(plan).await?;
        self.configured = configured;
        self.leaving.retain(|(service, server), _| leaving.iter().any(|(of, it)| of == service && it.name == *server));
        for (service, server) in removed {
            let drain = self.plan.services.iter().find(|known| known.name == service).map_or(0, |s| s.drain.as_nanos());
            self.leaving.insert((service, server.name), now + drain as u64);
        }
        self.joining.extend(names(&self.plan).filter(|name| !known.contains(name)));
        let present: HashSet<Name> = names(&self.plan).collect();
        self.joining.retain(|name| present.contains(name));
        self.states.retain(|name, _| present.contains(name));
        self.judge_all(now);
        self.confirm();
        Ok((changes, Some(News::Layout)))
    }

    /// Those of the plan that `configured` has no more, and that keep their connections.
    fn removed_by(&self, configured: &Plan) -> Vec<(String, Server)> {
        let mut removed = Vec::new();
        for (at, service) in self.plan.services.iter().enumerate() {
            let new = configured.services.iter().find(|new| new.name == service.name && new.address == service.address);
            let Some(new) = new.filter(|new| !new.drain.is_zero()) else { continue };
            let staying = service.servers.len() - service.leaving;
            for (server, it) in service.servers[..staying].iter().enumerate() {
                let keeps = self.cluster.standing(at as ServiceId, server) != Standing::Out;
                if keeps && !is_in(configured, &service.name, it) {
                    // A new server may have its name.
                    let taken = new.servers.iter().any(|new| new.name == it.name);
                    let name = if taken { it.name_when_replaced() } else { it.name.clone() };
                    removed.push((service.name.clone(), Server { name, ..it.clone() }));
                }
            }
        }
        removed
    }

    /// Servers that a reload removed and whose time is not over.
    pub(super) fn still_leaving(&self) -> Vec<(String, Server)> {
        let services = self.plan.services.iter();
        let leaving = services.flat_map(|service| {
            let staying = service.servers.len() - service.leaving;
            service.servers[staying..].iter().map(|server| (service.name.clone(), server.clone()))
        });
        leaving.filter(|(service, it)| self.leaving.contains_key(&(service.clone(), it.name.clone()))).collect()
    }

    /// Follows the servers of another plan. Verdicts that were not told yet may not be told any more: whoever calls this judges
    /// every service after it.
    ///
    /// # Errors
    /// Those of the plan before are followed then.
    pub(super) async fn follow(&mut self, plan: Plan) -> Result<(), MembershipError> {
        let before = Arc::clone(&self.plan);
        if let Err(error) = self.watch(&plan).await {
            if let Err(error) = self.watch(&before).await {
                tracing::error!(%error, "the running configuration would be refused now as well");
            }
            return Err(error);
        }
        self.plan = Arc::new(plan);
        self.cluster.renew(&self.plan, clock::now_ns());
        self.side.unresolved(&self.plan).iter().for_each(|(_, address)| self.tell_mac(*address));
        Ok(())
    }

    async fn watch(&mut self, plan: &Plan) -> Result<(), MembershipError> {
        let wanted = self.side.unresolved(plan);
        match &mut self.neighbours {
            Some(neighbours) => neighbours.watch(&wanted).await?,
            None if wanted.is_empty() => {}
            None => self.neighbours = Some(Neighbours::open(&self.interface, &wanted).await?),
        }
        if let Some(neighbours) = &self.neighbours {
            on_link(neighbours)?;
        }
        match &mut self.health {
            Some(health) => health.watch(plan).await?,
            None if is_checked(plan) => self.health = Some(Health::open(plan, &self.interface).await?),
            None => {}
        }
        self.verify_what_fails();
        if let (Some(neighbours), Some(health)) = (&self.neighbours, &mut self.health) {
            wanted.iter().for_each(|(_, address)| health.set_mac(*address, neighbours.mac(*address)));
        }
        Ok(())
    }
}

/// Whether a service of that name has that server.
fn is_in(plan: &Plan, service: &str, server: &Server) -> bool {
    let same = |known: &Server| known.name == server.name && known.address == server.address;
    plan.services.iter().any(|known| known.name == service && known.servers.iter().any(same))
}

fn names(plan: &Plan) -> impl Iterator<Item = Name> {
    let services = plan.services.iter();
    services.flat_map(|s| s.servers.iter().map(|server| (s.name.clone(), server.name.clone())))
}
