//! Steer, the XDP program `src/bpf/steer.bpf.c`: loaded, told what to take, attached, counted.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::xdp::XdpLink;
use aya::programs::{TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};

use super::attach::{Mode, attach, load, program, program_mut};
use super::device::Device;
use super::dispatch::{Setup, Sizes, Tables, memory, pins};
use super::error::{XdpError, with_causes};
use super::link::{self, Attachment, LinkError, Place};
use super::memory::Memory;
use crate::limits::{MAX_ADDRESSES, RING, STEER_ADDRESSES};
use crate::model::{self, Mac, Prefix};
use crate::table::Table;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

const PROGRAM: &str = "steer";
const ADDRESSES_V4: &str = "addresses_v4";
const ADDRESSES_V6: &str = "addresses_v6";
const PREFIXES_V4: &str = "prefixes_v4";
const PREFIXES_V6: &str = "prefixes_v6";
const SOCKETS: &str = "xsks";
const COUNTERS: &str = "counters";
const BEATS: &str = "beats";
const WAITINGS: &str = "waitings";
/// Words of a queue in `beats`.
const BEAT: usize = 2;

/// The verdicts of XDP programs, `enum xdp_action` in include/uapi/linux/bpf.h.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// What the program does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the kernel.
    Pass,
    /// To the ring of its queue.
    Redirect,
    /// Would be redirected, but its queue has no ring; or dropped, for a reason that is counted.
    Drop,
    /// By the net: out again.
    Send,
}

/// Frames since the program was loaded. `seen == passed + redirected + no_socket + by_net + refused` whenever no frame is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerCounts {
    pub seen: u64,
    /// Left to the kernel.
    pub passed: u64,
    /// Handed to a ring; some may be lost there, see `Losses`.
    pub redirected: u64,
    /// Dropped, because their queue had no ring.
    pub no_socket: u64,
    /// Dispatched by the program, because the queue's worker was gone or did not turn.
    pub by_net: u64,
    /// Dropped, because a list has their source, or they are beyond a limit.
    pub refused: u64,
    /// Redirected or dropped without an arrival time, because the driver keeps no metadata.
    pub unstamped: u64,
}

/// Reads the counts, from any thread, and after the program was detached too.
#[derive(Clone)]
pub struct SteerCounters {
    map: Arc<PerCpuArray<MapData, [u64; 7]>>,
}

impl SteerCounters {
    /// # Errors
    ///
    /// The kernel has no memory for the answer.
    pub fn read(&self) -> Result<SteerCounts, XdpError> {
        let cores = self.map.get(&0, 0).map_err(failed(COUNTERS))?;
        let mut sum = [0; 7];
        for core in cores.iter() {
            for (total, part) in sum.iter_mut().zip(core) {
                *total += part;
            }
        }
        let [seen, passed, redirected, no_socket, unstamped, by_net, refused] = sum;
        Ok(SteerCounts { seen, passed, redirected, no_socket, unstamped, by_net, refused })
    }
}

/// What the net needs: tables, and how long a worker may be silent.
#[derive(Clone, Copy)]
pub struct Net<'a> {
    pub setup: Setup,
    pub table: &'a Table,
    /// A worker that has had no turn for longer hangs, and its frames are dispatched by the program, as are those that its ring has no
    /// room for. `None`: only those of queues without a ring.
    pub after: Option<Duration>,
    /// A folder on a BPF file system, where flow tables last when this process has ended: those that another has left there, if
    /// they are of the same size, or new ones.
    pub folder: Option<&'a Path>,
}

/// Where the worker of a queue says that it turns: its heartbeat.
pub struct Heartbeat {
    beats: Arc<Memory>,
    queue: usize,
    /// How often the queue's workers have taken frames.
    bursts: u64,
}

