//! What an operator can ask of the control thread.

use super::group::GroupStatus;
use super::status::Status;
use crate::limits::{CAPTURE_SNAP_DEFAULT, TALKERS_PER_S, TALKERS_PREFIX_V4, TALKERS_PREFIX_V6, TALKERS_SHOWN_DEFAULT};
use crate::model::{Port, Prefix, names};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::ops::Not;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Asked over the admin socket, carried out by the control thread one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// How everything is now.
    Status,
    /// Read the configuration again.
    Reload {
        /// Though it moves most of a service's clients for nothing.
        #[serde(default, skip_serializing_if = "Not::not")]
        force: bool,
        /// Only say what would change.
        #[serde(default, skip_serializing_if = "Not::not")]
        dry_run: bool,
    },
    /// Have all members of the group take these services, in TOML, in the place of those that they have.
    Publish {
        text: String,
        /// Though it moves most of a service's clients for nothing.
        #[serde(default, skip_serializing_if = "Not::not")]
        force: bool,
    },
    /// Compare a configuration file with what is in use.
    Diff {
        /// In full; `None`: the file that the process was started with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<PathBuf>,
    },
    /// No new clients to the server; connections that it has stay until they end, or for `timeout_s`.
    Drain {
        server: String,
        /// Only in this one; `None`: in every service that has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        timeout_s: Option<u64>,
        /// Though no server is left that takes clients.
        #[serde(default, skip_serializing_if = "Not::not")]
        force: bool,
    },
    Undrain {
        server: String,
        /// Only in this one; `None`: in every service that has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// Another weight than the configuration's; `None`: the configuration's again.
    Weight {
        server: String,
        /// Only in this one; `None`: in every service that has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        weight: Option<u32>,
        /// Though no server is left that takes clients.
        #[serde(default, skip_serializing_if = "Not::not")]
        force: bool,
    },
    /// Out at once, with all its connections.
    Disable {
        server: String,
        /// Only in this one; `None`: in every service that has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Though no server is left that takes clients.
        #[serde(default, skip_serializing_if = "Not::not")]
        force: bool,
    },
    Enable {
        server: String,
        /// Only in this one; `None`: in every service that has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// Routers shall send no more clients of the service here, or none at all.
    Withdraw {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// The end of a `Withdraw`.
    Announce {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// Drop the frames of these sources, for so long or until `Undeny`.
    Deny {
        prefix: Prefix,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_s: Option<u64>,
    },
    /// The end of a `Deny`.
    Undeny {
        prefix: Prefix,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// What is denied by orders, and which lists there are.
    Denied,
    /// An order for servers or prefixes that counts for this member of the group only.
    Local { inner: Box<Order> },
    /// The members of the group, and what they share.
    Group,
    /// End, and leave what dispatches to the process that asks: `oneip run --takeover`.
    HandOver,
    /// Which service, slot and servers a client address has, and where its next frames go, watched for so long.
    Trace { client: IpAddr, watch_ms: u64 },
    /// What a client meets in every service.
    CheckClient {
        client: IpAddr,
        /// Only in this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Of the client: with `hash = "flow"` it decides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// Of a service that does not list its ports.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Port>,
    },
    /// Frames as they go by, as a pcapng that comes piece by piece.
    Capture(Capture),
    /// Who sends most, learned within so long of some of the frames.
    Talkers(LookForTalkers),
}

/// Which frames are looked at to learn who sends most, and what is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookForTalkers {
    pub for_ms: u64,
    /// Chance takes one frame in so many.
    #[serde(default = "one")]
    pub one_in: u32,
    /// Sources are told apart by so many bits of their addresses.
    #[serde(default = "prefix_v4_default")]
    pub prefix_v4: u8,
    #[serde(default = "prefix_v6_default")]
    pub prefix_v6: u8,
    /// Sources of each service that are shown.
    #[serde(default = "most_default")]
    pub most: u32,
    /// Only of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// End early when somebody else wants to look at frames.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub gives_way: bool,
}

impl LookForTalkers {
    /// Of how many frames one is looked at, so that `TALKERS_PER_S` are when so many come.
    pub fn one_in(frames_per_s: f64) -> u32 {
        (frames_per_s / TALKERS_PER_S as f64).ceil().max(1.0) as u32
    }
}

fn one() -> u32 {
    1
}

fn prefix_v4_default() -> u8 {
    TALKERS_PREFIX_V4
}

fn prefix_v6_default() -> u8 {
    TALKERS_PREFIX_V6
}

fn most_default() -> u32 {
    TALKERS_SHOWN_DEFAULT
}

impl Order {
    /// How long it asks to be waited for.
    pub fn takes(&self) -> Duration {
        match self {
            Order::Trace { watch_ms: ms, .. } | Order::Talkers(LookForTalkers { for_ms: ms, .. }) => {
                Duration::from_millis(*ms)
            }
            _ => Duration::ZERO,
        }
    }

    /// Whether all members of a group hear of it.
    pub fn is_shared(&self) -> bool {
        matches!(
            self,
            Order::Drain { .. }
                | Order::Undrain { .. }
                | Order::Weight { .. }
                | Order::Disable { .. }
                | Order::Enable { .. }
                | Order::Deny { .. }
                | Order::Undeny { .. }
        )
    }
}

/// Which frames a capture has, and when it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// Only frames of this client.
    pub client: Option<IpAddr>,
    /// Only frames for this service.
    pub service: Option<String>,
    /// Only frames that go to this server.
    pub server: Option<String>,
    /// `None`: as they come in and as they go out.
    #[serde(rename = "where")]
    pub point: Option<Point>,
    /// Bytes of a frame that are kept.
    #[serde(default = "snap_default")]
    pub snap: usize,
    /// End after so many frames.
    pub count: Option<u64>,
    /// End after so many seconds.
    pub seconds: Option<u64>,
}

fn snap_default() -> usize {
    CAPTURE_SNAP_DEFAULT
}

/// Where a capture looks at frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// As they come in.
    In,
    /// As they go out to their servers.
    Out,
    /// As they come in, those that are dropped.
    Drop,
}

/// The pieces of a pcapng, as they come.
#[derive(Clone, Debug)]
pub struct Recording(Arc<Mutex<mpsc::Receiver<Vec<u8>>>>);

impl Recording {
    pub fn new(pieces: mpsc::Receiver<Vec<u8>>) -> Recording {
        Recording(Arc::new(Mutex::new(pieces)))
    }

    /// The next piece; `None`: the capture has ended.
    pub fn poll_next(&self, context: &mut Context) -> Poll<Option<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).poll_recv(context)
    }
}

