//! Which server a burst's frames go to: service, hash, slot, owner.
//!
//! A `Selection` takes the frames of a burst (`classify`) and decides all at once (`decide`). What `classify` can
//! settle alone (drops, passes) it settles; the rest it sorts into batches by the shape of the hash input, so that each batch
//! is hashed as one vector. A plain frame (`plain`) to a plain service goes a short way, all others the long one; a
//! property test holds the two together.

use super::batch::{Batch, Bits};
use super::classify::{self, Flow, Outer, Upper};
use super::fast_path::FastPath;
use super::limit::Limiting;
use super::odd::Odd;
use super::quic;
use crate::hash;
use crate::hash::vector::Level;
use crate::limits::BURST;
use crate::model::{LimitKind, OddKind, Transport};
use crate::table::build::maglev::NOBODY;
use crate::table::limits::Source;
use crate::table::lists::Listed;
use crate::table::{Address, MIGRATING, PackedMac, PackedNextHop, Place, PortService, ServiceId, Table, port_key};
use crate::verdict::{Reason, Verdict};
use crate::wire::transport;
use arrayvec::ArrayVec;

const UDP: u8 = Transport::Udp.protocol();

/// The decisions about one burst, and the scratch space to reach them.
pub struct Selection {
    level: Level,
    len: usize,
    pub(super) outcomes: [Outcome; BURST],
    /// The frames, a bit each, that begin a TCP connection.
    pub(super) begins: u64,
    /// Those whose slot is migrating: `decide` leaves them to `look_up_flows`.
    pub(super) migrating: u64,
    /// Those that a server has sent back, as `migrating`.
    pub(super) returned: u64,
    /// Of these, those that no other server will be asked for.
    pub(super) last_chances: u64,
    pub(super) plain: FastPath,
    pub(super) flow_v4: Batch<{ hash::FLOW_V4 }>,
    pub(super) flow_v6: Batch<{ hash::FLOW_V6 }>,
    /// Frames that a list would drop if it did more than count, with their services.
    pub(super) counted: ArrayVec<(usize, ServiceId), BURST>,
    pub(super) limiting: Limiting,
    pub(super) odd: Odd,
}

/// What was decided about one frame. 16 bytes, written once.
#[derive(Clone, Copy)]
pub struct Outcome {
    /// Whether the frame is forwarded, and where to.
    pub next_hop: PackedNextHop,
    /// `Table::destination`; of a frame that is beyond a limit, which: the number of its `LimitKind`, or behind those of its `OddKind`.
    pub destination: u32,
    pub service: ServiceId,
    /// Where not forwarded: the reason's number, or `PASS`.
    server: u16,
}

const PASS: u16 = u16::MAX;

/// Which limit a frame is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyLimit {
    /// Of its service.
    Service(LimitKind),
    Odd(OddKind),
}

impl Outcome {
    #[inline(always)]
    pub(super) fn kept(code: u16) -> Outcome {
        Outcome { next_hop: PackedNextHop::UNRESOLVED, destination: 0, service: 0, server: code }
    }

    /// Its service is who counts it.
    #[inline(always)]
    pub(super) fn denied(service: ServiceId) -> Outcome {
        Outcome { service, ..Outcome::kept(Reason::Denied as u16) }
    }

    /// As `denied`.
    #[inline(always)]
    pub(super) fn limited(service: ServiceId, kind: LimitKind) -> Outcome {
        Outcome { service, destination: kind as u32, ..Outcome::kept(Reason::Limited as u16) }
    }

    /// It has no service yet.
    #[inline(always)]
    pub(super) fn odd(kind: OddKind) -> Outcome {
        Outcome { destination: (LimitKind::COUNT + kind as usize) as u32, ..Outcome::kept(Reason::Limited as u16) }
    }

