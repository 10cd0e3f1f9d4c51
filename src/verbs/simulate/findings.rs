//! What to know first, in words.

use super::report::{Report, Share};
use crate::ctl::units::percent;
use crate::model::{HashInput, Service};

/// So many standard deviations are not chance any more.
const BEYOND_CHANCE: f64 = 4.0;

pub fn of(report: &Report, service: &Service) -> Vec<String> {
    let by_flow = || {
        "The service hashes flows, which spreads a client's connections over all servers. The results below are for a hash of the source \
         address alone."
            .to_owned()
    };
    let flow = (service.hash == HashInput::Flow).then(by_flow);
    flow.into_iter().chain([failure(report)]).chain(clients(report)).chain(requests(report)).collect()
}

fn failure(report: &Report) -> String {
    let [only] = &report.failures[..] else {
        let [ours, modulo] = [0, 1].map(|at| {
            let summary = report.schemes[at].failure.as_ref().expect("a server takes clients");
            (summary.moved_share.mean, summary.healthy_moved_share.worst)
        });
        let others = if ours.1 == 0.0 { "none".to_owned() } else { percent(ours.1) };
        return format!(
            "When a server fails, its own clients move ({} of all clients on average), and {others} of the other servers' clients. With modulo up \
             to {} of the other servers' clients would move.",
            percent(ours.0),
            percent(modulo.1)
        );
    };
    format!("{} is the only server that takes clients: when it fails, no server answers.", only.servers.join(""))
}

/// The most for its weight, by that measure, and how much of its ideal that is.
fn busiest(report: &Report, share: fn(&Share) -> f64) -> Option<(&Share, f64)> {
    let taking = report.servers.iter().filter(|server| server.weight > 0);
    let ratios = taking.map(|server| (server, share(server) / server.ideal_share));
    ratios.reduce(|most, next| if next.1 > most.1 { next } else { most })
}

fn clients(report: &Report) -> Option<String> {
    if report.failures.len() < 2 {
        return None;
    }
    let (server, ratio) = busiest(report, |server| server.clients_share)?;
    // The relative standard deviation of a binomial distribution.
    let ideal = server.ideal_share;
    let chance = ((1.0 - ideal) / (report.total.clients as f64 * ideal)).sqrt();
    let verdict = match ratio - 1.0 > BEYOND_CHANCE * chance {
        true => "more than can be chance",
        false => "within chance",
    };
    Some(format!(
        "By clients, {} has the most for its weight: {} above its share, {verdict}. A standard deviation is {} with this number of \
         clients.",
        server.server,
        percent(ratio - 1.0),
        percent(chance)
    ))
}

fn requests(report: &Report) -> Option<String> {
    if report.total.requests == report.total.clients || report.failures.len() < 2 {
        return None;
    }
    let (server, ratio) = busiest(report, |server| server.requests_share)?;
    let first = &report.heaviest[0];
    let largest = report.servers.iter().map(|server| server.ideal_share).fold(0.0, f64::max);
    if first.share > largest {
        let (client, share) = (first.client, percent(first.share));
        return Some(format!(
            "{client} alone makes {share} of the requests, more than any server's share ({} at most): its server, {}, \
             gets them all, with any hash of the client's address. If it is a NAT or a proxy, `hash = \"flow\"` spreads its \
             connections.",
            percent(largest),
            first.server
        ));
    }
    Some(format!(
        "By requests, {} has the most for its weight, {ratio:.2} x its share; the {} heaviest clients make {} of all \
         requests.",
        server.server,
        report.heaviest.len(),
        percent(report.heaviest_share)
    ))
}
