//! One worker: a thread that turns. Receive a burst, select its servers, rewrite, transmit, tally.
//!
//! Generic over the port, with no `if` on what kind it is. In a turn there is no allocation, no lock, no log and no system
//! call but the port's own; the clock is read once a burst.

use crate::metrics::snapshot::WorkerReport;
use crate::metrics::worker::WorkerMetrics;
use crate::path::rewrite;
use crate::path::select::{Outcome, Selection};
use crate::port::{Burst, Port};
use crate::table::flow_table::FlowTable;
use crate::table::publish::Reader;
use crate::verdict::{Reason, Verdict};

pub struct Worker<P: Port> {
    port: P,
    tables: Reader<WorkerMetrics>,
    selection: Selection,
    flow_table: FlowTable,
    received: Burst<P::Frame>,
    forward: Burst<P::Frame>,
    gone: Burst<P::Frame>,
    passed: Burst<P::Frame>,
    /// How many frames of the burst are not forwarded.
    kept: usize,
}

impl<P: Port> Worker<P> {
    /// `flow_table` remembers flows while slots move.
    pub fn new(port: P, tables: Reader<WorkerMetrics>, flow_table: FlowTable) -> Worker<P> {
        Worker {
            port,
            tables,
            selection: Selection::default(),
            flow_table,
            received: Burst::new(),
            forward: Burst::new(),
            gone: Burst::new(),
            passed: Burst::new(),
            kept: 0,
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

    /// One turn. Returns what became of each frame of the burst, in the order in which they were received.
    #[inline]
    pub fn turn(&mut self) -> &[Outcome] {
        self.port.service();
        self.port.rx(&mut self.received);
        // After `rx`: no frame is decided by a table older than itself, however long this thread was kept from running.
        self.tables.renew();
        self.tables.metrics_mut().latency.exchange(|| report(&self.port, &self.flow_table));
        if self.tables.table().wants_census() {
            self.flow_table.count(self.tables.table(), self.tables.number(), self.port.now());
        }
        if self.received.is_empty() {
            return &[];
        }
        self.dispatch();
        self.send();
        self.selection.outcomes()
    }

    /// Decides every received frame, and rewrites and counts those that go to a server.
    fn dispatch(&mut self) {
        let Worker { port, tables, selection, flow_table, received, kept, .. } = self;
        let number = tables.number();
        let (table, WorkerMetrics { tally, latency }) = tables.split();
        let tally = &**tally;
        tally.received.add(received.len() as u64);
        selection.classify(received.len(), table, |at| port.bytes(&received[at]));
        selection.decide(table);
        let (mut room, now) = (port.room(), port.now());
        if selection.is_migrating() {
            selection.look_up_flows(table, flow_table, now, |at| port.bytes(&received[at]));
        }
        let (mut left, mut pass_room) = (0, None);
        for (frame, outcome) in received.iter_mut().zip(selection.outcomes_mut()) {
            if !port.is_ours(frame) {
                *outcome = Verdict::Pass.into();
            }
            // What does not fit is dropped here and now: a dispatcher that queues adds latency to every client and gains
            // none of them a place on a full link.
            if room == 0 && outcome.is_forward() {
                *outcome = Verdict::Drop(Reason::TxFull).into();
            }
            if !outcome.is_forward() {
                left += 1;
                if outcome.verdict() == Verdict::Pass {
                    let room = pass_room.get_or_insert_with(|| port.pass_room());
                    match *room {
                        // The kernel handed the frame over as one to a cluster address, and cannot take it back.
                        _ if !P::PASSES => *outcome = Verdict::Drop(Reason::Stray).into(),
                        0 => *outcome = Verdict::Drop(Reason::PassFull).into(),
                        _ => *room -= 1,
                    }
                }
                continue;
            }
            room -= 1;
            let arrival = port.arrival(frame);
            if arrival != 0 {
                latency.record(outcome.service as usize, now.saturating_sub(arrival));
            }
            let bytes = port.bytes_mut(frame);
            rewrite::to_next_hop(bytes, outcome.next_hop);
            let sent = tally.sent(outcome.destination as usize);
            sent.frames.add(1);
            sent.bytes.add(bytes.len() as u64);
        }
        *kept = left;
        if let Some(watch) = &table.watch {
            selection.note(watch, number, now, |at| port.bytes(&received[at]));
        }
        for outcome in selection.begins().map(|at| &selection.outcomes()[at]).filter(|outcome| outcome.is_forward()) {
            tally.sent(outcome.destination as usize).flows.add(1);
        }
    }

    /// Hands the forwarded frames over and frees the others.
    fn send(&mut self) {
        if self.kept == 0 {
            self.port.tx(&mut self.received);
            return;
        }
        let tally = &*self.tables.metrics().tally;
        for (frame, outcome) in self.received.drain(..).zip(self.selection.outcomes()) {
            match outcome.verdict() {
                Verdict::Forward { .. } => self.forward.push(frame),
                Verdict::Drop(reason) => {
                    tally.dropped(reason).add(1);
                    self.gone.push(frame);
                }
                Verdict::Pass => {
                    tally.passed.add(1);
                    self.passed.push(frame);
                }
            }
        }
        self.port.tx(&mut self.forward);
        self.port.free(&mut self.gone);
        self.port.pass(&mut self.passed);
    }
}

/// How it is with a worker, once a harvest.
fn report(port: &impl Port, flow_table: &FlowTable) -> WorkerReport {
    WorkerReport { ledger: port.ledger(), pins: flow_table.report() }
}
