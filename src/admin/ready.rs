//! The verdicts of `/healthz` and `/readyz`: fine, or why not, a line a reason.

use super::group::GroupSummary;
use super::overview::{Overview, Seen};
use super::status::{CheckStatus, PeerStatus, ServerStatus, Status};
use crate::limits::UNCHECKED_MOST;
use crate::metrics::snapshot::Snapshot;
use std::time::Instant;

/// Whether every worker turns, and its rings move; or a filter is attached.
///
/// # Errors
/// The workers that do not, and what else is wrong.
pub fn healthy(figures: &Snapshot) -> Result<(), String> {
    let each = figures.workers.iter().enumerate().flat_map(|(worker, figures)| {
        let still = (!figures.turns).then(|| {
            format!(
                "worker {worker} hangs: it did not answer the last request for \
                                                      its counters\n"
            )
        });
        let stuck = figures.stuck.then(|| {
            format!("worker {worker} is stuck: frames wait in its transmit ring, and none has left for an interval\n")
        });
        [still, stuck]
    });
    let troubles = figures.troubles.iter().map(|trouble| format!("{trouble}\n"));
    verdict(each.flatten().chain(troubles).collect())
}

/// Whether clients of every service find a server: the interface has its link, a table is published, and each service that is
/// meant to take clients has a server that does; and all filters decide by the same, as do the members of a group.
///
/// # Errors
/// What is missing, or the services that have none.
pub fn ready(Overview { head: status, services, .. }: &Overview) -> Result<(), String> {
    if let Some(why) = status.group.as_ref().and_then(GroupSummary::keeps_out) {
        return Err(format!("{why}\n"));
    }
    if status.interface_up == Some(false) {
        return Err(format!("{} is down\n", status.interface));
    }
    if status.generation == 0 {
        return Err("no table is published yet\n".to_owned());
    }
    let meant = services.iter().filter(|seen| seen.service.servers.iter().any(|server| server.weight > 0));
    let reasons = meant.filter_map(|seen| {
        let name = &seen.service.name;
        serves(status, seen, 1).err().map(|why| format!("service {name} has {why}\n"))
    });
    // A start anew does not mend it, so it is not `healthy`'s.
    let differing = status.peers.iter().flat_map(PeerStatus::troubles).map(|trouble| trouble + "\n");
    verdict(reasons.chain(differing).collect())
}

/// Whether at least so many servers of a service take clients, or all that it has if they are fewer; and whether one of them could
/// be checked lately.
///
/// # Errors
/// What it has instead.
pub fn serves(status: &Status, seen: &Seen, least: usize) -> Result<(), String> {
    if least == 0 {
        return Ok(());
    }
    let servers = &seen.service.servers;
    let least = least.min(servers.iter().filter(|server| server.weight > 0).count()).max(1);
    let takes: Vec<&ServerStatus> = servers.iter().filter(|server| status.takes_clients(server)).collect();
    match takes.len() {
        0 => return Err("no server that takes clients".to_owned()),
        up if up < least => return Err(format!("{up} servers that take clients, and needs {least} (`min_up`)")),
        _ => {}
    }
    // The one of them that was checked last.
    let unchecked = takes.into_iter().map(|server| unchecked(server, seen.at));
    let (seconds, why) = unchecked.min_by(|one, other| one.0.total_cmp(&other.0)).expect("there is one");
    match seconds > UNCHECKED_MOST.as_secs_f64() {
        true => Err(format!("no server that could be checked in the last {seconds:.0} s: {why}")),
        false => Ok(()),
    }
}

/// For how long a server that was seen then could not be checked, in seconds, and why.
fn unchecked(server: &ServerStatus, seen: Instant) -> (f64, &str) {
    let check = server.check.as_ref();
    let since = |check: &CheckStatus| Some(check.unchecked_s? + seen.elapsed().as_secs_f64());
    check.and_then(|check| Some((since(check)?, check.unchecked.as_deref()?))).unwrap_or_default()
}

fn verdict(reasons: String) -> Result<(), String> {
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}
