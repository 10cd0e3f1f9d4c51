//! A process that dispatches.

use crate::admin::finding::Finding;
use crate::admin::status::{ServerStatus, ServiceStatus, State};
use crate::doctor::facts::{Facts, Running};
use crate::model::{Filter, names};
use crate::verdict::Reason;

/// Connection attempts after which an answer should have shown.
const ATTEMPTS: u64 = 10;

fn of(facts: &Facts, check: impl Fn(&Running) -> Vec<Finding>) -> Vec<Finding> {
    facts.running.as_ref().map(check).unwrap_or_default()
}

/// What is wrong with servers, or that nothing is.
fn servers_of(
    facts: &Facts,
    name: &str,
    good: &str,
    bad: impl Fn(&ServiceStatus, &ServerStatus) -> Option<Finding>,
) -> Vec<Finding> {
    of(facts, |running| {
        let all = running
            .status
            .services
            .iter()
            .flat_map(|service| service.servers.iter().map(move |server| (service, server)));
        let found: Vec<Finding> = all.filter_map(|(service, server)| bad(service, server)).collect();
        if found.is_empty() { vec![Finding::ok(name, good)] } else { found }
    })
}

fn socket(facts: &Facts) -> String {
    let plan = facts.plan.as_ref().filter(|plan| plan.admin.socket_given);
    plan.map_or(String::new(), |plan| format!(" --socket {}", plan.admin.socket.display()))
}

pub fn process(facts: &Facts) -> Vec<Finding> {
    if let Some(why) = &facts.no_answer {
        return vec![Finding::fail("process", why.clone())];
    }
    of(facts, |running| {
        let (ours, theirs) = (env!("CARGO_PKG_VERSION"), &running.status.version);
        if theirs != ours {
            let why = format!("oneip {theirs} runs, but this program is {ours}: after an update, restart oneip");
            return vec![restarted(Finding::warn("process", why), &running.status.mode)];
        }
        vec![Finding::ok("process", format!("process {} answers", running.status.pid))]
    })
}

/// With the command that restarts it, where it has a unit (`packaging/`).
fn restarted(finding: Finding, mode: &str) -> Finding {
    match mode {
        "dispatcher" => finding.mend("systemctl restart oneip"),
        "filter" => finding.mend("systemctl restart oneip-filter"),
        _ => finding,
    }
}

/// The filter of a server where there is no dispatcher, or its decap.
pub fn filter(facts: &Facts) -> Vec<Finding> {
    let is_needed = facts.plan.as_ref().is_some_and(|plan| plan.filter.is_some() && plan.dispatcher.is_none());
    match (&facts.running, &facts.no_answer) {
        (None, None) if is_needed => {
            let why = "no `oneip filter` runs here: failures of the other servers are not detected, and after a reboot this server has no clients";
            vec![Finding::fail("filter", why).mend("systemctl start oneip-filter")]
        }
        // A dispatcher on the same host is not this server's.
        (Some(Running { status, .. }), _) if status.mode == "dispatcher" => Vec::new(),
        (Some(Running { status, trouble: Some(trouble), .. }), _) => {
            vec![restarted(Finding::fail("filter", trouble.replace('\n', "; ")), &status.mode)]
        }
        (Some(Running { status, .. }), _) => {
            vec![Finding::ok("filter", format!("the {}'s program is attached", status.mode))]
        }
        (None, _) => Vec::new(),
    }
}

/// The filters of the other servers.
pub fn peers(facts: &Facts) -> Vec<Finding> {
    let port = facts.plan.as_ref().and_then(|plan| Some(plan.filter.as_ref()?.port)).unwrap_or(Filter::PORT);
    of(facts, |running| {
        let silent = running.status.peers.iter().filter(|peer| !peer.heard).map(|peer| {
            let why = format!(
                "the filter of {} is not heard: it is down, or UDP port {port} is blocked between the servers",
                peer.server
            );
            Finding::warn("peers", why)
        });
        let differing =
            running.status.peers.iter().flat_map(|peer| peer.troubles()).map(|why| Finding::fail("peers", why));
        let bad: Vec<Finding> = silent.chain(differing).collect();
        match running.status.peers.len() {
            _ if !bad.is_empty() => bad,
            0 => Vec::new(),
            peers => vec![Finding::ok("peers", format!("all {peers} filters are heard, and agree"))],
        }
    })
}

