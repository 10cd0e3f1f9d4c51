//! `oneip filter`: the filter of one server, its table kept up with the cluster.

use super::on_server::{Begun, Options, Start, follow, heading, warn_of_settings};
use crate::control::membership::Side;
use crate::engine::filter::keeping::Keeping;
use crate::engine::filter::speaker::Speaker;
use crate::engine::filter::takeover;
use crate::error::Failure;
use crate::limits::FILTER_LEASE;
use crate::model::{self, GroupHealth, Plan};
use crate::server::{self, Dispatch};
use crate::verbs;
use crate::xdp::interface::Interface;
use crate::xdp::link::{self, Kept};
use std::fmt::Write as _;
use tokio::time::Instant;

/// Keeps this server's clients until SIGINT or SIGTERM, and leaves the program on the interface.
///
/// # Errors
/// Whatever keeps it from starting. What can be known beforehand is found before the program is attached; once it is, it stays.
pub fn run(plan: Plan, options: Options) -> Result<(), Failure> {
    let started = Instant::now();
    let (interface, model::Filter { xdp, pins, port, .. }) = settings(&plan)?;
    let server = server::name(&plan, options.server.as_deref())?;
    if plan.group.as_ref().is_some_and(|group| group.health != GroupHealth::Own) {
        return Err("health = \"shared\" in [group] is for dispatchers: filters tell each other how their servers are, without a store. \
                    Write health = \"own\" in the file of this filter"
            .into());
    }
    verbs::cluster(&plan, &options.down)?;
    let place = interface.place(Kept::Filter, &pins);
    let open = |runtime: &tokio::runtime::Runtime, plan: &Plan| {
        warn_of_settings(plan, &server, Dispatch::Broadcast { group: None });
        let left = link::is_pinned(&place)?;
        let speaker = runtime.block_on(async { Speaker::open(plan, &server, &interface.name, left) })?;
        Ok((left, speaker))
    };
    let begin = |membership: &mut _, (left, speaker)| {
        let at = (xdp, pins.as_path(), left);
        let (keeping, attachment) = Keeping::begin(membership, (&server, started), &interface, at, speaker)?;
        let mut text = heading(&interface, attachment);
        let _ = writeln!(text, "  filter     keeps the clients of server {server}");
        let _ = writeln!(text, "  filters    speak to each other on UDP port {port} of the servers' primary addresses");
        text += &super::services(membership.plan());
        let hold = takeover::hold(membership.plan()).as_millis();
        let _ =
            writeln!(text, "  table      generation 1; takes over clients {hold} ms after other servers give them up");
        Ok(Begun { counting: keeping.counting.clone(), engine: keeping, greeting: text })
    };
    let stays = |stays: &str| {
        let lease = FILTER_LEASE.as_secs();
        format!("{stays} and continues with its last table; it stops serving clients of other servers after {lease} s")
    };
    let (interface, place, started) = (interface.clone(), place.clone(), started.into_std());
    follow(Start { plan, side: Side::Server, interface, place, options, started }, open, begin, stays)
}

/// Takes off the interface what a filter has left there.
///
/// # Errors
/// There is none, or the kernel refuses.
pub fn detach(plan: &Plan) -> Result<(), Failure> {
    let (interface, model::Filter { pins, .. }) = settings(plan)?;
    super::on_server::detach(interface.place(Kept::Filter, &pins))
}

/// The interface, and how the program is there.
fn settings(plan: &Plan) -> Result<(Interface, model::Filter), Failure> {
    let settings = plan.filter.clone().ok_or(
        "the configuration has no [filter]; `oneip filter` needs one:\n  [filter]\n  interface = \"eth1\"  # where the \
         router's frames arrive",
    )?;
    Ok((Interface::read(&settings.interface)?, settings))
}