    /// Of a frame that was dropped as `Limited`: which limit it is beyond.
    #[inline]
    pub fn limit(&self) -> AnyLimit {
        match (self.destination as usize).checked_sub(LimitKind::COUNT) {
            None => AnyLimit::Service(LimitKind::ALL[self.destination as usize]),
            Some(kind) => AnyLimit::Odd(OddKind::ALL[kind]),
        }
    }

    #[inline]
    pub fn is_forward(&self) -> bool {
        self.next_hop.is_forward()
    }

    #[inline]
    pub fn verdict(&self) -> Verdict {
        match self.server {
            server if self.is_forward() => Verdict::Forward { service: self.service, server },
            PASS => Verdict::Pass,
            reason => Verdict::Drop(Reason::ALL[reason as usize]),
        }
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::Forward { .. } => unreachable!("only a table knows where a frame is forwarded to"),
            Verdict::Drop(reason) => Outcome::kept(reason as u16),
            Verdict::Pass => Outcome::kept(PASS),
        }
    }
}

impl Default for Selection {
    fn default() -> Selection {
        Selection::new(Level::detect())
    }
}

impl Selection {
    pub fn new(level: Level) -> Selection {
        Selection {
            level,
            len: 0,
            outcomes: [Outcome::kept(PASS); BURST],
            begins: 0,
            migrating: 0,
            returned: 0,
            last_chances: 0,
            plain: FastPath::default(),
            flow_v4: Batch::default(),
            flow_v6: Batch::default(),
            counted: ArrayVec::new(),
            limiting: Limiting::default(),
            odd: Odd::default(),
        }
    }

