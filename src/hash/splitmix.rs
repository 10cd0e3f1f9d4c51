//! SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): numbers that look random and
//! need not be secret.

/// What the state grows by at each step: odd, 2^64 divided by the golden ratio.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer: each bit of the outcome hangs on each of the number.
#[inline(always)]
pub const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Of so many equal regions of 64 bits, the one that a number is in.
#[inline(always)]
pub const fn scale(number: u64, regions: u64) -> u64 {
    ((number >> 32) * regions) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for the seed 1234567, as the authors' reference program prints them.
    #[test]
    fn it_is_the_published_generator() {
        let outputs: Vec<u64> = (1..=3).map(|step| mix(1_234_567 + STEP.wrapping_mul(step))).collect();
        assert_eq!(outputs, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    /// Regions are equal, and one behind the other; slots are such regions.
    #[test]
    fn a_number_is_in_the_region_where_it_lies() {
        for (number, region) in
            [(0, 0), (u64::MAX / 4, 0), (u64::MAX / 3 + (1 << 33), 1), (u64::MAX / 2, 1), (u64::MAX, 2)]
        {
            assert_eq!(scale(number, 3), region, "{number:#x}");
            assert_eq!(u64::from(crate::hash::slot(number, 3)), region, "{number:#x}");
        }
    }
}
