//! Sending by an AF_XDP socket: this process writes the frames, and the device, where it can, reads them from here.

use super::error::PktgenError;
use super::frames::Frames;
use super::histogram::Times;
use super::transmit::{Load, Sent};
use crate::control::clock::now_ns;
use crate::limits::BURST;
use crate::port::af_xdp::{AfXdp, Device, Transfer};
use crate::port::{Burst, Port};
use std::hint;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The queue to send on.
const QUEUE: u32 = 0;

/// How long the device may take to send the last frames.
const FLUSH_NS: u64 = Duration::from_secs(1).as_nanos() as u64;

/// A queue to send on, and what.
pub struct Generator {
    port: AfXdp,
    frames: Frames,
    load: Load,
}

impl Generator {
    /// # Errors
    /// The queue cannot be had.
    pub fn bind(frames: &Frames, load: Load, device: &Device) -> Result<Generator, PktgenError> {
        Ok(Generator { port: device.bind(QUEUE)?, frames: frames.clone(), load })
    }

    pub fn transfer(&self) -> Transfer {
        self.port.transfer()
    }

    /// Sends until the load is, or until `stop`.
    pub fn send(&mut self, stop: &AtomicBool) -> Sent {
        let start = now_ns();
        let (limit, until) = self.load.bounds(start);
        let mut sent = Sent { lag: self.load.schedule.map(|_| Times::default()), ..Sent::default() };
        let mut burst = Burst::new();
        while !stop.load(Ordering::Relaxed) && sent.frames < limit {
            self.port.service();
            let now = now_ns();
            if now >= until {
                break;
            }
            let due = self.load.schedule.map_or(u64::MAX, |schedule| schedule.count(now - start));
            let count = (due.min(limit) - sent.frames).min(BURST as u64).min(self.port.room() as u64);
            for _ in 0..count {
                if !self.add(&mut burst, &mut sent, start) {
                    break;
                }
            }
            if burst.is_empty() {
                hint::spin_loop();
            }
            self.port.tx(&mut burst);
        }
        self.flush();
        sent
    }

    /// Writes the next frame. `false`: all are under way.
    fn add(&mut self, burst: &mut Burst<<AfXdp as Port>::Frame>, sent: &mut Sent, start: u64) -> bool {
        let number = sent.frames;
        let Some(mut frame) = self.port.blank(self.frames.size_of(number)) else { return false };
        let now = now_ns();
        let stamp = self.load.schedule.map_or(now, |schedule| start + schedule.due(number));
        self.frames.write(number, stamp, self.port.bytes_mut(&mut frame));
        burst.push(frame);
        if let Some(lag) = &mut sent.lag {
            lag.record(now.saturating_sub(stamp));
        }
        if number == 0 {
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
