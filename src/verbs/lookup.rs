//! `oneip lookup`: which server each client address gets.

use crate::error::Failure;
use crate::hash;
use crate::model::{HashInput, Plan, Service, names};
use crate::table::{ServiceId, Table};
use serde::Serialize;
use std::io::{BufRead, Write};
use std::net::IpAddr;

/// A line of the answer.
#[derive(Serialize)]
struct Answer<'a> {
    client: IpAddr,
    service: &'a str,
    /// SipHash-1-3 of the address, 64 bits in hex.
    hash: String,
    /// For `modulo` the address mod the number of servers.
    slot: u32,
    server: Option<&'a str>,
    /// Why nobody has it, where that is not because nobody is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// The service never sees such a client.
const OTHER_FAMILY: &str = "the families of client and service differ";

/// The addresses of a text, one a line; empty lines do not count.
///
/// # Errors
/// Every line that is no address, by number.
pub fn addresses(input: impl BufRead) -> Result<Vec<IpAddr>, Failure> {
    const SHOWN: usize = 10;
    let (mut addresses, mut wrong, mut count) = (Vec::new(), Vec::new(), 0);
    for (at, line) in input.lines().enumerate() {
        let line = line.map_err(|error| format!("standard input, line {}: {error}", at + 1))?;
        match line.trim() {
            "" => {}
            text => match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => {
                    count += 1;
                    if wrong.len() < SHOWN {
                        wrong.push(format!("standard input, line {}: `{text}` is not an IP address", at + 1));
                    }
                }
            },
        }
    }
    if count > wrong.len() {
        wrong.push(format!("... and {} more lines", count - wrong.len()));
    }
    if wrong.is_empty() { Ok(addresses) } else { Err(wrong.join("\n").into()) }
}

/// The service of that name, or the first.
///
/// # Errors
/// No service has the name.
pub fn service<'a>(plan: &'a Plan, name: Option<&str>) -> Result<(ServiceId, &'a Service), Failure> {
    let Some(name) = name else { return Ok((0, &plan.services[0])) };
    let at = plan.services.iter().position(|service| service.name == name).ok_or_else(|| {
        let known: Vec<&str> = plan.services.iter().map(|service| service.name.as_str()).collect();
        format!("--service {name}: there is no such service; there are {}", names::first(known))
    })?;
    Ok((at as ServiceId, &plan.services[at]))
}

/// Writes the answer for every client, as lines for people or as one JSON array.
///
/// # Errors
/// The output cannot be written.
pub fn run(
    table: &Table,
    (id, service): (ServiceId, &Service),
    clients: &[IpAddr],
    json: bool,
    mut out: impl Write,
) -> std::io::Result<()> {
    if service.hash == HashInput::Flow {
        eprintln!(
            "warning: service {} hashes flows: this is the server of a client's packets without ports",
            service.name
        );
    }
    if let Some(other) = clients.iter().find(|client| client.is_ipv4() != service.address.is_ipv4()) {
        let (name, address) = (&service.name, service.addresses_text());
        eprintln!("warning: {other} cannot be a client of service {name} on {address}: the families differ");
    }
    if json {
        out.write_all(b"[")?;
    }
    for (at, client) in clients.iter().enumerate() {
        let answer = answer(table, id, service, *client);
        if json {
            out.write_all(if at == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut out, &answer)?;
        } else {
            match answer {
                Answer { reason: Some(reason), .. } => writeln!(out, "{client:<39} (none: {reason})")?,
                Answer { slot, server, .. } => {
                    writeln!(out, "{client:<39} {:<20} slot {slot}", server.unwrap_or("(no server is up)"))?;
                }
            }
        }
    }
    if json {
        out.write_all(b"\n]\n")?;
    }
    out.flush()
}

fn answer<'a>(table: &Table, id: ServiceId, service: &'a Service, client: IpAddr) -> Answer<'a> {
    let hash = hash::source(table.key, client);
    let number = match client {
        IpAddr::V4(client) => client.to_bits() as u128,
        IpAddr::V6(client) => client.to_bits(),
    };
    let (slot, server) = table.service(id).select(hash, number);
    let reason = (client.is_ipv4() != service.address.is_ipv4()).then_some(OTHER_FAMILY);
    let server = server.filter(|_| reason.is_none());
    let server = server.map(|server| service.servers[server as usize].name.as_str());
    Answer { client, service: &service.name, hash: format!("{hash:#018x}"), slot, server, reason }
}
