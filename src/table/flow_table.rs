//! The flow table: which server each flow went to that a worker has seen while its slot migrates. One a worker, of fixed size;
//! read and written only for frames whose slot is migrating.
//!
//! A hash table of two choices (Azar, Broder, Karlin and Upfal, "Balanced allocations", SIAM J. Comput. 29(1), 1999): a
//! flow lies in one of two buckets of four entries, a cache line each, and goes into the emptier. It is known by its bucket
//! and 40 bits of keyed hash: that a stranger is taken for a flow that is there has a chance of 2^-37 a flow. Where both buckets
//! are full, what is over goes first, then what is remembered only for safety, then what showed itself once or was ended, then the
//! flow that has been silent for longest.
//!
//! A SYN can be forged, and by itself says little. So SYNs have a part of the memory for themselves, a quarter as large, until something
//! comes back: the same SYN once more, or a segment that follows it. Only then the flow gets a place among flows. A flood of SYNs with
//! forged sources displaces SYNs, the oldest first, and no flow.
//!
//! Times are 40 bits of ticks, which last 292 years: an old entry never looks new.

use super::Table;
use crate::hash::{Key, siphash};
use crate::limits::{
    FLOW_CENSUS, FLOW_CLOSED, FLOW_ESTABLISHED_IDLE, FLOW_HALF_OPEN, FLOW_IDLE, FLOW_SEQUENCE_WINDOW, MAX_SERVERS,
    MAX_SERVICES,
};
use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub struct FlowTable {
    key: Key,
    memory: Box<dyn FlowMemory>,
    round: Round,
}

/// Where flows are remembered: a worker's own memory, or memory that a program in the kernel shares, which goes on with the
/// flows when the worker does not. One of them writes at a time, but for a worker that was stopped in the middle of a turn and ends that
/// while the program writes: then an entry may be lost, or have another flow's state, and the counts may be wrong by one.
pub trait FlowMemory: Send {
    /// Those of flows, and behind them those of SYNs: `syn_buckets`.
    fn buckets(&self) -> &[Bucket];

    /// How many are of flows.
    fn flow_buckets(&self) -> usize;

    /// What it came to, but for the capacity: held, remembered, evicted, displaced.
    fn report(&self) -> &[AtomicU64; 4];
}

/// How many buckets SYNs have beside so many of flows.
pub const fn syn_buckets(flow_buckets: usize) -> usize {
    flow_buckets.div_ceil(SYN_PART)
}

const SYN_PART: usize = 4;

/// A worker's own.
struct OwnMemory {
    buckets: Box<[Bucket]>,
    flow_buckets: usize,
    report: [AtomicU64; 4],
}

impl FlowMemory for OwnMemory {
    fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    fn flow_buckets(&self) -> usize {
        self.flow_buckets
    }

    fn report(&self) -> &[AtomicU64; 4] {
        &self.report
    }
}

/// Where the worker is in going through its flow table.
#[derive(Default)]
struct Round {
    /// Of the table with which it began.
    layout: u64,
    began: u64,
    next: usize,
    is_over: bool,
}

/// What the flow table came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTableReport {
    /// Flows it can hold.
    pub capacity: u64,
    /// Flows it holds, those whose change is over included.
    pub held: u64,
    /// Flows remembered since the start.
    pub remembered: u64,
    /// Flows forgotten since the start, while they might have lived, to make room for newer ones.
    pub evicted: u64,
    /// SYNs forgotten since the start, while something might have come back, to make room for newer ones.
    pub displaced: u64,
}

impl Sum for FlowTableReport {
    fn sum<I: Iterator<Item = FlowTableReport>>(reports: I) -> FlowTableReport {
        reports.fold(FlowTableReport::default(), |sum, one| FlowTableReport {
            capacity: sum.capacity + one.capacity,
            held: sum.held + one.held,
            remembered: sum.remembered + one.remembered,
            evicted: sum.evicted + one.evicted,
            displaced: sum.displaced + one.displaced,
        })
    }
}

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stage {
    /// One packet was seen, for TCP a SYN.
    Begun = 0,
    /// At least two segments were seen whose sequence numbers fit.
    Established = 1,
    /// One segment was seen of a TCP connection that was begun before.
    Shown = 2,
    /// A TCP connection that was begun before, and that would go to the same server if it were forgotten.
    Spare = 3,
    /// The client has sent a FIN or a RST.
    Closing = 4,
    /// More was seen of a flow whose protocol shows neither beginning nor end.
    Datagrams = 5,
}

