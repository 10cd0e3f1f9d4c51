//! Addresses, routes, rules, neighbours, and what was heard.

use super::interface::of;
use crate::admin::finding::Finding;
use crate::control::neighbours::{Detour, OffLink};
use crate::doctor::facts::{Facts, Heard, Interface, Neighbour, Settings};
use crate::doctor::read::network::setting;
use crate::limits::HEALTH_PORTS;
use crate::model::{Health, Mac, Plan, Tags, Via};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// By chance a finished checksum looks like an unfinished one: so many do not.
const UNFINISHED_LEAST: u64 = 2;

fn serves(facts: &Facts, ipv4: bool) -> bool {
    facts.plan.iter().flat_map(|plan| &plan.services).any(|service| service.address.is_ipv4() == ipv4)
}

/// Whether servers are checked by way of the cluster address.
fn probes(plan: &Plan) -> bool {
    plan.services.iter().any(|service| matches!(service.health, Some(Health { via: Via::Service, .. })))
}

fn most(by: &BTreeMap<Mac, u64>) -> Option<(Mac, u64)> {
    by.iter().max_by_key(|(_, count)| **count).map(|(mac, count)| (*mac, *count))
}

/// Of each interface at which somebody listened.
fn heard(facts: &Facts, check: impl Fn(&Heard) -> Finding) -> Vec<Finding> {
    of(facts, |interface, _| interface.heard.as_ref().map(&check))
}

pub fn heard_unfinished(facts: &Facts) -> Vec<Finding> {
    heard(facts, |Heard { seconds, frames, unfinished, long, .. }| {
        let unfinished = most(unfinished).filter(|(_, count)| *count >= UNFINISHED_LEAST);
        let Some((from, _)) = unfinished.or(most(long)) else {
            return Finding::ok("checksums", format!("complete, in {frames} frames within {seconds:.1} s"));
        };
        let what = if unfinished.is_some() { "with unfinished checksums" } else { "longer than the MTU" };
        let why = format!(
            "{from} sends frames {what}, as veth and virtio NICs with offloads do: servers drop them after they are forwarded; run this \
             on that machine"
        );
        let fix = format!(
            "grep -l {from} /sys/class/net/*/address | cut -d/ -f5 | xargs -I{{}} ethtool -K {{}} tx off tso off gso off gro off"
        );
        Finding::fail("checksums", why).mend(fix)
    })
}

pub fn heard_redirects(facts: &Facts) -> Vec<Finding> {
    heard(facts, |heard| {
        let Some((from, count)) = most(&heard.redirects) else { return Finding::ok("redirects_seen", "none") };
        let why = format!(
            "{from} has sent {count} ICMP redirects: with these a router makes clients on the LAN bypass the dispatcher; run this on \
             that machine"
        );
        // The kernel sends them if either of the two says so, as in `send_redirects`.
        let names = format!("all $(grep -l {from} /sys/class/net/*/address | cut -d/ -f5)");
        let fix = format!("for name in {names}; do sysctl -w net/ipv4/conf/$name/send_redirects=0; done");
        Finding::warn("redirects_seen", why).mend(fix)
    })
}

pub fn cluster_address(facts: &Facts) -> Vec<Finding> {
    let held = facts.network.held.iter().map(|(address, prefix, interface)| {
        let why =
            format!("this host itself has the cluster address {address}, on {interface}: its kernel answers clients");
        Finding::fail("cluster_address", why).mend(format!("ip address del {address}/{prefix} dev {interface}"))
    });
    let held: Vec<Finding> = held.collect();
    if held.is_empty() { vec![Finding::ok("cluster_address", "this host does not have it")] } else { held }
}

pub fn forwarding(facts: &Facts) -> Vec<Finding> {
    let network = &facts.network;
    let families = [
        ("ip_forward", "IPv4", network.ip_forward, "net.ipv4.ip_forward", true),
        ("ipv6_forwarding", "IPv6", network.ipv6_forwarding, "net.ipv6.conf.all.forwarding", false),
    ];
    let concerned = families.into_iter().filter(|(.., ipv4)| serves(facts, *ipv4));
    let judge = |(name, family, value, sysctl, _): (&str, &str, Option<i64>, &str, bool)| match value {
        Some(value) if value != 0 => {
            let why = format!(
                "this host forwards {family}: while oneip does not run, it sends clients' packets back to the router; turn it off unless \
                 the host must be a router"
            );
            Finding::warn(name, why).mend(format!("sysctl -w {sysctl}=0"))
        }
        _ => Finding::ok(name, "off"),
    };
    concerned.map(judge).collect()
}

