//! What is remembered across a restart, and how a start goes on with it.

use super::{Membership, Name};
use crate::control::overrides::Overrides;
use crate::control::state_file::{Leaving, OpenChange, Remembered, StateFile, StateWriter, fingerprint};
use crate::host::clock;
use crate::model::Plan;
use crate::table::ServiceId;
use crate::table::build::History;
use std::collections::HashMap;
use std::time::Duration;

/// The writer of the file, what stands in it, and for how long that has not been true.
pub fn load(file: Option<StateFile>) -> (Option<StateWriter>, Remembered, Duration) {
    let Some(file) = file else { return Default::default() };
    let (remembered, age) = file.load().unwrap_or_else(|why| {
        tracing::warn!("{why}; servers start in the state that the configuration gives");
        Default::default()
    });
    match StateWriter::start(file, remembered.clone()) {
        Ok(writer) => (Some(writer), remembered, age),
        Err(error) => {
            tracing::warn!("the state file is not written: {error}");
            (None, remembered, age)
        }
    }
}

/// Those that were removed, and that nobody has configured again.
pub fn leaving(remembered: &Remembered, configured: &Plan) -> Vec<Leaving> {
    let still = |left: &&Leaving| {
        let service = configured.services.iter().find(|service| service.name == left.service);
        let known =
            |server: &crate::model::Server| server.name == left.server.name || server.address == left.server.address;
        left.until > clock::now_ns() && service.is_some_and(|service| !service.servers.iter().any(known))
    };
    remembered.leaving.iter().filter(still).cloned().collect()
}

/// Until when each keeps its connections.
pub fn times(leaving: &[Leaving]) -> HashMap<Name, u64> {
    leaving.iter().map(|left| ((left.service.clone(), left.server.name.clone()), left.until)).collect()
}

impl Membership {
    /// Has written down what has changed, without waiting.
    pub(super) fn note(&mut self) {
        if let Some(mut file) = self.file.take() {
            file.note(self.remembered(self.overrides.clone()));
            self.file = Some(file);
        }
    }

    /// Has it written before somebody is told that it is done: a restart that follows at once goes on with it.
    pub(super) fn confirm(&mut self) {
        if let Some(mut file) = self.file.take() {
            let confirmed = file.confirm(self.remembered(self.overrides.clone()));
            self.file = Some(file);
            confirmed.unwrap_or_else(|error| {
                tracing::warn!("{error}: after a restart, orders and the progress of changes would be lost")
            });
        }
    }

    /// What a process that comes after this one needs.
    pub(super) fn remembered(&self, orders: Overrides) -> Remembered {
        let leaving = self.still_leaving().into_iter().filter_map(|(service, server)| {
            let until = *self.leaving.get(&(service.clone(), server.name.clone()))?;
            Some(Leaving { service, server, until })
        });
        let services = self.plan.services.iter().enumerate();
        let changes = services.filter_map(|(at, service)| {
            let history = self.cluster.history(at as ServiceId)?.clone();
            Some(OpenChange { service: service.name.clone(), history })
        });
        Remembered {
            orders,
            withdrawn: self.withdrawn.clone(),
            denied: self.denials.clone(),
            verdicts: self.health.as_ref().map(|health| health.known()).unwrap_or_default(),
            agreed: self.known_agreed(),
            leaving: leaving.collect(),
            changes: changes.collect(),
            key: fingerprint(self.plan.hash_key),
        }
    }

    /// Says in the log what operators had set.
    pub(super) fn tell_overrides(&self) {
        let services: Vec<&str> = self.withdrawn.services.iter().map(String::as_str).collect();
        match self.withdrawn.all {
            true => tracing::info!("every service is withdrawn by the operator, as before the restart"),
            false if services.is_empty() => {}
            false => {
                tracing::info!("service {}: withdrawn by the operator, as before the restart", services.join(", "))
            }
        }
        if !self.denials.0.is_empty() {
            tracing::info!("{} prefixes are denied by the operator, as before the restart", self.denials.0.len());
        }
        let services = &self.plan.services;
        let is_in = |service: &crate::model::Service, name: &str| service.servers.iter().any(|it| it.name == name);
        for (name, set) in self.overrides.everywhere() {
            let known = services.iter().any(|service| is_in(service, name));
            tell_override(&format!("server {name}"), &set.said(), known);
        }
        for (service, name, set) in self.overrides.each() {
            let known = services.iter().any(|known| known.name == service && is_in(known, name));
            tell_override(&format!("server {name} of service {service}"), &set.said(), known);
        }
    }

    /// What operators have ordered of servers, a line each.
    pub fn orders_told(&self) -> Vec<String> {
        let everywhere = self.overrides.everywhere().iter().map(|(name, set)| format!("server {name}: {}", set.said()));
        let each = self.overrides.each();
        let each = each.map(|(service, name, set)| format!("server {name} of service {service}: {}", set.said()));
        everywhere.chain(each).collect()
    }

    /// Goes on with the changes that were open.
    pub(super) fn reopen(&mut self, remembered: &Remembered) {
        if remembered.changes.is_empty() {
            return;
        }
        if remembered.key != fingerprint(self.plan.hash_key) {
            tracing::warn!("the hash key has changed since the last run: connections that should stay may break");
            return;
        }
        let (now, plan) = (clock::now_ns(), self.plan_of());
        let histories: HashMap<&str, &History> =
            remembered.changes.iter().map(|change| (change.service.as_str(), &change.history)).collect();
        let open = plan.services.iter().enumerate();
        let open = open.filter_map(|(at, service)| Some((at as ServiceId, *histories.get(service.name.as_str())?)));
        let open: Vec<_> = open.collect();
        self.cluster.recall(&plan, &open, now);
        for (at, _) in open {
            let moving = self.cluster.moving(at);
            if moving > 0 {
                let service = &plan.services[at as usize].name;
                tracing::info!("service {service}: {moving} slots are still moving, as before the restart");
            }
        }
    }
}

fn tell_override(server: &str, set: &str, known: bool) {
    match known {
        true => tracing::info!("{server}: {set} by the operator, as before the restart"),
        false => tracing::warn!("{server}, {set} by the operator, is no longer configured"),
    }
}
