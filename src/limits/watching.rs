//! Of frames that operators look at: `ctl trace`, `ctl capture` and `ctl talkers`.

use std::time::Duration;

/// Most bytes of a frame that a capture keeps: SNAP_MOST of src/bpf/watch.h.
pub const CAPTURE_SNAP: usize = 9216;

/// Bytes of a frame that a capture keeps, unless it is told otherwise.
pub const CAPTURE_SNAP_DEFAULT: usize = 2048;

/// Room for the frames of a capture, in bytes, between two looks of the control thread.
pub const CAPTURE_ROOM: usize = 16 << 20;

/// Most frames in that room.
pub const CAPTURE_FRAMES: usize = 16 << 10;

/// How often the control thread takes captured frames out of their room.
pub const CAPTURE_EVERY: Duration = Duration::from_millis(20);

/// How often a capture says how many frames were lost, and thereby notices that nobody reads it.
pub const CAPTURE_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Pieces of a capture, one a look, that wait for whoever reads it; later frames stay in their room.
pub const CAPTURE_PIECES: usize = 2;

/// Longest capture in seconds.
pub const CAPTURE_MOST_S: u64 = 86_400;

/// Bytes that are looked at of a frame to learn who sends most: enough for every header of a SYN.
pub const TALKERS_SNAP: usize = 256;

/// Sources of all services that are counted at a time: who sends more than a 4,096th of all frames is among them.
pub const TALKERS: usize = 4096;

/// Sources of a service that are shown, unless it is told otherwise, and at most.
pub const TALKERS_SHOWN_DEFAULT: u32 = 10;
pub const TALKERS_SHOWN: u32 = 1000;

/// Bits of an address by which sources are told apart, unless it is told otherwise: a client has a /64 of IPv6.
pub const TALKERS_PREFIX_V4: u8 = 32;
pub const TALKERS_PREFIX_V6: u8 = 64;

/// Frames that are looked at in a second, unless it is told otherwise.
pub const TALKERS_PER_S: u64 = 20_000;

/// `ctl top` and the page: one look for all that show it, so often and for so long, while somebody does.
pub const TALKERS_VIEW_EVERY: Duration = Duration::from_secs(5);
pub const TALKERS_VIEW_FOR: Duration = Duration::from_secs(1);

/// What is older than that is not shown any more.
pub const TALKERS_VIEW_MOST: Duration = Duration::from_secs(15);

/// Sources that they show, of all services together.
pub const TALKERS_VIEW_SHOWN: usize = 20;

const _: () = assert!(TALKERS_VIEW_FOR.as_millis() * 2 < TALKERS_VIEW_EVERY.as_millis());

/// Frames that one trace notes.
pub const TRACED_FRAMES: usize = 1024;
