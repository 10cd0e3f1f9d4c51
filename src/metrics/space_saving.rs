//! Who comes most often, in bounded memory: the space-saving sketch (Metwally, Agrawal and El Abbadi, "Efficient computation of
//! frequent and top-k elements in data streams", ICDT 2005).
//!
//! It counts so many keys. A new key takes the place of the one that came least often, and inherits its count as its error. So a count is never too
//! low, and too high by at most its error, which is at most all that came / keys; a key that came more often than that is in it.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

pub struct SpaceSaving<K> {
    most: usize,
    counts: HashMap<K, Count>,
    /// By how often they came.
    order: BTreeSet<(u64, K)>,
}

/// Of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub frames: u64,
    /// `frames` is too high by at most so many.
    pub error: u64,
    /// What came of it since it has its place.
    pub bytes: u64,
    pub dropped: u64,
    pub begins: u64,
}

/// One that comes.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub bytes: u32,
    pub is_dropped: bool,
    pub begins: bool,
}

impl<K: Clone + Eq + Hash + Ord> SpaceSaving<K> {
    /// Of so many keys, at least 1.
    pub fn new(most: usize) -> SpaceSaving<K> {
        SpaceSaving { most: most.max(1), counts: HashMap::new(), order: BTreeSet::new() }
    }

    pub fn add(&mut self, key: K, frame: Frame) {
        let mut count = match self.counts.get(&key) {
            Some(count) => {
                let count = *count;
                self.order.remove(&(count.frames, key.clone()));
                count
            }
            None => {
                let error = if self.counts.len() < self.most { 0 } else { self.evict() };
                Count { frames: error, error, ..Count::default() }
            }
        };
        count.frames += 1;
        count.bytes += u64::from(frame.bytes);
        count.dropped += u64::from(frame.is_dropped);
        count.begins += u64::from(frame.begins);
        self.order.insert((count.frames, key.clone()));
        self.counts.insert(key, count);
    }

    /// Returns how often the key came that goes.
    fn evict(&mut self) -> u64 {
        let (frames, key) = self.order.pop_first().expect("it is full");
        self.counts.remove(&key);
        frames
    }

    /// Who came most often first.
    pub fn heaviest(&self) -> impl Iterator<Item = (&K, Count)> {
        self.order.iter().rev().map(|(_, key)| (key, self.counts[key]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_are_within_their_bounds(
            keys in proptest::collection::vec(prop_oneof![0..4u32, 0..1000u32], 0..2000), most in 1..50usize,
        ) {
            let (mut sketch, mut naive) = (SpaceSaving::new(most), HashMap::<u32, u64>::new());
            for key in &keys {
                sketch.add(*key, Frame { bytes: 60, is_dropped: key % 3 == 0, begins: key % 2 == 0 });
                *naive.entry(*key).or_default() += 1;
            }
            let found: Vec<(u32, Count)> = sketch.heaviest().map(|(key, count)| (*key, count)).collect();
            prop_assert_eq!(found.len(), naive.len().min(most));
            prop_assert!(found.is_sorted_by(|(_, one), (_, next)| one.frames >= next.frames));
            let bound = keys.len() as u64 / most as u64;
            for (key, count) in &found {
                let real = naive[key];
                prop_assert!(count.error <= bound && (count.frames - count.error..=count.frames).contains(&real));
                prop_assert_eq!(count.bytes, 60 * (count.frames - count.error));
                prop_assert_eq!(count.dropped, if key % 3 == 0 { count.frames - count.error } else { 0 });
                prop_assert_eq!(count.begins, if key % 2 == 0 { count.frames - count.error } else { 0 });
            }
            for (key, real) in naive {
                prop_assert!(real <= bound || found.iter().any(|(found, _)| *found == key), "{} came {} times", key, real);
            }
        }
    }
}
