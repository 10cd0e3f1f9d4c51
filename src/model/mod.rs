//! The checked configuration: what the data path is built from. A leaf: `control::config` makes it, everything reads it.

mod group;
pub mod identity;
pub mod limit;
pub mod list;
mod mac;
pub mod names;
mod next_hop;
mod port;
mod prefix;
pub mod prime;
mod quic;

pub use group::{Certificates, Group, GroupHealth, Secret};
pub use limit::{Limit, LimitKind, OddKind, OddLimit, PerSource, Rate};
pub use list::{List, ListFile, ListKind};
pub use mac::Mac;
pub use next_hop::{Egress, NextHop, Tags};
pub use port::{Port, Transport};
pub use prefix::Prefix;
pub use quic::{QuicConfig, QuicKey, ServerId};

use crate::limits::{BURST, MBUF_CACHE};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A validated configuration file. Only `control::config` makes one, so whoever holds it may rely on the rules of `limits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub hash_key: HashKey,
    pub dispatcher: Option<Dispatcher>,
    pub filter: Option<Filter>,
    pub decap: Decap,
    pub admin: Admin,
    /// `None`: routers are told by hand.
    pub announce: Option<Announce>,
    /// `None`: this process shares nothing.
    pub group: Option<Group>,
    /// Whose frames are dropped, and whose are not.
    pub lists: Vec<List>,
    /// `None`: packets that are dear to read have no limits of their own.
    pub odd_limit: Option<OddLimit>,
    /// In the order of the file.
    pub services: Vec<Service>,
}

impl Plan {
    /// Every cluster address and prefix, once.
    pub fn cluster_addresses(&self) -> BTreeSet<Prefix> {
        self.services.iter().flat_map(Service::addresses).collect()
    }

    /// From where servers take tunnels; empty: from anywhere.
    pub fn tunnel_sources(&self) -> Vec<Prefix> {
        match &self.dispatcher {
            _ if !self.decap.sources.is_empty() => self.decap.sources.clone(),
            Some(dispatcher) => dispatcher.source.iter().map(|source| Prefix::host(*source)).collect(),
            None => Vec::new(),
        }
    }
}

/// SipHash's 128-bit key as published: k0 is the first 8 bytes, k1 the second 8, little-endian.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl HashKey {
    /// `(k0, k1)`
    pub fn halves(&self) -> (u64, u64) {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| self.0[at + i]));
        (word(0), word(8))
    }
}

/// The key is a secret: it never reaches a log or an error message.
impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatcher {
    /// The first one.
    pub interface: String,
    /// Other interfaces that clients' frames come in on, and go out by.
    pub others: Vec<String>,
    /// What is said of the queues of each of them, the first one first.
    pub queues: Vec<Queues>,
    pub engine: Engine,
    /// One worker per queue on these cores; `None`: the cores near the NIC, or what `queues` say.
    pub cores: Option<Vec<usize>>,
    /// What a worker does while nothing comes.
    pub idle: Idle,
    /// Flows that are remembered for a queue while a change is under way.
    pub flows: u32,
    /// A worker without a turn for longer hangs.
    pub heartbeat: Duration,
    /// `None`: in the driver, where it can.
    pub xdp: Option<Xdp>,
    /// A folder on a BPF file system, in which the program is kept when the process was killed.
    pub pins: PathBuf,
    /// With `Engine::Dpdk` always there.
    pub dpdk: Option<Dpdk>,
    /// Outer source addresses of tunnels, at most one of each family; empty: the interface's.
    pub source: Vec<IpAddr>,
    /// In bytes, without the Ethernet header: what frames with tunnels' headers must fit in. `None`: the interface's.
    pub mtu: Option<u32>,
    /// Of the router that leads to servers without `mac`, where nobody can be asked.
    pub gateway_mac: Option<Mac>,
    /// Cells for what sources are limited by.
    pub limit_sources: u32,
}

/// What workers do while nothing comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// They ask again at once: nothing waits for a wakeup, and their cores are theirs.
    #[default]
    Poll,
    /// They sleep until something comes: their cores are free meanwhile.
    Sleep,
}

/// The queues of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// How many workers serve, from the first one on; `None`: all.
    pub count: Option<u32>,
    /// The cores whose workers serve them in turn. Of several interfaces, each has the same ones, in any order, or none has any.
    pub cores: Option<Vec<usize>>,
}

/// The server's side of broadcast-based dispatch, the same on every server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub interface: String,
    /// How long a server waits before it takes over what others have to give up; `None`: as long as their checks may differ.
    pub hold: Option<Duration>,
    /// `None`: in the driver, where it can, and frames reach TCP from there.
    pub xdp: Option<Xdp>,
    /// A folder on a BPF file system, in which the program is kept when the process has ended.
    pub pins: PathBuf,
    /// The UDP port on which the filters of the servers speak to each other.
    pub port: u16,
}

/// The servers' end of tunnels, the same on every server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decap {
    /// `None`: that which has the server's primary address.
    pub interface: Option<String>,
    /// `None`: in the driver, where it can.
    pub xdp: Option<Xdp>,
    /// A folder on a BPF file system, in which the program is kept when the process has ended.
    pub pins: PathBuf,
    /// From where tunnels may come; empty: from `Dispatcher::source`.
    pub sources: Vec<Prefix>,
}

/// That of a configuration that does not speak of it.
impl Default for Decap {
    fn default() -> Decap {
        Decap { interface: None, xdp: None, pins: PINS.into(), sources: Vec::new() }
    }
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xdp {
    /// In the driver.
    Native,
    /// In the kernel, behind any driver.
    Generic,
}

/// The folder in which programs are kept, where the configuration names none.
pub const PINS: &str = "/sys/fs/bpf/oneip";

impl Filter {
    pub const PORT: u16 = 7480;
}

/// How a dispatcher says which cluster addresses routers may send here: by routes in a table of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The kernel's routing table, 1 to 252. No rule must look routes up there.
    pub table: u8,
    /// Servers that a service needs to be ready; of those that it has, if they are fewer.
    pub min_up: u32,
    /// How long an address that was withdrawn must be ready again before it is announced.
    pub hold_down: Duration,
    /// From the withdrawal at a clean stop to the end of dispatching.
    pub linger: Duration,
    /// How long routes stay when the process was killed, or hangs.
    pub hold: Duration,
}

impl Announce {
    /// In milliseconds, milliseconds and seconds.
    pub const HOLD_DOWN_MS: u32 = 5000;
    pub const LINGER_MS: u32 = 2000;
    pub const HOLD_S: u32 = 30;
    pub const TABLE: u8 = 111;
    pub const MIN_UP: u32 = 1;
}

/// How a running dispatcher or filter is asked and watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The Unix socket that `oneip ctl` talks to.
    pub socket: PathBuf,
    /// The file names the socket, so a start without it is refused. Several dispatchers of one machine may have the default;
    /// the first of them gets it.
    pub socket_given: bool,
    /// Where Prometheus asks; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Where the page for people is; may be that of the metrics. `None`: nowhere.
    pub web: Option<SocketAddr>,
    /// Keeps across a restart what an operator has set.
    pub state: PathBuf,
}

impl Admin {
    pub const SOCKET: &str = "/run/oneip/oneip.sock";

    /// The file is called as the socket is, so that each dispatcher of a machine has its own.
    pub fn state_of(socket: &Path) -> PathBuf {
        let name = socket.file_stem().unwrap_or_default();
        Path::new("/var/lib/oneip").join(name).with_added_extension("json")
    }
}

/// That of a configuration that does not speak of it.
impl Default for Admin {
    fn default() -> Admin {
        let socket = PathBuf::from(Admin::SOCKET);
        Admin { state: Admin::state_of(&socket), socket, socket_given: false, metrics: None, web: None }
    }
}

impl Dispatcher {
    /// All of them, the first one first.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.interface).chain(&self.others).map(String::as_str)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Workers over AF_XDP sockets.
    AfXdp,
    /// An XDP program in the kernel.
    Xdp,
    /// Workers over a DPDK port.
    Dpdk,
    /// AF_XDP where the driver has zero copy on every queue, else the program in the kernel.
    Auto,
}

impl Engine {
    /// As it is written in the configuration.
    pub const ALL: [(&str, Engine); 4] =
        [("af_xdp", Engine::AfXdp), ("xdp", Engine::Xdp), ("dpdk", Engine::Dpdk), ("auto", Engine::Auto)];
}

/// What DPDK is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dpdk {
    /// A device for each interface of the dispatcher, in their order: a PCI address, or the name of a virtual device; behind a comma, what its driver
    /// takes.
    pub ports: Vec<String>,
    /// Arguments of DPDK's own (EAL).
    pub eal: Vec<String>,
    /// Of each device.
    pub queues: u16,
    /// Descriptors of a receive, and of a transmit ring.
    pub descriptors: u16,
    /// Frames of a worker; `None`: enough.
    pub mbufs: Option<u32>,
    /// In bytes, without the Ethernet header.
    pub mtu: u16,
    pub exception: Exception,
}

impl Dpdk {
    /// The least number of mbufs that a worker can do with whose rings hold so many: those, what two threads (the one that fills the
    /// rings at first, and the worker) may have in their caches, and what the worker holds: a burst waits for each device.
    pub fn least_mbufs(in_rings: u32, devices: usize) -> u32 {
        in_rings + 2 * (MBUF_CACHE * 3 / 2) + (2 + devices) as u32 * BURST as u32
    }

    /// The best number for DPDK's pools is one less than a power of two (rte_mempool.h).
    pub fn default_mbufs(in_rings: u32, devices: usize) -> u32 {
        (Dpdk::least_mbufs(in_rings, devices) + 1).next_power_of_two() - 1
    }
}

/// What becomes of frames that are not for a cluster address, when DPDK has taken them past the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// They go to the kernel through a tap, and the kernel's go out the same way.
    Tap,
    /// The kernel sees every frame by itself: the port sits on one of its interfaces and only copies.
    Kernel,
    /// They are dropped.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    /// The cluster address; of several, the one that checks ask for.
    pub address: IpAddr,
    /// Every cluster address, of one family; empty: `address` alone.
    pub prefixes: Vec<Prefix>,
    /// Empty: every protocol and port.
    pub ports: Vec<Port>,
    pub hash: HashInput,
    pub deliver: Deliver,
    pub selection: Selection,
    /// Prime, at least `SLOTS_PER_SERVER` times the number of servers.
    pub slots: u32,
    /// How long connections stay on their server through a change of the cluster.
    pub drain: Duration,
    /// Whether those that show themselves by then stay for as long as they last.
    pub until_closed: bool,
    /// Whether servers send back segments for which they have no connection, and another server gets them.
    pub second_chance: bool,
    /// In the order of the file, at least one.
    pub servers: Vec<Server>,
    /// How many of the last servers a reload has removed: they keep the connections that they have. None in a configuration.
    pub leaving: usize,
    /// `None`: the servers count as up.
    pub health: Option<Health>,
    /// Never announced, and dispatched all the same.
    pub withdrawn: bool,
    pub limit: Option<Limit>,
    /// How its servers make QUIC connection IDs; empty: connection IDs say nothing.
    pub quic: Vec<QuicConfig>,
}

impl Service {
    /// Every cluster address and prefix, in the order of the file.
    pub fn addresses(&self) -> Vec<Prefix> {
        if self.prefixes.is_empty() { vec![Prefix::host(self.address)] } else { self.prefixes.clone() }
    }

    /// Whether it is one of its cluster addresses.
    pub fn has_address(&self, address: IpAddr) -> bool {
        match self.prefixes.is_empty() {
            true => self.address == address,
            false => self.prefixes.iter().any(|prefix| prefix.contains(address)),
        }
    }

    /// Whether a cluster address or prefix is listed by both.
    pub fn shares_address(&self, other: &Service) -> bool {
        let others = other.addresses();
        self.addresses().iter().any(|address| others.contains(address))
    }

    /// As messages have them.
    pub fn addresses_text(&self) -> String {
        self.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// What the hash is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashInput {
    /// The client's address.
    Source,
    /// Source and destination address and port, and the protocol; the client's address where a packet has no ports.
    Flow,
}

impl HashInput {
    pub const fn name(self) -> &'static str {
        match self {
            HashInput::Source => "source",
            HashInput::Flow => "flow",
        }
    }
}

/// How packets come to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deliver {
    /// As they are, in a frame to its MAC.
    L2,
    /// Behind an IP header of the family of its address (RFC 2003, 2473, 4213).
    Ipip,
    /// Behind IP and UDP, to this port (GUE variant 1, draft-ietf-intarea-gue).
    Gue { port: u16 },
    /// Behind IP and GRE without a key (RFC 2784).
    Gre,
    /// With its address in place of the cluster address, which DSCP tells.
    L3dsr { dscp: u8 },
}

impl Deliver {
    pub const GUE_PORT: u16 = 6080;

    /// Whether a header is put in front of packets.
    pub const fn is_tunnel(self) -> bool {
        matches!(self, Deliver::Ipip | Deliver::Gue { .. } | Deliver::Gre)
    }

    /// Whether packets reach the server over routers too.
    pub const fn is_routed(self) -> bool {
        !matches!(self, Deliver::L2)
    }
}

/// As it is written in the configuration, with what goes with it.
impl fmt::Display for Deliver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deliver::L2 => write!(f, "l2"),
            Deliver::Ipip => write!(f, "ipip"),
            Deliver::Gue { port } => write!(f, "gue to port {port}"),
            Deliver::Gre => write!(f, "gre"),
            Deliver::L3dsr { dscp } => write!(f, "l3dsr with dscp {dscp}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    Maglev,
    /// Client address mod N; the server at that position of the file.
    Modulo,
}

impl Selection {
    pub const fn name(self) -> &'static str {
        match self {
            Selection::Maglev => "maglev",
            Selection::Modulo => "modulo",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    /// The primary address.
    pub address: IpAddr,
    /// `None`: resolved from the neighbour table.
    pub mac: Option<Mac>,
    /// 0: configured, but takes no clients.
    pub weight: u32,
    /// The VLAN tags of frames to it.
    pub tags: Tags,
    /// What its QUIC connection IDs say that they are its.
    pub quic_ids: Vec<ServerId>,
}

impl Server {
    /// What it is called while it leaves, if another server has its name now.
    pub fn name_when_replaced(&self) -> String {
        format!("{}@{}", self.name, self.address)
    }

    /// As messages have them.
    pub fn quic_ids_text(&self) -> String {
        self.quic_ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// How the servers of a service are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub probe: Probe,
    pub via: Via,
    /// From the beginning of one probe of a server to that of the next.
    pub interval: Duration,
    /// What has not succeeded by then has failed; at most `interval`.
    pub timeout: Duration,
    /// Successes in a row that bring a server up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
    pub all_down: AllDown,
}

/// What a server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether it accepts a connection.
    Tcp {
        port: u16,
    },
    Http(Http),
    /// Whether it answers an echo request.
    Icmp,
}

/// A GET request, of whose answer the status is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    pub tls: bool,
    pub port: u16,
    /// The `Host` header, and the name asked for in the TLS handshake; `None`: the cluster address.
    pub host: Option<String>,
    pub path: String,
    /// The statuses that are a success.
    pub expect: Vec<RangeInclusive<u16>>,
}

/// Which way a probe takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The clients': addressed to the cluster address, in a frame to the server's MAC.
    Service,
    /// Addressed to the server's primary address.
    Primary,
}

/// What becomes of clients when every server of a service is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllDown {
    /// Their frames are dropped.
    Drop,
    /// They are served as if every server were up.
    Serve,
}

/// `http GET /healthz on port 80, at the cluster address, every 1000 ms, timeout 500 ms, rise 2, fall 3`
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.probe {
            Probe::Tcp { port } => write!(f, "tcp connection to port {port}")?,
            Probe::Http(Http { tls, port, path, .. }) => {
                write!(f, "{} GET {path} on port {port}", if *tls { "https" } else { "http" })?;
            }
            Probe::Icmp => write!(f, "icmp echo")?,
        }
        let at = match self.via {
            Via::Service => "the cluster address",
            Via::Primary => "the primary address",
        };
        let Health { interval, timeout, rise, fall, .. } = self;
        write!(f, ", at {at}, every {} ms, timeout {} ms", interval.as_millis(), timeout.as_millis())?;
        write!(f, ", rise {rise}, fall {fall}")?;
        if self.all_down == AllDown::Serve {
            write!(f, "; with all servers down, all serve")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
