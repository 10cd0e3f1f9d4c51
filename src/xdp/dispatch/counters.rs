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

/// `struct tally`, `struct total` and an element of `latencies`, in words.
const TALLY_WORDS: usize = 64;
const TOTAL_WORDS: usize = 2;
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
    /// By account.
    pub totals: Memory,
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

    pub fn words(&self) -> [usize; 7] {
        [
            self.tallies() as usize * TALLY_WORDS,
            (self.cores * self.accounts) as usize,
            (self.cores * self.accounts) as usize * TOTAL_WORDS,
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
        let total = || [0, 1].map(|word| self.counters.totals.read(account * TOTAL_WORDS + word));
        let mut before = total();
        // Far less than a quarter comes in between, if it is the same before and after.
        let [frames, bytes] = loop {
            let present = self.counters.accounts.read(account);
            let after = total();
            if after == before {
                break now(after, present);
            }
            before = after;
        };
        Sent { frames, bytes, flows: self.counters.begun.read(account) }
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

/// Frames and bytes: a total, which `account` has gone on from by less than half of what 32 bits have room for, or is not quite at yet.
fn now(total: [u64; 2], account: u64) -> [u64; 2] {
    let on = |total: u64, part: u64| {
        total.wrapping_add_signed((part as u32).wrapping_sub(total as u32).cast_signed().into())
    };
    [on(total[0], account), on(total[1], account >> 32)]
}

impl Counters {
    /// All of a range begins at 0. Nobody counts there.
    pub fn clear(&self, places: &Places) {
        for core in 0..self.cores {
            let tally = core * LAYOUTS + places.tally as usize;
            self.tallies.clear(tally * TALLY_WORDS, TALLY_WORDS);
            let account = core * self.of_core as usize + places.accounts.first as usize;
            self.accounts.clear(account, places.accounts.count as usize);
            self.totals.clear(account * TOTAL_WORDS, places.accounts.count as usize * TOTAL_WORDS);
            self.begun.clear(account, places.accounts.count as usize);
            let service = core * self.services_of_core as usize + places.latencies.first as usize;
            self.listed.clear(service * LISTED_WORDS, places.latencies.count as usize * LISTED_WORDS);
            self.limited.clear(service * LIMITED_WORDS, places.latencies.count as usize * LIMITED_WORDS);
        }
        let (first, services) = (places.latencies.first as usize, places.latencies.count as usize);
        self.latencies.clear(first * LATENCY_WORDS, services * LATENCY_WORDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `enter` and `total_up` of src/bpf/counters.h do it.
    struct Account {
        total: [u64; 2],
        account: u64,
    }

    impl Account {
        fn enter(&mut self, frames: u32, bytes: u32) {
            let before = self.account;
            let part = |shift: u32, by: u32| u64::from(((before >> shift) as u32).wrapping_add(by)) << shift;
            self.account = part(0, frames) | part(32, bytes);
            if (before ^ self.account) & 0xc000_0000_c000_0000 != 0 {
                let on = |total: u64, part: u64| total + u64::from((part as u32).wrapping_sub(total as u32));
                self.total = [on(self.total[0], self.account), on(self.total[1], self.account >> 32)];
            }
        }
    }

    /// Whatever of the two a reader sees first, and whether or not the total is there yet.
    #[test]
    fn an_account_and_its_total_say_all_that_was_counted() {
        let (mut account, mut all) = (Account { total: [0; 2], account: 0 }, [0u64; 2]);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100_000 {
            let (frames, bytes) = (random.u32(..1 << 26), random.u32(..1 << 28));
            let total = account.total;
            account.enter(frames, bytes);
            all = [all[0] + u64::from(frames), all[1] + u64::from(bytes)];
            assert_eq!(now(account.total, account.account), all);
            assert_eq!(now(total, account.account), all, "the total comes later");
        }
        assert!(all[0] > 1 << 40 && all[1] > 1 << 42);
    }
}