impl Heartbeat {
    /// The worker turns at this time of `CLOCK_MONOTONIC`, in nanoseconds: whatever is redirected to it from here on, it will
    /// decide by a table that is no older.
    #[inline]
    pub fn beat(&self, now: u64) {
        self.beats.words()[BEAT * self.queue].store(now, Ordering::Relaxed);
    }

    /// The worker has taken frames out of its ring.
    #[inline]
    pub fn take(&mut self) {
        self.bursts += 1;
        self.beats.words()[BEAT * self.queue + 1].store(self.bursts, Ordering::Relaxed);
    }
}

/// What the program takes.
struct Sets {
    addresses_v4: HashMap<MapData, [u8; 4], u8>,
    addresses_v6: HashMap<MapData, [u8; 16], u8>,
    prefixes_v4: LpmTrie<MapData, [u8; 4], u8>,
    prefixes_v6: LpmTrie<MapData, [u8; 16], u8>,
}

impl Sets {
    fn insert(&mut self, prefix: Prefix) -> Result<(), XdpError> {
        let length = prefix.length.into();
        match (prefix.address, prefix.is_host()) {
            (IpAddr::V4(it), true) => self.addresses_v4.insert(it.octets(), 1, 0).map_err(failed(ADDRESSES_V4)),
            (IpAddr::V6(it), true) => self.addresses_v6.insert(it.octets(), 1, 0).map_err(failed(ADDRESSES_V6)),
            (IpAddr::V4(it), false) => {
                self.prefixes_v4.insert(&Key::new(length, it.octets()), 1, 0).map_err(failed(PREFIXES_V4))
            }
            (IpAddr::V6(it), false) => {
                self.prefixes_v6.insert(&Key::new(length, it.octets()), 1, 0).map_err(failed(PREFIXES_V6))
            }
        }
    }

    fn remove(&mut self, prefix: Prefix) -> Result<(), XdpError> {
        let length = prefix.length.into();
        match (prefix.address, prefix.is_host()) {
            (IpAddr::V4(it), true) => self.addresses_v4.remove(&it.octets()).map_err(failed(ADDRESSES_V4)),
            (IpAddr::V6(it), true) => self.addresses_v6.remove(&it.octets()).map_err(failed(ADDRESSES_V6)),
            (IpAddr::V4(it), false) => {
                self.prefixes_v4.remove(&Key::new(length, it.octets())).map_err(failed(PREFIXES_V4))
            }
            (IpAddr::V6(it), false) => {
                self.prefixes_v6.remove(&Key::new(length, it.octets())).map_err(failed(PREFIXES_V6))
            }
        }
    }
}

/// The loaded program, for one interface or several. Dropping it detaches it first and then frees it.
pub struct Steer {
    // File descriptors of the kernel's, which detach the program when the process ends, whichever way.
    links: Vec<(XdpLink, Mode)>,
    program: Ebpf,
    addresses: HashSet<Prefix>,
    sets: Sets,
    sockets: XskMap<MapData>,
    counters: SteerCounters,
    beats: Arc<Memory>,
    net: Option<Tables>,
}

impl Steer {
    /// Loads the program for one interface, with the address `mac` and `queues` receive queues; it takes nothing yet.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, for want of privileges or features.
    pub fn load(mac: Mac, queues: u32) -> Result<Steer, XdpError> {
        Steer::load_with(mac, queues, None)
    }

    /// As `load`, with the net: frames of a queue whose worker is gone, or hangs, are dispatched by the program, by this table
    /// until another is published to `net`.
    ///
    /// # Errors
    ///
    /// As `load`.
    pub fn load_with_net(net: Net) -> Result<Steer, XdpError> {
        Steer::load_with(net.setup.mac, net.setup.queues, Some(net))
    }