impl PartialEq for Recording {
    fn eq(&self, other: &Recording) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    Status(Box<Status>),
    /// Done; what changed, a line each.
    Done {
        changes: Vec<String>,
    },
    /// Refused, in words; nothing was changed.
    Refused {
        error: String,
    },
    Trace(Trace),
    /// Sent as it is, and not as a document.
    #[serde(skip)]
    Capture(Recording),
    Denied(Denied),
    Diff(Diff),
    Client(ClientCheck),
    Talkers(Talkers),
    Group(Box<GroupStatus>),
}

/// Who sends most, for those who look on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heaviest {
    /// Of the last look that is not too old; `None`: there is none yet, or none could be taken.
    pub talkers: Option<Talkers>,
    /// How long ago that was.
    pub age_s: Option<f64>,
    /// Why the last look could not be taken.
    pub error: Option<String>,
}

/// Who sent most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Talkers {
    pub for_ms: u64,
    pub one_in: u32,
    /// So many frames to cluster addresses were looked at; of the service, where one was asked for.
    pub looked_at: u64,
    /// So many more were not, for want of room.
    pub missed: u64,
    /// So many frames came therefore.
    pub frames: u64,
    /// The heaviest first.
    pub sources: Vec<Talker>,
}

/// A source of frames to a service, with what it probably sent meanwhile: what was looked at, scaled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Talker {
    /// `None`: of none that is known.
    pub service: Option<String>,
    pub source: Prefix,
    pub frames: u64,
    /// `frames` may be too high by so many, beside chance: others were counted in its place before.
    pub too_many: u64,
    /// Of these.
    pub dropped: u64,
    pub bytes: u64,
    /// SYNs without ACK.
    pub syns: u64,
}

/// What a configuration file has other than what is in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    pub config: PathBuf,
    pub same: bool,
    /// What differs, a line each.
    pub changes: Vec<String>,
    /// The keys that differ and that a reload cannot take over.
    pub needs_restart: Vec<String>,
    /// The services whose clients would get other servers.
    pub services: Vec<ServiceDiff>,
    /// Why a reload would be refused, as far as that is known before it; `None`: it would not be.
    pub refused: Option<String>,
    /// What is doubtful in the file.
    pub warnings: Vec<String>,
    /// What operators have ordered, a line each: it stands beside the configuration, and is no difference.
    pub orders: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceDiff {
    pub service: String,
    pub slots: u32,
    /// Slots that get another server; `None`: the rule is another one, and a slot's clients are others.
    pub moved_slots: Option<u32>,
    /// Part of its clients that get another server, 0 to 1; of a sample.
    pub moved: f64,
    /// Part of its clients that must, since its servers come, go or get another weight.
    pub must: f64,
    /// How long connections stay where they are, in seconds.
    pub drain_s: u64,
    /// So many move for nothing that a reload needs `--force`.
    pub needs_force: bool,
}

