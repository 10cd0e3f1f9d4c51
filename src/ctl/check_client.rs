//! `ctl check-client`: what a client meets in every service.

use super::client::{self, Client};
use super::{document, print};
use crate::admin::order::{ClientCheck, ClientFlow, ClientService, ListVerdict, Order};
use crate::error::Failure;
use crate::model::Port;
use serde_json::Value;
use std::fmt::Write;
use std::net::IpAddr;

/// Asks for each client, and shows all.
///
/// # Errors
/// There is nobody to ask, or no such service.
pub fn run(
    client: &Client,
    addresses: &[IpAddr],
    service: Option<&str>,
    (port, to): (Option<u16>, Option<Port>),
    json: bool,
) -> Result<(), Failure> {
    let ask = |address: &IpAddr| {
        let service = service.map(str::to_owned);
        client.order(&Order::CheckClient { client: *address, service, port, to })
    };
    if json {
        let answers: Vec<Value> =
            addresses.iter().map(|address| ask(address).map(document)).collect::<Result<_, _>>()?;
        return print(Value::from(answers));
    }
    for (at, address) in addresses.iter().enumerate() {
        let found: ClientCheck = client::read(ask(address)?)?;
        let separator = if at == 0 { "" } else { "\n" };
        print(format!("{separator}{}", text(&found)))?;
    }
    Ok(())
}

pub fn text(check: &ClientCheck) -> String {
    let ClientCheck { client, services } = check;
    if services.is_empty() {
        let family = if client.is_ipv4() { "IPv4" } else { "IPv6" };
        return format!("client {client}: no service has an {family} address");
    }
    let mut text = format!("client {client}\n");
    services.iter().for_each(|service| of_service(service, &mut text));
    text.trim_end().to_owned()
}

fn of_service(of: &ClientService, text: &mut String) {
    let ClientService { place, address, listed, limit, hash_input, why, flows } = of;
    let is_flow = hash_input == "flow";
    let _ = writeln!(text, "\nservice {} ({address}): hash {}, slot {}", place.service, place.hash, place.slot);
    match listed.as_ref().map(|listed| (listed.verdict, format!("{} {}", listed.by, listed.prefix))) {
        None => _ = writeln!(text, "  not in any list"),
        Some((ListVerdict::Denied, by)) => _ = writeln!(text, "  DENIED by {by}: its frames are dropped"),
        Some((ListVerdict::Counted, by)) => _ = writeln!(text, "  counted by {by}, and not dropped"),
        Some((ListVerdict::Allowed, by)) => _ = writeln!(text, "  allowed by {by}"),
    }
    if let Some(limit) = limit {
        let _ = writeln!(text, "  limits of the service: {limit}");
    }
    let what = if is_flow { "packets without ports, such as fragments," } else { "new connections" };
    let _ = match &place.server {
        Some(server) => writeln!(text, "  {what} go to {server}: {why}"),
        None => writeln!(text, "  {what} go to no server: {why}"),
    };
    if let Some(keeps) = &place.keeps {
        let _ = writeln!(text, "  connections begun before the change stay on {keeps}");
    }
    let _ = writeln!(text, "  failover order: {}", place.order.join(", "));
    if is_flow && flows.is_empty() {
        let _ = writeln!(
            text,
            "  hash = \"flow\": the server also depends on the protocol and the ports; --port N shows where \
             connections from port N go, with --to tcp/443 if the service does not list its ports"
        );
    }
    flows.iter().for_each(|flow| of_flow(flow, text));
}

fn of_flow(ClientFlow { port, to, slot, server, keeps, why, .. }: &ClientFlow, text: &mut String) {
    let server = server.as_deref().unwrap_or("nobody");
    let keeps = keeps.as_ref().map_or(String::new(), |keeps| format!("; if begun before the change, {keeps}"));
    let _ = writeln!(text, "  from port {port} to {to}: slot {slot}, {server}: {why}{keeps}");
}
