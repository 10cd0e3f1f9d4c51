//! What became of the frames of a client that an operator watches, as the program notes it.

use aya::maps::{MapData, MapError, RingBuf};
use std::os::fd::{AsRawFd, RawFd};

use crate::verdict::Reason;

/// `struct seen` of src/bpf/watch.h
const BYTES: usize = 32;

/// A frame of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Nanoseconds, on the clock of the ports.
    pub at: u64,
    pub queue: u32,
    pub bytes: u32,
    /// Of the flow; 0 where it is not known.
    pub protocol: u8,
    /// By the service; the server is `destination`, as `Table::server` has it.
    pub verdict: Fate,
    /// In which layout's books it was counted.
    pub tally: u32,
}

/// A verdict, before the destination is told as a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Forward { service: u16, destination: u32 },
    Drop(Reason),
    Pass,
}

/// Frames that were noted, oldest first. Can be polled.
pub struct Events(RingBuf<MapData>);

impl Events {
    pub(super) fn new(map: MapData) -> Result<Events, MapError> {
        RingBuf::try_from(aya::maps::Map::RingBuf(map)).map(Events)
    }
}

/// From the oldest that was not read.
impl Iterator for Events {
    type Item = Noted;

    fn next(&mut self) -> Option<Noted> {
        let item = self.0.next()?;
        let event: &[u8; BYTES] = item.first_chunk().expect("the program reserves so many bytes");
        let word = |at: usize| u32::from_ne_bytes(*event[at..].first_chunk().expect("within it"));
        let [low, high] = [word(20) as u16, (word(20) >> 16) as u16];
        let [verdict, protocol] = high.to_le_bytes();
        Some(Noted {
            at: u64::from(word(0)) | u64::from(word(4)) << 32,
            queue: word(8),
            bytes: word(12),
            protocol,
            verdict: match verdict as usize {
                0 => Fate::Pass,
                reason if reason <= Reason::COUNT => Fate::Drop(Reason::ALL[reason - 1]),
                _ => Fate::Forward { service: low, destination: word(16) },
            },
            tally: word(24),
        })
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
