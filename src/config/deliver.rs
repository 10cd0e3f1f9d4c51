//! The keys of the way to the servers, and the rules of tunnels: inside a service, between services, and with [dispatcher].

use super::draft::{Draft, ServerDraft, ServiceDraft};
use super::report::Report;
use super::schema::SERVICE;
use super::section::{At, Section, text_element};
use super::value;
use crate::model::{Deliver, Prefix};
use std::collections::HashMap;
use std::net::IpAddr;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    L2,
    Ipip,
    Gue,
    Gre,
    L3dsr,
}

pub struct DeliverDraft {
    way: Option<At<Way>>,
    port: Option<At<u32>>,
    dscp: Option<At<u32>>,
    /// A `dscp` that was refused is there as well.
    dscp_given: bool,
}

impl DeliverDraft {
    pub fn read(section: &Section, report: &mut Report) -> DeliverDraft {
        let ways = [("l2", Way::L2), ("ipip", Way::Ipip), ("gue", Way::Gue), ("gre", Way::Gre), ("l3dsr", Way::L3dsr)];
        DeliverDraft {
            way: section.text("deliver", report, value::choice("deliver", ways)),
            port: section.integer("gue_port", 1..=u16::MAX.into(), report),
            // 0 is what packets have that nobody marked.
            dscp: section.integer("dscp", 1..=63, report),
            dscp_given: section.key_at("dscp").is_some(),
        }
    }

    fn way(&self) -> Way {
        self.way.map_or(Way::L2, |way| way.value)
    }

    /// What it comes to, where nothing was reported.
    pub fn to_deliver(&self) -> Deliver {
        match self.way() {
            Way::L2 => Deliver::L2,
            Way::Ipip => Deliver::Ipip,
            Way::Gue => Deliver::Gue { port: self.port.map_or(Deliver::GUE_PORT, |port| port.value as u16) },
            Way::Gre => Deliver::Gre,
            Way::L3dsr => Deliver::L3dsr { dscp: self.dscp.map_or(0, |dscp| dscp.value as u8) },
        }
    }
}

