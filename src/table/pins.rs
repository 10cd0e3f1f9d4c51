//! The memory of flows begun during a change: which server each went to. One a worker, of fixed size; read and written
//! only for frames whose slot is moving.
//!
//! A hash table of two choices (Azar, Broder, Karlin and Upfal, "Balanced allocations", SIAM J. Comput. 29(1), 1999): a
//! flow lies in one of two buckets of four entries, a cache line each, and goes into the emptier. It is known by 64 bits of
//! keyed hash: that a stranger takes it for its own has a chance of 2^-41 with a million flows. Where both buckets are
//! full, what is over goes first, then what never got beyond its first packet, the oldest before the others, so that a
//! flood of SYNs displaces SYNs; only then the flow that has been silent for longest.

use crate::hash::{Key, siphash};
use crate::limits::FLOW_IDLE;

pub struct Pins {
    key: Key,
    buckets: Box<[Bucket]>,
    report: PinsReport,
}

/// What the memory came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinsReport {
    /// Flows it can hold.
    pub capacity: u64,
    /// Flows it holds, those whose change is over included.
    pub held: u64,
    /// Flows remembered since the start.
    pub remembered: u64,
    /// Flows forgotten since the start, while they might have lived, to make room for newer ones.
    pub evicted: u64,
}

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// One packet was seen, for TCP a SYN.
    Begun = 0,
    /// More of a TCP connection was seen.
    Established = 1,
    /// The client has sent a FIN.
    Closing = 2,
    /// More was seen of a flow whose protocol shows neither beginning nor end.
    Datagrams = 3,
}

impl Stage {
    const ALL: [Stage; 4] = [Stage::Begun, Stage::Established, Stage::Closing, Stage::Datagrams];
}

/// 16 bytes.
#[derive(Clone, Copy)]
struct Entry {
    /// The flow's hash.
    flow: u64,
    /// The server's ident, with the stage in the two upper bits. 0: free.
    server: u32,
    /// `table::ticks`
    seen: u32,
}

const STAGE: u32 = 30;
const FREE: Entry = Entry { flow: 0, server: 0, seen: 0 };

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Bucket([Entry; ENTRIES]);

const ENTRIES: usize = 4;

const _: () = assert!(size_of::<Bucket>() == 64);

/// What is remembered of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The server's ident.
    pub server: u32,
    pub stage: Stage,
    /// When it was last seen, in ticks.
    pub seen: u32,
    at: (u32, u8),
}

impl Pin {
    /// Of a flow of datagrams: whether it has been silent for so long that it is over.
    pub fn is_idle(&self, now: u32) -> bool {
        now.wrapping_sub(self.seen) > IDLE
    }
}

impl Pins {
    /// A memory of at least that many flows, or none. All of it is touched here, so that no page of it is missing later.
    /// `key` is the cluster's; flows are hashed with another one that is drawn from it.
    pub fn new(flows: usize, key: Key) -> Pins {
        let [k0, k1] = [b"pins k0", b"pins k1"].map(|half| siphash::bytes(key, half));
        let key = Key::new(k0, k1);
        let mut buckets = vec![Bucket([FREE; ENTRIES]); flows.div_ceil(ENTRIES)].into_boxed_slice();
        // Zeroes come from the kernel page by page, at the first write to each.
        buckets.iter_mut().for_each(|bucket| bucket.0[0].seen = std::hint::black_box(1));
        let report = PinsReport { capacity: (buckets.len() * ENTRIES) as u64, ..PinsReport::default() };
        Pins { key, buckets, report }
    }

    /// What flows are hashed with.
    pub fn key(&self) -> Key {
        self.key
    }

