use super::frames::TrafficError;
use crate::xdp::XdpError;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Why frames cannot be generated, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PktgenError {
    #[error(transparent)]
    Traffic(#[from] TrafficError),

    /// What is in the way on the interface, as `run` would say.
    #[error(transparent)]
    Device(#[from] XdpError),

    #[error("--first-client {first}: no --address is of that family")]
    FirstClient { first: IpAddr },

    #[error("--first-client is given twice for one family: {first} and {second}")]
    FirstClients { first: IpAddr, second: IpAddr },

    #[error("a frame of {size} bytes does not fit {interface}'s MTU of {mtu}: --size {} is the largest", mtu + 18)]
    Mtu { interface: String, mtu: u32, size: usize },

    #[error("Linux {version} is too old for pktgen, which needs 5.18 (live frames of BPF_PROG_TEST_RUN)")]
    Kernel { version: String },

    #[error(
        "{interface} takes no frames from an XDP program: the driver cannot, or, of a veth, the peer has neither an XDP \
         program nor GRO (ethtool -K PEER gro on); or use --method af_xdp"
    )]
    NoXdpTransmit { interface: String },

    #[error("--core {core}: this process may not use that core; it may use {available}")]
    Core { core: usize, available: String },

    #[error(
        "{interface} has {queues} queue{}, and AF_XDP needs one for each of {senders} senders: ethtool -L {interface} combined \
         {senders}, or name fewer cores with --core",
        if *queues == 1 { "" } else { "s" }
    )]
    Queues { interface: String, queues: u32, senders: usize },

    #[error(
        "cannot load the {program} program: {reason} (it needs root, or cap_net_admin, cap_net_raw, cap_bpf and cap_perfmon)"
    )]
    Load { program: &'static str, reason: String },

    #[error("cannot access the {map} of a program: {reason}")]
    Map { map: &'static str, reason: String },

    #[error("the kernel does not run the generator: {reason}")]
    Run { reason: String },

    #[error("{interface} has had no carrier since a program was attached to it (ip link show {interface})")]
    NoCarrier { interface: String },

    #[error("--hlog {}: cannot be written: {reason}", path.display())]
    Log { path: PathBuf, reason: String },

    #[error("signals cannot be caught: {reason}")]
    Signals { reason: io::Error },
}
