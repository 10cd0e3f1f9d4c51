//! The document of `ctl status`. The control thread fills in how things are; what was counted is added from the stats
//! thread's figures.

use super::finding::Finding;
use super::group::GroupSummary;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// `dispatcher` or `filter`.
    pub mode: String,
    /// A dispatcher's: `af_xdp`, `xdp` or `dpdk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Of the engine xdp: what its program has taken of the cores' time, where the kernel measures that (`sysctl
    /// kernel.bpf_stats_enabled=1`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramStatus>,
    /// A filter's: the name of the server that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    pub pid: u32,
    pub uptime_s: f64,
    /// Where the configuration was read from.
    pub config: String,
    pub interface: String,
    /// Whether its link is up; `None`: the frames do not come over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_up: Option<bool>,
    /// A dispatcher's: what is wrong with its host, as `oneip doctor` says it; looked at twice a minute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// A filter's: how those of the other servers stand to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerStatus>,
    /// `None`: it is in no group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupSummary>,
    /// Of the published table.
    pub generation: u64,
    pub services: Vec<ServiceStatus>,
    /// What `[limit.odd]` is, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odd_limit: Option<String>,
    pub workers: Vec<WorkerStatus>,
    /// `uptime_s` when everything was counted that follows, and the frames of servers; `None`: at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_s: Option<f64>,
    /// Frames in = forwarded + dropped + passed.
    pub frames: u64,
    pub forwarded: u64,
    pub passed: u64,
    /// By reason, those that occurred.
    pub dropped: std::collections::BTreeMap<String, u64>,
}

impl Status {
    /// Whether new clients of the server reach it, as far as is known: it is up, has a weight, and a dispatcher has its MAC.
    pub fn takes_clients(&self, server: &ServerStatus) -> bool {
        let reached = self.server.is_some() || server.mac.is_some();
        server.state == State::Up && server.weight > 0 && reached
    }
}

/// What the kernel has measured of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    pub run_time_ns: u64,
    pub runs: u64,
}

/// The filter of another server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub server: String,
    /// Whether its messages come.
    pub heard: bool,
    /// Since the last one; `None`: none has come.
    pub heard_s: Option<f64>,
    /// What it has other than this one, for longer than a reload of all takes: `configuration`, `orders`, `key`, `version`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differs: Vec<String>,
}

impl PeerStatus {
    /// What is wrong between the two, and what to do.
    pub fn troubles(&self) -> impl Iterator<Item = String> {
        self.differs.iter().map(|differs| {
            let (what, then) = match differs.as_str() {
                "configuration" => (
                    "another configuration than this one",
                    "give both the same services, servers and weights, and reload",
                ),
                "orders" => ("other orders than this one", "give both the same orders with oneip ctl"),
                "key" => ("another hash_key than this one", "give both the same, and reload"),
                _ => ("another version of oneip than this one", "update one of them"),
            };
            let server = &self.server;
            format!("the filter of {server} has {what}; a client may be answered by two servers or by none: {then}")
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    /// The cluster address, or the prefix; of several, the first.
    pub address: String,
    /// The others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_addresses: Vec<String>,
    /// As in the configuration; empty: everything.
    pub ports: Vec<String>,
    pub hash: String,
    pub selection: String,
    pub slots: u32,
    /// Slots whose connections are kept where they are while new ones go to another server.
    pub moving: u32,
    pub servers: Vec<ServerStatus>,
    /// Whether routers may send its clients to this dispatcher; a filter has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce: Option<AnnounceStatus>,
    /// What its limits are, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Latency from arrival to hand-over, the whole run; `None`: nothing was timed.
    pub latency_ns: Option<LatencyStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnnounceStatus {
    /// Link, table, workers and servers: all is there that its clients need.
    pub ready: bool,
    /// By `ctl withdraw`, or by `announce = "drain"`.
    pub withdrawn: bool,
    /// The kernel has the route; `None`: there is no `[announce]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<bool>,
    /// Why it is not announced or not ready, in words; empty where nothing is to be said.
    pub why: String,
}

impl ServiceStatus {
    /// Each cluster address and prefix.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.address).chain(&self.more_addresses).map(String::as_str)
    }

    /// The addresses, as people read them: of many, the first, and how many more.
    pub fn addresses_text(&self) -> String {
        match self.more_addresses.len() {
            0..=3 => self.addresses().collect::<Vec<_>>().join(", "),
            more => format!("{} and {more} more", self.address),
        }
    }
}

impl AnnounceStatus {
    /// # Errors
    /// Why routers should not send clients here.
    pub fn wants_clients(&self) -> Result<(), String> {
        if self.ready && !self.withdrawn { Ok(()) } else { Err(self.why.clone()) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    pub name: String,
    pub address: IpAddr,
    /// `None`: not resolved.
    pub mac: Option<String>,
    pub state: State,
    /// Why, in words; empty where nothing is to be said.
    pub why: String,
    /// How long it has been in this state.
    pub since_s: f64,
    /// What it counts with now.
    pub weight: u32,
    /// Where `ctl weight` set another: the configuration's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configured_weight: Option<u32>,
    /// Slots it owns.
    pub slots: u32,
    /// Part of the service's slots, 0 to 1.
    pub share: f64,
    pub frames: u64,
    pub bytes: u64,
    /// TCP connections begun (SYN without ACK).
    pub new_flows: u64,
    /// `None`: not checked.
    pub check: Option<CheckStatus>,
}

/// Whether a server takes new clients is the first thing to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Takes clients.
    Up,
    /// A check says so, or the command line.
    Down,
    /// It answers again, but it flaps, and is held down.
    Held,
    /// New by a reload: takes clients as soon as it is resolved and, if checked, found up.
    Joining,
    /// Takes no new clients, keeps the connections it has.
    Draining,
    /// The drain is over.
    Drained,
    /// Out by `ctl disable`.
    Disabled,
    /// Removed by a reload, keeps the connections it has.
    Leaving,
}

impl State {
    pub const ALL: [State; 8] = [
        State::Up,
        State::Down,
        State::Held,
        State::Joining,
        State::Draining,
        State::Drained,
        State::Disabled,
        State::Leaving,
    ];

    /// The name in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Down => "down",
            State::Held => "held",
            State::Joining => "joining",
            State::Draining => "draining",
            State::Drained => "drained",
            State::Disabled => "disabled",
            State::Leaving => "leaving",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Since the last result; `None`: none yet.
    pub age_s: Option<f64>,
    /// Of the last success.
    pub latency_ms: Option<f64>,
    /// The last check failed.
    #[serde(default)]
    pub failing: bool,
    /// The last failure, and how long ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_age_s: Option<f64>,
    /// Why it cannot be checked, for a reason that is not the server's; its state stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unchecked: Option<String>,
    /// For how long it has not been checked for such reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unchecked_s: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub worker: usize,
    pub core: usize,
    pub received: u64,
    /// It answered the last harvest in time.
    pub turns: bool,
    /// Frames wait in its transmit ring and none has left since the last harvest.
    pub stuck: bool,
    /// Flows remembered now, and the most there can be.
    pub pins: u64,
    pub pins_most: u64,
}

/// Nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyStatus {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}
