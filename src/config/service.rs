//! The rules inside one service.

use super::draft::{ServerDraft, ServiceDraft};
use super::health;
use super::report::Report;
use super::section::At;
use crate::limits::SLOTS_PER_SERVER;
use crate::model::prime::next_prime;
use crate::model::{HashInput, Selection};
use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;

/// Reports what the values of a service, each legal by itself, break together.
pub fn check(service: &ServiceDraft, report: &mut Report) {
    check_distinct(service, report);
    check_addresses(service, report);
    check_slots(service, report);
    if let Some(health) = &service.health {
        health::check(health, service, report);
    }
    if service.selection == Selection::Modulo {
        check_modulo(service, report);
    }
    if !service.servers.is_empty() && service.servers.iter().all(|server| server.weight() == 0) {
        let label = service.label();
        report.warn(service.at, format!("every server of {label} has weight 0, so all its frames will be dropped"));
    }
}

/// What servers do for one address they do for all: a list is of one family.
fn check_addresses(service: &ServiceDraft, report: &mut Report) {
    distinct(service.addresses.iter(), report, |address, line| {
        format!("{address} is already given on line {line}; write it once")
    });
    let Some((first, others)) = service.addresses.split_first() else { return };
    if let Some(other) = others.iter().find(|other| other.address.is_ipv4() != first.address.is_ipv4()) {
        let message = format!(
            "{} and {} are not of one family; write two services, one for IPv4 and one for IPv6, with the same servers",
            first.value, other.value
        );
        report.error(other.at, message);
    }
}

fn check_distinct(service: &ServiceDraft, report: &mut Report) {
    let ports = service.ports.iter().flatten();
    distinct(ports, report, |port, line| format!("port {port} is already given on line {line}; write it once"));
    let own = "in this service; each server has its own";
    distinct(servers(service, |server| server.name.as_ref()), report, |name, line| {
        format!("server name \"{name}\" is already given on line {line} {own}")
    });
    distinct(servers(service, |server| server.address.as_ref()), report, |address, line| {
        format!("server address {address} is already given on line {line} {own}")
    });
    distinct(servers(service, |server| server.mac.as_ref()), report, |mac, line| {
        format!("MAC address {mac} is already given on line {line} {own}")
    });
}

fn servers<'d, T: 'd>(
    service: &'d ServiceDraft,
    field: impl Fn(&'d ServerDraft) -> Option<&'d At<T>>,
) -> impl Iterator<Item = &'d At<T>> {
    service.servers.iter().filter_map(field)
}

/// Reports every value that stands earlier already, with a message made of it and of the line of the first.
pub fn distinct<'d, T: Eq + Hash + Display + 'd>(
    values: impl Iterator<Item = &'d At<T>>,
    report: &mut Report,
    message: impl Fn(&T, &str) -> String,
) {
    let mut first = HashMap::new();
    for value in values {
        let at = *first.entry(&value.value).or_insert(value.at);
        if at != value.at {
            report.error(value.at, message(&value.value, &report.line(at)));
        }
    }
}

fn check_slots(service: &ServiceDraft, report: &mut Report) {
    let Some(slots) = service.slots else { return };
    let servers = service.servers.len();
    let least = servers as u32 * SLOTS_PER_SERVER;
    let right = next_prime(slots.max(least));
    if *slots < least {
        let each = SLOTS_PER_SERVER;
        let message =
            format!("{} slots are too few for {servers} servers, which need {each} each; write {right}", *slots);
        report.error(slots.at, message);
    } else if right != *slots {
        report.error(slots.at, format!("`slots` must be prime, and {} is not; write {right}", *slots));
    }
}

fn check_modulo(service: &ServiceDraft, report: &mut Report) {
    if let Some(hash) = service.hash.filter(|hash| hash.value == HashInput::Flow) {
        let message = "`modulo` takes the client's address as it is, not a hash of the flow; leave `hash` out, or select \"maglev\"";
        report.error(hash.at, message);
    }
    for weight in service.servers.iter().filter_map(|server| server.weight).filter(|weight| weight.value > 1) {
        report
            .error(weight.at, "`modulo` gives every server the same share; write weight 1 or 0, or select \"maglev\"");
    }
}
