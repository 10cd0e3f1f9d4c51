use std::error::Error;
use std::io;
use std::iter;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::limits::STEER_ADDRESSES;

/// Why a device could not be taken into service, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    #[error(
        "XDP on {interface} needs {missing}: run as root, or: setcap {needed}=ep {}",
        program.display()
    )]
    NotPermitted { interface: String, missing: String, needed: String, program: PathBuf },

    #[error("interface {interface} does not exist; there are: {existing}")]
    NoInterface { interface: String, existing: String },

    #[error("interface {interface} is not an Ethernet interface (its ARPHRD type is {kind})")]
    NotEthernet { interface: String, kind: u32 },

    #[error("interface {interface} is down: ip link set {interface} up")]
    Down { interface: String },

    #[error("a frame at {interface}'s MTU of {mtu} does not fit in one buffer: ip link set {interface} mtu {most}")]
    MtuTooLarge { interface: String, mtu: u32, most: u32 },

    #[error(
        "{} has an MTU of {}, and {} of {}: what comes in on one must fit on the others; ip link set dev {} mtu {}",
        first.0, first.1, other.0, other.1, other.0, first.1
    )]
    UnlikeMtus { first: (String, u32), other: (String, u32) },

    #[error("cannot read {}: {reason}", path.display())]
    Facts { path: PathBuf, reason: io::Error },

    #[error("{} does not hold what was expected: {text:?}", path.display())]
    StrangeFact { path: PathBuf, text: String },

    #[error(
        "cannot lock {kib} KiB of memory for queue {queue} of {interface} ({reason}): raise the limit, ulimit -l unlimited, \
         or LimitMEMLOCK=infinity in the systemd unit"
    )]
    MemoryLock { interface: String, queue: u32, kib: usize, reason: io::Error },

    #[error("this kernel has no AF_XDP sockets: it needs CONFIG_XDP_SOCKETS=y")]
    NoAfXdp,

    #[error(
        "queue {queue} of {interface} is busy: another program holds an AF_XDP socket on it (ss --xdp -p shows which); stop that one"
    )]
    QueueBusy { interface: String, queue: u32 },

    #[error("cannot bind an AF_XDP socket to queue {queue} of {interface}: {reason}")]
    Bind { interface: String, queue: u32, reason: io::Error },

    #[error("cannot load an XDP program: {reason}")]
    Load { reason: String },

    #[error("cannot access the XDP program's {map}: {reason}")]
    Map { map: &'static str, reason: String },

    #[error("the kernel does not run the XDP program on this frame: {reason}")]
    Judge { reason: String },

    #[error("{count} cluster addresses of one family are more than the steer program holds ({})", STEER_ADDRESSES / 2)]
    TooManyAddresses { count: usize },

    #[error(
        "another XDP program is attached to {interface} (ip link show {interface} shows it): stop its owner, or detach \
         it: oneip filter -c FILE --detach, if it is a filter of oneip; ip link set dev {interface} xdp off, if no \
         program holds it"
    )]
    ProgramAttached { interface: String },

    #[error("cannot attach an XDP program to {interface}, neither in the driver nor in the kernel: {reason}")]
    Attach { interface: String, reason: String },
}

/// An error with its causes behind it; the library's own messages leave them to whoever prints them.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |error| (*error).source());
    causes.map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}

/// The error number at the root of an error.
pub(crate) fn os_error(error: &(dyn Error + 'static)) -> Option<Errno> {
    let causes = iter::successors(Some(error), |error| (*error).source());
    let io = causes.filter_map(|error| error.downcast_ref::<io::Error>()).last()?;
    Errno::from_io_error(io)
}
