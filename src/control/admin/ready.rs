//! The verdicts of `/healthz` and `/readyz`: fine, or why not, a line a reason.

use super::status::Status;
use crate::stats::figures::Figures;

/// Whether every worker turns, and its rings move.
///
/// # Errors
/// The workers that do not.
pub fn healthy(figures: &Figures) -> Result<(), String> {
    let each = figures.workers.iter().enumerate().flat_map(|(worker, figures)| {
        let still = (!figures.turns).then(|| format!("worker {worker} does not turn: it missed the last harvest\n"));
        let stuck = figures.stuck.then(|| {
            format!("worker {worker} is stuck: frames wait in its transmit ring, and none has left for an interval\n")
        });
        [still, stuck]
    });
    verdict(each.flatten().collect())
}

/// Whether clients of every service find a server: the interface has its link, a table is published, and each service that is
/// meant to take clients has a server that does.
///
/// # Errors
/// What is missing, or the services that have none.
pub fn ready(status: &Status) -> Result<(), String> {
    if status.interface_up == Some(false) {
        return Err(format!("{} is down\n", status.interface));
    }
    if status.generation == 0 {
        return Err("no table is published yet\n".to_owned());
    }
    let closed = status.services.iter().filter(|service| {
        let mut meant = service.servers.iter().filter(|server| server.weight > 0).peekable();
        meant.peek().is_some() && meant.all(|server| !status.takes_clients(server))
    });
    verdict(closed.map(|service| format!("service {} has no server that takes clients\n", service.name)).collect())
}

fn verdict(reasons: String) -> Result<(), String> {
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}
