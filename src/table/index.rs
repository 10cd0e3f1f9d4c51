//! A read-only hash table for the hot path: open addressing, linear probing, at most a quarter full, so that nearly every
//! look-up is one multiplication and one cache line. Keys come from the configuration, never from a client.

/// What can be looked up.
pub trait Key: Copy + Eq + Default {
    /// A number whose upper bits depend on the whole key.
    fn spread(self) -> u64;
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Key for u32 {
    #[inline(always)]
    fn spread(self) -> u64 {
        (self as u64).wrapping_mul(GOLDEN)
    }
}

impl Key for u64 {
    #[inline(always)]
    fn spread(self) -> u64 {
        (self ^ self >> 32).wrapping_mul(GOLDEN)
    }
}

impl Key for u128 {
    #[inline(always)]
    fn spread(self) -> u64 {
        ((self as u64) ^ ((self >> 64) as u64).rotate_left(32)).spread()
    }
}

#[derive(Clone, Copy)]
struct Entry<K> {
    key: K,
    value: u32,
}

/// In an entry: free.
const FREE: u32 = u32::MAX;

pub struct Index<K> {
    shift: u32,
    entries: Box<[Entry<K>]>,
}

impl<K: Key> Index<K> {
    /// Of equal keys the first stays.
    pub fn new(pairs: impl IntoIterator<Item = (K, u32)>) -> Index<K> {
        let pairs: Vec<(K, u32)> = pairs.into_iter().collect();
        let len = (4 * pairs.len().max(1)).next_power_of_two();
        let free = Entry { key: K::default(), value: FREE };
        let mut index = Index { shift: 64 - len.ilog2(), entries: vec![free; len].into_boxed_slice() };
        for (key, value) in pairs {
            assert_ne!(value, FREE, "the sentinel is not a value");
            index.insert(key, value);
        }
        index
    }

    fn insert(&mut self, key: K, value: u32) {
        let mut at = (key.spread() >> self.shift) as usize;
        loop {
            let entry = &mut self.entries[at];
            if entry.value == FREE {
                *entry = Entry { key, value };
                return;
            }
            if entry.key == key {
                return;
            }
            at = (at + 1) & (self.entries.len() - 1);
        }
    }

    #[inline(always)]
    pub fn get(&self, key: K) -> Option<u32> {
        let mut at = (key.spread() >> self.shift) as usize;
        loop {
            let entry = self.entries[at];
            if entry.value == FREE {
                return None;
            }
            if entry.key == key {
                return Some(entry.value);
            }
            at = (at + 1) & (self.entries.len() - 1);
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
        }
    }
}