    fn is_none(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The two buckets of a flow, and what names it there.
    fn buckets_of(&self, flow: u64) -> [u32; 2] {
        let scaled = |bits: u32| ((bits as u64 * self.buckets.len() as u64) >> 32) as u32;
        // Selection takes the upper half of its hash; both halves of this one are independent of it, and of each other.
        [scaled(flow as u32), scaled((flow >> 32) as u32)]
    }

    /// What is remembered of a flow since a tick.
    #[inline]
    pub fn find(&self, flow: u64, since: u32) -> Option<Pin> {
        self.buckets_of(flow).into_iter().find_map(|bucket| {
            let entries = &self.buckets.get(bucket as usize)?.0;
            let at = entries.iter().position(|entry| entry.flow == flow && entry.server != 0)?;
            let Entry { server, seen, .. } = entries[at];
            let pin = Pin {
                server: server & ((1 << STAGE) - 1),
                stage: Stage::ALL[(server >> STAGE) as usize],
                seen,
                at: (bucket, at as u8),
            };
            is_since(seen, since).then_some(pin)
        })
    }

    /// The flow has been seen now, and has come that far.
    pub fn touch(&mut self, pin: &Pin, stage: Stage, now: u32) {
        let entry = &mut self.buckets[pin.at.0 as usize].0[pin.at.1 as usize];
        entry.server = pin.server | (stage as u32) << STAGE;
        entry.seen = now;
    }

    pub fn forget(&mut self, pin: &Pin) {
        self.buckets[pin.at.0 as usize].0[pin.at.1 as usize].server = 0;
        self.report.held -= 1;
    }

    /// Remembers the server of a flow, if there is any memory; whatever was known of the flow gives way. Nothing that was
    /// last seen before `horizon` counts.
    pub fn remember(&mut self, flow: u64, server: u32, stage: Stage, now: u32, horizon: u32) {
        if self.is_none() {
            return;
        }
        let buckets = self.buckets_of(flow);
        let entries = || buckets.into_iter().flat_map(|bucket| (0..ENTRIES).map(move |at| (bucket as usize, at)));
        let known = entries().find(|(bucket, at)| {
            let entry = &self.buckets[*bucket].0[*at];
            entry.flow == flow && entry.server != 0
        });
        let (bucket, at) = known.unwrap_or_else(|| {
            let crowd =
                |bucket: u32| self.buckets[bucket as usize].0.iter().filter(|e| !e.is_over(now, horizon)).count();
            let crowds = buckets.map(crowd);
            let worth = |(bucket, at): &(usize, usize)| {
                let entry = &self.buckets[*bucket].0[*at];
                let crowd = if *bucket == buckets[0] as usize { crowds[0] } else { crowds[1] };
                (entry.worth(now, horizon), crowd, u32::MAX - now.wrapping_sub(entry.seen))
            };
            let (bucket, at) = entries().min_by_key(worth).expect("two buckets");
            let entry = &self.buckets[bucket].0[at];
            self.report.evicted += u64::from(!entry.is_over(now, horizon));
            self.report.held += u64::from(entry.server == 0);
            self.report.remembered += 1;
            (bucket, at)
        });
        self.buckets[bucket].0[at] = Entry { flow, server: server | (stage as u32) << STAGE, seen: now };
    }

    pub fn report(&self) -> PinsReport {
        self.report
    }
}

impl Entry {
    /// Whether it may be overwritten without loss.
    fn is_over(&self, now: u32, horizon: u32) -> bool {
        self.server == 0 || !is_since(self.seen, horizon) || {
            let idle = now.wrapping_sub(self.seen) > IDLE;
            self.server >> STAGE == Stage::Datagrams as u32 && idle
        }
    }

    /// The least goes first.
    fn worth(&self, now: u32, horizon: u32) -> u8 {
        match Stage::ALL[(self.server >> STAGE) as usize] {
            _ if self.is_over(now, horizon) => 0,
            Stage::Begun | Stage::Closing => 1,
            Stage::Datagrams | Stage::Established => 2,
        }
    }
}

/// `FLOW_IDLE` in ticks.
const IDLE: u32 = (FLOW_IDLE.as_nanos() >> 20) as u32;

/// Whether one tick is not before another; they turn over.
pub fn is_since(tick: u32, since: u32) -> bool {
    tick.wrapping_sub(since) as i32 >= 0
}
