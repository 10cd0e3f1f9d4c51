//! Which frames are beyond a limit: token buckets, of each service and of each source.
//!
//! A bucket is one word: the time at which it is full again (the "theoretical arrival time" of the generic cell rate algorithm, ITU-T I.371,
//! annex A). What it lacks at a moment is that time less now; a frame costs the time in which its token comes again, and passes if what is
//! lacking and that are no more than the depth of the bucket. What does not pass costs nothing. A frame has to pass all limits of its service.
//!
//! Sources have their buckets in a table of fixed size, by two choices among buckets of four cells, as flows have in `flow_table`. A
//! source without a cell lacks nothing, and gets one with its first frame that passes: a free one, or one whose source lacks nothing
//! any more, or that of the source that lacks least. That source is forgiven, and no other is ever charged for it: nobody is limited who
//! is within the limit. Who is at his limit lacks most, so that no flood of sources that send a few frames takes his cell.
//! Sources are hashed by a key of their own, so that nobody outside can aim at a cell.
//!
//! All workers share the buckets. One looks at a service's once a burst and charges all that passed at its end, so that as many bursts as
//! there are other workers may pass too many at once; they are charged, and so are missing later. `src/bpf/limits.h` is the twin.

pub mod odd;
mod tokens;

use self::odd::OddLimits;
use self::tokens::{PARTS, SKEW, lack, take};
use super::ServiceId;
use crate::hash::{Key, siphash};
use crate::limits::{BURST, DEFAULT_LIMIT_SOURCES, MAX_BITS_LIMIT, MAX_BURST_FILL, MAX_SERVICES};
use crate::model::{Limit, LimitKind, PerSource, Plan, Rate};
use arrayvec::ArrayVec;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a bucket of bits costs a byte is in 2^-12 of that.
const BYTE_PARTS: u32 = 12;

/// The depth of any bucket.
const DEEPEST: u64 = (MAX_BURST_FILL.as_nanos() as u64) << PARTS;

/// Cells of a bucket of sources: a cache line.
const CELLS: usize = 4;

const _: () = {
    assert!(DEEPEST + SKEW < u64::MAX / 64, "what is long ago is told from what is not");
    assert!((8_000_000_000u64 << PARTS << BYTE_PARTS) / MAX_BITS_LIMIT > 1000, "a byte's cost is rounded well");
    assert!(size_of::<Bucket>() == 64 && size_of::<ServiceBuckets>() == 64 && size_of::<Rule>() == 112);
    assert!(MAX_SERVICES <= 1 << 16, "a slot is part of what is hashed");
};

/// What a limit costs, and how much a bucket holds, both in parts of a nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Gauge {
    /// Of a frame; of bits, of a byte, in finer parts.
    pub cost: u64,
    /// 0: no limit.
    pub depth: u64,
}

impl Gauge {
    fn of(rate: Option<Rate>) -> Gauge {
        let Some(Rate { per_second, burst }) = rate else { return Gauge::default() };
        let cost = ((1_000_000_000 << PARTS) + per_second / 2) / per_second;
        Gauge { cost, depth: cost * burst }
    }

    fn of_bits(rate: Option<Rate>) -> Gauge {
        let Some(Rate { per_second, burst }) = rate else { return Gauge::default() };
        let byte = (8_000_000_000 << PARTS << BYTE_PARTS) / per_second;
        Gauge { cost: byte, depth: ((u128::from(byte) * u128::from(burst / 8)) >> BYTE_PARTS) as u64 }
    }
}

/// The limits of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// By `LimitKind`.
    pub gauges: [Gauge; LimitKind::COUNT],
    /// The bits by which sources are told apart, of addresses as `Source` has them.
    pub mask_v4: u64,
    pub mask_v6: [u64; 2],
    /// Where the buckets of the service are: the same through a reload.
    pub slot: u32,
    /// 1: what is beyond is dispatched all the same.
    pub only_counts: u32,
}

