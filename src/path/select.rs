//! Which server a burst's frames go to: service, hash, slot, owner.
//!
//! A `Selection` takes the frames of a burst one by one (`admit`) and decides all at once (`decide`). What `admit` can
//! settle alone (drops, passes) it settles; the rest it sorts into lanes by the shape of the hash input, so that each lane
//! is hashed as one vector. A plain frame to a plain service goes a short way, all others the long one; a property test
//! holds the two together.

use super::parse::{self, Outer, Upper};
use crate::hash;
use crate::hash::vector::{Level, Row};
use crate::limits::BURST;
use crate::table::maglev::NOBODY;
use crate::table::{Address, MOVING, PackedMac, Place, PortService, Ports, ServiceId, Table, port_key, port_key_v4};
use crate::verdict::{Reason, Verdict};
use crate::wire::ethernet;
use crate::wire::transport;

/// The decisions about one burst, and the scratch space to reach them.
pub struct Selection {
    level: Level,
    len: usize,
    pub(super) outcomes: [Outcome; BURST],
    /// The frames, a bit each, that begin a TCP connection.
    begins: u64,
    /// Those whose slot is moving: `decide` leaves them to `follow`.
    pub(super) moving: u64,
    source_v4: Lane<{ hash::SOURCE_V4 }>,
    source_v6: Lane<{ hash::SOURCE_V6 }>,
    flow_v4: Lane<{ hash::FLOW_V4 }>,
    flow_v6: Lane<{ hash::FLOW_V6 }>,
}

/// The positions of the bits that are set, from the lowest.
pub struct Bits(pub(super) u64);

impl Iterator for Bits {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let at = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (at < u64::BITS).then_some(at as usize)
    }
}

/// What was decided about one frame. 16 bytes, written once.
#[derive(Clone, Copy)]
pub struct Outcome {
    /// The server's; unresolved: the frame is not forwarded.
    pub mac: PackedMac,
    /// `Table::destination`
    pub destination: u32,
    pub service: ServiceId,
    /// Where not forwarded: the reason's number, or `PASS`.
    server: u16,
}

const PASS: u16 = u16::MAX;

impl Outcome {
    #[inline(always)]
    fn kept(code: u16) -> Outcome {
        Outcome { mac: PackedMac::UNRESOLVED, destination: 0, service: 0, server: code }
    }

    #[inline]
    pub fn is_forward(&self) -> bool {
        self.mac.is_resolved()
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
            moving: 0,
            source_v4: Lane::new(),
            source_v6: Lane::new(),
            flow_v4: Lane::new(),
            flow_v6: Lane::new(),
        }
    }

    /// One a frame, in order of admission. Final after `decide` and `follow`.
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

    /// Whether there is something to `follow`.
    #[inline]
    pub fn is_moving(&self) -> bool {
        self.moving != 0
    }

    /// Takes a burst of at most `BURST` frames; `bytes` lends the frame at a position.
    #[inline(always)]
    pub fn admit<'a>(&mut self, len: usize, table: &Table, mut bytes: impl FnMut(usize) -> &'a [u8]) {
        assert!(len <= BURST);
        self.len = len;
        let mut odd = [0u8; BURST];
        let mut odds = 0;
        let ports = table.ports();
        let mut plain = PlainFrames { ports, not_a_server: PackedMac::UNRESOLVED, v4: 0, v6: 0, begins: 0 };
        for at in 0..len {
            if plain.admit(self, at, bytes(at)).is_none() {
                odd[odds % BURST] = at as u8;
                odds += 1;
            }
        }
        self.source_v4.len = plain.v4;
        self.source_v6.len = plain.v6;
        self.begins = plain.begins;
        self.moving = 0;
        for at in &odd[..odds] {
            self.admit_any(*at as usize, bytes(*at as usize), table);
        }
    }

    /// The long way.
    #[cold]
    #[inline(never)]
    fn admit_any(&mut self, at: usize, frame: &[u8], table: &Table) {
        self.begins |= u64::from(parse::begins(frame)) << at;
        if let Err(verdict) = self.sort(at, frame, table) {
            self.outcomes[at] = verdict.into();
        }
    }

    /// Puts any frame into its lane. `Err`: the verdict is known already.
    fn sort(&mut self, at: usize, frame: &[u8], table: &Table) -> Result<(), Verdict> {
        match parse::outer(frame) {
            Outer::V4(packet) => {
                let address = table.address_v4(packet.destination()).ok_or(Verdict::Pass)?;
                let flow = parse::flow_v4(&packet).map_err(Verdict::Drop)?;
                let by_port = |protocol, port| table.ports().v4(port_key_v4(flow.cluster, port_key(protocol, port)));
                let service = choose(frame, table, address, flow.upper, by_port)?;
                match input(service, flow.upper, u32::from_be_bytes(flow.client) as u128, table) {
                    Input::Source => self.source_v4.push(at, service, hash::source_v4(flow.client)),
                    Input::Flow(ports, protocol) => {
                        let blocks =
                            hash::flow_v4(flow.client, flow.cluster, (ports.source, ports.destination), protocol);
                        self.flow_v4.push(at, service, blocks);
                    }
                    Input::Settled(place) => self.outcomes[at] = outcome(at, service, place, table, &mut self.moving),
                }
            }
            Outer::V6(packet) => {
                let address = table.address_v6(packet.destination()).ok_or(Verdict::Pass)?;
                let flow = parse::flow_v6(&packet).map_err(Verdict::Drop)?;
                let by_port = |protocol, port| table.ports().v6(flow.cluster, port_key(protocol, port));
                let service = choose(frame, table, address, flow.upper, by_port)?;
                match input(service, flow.upper, u128::from_be_bytes(flow.client), table) {
                    Input::Source => self.source_v6.push(at, service, hash::source_v6(flow.client)),
                    Input::Flow(ports, protocol) => {
                        let blocks =
                            hash::flow_v6(flow.client, flow.cluster, (ports.source, ports.destination), protocol);
                        self.flow_v6.push(at, service, blocks);
                    }
                    Input::Settled(place) => self.outcomes[at] = outcome(at, service, place, table, &mut self.moving),
                }
            }
            Outer::Truncated => return Err(Verdict::Drop(Reason::Malformed)),
            Outer::Other => return Err(Verdict::Pass),
        }
        Ok(())
    }

    /// Hashes and looks up whatever `admit` left open. Returns one outcome a frame.
    #[inline(always)]
    pub fn decide(&mut self, table: &Table) -> &mut [Outcome] {
        let Selection { level, outcomes, moving, source_v4, source_v6, flow_v4, flow_v6, .. } = self;
        source_v4.decide(*level, table, outcomes, moving);
        source_v6.decide(*level, table, outcomes, moving);
        flow_v4.decide(*level, table, outcomes, moving);
        flow_v6.decide(*level, table, outcomes, moving);
        &mut self.outcomes[..self.len]
    }
}

