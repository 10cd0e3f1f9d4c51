use std::io;

use crate::xdp::link::LinkError;

/// Why a filter could not be taken into service, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("cannot read interface {interface}: {reason} (ip link shows which there are)")]
    NoInterface { interface: String, reason: io::Error },

    #[error("interface {interface} is not an Ethernet interface (its ARPHRD type is {kind})")]
    NotEthernet { interface: String, kind: u32 },

    #[error("cannot load the filter program: {reason} (it needs root, or cap_net_admin and cap_bpf, and Linux 6.1)")]
    Load { reason: String },

    #[error("no memory for a table of {mib} MiB: {reason} (fewer slots or services need less)")]
    TableMemory { mib: usize, reason: String },

    #[error("cannot access the filter program's {map}: {reason}")]
    Map { map: &'static str, reason: String },

    #[error("the kernel does not run the filter program on this frame: {reason}")]
    Judge { reason: String },

    #[error(transparent)]
    Link(#[from] LinkError),
}