    /// One a frame, in order of admission. Final after `decide` and `look_up_flows`.
    #[inline]
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes[..self.len]
    }

    pub fn outcomes_mut(&mut self) -> &mut [Outcome] {
        &mut self.outcomes[..self.len]
    }

    /// Positions of the frames that begin a TCP connection.
    #[inline]
    pub fn begins(&self) -> Bits {
        Bits(self.begins)
    }

    /// Frames that a list would drop if it did more than count: their positions and services.
    #[inline]
    pub fn counted(&self) -> &[(usize, ServiceId)] {
        &self.counted
    }

    /// Frames that a limit of `[limit.odd]` would drop if it did more than count, by `OddKind`.
    #[inline]
    pub fn would_limit_odd(&self) -> &[u64; OddKind::COUNT] {
        self.odd.counted()
    }

    /// Whether there is something to `look_up_flows`.
    #[inline]
    pub fn is_migrating(&self) -> bool {
        self.migrating | self.returned != 0
    }

    /// Positions of the frames that go to the last server that may have their connection: `rewrite::mark_last_chance`.
    #[inline]
    pub fn last_chances(&self) -> Bits {
        Bits(self.last_chances)
    }

    /// As `classify_at`, of frames that are all ours, where nothing is limited.
    pub fn classify<'a>(&mut self, len: usize, table: &Table, bytes: impl Fn(usize) -> &'a [u8]) {
        self.classify_at(len, table, |_| None, bytes);
    }

    /// Takes a burst of at most `BURST` frames; `bytes` lends the frame at a position. `now` says when it is judged, in nanoseconds, if
    /// it was sent to us: limits of packets that are dear to read are asked here.
    // Not inlined, like the other loops over a burst: each has the registers for itself.
    #[inline(never)]
    pub fn classify_at<'a>(
        &mut self,
        len: usize,
        table: &Table,
        now: impl Fn(usize) -> Option<u64>,
        bytes: impl Fn(usize) -> &'a [u8],
    ) {
        assert!(len <= BURST);
        self.len = len;
        (self.migrating, self.returned, self.last_chances) = (0, 0, 0);
        self.counted.clear();
        self.limiting.clear();
        self.odd.clear();
        let ports = table.ports();
        let (mut slow, mut at) = (0, 0);
        while at < len {
            let taken = self.plain.take(at..len, &bytes, ports);
            if taken == 0 {
                slow |= 1 << at;
            }
            at += taken.max(1);
        }
        let v4 = self.plain.v4.judge(self.level, ports);
        let v6 = self.plain.v6.judge(self.level, ports);
        self.begins = v4.begins | v6.begins;
        if let Some(lists) = table.lists() {
            self.screen(lists);
        }
        for at in Bits(slow | v4.slow | v6.slow) {
            self.classify_slow(at, bytes(at), table, &now);
        }
    }

    /// The long way.
    #[cold]
    #[inline(never)]
    fn classify_slow(&mut self, at: usize, frame: &[u8], table: &Table, now: &impl Fn(usize) -> Option<u64>) {
        let sorted = self.sort(at, frame, table, now);
        self.odd.charge(table, &sorted);
        if let Err(outcome) = sorted {
            self.outcomes[at] = outcome;
        }
    }

    /// Puts any frame into its batch. `Err`: the outcome is known already.
    fn sort(
        &mut self,
        at: usize,
        frame: &[u8],
        table: &Table,
        now: &impl Fn(usize) -> Option<u64>,
    ) -> Result<(), Outcome> {
        match classify::outer(frame) {
            Outer::V4(packet) => {
                let (address, key) = table.address_v4(packet.destination()).ok_or(Verdict::Pass)?;
                self.odd.judge(table, || classify::odd_v4(&packet), || now(at))?;
                let flow = classify::flow_v4(&packet).map_err(Verdict::Drop)?;
                self.note_beginning(at, flow.upper, frame);
                let by_port = |protocol, port| table.ports().v4(key, port_key(protocol, port));
                let is_returned = table.is_loop(address, source(frame));
                let service = choose(table, address, is_returned, flow.upper, by_port)?;
                if is_returned {
                    return self.take_returned(at, service);
                }
                if let Some(lists) = table.lists() {
                    let source = u32::from_be_bytes(packet.source());
                    self.judge_listed(at, service, lists.listed_v4(source, service))?;
                }
                if table.limits().is_some() {
                    self.limiting.ask(at, service, Source::v4(packet.source()));
                }
                let datagram = || (packet.protocol() == UDP).then(|| packet.payload());
                match input(service, (&flow, u32::from_be_bytes(flow.client).into()), table, datagram) {
                    Input::Source => self.plain.v4.batch.push(at, service, hash::source_v4(flow.client)),
                    Input::Flow(ports, protocol) => {
                        let blocks =
                            hash::flow_v4(flow.client, flow.cluster, (ports.source, ports.destination), protocol);
                        self.flow_v4.push(at, service, blocks);
                    }
                    Input::Settled(place) => {
                        self.outcomes[at] = outcome(at, service, place, table, &mut self.migrating)
                    }
                }
            }
            Outer::V6(packet) => {
                let (address, key) = table.address_v6(packet.destination()).ok_or(Verdict::Pass)?;
                self.odd.judge(table, || classify::odd_v6(&packet), || now(at))?;
                let flow = classify::flow_v6(&packet).map_err(Verdict::Drop)?;
                self.note_beginning(at, flow.upper, frame);
                let by_port = |protocol, port| table.ports().v6(key, port_key(protocol, port));
                let is_returned = table.is_loop(address, source(frame));
                let service = choose(table, address, is_returned, flow.upper, by_port)?;
                if is_returned {
                    return self.take_returned(at, service);
                }
                if let Some(lists) = table.lists() {
                    let source = u128::from_be_bytes(packet.source());
                    self.judge_listed(at, service, lists.listed_v6(source, service))?;
                }
                if table.limits().is_some() {
                    self.limiting.ask(at, service, Source::v6(packet.source()));
                }
                let datagram = || packet.upper().ok().filter(|of| of.protocol == Some(UDP)).map(|of| of.payload);
                match input(service, (&flow, u128::from_be_bytes(flow.client)), table, datagram) {
                    Input::Source => self.plain.v6.batch.push(at, service, hash::source_v6(flow.client)),
                    Input::Flow(ports, protocol) => {
                        let blocks =
                            hash::flow_v6(flow.client, flow.cluster, (ports.source, ports.destination), protocol);
                        self.flow_v6.push(at, service, blocks);
                    }
                    Input::Settled(place) => {
                        self.outcomes[at] = outcome(at, service, place, table, &mut self.migrating)
                    }
                }
            }
            Outer::Truncated => return Err(Verdict::Drop(Reason::Malformed).into()),
            Outer::Other => return Err(Verdict::Pass.into()),
        }
        Ok(())
    }

    /// A packet that an ICMP error is about has ports as well: whether it begins a connection, the whole packet says.
    #[inline]
    fn note_beginning(&mut self, at: usize, upper: Upper, frame: &[u8]) {
        if let Upper::Ports(Transport::Tcp, _) = upper {
            self.begins |= u64::from(classify::begins(frame)) << at;
        }
    }

    /// Lists and limits have been asked when the frame came from its client.
    fn take_returned(&mut self, at: usize, service: ServiceId) -> Result<(), Outcome> {
        self.outcomes[at] = Outcome { service, ..Outcome::kept(PASS) };
        self.returned |= 1 << at;
        Ok(())
    }

    fn judge_listed(&mut self, at: usize, service: ServiceId, listed: Listed) -> Result<(), Outcome> {
        match listed {
            Listed::No => {}
            Listed::Counted => self.counted.push((at, service)),
            Listed::Denied => return Err(Outcome::denied(service)),
        }
        Ok(())
    }

    /// Hashes and looks up whatever `classify` left open. Returns one outcome a frame.
    #[inline(always)]
    pub fn decide(&mut self, table: &Table) -> &mut [Outcome] {
        let Selection { level, outcomes, migrating, plain, flow_v4, flow_v6, .. } = self;
        plain.v4.batch.decide(*level, table, outcomes, migrating);
        plain.v6.batch.decide(*level, table, outcomes, migrating);
        flow_v4.decide(*level, table, outcomes, migrating);
        flow_v6.decide(*level, table, outcomes, migrating);
        &mut self.outcomes[..self.len]
    }
}