/// The short way, for the frames that nearly all are: it keeps what it needs in registers.
struct PlainFrames<'a> {
    ports: Ports<'a>,
    /// The source MAC of a frame of this burst that is no server's. Most bursts come from one router.
    not_a_server: PackedMac,
    /// Lengths of the two lanes.
    v4: usize,
    v6: usize,
    begins: u64,
}

impl PlainFrames<'_> {
    /// `None`: not for this frame.
    #[inline(always)]
    fn admit(&mut self, lanes: &mut Selection, at: usize, frame: &[u8]) -> Option<()> {
        let head = frame.first_chunk::<{ parse::PLAIN_LEN }>()?;
        // The source MAC, and the EtherType behind it.
        let word = u64::from_le_bytes(*head[6..].first_chunk().expect("within the header"));
        let source = PackedMac::from_low_word(word);
        match (word >> 48) as u16 {
            IPV4 => self.admit_v4::<14>(lanes, at, head, frame, source),
            IPV6 => self.admit_v6::<14>(lanes, at, head, frame, source),
            VLAN => match u16::from_le_bytes([head[16], head[17]]) {
                IPV4 => self.admit_v4::<18>(lanes, at, head, frame, source),
                IPV6 => self.admit_v6::<18>(lanes, at, head, frame, source),
                _ => None,
            },
            _ => None,
        }
    }

    #[inline(always)]
    fn admit_v4<const L3: usize>(
        &mut self,
        lanes: &mut Selection,
        at: usize,
        head: &[u8; parse::PLAIN_LEN],
        frame: &[u8],
        source: PackedMac,
    ) -> Option<()> {
        let plain = parse::plain_v4::<L3>(head, frame.len())?;
        let service = self.service(self.ports.v4(plain.key)?, source)?;
        lanes.source_v4.set(self.v4, at, service, hash::source_v4(plain.client));
        self.v4 += 1;
        self.begins |= (plain.begins as u64) << at;
        Some(())
    }

    #[inline(always)]
    fn admit_v6<const L3: usize>(
        &mut self,
        lanes: &mut Selection,
        at: usize,
        head: &[u8; parse::PLAIN_LEN],
        frame: &[u8],
        source: PackedMac,
    ) -> Option<()> {
        let plain = parse::plain_v6::<L3>(head, frame)?;
        let (cluster, port) = plain.key;
        let service = self.service(self.ports.v6(cluster, port)?, source)?;
        lanes.source_v6.set(self.v6, at, service, hash::source_v6(plain.client));
        self.v6 += 1;
        self.begins |= (plain.begins as u64) << at;
        Some(())
    }

    /// The service, if it selects by maglev over the source and the frame cannot be a loop.
    #[inline(always)]
    fn service(&mut self, service: PortService, source: PackedMac) -> Option<ServiceId> {
        if source != self.not_a_server {
            if self.ports.is_server(source) {
                return None;
            }
            self.not_a_server = source;
        }
        service.is_plain().then_some(service.id())
    }
}