    fn load_with(mac: Mac, queues: u32, net: Option<Net>) -> Result<Steer, XdpError> {
        let addresses = u32::try_from(STEER_ADDRESSES).expect("the bound is small");
        let sizes = net.map(|net| Sizes::of(net.setup, net.table)).transpose()?;
        let has_net = u32::from(net.is_some());
        let after = net.and_then(|net| net.after).map_or(0, |after| after.as_nanos() as u64);
        let pins = match (&sizes, net.and_then(|net| net.folder)) {
            (Some(sizes), Some(folder)) => Some(pins(folder, sizes)?),
            _ => None,
        };
        let mut loader = EbpfLoader::new();
        if let Some(sizes) = &sizes {
            sizes.apply(&mut loader, pins.as_ref());
        }
        loader
            .override_global("own_mac", &mac.0, true)
            .override_global("has_net", &has_net, true)
            .override_global("net_after", &after, true)
            .override_global("ring_size", &(RING as u64), true)
            .map_max_entries(ADDRESSES_V4, addresses)
            .map_max_entries(ADDRESSES_V6, addresses)
            .map_max_entries(PREFIXES_V4, addresses)
            .map_max_entries(PREFIXES_V6, addresses)
            .map_max_entries(SOCKETS, queues)
            .map_max_entries(BEATS, queues)
            .map_max_entries(WAITINGS, queues);
        let mut program = loader.load(OBJECT).map_err(|error| XdpError::Load { reason: with_causes(&error) })?;
        load(&mut program, PROGRAM).map_err(|reason| XdpError::Load { reason })?;
        drop(loader);
        let tables = sizes.zip(net).map(|(sizes, net)| Tables::open(&mut program, sizes, net.table)).transpose()?;
        let beats = Arc::new(memory(&mut program, BEATS, BEAT * queues as usize)?);
        let mut map = |name| program.take_map(name).expect("the program has this map");
        let counters = PerCpuArray::try_from(map(COUNTERS)).map_err(failed(COUNTERS))?;
        Ok(Steer {
            links: Vec::new(),
            addresses: HashSet::new(),
            sets: Sets {
                addresses_v4: HashMap::try_from(map(ADDRESSES_V4)).map_err(failed(ADDRESSES_V4))?,
                addresses_v6: HashMap::try_from(map(ADDRESSES_V6)).map_err(failed(ADDRESSES_V6))?,
                prefixes_v4: LpmTrie::try_from(map(PREFIXES_V4)).map_err(failed(PREFIXES_V4))?,
                prefixes_v6: LpmTrie::try_from(map(PREFIXES_V6)).map_err(failed(PREFIXES_V6))?,
            },
            sockets: XskMap::try_from(map(SOCKETS)).map_err(failed(SOCKETS))?,
            counters: SteerCounters { map: Arc::new(counters) },
            beats,
            net: tables,
            program,
        })
    }

    /// The net's tables, counters and flow tables; `None`: it was loaded without.
    pub fn net(&mut self) -> Option<&mut Tables> {
        self.net.as_mut()
    }

    /// Where the worker of a queue, by its number among those of all interfaces, says that it turns.
    ///
    /// # Panics
    /// There is no such queue.
    pub fn heartbeat(&self, queue: u32) -> Heartbeat {
        let queue = queue as usize;
        let bursts = self.beats.words()[BEAT * queue + 1].load(Ordering::Relaxed);
        Heartbeat { beats: Arc::clone(&self.beats), queue, bursts }
    }

    /// Makes these the addresses and prefixes whose frames are taken. New ones are taken before old ones are let go, so an address
    /// that is in both sets is taken all the time.
    ///
    /// # Errors
    ///
    /// More than `MAX_ADDRESSES` of one family, before anything was changed; or the kernel refuses, with part of it done.
    pub fn set_cluster_addresses(&mut self, addresses: &[Prefix]) -> Result<(), XdpError> {
        let wanted: HashSet<Prefix> = addresses.iter().copied().collect();
        let v4 = wanted.iter().filter(|prefix| prefix.address.is_ipv4()).count();
        let count = v4.max(wanted.len() - v4);
        if count > MAX_ADDRESSES {
            return Err(XdpError::TooManyAddresses { count });
        }
        let added: Vec<Prefix> = wanted.difference(&self.addresses).copied().collect();
        for prefix in added {
            self.sets.insert(prefix)?;
            self.addresses.insert(prefix);
        }
        let removed: Vec<Prefix> = self.addresses.difference(&wanted).copied().collect();
        for prefix in removed {
            self.sets.remove(prefix)?;
            self.addresses.remove(&prefix);
        }
        Ok(())
    }