impl Rule {
    fn new(limit: &Limit, slot: u32) -> Rule {
        let Limit { packets, bits, syn, per_source, only_counts } = limit;
        let of_source = |of: fn(&PerSource) -> Option<Rate>| Gauge::of(per_source.as_ref().and_then(of));
        let [v4, v6] = per_source.as_ref().map_or([0; 2], |of| [of.prefix_v4, of.prefix_v6]);
        let mask_v4 = u32::MAX.checked_shl(32 - u32::from(v4)).unwrap_or(0);
        let mask_v6 = u128::MAX.checked_shl(128 - u32::from(v6)).unwrap_or(0);
        Rule {
            gauges: [
                of_source(|of| of.syn),
                of_source(|of| of.packets),
                Gauge::of(*syn),
                Gauge::of(*packets),
                Gauge::of_bits(*bits),
            ],
            mask_v4: mask_v4.swap_bytes().into(),
            mask_v6: Source::v6(mask_v6.to_be_bytes()).words,
            slot,
            only_counts: (*only_counts).into(),
        }
    }

    /// What a frame costs by a limit. `None`: that limit does not ask.
    #[inline(always)]
    fn cost(&self, kind: LimitKind, subject: &Subject) -> Option<u64> {
        let Gauge { cost, depth } = self.gauges[kind as usize];
        let asks = match kind {
            LimitKind::SourceSyn | LimitKind::Syn => subject.begins,
            LimitKind::SourcePackets | LimitKind::Packets | LimitKind::Bits => true,
        };
        let cost = if kind == LimitKind::Bits { (u64::from(subject.len) * cost) >> BYTE_PARTS } else { cost };
        (asks && depth != 0).then_some(cost)
    }
}

/// The source address of a packet, as it lies there, little-endian; an IPv4 address in the lower half of the first word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub words: [u64; 2],
    pub is_v6: bool,
}

impl Source {
    #[inline(always)]
    pub fn v4(address: [u8; 4]) -> Source {
        Source { words: [u32::from_le_bytes(address).into(), 0], is_v6: false }
    }

    #[inline(always)]
    pub fn v6(address: [u8; 16]) -> Source {
        let number = u128::from_le_bytes(address);
        Source { words: [number as u64, (number >> 64) as u64], is_v6: true }
    }
}

/// What is asked of a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject {
    pub service: ServiceId,
    /// A SYN without ACK.
    pub begins: bool,
    /// In bytes, Ethernet header included, FCS not.
    pub len: u32,
    pub source: Source,
}

/// Of a frame: the first limit that it is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    No,
    /// It would be dropped, if the limit did more than count.
    Counted(LimitKind),
    Dropped(LimitKind),
}

/// The limits of a table's services, with their buckets.
pub struct Limits {
    key: Key,
    /// By service.
    rules: Box<[Option<Rule>]>,
    memory: Arc<Memory>,
}

/// All buckets.
struct Memory {
    services: Box<[ServiceBuckets]>,
    sources: Box<[Bucket]>,
}

/// Limits that are not of each source: the last ones of `LimitKind`.
const SHARED: usize = 3;
const OF_SOURCE: usize = LimitKind::COUNT - SHARED;

/// Of a service. Not two services' in a cache line, for all workers write them.
#[derive(Default)]
#[repr(C, align(64))]
struct ServiceBuckets([AtomicU64; SHARED]);

/// Of sources: whose a cell is (0: nobody's), and when it is full.
#[derive(Default)]
#[repr(C, align(64))]
struct Bucket([[AtomicU64; 2]; CELLS]);

/// What sources of a cluster are hashed with.
fn source_key(key: Key) -> Key {
    let [k0, k1] = [b"limits k0", b"limits k1"].map(|half| siphash::bytes(key, half));
    Key::new(k0, k1)
}

/// What the frames of a burst take from the buckets of their services.
#[derive(Default)]
pub struct Charges(ArrayVec<Charge, BURST>);

struct Charge {
    slot: u32,
    /// When each bucket was full, and what it lacked, when the burst began.
    seen: [(u64, u64); SHARED],
    taken: [u64; SHARED],
}

