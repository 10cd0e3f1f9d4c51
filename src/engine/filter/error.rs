use std::error::Error;
use std::io;
use std::iter;
use std::path::PathBuf;

use rustix::io::Errno;

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

    #[error("there is no BPF file system at {}: mount -t bpf bpf /sys/fs/bpf", path.display())]
    NoBpfFileSystem { path: PathBuf },

    #[error("cannot keep the filter at {}: {reason}", path.display())]
    Pin { path: PathBuf, reason: String },

    #[error(
        "another XDP program is attached to {interface} (ip link show {interface} shows it): stop its owner, or take it off: \
         oneip filter -c FILE --detach, where it is a filter kept by other `pins`; ip link set dev {interface} xdp off, where \
         no program holds it"
    )]
    ProgramAttached { interface: String },

    #[error("cannot attach the filter program to {interface}, neither in the driver nor in the kernel: {reason}")]
    Attach { interface: String, reason: String },

    #[error(
        "the driver of {interface} does not take the filter program: {reason}; leave `xdp` in [filter] out, or write \"generic\""
    )]
    NoNative { interface: String, reason: String },

    #[error("cannot take the filter on {interface} over: {reason} (rm {} ends it)", path.display())]
    TakeOver { interface: String, path: PathBuf, reason: String },
}

/// An error with its causes behind it; the library's own messages leave them to whoever prints them.
pub(super) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |error| (*error).source());
    causes.map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}

/// The error number at the root of an error.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> Option<Errno> {
    let causes = iter::successors(Some(error), |error| (*error).source());
    let io = causes.filter_map(|error| error.downcast_ref::<io::Error>()).last()?;
    Errno::from_io_error(io)
}
