//! Times as the programs in the kernel count them (`struct times`, src/bpf/pktgen.h), and the way from there to HdrHistogram, whose
//! buckets with two digits are the same.

use crate::metrics::buckets::{BUCKETS, DIGITS, MAX_NS, bucket_of, lowest};
use hdrhistogram::Histogram;

const SCALARS: usize = 4;

/// Words of a `struct times`.
pub const WORDS: usize = SCALARS + BUCKETS;

/// A histogram of times in nanoseconds, with its exact sum and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    pub count: u64,
    pub sum: u64,
    /// 0 where nothing was counted.
    pub least: u64,
    pub most: u64,
    buckets: Vec<u64>,
}

impl Default for Times {
    fn default() -> Times {
        Times { count: 0, sum: 0, least: 0, most: 0, buckets: vec![0; BUCKETS] }
    }
}

impl Times {
    /// Adds what one core counted.
    pub fn add(&mut self, words: &[u64; WORDS]) {
        let (scalars, buckets) = words.split_first_chunk().expect("there are more words");
        self.gain(*scalars, buckets);
    }

    pub fn merge(&mut self, other: &Times) {
        self.gain([other.count, other.sum, other.least, other.most], &other.buckets);
    }

    fn gain(&mut self, [count, sum, least, most]: [u64; SCALARS], buckets: &[u64]) {
        if count == 0 {
            return;
        }
        self.least = if self.count == 0 { least } else { self.least.min(least) };
        self.most = self.most.max(most);
        self.count += count;
        self.sum += sum;
        self.buckets.iter_mut().zip(buckets).for_each(|(sum, count)| *sum += count);
    }

    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.least = if self.count == 0 { ns } else { self.least.min(ns) };
        self.most = self.most.max(ns);
        self.count += 1;
        self.sum += ns;
        self.buckets[bucket_of(ns)] += 1;
    }

    /// The buckets that hold something: the lowest value of each, and how many.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.buckets.iter().enumerate().filter(|(_, count)| **count > 0).map(|(at, count)| (lowest(at), *count))
    }

    /// What was counted since `earlier`, which is a former state of the same.
    pub fn since(&self, earlier: &Times) -> Histogram<u64> {
        let mut histogram = empty();
        let before = earlier.buckets.iter();
        for (at, (count, before)) in self.buckets.iter().zip(before).enumerate() {
            // Cores count on while they are read.
            let gained = count.saturating_sub(*before);
            if gained > 0 {
                histogram.record_n(lowest(at), gained).expect("every bucket is within the bounds");
            }
        }
        histogram
    }

    /// At a share of the values from the smallest on, within 1 %; 0 where nothing was counted.
    pub fn quantiles<const N: usize>(&self, shares: [f64; N]) -> [u64; N] {
        let histogram = self.since(&Times::default());
        // A bucket goes by its last value, which may be beyond what was seen.
        shares.map(|share| histogram.value_at_quantile(share).clamp(self.least, self.most))
    }

    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_NS, DIGITS).expect("the bounds are valid")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_those_of_an_hdr_histogram(values in proptest::collection::vec(0u64..1 << 30, 1..200)) {
            let (mut times, mut histogram) = (Times::default(), empty());
            for value in &values {
                times.record(*value);
                histogram.record(*value).unwrap();
            }
            let most = *values.iter().max().unwrap();
            for share in [0.5, 0.9, 0.99, 1.0] {
                prop_assert_eq!(times.quantiles([share])[0], histogram.value_at_quantile(share).min(most));
            }
            prop_assert_eq!((times.least, times.most), (*values.iter().min().unwrap(), most));
        }
    }
}
