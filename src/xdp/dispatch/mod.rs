//! Dispatch: the dispatcher inside the kernel, the XDP program `src/bpf/dispatch.bpf.c`. It decides a frame as a worker does, by a
//! table that is compiled of the same `table::Table`.
//!
//! - `tables`: what the program decides by and counts in, whichever program that is
//! - `layout`: the structures that the program reads
//! - `compile`: a table, laid out in the cells of an `arena`
//! - `counters`: what the program has counted and timed
//! - `flows`: the flow tables of the queues
//! - `events`: the frames that an operator watches
//! - `measure`: what the program costs

mod arena;
mod compile;
mod counters;
mod events;
mod flows;
mod layout;
mod measure;
mod tables;

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::maps::{Map, MapData, MapError};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use super::attach::{load, program, program_mut};
use super::device::{Device, first_queues};
use super::error::{XdpError, with_causes};
use super::memory::Memory;
use crate::limits::{FRAMES_TIMED, MAX_INTERFACES};
use crate::model::{Egress, Mac};
use crate::table::Table;
use crate::wire::ethernet::VLAN_TAG_LEN;
use crate::wire::tunnel::MAX_HEADER_LEN;

pub use counters::{Books, Sent, Tally};
pub use events::Reader;
pub use flows::Flows;
pub use flows::forget_flows;
pub(super) use flows::pins;
use measure::MEASURED_CLIENTS;
pub use measure::Measured;
pub(super) use tables::Sizes;
pub use tables::{PublishError, Tables};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dispatch.bpf.o"));

const PROGRAM: &str = "oneip_dispatch";

/// The verdicts of XDP programs, `enum xdp_action` in include/uapi/linux/bpf.h.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// What the program is loaded for.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The interface's own address.
    pub mac: Mac,
    /// By which interface frames leave that go back to where they came from: its index, for a driver that sends only what is
    /// redirected to it; 0: by XDP_TX.
    pub egress: u32,
    /// Receive queues of all interfaces.
    pub queues: u32,
    /// The interfaces besides that one.
    pub others: Others,
    /// Flows that are remembered of each queue while slots migrate.
    pub flows: u32,
    /// One frame of so many is timed.
    pub timed_of: u32,
}

/// An interface besides the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Other {
    pub index: u32,
    /// The number of its first queue among those of all interfaces.
    pub first_queue: u32,
    pub mac: [u8; 6],
}

type OtherWords = [[u32; 4]; MAX_INTERFACES - 1];

/// Those that there are, and then none.
pub type Others = [Option<Other>; MAX_INTERFACES - 1];

impl Other {
    /// `struct other` of src/bpf/dispatch.h.
    fn words(self) -> [u32; 4] {
        let [a, b, c, d, e, f] = self.mac;
        [self.index, self.first_queue, u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, 0, 0])]
    }
}

impl Setup {
    /// For these interfaces; the first one comes first.
    ///
    /// # Panics
    /// There is none, or too many.
    pub fn of(devices: &[Device], egress: u32, flows: u32) -> Setup {
        let firsts = first_queues(devices);
        let mut others = Others::default();
        for (at, device) in devices.iter().enumerate().skip(1) {
            others[at - 1] = Some(Other { index: device.index, first_queue: firsts[at], mac: device.mac.0 });
        }
        let queues = devices.iter().map(|device| device.receive_queues).sum();
        Setup { mac: devices[0].mac, egress, queues, flows, timed_of: FRAMES_TIMED, others }
    }

    /// The others as the program reads them.
    fn other_words(&self) -> OtherWords {
        self.others.map(|other| other.map_or([0; 4], Other::words))
    }

    /// The interface, as one by which frames leave.
    fn own(&self) -> Egress {
        Egress { index: self.egress, source: self.mac }
    }
}

/// What the program does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the kernel.
    Pass,
    Drop,
    /// Out again, by the interface that it came in by.
    Send,
    /// Out by another one.
    Redirect,
}

/// The loaded program, with its tables and counters.
pub struct Dispatch {
    program: Ebpf,
    tables: Tables,
}

impl Dispatch {
    /// Loads the program for tables of about this one's size, and has it decide by this one. It is not attached yet.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, for want of privileges, features or memory.
    pub fn load(setup: Setup, table: &Table) -> Result<Dispatch, XdpError> {
        Dispatch::load_with(setup, table, None)
    }

    /// As `load`, with flow tables that are kept in a folder on a BPF file system: those that another instance has left there,
    /// if they are of the same size, or new ones. They last when this process has ended.
    ///
    /// # Errors
    ///
    /// As `load`; or the folder cannot be written.
    pub fn load_kept(setup: Setup, table: &Table, folder: &Path) -> Result<Dispatch, XdpError> {
        Dispatch::load_with(setup, table, Some(folder))
    }

