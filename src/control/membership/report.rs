//! How everything is.

use super::Membership;
use crate::admin::Seen;
use crate::admin::status::{CheckStatus, ServerStatus, ServiceStatus};
use crate::control::health;
use crate::model::{Server, Service};
use crate::table::ServiceId;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was seen of the services, kept from one look to the next: of thousands, few have anything new.
#[derive(Default)]
pub struct Shown {
    services: Vec<(Arc<Seen>, Moment)>,
    touched: HashSet<usize>,
    layout: u64,
}

/// What a service was seen as of: how often its table has changed, and how many checks have come to a result.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Moment {
    version: u64,
    results: u64,
}

impl Shown {
    /// Its servers were judged.
    pub fn touch(&mut self, service: usize) {
        self.touched.insert(service);
    }
}

impl Membership {
    /// As [`Membership::services`], as of the last moment in which anything happened there.
    pub fn look(&mut self) -> Vec<Arc<Seen>> {
        let plan = Arc::clone(&self.plan);
        let anew = self.shown.layout != self.cluster.layout() || self.shown.services.len() != plan.services.len();
        let mut before = std::mem::take(&mut self.shown.services).into_iter();
        let mut services = Vec::with_capacity(plan.services.len());
        for (at, service) in plan.services.iter().enumerate() {
            let version = self.cluster.version(at as ServiceId);
            let now = Moment { version, results: self.health.as_ref().map_or(0, |health| health.results(at)) };
            let known = before.next().filter(|(_, then)| !anew && *then == now && !self.shown.touched.contains(&at));
            services.push(match known.filter(|_| !self.counts_down(service)) {
                Some(known) => known,
                None => (Arc::new(Seen { service: self.service(at, service), at: Instant::now() }), now),
            });
        }
        let seen = services.iter().map(|(seen, _)| Arc::clone(seen)).collect();
        self.shown = Shown { services, touched: HashSet::new(), layout: self.cluster.layout() };
        seen
    }

    /// Whether what is said of its servers changes with time alone.
    fn counts_down(&self, service: &Service) -> bool {
        let drains = |server: &Server| self.draining.contains_key(&(service.name.clone(), server.name.clone()));
        service.leaving > 0 || (!self.draining.is_empty() && service.servers.iter().any(drains))
    }

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
        let mut addresses = service.addresses().into_iter().map(|address| address.to_string());
        ServiceStatus {
            name: service.name.clone(),
            address: addresses.next().unwrap_or_default(),
            more_addresses: addresses.collect(),
            ports: service.ports.iter().map(ToString::to_string).collect(),
            hash: service.hash.name().to_owned(),
            selection: service.selection.name().to_owned(),
            slots: service.slots,
            moving: self.cluster.moving(at as ServiceId),
            servers: (0..service.servers.len()).map(|server| self.server(at, server, &shares)).collect(),
            announce: None,
            limit: service.limit.as_ref().map(ToString::to_string),
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
        latency_ms: status.latency.map(milliseconds),
        failing: status.failing,
        failure: status.failure.map(|(_, reason)| reason.to_owned()),
        failure_age_s: status.failure.map(|(at, _)| age(at)),
        unchecked: status.unchecked.map(|(_, why)| why.to_owned()),
        unchecked_s: status.unchecked.map(|(since, _)| age(since)),
    }
}

/// To the microsecond: no more digits than mean anything.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_has_no_digits_that_mean_nothing() {
        let shown = |nanoseconds| milliseconds(Duration::from_nanos(nanoseconds)).to_string();
        assert_eq!([1_269_010, 810_999, 999, 12_345_678_901].map(shown), ["1.269", "0.81", "0", "12345.678"]);
    }
}
