//! The rules between services: which frames are whose, and what one name or address stands for.

use super::draft::{ServerDraft, ServiceDraft};
use super::report::Report;
use super::section::At;
use super::service::distinct;
use crate::limits::{DEFAULT_SLOTS, MAX_ADDRESSES};
use crate::model::{Prefix, Selection, Transport};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

/// A service, and an address or prefix that it lists.
struct Claim<'d> {
    service: &'d ServiceDraft,
    address: At<Prefix>,
}

/// Reports what services, each legal by itself, break together.
pub fn check(services: &[ServiceDraft], report: &mut Report) {
    distinct(services.iter().filter_map(|service| service.name.as_ref()), report, |name, line| {
        format!("service name \"{name}\" is already given on line {line}; each service has its own")
    });
    check_machines(services, report);

    let mut by_address: BTreeMap<Prefix, Vec<Claim>> = BTreeMap::new();
    for service in services {
        for address in &service.addresses {
            let sharing = by_address.entry(address.value).or_default();
            if sharing.last().is_none_or(|last| !std::ptr::eq(last.service, service)) {
                sharing.push(Claim { service, address: *address });
            }
        }
    }
    check_count(services, report);
    check_cluster_addresses(services, &by_address, report);
    for sharing in by_address.values() {
        check_overlap(sharing, report);
        check_fragments(sharing, report);
    }
}

/// `--down NAME`, health and metrics speak of machines: one name is one machine, which may have an address of each family,
/// and one address is one machine.
fn check_machines(services: &[ServiceDraft], report: &mut Report) {
    let (mut addresses, mut names, mut macs, mut vlans) = (Firsts::new(), Firsts::new(), Firsts::new(), Firsts::new());
    let servers =
        services.iter().enumerate().flat_map(|(i, service)| service.servers.iter().map(move |server| (i, server)));
    for (service, ServerDraft { name, address, mac, vlan, .. }) in servers {
        let Some(address) = *address else { continue };
        let here = address.value;
        if let Some(name) = name {
            let text = At { at: name.at, value: name.as_str() };
            if let Some(other) = addresses.differing(service, (text.value, here.is_ipv4()), address) {
                let (name, there, line) = (text.value, other.value, report.line(other.at));
                let message =
                    format!("server \"{name}\" is {here} here and {there} on line {line}; one name is one machine");
                report.error(address.at, message);
            }
            if let Some(other) = names.differing(service, here, text) {
                let (name, there, line) = (text.value, other.value, report.line(other.at));
                let message = format!(
                    "{here} is \"{name}\" here and \"{there}\" on line {line}; write the same name, so that `--down` \
                     takes both"
                );
                report.warn(text.at, message);
            }
        }
        if let Some(mac) = *mac
            && let Some(other) = macs.differing(service, here, mac)
        {
            let (mac_here, there, line) = (mac.value, other.value, report.line(other.at));
            let message = format!("{here} has MAC {mac_here} here and {there} on line {line}; correct one of them");
            report.error(mac.at, message);
        }
        if let Some(vlan) = *vlan
            && let Some(other) = vlans.differing(service, here, vlan)
        {
            let (vlan_here, there, line) = (vlan.value, other.value, report.line(other.at));
            let message = format!("{here} has vlan {vlan_here} here and {there} on line {line}; correct one of them");
            report.error(vlan.at, message);
        }
    }
}

/// What each key stood for first, and in which service.
struct Firsts<K, V>(HashMap<K, (usize, At<V>)>);

impl<K: Eq + Hash, V: Copy + Eq> Firsts<K, V> {
    fn new() -> Self {
        Firsts(HashMap::new())
    }

    /// What the key stood for first, if that was in another service and something else. (What is given twice in one service
    /// is reported there.)
    fn differing(&mut self, service: usize, key: K, value: At<V>) -> Option<At<V>> {
        let (first, other) = *self.0.entry(key).or_insert((service, value));
        (first != service && other.value != value.value).then_some(other)
    }
}