impl Stage {
    const ALL: [Stage; 6] =
        [Stage::Begun, Stage::Established, Stage::Shown, Stage::Spare, Stage::Closing, Stage::Datagrams];
}

/// Where the client is in its sequence numbers, in steps of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(u32);

const STEP: u32 = 12;
const WINDOW: i32 = (FLOW_SEQUENCE_WINDOW >> STEP) as i32;

impl Position {
    pub fn of(sequence: u32) -> Position {
        Position(sequence >> STEP)
    }

    /// How far this is ahead of another; sequence numbers turn over.
    fn ahead(self, other: Position) -> i32 {
        (self.0.wrapping_sub(other.0) << STEP) as i32 >> STEP
    }

    /// Whether who got this far goes on there.
    pub fn is_near(self, other: Position) -> bool {
        other.ahead(self).abs() <= WINDOW
    }

    /// Whether who begins here may send that before it has got more than the answer to its SYN.
    pub fn is_followed_by(self, other: Position) -> bool {
        (0..=WINDOW).contains(&other.ahead(self))
    }

    pub fn furthest(self, other: Position) -> Position {
        if other.ahead(self) > 0 { other } else { self }
    }
}

/// 16 bytes.
#[derive(Clone, Copy)]
struct Entry {
    /// 40 bits of the flow's hash, and 24 of the server's ident. No ident: free.
    whose: u64,
    /// 40 bits of ticks, 20 of `Position`, one that says `disputed`, 3 of `Stage`.
    state: u64,
}

const FREE: Entry = Entry { whose: 0, state: 0 };
const IDENT_BITS: u32 = 24;
const STAGE_MASK: u64 = 7;
const DISPUTED: u64 = 8;
const POSITION: u32 = 4;
const SEEN: u32 = 24;

/// The greatest ident of a server that can be remembered.
pub const MAX_IDENT: u32 = (1 << IDENT_BITS) - 1;

const LAST_TICK: u64 = (1 << (u64::BITS - SEEN)) - 1;

/// A time in nanoseconds, in ticks of 2^23 ns (8.4 ms).
pub fn ticks(ns: u64) -> u64 {
    (ns >> 23).min(LAST_TICK)
}

const fn ticks_of(time: Duration) -> u64 {
    (time.as_nanos() >> 23) as u64
}

/// A cache line: four entries, of two words each. The twin of `struct bucket` in src/bpf/flow_table.h.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Bucket([[AtomicU64; 2]; ENTRIES]);

impl Bucket {
    fn entry(&self, at: usize) -> Entry {
        let [whose, state] = &self.0[at];
        Entry { whose: whose.load(Relaxed), state: state.load(Relaxed) }
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        (0..ENTRIES).map(|at| self.entry(at))
    }

    fn set(&self, at: usize, entry: Entry) {
        let [whose, state] = &self.0[at];
        whose.store(entry.whose, Relaxed);
        state.store(entry.state, Relaxed);
    }
}

const ENTRIES: usize = 4;

const _: () = {
    assert!(size_of::<Bucket>() == 64);
    assert!(2 * MAX_SERVICES * MAX_SERVERS <= MAX_IDENT as usize, "a reload finds idents that are not in use");
};

/// What is remembered of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The server's ident.
    pub server: u32,
    pub stage: Stage,
    /// How far the client has got.
    pub position: Position,
    /// A segment was seen that does not fit the others: sequence numbers say nothing any more, of whoever they are.
    pub disputed: bool,
    /// When it was last seen, in ticks.
    pub seen: u64,
}

/// Of the memory.
#[derive(Clone, Copy)]
enum Part {
    Flows,
    /// TCP connections of which one SYN was seen, and nothing else.
    Syns,
}

/// Where a flow lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(u32, u8);

impl Flow {
    /// Whether it has been silent for longer than that.
    pub fn is_silent(&self, longer: Duration, now: u64) -> bool {
        now.saturating_sub(self.seen) > ticks_of(longer)
    }

    /// Whether nothing more will come of it, as far as it shows.
    pub fn is_over(&self, now: u64) -> bool {
        match self.stage {
            Stage::Begun => self.is_silent(FLOW_HALF_OPEN, now),
            Stage::Closing => self.is_silent(FLOW_CLOSED, now),
            Stage::Datagrams => self.is_silent(FLOW_IDLE, now),
            Stage::Established | Stage::Shown | Stage::Spare => false,
        }
    }

    /// What is lost with it; the least goes first.
    fn worth(&self) -> u8 {
        match self.stage {
            Stage::Spare => 1,
            Stage::Begun | Stage::Shown | Stage::Closing => 2,
            Stage::Datagrams | Stage::Established => 3,
        }
    }

