//! What a program decides by, counts in and remembers: the maps of `src/bpf/arena.h`, `counters.h`, `flow_table.h` and
//! `watch.h`. The program may be the dispatcher, or steer, which dispatches in a worker's place.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::maps::{Array, ArrayOfMaps, MapData};
use aya::{Ebpf, EbpfLoader};

use super::arena::Arena;
use super::compile::{self, Parts, Placing, Ports, Size};
use super::counters::{Books, Counters, Places, Room};
use super::events::Events;
use super::flows::{Flows, REPORT_WORDS};
use super::layout::{CHANGES, CLOCK, CONTROL_WORDS, FIRST_HEAD, HEAD_WORDS, HEADS, Head, PRESENT, UNSEEN};
use super::{OtherWords, Setup, data, failed, memory};
use crate::limits::{LAYOUTS, MAX_SERVICES};
use crate::model::Egress;
use crate::table::Table;
use crate::table::flow_table::{Bucket, flow_key, syn_buckets};
use crate::xdp::cell::{CELL_WORDS, Words};
use crate::xdp::error::XdpError;
use crate::xdp::memory::Memory;
use crate::xdp::ranges::{Free, Range};

/// Why a table was not published. The one before stays.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A new instance has to be loaded for it, which takes this one's place.
    #[error("the table does not fit in the maps that the program was loaded with")]
    Full,
    #[error(transparent)]
    Kernel(#[from] XdpError),
}

/// How large the maps are to be.
pub struct Sizes {
    setup: Setup,
    ports: Ports,
    room: Room,
    cells: u32,
    timed_of: u32,
    others: OtherWords,
    has_others: u32,
    /// Of flows and of SYNs, of each queue.
    buckets: u32,
    syn_buckets: u32,
    /// Of sources that are limited.
    source_buckets: u32,
}

/// Room for lists that grow: some 20,000 prefixes of each family more. What needs more than all that takes another instance.
const LIST_CELLS: u32 = 512;

/// Services whose slots may migrate at a time: a reload may change a server of many. More of them take another instance.
const MIGRATING: u32 = 8;

/// Flows that a bucket of the flow table holds: `BUCKET` of src/bpf/flow_table.h.
const FLOWS_OF_BUCKET: u32 = 4;
/// Cells that a bucket of sources has: `SOURCE_CELLS` of src/bpf/limits.h.
const CELLS_OF_BUCKET: u32 = 4;
const BUCKET_WORDS: usize = size_of::<Bucket>() / 8;

impl Sizes {
    /// # Errors
    ///
    /// It cannot be read how many cores there may be.
    pub fn of(setup: Setup, table: &Table) -> Result<Sizes, XdpError> {
        let ports = Ports::new(table);
        let mut size = Size::default();
        compile::compile(table, &ports, (setup.own(), table.key), &mut size).expect("nothing is placed");
        let cores = aya::util::nr_cpus().map_err(|(path, reason)| XdpError::Facts { path: path.into(), reason })?;
        // The table, another in its place, with more servers than narrow slots have room for, and what a migration of some services' slots
        // takes, were they as large as the largest: the slots marked, and a word each that says whose they were; where servers send frames
        // back, the slots before each change too.
        let may_return = (0..table.services() as u16).any(|id| table.service(id).second_chance);
        let earlier = if may_return { CHANGES as u32 } else { 0 };
        let migrating = (table.services() as u32).min(MIGRATING);
        let cells = size.cells + size.wide_cells + 2 * (5 + earlier) * size.slots * migrating + LIST_CELLS + 64;
        let (room, buckets) = (Room::of(table, cores as u32), setup.flows.div_ceil(FLOWS_OF_BUCKET));
        let source_buckets = table.limit_sources().div_ceil(CELLS_OF_BUCKET);
        let (timed_of, syn_buckets) = (setup.timed_of.max(1), syn_buckets(buckets as usize) as u32);
        let (others, has_others) = (setup.other_words(), u32::from(setup.others[0].is_some()));
        Ok(Sizes { setup, ports, room, cells, timed_of, others, has_others, buckets, syn_buckets, source_buckets })
    }

    /// `pins`: the files of the flow tables and their reports.
    pub fn apply<'a>(&'a self, loader: &mut EbpfLoader<'a>, pins: Option<&'a [PathBuf; 2]>) {
        loader
            .override_global("own_mac", &self.setup.mac.0, true)
            .override_global("others", &self.others, true)
            .override_global("has_others", &self.has_others, true)
            .override_global("accounts_of_core", &self.room.accounts, true)
            .override_global("services_of_core", &self.room.services, true)
            .override_global("timed_of", &self.timed_of, true)
            .override_global("flow_buckets", &self.buckets, true)
            .override_global("syn_buckets", &self.syn_buckets, true)
            .override_global("source_buckets", &self.source_buckets, true)
            .map_max_entries("arena", self.cells)
            .map_max_entries("tallies", self.room.tallies())
            .map_max_entries("accounts", self.room.cores * self.room.accounts)
            .map_max_entries("totals", self.room.cores * self.room.accounts)
            .map_max_entries("begun", self.room.cores * self.room.accounts)
            .map_max_entries("latencies", self.room.services)
            .map_max_entries("listed", self.room.cores * self.room.services)
            .map_max_entries("limited", self.room.limited())
            .map_max_entries("limit_services", MAX_SERVICES as u32 + 1)
            .map_max_entries("limit_sources", self.source_buckets)
            .map_max_entries(FLOWS, self.flows())
            .map_max_entries(REPORTS, self.setup.queues);
        if let Some([flows, reports]) = pins {
            loader.map_pin_path(FLOWS, flows).map_pin_path(REPORTS, reports);
        }
    }

    /// Buckets of all queues.
    pub fn flows(&self) -> u32 {
        ((self.buckets + self.syn_buckets) * self.setup.queues).max(1)
    }

    pub fn queues(&self) -> u32 {
        self.setup.queues
    }
}

