//! Says at once of most keys that they are not among some: a Bloom filter (Bloom, "Space/time trade-offs in hash coding with allowable errors",
//! 1970) of one hash. It is small enough for the first cache, where an index of the same keys is not.

use super::index::Key;
use crate::hash::splitmix;

/// Bits for each key, at least: one key in so many that is not there seems to be.
const BITS: usize = 16;

pub struct BloomFilter {
    words: Box<[u64]>,
    mask: usize,
}

impl BloomFilter {
    pub fn new(keys: impl ExactSizeIterator<Item = impl Key>) -> BloomFilter {
        let bits = (BITS * keys.len()).next_power_of_two().max(64);
        let mut filter = BloomFilter { words: vec![0; bits / 64].into(), mask: bits - 1 };
        for key in keys {
            let bit = filter.bit(key);
            filter.words[bit / 64] |= 1 << (bit % 64);
        }
        filter
    }

    #[inline(always)]
    fn bit(&self, key: impl Key) -> usize {
        // Both halves of a product: of keys that lie side by side, as addresses do, one half alone is as regular as they are.
        let product = u128::from(key.fold() ^ splitmix::mix(1)) * u128::from(splitmix::mix(2) | 1);
        ((product >> 64) ^ product) as usize & self.mask
    }

    /// `false`: the key is not there.
    #[inline(always)]
    pub fn may_have(&self, key: impl Key) -> bool {
        let bit = self.bit(key);
        self.words[bit / 64] >> (bit % 64) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_there_may_be_there(keys in prop::collection::vec(any::<u32>(), 0..500)) {
            let filter = BloomFilter::new(keys.iter().copied());
            prop_assert!(keys.iter().all(|key| filter.may_have(*key)));
        }
    }

    #[test]
    fn most_of_what_is_not_there_is_known_not_to_be() {
        for count in [0, 1, 10, 4096u32] {
            let filter = BloomFilter::new((0..count).map(|at| at << 3));
            let seem = (0..10_000u32).filter(|at| filter.may_have(0x8000_0000 | at << 4)).count();
            assert!(seem <= 10_000 / 8, "{seem} of 10000 beside {count}");
        }
        let filter = BloomFilter::new((0..4096u32).map(|at| u128::from(at) << 64 | 1));
        let seem = (0..10_000u128).filter(|at| filter.may_have(at << 64 | 2)).count();
        assert!(seem <= 10_000 / 8, "{seem} of 10000");
    }
}