/// Whose frames are dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Denied {
    /// By `ctl deny`, oldest first.
    pub denied: Vec<Denial>,
    /// Of the configuration.
    pub lists: Vec<ListStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Denial {
    pub prefix: Prefix,
    /// `None`: for every service.
    pub service: Option<String>,
    /// Seconds until it is over; `None`: no end.
    pub left_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListStatus {
    /// `deny`, `count` or `allow`.
    pub kind: String,
    /// Empty: every service.
    pub services: Vec<String>,
    pub prefixes: usize,
    pub files: Vec<PathBuf>,
    /// What is wrong with the present content of files, of which an earlier one counts.
    pub wrong: Vec<String>,
}

/// A client address, seen from every service of its family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    pub client: IpAddr,
    pub services: Vec<TracedService>,
    /// What was seen of the client while it was watched, oldest first; at most `limits::TRACED_FRAMES`.
    pub frames: Vec<TracedFrame>,
}

impl Trace {
    /// That of one service, if one is named.
    ///
    /// # Errors
    /// No service of that name has clients of that family; in words.
    pub fn of_service(mut self, name: Option<&str>) -> Result<Trace, String> {
        let Some(name) = name else { return Ok(self) };
        let known: Vec<String> = self.services.iter().map(|service| service.service.clone()).collect();
        self.services.retain(|service| service.service == name);
        if self.services.is_empty() {
            let known = if known.is_empty() { "none".to_owned() } else { names::first(known) };
            return Err(format!("service {name}: {} can be a client of these services: {known}", self.client));
        }
        Ok(self)
    }

    /// The keys of `oneip lookup --json`.
    pub fn lookup(&self) -> Value {
        let each = self.services.iter().map(|TracedService { service, hash, slot, server, .. }| {
            json!({"client": self.client, "service": service, "hash": hash, "slot": slot, "server": server})
        });
        each.collect()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TracedService {
    pub service: String,
    /// 64-bit SipHash in hex, as in `lookup --json`. With `hash = "flow"`, that of packets without ports.
    pub hash: String,
    /// For `modulo`, the remainder.
    pub slot: u32,
    /// Who gets its new connections; `None`: nobody is up.
    pub server: Option<String>,
    /// Where the slot is moving: who keeps the connections that it has.
    pub keeps: Option<String>,
    /// The failover order: the first of them that takes clients is the owner.
    pub order: Vec<String>,
}

/// What a client meets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientCheck {
    pub client: IpAddr,
    /// Those of its family.
    pub services: Vec<ClientService>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientService {
    #[serde(flatten)]
    pub place: TracedService,
    pub address: IpAddr,
    /// The list entry that decides; `None`: no list has the client.
    pub listed: Option<Listing>,
    /// What the service's limits are, in words; `None`: it has none.
    pub limit: Option<String>,
    /// `source`, or `flow`: then `place` is that of packets without ports.
    pub hash_input: String,
    /// Why that server, in words.
    pub why: String,
    /// With `hash = "flow"`, and a port of the client: where its flows to each port of the service go.
    pub flows: Vec<ClientFlow>,
}

/// What the lists say of a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    pub verdict: ListVerdict,
    pub prefix: Prefix,
    /// `[[deny]]`, `[[allow]]` or `ctl deny`; with the file, if it is in one.
    pub by: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListVerdict {
    /// Its frames are dropped.
    Denied,
    /// They would be, if the list did more than count.
    Counted,
    Allowed,
}

/// Connections from a port of the client to a port of the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientFlow {
    /// Of the client.
    pub port: u16,
    /// Of the service: `tcp/443`.
    pub to: String,
    pub hash: String,
    pub slot: u32,
    pub server: Option<String>,
    pub keeps: Option<String>,
    /// Why that server, in words.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TracedFrame {
    /// Since the watch began.
    pub at_us: u64,
    pub worker: usize,
    pub bytes: u32,
    /// `tcp`, `udp`, `icmp` ... or the protocol's number.
    pub protocol: String,
    /// `forward`, `drop` or `pass`, as in the verdicts of `replay`.
    pub verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
