//! The verdicts of `/healthz` and `/readyz`: fine, or why not, a line a reason.

use super::overview::Overview;
use super::status::{CheckStatus, PeerStatus, ServerStatus};
use crate::limits::UNCHECKED_MOST;
use crate::metrics::snapshot::Snapshot;
use std::time::Instant;

/// Whether every worker turns, and its rings move; or a filter is attached.
///
/// # Errors
/// The workers that do not, and what else is wrong.
pub fn healthy(figures: &Snapshot) -> Result<(), String> {
    let each = figures.workers.iter().enumerate().flat_map(|(worker, figures)| {
        let still = (!figures.turns).then(|| format!("worker {worker} does not turn: it missed the last harvest\n"));
        let stuck = figures.stuck.then(|| {
            format!("worker {worker} is stuck: frames wait in its transmit ring, and none has left for an interval\n")
        });
        [still, stuck]
    });
    let troubles = figures.troubles.iter().map(|trouble| format!("{trouble}\n"));
    verdict(each.flatten().chain(troubles).collect())
}

/// Whether clients of every service find a server: the interface has its link, a table is published, and each service that is
/// meant to take clients has a server that does; and all filters decide by the same.
///
/// # Errors
/// What is missing, or the services that have none.
pub fn ready(Overview { head: status, services, .. }: &Overview) -> Result<(), String> {
    if status.interface_up == Some(false) {
        return Err(format!("{} is down\n", status.interface));
    }
    if status.generation == 0 {
        return Err("no table is published yet\n".to_owned());
    }
    let reasons = services.iter().filter_map(|seen| {
        let service = &seen.service;
        let meant: Vec<&ServerStatus> = service.servers.iter().filter(|server| server.weight > 0).collect();
        let mut takes = meant.iter().filter(|server| status.takes_clients(server)).peekable();
        let name = &service.name;
        if meant.is_empty() {
            return None;
        }
        if takes.peek().is_none() {
            return Some(format!("service {name} has no server that takes clients\n"));
        }
        // The one of them that was checked last.
        let unchecked =
            takes.map(|server| unchecked(server, seen.at)).min_by(|one, other| one.0.total_cmp(&other.0))?;
        let (seconds, why) = unchecked;
        let long = seconds > UNCHECKED_MOST.as_secs_f64();
        long.then(|| format!("service {name} has no server that could be checked for {seconds:.0} s: {why}\n"))
    });
    // A start anew does not mend it, so it is not `healthy`'s.
    let differing = status.peers.iter().flat_map(PeerStatus::troubles).map(|trouble| trouble + "\n");
    verdict(reasons.chain(differing).collect())
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