pub fn ipv6_disabled(facts: &Facts) -> Vec<Finding> {
    if !serves(facts, false) {
        return Vec::new();
    }
    let found = |address: IpAddr| facts.network.neighbours.iter().any(|neighbour| neighbour.address == address);
    let servers = facts.plan.iter().flat_map(|plan| &plan.services).flat_map(|service| &service.servers);
    let all_found = servers.map(|server| server.address).filter(IpAddr::is_ipv6).all(found);
    of(facts, |interface, name| match interface.ipv6_disabled {
        Some(1) if all_found => {
            Finding::ok("ipv6_disabled", format!("IPv6 is off on {name}, and no IPv6 server is on its link"))
        }
        Some(1) => Finding::fail("ipv6_disabled", format!("IPv6 is off on {name}, and there are IPv6 servers"))
            .mend(format!("sysctl -w net/ipv6/conf/{name}/disable_ipv6=0")),
        _ => Finding::ok("ipv6_disabled", format!("IPv6 is on for {name}")),
    })
}

/// Where a setting is on: `all`, interfaces.
fn on(facts: &Facts, value: impl Fn(&Settings) -> Option<i64>) -> Vec<&str> {
    let interfaces =
        facts.interfaces.iter().map(|interface| (interface.device.interface.as_str(), &interface.settings));
    let all = std::iter::once(("all", &facts.network.settings)).chain(interfaces);
    all.filter(|(_, settings)| value(settings).is_some_and(|value| value != 0)).map(|(of, _)| of).collect()
}

/// The kernel sends them if either of the two says so (`IN_DEV_TX_REDIRECTS`, include/linux/inetdevice.h).
pub fn send_redirects(facts: &Facts) -> Vec<Finding> {
    let on = on(facts, |settings| settings.send_redirects);
    if on.is_empty() {
        return vec![Finding::ok("send_redirects", "off, for all and for the interface")];
    }
    let fixes: Vec<String> = on.iter().map(|of| setting(of, "send_redirects", 0)).collect();
    let why = format!(
        "send_redirects is on for {}: if this host forwards, it tells the router to send clients' packets to another next hop",
        on.join(" and ")
    );
    vec![Finding::warn("send_redirects", why).mend(fixes.join(" && "))]
}

/// `fib_validate_source`, net/ipv4/fib_frontend.c: the answers of servers to checks come from the cluster address, and by the interface that leads
/// to the servers.
pub fn rp_filter(facts: &Facts) -> Vec<Finding> {
    let all = facts.network.settings.rp_filter.unwrap_or(0);
    of(facts, |interface, name| {
        let strictness = all.max(interface.settings.rp_filter.unwrap_or(0));
        if strictness == 0 || !facts.plan.as_ref().is_some_and(probes) || !may_answer(facts, interface) {
            return Finding::ok("rp_filter", format!("it is {strictness}, and drops nothing that is needed"));
        }
        // An address of this host's own has no route; that is told by itself.
        let held = |cluster: &IpAddr| facts.network.held.iter().any(|(held, ..)| held == cluster);
        let mut others = facts.network.cluster_routes.iter().filter(|(cluster, _)| !held(cluster));
        let drops = others.find(|(_, device)| match device {
            None => true,
            Some(device) => strictness == 1 && !is_of(device, name),
        });
        let Some((cluster, device)) = drops else {
            return Finding::ok("rp_filter", format!("it is {strictness}, and accepts the servers' answers"));
        };
        let (where_to, fix) = match device {
            Some(device) => (format!("the route to it leads through {device}"), setting(name, "rp_filter", 2)),
            None => (
                "there is no route to it".to_owned(),
                format!("{} && {}", setting("all", "rp_filter", 0), setting(name, "rp_filter", 0)),
            ),
        };
        let why = format!(
            "rp_filter is {strictness} on {name}: it drops the servers' answers to checks of {cluster}, because {where_to}"
        );
        Finding::fail("rp_filter", why).mend(fix)
    })
}

/// A device is that interface, or a VLAN of it.
fn is_of(device: &str, interface: &str) -> bool {
    device == interface || device.starts_with(&format!("{interface}."))
}

/// Whether servers may be where that interface leads. Which way the answers of those behind routers come is not known.
fn may_answer(facts: &Facts, interface: &Interface) -> bool {
    let mut services = facts.plan.iter().flat_map(|plan| &plan.services);
    let neighbours = &facts.network.neighbours;
    services.any(|service| service.deliver.is_routed())
        || neighbours.is_empty()
        || neighbours.iter().any(|neighbour| is_of(&neighbour.device, &interface.device.interface))
}

