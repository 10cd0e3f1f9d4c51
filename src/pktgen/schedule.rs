//! When frames are due. The times are fixed before the first frame is sent, and a frame that goes late is still timed from when it
//! was due: what waits behind a stall is not left out of the latency, nor counted as if it had been sent later (coordinated
//! omission).

/// A constant rate. The interval is kept in units of 2^-32 ns, as in the kernel's program, so that both say the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    interval: u64,
}

const NS: u128 = 1_000_000_000;

impl Schedule {
    /// The highest rate that an interval can still be told of.
    pub const MOST_PPS: u64 = 1_000_000_000;

    /// A frame each `1 / pps` seconds.
    ///
    /// # Panics
    /// The rate is 0, or above `MOST_PPS`.
    pub fn new(pps: u64) -> Schedule {
        assert!((1..=Schedule::MOST_PPS).contains(&pps), "{pps}");
        let pps = u128::from(pps);
        Schedule { interval: (((NS << 32) + pps / 2) / pps) as u64 }
    }

    /// When a frame is due after the first: whole nanoseconds, and 2^-32 of them. So long it is from any frame to the one so many
    /// numbers later, too.
    #[inline]
    pub fn exact(self, number: u64) -> (u64, u32) {
        let due = u128::from(number) * u128::from(self.interval);
        ((due >> 32) as u64, due as u32)
    }

    /// When a frame is due, in nanoseconds after the first.
    #[inline]
    pub fn due(self, number: u64) -> u64 {
        self.exact(number).0
    }

    /// How many frames are due so many nanoseconds after the first, which is the first of them.
    #[inline]
    pub fn count(self, ns: u64) -> u64 {
        let end = (u128::from(ns) + 1) << 32;
        ((end - 1) / u128::from(self.interval)) as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rate_is_met_to_the_frame() {
        for (pps, seconds) in [(1, 3600), (3, 1000), (1_000_000, 100), (1_488_095, 3600), (Schedule::MOST_PPS, 60)] {
            let schedule = Schedule::new(pps);
            let drift = schedule.due(pps * seconds).abs_diff(seconds * NS as u64);
            assert!(drift <= seconds, "{pps} a second is off by {drift} ns after {seconds} s");
        }
        assert_eq!(Schedule::new(1_000_000).exact(1), (1000, 0));
    }

    proptest! {
        #[test]
        fn a_frame_counts_from_when_it_is_due(pps in 1..=Schedule::MOST_PPS, number in 0u64..1 << 40) {
            let schedule = Schedule::new(pps);
            let due = schedule.due(number);
            prop_assert!(schedule.count(due) > number);
            prop_assert!(due == 0 || schedule.count(due - 1) <= number);
        }

        #[test]
        fn adding_intervals_up_as_the_program_does_comes_to_the_same(
            (pps, first, stride) in (1..=Schedule::MOST_PPS, 0u64..100, 1u64..100),
        ) {
            let schedule = Schedule::new(pps);
            let (ns, part) = schedule.exact(stride);
            let (mut due, fraction) = schedule.exact(first);
            let mut fraction = u64::from(fraction);
            for nth in 0..1000 {
                prop_assert_eq!(schedule.due(first + nth * stride), due);
                fraction += u64::from(part);
                due += ns + (fraction >> 32);
                fraction &= u64::from(u32::MAX);
            }
        }
    }
}
