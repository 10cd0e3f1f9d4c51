//! First choice per slot: Maglev's population (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4), with exact weights.
//!
//! Every server walks the slots in a permutation of its own and takes the next free one when it is its turn. The paper
//! lets turns go round; here server i gets exactly `quota(i)` turns, its exact share rounded to a neighbouring integer,
//! spread evenly over the whole population. The order of the servers in the configuration has no influence: turns and
//! permutations depend on names and weights alone.

use crate::hash::{self, Key, siphash};

/// In a slot: no server.
pub const NOBODY: u16 = 0x7fff;

/// A server as selection sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate<'a> {
    pub name: &'a str,
    pub weight: u32,
}

/// The candidates' positions, sorted by name: the order that decides where two are equal.
pub fn by_name(candidates: &[Candidate]) -> Vec<u16> {
    let mut order: Vec<u16> = (0..candidates.len() as u16).collect();
    order.sort_by_key(|i| candidates[*i as usize].name);
    order
}

/// The server of every slot: positions in `candidates`, or `NOBODY` in all slots where every weight is 0.
/// `slots` is prime.
pub fn populate(key: Key, candidates: &[Candidate], slots: u32) -> Box<[u16]> {
    let mut table = vec![NOBODY; slots as usize].into_boxed_slice();
    let order = by_name(candidates);
    let weights: Vec<u32> = order.iter().map(|i| candidates[*i as usize].weight).collect();
    let mut walks: Vec<Walk> = order.iter().map(|i| Walk::new(key, candidates[*i as usize].name, slots)).collect();
    let mut free = Free::new(slots);
    for turn in turns(&quotas(&weights, slots), slots) {
        let slot = walks[turn as usize].take(&mut free, slots);
        table[slot as usize] = order[turn as usize];
    }
    table
}

/// How many slots each weight gets: `slots * weight / total`, rounded down or up so that the sum is `slots` (largest
/// remainders up, the earlier of equals first). All 0 where every weight is.
pub fn quotas(weights: &[u32], slots: u32) -> Vec<u32> {
    let total: u64 = weights.iter().map(|w| *w as u64).sum();
    if total == 0 {
        return vec![0; weights.len()];
    }
    let exact = |weight: u32| slots as u64 * weight as u64;
    let mut quotas: Vec<u32> = weights.iter().map(|w| (exact(*w) / total) as u32).collect();
    let mut left = slots - quotas.iter().sum::<u32>();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|i| std::cmp::Reverse(exact(weights[*i]) % total));
    for i in by_remainder {
        if left == 0 {
            break;
        }
        quotas[i] += 1;
        left -= 1;
    }
    quotas
}

/// Whose turn it is, `slots` times: each of a server's `quota` turns falls at an even distance from the one before
/// (round `k * rounds / quota` of as many rounds as the largest quota), servers of one round in their order.
/// A counting sort by round, because with 1,000 servers of unequal weight most have no turn in most rounds.
fn turns(quotas: &[u32], slots: u32) -> Vec<u16> {
    let rounds = quotas.iter().copied().max().unwrap_or(0) as usize;
    if rounds == 0 {
        return Vec::new();
    }
    // The round of turn k, in 32.32 fixed point: quota < 2^24, so k * step stays below 2^56.
    let step = |quota: u32| ((rounds as u64) << 32) / quota as u64;
    let round = |k: u32, step: u64| ((k as u64 * step) >> 32) as usize;
    let mut starts = vec![0u32; rounds + 1];
    for quota in quotas.iter().filter(|q| **q > 0) {
        let step = step(*quota);
        (0..*quota).for_each(|k| starts[round(k, step) + 1] += 1);
    }
    for r in 1..starts.len() {
        starts[r] += starts[r - 1];
    }
    let mut turns = vec![0u16; slots as usize];
    for (server, quota) in quotas.iter().enumerate().filter(|(_, q)| **q > 0) {
        let step = step(*quota);
        for k in 0..*quota {
            let next = &mut starts[round(k, step)];
            turns[*next as usize] = server as u16;
            *next += 1;
        }
    }
    turns
}

/// A server's permutation of the slots: offset, offset + skip, offset + 2 skip, ... modulo the prime number of slots.
struct Walk {
    at: u32,
    skip: u32,
}

impl Walk {
    fn new(key: Key, name: &str, slots: u32) -> Walk {
        let hash = siphash::bytes(key, name.as_bytes());
        let (high, low) = ((hash >> 32) << 32, hash << 32);
        // Two independent numbers of 32 bits each, scaled as clients' hashes are.
        Walk { at: hash::slot(high, slots), skip: 1 + hash::slot(low, slots - 1) }
    }

    fn take(&mut self, free: &mut Free, slots: u32) -> u32 {
        loop {
            let slot = self.at;
            let next = slot + self.skip;
            self.at = if next >= slots { next - slots } else { next };
            if free.take(slot) {
                return slot;
            }
        }
    }
}

/// Which slots are free, a bit each: 8 KiB for 65,537, where the table itself would be 128 KiB.
struct Free {
    words: Vec<u64>,
}

impl Free {
    fn new(slots: u32) -> Free {
        Free { words: vec![u64::MAX; slots.div_ceil(64) as usize] }
    }

    fn take(&mut self, slot: u32) -> bool {
        let word = &mut self.words[(slot / 64) as usize];
        let bit = 1 << (slot % 64);
        let was_free = *word & bit != 0;
        *word &= !bit;
        was_free
    }
}