pub fn proxy_arp(facts: &Facts) -> Vec<Finding> {
    let on = on(facts, |settings| settings.proxy_arp);
    if on.is_empty() {
        return vec![Finding::ok("proxy_arp", "off")];
    }
    let fixes: Vec<String> = on.iter().map(|of| setting(of, "proxy_arp", 0)).collect();
    let why = format!("proxy_arp of {} is on: this host answers ARP for the servers too", on.join(" and "));
    vec![Finding::warn("proxy_arp", why).mend(fixes.join(" && "))]
}

/// Direct server return needs each server on the link.
pub fn routes(facts: &Facts) -> Vec<Finding> {
    let off = &facts.network.off_link;
    let is_elsewhere = |off: &&OffLink| matches!(off.detour, Detour::Gateway { .. } | Detour::Device { .. });
    let finding = |name: &str, off: &OffLink| {
        let OffLink { address, interface, detour, .. } = off;
        let finding = Finding::fail(name, off.to_string());
        match detour {
            Detour::Own | Detour::Group => finding,
            _ => finding.mend(format!(
                "ip route replace {address}/{} dev {interface}",
                if address.is_ipv4() { 32 } else { 128 }
            )),
        }
    };
    let mut findings: Vec<Finding> = Vec::new();
    let mut add = |name: &str, all: Vec<&OffLink>, good: &str| match all.as_slice() {
        [] => findings.push(Finding::ok(name, good)),
        all => findings.extend(all.iter().map(|off| finding(name, off))),
    };
    add("routes", off.iter().filter(|off| !is_elsewhere(off)).collect(), "there is a route to each server");
    add("same_link", off.iter().filter(is_elsewhere).collect(), "each server is on the interface's link");
    findings
}

/// What is dispatched leaves in the VLAN that ARP and checks use.
pub fn vlans(facts: &Facts) -> Vec<Finding> {
    let bad = facts.network.vlans.iter().filter_map(|(server, wanted, device, tags)| {
        let is_right = match wanted {
            Tags::AsReceived => true,
            Tags::Untagged => tags.is_empty(),
            Tags::Vlan(id) => tags == &[*id],
        };
        let by = match &tags[..] {
            [] => "without a tag".to_owned(),
            tags => format!("in VLAN {}", tags.iter().map(ToString::to_string).collect::<Vec<_>>().join(" in ")),
        };
        let frames = match wanted {
            Tags::Vlan(id) => format!("in VLAN {id}"),
            _ => "without a tag".to_owned(),
        };
        let why = format!(
            "the route to server {server} leads through {device}, {by}, but with its `vlan` clients' frames leave {frames}: clients may reach \
             another machine than ARP and checks"
        );
        let finding = Finding::warn("vlans", why);
        let mend = |id: &u16| format!("ip link add link {device} name {device}.{id} type vlan id {id}");
        (!is_right).then(|| match wanted {
            Tags::Vlan(id) if tags.is_empty() => finding.mend(mend(id)),
            _ => finding,
        })
    });
    let bad: Vec<Finding> = bad.collect();
    if bad.is_empty() { vec![Finding::ok("vlans", "routes lead into the VLANs of the servers")] } else { bad }
}

pub fn neighbours(facts: &Facts) -> Vec<Finding> {
    let configured = |address: &IpAddr| {
        let servers = facts.plan.iter().flat_map(|plan| &plan.services).flat_map(|service| &service.servers);
        servers.into_iter().find(|server| server.address == *address).and_then(|server| server.mac)
    };
    let judge = |Neighbour { server, address, mac, .. }: &Neighbour| match (configured(address), mac) {
        (Some(said), Some(real)) if said != *real => Some(Finding::fail(
            "neighbours",
            format!(
                "server {server} {address} has MAC address {real}, but the configuration has {said}: correct its `mac`"
            ),
        )),
        (Some(_), _) | (None, Some(_)) => None,
        (None, None) => Some(Finding::fail(
            "neighbours",
            format!(
                "server {server} {address} does not answer ARP or neighbour discovery: it is off, or on another link"
            ),
        )),
    };
    let bad: Vec<Finding> = facts.network.neighbours.iter().filter_map(judge).collect();
    if bad.is_empty() { vec![Finding::ok("neighbours", "the MAC address of each server is known")] } else { bad }
}

