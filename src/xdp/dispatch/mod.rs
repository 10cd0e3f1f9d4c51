//! Dispatch: the dispatcher inside the kernel, the XDP program `src/bpf/dispatch.bpf.c`. It decides a frame as a worker does, by a
//! table that is compiled of the same `table::Table`.
//!
//! - `layout`: the structures that the program reads
//! - `compile`: a table, laid out in the cells of an `arena`
//! - `counters`: what the program has counted and timed
//! - `flows`: the flow tables of the queues
//! - `events`: the frames of a client that an operator watches
//! - `measure`: what the program costs

mod arena;
mod compile;
mod counters;
mod events;
mod flows;
mod layout;
mod measure;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError};
use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use self::arena::Arena;
use self::compile::{Parts, Placing, Ports, Size};
use self::counters::{Counters, Places, Room};
use self::flows::REPORT_WORDS;
use self::layout::{CLOCK, CONTROL_WORDS, FIRST_HEAD, HEAD_WORDS, HEADS, Head, PRESENT, Words};
use super::attach::load;
use super::cell::CELL_WORDS;
use super::error::{XdpError, with_causes};
use super::memory::Memory;
use super::ranges::{Free, Range};
use crate::limits::LAYOUTS;
use crate::model::Mac;
use crate::table::Table;
use crate::table::flow_table::{Bucket, flow_key};

pub use counters::{Books, Sent, Tally};
pub use events::{Events, Fate, Noted};
pub use flows::Flows;
use measure::MEASURED_CLIENTS;
pub use measure::Measured;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dispatch.bpf.o"));

const PROGRAM: &str = "oneip_dispatch";
const HAS_PROGRAM: &str = "the object has this program";
const IS_XDP: &str = "it is an XDP program";

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
    /// Its receive queues.
    pub queues: u32,
    /// Flows that are remembered of each queue while slots migrate.
    pub flows: u32,
    /// One frame of so many is timed.
    pub timed_of: u32,
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

/// Why a table was not published. The one before stays.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A new instance has to be loaded for it, which takes this one's place.
    #[error("the table does not fit in the maps that the program was loaded with")]
    Full,
    #[error(transparent)]
    Kernel(#[from] XdpError),
}

/// The loaded program, with its tables and counters.
pub struct Dispatch {
    program: Ebpf,
    mac: Mac,
    control: Memory,
    arena: Arena,
    parts: Parts,
    ports: Ports,
    /// The head that counts, and how many have been used since the last grace period.
    present: usize,
    used: usize,
    counters: Arc<Counters>,
    books: Vec<Books>,
    accounts: Free,
    services: Free,
    /// Of the table that is published.
    layout: Option<u64>,
    grace: Grace,
    seen: Option<MapData>,
    flows: Flows,
}

/// What no head leads to is free after an update of this (kernel/bpf/syscall.c, maybe_wait_bpf_programs).
struct Grace {
    outer: ArrayOfMaps<MapData, Array<MapData, u64>>,
    inner: Array<MapData, u64>,
}

impl Dispatch {
    /// Loads the program for tables of about this one's size, and has it decide by this one. It is not attached yet.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, for want of privileges, features or memory.
    pub fn load(setup: Setup, table: &Table) -> Result<Dispatch, XdpError> {
        let ports = Ports::new(table);
        let mut size = Size::default();
        compile::compile(table, &ports, (setup.mac, table.key), &mut size).expect("nothing is placed");
        let cores = aya::util::nr_cpus().map_err(|(path, reason)| XdpError::Facts { path: path.into(), reason })?;
        let room = Room::of(table, cores as u32);
        let cells = size.room();
        let services = table.services() as u32;
        let buckets = setup.flows.div_ceil(FLOWS_OF_BUCKET);
        let mut program = EbpfLoader::new()
            .override_global("own_mac", &setup.mac.0, true)
            .override_global("accounts_of_core", &room.accounts, true)
            .override_global("timed_of", &setup.timed_of.max(1), true)
            .override_global("flow_buckets", &buckets, true)
            .override_global("measured_clients", &MEASURED_CLIENTS, true)
            .override_global("measured_services", &services, true)
            .map_max_entries("arena", cells)
            .map_max_entries("tallies", room.tallies())
            .map_max_entries("accounts", room.cores * room.accounts)
            .map_max_entries("latencies", room.services)
            .map_max_entries("flows", (buckets * setup.queues).max(1))
            .map_max_entries("flow_reports", setup.queues)
            .load(OBJECT)
            .map_err(|error| XdpError::Load { reason: with_causes(&error) })?;
        load(xdp(&mut program, PROGRAM)).map_err(refused)?;
        let [tallies, accounts, latencies] = room.words();
        let counters = Counters {
            tallies: memory(&mut program, "tallies", tallies)?,
            accounts: memory(&mut program, "accounts", accounts)?,
            latencies: memory(&mut program, "latencies", latencies)?,
            cores,
            of_core: room.accounts,
        };
        let outer =
            ArrayOfMaps::try_from(program.take_map("grace").expect("it has this map")).map_err(failed("grace"))?;
        let inner = Array::create(1, 0).map_err(failed("grace"))?;
        let seen = program.take_map("seen").map(data);
        let flows = Flows {
            tables: Arc::new(memory(&mut program, "flows", (buckets * setup.queues).max(1) as usize * BUCKET_WORDS)?),
            reports: Arc::new(memory(&mut program, "flow_reports", setup.queues as usize * REPORT_WORDS)?),
            queues: setup.queues as usize,
            buckets: buckets as usize,
        };
        flows.begin(flow_key(table.key));
        let mut dispatch = Dispatch {
            mac: setup.mac,
            control: memory(&mut program, "control", CONTROL_WORDS)?,
            arena: Arena::new(memory(&mut program, "arena", cells as usize * CELL_WORDS)?),
            parts: Parts::new(),
            ports,
            present: 0,
            used: 1,
            counters: Arc::new(counters),
            books: Vec::new(),
            accounts: Free::new(Range { first: 0, count: room.accounts }),
            services: Free::new(Range { first: 0, count: room.services }),
            layout: None,
            grace: Grace { outer, inner },
            seen,
            flows,
            program,
        };
        dispatch.publish(table).map_err(|error| match error {
            PublishError::Full => unreachable!("the maps are made for it"),
            PublishError::Kernel(error) => error,
        })?;
        Ok(dispatch)
    }

