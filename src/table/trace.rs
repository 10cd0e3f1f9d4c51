//! Frames that an operator wants to see go by: those of one client (`ctl trace`), a capture (`ctl capture`), or some, to learn who sends
//! most (`ctl talkers`).

use super::ServiceId;
use crate::model::Transport;
use crossbeam::queue::ArrayQueue;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stands in the table while somebody watches. Workers look for it once a burst.
pub struct Watch {
    /// Whose frames; `None`: everybody's.
    pub client: Option<IpAddr>,
    pub points: Points,
    /// Most bytes of a frame that are kept.
    pub snap: usize,
    /// Chance takes one frame in so many.
    pub one_in: u32,
    room: ArrayQueue<Box<Note>>,
    seen: ArrayQueue<Box<Note>>,
    lost: AtomicU64,
}

/// Where frames are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Points {
    /// As they came in, with what became of them.
    pub received: bool,
    /// Of those, only what was dropped.
    pub only_dropped: bool,
    /// As they went out to their servers.
    pub sent: bool,
}

impl Points {
    pub const RECEIVED: Points = Points { received: true, only_dropped: false, sent: false };
    pub const SENT: Points = Points { received: false, only_dropped: false, sent: true };
    pub const DROPPED: Points = Points { received: true, only_dropped: true, sent: false };
    pub const ALL: Points = Points { received: true, only_dropped: false, sent: true };
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Nanoseconds, on the clock of the ports.
    pub at: u64,
    pub worker: usize,
    /// Of the whole frame.
    pub bytes: u32,
    /// Of the flow; 0 where it is not known.
    pub protocol: u8,
    /// As it went out, not as it came in.
    pub is_sent: bool,
    /// Of the table by which it was decided: what `service` and `fate` count by.
    pub layout: u64,
    /// Which service a dropped frame was for, where that is known.
    pub service: Option<ServiceId>,
    pub fate: Fate,
}

/// A verdict, by what the table calls things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Forward(ServiceId, u16),
    /// The reason's name.
    Drop(&'static str),
    Pass,
}

/// Room for a frame, with what became of it. Its memory is there from the start, so that a worker allocates nothing.
pub struct Note {
    seen: Option<Seen>,
    bytes: Vec<u8>,
}

impl Note {
    /// Keeps what there is room for.
    pub fn copy(&mut self, frame: &[u8]) {
        let kept = frame.len().min(self.bytes.capacity());
        self.bytes.clear();
        self.bytes.extend_from_slice(&frame[..kept]);
    }
}

impl Watch {
    /// Of one client's frames, without their bytes.
    pub fn new(client: IpAddr, most: usize) -> Watch {
        Watch::capture(Some(client), Points::RECEIVED, 0, most)
    }

    /// With room for `most` frames of at most `snap` bytes.
    pub fn capture(client: Option<IpAddr>, points: Points, snap: usize, most: usize) -> Watch {
        let room = ArrayQueue::new(most);
        for _ in 0..most {
            let _ = room.push(Box::new(Note { seen: None, bytes: Vec::with_capacity(snap) }));
        }
        Watch { client, points, snap, one_in: 1, room, seen: ArrayQueue::new(most), lost: AtomicU64::new(0) }
    }

    /// Of one frame in so many.
    pub fn sampled(self, one_in: u32) -> Watch {
        Watch { one_in, ..self }
    }

    /// Room for a frame, to be given to `put` or `give_back`. `None`: there is no more at present.
    pub fn room(&self) -> Option<Box<Note>> {
        self.room.pop()
    }

    pub fn give_back(&self, note: Box<Note>) {
        let _ = self.room.push(note);
    }

    /// Notes a frame whose bytes are in `note`.
    pub fn put(&self, mut note: Box<Note>, seen: Seen) {
        note.seen = Some(seen);
        let _ = self.seen.push(note);
    }

    /// Counts frames that were not noted for want of room.
    pub fn lose(&self, frames: u64) {
        self.lost.fetch_add(frames, Ordering::Relaxed);
    }

    /// Frames that were not noted, since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The oldest frame that was not taken yet; `look` gets as many of its bytes as were kept.
    pub fn take<T>(&self, look: impl FnOnce(Seen, &[u8]) -> T) -> Option<T> {
        let mut note = self.seen.pop()?;
        let looked = note.seen.take().map(|seen| look(seen, &note.bytes));
        self.give_back(note);
        looked
    }
}

/// The name of a protocol, or its number.
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 | 58 => "icmp".to_owned(),
        _ => Transport::from_protocol(protocol).map_or(protocol.to_string(), |transport| transport.name().to_owned()),
    }
}
