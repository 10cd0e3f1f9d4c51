//! A port over capture files: receives the frames of one, and transmits into another. For `replay`, without a NIC or root.
//!
//! `read` knows pcap (micro- and nanoseconds, both byte orders) and, by `ng`, pcapng, and cuts both from `input`; `write`
//! writes pcap, into an `output` that takes its place only when the run has succeeded; `error` says what can be wrong. `blocks` writes pcapng, for `ctl capture`.

mod blocks;
mod error;
mod input;
mod ng;
mod output;
mod read;
mod write;

pub use blocks::{Blocks, Packet};
pub use error::CaptureError;
pub use output::Output;
pub use read::Reader;

use super::{Burst, Ledger, Port};
use crate::limits::BURST;
use std::path::Path;
use write::Writer;

/// Frames of the port: what the worker holds, and as many again.
const FRAMES: usize = 2 * BURST;

/// A frame, with what the capture says of it.
#[derive(Debug)]
pub struct Frame {
    bytes: Vec<u8>,
    /// Seconds since 1970.
    seconds: u32,
    /// The rest of the timestamp, in the unit of the output: microseconds or nanoseconds.
    fraction: u32,
    /// Length on the wire in bytes; more than `bytes` where the capture cut the frame.
    original: u32,
}

impl Frame {
    /// To be read into.
    pub fn empty() -> Frame {
        Frame { bytes: Vec::with_capacity(2048), seconds: 0, fraction: 0, original: 0 }
    }

    /// As many as were captured.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Receives the frames of one capture and transmits into another, with the timestamps kept.
///
/// `rx` leaves the burst empty at the end of the capture, and also where it cannot go on: ask `error` then. Transmitted frames
/// are in the output only after `finish`.
pub struct Pcap {
    reader: Reader,
    writer: Writer,
    pool: Vec<Frame>,
    /// The frame that comes next, and when it was captured.
    ahead: Option<(u64, Frame)>,
    lent: usize,
    left: u64,
    cut_frames: u64,
    /// Nanoseconds since 1970: the latest frame received.
    now: u64,
    /// No frame is received that was captured at this time or later.
    until: u64,
    /// No frame is to be read any more.
    read: bool,
    error: Option<CaptureError>,
}

impl Pcap {
    /// Opens the capture `input` and prepares `output`. The output has microseconds if the input is
    /// a pcap with microseconds, else nanoseconds.
    ///
    /// # Errors
    /// What is wrong with the head of the input, or why the output cannot be written.
    pub fn open(input: &Path, output: &Path) -> Result<Pcap, CaptureError> {
        let reader = Reader::open(input)?;
        let writer = Writer::create(output, reader.resolution())?;
        let pool = (0..FRAMES).map(|_| Frame::empty()).collect();
        let (cut_frames, lent, left, now, until) = (0, 0, 0, 0, u64::MAX);
        Ok(Pcap { reader, writer, pool, ahead: None, lent, left, cut_frames, now, until, read: false, error: None })
    }

    /// When the next frame was captured, in nanoseconds since 1970, or the latest before it if that was later: time does not
    /// run backwards. `None`: there is no other.
    pub fn next_time(&mut self) -> Option<u64> {
        self.look_ahead();
        Some(self.ahead.as_ref()?.0.max(self.now))
    }

    /// Receives no frame from that time on, until told otherwise.
    pub fn stop_at(&mut self, until: u64) {
        self.until = until;
    }

    fn look_ahead(&mut self) {
        if self.ahead.is_some() || self.read {
            return;
        }
        let Some(mut frame) = self.pool.pop() else { return };
        match self.reader.next(&mut frame) {
            Ok(true) => {
                self.ahead = Some((self.reader.time(&frame), frame));
                return;
            }
            Ok(false) => self.read = true,
            Err(error) => self.fail(error),
        }
        self.pool.push(frame);
    }