    /// The books in which frames of this table's layout are counted; open already, or opened now.
    ///
    /// # Errors
    ///
    /// There is no room for so many services or servers beside those that are counted for.
    pub fn open_books(&mut self, table: &Table) -> Result<Books, PublishError> {
        if let Some(books) = self.books.iter().find(|books| books.places.layout == table.layout) {
            return Ok(books.clone());
        }
        self.close_books();
        let is_free = |tally: &u32| self.books.iter().all(|books| books.places.tally != *tally);
        let tally = (0..LAYOUTS as u32).find(is_free).ok_or(PublishError::Full)?;
        let accounts = self.accounts.take(table.destinations() as u32).ok_or(PublishError::Full)?;
        let Some(latencies) = self.services.take(table.services() as u32) else {
            self.accounts.give_back(accounts);
            return Err(PublishError::Full);
        };
        let places = Places { layout: table.layout, tally, accounts, latencies };
        self.counters.clear(&places);
        let books = Books { counters: Arc::clone(&self.counters), places, is_final: Arc::new(AtomicBool::new(false)) };
        self.books.push(books.clone());
        Ok(books)
    }

    /// Frees the books that are final and that nobody reads.
    fn close_books(&mut self) {
        let Dispatch { books, accounts, services, .. } = self;
        books.retain(|books| {
            let is_open = !books.are_final() || Arc::strong_count(&books.is_final) > 1;
            if !is_open {
                accounts.give_back(books.places.accounts);
                services.give_back(books.places.latencies);
            }
            is_open
        });
    }

    /// Has the program decide by this table from its next frame on. A frame is decided by one table from beginning to end. Waits for a grace
    /// period of the kernel (some 10 ms) where memory is needed that frames may still be decided by, and where the layout changes: then no frame is
    /// counted in the old layout's books any more.
    ///
    /// # Errors
    ///
    /// The table has no room, or the kernel refuses; the old one stays.
    pub fn publish(&mut self, table: &Table) -> Result<(), PublishError> {
        let Places { tally, accounts, latencies, .. } = self.open_books(table)?.places;
        if !self.ports.are_of(table) {
            self.ports = Ports::new(table);
        }
        if self.used == HEADS {
            self.wait()?;
        }
        let (mut head, parts) = match self.place(table) {
            None if self.arena.has_retired() => {
                self.wait()?;
                self.place(table).ok_or(PublishError::Full)?
            }
            placed => placed.ok_or(PublishError::Full)?,
        };
        (head.tally, head.accounts, head.latencies) = (tally, accounts.first, latencies.first);
        self.turn_to(&head);
        for (part, held) in std::mem::replace(&mut self.parts, parts) {
            if self.parts.get(&part).is_none_or(|now| !now.is(&held)) {
                self.arena.retire(held.range);
            }
        }
        if self.layout.replace(table.layout).is_some_and(|before| before != table.layout) {
            self.wait()?;
            let others = self.books.iter().filter(|books| books.places.layout != table.layout);
            others.for_each(|books| books.is_final.store(true, Ordering::Release));
        }
        Ok(())
    }

    /// Lays the table out beside the one that is published. `None`: there is no room.
    fn place(&mut self, table: &Table) -> Option<(Head, Parts)> {
        let mut placing =
            Placing { arena: &mut self.arena, published: &self.parts, parts: Parts::new(), taken: Vec::new() };
        match compile::compile(table, &self.ports, (self.mac, self.flows.key()), &mut placing) {
            Ok(head) => Some((head, placing.parts)),
            Err(compile::Full) => {
                let Placing { arena, taken, .. } = placing;
                taken.into_iter().for_each(|range| arena.give_back(range));
                None
            }
        }
    }