impl<const B: usize> Batch<B> {
    /// Empties the batch. The slots of all its frames are read before the first is used: these reads miss the caches, and so
    /// they wait together.
    #[inline(never)]
    fn decide(&mut self, level: Level, table: &Table, outcomes: &mut [Outcome; BURST], migrating: &mut u64) {
        let len = std::mem::take(&mut self.len).min(BURST);
        if len == 0 {
            return;
        }
        let Batch { frames, blocks, hashes, places, .. } = self;
        level.siphash(table.key, blocks, len, hashes);
        let (frames, hashes, places) = (&frames[..len], &hashes[..len], &mut places[..len]);
        for ((place, frame), hash) in places.iter_mut().zip(frames).zip(hashes) {
            *place = table.place(frame.service(), *hash);
        }
        for (place, frame) in places.iter().zip(frames) {
            let at = frame.position();
            // Each is stored where it belongs: a value that two branches give would go by the stack, in four stores and one load, which waits
            // for them.
            let Place { owner, destination } = *place;
            let next_hop = table.next_hop(destination as usize);
            if next_hop.is_forward() {
                outcomes[at] = Outcome { next_hop, destination, service: frame.service(), server: owner };
            } else {
                outcomes[at] = unresolved(at, frame.service(), owner, migrating);
            }
        }
    }
}

#[inline(always)]
fn outcome(at: usize, service: ServiceId, place: Place, table: &Table, migrating: &mut u64) -> Outcome {
    let Place { owner, destination } = place;
    let next_hop = table.next_hop(destination as usize);
    if next_hop.is_forward() {
        return Outcome { next_hop, destination, service, server: owner };
    }
    unresolved(at, service, owner, migrating)
}

