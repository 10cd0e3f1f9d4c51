//! What is told to the caller: changes of verdicts, the present state of each server, and errors.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::state::Verdict;
use crate::model::AllDown;

/// A verdict changed, or what keeps one from being reached. `Display` is a line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Index into the plan's services.
    pub service: usize,
    pub what: What,
    /// The names of the service and, for what concerns one, the server.
    pub(super) names: (String, Option<String>),
}

impl Change {
    /// Of the service and of the server that it is about.
    pub fn names(&self) -> (Option<&str>, Option<&str>) {
        let (service, server) = &self.names;
        let is_of_host = matches!(self.what, What::Isolated(_) | What::NotIsolated);
        (Some(service.as_str()).filter(|_| !is_of_host), server.as_deref())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The first verdict of a server, or one that was down: it is up.
    Up { server: usize, latency: Duration },
    /// It is down, and why. `hold`: it flaps, and will be held down for so long after its last failure.
    Down { server: usize, reason: String, hold: Option<Duration> },
    /// It answers again, but it flaps: it stays down until it has answered for so long.
    Held { server: usize, hold: Duration },
    /// It cannot be checked, for a reason that is not the server's; its verdict stays. Told once a reason.
    Unchecked { server: usize, reason: String },
    /// This host is cut off, and why: nobody is judged.
    Isolated(String),
    /// It is not any more.
    NotIsolated,
    /// No server of the service is up or held any more (of those with a weight above 0).
    AllDown(AllDown),
    /// One is again.
    NotAllDown,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Isolated(why) => {
                return write!(f, "{why}: all servers keep their state until one answers");
            }
            What::NotIsolated => {
                return write!(
                    f,
                    "a server answers again: checks count again from now on; earlier results are discarded"
                );
            }
            _ => {}
        }
        let (service, server) = &self.names;
        if let Some(server) = server {
            write!(f, "server {server} of ")?;
        }
        write!(f, "service {service} ")?;
        match &self.what {
            What::Up { latency, .. } => write!(f, "is up: it answered in {:.1} ms", latency.as_secs_f64() * 1e3),
            What::Down { reason, hold: None, .. } => write!(f, "is down: {reason}"),
            What::Down { reason, hold: Some(hold), .. } => {
                let seconds = hold.as_secs();
                write!(
                    f,
                    "is down and flapping: {reason}; it is held down until {seconds} s have passed without a failure"
                )
            }
            What::Held { hold, .. } => {
                let seconds = hold.as_secs();
                write!(f, "answers, but flaps: it is held down until {seconds} s have passed without a failure")
            }
            What::Unchecked { reason, .. } => write!(f, "cannot be checked and stays as it is: {reason}"),
            What::AllDown(AllDown::Drop) => {
                write!(f, "has no server that is up: its frames are dropped. Check whether this host can reach them")
            }
            What::AllDown(AllDown::Serve) => write!(
                f,
                "has no server that is up: all of them serve (all_down). Check whether this host can reach them"
            ),
            What::Isolated(_) | What::NotIsolated => Ok(()),
            What::NotAllDown => write!(f, "has a server that is up again"),
        }
    }
}

/// What is known of one server of a service that is checked.
#[derive(Clone, Copy, Debug)]
pub struct Status<'h> {
    pub verdict: Verdict,
    /// Since when.
    pub since: Instant,
    /// It flaps: how long it must go without a failure to come up.
    pub hold: Option<Duration>,
    /// Whether the last result was a failure.
    pub failing: bool,
    /// The last failure and its reason, for as long as the server is checked.
    pub failure: Option<(Instant, &'h str)>,
    /// When it was last probed, to a result.
    pub checked: Option<Instant>,
    /// How long the last success took.
    pub latency: Option<Duration>,
    /// Since when no probe had a result, and why the last one had none.
    pub unchecked: Option<(Instant, &'h str)>,
}

impl Status<'_> {
    /// Why a server is down or held, in words; empty: nothing ever failed.
    pub fn why(&self) -> String {
        match (self.verdict, self.hold) {
            (Verdict::Held, Some(hold)) => {
                format!("answers, but flaps: down until {} s have passed without a failure", hold.as_secs())
            }
            _ => self.failure.map_or("", |(_, why)| why).to_owned(),
        }
    }
}

/// Why servers cannot be checked.
#[derive(Debug, Error)]
pub enum Error {
    #[error("there is no interface {interface}: `ip link` lists those that exist")]
    NoInterface { interface: String },
    #[error(
        "{count} servers are to be checked through the cluster address, but at most {most} are possible; write via = \
         \"primary\" in the [service.health] of some services"
    )]
    TooMany { count: usize, most: usize },
    #[error("{}", reverse_path(*cluster, device, *strictness, routed.as_deref()))]
    ReversePath {
        cluster: IpAddr,
        /// Through which the servers answer.
        device: String,
        /// The effective `rp_filter`.
        strictness: u32,
        /// Through which the kernel would reach the cluster address.
        routed: Option<String>,
    },
    #[error(
        "checks cannot use the services' tunnels: {reason}; run as root or with the capabilities CAP_NET_ADMIN and \
         CAP_BPF, restart oneip if a reload added the first such check, or write via = \"primary\" in [service.health]"
    )]
    NoTunnel { reason: String },
    #[error(
        "checks of server {server} need an {} source address, and there is none; write one in `source` of \
         [dispatcher], and restart oneip",
        if server.is_ipv4() { "IPv4" } else { "IPv6" }
    )]
    NoSource { server: IpAddr },
    #[error(
        "type = \"icmp\" needs a raw socket, and none can be opened: {source}; run as root or with the capability \
         CAP_NET_RAW, and restart oneip if a reload added the first such check: by then it has dropped the capability"
    )]
    RawSocket { source: io::Error },
    #[error("rtnetlink failed while trying to {task} for health checks on {interface}: {source}")]
    Netlink { interface: String, task: &'static str, source: io::Error },
}

fn reverse_path(cluster: IpAddr, device: &str, strictness: u32, routed: Option<&str>) -> String {
    let mode = if strictness == 1 { "strict" } else { "loose" };
    let why = match routed {
        Some(routed) => format!("its route goes out of {routed}"),
        None => "there is no route to it".to_owned(),
    };
    let mend = match (routed, strictness) {
        (Some(_), 1) => format!("run `sysctl -w net/ipv4/conf/{device}/rp_filter=2`, "),
        _ => String::new(),
    };
    format!(
        "the kernel would drop the servers' answers to checks of {cluster}: they arrive on {device}, where rp_filter \
         is {strictness} ({mode}), but {why}; {mend}give it a route, `ip route add {cluster}/32 via ROUTER dev \
         {device}`, or write via = \"primary\" in [service.health]"
    )
}
