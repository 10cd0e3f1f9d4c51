//! Broadcast-based dispatch, on a server: the XDP program `src/bpf/filter.bpf.c` keeps the frames of this server's clients and
//! drops those of the others'.
//!
//! In the order in which a filter comes into service:
//!
//! - `interface`: the interface, and its address
//! - `generation`: what the program decides by, compiled of a `table::build::Cluster` for one server
//! - `takeover`: when the server takes over what it gets by a change (`view`: and what that is)
//! - `peers`: who takes clients, by what the filters of all servers tell each other (`beacon`: their messages; `digest`: whether
//!   they decide by the same)
//! - `error`: what can be in the way, and what to do about it

pub mod beacon;
pub mod digest;
mod error;
mod generation;
mod interface;
pub mod keeping;
pub mod peers;
pub mod speaker;
pub mod takeover;
mod view;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aya::maps::{Array, ArrayOfMaps, MapData, MapError, PerCpuArray};
use aya::programs::xdp::XdpLink;
use aya::programs::{TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};

pub use crate::xdp::link::Attachment;
pub use error::FilterError;
pub use generation::Generation;
pub use interface::Interface;

use crate::limits::FILTER_ACCOUNTS;
use crate::model::{self, Mac};
use crate::verdict::Reason;
use crate::xdp::cell::Cell;
use crate::xdp::link::{self, Kept as KeptProgram, Place};
use crate::xdp::{driver, load, program, program_mut, with_causes};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter.bpf.o"));

const PROGRAM: &str = "filter";
const TABLE: &str = "table";
const COUNTERS: &str = "counters";
const KEPT: &str = "kept";
const LEASE: &str = "lease";

/// `BPF_F_INNER_MAP`, include/uapi/linux/bpf.h: tables may differ in size.
const ANY_SIZE: u32 = 1 << 12;

/// The verdicts of XDP programs, `enum xdp_action` in include/uapi/linux/bpf.h.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// The program, loaded, with its table and its counters.
pub struct Filter {
    program: Ebpf,
    link: Option<XdpLink>,
    table: Mutex<Table>,
    counters: PerCpuArray<MapData, u64>,
    kept: PerCpuArray<MapData, Words>,
    lease: Mutex<Array<MapData, u64>>,
    /// Whether there is a table. (To ask the kernel for it takes CAP_SYS_ADMIN.)
    is_published: AtomicBool,
}

type Table = ArrayOfMaps<MapData, Array<MapData, Cell>>;

/// `struct kept`
type Words = [u64; 3];

/// What was kept of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub frames: u64,
    /// Of whole frames, Ethernet header included.
    pub bytes: u64,
    /// TCP connections begun: SYN without ACK.
    pub flows: u64,
}

/// What the program does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the kernel: a frame of this server's client, or one that is none of the cluster's business.
    Pass,
    Drop,
}

/// Frames since the program was loaded; every frame is in one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not to a cluster address: left to the kernel untouched.
    pub passed: u64,
    /// Of this server's clients.
    pub kept: u64,
    /// Dropped, because they are another server's.
    pub anothers: u64,
    dropped: [u64; Reason::COUNT],
}

impl Counts {
    /// Frames dropped for that reason; 0 for what a filter does not judge.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }
}

impl Filter {
    /// Loads the program for an interface with the address `mac`. Without a table it passes everything.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, for want of privileges or features.
    pub fn load(mac: Mac) -> Result<Filter, FilterError> {
        let mut program = EbpfLoader::new()
            .override_global("own_mac", &mac.0, true)
            .map_max_entries(KEPT, FILTER_ACCOUNTS)
            .load(OBJECT)
            .map_err(|error| FilterError::Load { reason: with_causes(&error) })?;
        load(&mut program, PROGRAM).map_err(|reason| FilterError::Load { reason })?;
        let mut map = |name| program.take_map(name).expect("the program has this map");
        let table = ArrayOfMaps::try_from(map(TABLE)).map_err(failed(TABLE))?;
        let counters = PerCpuArray::try_from(map(COUNTERS)).map_err(failed(COUNTERS))?;
        let kept = PerCpuArray::try_from(map(KEPT)).map_err(failed(KEPT))?;
        let mut lease = Array::try_from(map(LEASE)).map_err(failed(LEASE))?;
        lease.set(0, u64::MAX, 0).map_err(failed(LEASE))?;
        Ok(Filter {
            link: None,
            table: Mutex::new(table),
            counters,
            kept,
            lease: Mutex::new(lease),
            is_published: AtomicBool::new(false),
            program,
        })
    }

