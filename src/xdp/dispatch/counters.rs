//! What the program counts and times, read from its memory without a system call.
//!
//! Every core has its own words, as every worker has its own counters: one core is the only writer, and whoever reads sees whole
//! words. The services and servers of a layout have a range of them; when another layout is published, and no frame is decided by
//! the old one any more, the old range stands still (`Books::are_final`), and is used again when nobody reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::limits::LAYOUTS;
use crate::model::{LimitKind, OddKind};
use crate::table::Table;
use crate::verdict::Reason;
use crate::xdp::memory::Memory;
use crate::xdp::ranges::Range;

/// `struct tally`, `struct account` and an element of `latencies`, in words.
const TALLY_WORDS: usize = 64;
const ACCOUNT_WORDS: usize = 2;
const LISTED_WORDS: usize = 2;
/// Frames beyond limits: dropped by kind, and only counted by kind.
const LIMITED_WORDS: usize = 2 * LimitKind::COUNT;
const BUCKETS: usize = 3584;
pub const LATENCY_WORDS: usize = BUCKETS / 2;

/// `enum verdict`: what stands at 0, then the reasons, then what is forwarded; behind them what was decided in a worker's place.
const PASSED: usize = 0;
const FORWARDED: usize = 1 + Reason::COUNT;
const BY_NET: usize = FORWARDED + 1;

/// The last words: frames beyond `[limit.odd]`, dropped by kind, and only counted by kind.
const ODD: usize = TALLY_WORDS - 2 * ODD_WORDS;
const ODD_WORDS: usize = 4;

const _: () = assert!(BY_NET < ODD - 1 && BUCKETS.is_multiple_of(2) && OddKind::COUNT <= ODD_WORDS);

/// The memory of the maps.
pub struct Counters {
    pub tallies: Memory,
    pub accounts: Memory,
    /// TCP connections begun, by account.
    pub begun: Memory,
    pub latencies: Memory,
    /// What lists say, by core and service.
    pub listed: Memory,
    /// What limits say, likewise.
    pub limited: Memory,
    pub cores: usize,
    /// Accounts, and services.
    pub of_core: u32,
    pub services_of_core: u32,
}

/// How large the maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Possible cores.
    pub cores: u32,
    /// Accounts of each.
    pub accounts: u32,
    /// Services that are timed.
    pub services: u32,
}

impl Room {
    /// Enough for a table, and for another of its size in its place.
    pub fn of(table: &Table, cores: u32) -> Room {
        let twice = |count: usize, least: usize| u32::try_from((2 * count).max(least)).expect("a plan is smaller");
        Room { cores, accounts: twice(table.destinations(), 1024), services: twice(table.services(), 16) }
    }

    pub fn tallies(&self) -> u32 {
        self.cores * LAYOUTS as u32
    }

    /// Words beyond limits.
    pub fn limited(&self) -> u32 {
        self.cores * self.services * LIMITED_WORDS as u32
    }

    pub fn words(&self) -> [usize; 6] {
        [
            self.tallies() as usize * TALLY_WORDS,
            (self.cores * self.accounts) as usize * ACCOUNT_WORDS,
            (self.cores * self.accounts) as usize,
            self.services as usize * LATENCY_WORDS,
            (self.cores * self.services) as usize * LISTED_WORDS,
            self.limited() as usize,
        ]
    }
}

/// Where a layout is counted.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub layout: u64,
    pub tally: u32,
    pub accounts: Range,
    pub latencies: Range,
}

/// What was counted and timed for the services and servers of one layout. A copy reads the same.
#[derive(Clone)]
pub struct Books {
    pub(super) counters: Arc<Counters>,
    pub(super) places: Places,
    pub(super) is_final: Arc<AtomicBool>,
}

/// What one core has counted, servers apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub forwarded: u64,
    pub dropped: [u64; Reason::COUNT],
    /// Of all these, decided by the program because the worker of the queue did not.
    pub by_net: u64,
    /// Frames beyond `[limit.odd]` by `OddKind`: those dropped, and those only counted.
    pub odd: [[u64; OddKind::COUNT]; 2],
}

impl Tally {
    pub fn received(&self) -> u64 {
        self.passed + self.forwarded + self.dropped.iter().sum::<u64>()
    }
}

/// What went to one server of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub frames: u64,
    /// Of whole frames, Ethernet header included.
    pub bytes: u64,
    /// TCP connections begun: SYN without ACK.
    pub flows: u64,
}

impl Books {
    pub fn layout(&self) -> u64 {
        self.places.layout
    }