pub const FLOWS: &str = "flows";
pub const REPORTS: &str = "flow_reports";

/// Tables, counters and flow tables of a loaded program.
pub struct Tables {
    own: Egress,
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

impl Tables {
    /// Of a program that was loaded by these sizes, which decides by this table from here on.
    ///
    /// # Errors
    ///
    /// The kernel has no room in the address space.
    pub fn open(program: &mut Ebpf, sizes: Sizes, table: &Table) -> Result<Tables, XdpError> {
        let all_buckets = sizes.flows() as usize;
        let Sizes { setup, ports, room, cells, buckets, .. } = sizes;
        let [tallies, accounts, totals, begun, latencies, listed, limited] = room.words();
        let counters = Counters {
            tallies: memory(program, "tallies", tallies)?,
            accounts: memory(program, "accounts", accounts)?,
            totals: memory(program, "totals", totals)?,
            begun: memory(program, "begun", begun)?,
            latencies: memory(program, "latencies", latencies)?,
            listed: memory(program, "listed", listed)?,
            limited: memory(program, "limited", limited)?,
            cores: room.cores as usize,
            of_core: room.accounts,
            services_of_core: room.services,
        };
        let outer =
            ArrayOfMaps::try_from(program.take_map("grace").expect("it has this map")).map_err(failed("grace"))?;
        let inner = Array::create(1, 0).map_err(failed("grace"))?;
        let flows = Flows {
            tables: Arc::new(memory(program, FLOWS, all_buckets * BUCKET_WORDS)?),
            reports: Arc::new(memory(program, REPORTS, setup.queues as usize * REPORT_WORDS)?),
            queues: setup.queues as usize,
            buckets: buckets as usize,
        };
        flows.begin(flow_key(table.key));
        let mut tables = Tables {
            own: setup.own(),
            control: memory(program, "control", CONTROL_WORDS)?,
            arena: Arena::new(memory(program, "arena", cells as usize * CELL_WORDS)?),
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
            seen: program.take_map("seen").map(data),
            flows,
        };
        tables.publish(table).map_err(|error| match error {
            PublishError::Full => unreachable!("the maps are made for it"),
            PublishError::Kernel(error) => error,
        })?;
        Ok(tables)
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
        let Tables { books, accounts, services, .. } = self;
        books.retain(|books| {
            let is_open = !books.are_final() || Arc::strong_count(&books.is_final) > 1;
            if !is_open {
                accounts.give_back(books.places.accounts);
                services.give_back(books.places.latencies);
            }
            is_open
        });
    }

    /// Has the program decide by this table from its next frame on. A frame is decided by one table from beginning to end.
    /// Waits for a grace period of the kernel (some 10 ms) where memory is needed that frames may still be decided by, and
    /// where the layout changes: then no frame is counted in the old layout's books any more.
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

    /// The program decides no more frames: another has taken its place. When the last has gone by, the books are final.
    ///
    /// # Errors
    ///
    /// The kernel refuses to wait.
    pub fn close(&mut self) -> Result<(), XdpError> {
        self.wait()?;
        self.books.iter().for_each(|books| books.is_final.store(true, Ordering::Release));
        Ok(())
    }

    /// Lays the table out beside the one that is published. `None`: there is no room.
    fn place(&mut self, table: &Table) -> Option<(Head, Parts)> {
        let mut placing =
            Placing { arena: &mut self.arena, published: &self.parts, parts: Parts::new(), taken: Vec::new() };
        match compile::compile(table, &self.ports, (self.own, self.flows.key()), &mut placing) {
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

    /// Frames that the program has seen: a number that grows with each, and may be less when a layout's books are closed.
    pub fn seen(&self) -> u64 {
        let of_books = |books: &Books| (0..books.cores()).map(|core| books.tally(core).received()).sum::<u64>();
        self.books.iter().map(of_books).sum()
    }

    /// Watched frames that found no room, since the program was loaded.
    pub fn unseen(&self) -> u64 {
        self.control.words()[UNSEEN].load(Ordering::Relaxed)
    }

    /// The watched frames, for whoever reads them: the first that asks gets it.
    ///
    /// # Errors
    ///
    /// The kernel has no room for it in the address space.
    pub(super) fn events(&mut self) -> Result<Option<Events>, XdpError> {
        self.seen.take().map(|map| Events::new(map).map_err(failed("seen"))).transpose()
    }

    pub fn flows(&self) -> Flows {
        self.flows.clone()
    }

    /// What time it is to the program, for tests of what happens in the course of hours; 0: what it is.
    pub fn set_clock(&self, ns: u64) {
        self.control.write(CLOCK, &[ns]);
    }
}
