//! Writes what was found as a configuration.

use super::check::Check;
use super::found::{Deliver, Found, Server, Service};
use std::collections::HashSet;
use std::fmt::Write;
use std::net::IpAddr;

pub fn text(found: &Found, interface: &str, key: &str) -> String {
    let mut text = format!(
        "# Made by `oneip import`. Review what it could not convert, then: oneip check -c FILE\n\n\
         [cluster]\n# A new secret. It must be the same on every dispatcher.\nhash_key = \"{key}\"\n\n\
         [dispatcher]\ninterface = {}\n",
        quoted(interface)
    );
    let mut names = HashSet::new();
    found.services.iter().for_each(|service| one(&mut text, service, &mut names));
    text
}

fn one(text: &mut String, service: &Service, names: &mut HashSet<String>) {
    let Service { address, port, transport, .. } = service;
    let wanted = match port {
        0 => named(*address),
        port => format!("{}-{}-{port}", named(*address), transport.name()),
    };
    let mut name = wanted.clone();
    while !names.insert(name.clone()) {
        name.push('_');
    }
    let _ = write!(text, "\n[[service]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    if *port != 0 {
        let _ = writeln!(text, "ports = [\"{}/{port}\"]", transport.name());
    }
    if service.by_flow {
        *text += "hash = \"flow\"\n";
    }
    match service.deliver {
        Deliver::L2 | Deliver::Nat => {}
        Deliver::Ipip => *text += "deliver = \"ipip\"\n",
        Deliver::Gre => *text += "deliver = \"gre\"\n",
        Deliver::Gue(port) => {
            *text += "deliver = \"gue\"\n";
            port.iter().for_each(|port| _ = writeln!(text, "gue_port = {port}"));
        }
    }
    health(text, service);
    for Server { address, weight, .. } in &service.servers {
        let _ = write!(text, "\n[[service.server]]\nname = \"{}\"\naddress = \"{address}\"\n", named(*address));
        if *weight != 1 {
            let _ = writeln!(text, "weight = {weight}");
        }
    }
}

fn health(text: &mut String, service: &Service) {
    let Some(check) = &service.check else { return };
    let Check { kind, port, path, host, expect_status, interval_ms, timeout_ms, fall } = check;
    let _ = write!(text, "\n[service.health]\ntype = \"{kind}\"\n");
    port.iter().for_each(|port| _ = writeln!(text, "port = {port}"));
    path.iter().for_each(|path| _ = writeln!(text, "path = {}", quoted(path)));
    host.iter().for_each(|host| _ = writeln!(text, "host = {}", quoted(host)));
    expect_status.iter().for_each(|status| _ = writeln!(text, "expect_status = {status}"));
    let _ = write!(text, "interval_ms = {interval_ms}\ntimeout_ms = {timeout_ms}\nrise = 1\nfall = {fall}\n");
}

/// An address as a name, which has no colons.
fn named(address: IpAddr) -> String {
    address.to_string().replace(':', "-")
}

/// As TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
