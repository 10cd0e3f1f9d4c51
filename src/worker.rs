//! One worker: a thread that turns. Receive a burst, select its servers, rewrite, transmit, tally.
//!
//! Generic over the port, with no `if` on what kind it is. In a turn there is no allocation, no lock, no log and no system
//! call but the port's own; the clock is read once a burst.

use crate::limits::BURST;
use crate::path::rewrite;
use crate::path::select::Selection;
use crate::port::{Burst, Port};
use crate::stats::latency::Recorder;
use crate::stats::tally::Tally;
use crate::table::publish::Reader;
use crate::verdict::{Reason, Verdict};
use arrayvec::ArrayVec;
use std::sync::Arc;

pub struct Worker<P: Port> {
    port: P,
    tables: Reader,
    selection: Selection,
    tally: Arc<Tally>,
    latency: Recorder,
    received: Burst<P::Frame>,
    forward: Burst<P::Frame>,
    gone: Burst<P::Frame>,
    /// One for each frame in `forward`.
    departures: ArrayVec<Departure, BURST>,
}

/// What is counted of a frame once the port has taken it.
struct Departure {
    arrival: u64,
    destination: u32,
    len: u32,
    service: u16,
    /// Position in the burst.
    frame: u8,
}

impl<P: Port> Worker<P> {
    pub fn new(port: P, tables: Reader, tally: Arc<Tally>, latency: Recorder) -> Worker<P> {
        Worker {
            port,
            tables,
            selection: Selection::default(),
            tally,
            latency,
            received: Burst::new(),
            forward: Burst::new(),
            gone: Burst::new(),
            departures: ArrayVec::new(),
        }
    }

    pub fn port(&self) -> &P {
        &self.port
    }

    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    pub fn into_port(self) -> P {
        self.port
    }

    /// One turn. Returns the verdict of each frame of the burst, in the order in which they were received.
    pub fn turn(&mut self) -> &[Verdict] {
        self.latency.exchange();
        self.tally.turns.add(1);
        self.port.service();
        self.port.rx(&mut self.received);
        self.selection.clear();
        if !self.received.is_empty() {
            self.tally.received.add(self.received.len() as u64);
            self.dispatch();
            self.transmit();
        }
        self.selection.verdicts()
    }

    /// Decides every received frame and sorts it into `forward` or `gone`.
    fn dispatch(&mut self) {
        let table = self.tables.load();
        for frame in &mut self.received {
            self.selection.admit(self.port.bytes(frame), table);
        }
        self.selection.decide(table);
        for (i, mut frame) in self.received.drain(..).enumerate() {
            match self.selection.verdicts()[i] {
                Verdict::Forward { service, server } => {
                    let arrival = self.port.arrival(&mut frame);
                    let bytes = self.port.bytes(&mut frame);
                    rewrite::to_server(bytes, self.selection.mac(i));
                    let destination = table.destination(service, server) as u32;
                    let len = bytes.len() as u32;
                    self.departures.push(Departure { arrival, destination, len, service, frame: i as u8 });
                    self.forward.push(frame);
                }
                Verdict::Pass if P::PASSES => {
                    self.tally.passed.add(1);
                    self.gone.push(frame);
                }
                // The kernel handed the frame over as one to a cluster address, and cannot take it back.
                Verdict::Pass => {
                    self.selection.overrule(i, Verdict::Drop(Reason::Stray));
                    self.tally.dropped(Reason::Stray).add(1);
                    self.gone.push(frame);
                }
                Verdict::Drop(reason) => {
                    self.tally.dropped(reason).add(1);
                    self.gone.push(frame);
                }
            }
        }
    }

    /// Hands the frames over and counts those that the port took. What does not fit is dropped here and now: a dispatcher
    /// that queues adds latency to every client and gains none of them a place on a full link.
    fn transmit(&mut self) {
        let sent = self.port.tx(&mut self.forward);
        let now = self.port.now();
        for departure in self.departures.drain(..sent) {
            let to = self.tally.sent(departure.destination as usize);
            to.frames.add(1);
            to.bytes.add(departure.len as u64);
            if departure.arrival != 0 {
                self.latency.record(departure.service as usize, now.saturating_sub(departure.arrival));
            }
        }
        for left in self.departures.drain(..) {
            self.selection.overrule(left.frame as usize, Verdict::Drop(Reason::TxFull));
            self.tally.dropped(Reason::TxFull).add(1);
        }
        self.gone.extend(self.forward.drain(..));
        self.port.free(&mut self.gone);
    }
}