    fn state(&self) -> u64 {
        let disputed = if self.disputed { DISPUTED } else { 0 };
        self.seen.min(LAST_TICK) << SEEN | u64::from(self.position.0) << POSITION | disputed | self.stage as u64
    }
}

impl Entry {
    fn new(hash: u64, flow: &Flow) -> Entry {
        assert!((1..=MAX_IDENT).contains(&flow.server), "an ident has {IDENT_BITS} bits");
        Entry { whose: fingerprint(hash) | u64::from(flow.server), state: flow.state() }
    }

    fn server(&self) -> u32 {
        self.whose as u32 & MAX_IDENT
    }

    fn is(&self, hash: u64) -> bool {
        self.whose & !u64::from(MAX_IDENT) == fingerprint(hash) && self.server() != 0
    }

    fn flow(&self) -> Option<Flow> {
        let state = self.state;
        (self.server() != 0).then(|| Flow {
            server: self.server(),
            stage: Stage::ALL[(state & STAGE_MASK) as usize],
            position: Position((state >> POSITION) as u32 & (u32::MAX >> STEP)),
            disputed: state & DISPUTED != 0,
            seen: state >> SEEN,
        })
    }

    /// The least goes first; 0: it may be overwritten without loss.
    fn worth(&self, now: u64, horizon: u64) -> u8 {
        let flow = self.flow().filter(|flow| flow.seen >= horizon && !flow.is_over(now));
        flow.map_or(0, |flow| flow.worth())
    }
}

/// What a hash leaves in an entry. The product's upper bits depend on all bits of the hash, so that it is more than the bucket
/// says.
fn fingerprint(hash: u64) -> u64 {
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !u64::from(MAX_IDENT)
}

/// What flows of a cluster are hashed with, by the cluster's own key.
pub fn flow_key(key: Key) -> Key {
    let [k0, k1] = [b"pins k0", b"pins k1"].map(|half| siphash::bytes(key, half));
    Key::new(k0, k1)
}

impl FlowTable {
    /// For at least that many flows, or none. All of its memory is touched here, so that no page of it is missing later.
    /// `key` is the cluster's; flows are hashed with another one that is drawn from it.
    pub fn new(flows: usize, key: Key) -> FlowTable {
        let flow_buckets = flows.div_ceil(ENTRIES);
        let buckets: Box<[Bucket]> = (0..flow_buckets + syn_buckets(flow_buckets)).map(|_| Bucket::default()).collect();
        // Zeroes come from the kernel page by page, at the first write to each.
        buckets.iter().for_each(|bucket| bucket.set(0, Entry { whose: 0, state: std::hint::black_box(1) }));
        FlowTable::over(Box::new(OwnMemory { buckets, flow_buckets, report: Default::default() }), flow_key(key))
    }

    /// Goes on with what is remembered there, with flows hashed by that key.
    pub fn over(memory: Box<dyn FlowMemory>, key: Key) -> FlowTable {
        FlowTable { key, memory, round: Round { is_over: true, ..Round::default() } }
    }

    /// What flows are hashed with.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The two buckets of a flow, in that part of the memory.
    fn buckets_of(&self, hash: u64, part: Part) -> [u32; 2] {
        let (flows, all) = (self.memory.flow_buckets(), self.memory.buckets().len());
        let (first, count) = match part {
            Part::Flows => (0, flows),
            Part::Syns => (flows, all - flows),
        };
        let scaled = |bits: u32| first as u32 + ((u64::from(bits) * count as u64) >> 32) as u32;
        // Selection takes the upper half of its hash; both halves of this one are independent of it, and of each other.
        [scaled(hash as u32), scaled((hash >> 32) as u32)]
    }

    fn entry(&self, At(bucket, at): At) -> Entry {
        self.memory.buckets()[bucket as usize].entry(at as usize)
    }

    fn set(&mut self, At(bucket, at): At, entry: Entry) {
        self.memory.buckets()[bucket as usize].set(at as usize, entry);
    }

    /// What is remembered of a flow since a tick, if it `counts`, and where. A SYN is noted beside a flow that does not.
    #[inline]
    pub fn find(&self, hash: u64, since: u64, counts: impl Fn(&Flow) -> bool) -> Option<(Flow, At)> {
        [Part::Flows, Part::Syns].into_iter().flat_map(|part| self.buckets_of(hash, part)).find_map(|bucket| {
            let (at, entry) =
                self.memory.buckets().get(bucket as usize)?.entries().enumerate().find(|(_, entry)| entry.is(hash))?;
            let flow = entry.flow().filter(|flow| flow.seen >= since && counts(flow))?;
            Some((flow, At(bucket, at as u8)))
        })
    }

