//! Addresses, routes, rules and neighbours of the dispatcher.

use super::files::Root;
use super::interface::settings;
use crate::control::health::route;
use crate::control::neighbours::{self, Detour, OffLink, Reachability, Route};
use crate::doctor::facts::{Interface, Neighbour, Network};
use crate::limits::DOCTOR_RESOLVES;
use crate::model::{Mac, Plan, Server};
use crate::netlink::links::Links;
use crate::netlink::{self, lookup};
use crate::server;
use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

/// Addresses that this host holds are read outside of the runtime.
pub fn held(plan: &Plan) -> Vec<(IpAddr, u8, String)> {
    let cluster_addresses = plan.cluster_addresses();
    let cluster = |address: &IpAddr| cluster_addresses.iter().any(|prefix| prefix.contains(*address));
    let held = server::held().unwrap_or_default().into_iter().filter(|held| cluster(&held.address));
    held.map(|held| (held.address, held.prefix, held.interface)).collect()
}

/// With `ask`, servers that the kernel does not know are asked for: a packet to their discard port makes it.
pub async fn network(
    root: &Root,
    handle: &Handle,
    plan: &Plan,
    (interfaces, all_up): (&[Interface], bool),
    ask: bool,
) -> Network {
    let mut network = Network {
        ip_forward: root.number("/proc/sys/net/ipv4/ip_forward"),
        ipv6_forwarding: root.number("/proc/sys/net/ipv6/conf/all/forwarding"),
        settings: settings(root, "all"),
        port_range: root.text("/proc/sys/net/ipv4/ip_local_port_range").and_then(|text| range(&text)),
        ..Network::default()
    };
    let _ = probe_routes(handle, &mut network).await;
    // What follows is lost with a link.
    if all_up {
        let _ = servers(handle, plan, interfaces, ask, &mut network).await;
    }
    network
}

fn range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace();
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

async fn servers(
    handle: &Handle,
    plan: &Plan,
    interfaces: &[Interface],
    ask: bool,
    network: &mut Network,
) -> io::Result<()> {
    let table = neighbours::table(handle.clone()).await?;
    let links = Links::new(table.links);
    let Some(Interface { device: first, .. }) = interfaces.first() else { return Ok(()) };
    let indices: Vec<u32> = interfaces.iter().map(|interface| interface.device.index).collect();
    for service in plan.services.iter().filter(|service| service.address.is_ipv4()) {
        let path = netlink::path(handle, service.address, None).await?;
        network.cluster_routes.push((service.address, path.map(|path| links.name(path.device))));
    }
    // The others may be behind routers.
    let on_link = plan.services.iter().filter(|service| !service.deliver.is_routed());
    let all = on_link.flat_map(|service| &service.servers);
    let wanted: BTreeMap<IpAddr, &Server> = all.map(|server| (server.address, server)).collect();
    let ipv6_is_off = interfaces.iter().all(|interface| interface.ipv6_disabled == Some(1));
    let mut devices = BTreeMap::new();
    for (address, server) in wanted.iter().filter(|(address, _)| address.is_ipv4() || !ipv6_is_off) {
        let detour = match neighbours::route(handle, *address, first.index).await? {
            Route::Straight { device } if links.leads_to_one(device, &indices).is_some() => {
                devices.insert(*address, (device, server.name.clone()));
                if !server.tags.are_as_received() {
                    let (name, tags) = (server.name.clone(), links.tags(device));
                    network.vlans.push((name, server.tags, links.name(device), tags));
                }
                continue;
            }
            Route::Straight { device } => Detour::Device { device: links.name(device) },
            Route::Via { gateway, device } => Detour::Gateway { via: gateway, device: links.name(device) },
            Route::Nowhere(detour) => detour,
        };
        let interface = first.interface.clone();
        network.off_link.push(OffLink { name: server.name.clone(), address: *address, interface, detour });
    }
    let mut known = usable(table.neighbours);
    let missing = |known: &BTreeMap<(u32, IpAddr), Mac>| -> Vec<IpAddr> {
        let unknown = devices.iter().filter(|(address, (device, _))| !known.contains_key(&(*device, **address)));
        unknown.map(|(address, _)| *address).collect()
    };
    if ask {
        missing(&known).into_iter().for_each(poke);
        let give_up = Instant::now() + DOCTOR_RESOLVES;
        while !missing(&known).is_empty() && Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(50)).await;
            known = usable(neighbours::table(handle.clone()).await?.neighbours);
        }
    }
    for (address, (device, name)) in devices {
        let mac = known.get(&(device, address)).copied();
        // Of one that nobody has asked for nothing is known.
        if ask || mac.is_some() {
            network.neighbours.push(Neighbour { server: name, address, device: links.name(device), mac });
        }
    }
    // Addresses that no network has (RFC 2544 and RFC 3849). The unspecified ones lead to this host.
    for far in
        [IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1))]
    {
        let route = lookup(handle, far, None).await?.and_then(|route| netlink::Path::of(&route));
        let gateway = route.and_then(|path| Some((path.device, path.gateway?)));
        let mac = gateway.and_then(|at| known.get(&at).map(|mac| (at.1, *mac)));
        network.gateways.extend(mac);
    }
    Ok(())
}

