//! `oneip pktgen`: a load generator, for where the kernel's own is missing: sends frames of many clients to a cluster address, and
//! sees what comes back. What comes back is the truth; what was sent is only what was tried.
//!
//! # Topology
//!
//! The generator is sender and receiver: both times of a frame are of one clock. So the dispatcher's servers are this host: on one
//! machine the dispatcher has the other end of a veth pair, or of two; on two, the `mac` of every server in its configuration
//! is the receiving interface's, or that interface is promiscuous. Frames that end on another host are lost to us.
//!
//! # Schedule
//!
//! With a rate, frames are due at fixed times. A frame carries the time at which it was *due*, so that its latency is what a client
//! would see who did not wait for the generator: if a stall of anyone's makes frames late, each of them counts with its whole delay
//! (no coordinated omission). How late the generator itself sent is reported apart, as lag.
//!
//! # In reading order
//!
//! - [`arguments`]: the command line
//! - [`frames`]: every byte of every frame, by its number
//! - [`schedule`], [`transmit`]: when frames are due, how many there are, and what was sent
//! - [`xdp`]: sending by an XDP program on frames of the kernel's making (`src/bpf/pktgen.bpf.c`); `crate::xdp::Features`: whether the interface
//!   can
//! - [`af_xdp`]: sending by an AF_XDP socket
//! - [`senders`]: a thread for each core that sends
//! - [`sink`]: the receiving side (`src/bpf/sink.bpf.c`); [`program`]: what the programs have in common
//! - [`histogram`]: times, as the programs count them
//! - [`watch`]: signals, the interval log, and the end; [`report`]: what it came to

pub mod af_xdp;
pub mod arguments;
pub mod error;
pub mod frames;
pub mod histogram;
pub mod program;
pub mod report;
pub mod schedule;
pub mod senders;
pub mod sink;
pub mod transmit;
pub mod watch;
pub mod xdp;

use crate::error::Failure;
use crate::host::cores;
use crate::limits::PKTGEN_CARRIER;
use crate::port::af_xdp::open;
use crate::xdp::Device;
use arguments::Arguments;
use aya::util::KernelVersion;
use error::PktgenError;
use frames::{FCS, Frames};
use report::Report;
use senders::Senders;
use sink::Sink;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use watch::{Signals, Watch};

/// Live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`).
const KERNEL: KernelVersion = KernelVersion::new(5, 18, 0);

/// Sends, waits for stragglers, and prints the figures. SIGINT and SIGTERM end it early, with figures.
///
/// # Errors
/// Whatever keeps it from starting, or from going on.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    check_kernel()?;
    let device = open(&arguments.interface)?;
    let receiver = arguments.receive.as_deref().map_or_else(|| Ok(device.clone()), open)?;
    let frames = Frames::new(&arguments.traffic(device.mac)?, fastrand::u32(1..)).map_err(PktgenError::from)?;
    [&device, &receiver].into_iter().try_for_each(|device| check_mtu(device, &frames))?;
    let load = arguments.load();
    let cores = arguments.core.as_deref().unwrap_or_default();
    check_cores(cores)?;
    let count = cores.len().max(1);
    let log = arguments.hlog.as_deref().map(open_log).transpose()?;
    let signals = Signals::catch()?;

    let mut sink = Sink::load(&frames, count)?;
    sink.attach(&receiver)?;
    wait_for_carrier(&receiver)?;
    let mut senders = Senders::prepare(count, arguments.method, &frames, load, &device)?;
    let dropped = tx_dropped(&device);
    let watch = Watch { sink: &sink, log, expected: load.expected() };
    let (sent, watched) = senders.during(cores, |at_work, ended| watch.over(at_work, ended, signals));
    let sent = sent?;
    watched?;
    let report = Report {
        method: senders.name(),
        sizes: frames.sizes(),
        offered: arguments.rate,
        sent,
        tx_dropped: tx_dropped(&device).saturating_sub(dropped),
        counts: sink.counts()?,
        by_mac: sink.by_mac()?,
    };
    drop(sink);
    let mut out = io::stdout();
    Ok(if arguments.json { writeln!(out, "{}", report.json()) } else { writeln!(out, "{report}") }?)
}

fn check_kernel() -> Result<(), PktgenError> {
    match KernelVersion::current() {
        Ok(version) if version < KERNEL => {
            let version = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
            Err(PktgenError::Kernel { version })
        }
        _ => Ok(()),
    }
}

fn check_mtu(device: &Device, frames: &Frames) -> Result<(), PktgenError> {
    const ETHERNET: usize = 14;
    let size = frames.largest();
    if size > device.mtu as usize + ETHERNET {
        return Err(PktgenError::Mtu { interface: device.interface.clone(), mtu: device.mtu, size: size + FCS });
    }
    Ok(())
}

fn check_cores(cores: &[usize]) -> Result<(), PktgenError> {
    let available = cores::available();
    match cores.iter().find(|core| !available.contains(core)) {
        Some(core) => Err(PktgenError::Core { core: *core, available: cores::list(&available) }),
        None => Ok(()),
    }
}

fn open_log(path: &Path) -> Result<(PathBuf, File), PktgenError> {
    let file = File::create(path).map_err(|error| PktgenError::Log { path: path.into(), reason: error.to_string() })?;
    Ok((path.into(), file))
}

/// Attaching a program resets many a NIC.
fn wait_for_carrier(device: &Device) -> Result<(), PktgenError> {
    let path = Path::new("/sys/class/net").join(&device.interface).join("carrier");
    let give_up = Instant::now() + PKTGEN_CARRIER;
    while fs::read_to_string(&path).is_ok_and(|carrier| carrier.trim() == "0") {
        if Instant::now() > give_up {
            return Err(PktgenError::NoCarrier { interface: device.interface.clone() });
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Frames that the interface dropped instead of sending them, since it was made; 0 where it does not say.
fn tx_dropped(device: &Device) -> u64 {
    let path = Path::new("/sys/class/net").join(&device.interface).join("statistics/tx_dropped");
    fs::read_to_string(path).ok().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