fn check_cluster_addresses(services: &[ServiceDraft], by_address: &BTreeMap<Prefix, Vec<Claim>>, report: &mut Report) {
    let prefixes: Vec<&Claim> = by_address.values().flatten().filter(|of| !of.address.is_host()).collect();
    for address in services.iter().flat_map(|service| &service.servers).filter_map(|server| server.address) {
        let here = address.value;
        if let Some(of) = by_address.get(&Prefix::host(here)).and_then(|sharing| sharing.first()) {
            let (label, line) = (of.service.label(), report.line(of.service.at));
            let message =
                format!("{here} is the cluster address of {label} (line {line}); write the server's primary address");
            report.error(address.at, message);
        } else if let Some(of) = prefixes.iter().find(|of| of.address.contains(here)) {
            let (prefix, label, line) = (of.address.value, of.service.label(), report.line(of.address.at));
            let message = format!(
                "{here} is in the prefix {prefix} of {label} (line {line}), so packets to the server would be \
                 dispatched; write a primary address outside of it, or other prefixes"
            );
            report.error(address.at, message);
        }
    }
}

fn check_count(services: &[ServiceDraft], report: &mut Report) {
    let addresses = services.iter().flat_map(|service| &service.addresses);
    let count = addresses.clone().count();
    if let Some(first_beyond) = addresses.clone().nth(MAX_ADDRESSES) {
        let message = format!("{count} addresses and prefixes of services; at most {MAX_ADDRESSES} are possible");
        report.error(first_beyond.at, message);
    }
}

/// Of the services of one address, two that take the same port, or both every port.
fn check_overlap(sharing: &[Claim], report: &mut Report) {
    let mut first = HashMap::new();
    for Claim { service, address } in sharing {
        let claims = match &service.ports {
            Some(ports) => ports.iter().map(|port| (Some(port.value), port.at)).collect(),
            None => vec![(None, address.at)],
        };
        for (port, at) in claims {
            let other: &ServiceDraft = match first.entry(port) {
                Entry::Vacant(entry) => {
                    entry.insert(*service);
                    continue;
                }
                Entry::Occupied(entry) if std::ptr::eq(*entry.get(), *service) => continue,
                Entry::Occupied(entry) => entry.into_mut(),
            };
            let (label, theirs, line) = (service.label(), other.label(), report.line(other.at));
            report.error(
                at,
                match port {
                    Some(port) => format!(
                        "{label} and {theirs} (line {line}) both take {port} of {}; leave it to one",
                        address.value
                    ),
                    None => format!(
                        "{label} and {theirs} (line {line}) both take all of {}; give one of them `ports`",
                        address.value
                    ),
                },
            );
        }
    }
}

/// Of the services of one address, two that take the same transport but would send a client to different servers.
fn check_fragments(sharing: &[Claim], report: &mut Report) {
    let mut warned: Vec<usize> = Vec::new();
    for transport in Transport::ALL {
        let mut with_it = sharing.iter().filter(|claim| takes(claim.service, transport));
        let Some(Claim { service: first, .. }) = with_it.next() else { continue };
        for Claim { service, address } in with_it.filter(|claim| servers(claim.service) != servers(first)) {
            if warned.contains(&address.at) {
                continue;
            }
            let (label, theirs, line) = (service.label(), first.label(), report.line(first.at));
            warned.push(address.at);
            report.warn(address.at, format!(
                "{label} and {theirs} (line {line}) share {} and {} but not their servers: later fragments of a packet \
                 carry no port, and may reach a server of the other service",
                address.value, transport.name(),
            ));
        }
    }
}

fn takes(service: &ServiceDraft, transport: Transport) -> bool {
    service.ports.as_ref().is_none_or(|ports| ports.iter().any(|port| port.transport == transport))
}

/// A server's name, address and weight.
type Share<'d> = (Option<&'d str>, Option<IpAddr>, u32);

/// What decides which server a client address gets: the selection, the slots and the shares.
fn servers(service: &ServiceDraft) -> (bool, u32, Vec<Share<'_>>) {
    let is_maglev = service.selection == Selection::Maglev;
    let slots = service.slots.map_or(DEFAULT_SLOTS, |slots| slots.value);
    let each = service.servers.iter().map(|server| {
        let name = server.name.as_ref().map(|name| name.as_str());
        (name, server.address.map(|address| address.value), server.weight())
    });
    let mut servers: Vec<_> = each.collect();
    if is_maglev {
        servers.sort_unstable();
    }
    (is_maglev, slots, servers)
}