    /// Until when, in nanoseconds of `CLOCK_MONOTONIC`, the program keeps clients that other servers have while all are up.
    /// Without a call there is no end. This server's own clients it always keeps.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn lease(&self, until: u64) -> Result<(), FilterError> {
        let mut lease = self.lease.lock().expect("nobody panics with it");
        lease.set(0, until, 0).map_err(failed(LEASE))
    }

    /// Has the program decide by this table. A frame is decided by one table from beginning to end; when this returns, none
    /// is by the old one any more (kernel/bpf/syscall.c, maybe_wait_bpf_programs).
    ///
    /// # Errors
    ///
    /// No memory; the old table stays.
    pub fn publish(&self, generation: &Generation) -> Result<(), FilterError> {
        let cells = generation.cells();
        let size = size_of_val(cells);
        let table = u32::try_from(cells.len()).ok().map(|len| Array::<_, Cell>::create(len, ANY_SIZE));
        let Some(Ok(mut table)) = table else {
            let reason = table.and_then(Result::err).map_or("it is too large".into(), |error| with_causes(&error));
            return Err(FilterError::TableMemory { mib: size >> 20, reason });
        };
        for (at, cell) in (0..).zip(cells) {
            table.set(at, cell, 0).map_err(failed(TABLE))?;
        }
        let mut published = self.table.lock().expect("nobody panics with it");
        published.set(0, &table, 0).map_err(failed(TABLE))?;
        self.is_published.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Attaches the program `at` that place; if none is given, in the driver, or in the kernel where the driver cannot; or, where
    /// a filter of an earlier process still is, in its place, with no frame unfiltered in between. It is pinned below the path,
    /// and stays when this process ends.
    ///
    /// # Panics
    ///
    /// No table was published: every server would answer every client.
    ///
    /// # Errors
    ///
    /// There is no BPF file system at the path, another XDP program is attached, or the kernel refuses.
    pub fn attach(
        &mut self,
        interface: &Interface,
        at: (Option<model::Xdp>, &Path),
    ) -> Result<Attachment, FilterError> {
        assert!(*self.is_published.get_mut(), "a table is published first");
        let (xdp_mode, pins) = at;
        // On veth the driver's XDP meets socket buffers that are marked as broadcast when they are sent, and `eth_type_trans`, which marks,
        // does not unmark what is host-addressed by then (drivers/net/veth.c, veth_xdp_rcv_skb): TCP would refuse what the filter
        // kept. Generic XDP unmarks it (net/core/dev.c, bpf_prog_run_generic_xdp).
        let in_driver = driver(&interface.name).is_none_or(|driver| driver != "veth");
        let (link, attachment) =
            link::attach(program_mut(&mut self.program, PROGRAM), &place(interface, pins), (xdp_mode, in_driver))?;
        self.link = Some(link);
        Ok(attachment)
    }

    /// The number of the program, by which the kernel tells it from others.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn program(&mut self) -> Result<u32, FilterError> {
        let info = program(&self.program, PROGRAM).info();
        info.map(|info| info.id()).map_err(|error| FilterError::Load { reason: with_causes(&error) })
    }

    /// Takes the program off the interface: every frame is the kernel's again.
    ///
    /// # Errors
    ///
    /// The pin cannot be removed; the program stays.
    pub fn detach(&mut self, interface: &Interface, pins: &Path) -> Result<(), FilterError> {
        link::unpin(&place(interface, pins))?;
        self.link = None;
        Ok(())
    }

    /// Whether a filter of an earlier process is there to be taken over.
    ///
    /// # Errors
    ///
    /// /proc cannot be read.
    pub fn is_left(interface: &Interface, pins: &Path) -> Result<bool, FilterError> {
        Ok(link::is_pinned(&place(interface, pins))?)
    }

    /// Has the kernel take a filter off the interface when no process holds it any more. Whether there was one.
    ///
    /// # Errors
    ///
    /// The pin cannot be removed; the program stays.
    pub fn forget(interface: &Interface, pins: &Path) -> Result<bool, FilterError> {
        let place = place(interface, pins);
        let was = link::is_pinned(&place)?;
        link::unpin(&place)?;
        Ok(was)
    }

    /// # Errors
    ///
    /// The kernel has no memory for the answer.
    pub fn counts(&self) -> Result<Counts, FilterError> {
        // `enum verdict` of src/bpf/verdict.h
        let sum = |verdict: usize| -> Result<u64, FilterError> {
            let of_cores = self.counters.get(&(verdict as u32), 0).map_err(failed(COUNTERS))?;
            Ok(of_cores.iter().sum())
        };
        let mut counts = Counts { passed: sum(0)?, kept: sum(1 + Reason::COUNT)?, ..Counts::default() };
        for reason in Reason::ALL {
            counts.dropped[reason as usize] = sum(1 + reason as usize)?;
        }
        counts.anothers = counts.dropped(Reason::OtherServer);
        Ok(counts)
    }

    /// What was kept on an account, which is less than `FILTER_ACCOUNTS`.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for the answer.
    pub fn kept(&self, account: u32) -> Result<Kept, FilterError> {
        let of_cores = self.kept.get(&account, 0).map_err(failed(KEPT))?;
        let [frames, bytes, flows] =
            of_cores.iter().fold([0; 3], |sum: Words, each| [0, 1, 2].map(|at| sum[at] + each[at]));
        Ok(Kept { frames, bytes, flows })
    }

    /// What the program does with a frame of at least 14 bytes, and counts it so; with the frame as it is afterwards. By
    /// `BPF_PROG_TEST_RUN`: the program is run, but the frame goes nowhere.
    ///
    /// # Errors
    ///
    /// The kernel refuses to run it: too short or too long a frame, or no privileges.
    pub fn judge(&self, frame: &[u8]) -> Result<(Action, Vec<u8>), FilterError> {
        let mut out = vec![0; frame.len()];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let (action, _, len) = self.run(options)?;
        out.truncate(len as usize);
        Ok((action, out))
    }

    /// What the program does with a frame, run so many times in a row, and how long it takes for one.
    ///
    /// # Errors
    ///
    /// As `judge`.
    pub fn measure(&self, frame: &[u8], repeat: u32) -> Result<(Action, Duration), FilterError> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
        self.run(options).map(|(action, each, _)| (action, each))
    }

    fn run(&self, options: TestRunOptions) -> Result<(Action, Duration, u32), FilterError> {
        let result = program(&self.program, PROGRAM)
            .test_run(options)
            .map_err(|error| FilterError::Judge { reason: with_causes(&error) })?;
        let action = match result.return_value {
            XDP_PASS => Action::Pass,
            XDP_DROP => Action::Drop,
            other => unreachable!("filter has no verdict {other}"),
        };
        Ok((action, result.duration, result.data_size_out))
    }
}

fn place(interface: &Interface, pins: &Path) -> Place {
    let Interface { name, index, .. } = interface;
    Place { kept: KeptProgram::Filter, interface: name.clone(), index: *index, pins: pins.into() }
}

fn failed(map: &'static str) -> impl Fn(MapError) -> FilterError {
    move |error| FilterError::Map { map, reason: with_causes(&error) }
}
