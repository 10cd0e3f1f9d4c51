//! What was seen of a host, before anybody judges it. Everything may be unknown: a check says nothing bad of what it does not know.

use crate::admin::status::Status;
use crate::control::neighbours::OffLink;
use crate::model::{Mac, Plan, Tags};
use crate::xdp::{Device, Features};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `None`: without a configuration only what needs none is looked at.
    pub plan: Option<Plan>,
    pub host: Host,
    pub cores: Cores,
    /// Those of the dispatcher that is configured, the first one first.
    pub interfaces: Vec<Interface>,
    /// Why there are not all of them.
    pub no_interface: Vec<String>,
    pub network: Network,
    /// `None`: no process answers.
    pub running: Option<Running>,
    /// Why one that has a socket does not answer.
    pub no_answer: Option<String>,
    /// The dispatcher looks at its own host.
    pub is_itself: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Host {
    /// `6.18.44-amd64`
    pub kernel: Option<String>,
    pub has_af_xdp: Option<bool>,
    /// `net.core.bpf_jit_enable`
    pub jit: Option<i64>,
    /// `kernel.bpf_stats_enabled`
    pub bpf_stats: Option<i64>,
    /// Capabilities that this process lacks; `None`: not asked.
    pub missing: Option<Vec<String>>,
    /// Where this program is.
    pub program: PathBuf,
    /// Most bytes that it may lock, and whether the limit does not count for it; `None`: not asked.
    pub memory_lock: Option<(u64, bool)>,
    /// Whether `pins` is on a BPF file system.
    pub has_bpf_fs: Option<bool>,
    /// Of any size.
    pub huge_pages: Option<u64>,
    pub clock_source: Option<String>,
    pub clock_sources: Option<String>,
    /// By how many seconds the state file is newer than the clock says.
    pub behind_s: Option<u64>,
    pub irqbalance: Option<bool>,
    /// Why the folder of the state file cannot be written to.
    pub state_dir: Option<String>,
    /// `gc_thresh3` of IPv4 and IPv6.
    pub neighbours_most: [Option<i64>; 2],
}

#[derive(Clone, Debug, Default)]
pub struct Cores {
    /// That this process may use.
    pub available: Vec<usize>,
    pub governor: BTreeMap<usize, String>,
    /// The deepest enabled idle state of each core: its exit latency in us.
    pub idle_us: BTreeMap<usize, u64>,
    pub siblings: BTreeMap<usize, Vec<usize>>,
    pub isolated: Vec<usize>,
}

#[derive(Clone, Debug)]
pub struct Interface {
    pub device: Device,
    pub up: bool,
    pub carrier: Option<bool>,
    /// The bridge or bond that has it.
    pub master: Option<String>,
    pub features: Features,
    /// The XDP program on it.
    pub program: Option<u32>,
    /// Whether that is what a dispatcher has left.
    pub program_is_ours: bool,
    pub gro: Option<bool>,
    pub lro: Option<bool>,
    /// Descriptors of a receive ring, and the most.
    pub ring: Option<(u32, u32)>,
    pub most_combined: Option<u32>,
    pub spread_over: Option<Vec<u32>>,
    pub flow_rules: Option<u32>,
    /// Of each interrupt: the cores that serve it.
    pub interrupts: BTreeMap<u32, Vec<usize>>,
    pub ipv6_disabled: Option<i64>,
    pub settings: Settings,
    /// `None`: nobody listened.
    pub heard: Option<Heard>,
}

/// Of an interface, or of `all` (`net.ipv4.conf`): the kernel goes by the stricter of the two, each in its way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    pub send_redirects: Option<i64>,
    pub rp_filter: Option<i64>,
    pub proxy_arp: Option<i64>,
}

/// Settings are `None` where the kernel has none.
#[derive(Clone, Debug, Default)]
pub struct Network {
    pub ip_forward: Option<i64>,
    pub ipv6_forwarding: Option<i64>,
    /// Of `all`.
    pub settings: Settings,
    pub port_range: Option<(u16, u16)>,
    /// Cluster addresses that this host has: address, prefix, interface.
    pub held: Vec<(IpAddr, u8, String)>,
    /// Through which device each IPv4 cluster address would be reached; `None`: there is no route.
    pub cluster_routes: Vec<(IpAddr, Option<String>)>,
    pub off_link: Vec<OffLink>,
    /// The device by which the kernel reaches a server that has a `vlan`, and the tags that frames get there, the outermost one last.
    pub vlans: Vec<(String, Tags, String, Vec<u16>)>,
    /// The servers on the links.
    pub neighbours: Vec<Neighbour>,
    /// The MACs of default gateways.
    pub gateways: Vec<(IpAddr, Mac)>,
    /// Rules of others that come before those of the checks, each as `ip rule del` takes it.
    pub rules_before: Vec<String>,
    /// Rules of the checks: of IPv4 and IPv6.
    pub probe_rules: [usize; 2],
    /// Routes of the checks.
    pub probe_routes: usize,
    /// Rules of servers that lead to a table without a route.
    pub routeless: usize,
}

#[derive(Clone, Debug)]
pub struct Neighbour {
    pub server: String,
    pub address: IpAddr,
    /// The device that leads to it.
    pub device: String,
    /// `None`: it does not answer.
    pub mac: Option<Mac>,
}

/// Of frames that the kernel received while we listened.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub seconds: f64,
    pub frames: u64,
    /// With unfinished checksums, or longer than the MTU, by who sent them.
    pub unfinished: BTreeMap<Mac, u64>,
    pub long: BTreeMap<Mac, u64>,
    /// ICMP redirects, by who sent them.
    pub redirects: BTreeMap<Mac, u64>,
}

#[derive(Clone, Debug)]
pub struct Running {
    pub status: Status,
    /// The frames dropped of each reason between two looks.
    pub drops: BTreeMap<String, u64>,
    pub seconds: f64,
    /// What a reload would change, or why it would be refused; `None`: it runs by another file.
    pub reload: Option<Result<Vec<String>, String>>,
    /// What it finds wrong with itself (`/healthz`).
    pub trouble: Option<String>,
}

impl Facts {
    /// Whether a process dispatches on the interfaces, of which its status has the first.
    pub fn dispatches(&self) -> bool {
        let first = self.interfaces.first().map(|interface| &interface.device.interface);
        let ours = |running: &Running| {
            running.status.mode == "dispatcher" && first.is_none_or(|first| *first == running.status.interface)
        };
        self.running.as_ref().is_some_and(ours)
    }
}