impl Limits {
    /// Judges a frame. What it costs its service is taken when the burst is over, by `charge`.
    #[inline]
    pub fn judge(&self, subject: &Subject, now_ns: u64, charges: &mut Charges) -> Limited {
        let Some(rule) = &self.rules[subject.service as usize] else { return Limited::No };
        let now = now_ns << PARTS;
        let beyond = |kind| if rule.only_counts == 0 { Limited::Dropped(kind) } else { Limited::Counted(kind) };
        let mut of_source = [None; OF_SOURCE];
        for (kind, of_source) in LimitKind::ALL.into_iter().zip(&mut of_source) {
            let Some(cost) = rule.cost(kind, subject) else { continue };
            let (hash, depth) = (self.hash(rule, kind, subject.source), rule.gauges[kind as usize].depth);
            let found = self.memory.find(hash);
            let seen = found.map(|cell| cell[1].load(Relaxed));
            let lack = seen.map_or(0, |full_at| lack(full_at, now, depth));
            if lack + cost > depth {
                return beyond(kind);
            }
            *of_source = Some((hash, cost, found.zip(seen.map(|seen| (seen, lack)))));
        }
        let charge = charges.of(rule.slot, |at| self.seen(rule, at, now));
        let shared = &LimitKind::ALL[OF_SOURCE..];
        for (at, kind) in shared.iter().enumerate() {
            let Some(cost) = rule.cost(*kind, subject) else { continue };
            if charge.seen[at].1 + charge.taken[at] + cost > rule.gauges[*kind as usize].depth {
                return beyond(*kind);
            }
        }
        for (at, kind) in shared.iter().enumerate() {
            charge.taken[at] += rule.cost(*kind, subject).unwrap_or(0);
        }
        for (hash, cost, found) in of_source.into_iter().flatten() {
            match found {
                Some((cell, seen)) => take(&cell[1], seen, now, cost),
                None => self.memory.insert(hash, now, cost),
            }
        }
        Limited::No
    }

    /// Takes from the buckets of services what a burst has cost.
    #[inline]
    pub fn charge(&self, now_ns: u64, charges: &mut Charges) {
        for Charge { slot, seen, taken } in charges.0.drain(..) {
            let buckets = &self.memory.services[slot as usize].0;
            for ((full_at, seen), taken) in buckets.iter().zip(seen).zip(taken).filter(|(_, taken)| *taken > 0) {
                take(full_at, seen, now_ns << PARTS, taken);
            }
        }
    }

    /// A bucket of a service, as it is now.
    fn seen(&self, rule: &Rule, at: usize, now: u64) -> (u64, u64) {
        let full_at = self.memory.services[rule.slot as usize].0[at].load(Relaxed);
        (full_at, lack(full_at, now, rule.gauges[OF_SOURCE + at].depth))
    }

    /// Whose a cell is: a source's, for one limit of one service. Never 0.
    #[inline(always)]
    fn hash(&self, rule: &Rule, kind: LimitKind, Source { words: [low, high], is_v6 }: Source) -> u64 {
        let of = u64::from(rule.slot) | (kind as u64) << 16;
        let hash = match is_v6 {
            false => siphash::blocks(self.key, [low & rule.mask_v4 | of << 32 | 7 << 56]),
            true => siphash::blocks(self.key, [low & rule.mask_v6[0], high & rule.mask_v6[1], of | 19 << 56]),
        };
        hash.max(1)
    }

    /// What sources are hashed with.
    pub fn key(&self) -> Key {
        self.key
    }

    /// By service.
    pub fn rules(&self) -> &[Option<Rule>] {
        &self.rules
    }
}

