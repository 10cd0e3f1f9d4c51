//! What the two ways to send have in common.

use super::histogram::Times;
use super::schedule::Schedule;
use std::time::Duration;

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
    /// Most frames, and when to stop in any case, in nanoseconds after `start`. With a schedule a duration is a number of frames, and
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
    /// From the first frame to when one more would have followed the last.
    pub fn seconds(&self) -> f64 {
        match self.frames {
            0 | 1 => 0.0,
            frames => (self.last - self.first) as f64 / 1e9 * frames as f64 / (frames - 1) as f64,
        }
    }
}
