//! For tests: a port around another that behaves like a device under strain. It hands frames over in short bursts or none,
//! and its transmit side has room for a few or none, by a schedule that follows from a seed.
//!
//! With `PASSES = false` it also takes no frame back for the kernel, whatever the port inside does.

use super::{Burst, Ledger, Port};
use crate::hash::splitmix;
use crate::limits::{BURST, MAX_INTERFACES};

pub struct Faulty<P: Port, const PASSES: bool = true> {
    inner: P,
    /// The schedule's state: splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
    schedule: u64,
    /// Received by the port inside, not handed over yet.
    waiting: Burst<P::Frame>,
    /// How many frames are handed over in this turn.
    quota: usize,
    /// How many are sent, by link.
    rooms: [usize; MAX_INTERFACES],
}

impl<P: Port, const PASSES: bool> Faulty<P, PASSES> {
    pub fn new(inner: P, seed: u64) -> Faulty<P, PASSES> {
        Faulty { inner, schedule: seed, waiting: Burst::new(), quota: 0, rooms: [0; MAX_INTERFACES] }
    }

    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// Nothing, everything, or something between, equally often.
    fn draw(&mut self) -> usize {
        self.schedule = self.schedule.wrapping_add(splitmix::STEP);
        let z = splitmix::mix(self.schedule);
        match z % 3 {
            0 => 0,
            1 => BURST,
            _ => (z >> 32) as usize % BURST,
        }
    }
}

impl<P: Port, const PASSES: bool> Port for Faulty<P, PASSES> {
    type Frame = P::Frame;

    const PASSES: bool = PASSES && P::PASSES;

    fn service(&mut self) {
        self.inner.service();
        self.quota = self.draw();
        for link in 0..self.inner.links() {
            self.rooms[link] = self.draw();
        }
    }

    fn rx(&mut self, burst: &mut Burst<P::Frame>) {
        if self.waiting.is_empty() {
            self.inner.rx(&mut self.waiting);
        }
        let n = self.quota.min(self.waiting.len()).min(burst.remaining_capacity());
        burst.extend(self.waiting.drain(..n));
        self.quota -= n;
    }

    fn bytes<'a>(&'a self, frame: &'a P::Frame) -> &'a [u8] {
        self.inner.bytes(frame)
    }

    fn bytes_mut<'a>(&'a mut self, frame: &'a mut P::Frame) -> &'a mut [u8] {
        self.inner.bytes_mut(frame)
    }

    fn reshape<'a>(&'a mut self, frame: &'a mut P::Frame, front: isize, len: usize) -> &'a mut [u8] {
        self.inner.reshape(frame, front, len)
    }

    /// Now and then there is none.
    fn blank(&mut self, with: &P::Frame, len: usize) -> Option<P::Frame> {
        if self.draw() == 0 { None } else { self.inner.blank(with, len) }
    }

    fn arrival(&mut self, frame: &mut P::Frame) -> u64 {
        self.inner.arrival(frame)
    }

    fn now(&self) -> u64 {
        self.inner.now()
    }

    fn links(&self) -> usize {
        self.inner.links()
    }

    fn link(&self, frame: &P::Frame) -> usize {
        self.inner.link(frame)
    }

    fn queue(&self, frame: &P::Frame) -> usize {
        self.inner.queue(frame)
    }

    fn room(&mut self, link: usize) -> usize {
        self.rooms[link].min(self.inner.room(link))
    }

    fn tx(&mut self, link: usize, burst: &mut Burst<P::Frame>) {
        assert!(burst.len() <= self.rooms[link], "the worker sends no more than there is room for");
        self.rooms[link] -= burst.len();
        self.inner.tx(link, burst);
    }

    fn answer(&mut self, link: usize, burst: &mut Burst<P::Frame>) {
        assert!(burst.len() <= self.rooms[link], "the worker sends no more than there is room for");
        self.rooms[link] -= burst.len();
        self.inner.answer(link, burst);
    }

    fn free(&mut self, burst: &mut Burst<P::Frame>) {
        self.inner.free(burst);
    }

    fn is_ours(&self, frame: &P::Frame) -> bool {
        self.inner.is_ours(frame)
    }

    fn pass_room(&mut self) -> usize {
        self.inner.pass_room()
    }

    fn pass(&mut self, burst: &mut Burst<P::Frame>) {
        self.inner.pass(burst);
    }

    fn ledger(&self) -> Ledger {
        let inner = self.inner.ledger();
        let waiting = self.waiting.len();
        Ledger { lent: inner.lent - waiting, in_device: inner.in_device + waiting, ..inner }
    }
}