    /// Has the next head count.
    fn turn_to(&mut self, head: &Head) {
        let next = (self.present + 1) % HEADS;
        self.control.write(FIRST_HEAD + next * HEAD_WORDS, head.words());
        // After all that it leads to: a frame reads this word, and from there on what was written before it.
        self.control.words()[PRESENT].store(next as u64, Ordering::Release);
        (self.present, self.used) = (next, self.used + 1);
    }

    /// Returns when all frames have gone by that are under way now.
    fn wait(&mut self) -> Result<(), XdpError> {
        let Grace { outer, inner } = &mut self.grace;
        outer.set(0, inner, 0).map_err(failed("grace"))?;
        self.arena.free_retired();
        self.used = 1;
        Ok(())
    }

    /// The program, for who attaches it.
    pub fn program(&mut self) -> &mut Xdp {
        xdp(&mut self.program, PROGRAM)
    }

    /// How long the program has run, in nanoseconds, and how often, on all cores together. `None`: the kernel does not measure it
    /// (`sysctl kernel.bpf_stats_enabled=1`), or does not say.
    pub fn run_time(&self) -> Option<(u64, u64)> {
        let program: &Xdp = self.program.program(PROGRAM).expect(HAS_PROGRAM).try_into().expect(IS_XDP);
        let file = program.fd().ok()?.as_fd().as_raw_fd();
        // kernel/bpf/syscall.c, bpf_prog_show_fdinfo
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{file}")).ok()?;
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line?.trim().parse::<u64>().ok()
        };
        Some((value("run_time_ns")?, value("run_cnt")?)).filter(|(run_time_ns, _)| *run_time_ns > 0)
    }

    /// The frames of a watched client, for whoever reads them: the first that asks gets it.
    ///
    /// # Errors
    ///
    /// The kernel has no room for it in the address space.
    pub fn events(&mut self) -> Result<Option<Events>, XdpError> {
        self.seen.take().map(|map| Events::new(map).map_err(failed("seen"))).transpose()
    }

    pub fn flows(&self) -> Flows {
        self.flows.clone()
    }

    /// What the program does with a frame of at least 14 bytes, and counts it so; with the frame as it is afterwards. By
    /// `BPF_PROG_TEST_RUN`: the program is run, but the frame goes nowhere.
    ///
    /// # Errors
    ///
    /// The kernel refuses to run it: too short or too long a frame, or no privileges.
    pub fn judge(&self, frame: &[u8]) -> Result<(Action, Vec<u8>), XdpError> {
        let mut out = vec![0; frame.len()];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let program: &Xdp = self.program.program(PROGRAM).expect(HAS_PROGRAM).try_into().expect(IS_XDP);
        let result = program.test_run(options).map_err(|error| XdpError::Judge { reason: with_causes(&error) })?;
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

    /// What time it is to the program, for tests of what happens in the course of hours; 0: what it is.
    pub fn set_clock(&self, ns: u64) {
        self.control.write(CLOCK, &[ns]);
    }
}

/// Flows that a bucket of the flow table holds: `BUCKET` of src/bpf/flow_table.h.
const FLOWS_OF_BUCKET: u32 = 4;
const BUCKET_WORDS: usize = size_of::<Bucket>() / 8;

impl Size {
    /// Cells for the table, for another in its place, and for what a migration of the largest service's slots takes: the slots marked, and a word
    /// each that says whose they were.
    fn room(&self) -> u32 {
        2 * self.cells + 2 * 5 * self.slots + 64
    }
}

fn data(map: Map) -> MapData {
    match map {
        Map::Array(data) | Map::RingBuf(data) => data,
        _ => unreachable!("the object has arrays and ring buffers of these names"),
    }
}

fn memory(program: &mut Ebpf, name: &'static str, words: usize) -> Result<Memory, XdpError> {
    let map = data(program.take_map(name).expect("the program has this map"));
    Memory::new(map, words).map_err(|error| XdpError::Map { map: name, reason: error.to_string() })
}

fn xdp<'p>(program: &'p mut Ebpf, name: &str) -> &'p mut Xdp {
    program.program_mut(name).expect(HAS_PROGRAM).try_into().expect(IS_XDP)
}

/// The verifier's log is for us; who starts the program gets the reason.
fn refused(error: ProgramError) -> XdpError {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            tracing::debug!(%verifier_log, "the dispatch program was refused");
            XdpError::Load { reason: io_error.to_string() }
        }
        error => XdpError::Load { reason: with_causes(&error) },
    }
}

fn failed(map: &'static str) -> impl Fn(MapError) -> XdpError {
    move |error| XdpError::Map { map, reason: with_causes(&error) }
}