pub fn reload(facts: &Facts) -> Vec<Finding> {
    of(facts, |running| match &running.reload {
        None => Vec::new(),
        Some(Err(why)) => vec![Finding::fail("reload", format!("a reload would be refused: {why}"))],
        Some(Ok(lines)) => {
            // What is said besides is no change.
            let is_change = |line: &&String| !line.starts_with("dry run: ") && !line.starts_with("warning: ");
            let changes: Vec<String> = lines.iter().filter(is_change).cloned().collect();
            if changes.is_empty() {
                return vec![Finding::ok("reload", "the running configuration is that of the file")];
            }
            let why =
                format!("the file differs from the running configuration: {}", changes.join("; ").replace('\n', " "));
            vec![Finding::warn("reload", why).mend(format!("oneip ctl{} reload", socket(facts)))]
        }
    })
}

pub fn workers(facts: &Facts) -> Vec<Finding> {
    of(facts, |running| {
        if running.status.engine.as_deref() == Some("xdp") {
            return Vec::new();
        }
        let bad = running.status.workers.iter().filter_map(|worker| {
            let at = format!("worker {} on core {}", worker.worker, worker.core);
            match (worker.turns, worker.stuck) {
                (false, _) => Some(Finding::fail("workers", format!("{at} hangs: another program uses its core"))),
                (true, true) => {
                    Some(Finding::fail("workers", format!("{at} cannot send: the link is down, or the NIC hangs")))
                }
                (true, false) => None,
            }
        });
        let bad: Vec<Finding> = bad.collect();
        if bad.is_empty() { vec![Finding::ok("workers", "all turn")] } else { bad }
    })
}

/// What an operator does about a reason: in words, and by a command.
fn advice(reason: Reason) -> (&'static str, Option<&'static str>) {
    match reason {
        Reason::NoService => ("add the port to `ports`, or let the router forward only served ports", None),
        Reason::Malformed => ("capture on the router: a sender is broken, or frames are truncated on the way", None),
        Reason::Loop => ("run this on the server that sends them back", Some("oneip server add -c FILE")),
        Reason::Ttl => ("there is a routing loop before the dispatcher, or somebody runs traceroute", None),
        Reason::NoServer => ("every server is down, drained, or has weight 0", Some("oneip ctl status")),
        Reason::Unresolved => ("the servers do not answer ARP or neighbour discovery", Some("ip neigh show")),
        Reason::TxFull => ("the link is full or down; use more queues, or zero copy", None),
        Reason::RxFull => {
            ("a worker is too slow: use more queues and cores, or engine = \"xdp\" if there is no zero copy", None)
        }
        Reason::Stray => ("a service was removed just before; the router's route is not needed any more", None),
        Reason::PassFull => ("DPDK: the way to the kernel is full or down", None),
        Reason::TooBig => (
            "clients that do not get the ICMP message keep sending such packets: look for a firewall that drops it",
            None,
        ),
        Reason::Untrusted => {
            ("if the sender is a dispatcher, add it to `sources` in [decap]; otherwise it may be an attack", None)
        }
        Reason::Denied => ("`oneip ctl denied` shows which lists contain the senders", None),
        Reason::Limited => (
            "if this was not a flood, the limit is too low; oneip_frames_limited_total shows which limit, and with mode = \"count\" nothing is dropped",
            None,
        ),
        Reason::OtherServer => ("this is normal", None),
    }
}