/// Where there is no next hop.
#[inline(always)]
fn unresolved(at: usize, service: ServiceId, owner: u16, migrating: &mut u64) -> Outcome {
    if owner & MIGRATING != 0 {
        *migrating |= 1 << at;
        return Outcome { service, ..Outcome::kept(PASS) };
    }
    Verdict::Drop(if owner == NOBODY { Reason::NoServer } else { Reason::Unresolved }).into()
}

impl Outcome {
    /// What becomes of a frame for that server.
    pub(super) fn to_server(service: ServiceId, server: u16, destination: u32, table: &Table) -> Outcome {
        outcome(0, service, Place { owner: server, destination }, table, &mut 0)
    }
}

#[inline(always)]
pub(super) fn source(frame: &[u8]) -> PackedMac {
    PackedMac::from_bytes([frame[6], frame[7], frame[8], frame[9], frame[10], frame[11]])
}

/// The service of a frame to a cluster address. Where a server has sent it (`is_returned`) it is refused, unless that may send frames back.
fn choose(
    table: &Table,
    address: &Address,
    is_returned: bool,
    upper: Upper,
    by_port: impl Fn(u8, [u8; 2]) -> Option<PortService>,
) -> Result<ServiceId, Verdict> {
    let service = match upper {
        Upper::Ports(transport, ports) | Upper::FirstFragment(transport, ports) => {
            by_port(transport.protocol(), ports.destination.to_be_bytes()).map(PortService::id)
        }
        Upper::LaterFragment(transport) => address.by_transport(transport),
        Upper::Address => Some(address.default()),
        Upper::Other => address.any(),
        Upper::Foreign => None,
    };
    if is_returned {
        let may_return = |id: &ServiceId| table.service(*id).second_chance;
        return service.filter(may_return).ok_or(Verdict::Drop(Reason::Loop));
    }
    service.ok_or(Verdict::Drop(Reason::NoService))
}

/// Which service a frame is for. `None`: for none, or there is something wrong with it.
pub(super) fn service(frame: &[u8], table: &Table) -> Option<ServiceId> {
    match classify::outer(frame) {
        Outer::V4(packet) => {
            let ((address, at), flow) = (table.address_v4(packet.destination())?, classify::flow_v4(&packet).ok()?);
            let by_port = |protocol, port| table.ports().v4(at, port_key(protocol, port));
            choose(table, address, table.is_loop(address, source(frame)), flow.upper, by_port).ok()
        }
        Outer::V6(packet) => {
            let ((address, at), flow) = (table.address_v6(packet.destination())?, classify::flow_v6(&packet).ok()?);
            let by_port = |protocol, port| table.ports().v6(at, port_key(protocol, port));
            choose(table, address, table.is_loop(address, source(frame)), flow.upper, by_port).ok()
        }
        Outer::Truncated | Outer::Other => None,
    }
}

/// What a server follows from, once the service is known.
enum Input {
    Source,
    Flow(transport::Ports, u8),
    /// A connection ID says whose it is; or `modulo`, and the client's own server is up.
    Settled(Place),
}

/// `client` is the flow's as a number. `datagram` lends a UDP packet behind its IP header.
fn input<'a, A>(
    service: ServiceId,
    (flow, client): (&Flow<A>, u128),
    table: &Table,
    datagram: impl FnOnce() -> Option<&'a [u8]>,
) -> Input {
    if let Some(place) = quic::place(service, flow.upper, table, datagram) {
        return Input::Settled(place);
    }
    let entry = table.service(service);
    match (entry.by_remainder(client), flow.upper) {
        (Some(owner), _) => Input::Settled(table.place_of(service, owner)),
        (None, Upper::Ports(transport, ports)) if entry.rule.flow => Input::Flow(ports, transport.protocol()),
        _ => Input::Source,
    }
}