/// EtherTypes as they lie in a little-endian word.
const IPV4: u16 = ethernet::IPV4.to_be();
const IPV6: u16 = ethernet::IPV6.to_be();
const VLAN: u16 = ethernet::VLAN.to_be();

/// A frame's position in the burst, and its service: one word, one store.
#[derive(Clone, Copy)]
struct Sorted(u32);

impl Sorted {
    #[inline(always)]
    fn new(position: usize, service: ServiceId) -> Sorted {
        Sorted(position as u32 | (service as u32) << 16)
    }

    #[inline(always)]
    fn position(self) -> usize {
        self.0 as usize % BURST
    }

    #[inline(always)]
    fn service(self) -> ServiceId {
        (self.0 >> 16) as ServiceId
    }
}

/// Frames whose hash inputs have the same number of blocks.
struct Lane<const B: usize> {
    len: usize,
    frames: [Sorted; BURST],
    blocks: [Row; B],
}

impl<const B: usize> Lane<B> {
    fn new() -> Lane<B> {
        Lane { len: 0, frames: [Sorted(0); BURST], blocks: [[0; BURST]; B] }
    }

    #[inline(always)]
    fn set(&mut self, at: usize, frame: usize, service: ServiceId, blocks: [u64; B]) {
        self.frames[at % BURST] = Sorted::new(frame, service);
        for (row, block) in self.blocks.iter_mut().zip(blocks) {
            row[at % BURST] = block;
        }
    }

    fn push(&mut self, frame: usize, service: ServiceId, blocks: [u64; B]) {
        self.set(self.len, frame, service, blocks);
        self.len += 1;
    }

    /// Empties the lane. The slots of all its frames are read before the first is used: these reads miss the caches, and so
    /// they wait together.
    #[inline(always)]
    fn decide(&mut self, level: Level, table: &Table, outcomes: &mut [Outcome; BURST], moving: &mut u64) {
        let len = std::mem::take(&mut self.len).min(BURST);
        if len == 0 {
            return;
        }
        let mut hashes = [0; BURST];
        level.siphash(table.key, &self.blocks, len, &mut hashes);
        let mut places = [Place::default(); BURST];
        for (at, place) in places[..len].iter_mut().enumerate() {
            *place = table.place(self.frames[at].service(), hashes[at]);
        }
        for (at, place) in places[..len].iter().enumerate() {
            let frame = self.frames[at];
            let at = frame.position();
            outcomes[at] = outcome(at, frame.service(), *place, table, moving);
        }
    }
}

#[inline(always)]
fn outcome(at: usize, service: ServiceId, place: Place, table: &Table, moving: &mut u64) -> Outcome {
    let Place { owner, destination } = place;
    let mac = table.mac(destination as usize);
    if mac.is_resolved() {
        return Outcome { mac, destination, service, server: owner };
    }
    if owner & MOVING != 0 {
        *moving |= 1 << at;
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
fn source(frame: &[u8]) -> PackedMac {
    PackedMac::from_bytes([frame[6], frame[7], frame[8], frame[9], frame[10], frame[11]])
}

/// The service of a frame to a cluster address.
fn choose(
    frame: &[u8],
    table: &Table,
    address: &Address,
    upper: Upper,
    by_port: impl Fn(u8, [u8; 2]) -> Option<PortService>,
) -> Result<ServiceId, Verdict> {
    if table.is_loop(address, source(frame)) {
        return Err(Verdict::Drop(Reason::Loop));
    }
    let service = match upper {
        Upper::Ports(transport, ports) | Upper::FirstFragment(transport, ports) => {
            by_port(transport.protocol(), ports.destination.to_be_bytes()).map(PortService::id)
        }
        Upper::LaterFragment(transport) => address.by_transport(transport),
        Upper::Address => Some(address.default()),
        Upper::Other => address.any(),
        Upper::Foreign => None,
    };
    service.ok_or(Verdict::Drop(Reason::NoService))
}

/// What a server follows from, once the service is known.
enum Input {
    Source,
    Flow(transport::Ports, u8),
    /// `modulo`, and the client's own server is up.
    Settled(Place),
}

fn input(service: ServiceId, upper: Upper, client: u128, table: &Table) -> Input {
    let entry = table.service(service);
    match (entry.by_remainder(client), upper) {
        (Some(owner), _) => Input::Settled(table.place_of(service, owner)),
        (None, Upper::Ports(transport, ports)) if entry.rule.flow => Input::Flow(ports, transport.protocol()),
        _ => Input::Source,
    }
}