pub fn drops(facts: &Facts) -> Vec<Finding> {
    of(facts, |running| {
        let rising = running.drops.iter().filter(|(_, count)| **count > 0);
        let known = rising.filter_map(|(name, count)| {
            Reason::ALL.into_iter().find(|reason| reason.name() == name).map(|reason| (reason, *count))
        });
        let bad = known.filter(|(reason, _)| *reason != Reason::OtherServer).map(|(reason, count)| {
            let (what, fix) = advice(reason);
            let why = format!("{count} frames dropped within {:.1} s: {}; {what}", running.seconds, reason.help());
            let name = format!("drops_{reason}");
            let finding = match reason {
                Reason::NoServer | Reason::Unresolved | Reason::Loop => Finding::fail(&name, why),
                _ => Finding::warn(&name, why),
            };
            match fix {
                Some(fix) => finding.mend(fix),
                None => finding,
            }
        });
        let bad: Vec<Finding> = bad.collect();
        let total: u64 = running.status.dropped.values().sum();
        if bad.is_empty() { vec![Finding::ok("drops", format!("none now, {total} since the start"))] } else { bad }
    })
}

pub fn servers(facts: &Facts) -> Vec<Finding> {
    servers_of(facts, "servers", "all servers that should take clients do", |service, server| {
        let other_is_up =
            service.servers.iter().any(|other| other.state == State::Up && other.weight > 0 && other.mac.is_some());
        let why = match server.state {
            State::Down | State::Held => format!("{}: {}", server.state.name(), server.why),
            State::Up if server.mac.is_none() && facts.running.as_ref().is_some_and(|r| r.status.server.is_none()) => {
                format!("its MAC address is not known: {}", server.why)
            }
            State::Disabled | State::Drained => format!("{} by an operator", server.state.name()),
            _ => return None,
        };
        let why = format!("server {} of {}: {why}", server.name, service.name);
        let by_order = match server.state {
            State::Disabled => Some("enable"),
            State::Drained => Some("undrain"),
            _ => None,
        };
        let finding = if other_is_up { Finding::warn("servers", why) } else { Finding::fail("servers", why) };
        Some(match by_order {
            Some(verb) => finding.mend(format!("oneip ctl{} {verb} {}", socket(facts), server.name)),
            None => finding,
        })
    })
}

pub fn unchecked(facts: &Facts) -> Vec<Finding> {
    // Its cause is told by itself.
    if facts.plan.is_some() && !facts.network.rules_before.is_empty() {
        return Vec::new();
    }
    servers_of(facts, "unchecked", "every server can be checked", |service, server| {
        let check = server.check.as_ref()?;
        let (why, seconds) = (check.unchecked.as_ref()?, check.unchecked_s.unwrap_or(0.0));
        let text = format!("server {} of {} is unchecked for {seconds:.0} s: {why}", server.name, service.name);
        Some(Finding::warn("unchecked", text))
    })
}

/// A client goes on after the first packet of its connection when it has got an answer. Where none does, no answer comes there.
pub fn silent(facts: &Facts) -> Vec<Finding> {
    servers_of(facts, "silent_servers", "connections continue after their first packet", |service, server| {
        if server.new_flows < ATTEMPTS || server.frames > server.new_flows {
            return None;
        }
        let why = format!(
            "server {} of {} got {} first packets of connections, but no second packet: its answers do not reach clients (alias, \
             firewall, gateway, listening?); run this on that server",
            server.name, service.name, server.new_flows
        );
        Some(Finding::fail("silent_servers", why).mend(format!("oneip doctor -c FILE --server {}", server.name)))
    })
}

pub fn unwatched(facts: &Facts) -> Vec<Finding> {
    let Some(plan) = &facts.plan else { return Vec::new() };
    let unwatched = plan.services.iter().filter(|service| service.health.is_none() && service.servers.len() > 1);
    let names: Vec<&str> = unwatched.map(|service| service.name.as_str()).collect();
    if names.is_empty() {
        return vec![Finding::ok("health", "the servers of each service are checked")];
    }
    let why = format!(
        "there are no checks of the servers of {}: a server that fails still gets clients; add [service.health]",
        names::first(names)
    );
    vec![Finding::warn("health", why)]
}
