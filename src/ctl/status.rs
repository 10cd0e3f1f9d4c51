//! `ctl status`: how everything is, for people.

use super::group;
use super::table;
use super::units::{bytes, count, milliseconds, percent, span};
use crate::admin::finding::worst;
use crate::admin::status::{
    AnnounceStatus, CheckStatus, LatencyStatus, PeerStatus, ProgramStatus, ServerStatus, ServiceStatus, Status,
    WorkerStatus,
};
use crate::limits::{DOCTOR_SHOWN, FIGURES_MOST};
use crate::metrics::summary::microseconds;
use crate::model::names;
use crate::verdict::Reason;
use std::fmt::Write;

/// The process, its workers and frames, then every service with its servers.
pub fn text(status: &Status) -> String {
    let mut text = process(status);
    let in_kernel = status.engine.as_deref() == Some("xdp");
    let of = if in_kernel { of_core } else { of_worker };
    status.workers.iter().for_each(|worker| _ = writeln!(text, "  {}", of(worker)));
    if let Some(ProgramStatus { run_time_ns, runs }) = status.program {
        let (seconds, each) = (run_time_ns as f64 / 1e9, run_time_ns / runs.max(1));
        let _ = writeln!(
            text,
            "  the program took {seconds:.1} s of the cores' time for {} frames, {each} ns each",
            count(runs)
        );
    }
    status.peers.iter().for_each(|peer| _ = writeln!(text, "  {}", of_peer(peer)));
    status
        .group
        .iter()
        .for_each(|summary| group::line(summary).lines().for_each(|line| _ = writeln!(text, "  {line}")));
    text += &findings(status);
    text += &frames(status);
    if let Some(limit) = &status.odd_limit {
        let _ = writeln!(text, "  fragments, ICMP, options and extension headers: limit {limit}");
    }
    for service in &status.services {
        let _ = write!(text, "\n{}\n{}\n", heading(service), servers(service));
    }
    text.trim_end().to_owned()
}

fn process(status: &Status) -> String {
    let Status { version, mode, pid, uptime_s, config, interface, interface_up, generation, engine, .. } = status;
    let engine = engine.as_ref().map_or(String::new(), |engine| format!(", engine {engine}"));
    let table = if *generation == 0 { "no table yet".to_owned() } else { format!("table generation {generation}") };
    let link = if *interface_up == Some(false) { ", which is DOWN" } else { "" };
    format!(
        "oneip {version}, {mode} on {interface}{link}, up {} (process {pid}), {table}\n  configuration {config}{engine}\n",
        span(*uptime_s)
    )
}

fn of_worker(worker: &WorkerStatus) -> String {
    let WorkerStatus { worker, core, received, turns, stuck, pins, pins_most } = worker;
    let state = match (turns, stuck) {
        (false, _) => "HANGS",
        (true, true) => "runs, but its transmit ring is STUCK",
        (true, false) => "runs",
    };
    let pins = match pins {
        0 => String::new(),
        pins => format!(", remembers {} of {} flows", count(*pins), count(*pins_most)),
    };
    format!("worker {worker} on core {core} {state}, received {}{pins}", count(*received))
}

/// A core on which the program in the kernel runs.
fn of_core(core: &WorkerStatus) -> String {
    let WorkerStatus { core, received, .. } = core;
    format!("core {core}, where the program in the kernel runs, received {}", count(*received))
}

/// How the filter of another server stands to this one.
fn of_peer(peer: &PeerStatus) -> String {
    let PeerStatus { server, heard, heard_s, differs } = peer;
    let heard = match (heard, heard_s) {
        (true, _) => "is heard".to_owned(),
        (false, Some(age)) => format!("is NOT HEARD: its last message came {} ago", span(*age)),
        (false, None) => "is NOT HEARD".to_owned(),
    };
    let troubles = peer.troubles().map(|trouble| format!("\n  NOTE: {trouble}"));
    let agrees = if peer.heard && differs.is_empty() { ", and agrees" } else { "" };
    format!("the filter of {server} {heard}{agrees}{}", troubles.collect::<String>())
}

/// The worst of the host, in a line each.
fn findings(status: &Status) -> String {
    let shown = worst(&status.findings, DOCTOR_SHOWN);
    let mut text: String = shown.iter().map(|found| format!("  {} {}\n", found.state.name(), found.line())).collect();
    let more = status.findings.len() - shown.len();
    if more > 0 {
        let _ = writeln!(text, "  and {more} more: oneip doctor -c {}", status.config);
    }
    text
}

fn frames(status: &Status) -> String {
    let Status { frames, forwarded, passed, dropped, .. } = status;
    let mut text = format!(
        "  frames in {} = forwarded {} + dropped {} + passed {}\n",
        count(*frames),
        count(*forwarded),
        count(dropped.values().sum()),
        count(*passed)
    );
    let age = status.counted_s.map_or(0.0, |counted| status.uptime_s - counted);
    if age > FIGURES_MOST.as_secs_f64() {
        let _ = writeln!(
            text,
            "    NOTE: these counters are {} old: the stats thread hangs, or gets no CPU time",
            span(age)
        );
    }
    for (reason, n) in dropped {
        let help = Reason::ALL.into_iter().find(|known| known.name() == reason).map_or("", Reason::help);
        let _ = writeln!(text, "    dropped {reason:<10} {:>8}  {help}", count(*n));
    }
    text
}

