//! What decides whose a client is, as two numbers: filters that have the same agree.

use std::fmt::Write as _;

use crate::control::overrides::{Override, Overrides};
use crate::hash::{self, Key};
use crate::model::{Plan, Selection, Server, Service};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Of the configuration: the services, and their servers with names and weights.
    pub configuration: u64,
    /// Of what operators have ordered beside it.
    pub orders: u64,
}

impl Digests {
    /// `down`: what the command line takes as down.
    pub fn new(key: Key, configured: &Plan, orders: &Overrides, down: &[String]) -> Digests {
        let mut text = String::new();
        configured.services.iter().for_each(|service| of_service(service, &mut text));
        let configuration = hash::siphash::bytes(key, text.as_bytes());
        text.clear();
        for (name, one) in orders.everywhere() {
            of_order(name, one, &mut text);
        }
        for (service, name, one) in orders.each() {
            of_order(&format!("{name} of {service}"), one, &mut text);
        }
        let mut down: Vec<&String> = down.iter().collect();
        down.sort_unstable();
        let _ = write!(text, "{down:?}");
        Digests { configuration, orders: hash::siphash::bytes(key, text.as_bytes()) }
    }
}

/// When a drain ends is each server's own.
fn of_order(server: &str, Override { drained_until, disabled, weight }: &Override, text: &mut String) {
    let _ = writeln!(text, "{server} {} {disabled} {weight:?}", drained_until.is_some());
}

fn of_service(service: &Service, text: &mut String) {
    let Service { name, ports, hash, selection, slots, quic, .. } = service;
    let _ = writeln!(text, "service {name} {} {} {} {slots}", service.addresses_text(), hash.name(), selection.name());
    ports.iter().for_each(|port| _ = writeln!(text, "port {port}"));
    for config in quic {
        let _ = writeln!(text, "quic {config} {:?}", config.key.map(|key| key.0));
    }
    let mut servers: Vec<&Server> = service.servers.iter().collect();
    // By remainder, a server's place counts.
    if *selection == Selection::Maglev {
        servers.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    }
    for Server { name, address, weight, quic_ids, .. } in servers {
        let _ = writeln!(text, "server {name} {address} {weight}");
        quic_ids.iter().for_each(|id| _ = writeln!(text, "quic_id {id}"));
    }
}
