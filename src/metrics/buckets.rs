//! The buckets that times are counted in: HdrHistogram's with two digits, worked out with constants. Each time below 256 ns has its
//! own, then 128 share each power of two, so that a bucket is no wider than 1/128 of its times.

/// Longest time that is told apart, in nanoseconds (17 s); longer ones count as this.
pub const MAX_NS: u64 = (1 << 34) - 1;

/// Significant decimal digits of a `Histogram` with these buckets.
pub const DIGITS: u8 = 2;

pub const BUCKETS: usize = 3584;

/// The twin of `bucket_of` in bpf/pktgen.h.
#[inline(always)]
pub fn bucket_of(ns: u64) -> usize {
    let ns = ns.min(MAX_NS);
    // The length of the time in bits, beyond eight.
    let shift = 56 - (ns | 128).leading_zeros();
    shift as usize * 128 + (ns >> shift) as usize
}

/// The shortest time of a bucket.
pub fn lowest(bucket: usize) -> u64 {
    let shift = (bucket / 128).saturating_sub(1);
    ((bucket - shift * 128) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::Histogram;
    use proptest::prelude::*;

    #[test]
    fn a_bucket_begins_where_the_one_before_ends() {
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(lowest(bucket)), bucket);
            assert!(bucket == 0 || bucket_of(lowest(bucket) - 1) == bucket - 1, "{bucket}");
        }
        assert_eq!((bucket_of(MAX_NS), bucket_of(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
    }

    proptest! {
        #[test]
        fn buckets_are_hdr_histograms_own(value in 0..=MAX_NS, shift in 0u32..34) {
            let histogram = Histogram::<u64>::new_with_bounds(1, MAX_NS, DIGITS).unwrap();
            let value = value >> shift;
            prop_assert_eq!(lowest(bucket_of(value)), histogram.lowest_equivalent(value));
            prop_assert!((histogram.highest_equivalent(value) - lowest(bucket_of(value))) * 100 <= value.max(100));
        }
    }
}