/// Whether clients should be sent to this dispatcher.
///
/// # Errors
/// Why not, a line a service.
pub fn ready(status: &Status, service: Option<&str>) -> Result<(), String> {
    if status.mode != "dispatcher" {
        return Err(format!("a {} is not announced; give the order to a dispatcher", status.mode));
    }
    let asked: Vec<&ServiceStatus> =
        status.services.iter().filter(|known| service.is_none_or(|name| known.name == name)).collect();
    if let (Some(name), true) = (service, asked.is_empty()) {
        let known = names::first(status.services.iter().map(|known| &known.name));
        return Err(format!("there is no service {name}; there are {known}"));
    }
    let of = |service: &ServiceStatus| match service.announce.as_ref().map(AnnounceStatus::wants_clients) {
        Some(Ok(())) => None,
        Some(Err(why)) => Some(format!("service {} is not ready: {why}", service.name)),
        None => Some(format!("service {} was not judged yet", service.name)),
    };
    let reasons: Vec<String> = asked.into_iter().filter_map(of).collect();
    if reasons.is_empty() { Ok(()) } else { Err(reasons.join("\n")) }
}

/// A service in a line or two.
fn heading(service: &ServiceStatus) -> String {
    let ServiceStatus { name, ports, hash, selection, slots, moving, limit, latency_ns, .. } = service;
    let ports = if ports.is_empty() { "every protocol and port".to_owned() } else { ports.join(" ") };
    let address = service.addresses_text();
    let mut text = format!("service {name}: {address} {ports}; {selection} over the {hash}, {slots} slots");
    if *moving > 0 {
        let _ = write!(text, ", {moving} of them moving: their connections stay where they are");
    }
    if let Some(announce) = &service.announce {
        text += &announced(announce);
    }
    if let Some(limit) = limit {
        let _ = write!(text, "\n  limit: {limit}");
    }
    if let Some(LatencyStatus { count: timed, p50, p90, p99, p999, max }) = latency_ns {
        let named = [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)];
        let named = named.map(|(name, ns)| format!("{name} {}", microseconds(*ns)));
        let _ = write!(text, "\n  latency {} ({} frames)", named.join(", "), count(*timed));
    }
    text
}

/// Nothing where there is nothing to announce, and nothing is wrong.
fn announced(AnnounceStatus { ready, withdrawn, announced, why }: &AnnounceStatus) -> String {
    let state = match (announced, *ready && !withdrawn) {
        (Some(true), _) => "announced",
        (Some(false), _) => "NOT ANNOUNCED",
        (None, true) => return String::new(),
        (None, false) => "NOT READY",
    };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    format!("\n  {state}{why}")
}

fn servers(service: &ServiceStatus) -> String {
    const TITLES: [&str; 12] = [
        "  server",
        "address",
        "state",
        "since",
        "weight",
        "slots",
        "share",
        "frames",
        "bytes",
        "new flows",
        "check",
        "",
    ];
    let mut table = table::new(TITLES, 3..11);
    for server in &service.servers {
        let weight = match server.configured_weight {
            Some(configured) => format!("{} (not {configured})", server.weight),
            None => server.weight.to_string(),
        };
        table.add_row([
            format!("  {}", server.name),
            server.address.to_string(),
            server.state.name().to_owned(),
            span(server.since_s),
            weight,
            server.slots.to_string(),
            percent(server.share),
            count(server.frames),
            bytes(server.bytes),
            count(server.new_flows),
            server.check.as_ref().map_or(String::new(), check),
            why(server),
        ]);
    }
    table.trim_fmt()
}

/// How long the last success took.
pub fn check(check: &CheckStatus) -> String {
    match (check.latency_ms, check.age_s) {
        (Some(ms), _) => milliseconds(ms),
        (None, Some(_)) => "failing".to_owned(),
        (None, None) => "not yet".to_owned(),
    }
}

/// The reason of the state; where there is nothing to say of it, what else an operator should know.
pub fn why(server: &ServerStatus) -> String {
    let check = server.check.as_ref();
    if let Some((check, unchecked)) = check.and_then(|check| Some((check, check.unchecked.as_ref()?))) {
        let why = if server.why.is_empty() { String::new() } else { format!("{}; ", server.why) };
        let since = check.unchecked_s.map_or(String::new(), |seconds| format!(" since {} s", seconds as u64));
        return format!("{why}unchecked{since}: {unchecked}");
    }
    if !server.why.is_empty() {
        return server.why.clone();
    }
    match check {
        Some(CheckStatus { failing: true, failure: Some(failure), failure_age_s: Some(age), .. }) => {
            format!("a check failed {} ago: {failure}", span(*age))
        }
        _ => String::new(),
    }
}