impl Charges {
    /// Those of a service: mostly of the same one as before.
    #[inline(always)]
    fn of(&mut self, slot: u32, seen: impl Fn(usize) -> (u64, u64)) -> &mut Charge {
        let known = self.0.iter().rposition(|charge| charge.slot == slot);
        let at = known.unwrap_or_else(|| {
            self.0.push(Charge { slot, seen: std::array::from_fn(seen), taken: [0; SHARED] });
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

impl Memory {
    /// All of it is touched here, so that no page of it is missing later.
    fn new(sources: u32) -> Memory {
        let memory = Memory {
            services: (0..MAX_SERVICES).map(|_| ServiceBuckets::default()).collect(),
            sources: (0..(sources as usize).div_ceil(CELLS)).map(|_| Bucket::default()).collect(),
        };
        memory.sources.iter().for_each(|bucket| bucket.0[0][0].store(std::hint::black_box(0), Relaxed));
        memory
    }

    /// The two buckets of a source.
    #[inline(always)]
    fn buckets(&self, hash: u64) -> [&Bucket; 2] {
        let scaled = |bits: u32| ((u64::from(bits) * self.sources.len() as u64) >> 32) as usize;
        [hash as u32, (hash >> 32) as u32].map(|bits| &self.sources[scaled(bits)])
    }

    #[inline(always)]
    fn cells(&self, hash: u64) -> impl Iterator<Item = &[AtomicU64; 2]> {
        self.buckets(hash).into_iter().flat_map(|bucket| &bucket.0)
    }

    #[inline(always)]
    fn find(&self, hash: u64) -> Option<&[AtomicU64; 2]> {
        self.cells(hash).find(|cell| cell[0].load(Relaxed) == hash)
    }

    /// Gives the source the cell that is missed least.
    fn insert(&self, hash: u64, now: u64, cost: u64) {
        let lacks = |cell: &&[AtomicU64; 2]| match cell[0].load(Relaxed) {
            0 => 0,
            _ => lack(cell[1].load(Relaxed), now, DEEPEST),
        };
        let [whose, full_at] = self.cells(hash).min_by_key(lacks).expect("two buckets");
        full_at.store(now.wrapping_add(cost), Relaxed);
        whose.store(hash, Relaxed);
    }
}

/// The control side: which service has which buckets, through reloads.
#[derive(Clone)]
pub struct Limiter {
    sources: u32,
    /// By the service's name.
    slots: HashMap<String, u32>,
    /// From the first limit on.
    memory: Option<Arc<Memory>>,
    limits: Option<Arc<Limits>>,
    /// As long as there are limits of packets that are dear to read.
    odd: Option<Arc<OddLimits>>,
}

impl Limiter {
    pub fn new(key: Key, plan: &Plan) -> Limiter {
        let sources = plan.dispatcher.as_ref().map_or(DEFAULT_LIMIT_SOURCES, |dispatcher| dispatcher.limit_sources);
        let mut limiter = Limiter { sources, slots: HashMap::new(), memory: None, limits: None, odd: None };
        limiter.renew(key, plan);
        limiter
    }

    /// Goes over to the limits of another plan. Services that are in both go on with their buckets.
    pub fn renew(&mut self, key: Key, plan: &Plan) {
        self.odd = plan.odd_limit.as_ref().map(|limit| Arc::new(OddLimits::new(limit, self.odd.as_deref())));
        let limited = plan.services.iter().filter(|service| service.limit.is_some());
        let names: HashSet<&str> = limited.clone().map(|service| service.name.as_str()).collect();
        if names.is_empty() {
            (self.slots, self.limits) = (HashMap::new(), None);
            return;
        }
        self.slots.retain(|name, _| names.contains(name.as_str()));
        let taken: HashSet<u32> = self.slots.values().copied().collect();
        let mut free = (0..).filter(|slot| !taken.contains(slot));
        for service in limited {
            self.slots.entry(service.name.clone()).or_insert_with(|| free.next().expect("as many as services"));
        }
        let rule = |service: &crate::model::Service| {
            service.limit.as_ref().map(|limit| Rule::new(limit, self.slots[&service.name]))
        };
        let rules = plan.services.iter().map(rule).collect();
        let memory = self.memory.get_or_insert_with(|| Arc::new(Memory::new(self.sources)));
        self.limits = Some(Arc::new(Limits { key: source_key(key), rules, memory: Arc::clone(memory) }));
    }

    /// Cells for what sources are limited by.
    pub fn sources(&self) -> u32 {
        self.sources
    }

    pub fn limits(&self) -> Option<Arc<Limits>> {
        self.limits.clone()
    }

    pub fn odd(&self) -> Option<Arc<OddLimits>> {
        self.odd.clone()
    }
}

#[cfg(test)]
mod tests;
