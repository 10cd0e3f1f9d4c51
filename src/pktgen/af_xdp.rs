//! Sending by an AF_XDP socket: this process writes the frames, and the device, where it can, reads them from here.

use super::error::PktgenError;
use super::frames::Frames;
use super::histogram::Times;
use super::transmit::{Load, Sender, Sent, Share, Start};
use crate::host::clock::now_ns;
use crate::limits::BURST;
use crate::port::af_xdp::{AfXdp, Transfer};
use crate::port::{Burst, Port};
use crate::xdp::Device;
use std::hint;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the device may take to send the last frames.
const FLUSH_NS: u64 = Duration::from_secs(1).as_nanos() as u64;

/// A queue to send on, and what.
pub struct Generator {
    port: AfXdp,
    frames: Frames,
    load: Load,
    share: Share,
}

impl Generator {
    /// A sender for each share, the first on the first queue, and so on.
    ///
    /// # Errors
    /// There are too few queues, or one cannot be had.
    pub fn bind(frames: &Frames, load: Load, senders: usize, device: &Device) -> Result<Vec<Generator>, PktgenError> {
        let Device { interface, queues, .. } = device;
        if senders > *queues as usize {
            return Err(PktgenError::Queues { interface: interface.clone(), queues: *queues, senders });
        }
        let bind = |(queue, share)| Ok(Generator { port: device.bind(queue)?, frames: frames.clone(), load, share });
        (0..).zip(Share::among(senders)).map(bind).collect()
    }

    pub fn transfer(&self) -> Transfer {
        self.port.transfer()
    }

    /// Frames of its share that are due by now.
    fn due(&self, start: u64, now: u64) -> u64 {
        match self.load.schedule {
            None => u64::MAX,
            Some(schedule) => now.checked_sub(start).map_or(0, |ns| self.share.of(schedule.count(ns))),
        }
    }

    /// Writes the next frame. `false`: all are under way.
    fn add(&mut self, burst: &mut Burst<<AfXdp as Port>::Frame>, sent: &mut Sent, start: u64) -> bool {
        let number = self.share.number(sent.frames);
        let Some(mut frame) = self.port.blank(self.frames.size_of(number)) else { return false };
        let now = now_ns();
        let stamp = self.load.schedule.map_or(now, |schedule| start + schedule.due(number));
        self.frames.write(number, stamp, self.port.bytes_mut(&mut frame));
        burst.push(frame);
        if let Some(lag) = &mut sent.lag {
            lag.record(now.saturating_sub(stamp));
        }
        if sent.frames == 0 {
            sent.first = stamp;
        }
        sent.last = now;
        sent.frames += 1;
        true
    }

    fn flush(&mut self) {
        let give_up = now_ns() + FLUSH_NS;
        while self.port.ledger().sending > 0 && now_ns() < give_up {
            self.port.service();
        }
    }
}

impl Sender for Generator {
    fn send(&mut self, start: &Start, stop: &AtomicBool) -> Result<Sent, PktgenError> {
        let start = *start.wait();
        let (limit, until) = self.load.bounds(start);
        let limit = self.share.of(limit);
        let mut sent = Sent { lag: self.load.schedule.map(|_| Times::default()), ..Sent::default() };
        let mut burst = Burst::new();
        while !stop.load(Ordering::Relaxed) && sent.frames < limit {
            self.port.service();
            let now = now_ns();
            if now >= until {
                break;
            }
            let due = self.due(start, now).min(limit);
            let count = (due - sent.frames).min(BURST as u64).min(self.port.room(0) as u64);
            for _ in 0..count {
                if !self.add(&mut burst, &mut sent, start) {
                    break;
                }
            }
            if burst.is_empty() {
                hint::spin_loop();
            }
            self.port.tx(0, &mut burst);
        }
        self.flush();
        Ok(sent)
    }
}
