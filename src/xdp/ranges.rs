//! Which elements of a map are free.

use std::collections::BTreeMap;

/// Elements side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub first: u32,
    pub count: u32,
}

/// The free ones, by their first.
pub struct Free(BTreeMap<u32, u32>);

impl Free {
    pub fn new(range: Range) -> Free {
        Free(BTreeMap::from([(range.first, range.count)]))
    }

    /// The first that are free, if there are so many side by side.
    pub fn take(&mut self, count: u32) -> Option<Range> {
        if count == 0 {
            return Some(Range { first: 0, count });
        }
        let (first, found) = self.0.iter().find(|(_, free)| **free >= count).map(|(first, free)| (*first, *free))?;
        self.0.remove(&first);
        if found > count {
            self.0.insert(first + count, found - count);
        }
        Some(Range { first, count })
    }

    pub fn give_back(&mut self, range: Range) {
        let Range { mut first, mut count } = range;
        if count == 0 {
            return;
        }
        if let Some((before, of)) = self.0.range(..first).next_back().map(|(before, of)| (*before, *of))
            && before + of == first
        {
            self.0.remove(&before);
            (first, count) = (before, count + of);
        }
        if let Some(behind) = self.0.remove(&(first + count)) {
            count += behind;
        }
        self.0.insert(first, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// No element is in two ranges, and when all have come back, all are side by side again.
        #[test]
        fn every_element_is_somebodys_or_free(steps in prop::collection::vec((1u32..20, any::<u16>(), any::<bool>()), 1..80)) {
            let whole = Range { first: 1, count: 100 };
            let (mut free, mut taken) = (Free::new(whole), Vec::<Range>::new());
            for (count, which, gives) in steps {
                if gives && !taken.is_empty() {
                    free.give_back(taken.swap_remove(usize::from(which) % taken.len()));
                } else if let Some(range) = free.take(count) {
                    prop_assert!(range.first >= 1 && range.first + range.count <= 101);
                    let apart = |other: &Range| range.first >= other.first + other.count || other.first >= range.first + range.count;
                    prop_assert!(taken.iter().all(apart), "{range:?} {taken:?}");
                    taken.push(range);
                }
            }
            taken.into_iter().for_each(|range| free.give_back(range));
            prop_assert_eq!(free.take(100), Some(whole));
        }
    }
}
