//! How everything is.

use super::Membership;
use crate::control::admin::status::{CheckStatus, ServerStatus, ServiceStatus};
use crate::control::health;
use crate::plan::Service;
use crate::table::ServiceId;
use std::net::IpAddr;
use std::time::Instant;

impl Membership {
    /// Without what is counted.
    pub fn services(&self) -> Vec<ServiceStatus> {
        let plan = self.plan_of();
        plan.services.iter().enumerate().map(|(at, service)| self.service(at, service)).collect()
    }

    pub fn generation(&self) -> u64 {
        self.cluster.generation()
    }

    fn service(&self, at: usize, service: &Service) -> ServiceStatus {
        let shares = self.cluster.shares(at as ServiceId);
        ServiceStatus {
            name: service.name.clone(),
            address: service.address,
            ports: service.ports.iter().map(ToString::to_string).collect(),
            hash: service.hash.name().to_owned(),
            selection: service.selection.name().to_owned(),
            slots: service.slots,
            moving: self.cluster.moving(at as ServiceId),
            servers: (0..service.servers.len()).map(|server| self.server(at, server, &shares)).collect(),
            latency_ns: None,
        }
    }

    /// What is to be said of a MAC that the kernel does not know any more; else empty.
    pub(super) fn unconfirmed(&self, server: IpAddr) -> String {
        let why = self.neighbours.as_ref().and_then(|neighbours| neighbours.why(server));
        why.map_or_else(String::new, |(why, since)| {
            let seconds = since.elapsed().as_secs();
            format!("its neighbour entry failed {seconds} s ago: {why}; the last known MAC is used")
        })
    }

    fn server(&self, service: usize, server: usize, shares: &[u32]) -> ServerStatus {
        let of = &self.plan.services[service];
        let it = &of.servers[server];
        let judged = self.judged(service, server);
        let since = self.states.get(&(of.name.clone(), it.name.clone())).map(|(_, since)| since.elapsed());
        let configured = self.configured_weight(&of.name, &it.name);
        ServerStatus {
            name: it.name.clone(),
            address: it.address,
            mac: self.cluster.mac(service as ServiceId, server).map(|mac| mac.to_string()),
            state: judged.state,
            why: judged.why,
            since_s: since.unwrap_or_default().as_secs_f64(),
            weight: it.weight,
            configured_weight: configured.filter(|weight| *weight != it.weight),
            slots: shares[server],
            share: f64::from(shares[server]) / f64::from(of.slots),
            frames: 0,
            bytes: 0,
            new_flows: 0,
            check: self.health.as_ref().and_then(|health| health.status(service, server)).map(check),
        }
    }
}

fn check(status: health::Status) -> CheckStatus {
    let age = |at: Instant| at.elapsed().as_secs_f64();
    CheckStatus {
        age_s: status.checked.map(age),
        latency_ms: status.latency.map(|latency| latency.as_micros() as f64 / 1e3),
        failing: status.failing,
        failure: status.failure.map(|(_, reason)| reason.to_owned()),
        failure_age_s: status.failure.map(|(at, _)| age(at)),
        unchecked: status.unchecked.map(|(_, why)| why.to_owned()),
        unchecked_s: status.unchecked.map(|(since, _)| age(since)),
    }
}
