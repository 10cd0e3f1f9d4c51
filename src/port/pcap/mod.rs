//! A port over capture files: receives the frames of one, and transmits into another. For `replay`, without a NIC or root.
//!
//! `read` knows pcap (micro- and nanoseconds, both byte orders) and, by `ng`, pcapng, and cuts both from `input`; `write`
//! writes pcap, as a new file that takes its place only when the run has succeeded; `error` says what can be wrong.

mod error;
mod input;
mod ng;
mod read;
mod write;

pub use error::CaptureError;

use super::{Burst, Ledger, Port};
use crate::limits::BURST;
use read::Reader;
use std::path::Path;
use write::Writer;

/// Frames of the port: what the worker holds, and as many again.
const FRAMES: usize = 2 * BURST;

/// A frame on loan, with what the capture says of it.
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

/// Receives the frames of one capture and transmits into another, with the timestamps kept.
///
/// `rx` leaves the burst empty at the end of the capture, and also where it cannot go on: ask `error` then. Transmitted frames
/// are in the output only after `finish`.
pub struct Pcap {
    reader: Reader,
    writer: Writer,
    pool: Vec<Frame>,
    lent: usize,
    left: u64,
    cut_frames: u64,
    exhausted: bool,
    error: Option<CaptureError>,
}

impl Pcap {
    /// Opens the capture `input` and prepares `output`, which may be the same file. The output has microseconds if the input is
    /// a pcap with microseconds, else nanoseconds.
    ///
    /// # Errors
    /// What is wrong with the head of the input, or why the output cannot be written.
    pub fn open(input: &Path, output: &Path) -> Result<Pcap, CaptureError> {
        let reader = Reader::open(input)?;
        let writer = Writer::create(output, reader.resolution())?;
        let pool = (0..FRAMES)
            .map(|_| Frame { bytes: Vec::with_capacity(2048), seconds: 0, fraction: 0, original: 0 })
            .collect();
        Ok(Pcap { reader, writer, pool, lent: 0, left: 0, cut_frames: 0, exhausted: false, error: None })
    }

    /// Why reading or writing stopped before the end of the capture, if it did. To be asked after each turn, as the methods of
    /// a port return no errors.
    pub fn error(&self) -> Option<&CaptureError> {
        self.error.as_ref()
    }

    /// Whether no frame will be received any more: the capture ended, or there was an error.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted
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
        self.exhausted = true;
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

    fn rx(&mut self, burst: &mut Burst<Frame>) {
        while !burst.is_full() && !self.exhausted {
            let Some(mut frame) = self.pool.pop() else { return };
            match self.reader.next(&mut frame) {
                Ok(true) => {
                    self.cut_frames += u64::from(frame.bytes.len() < frame.original as usize);
                    self.lent += 1;
                    burst.push(frame);
                    continue;
                }
                Ok(false) => self.exhausted = true,
                Err(error) => self.fail(error),
            }
            self.pool.push(frame);
        }
    }

    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        &frame.bytes
    }

    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        &mut frame.bytes
    }

    /// 0: a capture says nothing of the time that dispatching takes.
    fn arrival(&mut self, _frame: &mut Frame) -> u64 {
        0
    }

    fn now(&self) -> u64 {
        0
    }

    /// A file has no end.
    fn room(&mut self) -> usize {
        usize::MAX
    }

    /// After an error nothing more is written.
    fn tx(&mut self, burst: &mut Burst<Frame>) {
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

    fn free(&mut self, burst: &mut Burst<Frame>) {
        burst.drain(..).for_each(|frame| self.take_back(frame));
    }

    fn ledger(&self) -> Ledger {
        Ledger { total: FRAMES, idle: self.pool.len(), lent: self.lent, in_device: 0, sending: 0, left: self.left }
    }
}
