//! Workers' turns: how often they tell that they turn, and when they sleep.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How long a worker may be without a turn before its frames are dispatched by the program in front of its ring, where the
/// configuration does not say; in milliseconds. A ring holds what comes in a few.
pub const DEFAULT_HEARTBEAT_MS: u32 = 100;

/// The least is twice what the coarse clock may be behind (10 ms, at 100 Hz).
pub const HEARTBEAT_MS: RangeInclusive<u32> = 20..=60_000;

/// A worker says that it turns once in so many turns.
pub const BEAT_TURNS: u32 = 16;

/// Turns without a frame after which a worker sleeps, where it may: some tenths of a millisecond.
pub const IDLE_TURNS: u32 = 4096;

/// The longest sleep of a worker, however long it may be silent: it has tables to look for, and a stop.
pub const IDLE_MOST: Duration = Duration::from_millis(10);

/// The sleep of a worker whom nothing wakes when frames come. A ring holds what comes meanwhile.
pub const IDLE_PAUSE: Duration = Duration::from_micros(100);