/// A router with proxy ARP answers for servers, and frames go in a circle; an entry by hand may be another machine's.
pub fn shared_macs(facts: &Facts) -> Vec<Finding> {
    let network = &facts.network;
    let whose = |server: &str, address: &IpAddr, mac: Mac| -> Option<String> {
        if facts.interfaces.iter().any(|interface| interface.device.mac == mac) {
            return Some("this host's own".to_owned());
        }
        if let Some((gateway, _)) = network.gateways.iter().find(|(gateway, at)| *at == mac && gateway != address) {
            return Some(format!("the router's, {gateway}"));
        }
        // The same server has addresses of both families, under one name or two.
        let is_other = |other: &&Neighbour| {
            other.mac == Some(mac) && other.server != server && other.address.is_ipv4() == address.is_ipv4()
        };
        network.neighbours.iter().find(is_other).map(|other| format!("also that of server {}", other.server))
    };
    let bad = network.neighbours.iter().filter_map(|Neighbour { server, address, device, mac }| {
        let mac = (*mac)?;
        let whose = whose(server, address, mac)?;
        let why = format!("server {server} {address} has MAC address {mac}, which is {whose}: proxy ARP, or an entry that somebody added by hand");
        Some(Finding::fail("server_macs", why).mend(format!("ip neigh del {address} dev {device}")))
    });
    // Of two that share one, who is wrong is not known: both are told.
    let bad: Vec<Finding> = bad.collect();
    if bad.is_empty() { vec![Finding::ok("server_macs", "each server has its own MAC address")] } else { bad }
}

pub fn neighbour_table(facts: &Facts) -> Vec<Finding> {
    let count = |ipv4: bool| {
        let servers = facts.plan.iter().flat_map(|plan| &plan.services).flat_map(|service| &service.servers);
        servers.into_iter().filter(|server| server.address.is_ipv4() == ipv4).count() as i64
    };
    let families = [("ipv4", count(true)), ("ipv6", count(false))].into_iter().zip(facts.host.neighbours_most);
    let small = families.filter(|((_, servers), most)| most.is_some_and(|most| most < 2 * servers));
    let small: Vec<Finding> = small
        .map(|((family, servers), most)| {
            let (most, better) = (most.unwrap_or(0), (4 * servers).max(1024));
            let why = format!(
                "the kernel's {family} neighbour table has room for {most} entries, but there are {servers} servers"
            );
            let key = format!("net.{family}.neigh.default.gc_thresh");
            Finding::warn("neighbour_table", why).mend(format!("sysctl -w {key}3={better} {key}2={better}"))
        })
        .collect();
    if small.is_empty() { vec![Finding::ok("neighbour_table", "large enough")] } else { small }
}

pub fn port_range(facts: &Facts) -> Vec<Finding> {
    let (Some((_, last)), Some(plan)) = (facts.network.port_range, &facts.plan) else { return Vec::new() };
    let (first, end) = HEALTH_PORTS;
    if last < first || !probes(plan) {
        return vec![Finding::ok("port_range", "the kernel gives no ports of the checks to other connections")];
    }
    let why =
        format!("the kernel gives other connections of this host ports up to {last}, but checks use {first} to {end}");
    vec![Finding::warn("port_range", why).mend("sysctl -w net.ipv4.ip_local_port_range='32768 60999'")]
}

pub fn probe_rules(facts: &Facts) -> Vec<Finding> {
    let (network, Some(plan)) = (&facts.network, &facts.plan) else { return Vec::new() };
    if let Some(first) = network.rules_before.first().filter(|_| probes(plan)) {
        let why =
            "a rule of this host matches the checks' packets before the checks' own rule: servers are not checked";
        return vec![Finding::fail("probe_rules", why).mend(first.clone())];
    }
    let (rules, routes) = (network.probe_rules.iter().sum::<usize>(), network.probe_routes);
    if facts.running.is_none() && facts.no_answer.is_none() && !facts.is_itself && rules + routes > 0 {
        let why = format!(
            "there are {rules} rules and {routes} routes of the checks, but no dispatcher runs: a dispatcher was killed; the next start removes them"
        );
        let fix = "ip rule flush protocol 111; ip -6 rule flush protocol 111; ip route flush table all proto 111; \
                   ip -6 route flush table all proto 111";
        return vec![Finding::warn("probe_rules", why).mend(fix)];
    }
    let missing = [true, false].into_iter().zip(network.probe_rules).any(|(ipv4, rules)| {
        let of = |service: &&crate::model::Service| service.address.is_ipv4() == ipv4;
        let probed =
            plan.services.iter().filter(of).any(|s| matches!(s.health, Some(Health { via: Via::Service, .. })));
        probed && rules == 0
    });
    if facts.dispatches() && missing && probes(plan) {
        let why =
            "the rules of the checks are missing: servers are unchecked until the dispatcher has added them again";
        return vec![Finding::fail("probe_rules", why)];
    }
    // Of one that does not answer too: it may have stopped before it could put them back.
    let has_process = facts.dispatches() || facts.no_answer.is_some();
    if has_process && network.routeless > 0 && probes(plan) {
        let why = format!(
            "{} routes of the checks are missing: their servers are unchecked until the dispatcher has added them again",
            network.routeless
        );
        return vec![Finding::fail("probe_rules", why)];
    }
    vec![Finding::ok("probe_rules", if rules > 0 { "in place" } else { "there are none, and none are needed now" })]
}