    /// Why reading or writing stopped before the end of the capture, if it did. To be asked after each turn, as the methods of
    /// a port return no errors.
    pub fn error(&self) -> Option<&CaptureError> {
        self.error.as_ref()
    }

    /// Whether no frame will be received any more: the capture ended, or there was an error.
    pub fn is_exhausted(&self) -> bool {
        self.read && self.ahead.is_none()
    }

    /// Frames received so far of which the capture holds less than there was on the wire.
    pub fn cut_frames(&self) -> u64 {
        self.cut_frames
    }

    /// Puts the transmitted frames in place as the output. Without this, what was at the output's path stays.
    ///
    /// # Errors
    /// The error that `error` tells, or why the output cannot be put in place. The output's path is as it was then.
    pub fn finish(self) -> Result<(), CaptureError> {
        match self.error {
            Some(error) => Err(error),
            None => self.writer.finish(),
        }
    }

    fn fail(&mut self, error: CaptureError) {
        self.read = true;
        self.error.get_or_insert(error);
    }

    fn take_back(&mut self, frame: Frame) {
        self.lent -= 1;
        self.pool.push(frame);
    }
}

impl Port for Pcap {
    type Frame = Frame;
    const PASSES: bool = true;

    fn service(&mut self) {}

    /// What was captured at one moment: so limits and flow tables see each frame at its own time.
    fn rx(&mut self, burst: &mut Burst<Frame>) {
        let is_next = |port: &mut Pcap, is_first: bool| {
            let now = port.now;
            port.next_time().is_some_and(|time| time < port.until && (is_first || time == now))
        };
        while !burst.is_full() && is_next(self, burst.is_empty()) {
            let (time, frame) = self.ahead.take().expect("it was looked at");
            self.now = self.now.max(time);
            self.cut_frames += u64::from(frame.bytes.len() < frame.original as usize);
            self.lent += 1;
            burst.push(frame);
        }
    }

    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        &frame.bytes
    }

    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        &mut frame.bytes
    }

    fn reshape<'a>(&'a mut self, frame: &'a mut Frame, front: isize, len: usize) -> &'a mut [u8] {
        match front {
            0.. => drop(frame.bytes.splice(..0, std::iter::repeat_n(0, front as usize))),
            _ => drop(frame.bytes.drain(..-front as usize)),
        }
        frame.bytes.resize(len, 0);
        frame.original = len as u32;
        &mut frame.bytes
    }

    fn blank(&mut self, with: &Frame, len: usize) -> Option<Frame> {
        let mut frame = self.pool.pop()?;
        self.lent += 1;
        (frame.seconds, frame.fraction) = (with.seconds, with.fraction);
        self.reshape(&mut frame, 0, len);
        Some(frame)
    }

    /// 0: a capture says nothing of the time that dispatching takes.
    fn arrival(&mut self, _frame: &mut Frame) -> u64 {
        0
    }

    /// When the latest frame was captured.
    fn now(&self) -> u64 {
        self.now
    }

    /// A file has no end.
    fn room(&mut self, _link: usize) -> usize {
        usize::MAX
    }

    /// After an error nothing more is written.
    fn tx(&mut self, _link: usize, burst: &mut Burst<Frame>) {
        for frame in burst.drain(..) {
            if self.error.is_none() {
                match self.writer.write(&frame) {
                    Ok(()) => self.left += 1,
                    Err(error) => self.fail(error),
                }
            }
            self.take_back(frame);
        }
    }

    /// The output has what was forwarded.
    fn answer(&mut self, _link: usize, burst: &mut Burst<Frame>) {
        self.free(burst);
    }

    fn free(&mut self, burst: &mut Burst<Frame>) {
        burst.drain(..).for_each(|frame| self.take_back(frame));
    }

    fn ledger(&self) -> Ledger {
        Ledger {
            total: FRAMES,
            idle: self.pool.len() + usize::from(self.ahead.is_some()),
            lent: self.lent,
            in_device: 0,
            sending: 0,
            left: self.left,
        }
    }
}
