//! A read-only hash table for the hot path: open addressing, linear probing, at most an eighth full (with many keys a quarter, for
//! the caches), multiplicative hashing with the best of many factors. Up to some thousand keys nearly each ends where it belongs, so
//! that a look-up is one multiplication, one cache line and no branch that depends on the key. Keys come from the configuration,
//! never from a client: nobody outside can make a look-up slow.

use crate::hash::splitmix;

/// What can be looked up.
pub trait Key: Copy + Eq + Default {
    /// All of the key's bits in one word.
    fn fold(self) -> u64;
}

impl Key for u32 {
    #[inline(always)]
    fn fold(self) -> u64 {
        self as u64
    }
}

/// Multiplication carries every bit into the upper ones, which `home` takes.
impl Key for u64 {
    #[inline(always)]
    fn fold(self) -> u64 {
        self
    }
}

impl Key for u128 {
    #[inline(always)]
    fn fold(self) -> u64 {
        (self as u64) ^ ((self >> 64) as u64).rotate_left(24)
    }
}

/// A pair folds to both.
impl<A: Key> Key for (A, u32) {
    #[inline(always)]
    fn fold(self) -> u64 {
        self.0.fold() ^ (self.1 as u64).rotate_left(44)
    }
}

#[derive(Clone, Copy)]
struct Entry<K> {
    key: K,
    value: u32,
}

/// No value. In an entry: free.
pub const NONE: u32 = u32::MAX;

/// Factors tried for the best one, and keys in all, so that many take no longer than a few milliseconds.
const TRIES: usize = 200;
const TRIED: usize = 1 << 20;

pub struct Index<K> {
    factor: u64,
    shift: u32,
    entries: Box<[Entry<K>]>,
}

impl<K: Key> Index<K> {
    /// Of equal keys the first stays.
    pub fn new(pairs: impl IntoIterator<Item = (K, u32)>) -> Index<K> {
        let pairs: Vec<(K, u32)> = pairs.into_iter().collect();
        assert!(pairs.iter().all(|(_, value)| *value != NONE), "the sentinel is not a value");
        let len = (pairs.len() * if pairs.len() <= 512 { 8 } else { 4 }).next_power_of_two().max(2);
        let free = Entry { key: K::default(), value: NONE };
        let mut index = Index { factor: 0, shift: 64 - len.ilog2(), entries: vec![free; len].into_boxed_slice() };
        // Odd factors (Knuth, TAOCP vol. 3, section 6.4) that have nothing in common: addresses that follow one another are a lattice, for
        // which one factor places half of thousands, and the next one all.
        let tries = (TRIED / pairs.len().max(1)).clamp(1, TRIES);
        let mut least = usize::MAX;
        for factor in (1..=tries as u64).map(|at| splitmix::mix(splitmix::STEP.wrapping_mul(at)) | 1) {
            let displaced = index.displaced(factor, &pairs);
            if displaced < least {
                (least, index.factor) = (displaced, factor);
            }
            if least == 0 {
                break;
            }
        }
        for (key, value) in pairs {
            index.insert(key, value);
        }
        index
    }

    /// How many keys would find their entry taken already.
    fn displaced(&self, factor: u64, pairs: &[(K, u32)]) -> usize {
        let mut taken = vec![0u64; self.entries.len().div_ceil(64)];
        let mut take = |(key, _): &(K, u32)| {
            let at = (key.fold().wrapping_mul(factor) >> self.shift) as usize;
            let is_taken = taken[at / 64] >> (at % 64) & 1 != 0;
            taken[at / 64] |= 1 << (at % 64);
            is_taken
        };
        pairs.iter().filter(|pair| take(pair)).count()
    }

    fn insert(&mut self, key: K, value: u32) {
        let mut at = self.view().home(key);
        while self.entries[at].value != NONE {
            if self.entries[at].key == key {
                return;
            }
            at = (at + 1) & (self.entries.len() - 1);
        }
        self.entries[at] = Entry { key, value };
    }

    /// Every key, with its value, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (K, u32)> {
        self.entries.iter().filter(|entry| entry.value != NONE).map(|entry| (entry.key, entry.value))
    }

    /// What a loop over a burst holds in registers.
    #[inline(always)]
    pub fn view(&self) -> View<'_, K> {
        View { factor: self.factor, shift: self.shift, entries: &self.entries }
    }

    #[inline(always)]
    pub fn get(&self, key: K) -> Option<u32> {
        self.view().get(key)
    }
}

/// An index, by its parts.
#[derive(Clone, Copy)]
pub struct View<'a, K> {
    factor: u64,
    shift: u32,
    entries: &'a [Entry<K>],
}

impl<K: Key> View<'_, K> {
    #[inline(always)]
    fn home(self, key: K) -> usize {
        (key.fold().wrapping_mul(self.factor) >> (self.shift & 63)) as usize
    }

    #[inline(always)]
    pub fn get(self, key: K) -> Option<u32> {
        let value = self.find(key);
        (value != NONE).then_some(value)
    }

    /// As `get`; `NONE` where there is none.
    #[inline(always)]
    pub fn find(self, key: K) -> u32 {
        let at = self.home(key);
        let entry = &self.entries[at];
        if entry.key == key || entry.value == NONE { entry.value } else { self.probe(at, key) }
    }

    /// What stands behind the entry that the key would have had.
    #[inline(never)]
    fn probe(self, mut at: usize, key: K) -> u32 {
        loop {
            at = (at + 1) & (self.entries.len() - 1);
            let entry = &self.entries[at];
            if entry.key == key || entry.value == NONE {
                return entry.value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn same<K: Key + std::hash::Hash + std::fmt::Debug>(pairs: &[(K, u32)], asked: &[K]) {
        let mut naive = HashMap::new();
        for (key, value) in pairs {
            naive.entry(*key).or_insert(*value);
        }
        let index = Index::new(pairs.iter().copied());
        for key in pairs.iter().map(|p| &p.0).chain(asked) {
            assert_eq!(index.get(*key), naive.get(key).copied(), "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn is_a_map(
            pairs in prop::collection::vec((0u32..500, 0u32..9), 0..200), asked in prop::collection::vec(0u32..600, 0..200),
            wide in prop::collection::vec((any::<u128>(), 0u32..9), 0..50),
        ) {
            same(&pairs, &asked);
            let words: Vec<(u64, u32)> = pairs.iter().map(|p| ((p.0 as u64) << 40 | 7, p.1)).collect();
            same(&words, &[0, 7, u64::MAX]);
            same(&wide, &[0, 1, u128::MAX]);
            let both: Vec<((u32, u32), u32)> = pairs.iter().map(|p| ((p.0 / 7, p.0 % 7), p.1)).collect();
            same(&both, &[(0, 0), (1, 1)]);
        }
    }

    /// More keys than a factor can place: many find their entry taken, and probe.
    #[test]
    fn is_a_map_when_keys_collide() {
        let scattered = |i: u32| i.wrapping_mul(i).wrapping_mul(2_654_435_761);
        let pairs: Vec<(u32, u32)> = (0..20_000).map(|i| (scattered(i), i)).collect();
        let missing: Vec<u32> = (20_000..40_000).map(scattered).collect();
        same(&pairs, &missing);
    }
}
