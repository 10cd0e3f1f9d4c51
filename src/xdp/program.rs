//! A program of a server: it decides by a table that is put in its place whole, keeps frames for this host or drops them, and counts
//! both. The filter and decap are such programs. The twin of `src/bpf/kept.h`.

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError, PerCpuArray};
use aya::programs::xdp::XdpLink;
use aya::programs::{TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};

use super::cell::Cell;
use super::link::{self, Attachment, Kept, LinkError, Place};
use super::{load, program, program_mut, with_causes};
use crate::limits::KEPT_ACCOUNTS;
use crate::model::{self, Mac};
use crate::verdict::Reason;

const TABLE: &str = "table";
const COUNTERS: &str = "counters";
const KEPT: &str = "kept";

/// `BPF_F_INNER_MAP`, include/uapi/linux/bpf.h: tables may differ in size.
const ANY_SIZE: u32 = 1 << 12;

/// The verdicts of XDP programs, `enum xdp_action` in include/uapi/linux/bpf.h.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Why a server's program could not be taken into service, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("cannot read interface {interface}: {reason} (ip link shows which there are)")]
    NoInterface { interface: String, reason: io::Error },

    #[error("interface {interface} is not an Ethernet interface (its ARPHRD type is {kind})")]
    NotEthernet { interface: String, kind: u32 },

    #[error(
        "cannot load the {program} program: {reason} (it needs root, or cap_net_admin, cap_bpf and cap_perfmon, and Linux 6.1)"
    )]
    Load { program: Kept, reason: String },

    #[error("no memory for a table of {mib} MiB: {reason} (fewer slots or services need less)")]
    TableMemory { mib: usize, reason: String },

    #[error("cannot access the {program} program's {map}: {reason}")]
    Map { program: Kept, map: &'static str, reason: String },

    #[error("the kernel does not run the {program} program on this frame: {reason}")]
    Judge { program: Kept, reason: String },

    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The program, loaded, with its table and its counters.
pub struct Program {
    kept: Kept,
    object: Ebpf,
    link: Option<XdpLink>,
    table: Mutex<Table>,
    counters: PerCpuArray<MapData, u64>,
    sums: PerCpuArray<MapData, Words>,
    /// Whether there is a table. (To ask the kernel for it takes CAP_SYS_ADMIN.)
    is_published: AtomicBool,
}

type Table = ArrayOfMaps<MapData, Array<MapData, Cell>>;

/// `struct kept`
type Words = [u64; 3];

/// What was kept of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub frames: u64,
    /// Of whole frames, Ethernet header included.
    pub bytes: u64,
    /// TCP connections begun: SYN without ACK.
    pub flows: u64,
}

/// What the program does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the kernel: what this server keeps, or what is none of the cluster's business.
    Pass,
    Drop,
    /// Back to where it came from.
    Send,
}

/// Frames since the program was loaded; every frame is in one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Left to the kernel untouched.
    pub passed: u64,
    /// Kept for this host.
    pub kept: u64,
    dropped: [u64; Reason::COUNT],
}

impl Counts {
    /// All frames that it has seen.
    pub fn seen(&self) -> u64 {
        self.passed + self.kept + self.dropped.iter().sum::<u64>()
    }

    /// Frames dropped for that reason; 0 for what the program does not judge.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Dropped by a filter, because they are another server's.
    pub fn anothers(&self) -> u64 {
        self.dropped(Reason::OtherServer)
    }
}

impl AsRef<Program> for Program {
    fn as_ref(&self) -> &Program {
        self
    }
}

impl Program {
    /// Loads the program of that object for an interface with the address `mac`. Without a table it passes everything.
    /// `memory`: the map that is handed on from one program to the next, and its pin (`link::memory`).
    ///
    /// # Errors
    ///
    /// The kernel refuses it, for want of privileges or features.
    pub fn load(kept: Kept, object: &[u8], mac: Mac, memory: Option<(&str, &Path)>) -> Result<Program, ProgramError> {
        let mut loader = EbpfLoader::new();
        loader.override_global("own_mac", &mac.0, true).map_max_entries(KEPT, KEPT_ACCOUNTS);
        if let Some((map, pin)) = memory {
            loader.map_pin_path(map, pin);
        }
        let mut object =
            loader.load(object).map_err(|error| ProgramError::Load { program: kept, reason: with_causes(&error) })?;
        load(&mut object, kept.program()).map_err(|reason| ProgramError::Load { program: kept, reason })?;
        let failed = |map: &'static str| move |error: MapError| map_failed(kept, map, &error);
        let mut map = |name| object.take_map(name).expect("the program has this map");
        let table = ArrayOfMaps::try_from(map(TABLE)).map_err(failed(TABLE))?;
        let counters = PerCpuArray::try_from(map(COUNTERS)).map_err(failed(COUNTERS))?;
        let sums = PerCpuArray::try_from(map(KEPT)).map_err(failed(KEPT))?;
        let is_published = AtomicBool::new(false);
        Ok(Program { kept, link: None, table: Mutex::new(table), counters, sums, is_published, object })
    }

    /// A map that this program has beside those of all.
    ///
    /// # Panics
    ///
    /// It has none of that name, or it was taken before.
    pub fn take_map(&mut self, name: &str) -> Map {
        self.object.take_map(name).expect("the program has this map")
    }

