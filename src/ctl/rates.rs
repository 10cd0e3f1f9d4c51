//! What went on between two statuses, by the second.

use crate::admin::status::{ServerStatus, ServiceStatus, Status};
use std::collections::HashMap;
use std::time::Duration;

/// All numbers are of a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    pub frames: f64,
    pub forwarded: f64,
    pub passed: f64,
    /// By reason, those that occurred in between.
    pub dropped: Vec<(String, f64)>,
    pub services: Vec<ServiceRates>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceRates {
    pub name: String,
    /// In the order of the status.
    pub servers: Vec<ServerRates>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerRates {
    pub name: String,
    pub sent: Sent,
}

/// What went to a server, or to several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sent {
    pub frames: f64,
    pub bytes: f64,
    pub flows: f64,
}

impl ServiceRates {
    pub fn sum(&self) -> Sent {
        self.servers.iter().fold(Sent::default(), |sum, ServerRates { sent, .. }| Sent {
            frames: sum.frames + sent.frames,
            bytes: sum.bytes + sent.bytes,
            flows: sum.flows + sent.flows,
        })
    }
}

impl Rates {
    pub fn dropped_total(&self) -> f64 {
        // `sum` of nothing is -0.
        self.dropped.iter().fold(0.0, |sum, (_, rate)| sum + rate)
    }
}

/// From one status to the next, `passed` later. `None`: they are of different processes.
pub fn between(before: &Status, now: &Status, passed: Duration) -> Option<Rates> {
    if before.pid != now.pid || now.uptime_s < before.uptime_s {
        return None;
    }
    // What is counted is not counted when it is asked for.
    let counted = before.counted_s.zip(now.counted_s).map(|(before, now)| now - before);
    let seconds = counted.unwrap_or(passed.as_secs_f64()).max(1e-3);
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    let dropped = now
        .dropped
        .iter()
        .map(|(reason, count)| (reason.clone(), rate(before.dropped.get(reason).copied().unwrap_or(0), *count)));
    let earlier: HashMap<(&str, &str), &ServerStatus> = each(&before.services).collect();
    let of_server = |service: &ServiceStatus, server: &ServerStatus| {
        // What came in between began at 0.
        let since = |value: fn(&ServerStatus) -> u64| {
            let key = (service.name.as_str(), server.name.as_str());
            rate(earlier.get(&key).map_or(0, |earlier| value(earlier)), value(server))
        };
        let sent = Sent {
            frames: since(|server| server.frames),
            bytes: since(|server| server.bytes),
            flows: since(|server| server.new_flows),
        };
        ServerRates { name: server.name.clone(), sent }
    };
    let services = now.services.iter().map(|service| ServiceRates {
        name: service.name.clone(),
        servers: service.servers.iter().map(|server| of_server(service, server)).collect(),
    });
    Some(Rates {
        frames: rate(before.frames, now.frames),
        forwarded: rate(before.forwarded, now.forwarded),
        passed: rate(before.passed, now.passed),
        dropped: dropped.filter(|(_, rate)| *rate > 0.0).collect(),
        services: services.collect(),
    })
}

fn each(services: &[ServiceStatus]) -> impl Iterator<Item = ((&str, &str), &ServerStatus)> {
    services.iter().flat_map(|service| {
        service.servers.iter().map(move |server| ((service.name.as_str(), server.name.as_str()), server))
    })
}
