//! What a new configuration changes, in words; and what of it a running process cannot take over.

use super::membership::Side;
use crate::model::identity::continued_services;
use crate::model::{List, ListKind, Plan, Prefix, Server, Service};
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

/// The keys that differ and need a restart, as they are written.
pub fn needs_restart(old: &Plan, new: &Plan, side: Side) -> Vec<&'static str> {
    let mut keys = Vec::new();
    let mut differ = |differ: bool, key: &'static str| keys.extend(differ.then_some(key));
    let place = |plan: &Plan| {
        let filter = plan.filter.as_ref();
        filter.map(|filter| (filter.interface.clone(), filter.xdp, filter.pins.clone(), filter.port))
    };
    match (&old.dispatcher, &new.dispatcher) {
        _ if side == Side::Server => differ(place(old) != place(new), "[filter] interface, xdp, pins or port"),
        _ if side == Side::Decap => {
            let place = |plan: &Plan| (plan.decap.interface.clone(), plan.decap.xdp, plan.decap.pins.clone());
            differ(place(old) != place(new), "[decap] interface, xdp or pins");
        }
        (Some(old), Some(new)) => {
            differ((&old.interface, &old.others) != (&new.interface, &new.others), "[dispatcher] interface");
            differ(old.engine != new.engine, "[dispatcher] engine");
            differ(old.cores != new.cores, "[dispatcher] cores");
            differ(old.queues != new.queues, "[[dispatcher.interface]] queues or cores");
            differ(old.idle != new.idle, "[dispatcher] idle");
            differ(old.flows != new.flows, "[dispatcher] flows");
            differ(old.heartbeat != new.heartbeat, "[dispatcher] heartbeat_ms");
            differ(old.source != new.source, "[dispatcher] source");
            differ(old.mtu != new.mtu, "[dispatcher] mtu");
            differ((old.xdp, &old.pins) != (new.xdp, &new.pins), "[dispatcher] xdp or pins");
            differ(old.limit_sources != new.limit_sources, "[dispatcher] limit_sources");
            differ(old.dpdk != new.dpdk, "[dpdk]");
        }
        (old, new) => differ(old.is_some() != new.is_some(), "[dispatcher]"),
    }
    if side == Side::Dispatcher {
        let place = |plan: &Plan| plan.announce.as_ref().map(|announce| (announce.table, announce.hold));
        differ(old.announce.is_some() != new.announce.is_some(), "[announce]");
        differ(
            old.announce.is_some() && place(old) != place(new) && new.announce.is_some(),
            "[announce] table or hold_s",
        );
    }
    differ(old.group != new.group, "[group], or what is in its files");
    differ(old.admin.socket != new.admin.socket, "[admin] socket");
    differ(old.admin.metrics != new.admin.metrics, "[admin] metrics");
    differ(old.admin.web != new.admin.web, "[admin] web");
    differ(old.admin.state != new.admin.state, "[admin] state");
    keys
}