    /// Whether only a SYN was seen there, and nothing came back yet.
    pub fn is_noted(&self, at: At) -> bool {
        at.0 as usize >= self.memory.flow_buckets()
    }

    /// What `find` found there is so now.
    pub fn update(&mut self, at: At, flow: &Flow) {
        self.set(at, Entry { state: flow.state(), ..self.entry(at) });
    }

    pub fn forget(&mut self, at: At) {
        self.set(at, FREE);
        if !self.is_noted(at) {
            let [held, ..] = self.memory.report();
            held.store(held.load(Relaxed).saturating_sub(1), Relaxed);
        }
    }

    /// Remembers a flow, which was seen now, if there is any memory; whatever was known of it gives way. Nothing that was last
    /// seen before `horizon` counts.
    pub fn remember(&mut self, hash: u64, flow: &Flow, horizon: u64) {
        self.put(Part::Flows, hash, flow, horizon);
    }

    /// As `remember`, of a SYN as long as nothing has come back.
    pub fn note(&mut self, hash: u64, syn: &Flow, horizon: u64) {
        self.put(Part::Syns, hash, syn, horizon);
    }

    /// Something has come back that follows the SYN that was found there: remembers the flow, as it is now.
    pub fn confirm(&mut self, at: At, hash: u64, flow: &Flow, horizon: u64) {
        self.forget(at);
        self.remember(hash, flow, horizon);
    }

    fn put(&mut self, part: Part, hash: u64, flow: &Flow, horizon: u64) {
        if self.memory.buckets().is_empty() {
            return;
        }
        let (buckets, now) = (self.buckets_of(hash, part), flow.seen);
        let entries = || buckets.into_iter().flat_map(|bucket| (0..ENTRIES as u8).map(move |at| At(bucket, at)));
        let at = entries().find(|at| self.entry(*at).is(hash)).unwrap_or_else(|| {
            let is_live = |entry: &Entry| entry.worth(now, horizon) > 0;
            let crowds = buckets.map(|at| self.memory.buckets()[at as usize].entries().filter(is_live).count());
            let rank = |at: &At| {
                let crowd = if at.0 == buckets[0] { crowds[0] } else { crowds[1] };
                let entry = self.entry(*at);
                (entry.worth(now, horizon), crowd, entry.state >> SEEN)
            };
            let at = entries().min_by_key(rank).expect("two buckets");
            let entry = self.entry(at);
            let [held, remembered, evicted, displaced] = self.memory.report();
            let add = |sum: &AtomicU64, one: bool| sum.store(sum.load(Relaxed) + u64::from(one), Relaxed);
            let is_loss = entry.worth(now, horizon) > 1;
            match part {
                Part::Flows => {
                    add(evicted, is_loss);
                    add(held, entry.server() == 0);
                    add(remembered, true);
                }
                Part::Syns => add(displaced, is_loss),
            }
            at
        });
        self.set(at, Entry::new(hash, flow));
    }

    /// Goes on to the next bucket, and notes of which servers there are flows in it, where the table wants to know.
    #[cold]
    #[inline(never)]
    pub fn count(&mut self, table: &Table, worker: usize, now: u64) {
        let (Some(census), now) = (&table.census, ticks(now)) else { return };
        let round = &mut self.round;
        if round.is_over || round.layout != table.layout {
            if round.layout == table.layout && now < round.began + ticks_of(FLOW_CENSUS) {
                return;
            }
            *round = Round { layout: table.layout, began: now, next: 0, is_over: false };
        }
        let bucket = self.memory.buckets().get(round.next);
        for flow in bucket.iter().flat_map(|bucket| bucket.entries()).filter_map(|entry| entry.flow()) {
            let lasts = flow.seen >= table.horizon && !flow.is_over(now) && !flow.is_silent(FLOW_ESTABLISHED_IDLE, now);
            if let Some(destination) = table.previous_owner(flow.server).filter(|_| lasts) {
                census.note(destination, round.began);
            }
        }
        round.next += 1;
        if round.next >= self.memory.buckets().len() {
            round.is_over = true;
            census.complete(worker, round.began);
        }
    }

    pub fn report(&self) -> FlowTableReport {
        let [held, remembered, evicted, displaced] = self.memory.report().each_ref().map(|count| count.load(Relaxed));
        let capacity = (self.memory.flow_buckets() * ENTRIES) as u64;
        FlowTableReport { capacity, held, remembered, evicted, displaced }
    }
}