fn usable(neighbours: Vec<(u32, IpAddr, neighbours::Seen)>) -> BTreeMap<(u32, IpAddr), Mac> {
    let mac = |(device, address, seen): (u32, IpAddr, neighbours::Seen)| match seen.state {
        Reachability::Usable(mac) => Some(((device, address), mac)),
        _ => None,
    };
    neighbours.into_iter().filter_map(mac).collect()
}

/// Has the kernel look for a neighbour. The packet goes to the discard port (RFC 863).
fn poke(address: IpAddr) {
    let any = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let _ = UdpSocket::bind((any, 0)).and_then(|socket| socket.send_to(b"", (address, 9)));
}

/// Counts rules and routes of the checks, and finds rules of others that come first.
async fn probe_routes(handle: &Handle, network: &mut Network) -> io::Result<()> {
    let families = [(IpVersion::V4, AddressFamily::Inet), (IpVersion::V6, AddressFamily::Inet6)];
    for (at, (version, family)) in families.into_iter().enumerate() {
        let all: Vec<RuleMessage> = handle.rule().get(version).execute().try_collect().await.map_err(netlink::to_io)?;
        let tables = probe_tables(handle, family).await?;
        network.probe_routes += tables.len();
        for rule in &all {
            if rule.attributes.contains(&RuleAttribute::Protocol(netlink::PROTOCOL)) {
                network.probe_rules[at] += 1;
                let table = rule.attributes.iter().find_map(|attribute| match attribute {
                    RuleAttribute::Table(table) => Some(*table),
                    _ => None,
                });
                let is_empty = |table: u32| route::is_probe_table(table) && !tables.contains(&table);
                network.routeless += usize::from(table.is_some_and(is_empty));
            } else if let Some(before) = before(rule, at == 1) {
                network.rules_before.push(before);
            }
        }
    }
    Ok(())
}

/// The table of each route of the checks.
async fn probe_tables(handle: &Handle, family: AddressFamily) -> io::Result<Vec<u32>> {
    let mut query = RouteMessage::default();
    query.header.address_family = family;
    let ours = |route: RouteMessage| {
        let table = route::table_of(&route)
            .filter(|table| route.header.protocol == netlink::PROTOCOL && route::is_probe_table(*table));
        std::future::ready(Ok(table))
    };
    handle.route().get(query).execute().map_err(netlink::to_io).try_filter_map(ours).try_collect().await
}

/// A rule that may take a probe's packets before the rule of the checks does, as `ip rule del` takes it. The kernel's own for local
/// addresses takes none.
fn before(rule: &RuleMessage, ipv6: bool) -> Option<String> {
    const LOCAL: u32 = 255;
    let (mut preference, mut mark, mut mask, mut table) = (0, None, None, u32::from(rule.header.table));
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(value) => preference = *value,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Table(value) => table = *value,
            _ => {}
        }
    }
    let takes_them = mark.is_none_or(|mark| route::is_probe_mark(mark, mask.unwrap_or(u32::MAX)));
    if preference > route::FIRST_PREFERENCE || (table == LOCAL && mark.is_none()) || !takes_them {
        return None;
    }
    let mark = mark.map(|mark| format!(" fwmark {mark:#x}/{:#x}", mask.unwrap_or(u32::MAX))).unwrap_or_default();
    let to = if rule.header.action == RuleAction::ToTable { format!(" table {table}") } else { String::new() };
    Some(format!("ip {}rule del pref {preference}{mark}{to}", if ipv6 { "-6 " } else { "" }))
}

/// A setting, as sysctl(8) takes it: with slashes, for a name may have a point in it.
pub fn setting(interface: &str, key: &str, value: u32) -> String {
    format!("sysctl -w {}={value}", Path::new("net/ipv4/conf").join(interface).join(key).display())
}
