//! CLOCK_MONOTONIC read by the time stamp counter, which costs a few nanoseconds instead of some twenty.
//!
//! The counter's rate has to be measured: DPDK's own figure is rounded to 10 MHz, which put the clock 160 us off in 100 ms (tests/dpdk).
//! And CLOCK_MONOTONIC is slewed by NTP: left alone, the two would drift apart by a second a day. So the first rate is that of
//! `TSC_FIRST_STEP` at the start; then the clock is set by CLOCK_MONOTONIC again each `TSC_STEP`, and takes its rate from the step before.
//! Between two settings it errs by what the two readings of a rate err, tens of nanoseconds.

use super::ethdev;
use crate::limits::{TSC_FIRST_STEP, TSC_STEP};
use rustix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;
use std::thread;

/// One reading of both clocks at the same time.
#[derive(Clone, Copy)]
struct Pair {
    ticks: u64,
    ns: u64,
}

pub(super) struct Clock {
    last: Pair,
    /// Nanoseconds a tick, times 2^32.
    rate: u64,
    /// Ticks from one setting to the next.
    step: u64,
}

impl Clock {
    pub(super) fn new() -> Clock {
        let rate = first_rate();
        let step = ((TSC_STEP.as_nanos() << 32) / u128::from(rate)) as u64;
        Clock { last: Pair::read(), rate, step }
    }

    /// When the counter stood there, in nanoseconds.
    #[inline]
    pub(super) fn at(&self, ticks: u64) -> u64 {
        self.last.ns + ((u128::from(ticks.saturating_sub(self.last.ticks)) * u128::from(self.rate)) >> 32) as u64
    }

    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.at(ethdev::ticks())
    }

    /// Sets the clock if it is time to.
    #[inline]
    pub(super) fn keep(&mut self, ticks: u64) {
        if ticks.saturating_sub(self.last.ticks) >= self.step {
            self.set(Pair::read());
        }
    }

    #[cold]
    fn set(&mut self, pair: Pair) {
        self.rate = rate_between(self.last, pair).unwrap_or(self.rate);
        self.last = pair;
    }
}

/// Nanoseconds a tick, times 2^32; `None` where one of the clocks stood still.
fn rate_between(from: Pair, to: Pair) -> Option<u64> {
    let (ticks, ns) = (to.ticks.saturating_sub(from.ticks), to.ns.saturating_sub(from.ns));
    (ticks > 0 && ns > 0).then(|| ((u128::from(ns) << 32) / u128::from(ticks)) as u64)
}

/// Measured once a process.
fn first_rate() -> u64 {
    static RATE: OnceLock<u64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let from = Pair::read();
        thread::sleep(TSC_FIRST_STEP);
        rate_between(from, Pair::read()).expect("both clocks go on")
    })
}

impl Pair {
    /// The closest of a few tries: something may come between the two readings.
    fn read() -> Pair {
        let tries = (0..4).map(|_| {
            let (before, time, after) = (ethdev::ticks(), clock_gettime(ClockId::Monotonic), ethdev::ticks());
            let ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
            (after - before, Pair { ticks: before + (after - before) / 2, ns })
        });
        tries.min_by_key(|(gap, _)| *gap).expect("there are tries").1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_what_was_read() {
        let mut clock = Clock { last: Pair { ticks: 1_000, ns: 5_000 }, rate: 1 << 31, step: 100 };
        assert_eq!(clock.at(1_200), 5_100);
        assert_eq!(clock.at(900), 5_000, "a counter that stands behind is taken for the last setting");
        clock.set(Pair { ticks: 2_000, ns: 5_250 });
        assert_eq!((clock.at(2_000), clock.at(6_000)), (5_250, 6_250));
    }

    /// A year of ticks does not overflow.
    #[test]
    fn long_spans_keep_their_precision() {
        let clock = Clock { last: Pair { ticks: 0, ns: 0 }, rate: (1 << 32) / 4, step: 1 };
        let year = 365 * 24 * 3600 * 1_000_000_000u64;
        assert_eq!(clock.at(4 * year), year);
    }
}
