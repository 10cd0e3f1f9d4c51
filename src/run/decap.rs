//! `oneip decap`: the end of dispatchers' tunnels on one server, its table kept up with the configuration.

use super::on_server::{Begun, Options, Start, follow, heading, warn_of_settings};
use crate::control::membership::{Membership, Side};
use crate::engine::decap::concerns;
use crate::engine::decap::unwrapping::Unwrapping;
use crate::error::Failure;
use crate::model::{Decap, Plan, Service};
use crate::server::{self, Dispatch};
use crate::verbs;
use crate::xdp::interface::Interface;
use crate::xdp::link::Kept;
use std::fmt::Write as _;
use std::time::Instant;

/// Unwraps what dispatchers send to this server until SIGINT or SIGTERM, and leaves the program on the interface.
///
/// # Errors
/// Whatever keeps it from starting. What can be known beforehand is found before the program is attached; once it is, it stays.
pub fn run(plan: Plan, options: Options) -> Result<(), Failure> {
    let started = Instant::now();
    let server = server::name(&plan, options.server.as_deref())?;
    let mine = |service: &&Service| service.servers.iter().any(|it| it.name == server);
    if !plan.services.iter().filter(mine).any(concerns) {
        return Err(format!(
            "no service of server {server} is delivered in a tunnel: every `deliver` is \"l2\", for which `oneip server add` is all that \
             is needed (for a tunnel, write deliver = \"ipip\", \"gue\", \"gre\" or \"l3dsr\" in its [[service]]; for several dispatchers, \
             second_chance = true)"
        )
        .into());
    }
    let is_tunnelled = plan.services.iter().filter(mine).any(|service| service.deliver.is_routed());
    verbs::cluster(&plan, &[])?;
    let interface = interface(&plan, Some(&server))?;
    let Decap { xdp, pins, .. } = plan.decap.clone();
    let place = interface.place(Kept::Decap, &pins);
    let open = |_: &_, plan: &Plan| {
        warn_of_settings(plan, &server, Dispatch::Decap);
        if is_tunnelled && plan.tunnel_sources().is_empty() {
            tracing::warn!(
                "tunnels are accepted from any address: anybody who reaches this server can send to the cluster \
                 address past your firewall; list the dispatchers: [decap] sources = [\"192.0.2.2\"], or `source` in \
                 [dispatcher]"
            );
        }
        Ok(())
    };
    let begin = |membership: &mut Membership, ()| {
        let plan = membership.plan();
        let (unwrapping, attachment) = Unwrapping::begin(plan, &server, &interface, (xdp, &pins))?;
        let mut text = heading(&interface, attachment);
        if is_tunnelled {
            let _ = writeln!(text, "  decap      decapsulates what dispatchers send to server {server}");
            let sources: Vec<String> = plan.tunnel_sources().iter().map(ToString::to_string).collect();
            let from = if sources.is_empty() { "any address".to_owned() } else { sources.join(", ") };
            let _ = writeln!(text, "  sources    {from}");
        }
        let second: Vec<&str> =
            plan.services.iter().filter(|service| service.second_chance).map(|service| service.name.as_str()).collect();
        if !second.is_empty() {
            let _ = writeln!(
                text,
                "  sends back segments of connections that server {server} does not have: {}",
                second.join(", ")
            );
        }
        text += &super::services(plan);
        Ok(Begun { counting: unwrapping.counting.clone(), engine: unwrapping, greeting: text })
    };
    let stays = |stays: &str| format!("{stays} and continues with its last table");
    let (interface, place) = (interface.clone(), place.clone());
    follow(Start { plan, side: Side::Decap, interface, place, options, started }, open, begin, stays)
}

/// Takes off the interface what a decap has left there.
///
/// # Errors
/// There is none, or the kernel refuses.
pub fn detach(plan: &Plan, server: Option<&str>) -> Result<(), Failure> {
    super::on_server::detach(interface(plan, server)?.place(Kept::Decap, &plan.decap.pins))
}

/// That of the configuration, or the one that has the server's primary address.
fn interface(plan: &Plan, server: Option<&str>) -> Result<Interface, Failure> {
    if let Some(name) = &plan.decap.interface {
        return Ok(Interface::read(name)?);
    }
    let server = server::name(plan, server)?;
    match server::interfaces(plan, &server)?.as_slice() {
        [one] => Ok(Interface::read(one)?),
        [] => Err(format!(
            "no interface has a primary address of server {server}; add it, or name the interface:\n  [decap]\n  interface = \"eth1\""
        )
        .into()),
        several => Err(format!(
            "the primary addresses of server {server} are on several interfaces ({}); name the one that dispatchers send to:\n  [decap]\n  \
             interface = \"{}\"",
            several.join(", "),
            several[0]
        )
        .into()),
    }
}