    pub fn counters(&self) -> SteerCounters {
        self.counters.clone()
    }

    /// Where it runs, on the interfaces that it is attached to.
    pub fn modes(&self) -> impl Iterator<Item = Mode> {
        self.links.iter().map(|(_, mode)| *mode)
    }

    /// Gives a queue, by its number among those of all interfaces, its ring. The kernel takes the entry out again when the socket is closed.
    pub fn add_socket(&mut self, queue: u32, socket: impl AsFd) -> Result<(), XdpError> {
        self.sockets.set(queue, socket.as_fd().as_raw_fd(), 0).map_err(failed(SOCKETS))
    }

    pub fn attach(&mut self, device: &Device) -> Result<Mode, XdpError> {
        let (link, mode) = attach(program_mut(&mut self.program, PROGRAM), device)?;
        self.links.push((link, mode));
        Ok(mode)
    }

    /// As `attach`, where it stays when the process is gone, and in the place of what an earlier one has left.
    ///
    /// # Errors
    ///
    /// There is no BPF file system, another program is attached, or the kernel refuses.
    pub fn attach_kept(&mut self, place: &Place, xdp: Option<model::Xdp>) -> Result<Attachment, LinkError> {
        let (link, attachment) = link::attach(program_mut(&mut self.program, PROGRAM), place, (xdp, true))?;
        self.links.push((link, attachment.mode));
        Ok(attachment)
    }

    /// The number of the program, by which the kernel tells it from others.
    pub fn number(&self) -> Option<u32> {
        program(&self.program, PROGRAM).info().ok().map(|info| info.id())
    }

    /// No frame goes to these queues' rings any more: the program dispatches them, if it has the net.
    pub fn take_sockets(&mut self, queues: impl IntoIterator<Item = u32>) {
        for queue in queues {
            // Of a queue without one there is nothing to take.
            let _ = self.sockets.unset(queue);
        }
    }

    /// Every frame is the kernel's again.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// What the program does with a frame of at least 14 bytes that came in on queue 0, and counts it so. By
    /// `BPF_PROG_TEST_RUN`: the program is run, but the frame goes nowhere. With the action, the arrival time that the program
    /// put in front of the frame (0: none), and the frame behind it.
    ///
    /// # Errors
    ///
    /// The kernel refuses to run it: too short or too long a frame, or no privileges.
    pub fn judge(&self, frame: &[u8]) -> Result<(Action, u64, Vec<u8>), XdpError> {
        const STAMP: usize = size_of::<u64>();
        let mut out = vec![0; frame.len() + STAMP];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = program(&self.program, PROGRAM)
            .test_run(options)
            .map_err(|error| XdpError::Judge { reason: with_causes(&error) })?;
        out.truncate(result.data_size_out as usize);
        let mut arrival = 0;
        if out.len() == frame.len() + STAMP {
            let behind = out.split_off(STAMP);
            arrival = u64::from_ne_bytes(out.try_into().expect("split there"));
            out = behind;
        }
        let action = match result.return_value {
            XDP_PASS => Action::Pass,
            XDP_REDIRECT => Action::Redirect,
            XDP_DROP => Action::Drop,
            XDP_TX => Action::Send,
            other => unreachable!("steer has no verdict {other}"),
        };
        Ok((action, arrival, out))
    }
}

fn failed(map: &'static str) -> impl Fn(MapError) -> XdpError {
    move |error| XdpError::Map { map, reason: with_causes(&error) }
}
