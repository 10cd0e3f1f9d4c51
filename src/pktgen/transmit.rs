//! What the two ways to send have in common.

use super::error::PktgenError;
use super::histogram::Times;
use super::schedule::Schedule;
use std::iter::Sum;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Sends its share of a load, on a thread of its own.
pub trait Sender: Send {
    /// Sends from `start` on until its share of the load is sent, or until `stop`.
    ///
    /// # Errors
    /// It cannot go on.
    fn send(&mut self, start: &Start, stop: &AtomicBool) -> Result<Sent, PktgenError>;
}

/// When the frame of number 0 is due, by CLOCK_MONOTONIC in nanoseconds; to be waited for until all senders are there.
pub type Start = OnceLock<u64>;

/// The frames of one of several senders, who take turns: the number `first`, and every `stride`th after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub first: u64,
    pub stride: u64,
}

impl Share {
    /// All frames.
    pub const WHOLE: Share = Share { first: 0, stride: 1 };

    /// That of each of so many senders.
    pub fn among(senders: usize) -> impl Iterator<Item = Share> {
        let stride = senders as u64;
        (0..stride).map(move |first| Share { first, stride })
    }

    /// The number of its frame that comes after so many others of it.
    #[inline]
    pub fn number(self, before: u64) -> u64 {
        self.first + before * self.stride
    }

    /// How many of the first `count` frames it has.
    #[inline]
    pub fn of(self, count: u64) -> u64 {
        count.saturating_sub(self.first).div_ceil(self.stride)
    }
}

/// How much is sent, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// `None`: as fast as it goes.
    pub schedule: Option<Schedule>,
    pub until: Until,
}

/// When sending ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Count(u64),
    /// After the first frame.
    Elapsed(Duration),
}

impl Load {
    /// Most frames of all senders, and when to stop in any case, in nanoseconds after `start`. With a schedule a duration is a number of frames, and
    /// all of them are sent, however late.
    pub fn bounds(&self, start: u64) -> (u64, u64) {
        match (self.until, self.schedule) {
            (Until::Count(count), _) => (count, u64::MAX),
            (Until::Elapsed(duration), Some(schedule)) => {
                // What is due at the very end is one too many.
                (schedule.count((duration.as_nanos() as u64).saturating_sub(1)), u64::MAX)
            }
            (Until::Elapsed(duration), None) => (u64::MAX, start.saturating_add(duration.as_nanos() as u64)),
        }
    }

    /// How long it takes if all goes well; 0 where that is not known.
    pub fn expected(&self) -> Duration {
        match (self.until, self.schedule) {
            (Until::Elapsed(duration), _) => duration,
            (Until::Count(count), Some(schedule)) => Duration::from_nanos(schedule.due(count)),
            (Until::Count(_), None) => Duration::ZERO,
        }
    }
}

/// What was sent.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Frames handed over to the interface.
    pub frames: u64,
    /// When the first was due, or went if there is no schedule, and when the last went; CLOCK_MONOTONIC in nanoseconds.
    pub first: u64,
    pub last: u64,
    /// How late, by the schedule.
    pub lag: Option<Times>,
}

impl Sent {
    /// From the first frame, whoever sent it, to when one more would have followed the last.
    pub fn seconds(&self) -> f64 {
        match self.frames {
            0 | 1 => 0.0,
            frames => (self.last - self.first) as f64 / 1e9 * frames as f64 / (frames - 1) as f64,
        }
    }
}

/// What several senders sent, together.
impl Sum for Sent {
    fn sum<I: Iterator<Item = Sent>>(senders: I) -> Sent {
        senders.fold(Sent::default(), |sum, sent| {
            let first = match (sum.frames, sent.frames) {
                (0, _) => sent.first,
                (_, 0) => sum.first,
                _ => sum.first.min(sent.first),
            };
            let lag = match (sum.lag, sent.lag) {
                (Some(mut lag), Some(other)) => {
                    lag.merge(&other);
                    Some(lag)
                }
                (lag, other) => lag.or(other),
            };
            Sent { frames: sum.frames + sent.frames, first, last: sum.last.max(sent.last), lag }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_are_together_all_frames_and_each_once(senders in 1usize..9, count in 0u64..200) {
            let mut numbers: Vec<u64> =
                Share::among(senders).flat_map(|share| (0..share.of(count)).map(move |nth| share.number(nth))).collect();
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_senders_sent_is_from_the_first_to_the_last_of_them() {
        let lag = |times: &[u64]| {
            let mut lag = Times::default();
            times.iter().for_each(|time| lag.record(*time));
            Some(lag)
        };
        let idle = Sent { lag: lag(&[]), ..Sent::default() };
        let early = Sent { frames: 2, first: 100, last: 300, lag: lag(&[7, 9]) };
        let late = Sent { frames: 3, first: 150, last: 500, lag: lag(&[3, 8, 1000]) };
        for senders in [[&idle, &early, &late], [&late, &early, &idle], [&early, &idle, &late]] {
            let Sent { frames, first, last, lag: merged } = senders.into_iter().cloned().sum();
            assert_eq!((frames, first, last, merged), (5, 100, 500, lag(&[7, 9, 3, 8, 1000])));
        }
        assert_eq!([idle.clone(), idle].into_iter().sum::<Sent>().seconds(), 0.0);
    }
}