/// `source` of [dispatcher]. `None` where the key is absent.
pub fn read_source(section: &Section, report: &mut Report) -> Option<Vec<At<IpAddr>>> {
    let empty = "`source` is empty; leave the key out to send tunnels from the interface's addresses";
    let form = "an address, like \"192.0.2.2\"";
    let source = section
        .list("source", report, empty, |source, report| text_element(source, report, form, value::cluster_address))?;
    for is_v4 in [true, false] {
        let mut of_family = source.iter().filter(|source| source.is_ipv4() == is_v4);
        if let (Some(first), Some(second)) = (of_family.next(), of_family.next()) {
            let (family, line) = (family(first.value), report.line(first.at));
            report.error(
                second.at,
                format!("`source` has an {family} address already, on line {line}; write one of each family"),
            );
        }
    }
    Some(source)
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Reports what keys of the way to the servers break together.
pub fn check(draft: &Draft, report: &mut Report) {
    for service in &draft.services {
        check_service(service, report);
        if let Some(way) = service.deliver.way.filter(|way| way.value != Way::L2 && draft.filter.is_some()) {
            report.warn(way.at, "`oneip filter` ignores `deliver`: every server gets the frame by broadcast");
        }
    }
    check_dscps(&draft.services, report);
    let source = draft.dispatcher.as_ref().and_then(|dispatcher| dispatcher.source.as_deref());
    if let Some(source) = source {
        check_source(source, &draft.services, report);
    }
}

fn check_service(service: &ServiceDraft, report: &mut Report) {
    let DeliverDraft { port, dscp, dscp_given, .. } = service.deliver;
    let way = service.deliver.way();
    if let Some(port) = port.filter(|_| way != Way::Gue) {
        report.error(port.at, "`gue_port` is for deliver = \"gue\"; leave it out, or write that");
    }
    if let Some(dscp) = dscp.filter(|_| way != Way::L3dsr) {
        report.error(dscp.at, "`dscp` is for deliver = \"l3dsr\"; leave it out, or write that");
    }
    if let Some(chance) = service.second_chance.filter(|chance| chance.value && way != Way::L2) {
        let message = "`second_chance` is for deliver = \"l2\": a server cannot send back a frame that came in a \
                       tunnel; leave it out";
        report.error(chance.at, message);
    }
    if way != Way::L3dsr {
        return;
    }
    if !dscp_given && let Some(way) = service.deliver.way {
        let (title, form) = (SERVICE.title, SERVICE.key("dscp").form);
        report.missing(
            way.at,
            format!("{title} lacks `dscp`, by which servers recognize the cluster address with l3dsr; write {form}"),
        );
    }
    let is_one = |addresses: &[At<Prefix>]| matches!(addresses, [only] if only.is_host());
    if let Some(first) = service.addresses.first().filter(|_| !is_one(&service.addresses)) {
        let message = "with l3dsr, one `dscp` stands for one cluster address, not several; write one address, or \
                       deliver = \"ipip\"";
        report.error(first.at, message);
        return;
    }
    let Some(cluster) = service.address else { return };
    for address in service.servers.iter().filter_map(|server| server.address) {
        if address.is_ipv4() != cluster.is_ipv4() {
            report.error(address.at, format!(
                "l3dsr replaces the cluster address {} with the server's address, and {} is not of the same family; \
                 write an {} address, or deliver = \"ipip\"",
                cluster.value, address.value, family(cluster.value),
            ));
        }
    }
}

/// A server tells cluster addresses of a family from each other by the DSCP alone.
fn check_dscps(services: &[ServiceDraft], report: &mut Report) {
    let mut first: HashMap<(bool, u32), &ServiceDraft> = HashMap::new();
    for service in services.iter().filter(|service| service.deliver.way() == Way::L3dsr) {
        let (Some(dscp), Some(address)) = (service.deliver.dscp, service.address) else { continue };
        let other = *first.entry((address.is_ipv4(), dscp.value)).or_insert(service);
        let there = other.address.map_or(address.value, |address| address.value);
        if there != address.value {
            let (label, theirs, line) = (service.label(), other.label(), report.line(other.at));
            report.error(
                dscp.at,
                format!(
                    "{label} and {theirs} (line {line}) have the same dscp {} but different cluster addresses, {} and \
                 {there}; write another dscp",
                    dscp.value, address.value,
                ),
            );
        }
    }
}

/// Tunnels come from no address that is somebody else's, and from one of the family of each server.
fn check_source(source: &[At<IpAddr>], services: &[ServiceDraft], report: &mut Report) {
    for service in services {
        let in_prefix = |own: &At<IpAddr>| service.addresses.iter().find(|prefix| prefix.contains(own.value));
        if let Some((own, prefix)) = source.iter().find_map(|own| Some((own, in_prefix(own)?))) {
            let (label, line) = (service.label(), report.line(service.at));
            if !prefix.is_host() {
                let message = format!(
                    "{} is in the prefix {} of {label} (line {line}); write an address of the dispatcher outside of it",
                    own.value, prefix.value
                );
                report.error(own.at, message);
                continue;
            }
            report.error(
                own.at,
                format!(
                    "{} is the cluster address of {label} (line {line}); write an address of the dispatcher itself",
                    own.value
                ),
            );
        }
        for ServerDraft { address, .. } in &service.servers {
            let Some(address) = *address else { continue };
            if let Some(own) = source.iter().find(|source| source.value == address.value) {
                let (label, line) = (service.label(), report.line(address.at));
                report.error(
                    own.at,
                    format!(
                        "{} is a server of {label} (line {line}); write an address of the dispatcher itself",
                        own.value
                    ),
                );
            }
            let is_tunnel = service.deliver.to_deliver().is_tunnel();
            if is_tunnel && !source.is_empty() && source.iter().all(|source| source.is_ipv4() != address.is_ipv4()) {
                let (family, own) = match address.is_ipv4() {
                    true => ("IPv4", "192.0.2.2"),
                    false => ("IPv6", "2001:db8::2"),
                };
                report.error(address.at, format!(
                    "tunnels to {} need an {family} source address, and `source` of [dispatcher] (line {}) has none; \
                     add one, like \"{own}\"",
                    address.value, report.line(source[0].at),
                ));
            }
        }
    }
}