/// What is added, removed and changed, a line each.
pub fn between(old: &Plan, new: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    if old.odd_limit != new.odd_limit {
        let said = |plan: &Plan| plan.odd_limit.as_ref().map_or("none".to_owned(), ToString::to_string);
        lines.push(format!("[limit.odd] {} -> {}", said(old), said(new)));
    }
    let hold = |plan: &Plan| plan.filter.as_ref().and_then(|filter| filter.hold);
    if hold(old) != hold(new) {
        let said = |hold: Option<Duration>| hold.map_or("absent".to_owned(), |hold| hold.as_millis().to_string());
        lines.push(format!("[filter] hold_ms {} -> {}", said(hold(old)), said(hold(new))));
    }
    if let (Some(old), Some(new)) = (&old.announce, &new.announce) {
        let mut changed = |key: &str, old: u128, new: u128| {
            lines.extend((old != new).then(|| format!("[announce] {key} {old} -> {new}")));
        };
        changed("min_up", old.min_up.into(), new.min_up.into());
        changed("hold_down_ms", old.hold_down.as_millis(), new.hold_down.as_millis());
        changed("linger_ms", old.linger.as_millis(), new.linger.as_millis());
    }
    let (before, after) = (old.tunnel_sources(), new.tunnel_sources());
    if before != after {
        let said = |sources: &[Prefix]| match sources {
            [] => "any address".to_owned(),
            sources => sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        lines.push(format!("[decap] sources {} -> {}", said(&before), said(&after)));
    }
    of_lists(&old.lists, &new.lists, &mut lines);
    if old.hash_key != new.hash_key {
        lines.push("[cluster] hash_key: changed; nearly every client gets another server".to_owned());
    }
    let continued = continued_services(&old.services, &new.services);
    for (_, gone) in old.services.iter().enumerate().filter(|(at, _)| !continued.contains(&Some(*at))) {
        lines.push(format!("service {} removed ({})", gone.name, gone.addresses_text()));
    }
    for (service, of) in new.services.iter().zip(&continued) {
        match of.map(|at| &old.services[at]) {
            None => lines.push(format!(
                "service {} added ({}, {})",
                service.name,
                service.addresses_text(),
                some(service.servers.len(), "server")
            )),
            Some(before) => of_service(before, service, &mut lines),
        }
    }
    lines
}

fn of_lists(old: &[List], new: &[List], lines: &mut Vec<String>) {
    let titles: [(&str, &[ListKind]); 2] =
        [("[[deny]]", &[ListKind::Deny, ListKind::Count]), ("[[allow]]", &[ListKind::Allow])];
    for (title, kinds) in titles {
        let of =
            |lists: &[List]| -> Vec<List> { lists.iter().filter(|list| kinds.contains(&list.kind)).cloned().collect() };
        let (old, new) = (of(old), of(new));
        if old != new {
            let count = |lists: &[List]| some(lists.iter().flat_map(List::all).count(), "prefix");
            lines.push(format!("{title}: {} -> {}", count(&old), count(&new)));
        }
    }
}

fn some(count: usize, what: &str) -> String {
    let end = if what.ends_with('x') { "es" } else { "s" };
    format!("{count} {what}{}", if count == 1 { "" } else { end })
}

fn of_service(old: &Service, new: &Service, lines: &mut Vec<String>) {
    let name = &new.name;
    if old.name != *name {
        lines.push(format!("service {} renamed to {name}", old.name));
    }
    let mut changed = |key: &str, old: &dyn Display, new: &dyn Display| {
        lines.push(format!("service {name}: {key} {old} -> {new}"));
    };
    if old.ports != new.ports {
        changed("ports", &ports(old), &ports(new));
    }
    if old.hash != new.hash {
        changed("hash", &old.hash.name(), &new.hash.name());
    }
    if old.deliver != new.deliver {
        changed("deliver", &old.deliver, &new.deliver);
    }
    if old.selection != new.selection {
        changed("selection", &old.selection.name(), &new.selection.name());
    }
    if old.slots != new.slots {
        changed("slots", &old.slots, &new.slots);
    }
    if old.until_closed != new.until_closed {
        let name = |until_closed| if until_closed { "until-closed" } else { "time-limited" };
        changed("drain", &name(old.until_closed), &name(new.until_closed));
    }
    if old.second_chance != new.second_chance {
        changed("second_chance", &old.second_chance, &new.second_chance);
    }
    if old.drain != new.drain {
        changed("drain_s", &old.drain.as_secs(), &new.drain.as_secs());
    }
    if old.withdrawn != new.withdrawn {
        let name = |withdrawn| if withdrawn { "drain" } else { "ready" };
        changed("announce", &name(old.withdrawn), &name(new.withdrawn));
    }
    if old.health != new.health {
        let health = |service: &Service| service.health.as_ref().map_or("none".to_owned(), ToString::to_string);
        changed("health", &health(old), &health(new));
    }
    if old.limit != new.limit {
        let limit = |service: &Service| service.limit.as_ref().map_or("none".to_owned(), ToString::to_string);
        changed("limit", &limit(old), &limit(new));
    }
    if old.quic != new.quic {
        let (before, after) = (quic(old), quic(new));
        let is_same = before == after;
        changed("quic", &before, &if is_same { "the same with another key".to_owned() } else { after });
    }
    for gone in old.servers.iter().filter(|old| !new.servers.iter().any(|new| new.is_same(old))) {
        lines.push(format!("service {name}: server {} removed ({})", gone.name, gone.address));
    }
    for server in &new.servers {
        match old.servers.iter().find(|old| old.is_same(server)) {
            None => lines.push(format!(
                "service {name}: server {} added ({}, weight {})",
                server.name, server.address, server.weight
            )),
            Some(before) => of_server(name, before, server, lines),
        }
    }
    let order = |service: &Service, other: &Service| -> Vec<IpAddr> {
        let kept = |server: &&Server| other.servers.iter().any(|other| other.is_same(server));
        service.servers.iter().filter(kept).map(|server| server.address).collect()
    };
    if order(old, new) != order(new, old) {
        lines.push(format!("service {name}: the servers in another order"));
    }
}

fn of_server(service: &str, old: &Server, new: &Server, lines: &mut Vec<String>) {
    let name = &new.name;
    if old.name != *name {
        lines.push(format!(
            "service {service}: server {} renamed to {name}; slots depend on the name, so some of its clients get \
             another server",
            old.name
        ));
    }
    if old.weight != new.weight {
        lines.push(format!("service {service}: server {name}: weight {} -> {}", old.weight, new.weight));
    }
    if old.mac != new.mac {
        let mac = |server: &Server| server.mac.map_or("resolved".to_owned(), |mac| mac.to_string());
        lines.push(format!("service {service}: server {name}: mac {} -> {}", mac(old), mac(new)));
    }
    if old.tags != new.tags {
        lines.push(format!("service {service}: server {name}: vlan {} -> {}", old.tags, new.tags));
    }
    if old.quic_ids != new.quic_ids {
        let ids = |server: &Server| match server.quic_ids_text() {
            text if text.is_empty() => "none".to_owned(),
            text => text,
        };
        lines.push(format!("service {service}: server {name}: quic_id {} -> {}", ids(old), ids(new)));
    }
}

fn quic(service: &Service) -> String {
    let configs: Vec<String> = service.quic.iter().map(ToString::to_string).collect();
    if configs.is_empty() { "none".to_owned() } else { configs.join("; ") }
}

fn ports(service: &Service) -> String {
    let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
    if ports.is_empty() { "all".to_owned() } else { ports.join(", ") }
}
