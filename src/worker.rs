//! One worker: a thread that turns. Receive a burst, select its servers, rewrite, transmit, tally.
//!
//! Generic over the port, with no `if` on what kind it is. In a turn there is no allocation, no lock, no log and no system
//! call but the port's own; the clock is read once a burst.

use crate::limits::{BURST, MAX_INTERFACES};
use crate::metrics::counters::Tally;
use crate::metrics::histogram::Recorder;
use crate::metrics::snapshot::WorkerReport;
use crate::metrics::worker::WorkerMetrics;
use crate::path::batch::Bits;
use crate::path::encapsulate::{self, Answers, Fate, Packet, Plain, Readdressed, Whole};
use crate::path::rewrite;
use crate::path::select::{AnyLimit, Outcome, Selection};
use crate::path::trace::{Notes, Noting};
use crate::port::{Burst, Port};
use crate::table::flow_table::FlowTable;
use crate::table::publish::Reader;
use crate::table::{PackedNextHop, Table};
use crate::verdict::{Reason, Verdict};
use arrayvec::ArrayVec;

pub struct Worker<P: Port> {
    port: P,
    tables: Reader<WorkerMetrics>,
    selection: Selection,
    /// Of each of the port's queues, and behind them those that are only gone through.
    flow_tables: Vec<FlowTable>,
    /// The first one's number among those of all workers.
    first_flow_table: usize,
    received: Burst<P::Frame>,
    /// By link.
    forward: Vec<Burst<P::Frame>>,
    gone: Burst<P::Frame>,
    passed: Burst<P::Frame>,
    /// How many frames of the burst are not forwarded.
    kept: usize,
    beyond: Beyond<P::Frame>,
    notes: Notes,
}

/// What frames take that do not go to their servers as they are.
struct Beyond<F> {
    /// To be sent behind the frame at a position of the burst, in order.
    fragments: ArrayVec<(usize, F), BURST>,
    /// Positions of the frames that are answered, where they were to go, and how long their answers' frames are.
    answered: ArrayVec<(usize, u32, usize), BURST>,
    answers: Answers,
    /// By link.
    answer: Vec<Burst<F>>,
    whole: Whole,
    /// By position in the burst, where `decide` has read it.
    packets: [Packet; BURST],
    /// The frames, a bit each, that `write` makes ready.
    later: u64,
}

/// How many frames each link takes yet.
type Rooms = [usize; MAX_INTERFACES];

impl<P: Port> Worker<P> {
    /// Of a port with one queue. `flow_table` remembers flows while slots move.
    pub fn new(port: P, tables: Reader<WorkerMetrics>, flow_table: FlowTable) -> Worker<P> {
        let number = tables.number();
        Worker::over(port, tables, (number, vec![flow_table]))
    }