    /// What to say of a map that the kernel gives no access to.
    pub fn map_error(&self, map: &'static str, error: &MapError) -> ProgramError {
        map_failed(self.kept, map, error)
    }

    /// Has the program decide by this table. A frame is decided by one table from beginning to end; when this returns, none
    /// is by the old one any more (kernel/bpf/syscall.c, maybe_wait_bpf_programs).
    ///
    /// # Errors
    ///
    /// No memory; the old table stays.
    pub fn publish(&self, cells: &[Cell]) -> Result<(), ProgramError> {
        let size = size_of_val(cells);
        let table = u32::try_from(cells.len()).ok().map(|len| Array::<_, Cell>::create(len, ANY_SIZE));
        let Some(Ok(mut table)) = table else {
            let reason = table.and_then(Result::err).map_or("it is too large".into(), |error| with_causes(&error));
            return Err(ProgramError::TableMemory { mib: size >> 20, reason });
        };
        let failed = |error| self.map_error(TABLE, &error);
        for (at, cell) in (0..).zip(cells) {
            table.set(at, cell, 0).map_err(failed)?;
        }
        let mut published = self.table.lock().expect("nobody panics with it");
        published.set(0, &table, 0).map_err(failed)?;
        self.is_published.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Attaches the program as `at` says (see `link::attach`), or, where one of an earlier process still is, in its place, with no frame
    /// undecided in between. It is pinned, and stays when this process ends.
    ///
    /// # Panics
    ///
    /// No table was published.
    ///
    /// # Errors
    ///
    /// There is no BPF file system at the path, another XDP program is attached, or the kernel refuses.
    pub fn attach(&mut self, place: &Place, at: (Option<model::Xdp>, bool)) -> Result<Attachment, ProgramError> {
        assert!(*self.is_published.get_mut(), "a table is published first");
        let (link, attachment) = link::attach(program_mut(&mut self.object, self.kept.program()), place, at)?;
        self.link = Some(link);
        Ok(attachment)
    }

    /// The number of the program, by which the kernel tells it from others.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn number(&self) -> Result<u32, ProgramError> {
        let info = program(&self.object, self.kept.program()).info();
        info.map(|info| info.id())
            .map_err(|error| ProgramError::Load { program: self.kept, reason: with_causes(&error) })
    }

    /// Takes the program off the interface: every frame is the kernel's again.
    ///
    /// # Errors
    ///
    /// The pin cannot be removed; the program stays.
    pub fn detach(&mut self, place: &Place) -> Result<(), ProgramError> {
        link::unpin(place)?;
        self.link = None;
        Ok(())
    }

    /// # Errors
    ///
    /// The kernel has no memory for the answer.
    pub fn counts(&self) -> Result<Counts, ProgramError> {
        // `enum verdict` of src/bpf/verdict.h
        let sum = |verdict: usize| -> Result<u64, ProgramError> {
            let of_cores = self.counters.get(&(verdict as u32), 0);
            Ok(of_cores.map_err(|error| self.map_error(COUNTERS, &error))?.iter().sum())
        };
        let mut counts = Counts { passed: sum(0)?, kept: sum(1 + Reason::COUNT)?, ..Counts::default() };
        for reason in Reason::ALL {
            counts.dropped[reason as usize] = sum(1 + reason as usize)?;
        }
        Ok(counts)
    }

    /// What was kept on an account, which is less than `KEPT_ACCOUNTS`.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for the answer.
    pub fn kept(&self, account: u32) -> Result<Sum, ProgramError> {
        let of_cores = self.sums.get(&account, 0).map_err(|error| self.map_error(KEPT, &error))?;
        let [frames, bytes, flows] =
            of_cores.iter().fold([0; 3], |sum: Words, each| [0, 1, 2].map(|at| sum[at] + each[at]));
        Ok(Sum { frames, bytes, flows })
    }

    /// What the program does with a frame of at least 14 bytes, and counts it so; with the frame as it is afterwards. By
    /// `BPF_PROG_TEST_RUN`: the program is run, but the frame goes nowhere.
    ///
    /// # Errors
    ///
    /// The kernel refuses to run it: too short or too long a frame, or no privileges.
    pub fn judge(&self, frame: &[u8]) -> Result<(Action, Vec<u8>), ProgramError> {
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
    pub fn measure(&self, frame: &[u8], repeat: u32) -> Result<(Action, Duration), ProgramError> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
        self.run(options).map(|(action, each, _)| (action, each))
    }

    fn run(&self, options: TestRunOptions) -> Result<(Action, Duration, u32), ProgramError> {
        let name = self.kept.program();
        let result = program(&self.object, name)
            .test_run(options)
            .map_err(|error| ProgramError::Judge { program: self.kept, reason: with_causes(&error) })?;
        let action = match result.return_value {
            XDP_PASS => Action::Pass,
            XDP_DROP => Action::Drop,
            XDP_TX => Action::Send,
            other => unreachable!("{name} has no verdict {other}"),
        };
        Ok((action, result.duration, result.data_size_out))
    }
}

fn map_failed(program: Kept, map: &'static str, error: &MapError) -> ProgramError {
    ProgramError::Map { program, map, reason: with_causes(error) }
}