    fn load_with(setup: Setup, table: &Table, folder: Option<&Path>) -> Result<Dispatch, XdpError> {
        let sizes = Sizes::of(setup, table)?;
        let services = table.services() as u32;
        let pins = folder.map(|folder| flows::pins(folder, &sizes)).transpose()?;
        let mut loader = EbpfLoader::new();
        loader.override_global("measured_clients", &MEASURED_CLIENTS, true).override_global(
            "measured_services",
            &services,
            true,
        );
        sizes.apply(&mut loader, pins.as_ref());
        let mut program = loader.load(OBJECT).map_err(|error| XdpError::Load { reason: with_causes(&error) })?;
        load(&mut program, PROGRAM).map_err(|reason| XdpError::Load { reason })?;
        let tables = Tables::open(&mut program, sizes, table)?;
        Ok(Dispatch { program, tables })
    }

    /// See `Tables`.
    pub fn seen(&self) -> u64 {
        self.tables.seen()
    }

    /// See `Tables`.
    ///
    /// # Errors
    /// There is no room for so many services or servers beside those that are counted for.
    pub fn open_books(&mut self, table: &Table) -> Result<Books, PublishError> {
        self.tables.open_books(table)
    }

    /// See `Tables`.
    ///
    /// # Errors
    /// The table has no room, or the kernel refuses; the old one stays.
    pub fn publish(&mut self, table: &Table) -> Result<(), PublishError> {
        self.tables.publish(table)
    }

    /// See `Tables`.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn close(mut self) -> Result<(), XdpError> {
        self.tables.close()
    }

    pub fn flows(&self) -> Flows {
        self.tables.flows()
    }

    /// See `Tables`.
    pub fn set_clock(&self, ns: u64) {
        self.tables.set_clock(ns);
    }

    /// The program, for who attaches it.
    pub fn program(&mut self) -> &mut Xdp {
        program_mut(&mut self.program, PROGRAM)
    }

    /// How long the program has run, in nanoseconds, and how often, on all cores together. `None`: the kernel does not measure it
    /// (`sysctl kernel.bpf_stats_enabled=1`), or does not say.
    pub fn run_time(&self) -> Option<(u64, u64)> {
        let file = program(&self.program, PROGRAM).fd().ok()?.as_fd().as_raw_fd();
        // kernel/bpf/syscall.c, bpf_prog_show_fdinfo
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{file}")).ok()?;
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line?.trim().parse::<u64>().ok()
        };
        Some((value("run_time_ns")?, value("run_cnt")?)).filter(|(run_time_ns, _)| *run_time_ns > 0)
    }

    /// See `Judge`.
    ///
    /// # Errors
    /// The kernel refuses to run it.
    pub fn judge(&self, frame: &[u8]) -> Result<(Action, Vec<u8>), XdpError> {
        Judge(&self.program).judge(frame)
    }

    /// What runs the program, beside what publishes tables to it.
    pub fn split(&mut self) -> (Judge<'_>, &mut Tables) {
        (Judge(&self.program), &mut self.tables)
    }
}

/// Runs the program on frames, from any thread.
#[derive(Clone, Copy)]
pub struct Judge<'p>(&'p Ebpf);

impl Judge<'_> {
    /// What the program does with a frame of at least 14 bytes, and counts it so; with the frame as it is afterwards. By
    /// `BPF_PROG_TEST_RUN`: the program is run, but the frame goes nowhere.
    ///
    /// # Errors
    ///
    /// The kernel refuses to run it: too short or too long a frame, or no privileges.
    pub fn judge(&self, frame: &[u8]) -> Result<(Action, Vec<u8>), XdpError> {
        let mut out = vec![0; frame.len() + MAX_HEADER_LEN + VLAN_TAG_LEN];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = program(self.0, PROGRAM)
            .test_run(options)
            .map_err(|error| XdpError::Judge { reason: with_causes(&error) })?;
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            XDP_PASS => Action::Pass,
            XDP_DROP => Action::Drop,
            XDP_TX => Action::Send,
            XDP_REDIRECT => Action::Redirect,
            other => unreachable!("dispatch has no verdict {other}"),
        };
        Ok((action, out))
    }
}

pub(super) fn data(map: Map) -> MapData {
    match map {
        Map::Array(data) | Map::RingBuf(data) => data,
        _ => unreachable!("the object has arrays and ring buffers of these names"),
    }
}

pub(super) fn memory(program: &mut Ebpf, name: &'static str, words: usize) -> Result<Memory, XdpError> {
    let map = data(program.take_map(name).expect("the program has this map"));
    Memory::new(map, words).map_err(|error| XdpError::Map { map: name, reason: error.to_string() })
}

pub(super) fn failed(map: &'static str) -> impl Fn(MapError) -> XdpError {
    move |error| XdpError::Map { map, reason: with_causes(&error) }
}