    /// As `new`, with a flow table for each of the port's queues, and behind them any that the worker only goes through. They are numbered on
    /// from `first` among those of all workers.
    pub fn over(port: P, tables: Reader<WorkerMetrics>, (first, flow_tables): (usize, Vec<FlowTable>)) -> Worker<P> {
        let bursts = || (0..port.links()).map(|_| Burst::new()).collect();
        let (forward, answer) = (bursts(), bursts());
        Worker {
            port,
            tables,
            selection: Selection::default(),
            flow_tables,
            first_flow_table: first,
            received: Burst::new(),
            forward,
            gone: Burst::new(),
            passed: Burst::new(),
            kept: 0,
            beyond: Beyond {
                fragments: ArrayVec::new(),
                answered: ArrayVec::new(),
                answers: Answers::default(),
                answer,
                whole: Whole::default(),
                packets: [Packet::default(); BURST],
                later: 0,
            },
            notes: Notes::default(),
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
        self.tables.metrics_mut().latency.exchange(|| report(&self.port, &self.flow_tables));
        if self.tables.table().wants_census() {
            for (number, flow_table) in (self.first_flow_table..).zip(&mut self.flow_tables) {
                flow_table.count(self.tables.table(), number, self.port.now());
            }
        }
        if self.received.is_empty() {
            return &[];
        }
        match (self.port.links() == 1, self.tables.table().has_ways()) {
            (true, false) => self.dispatch::<true, true>(),
            (true, true) => self.dispatch::<true, false>(),
            (false, _) => self.dispatch::<false, false>(),
        }
        self.send();
        self.selection.outcomes()
    }

    /// Decides every received frame, and rewrites and counts those that go to a server. `ONE`: there is one link. `PLAIN`: all of them go as
    /// they are, by that one.
    fn dispatch<const ONE: bool, const PLAIN: bool>(&mut self) {
        let Worker { port, tables, selection, flow_tables, received, kept, beyond, notes, .. } = self;
        let number = tables.number();
        let (table, WorkerMetrics { tally, latency }) = tables.split();
        let tally = &**tally;
        tally.received.add(received.len() as u64);
        let asked = table.odd_limits().map(|_| port.now());
        let at_us = |at: usize| asked.filter(|_| port.is_ours(&received[at]));
        selection.classify_at(received.len(), table, at_us, |at| port.bytes(&received[at]));
        if let Some(limits) = table.limits() {
            let now = asked.unwrap_or_else(|| port.now());
            selection.limit(limits, now, |at| port.is_ours(&received[at]).then(|| port.bytes(&received[at]).len()));
        }
        selection.decide(table);
        let (mut rooms, now) = (rooms::<ONE>(port), port.now());
        if selection.is_migrating() {
            let flow_table = |at: usize| if ONE && PLAIN { 0 } else { port.queue(&received[at]) };
            selection.look_up_flows(table, (flow_tables, flow_table), now, |at| port.bytes(&received[at]));
            for at in selection.last_chances() {
                rewrite::mark_last_chance(port.bytes_mut(&mut received[at]));
            }
        }
        if let Some(watch) = &table.watch {
            notes.receive(watch, received.len(), |at| port.bytes(&received[at]));
        }
        let (mut left, mut pass_room) = (0, None);
        beyond.later = 0;
        for (at, (frame, outcome)) in received.iter_mut().zip(selection.outcomes_mut()).enumerate() {
            if !port.is_ours(frame) {
                *outcome = Verdict::Pass.into();
            }
            // What does not fit is dropped here and now: a dispatcher that queues adds latency to every client and gains
            // none of them a place on a full link.
            let link = if ONE { 0 } else { leaves_by(port, frame, outcome.next_hop) };
            if rooms[link] == 0 && outcome.is_forward() {
                *outcome = Verdict::Drop(Reason::TxFull).into();
            }
            if !PLAIN && outcome.next_hop.has_way() {
                // Not where somebody watches the frame as it came, nor behind one of the burst that is made ready later, so that
                // identifications rise from frame to frame.
                let is_seen = table.watch.is_some();
                let bytes = port.bytes(frame);
                if let Some(readdressed) = Readdressed::new(table, outcome.destination).filter(|_| !is_seen) {
                    rooms[link] -= 1;
                    note((outcome, bytes.len()), (tally, latency), (port.arrival(frame), now));
                    readdressed.write(port.bytes_mut(frame), table, outcome.next_hop);
                    continue;
                }
                if beyond.later == 0
                    && !is_seen
                    && let Some(plain) = Plain::new(bytes, table, outcome.destination)
                {
                    rooms[link] -= 1;
                    note((outcome, bytes.len()), (tally, latency), (port.arrival(frame), now));
                    let bytes = port.reshape(frame, plain.more() as isize, plain.frame_len());
                    plain.write(bytes, table, outcome.next_hop);
                    continue;
                }
                beyond.decide(port, (at, frame), outcome, table, (&mut rooms, now));
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
            rooms[link] -= 1;
            let arrival = port.arrival(frame);
            let bytes = port.bytes_mut(frame);
            note((outcome, bytes.len()), (tally, latency), (arrival, now));
            if PLAIN {
                rewrite::to_next_hop(bytes, outcome.next_hop);
            } else if !outcome.next_hop.has_way() {
                rewrite::leave(bytes, outcome.next_hop, table);
            }
        }
        *kept = left;
        for (at, service) in selection.counted() {
            if selection.outcomes()[*at].verdict() != Verdict::Pass {
                tally.listed(*service as usize).would_deny.add(1);
            }
        }
        for (at, service, kind) in selection.would_limit() {
            if selection.outcomes()[*at].verdict() != Verdict::Pass {
                tally.limited(*service as usize, *kind).would_limit.add(1);
            }
        }
        tally.would_limit_odd(selection.would_limit_odd());
        let noting = table.watch.as_deref().map(|watch| Noting { watch, table, worker: number, now });
        if let Some(noting) = noting {
            notes.judge(noting, selection.outcomes(), |at| port.bytes(&received[at]));
        }
        if !PLAIN {
            beyond.write(port, received, selection.outcomes(), table);
        }
        if let Some(noting) = noting {
            notes.send(noting, selection.outcomes(), |at| port.bytes(&received[at]));
            for (at, fragment) in &beyond.fragments {
                notes.send_fragment(noting, selection.outcomes(), *at, port.bytes(fragment));
            }
        }
        for outcome in selection.begins().map(|at| &selection.outcomes()[at]).filter(|outcome| outcome.is_forward()) {
            tally.sent(outcome.destination as usize).flows.add(1);
        }
    }

    /// Hands the forwarded frames over and frees the others.
    fn send(&mut self) {
        if self.kept == 0 && self.beyond.fragments.is_empty() && self.port.links() == 1 {
            self.port.tx(0, &mut self.received);
            return;
        }
        let tally = &*self.tables.metrics().tally;
        let mut fragments = self.beyond.fragments.drain(..).peekable();
        let mut answered = self.beyond.answered.drain(..).peekable();
        for (at, (frame, outcome)) in self.received.drain(..).zip(self.selection.outcomes()).enumerate() {
            match outcome.verdict() {
                Verdict::Forward { .. } => {
                    let link = leaves_by(&self.port, &frame, outcome.next_hop);
                    push(&mut self.port, (link, &mut self.forward[link]), frame);
                    while let Some((_, fragment)) = fragments.next_if(|(of, _)| *of == at) {
                        push(&mut self.port, (link, &mut self.forward[link]), fragment);
                    }
                }
                Verdict::Drop(reason) => {
                    tally.dropped(reason).add(1);
                    match reason {
                        Reason::Denied => tally.listed(outcome.service as usize).denied.add(1),
                        Reason::Limited => match outcome.limit() {
                            AnyLimit::Service(kind) => tally.limited(outcome.service as usize, kind).limited.add(1),
                            AnyLimit::Odd(kind) => tally.odd(kind).limited.add(1),
                        },
                        _ => {}
                    }
                    match answered.next_if(|(of, ..)| *of == at) {
                        Some(_) => self.beyond.answer[self.port.link(&frame)].push(frame),
                        None => self.gone.push(frame),
                    }
                }
                Verdict::Pass => {
                    tally.passed.add(1);
                    self.passed.push(frame);
                }
            }
        }
        for (link, burst) in self.forward.iter_mut().enumerate().filter(|(_, burst)| !burst.is_empty()) {
            self.port.tx(link, burst);
        }
        for (link, burst) in self.beyond.answer.iter_mut().enumerate().filter(|(_, burst)| !burst.is_empty()) {
            self.port.answer(link, burst);
        }
        self.port.free(&mut self.gone);
        self.port.pass(&mut self.passed);
    }
}

/// Counts a frame that goes to a server, as it came, and how long it has taken.
#[inline(always)]
fn note((outcome, len): (&Outcome, usize), (tally, latency): (&Tally, &mut Recorder), (arrival, now): (u64, u64)) {
    if arrival != 0 {
        latency.record(outcome.service as usize, now.saturating_sub(arrival));
    }
    let sent = tally.sent(outcome.destination as usize);
    sent.frames.add(1);
    sent.bytes.add(len as u64);
}

/// How much room there is.
#[inline(always)]
fn rooms<const ONE: bool>(port: &mut impl Port) -> Rooms {
    let mut rooms = [0; MAX_INTERFACES];
    let links = if ONE { 1 } else { port.links() };
    for (link, room) in rooms.iter_mut().enumerate().take(links) {
        *room = port.room(link);
    }
    rooms
}

/// The link by which a frame leaves, if it is forwarded to that next hop.
#[inline(always)]
fn leaves_by<P: Port>(port: &P, frame: &P::Frame, next_hop: PackedNextHop) -> usize {
    match next_hop.egress() {
        0 => port.link(frame),
        egress => usize::from(egress) - 1,
    }
}

/// Adds a frame to those that are sent by a link, and sends them where they are a burst.
#[inline]
fn push<P: Port>(port: &mut P, (link, burst): (usize, &mut Burst<P::Frame>), frame: P::Frame) {
    if burst.is_full() {
        port.tx(link, burst);
    }
    burst.push(frame);
}

impl<F> Beyond<F> {
    /// What becomes of a frame that is not forwarded as it is: whether it fits, and whether there are frames for its fragments, or room for
    /// an answer. `write` makes it ready.
    #[inline(never)]
    fn decide<P: Port<Frame = F>>(
        &mut self,
        port: &mut P,
        (at, frame): (usize, &F),
        outcome: &mut Outcome,
        table: &Table,
        (rooms, now): (&mut Rooms, u64),
    ) {
        let destination = outcome.destination;
        let packet = Packet::read(port.bytes(frame));
        self.packets[at] = packet;
        self.later |= 1 << at;
        match encapsulate::fate(&packet, table, destination) {
            Fate::Fits => {}
            Fate::TooBig => {
                *outcome = Verdict::Drop(Reason::TooBig).into();
                if let Some(len) = self.answers.decide(port.bytes(frame), table, destination, now) {
                    let room = &mut rooms[port.link(frame)];
                    if *room > 0 {
                        self.answered.push((at, destination, len));
                        *room -= 1;
                    }
                }
            }
            Fate::Fragments(count) => {
                let (more, room) = (count - 1, &mut rooms[leaves_by(port, frame, outcome.next_hop)]);
                let fits = more < *room && more <= self.fragments.remaining_capacity();
                let before = self.fragments.len();
                let lends = |_| port.blank(frame, 0).map(|blank| (at, blank));
                if fits {
                    self.fragments.extend((0..more).map_while(lends));
                }
                if self.fragments.len() == before + more {
                    *room -= more;
                    return;
                }
                let mut unused = self.fragments.drain(before..).map(|(_, blank)| blank).collect();
                port.free(&mut unused);
                *outcome = Verdict::Drop(Reason::TxFull).into();
            }
        }
    }

    /// Writes what was decided, when nobody reads the frames any more.
    fn write<P: Port<Frame = F>>(
        &mut self,
        port: &mut P,
        received: &mut Burst<F>,
        outcomes: &[Outcome],
        table: &Table,
    ) {
        let Beyond { fragments, answered, answers, whole, packets, later, .. } = self;
        for (at, destination, len) in answered.iter() {
            let frame = &mut received[*at];
            answers.compose(port.bytes(frame), table, *destination);
            port.reshape(frame, 0, *len);
            answers.write(port.bytes_mut(frame));
        }
        let mut fragments = fragments.iter_mut().peekable();
        for at in Bits(*later) {
            let (frame, outcome) = (&mut received[at], &outcomes[at]);
            if !outcome.next_hop.has_way() {
                continue;
            }
            let (destination, next_hop, packet) = (outcome.destination, outcome.next_hop, &packets[at]);
            if fragments.peek().is_none_or(|(of, _)| *of != at) {
                let room = encapsulate::room(port.bytes(frame), packet, table, destination);
                port.reshape(frame, room.front, room.len);
                encapsulate::write(port.bytes_mut(frame), &room, packet, table, (destination, next_hop));
                continue;
            }
            whole.fill(port.bytes(frame), packet, table, (destination, next_hop));
            port.reshape(frame, 0, whole.len(0));
            whole.write(0, port.bytes_mut(frame));
            let mut piece = 1;
            while let Some((_, fragment)) = fragments.next_if(|(of, _)| *of == at) {
                port.reshape(fragment, 0, whole.len(piece));
                whole.write(piece, port.bytes_mut(fragment));
                piece += 1;
            }
        }
    }
}

/// How it is with a worker, once a harvest.
fn report(port: &impl Port, flow_tables: &[FlowTable]) -> WorkerReport {
    WorkerReport { ledger: port.ledger(), pins: flow_tables.iter().map(FlowTable::report).sum() }
}