    /// Whether nothing is added any more: another layout was published, and the last frame of this one has gone by.
    pub fn are_final(&self) -> bool {
        self.is_final.load(Ordering::Acquire)
    }

    pub fn cores(&self) -> usize {
        self.counters.cores
    }

    pub fn destinations(&self) -> usize {
        self.places.accounts.count as usize
    }

    pub fn services(&self) -> usize {
        self.places.latencies.count as usize
    }

    /// # Panics
    /// There is no such core.
    pub fn tally(&self, core: usize) -> Tally {
        assert!(core < self.counters.cores);
        let first = (core * LAYOUTS + self.places.tally as usize) * TALLY_WORDS;
        let word = |at: usize| self.counters.tallies.read(first + at);
        Tally {
            passed: word(PASSED),
            forwarded: word(FORWARDED),
            dropped: std::array::from_fn(|reason| word(1 + reason)),
            by_net: word(BY_NET),
            odd: std::array::from_fn(|mode| std::array::from_fn(|kind| word(ODD + mode * ODD_WORDS + kind))),
        }
    }

    /// What a core has sent to a server, by `Table::destination`.
    ///
    /// # Panics
    /// There is no such core or destination.
    pub fn sent(&self, core: usize, destination: usize) -> Sent {
        assert!(core < self.counters.cores && destination < self.destinations());
        let account = core * self.counters.of_core as usize + self.places.accounts.first as usize + destination;
        let word = |at: usize| self.counters.accounts.read(account * ACCOUNT_WORDS + at);
        Sent { frames: word(0), bytes: word(1), flows: self.counters.begun.read(account) }
    }

    /// What lists have said on a core of the frames to a service: those denied, and those only counted.
    ///
    /// # Panics
    /// There is no such core or service.
    pub fn listed(&self, core: usize, service: usize) -> [u64; LISTED_WORDS] {
        assert!(core < self.counters.cores && service < self.services());
        let at = core * self.counters.services_of_core as usize + self.places.latencies.first as usize + service;
        std::array::from_fn(|word| self.counters.listed.read(at * LISTED_WORDS + word))
    }

    /// What limits have said on a core of the frames to a service, by `LimitKind`: those dropped, and those only counted.
    ///
    /// # Panics
    /// There is no such core or service.
    pub fn limited(&self, core: usize, service: usize) -> [[u64; LimitKind::COUNT]; 2] {
        assert!(core < self.counters.cores && service < self.services());
        let at = core * self.counters.services_of_core as usize + self.places.latencies.first as usize + service;
        let word = |word: usize| self.counters.limited.read(at * LIMITED_WORDS + word);
        std::array::from_fn(|mode| std::array::from_fn(|kind| word(mode * LimitKind::COUNT + kind)))
    }

    /// How often the program took as long as each bucket says (`metrics::buckets`), from its entry to its decision, for the
    /// frames of a service that were timed, on all cores. The counts turn over at 2^32: who wants more takes differences.
    ///
    /// # Panics
    /// There is no such service.
    pub fn timed(&self, service: usize) -> impl Iterator<Item = (usize, u32)> {
        assert!(service < self.services());
        let first = (self.places.latencies.first as usize + service) * LATENCY_WORDS;
        (0..LATENCY_WORDS).flat_map(move |at| {
            let word = self.counters.latencies.read(first + at);
            [(2 * at, word as u32), (2 * at + 1, (word >> 32) as u32)]
        })
    }
}

impl Counters {
    /// All of a range begins at 0. Nobody counts there.
    pub fn clear(&self, places: &Places) {
        for core in 0..self.cores {
            let tally = core * LAYOUTS + places.tally as usize;
            self.tallies.clear(tally * TALLY_WORDS, TALLY_WORDS);
            let account = core * self.of_core as usize + places.accounts.first as usize;
            self.accounts.clear(account * ACCOUNT_WORDS, places.accounts.count as usize * ACCOUNT_WORDS);
            self.begun.clear(account, places.accounts.count as usize);
            let service = core * self.services_of_core as usize + places.latencies.first as usize;
            self.listed.clear(service * LISTED_WORDS, places.latencies.count as usize * LISTED_WORDS);
            self.limited.clear(service * LIMITED_WORDS, places.latencies.count as usize * LIMITED_WORDS);
        }
        let (first, services) = (places.latencies.first as usize, places.latencies.count as usize);
        self.latencies.clear(first * LATENCY_WORDS, services * LATENCY_WORDS);
    }
}
