//! Which server a burst's frames go to: service, hash, slot, owner.
//!
//! A `Selection` takes the frames of a burst one by one (`admit`) and decides all at once (`decide`). What `admit` can
//! settle alone (drops, passes) it settles; the rest it sorts into lanes by the shape of the hash input, so that each lane
//! is hashed as one vector.

use super::parse::{self, Flow, Outer, Upper};
use crate::hash::vector::{Level, Row};
use crate::hash::{self, Key};
use crate::limits::BURST;
use crate::plan::Transport;
use crate::table::{Address, PackedMac, ServiceId, Table};
use crate::verdict::{Reason, Verdict};
use crate::wire::ethernet;
use crate::wire::transport::Ports;

/// The decisions about one burst, and the scratch space to reach them.
pub struct Selection {
    level: Level,
    len: usize,
    verdicts: [Verdict; BURST],
    macs: [PackedMac; BURST],
    source_v4: Lane<{ hash::SOURCE_V4 }>,
    source_v6: Lane<{ hash::SOURCE_V6 }>,
    flow_v4: Lane<{ hash::FLOW_V4 }>,
    flow_v6: Lane<{ hash::FLOW_V6 }>,
}

/// Frames whose hash inputs have the same number of blocks.
struct Lane<const B: usize> {
    len: usize,
    /// Position in the burst.
    frames: [u8; BURST],
    services: [ServiceId; BURST],
    blocks: [Row; B],
}

impl<const B: usize> Lane<B> {
    fn new() -> Lane<B> {
        Lane { len: 0, frames: [0; BURST], services: [0; BURST], blocks: [[0; BURST]; B] }
    }

    #[inline(always)]
    fn push(&mut self, frame: usize, service: ServiceId, blocks: [u64; B]) {
        let at = self.len;
        self.frames[at] = frame as u8;
        self.services[at] = service;
        for (row, block) in self.blocks.iter_mut().zip(blocks) {
            row[at] = block;
        }
        self.len = at + 1;
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
            verdicts: [Verdict::Pass; BURST],
            macs: [PackedMac::from(None); BURST],
            source_v4: Lane::new(),
            source_v6: Lane::new(),
            flow_v4: Lane::new(),
            flow_v6: Lane::new(),
        }
    }

    /// Starts a new burst.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// One verdict a frame, in order of admission. Final after `decide`.
    #[inline]
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts[..self.len]
    }

    /// Replaces a verdict by what became of the frame after all.
    #[inline]
    pub fn overrule(&mut self, frame: usize, verdict: Verdict) {
        self.verdicts[..self.len][frame] = verdict;
    }

    /// Where a forwarded frame goes.
    #[inline]
    pub fn mac(&self, frame: usize) -> PackedMac {
        self.macs[frame]
    }

    /// Takes the next frame of the burst: at most `BURST` between two `clear`s.
    #[inline]
    pub fn admit(&mut self, frame: &[u8], table: &Table) {
        let at = self.len;
        self.len = at + 1;
        if self.admit_plain_v4(at, frame, table) {
            return;
        }
        if let Err(verdict) = self.admit_any(at, frame, table) {
            self.verdicts[at] = verdict;
        }
    }

    /// The frame that nearly all are: untagged, IPv4 without options, whole, TCP or UDP, to a port of a service that
    /// hashes the source. `false`: it is another, or something is wrong with it; then `admit_any` judges. Each test here
    /// is one of its tests, and a property test holds the two together.
    #[inline(always)]
    fn admit_plain_v4(&mut self, at: usize, frame: &[u8], table: &Table) -> bool {
        let Some(head) = frame.first_chunk::<54>() else { return false };
        let be16 = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let transport = match head[23] {
            6 => Transport::Tcp,
            17 => Transport::Udp,
            _ => return false,
        };
        let total = be16(16) as usize;
        let room = total.wrapping_sub(20);
        let whole = match transport {
            Transport::Udp => be16(38) >= 8 && be16(38) as usize <= room,
            _ => head[46] >> 4 >= 5 && (head[46] >> 4) as usize * 4 <= room,
        };
        let plain = be16(12) == ethernet::IPV4
            && head[14] == 0x45
            && be16(20) & 0x3fff == 0
            && head[22] != 0
            && whole
            && total >= 20
            && total <= frame.len() - ethernet::HEADER_LEN;
        if !plain {
            return false;
        }
        let Some(address) = table.address_v4([head[30], head[31], head[32], head[33]]) else { return false };
        let Some(service) = table.by_port(address, transport, be16(36)) else { return false };
        let entry = table.service(service);
        if entry.flow || entry.is_modulo() || table.is_loop(address, source(head)) {
            return false;
        }
        self.source_v4.push(at, service, hash::source_v4([head[26], head[27], head[28], head[29]]));
        true
    }

    /// Any frame. `Err`: the verdict is known already.
    fn admit_any(&mut self, at: usize, frame: &[u8], table: &Table) -> Result<(), Verdict> {
        match parse::outer(frame) {
            Outer::V4(packet) => {
                let address = table.address_v4(packet.destination()).ok_or(Verdict::Pass)?;
                let flow = parse::flow_v4(&packet).map_err(Verdict::Drop)?;
                let client = u32::from_be_bytes(flow.client) as u128;
                let (service, input) = choose(frame, table, address, flow.upper, client)?;
                match input {
                    Input::Source => self.source_v4.push(at, service, hash::source_v4(flow.client)),
                    Input::Flow(ports, protocol) => {
                        self.flow_v4.push(at, service, flow_blocks_v4(&flow, ports, protocol))
                    }
                    Input::Settled(server) => self.settle(at, service, server, table),
                }
            }
            Outer::V6(packet) => {
                let address = table.address_v6(packet.destination()).ok_or(Verdict::Pass)?;
                let flow = parse::flow_v6(&packet).map_err(Verdict::Drop)?;
                let client = u128::from_be_bytes(flow.client);
                let (service, input) = choose(frame, table, address, flow.upper, client)?;
                match input {
                    Input::Source => self.source_v6.push(at, service, hash::source_v6(flow.client)),
                    Input::Flow(ports, protocol) => {
                        self.flow_v6.push(at, service, flow_blocks_v6(&flow, ports, protocol))
                    }
                    Input::Settled(server) => self.settle(at, service, server, table),
                }
            }
            Outer::Truncated => return Err(Verdict::Drop(Reason::Malformed)),
            Outer::Other => return Err(Verdict::Pass),
        }
        Ok(())
    }

    /// Hashes and looks up whatever `admit` left open. Empties the lanes.
    #[inline]
    pub fn decide(&mut self, table: &Table) {
        let Selection { level, verdicts, macs, source_v4, source_v6, flow_v4, flow_v6, .. } = self;
        let mut out = Outcomes { verdicts, macs };
        source_v4.decide(*level, table, &mut out);
        source_v6.decide(*level, table, &mut out);
        flow_v4.decide(*level, table, &mut out);
        flow_v6.decide(*level, table, &mut out);
    }

    fn settle(&mut self, at: usize, service: ServiceId, server: u16, table: &Table) {
        Outcomes { verdicts: &mut self.verdicts, macs: &mut self.macs }.set(at, service, Some(server), table);
    }
}

impl<const B: usize> Lane<B> {
    #[inline(always)]
    fn decide(&mut self, level: Level, table: &Table, out: &mut Outcomes) {
        if self.len == 0 {
            return;
        }
        let mut hashes = [0; BURST];
        level.siphash(table.key, &self.blocks, self.len, &mut hashes);
        let of_lane = self.frames[..self.len].iter().zip(&self.services).zip(&hashes);
        for ((frame, service), hash) in of_lane {
            out.set(*frame as usize, *service, table.service(*service).owner(*hash), table);
        }
        self.len = 0;
    }
}

/// Where decisions are written.
struct Outcomes<'a> {
    verdicts: &'a mut [Verdict; BURST],
    macs: &'a mut [PackedMac; BURST],
}

impl Outcomes<'_> {
    #[inline(always)]
    fn set(&mut self, at: usize, service: ServiceId, server: Option<u16>, table: &Table) {
        let Some(server) = server else {
            self.verdicts[at] = Verdict::Drop(Reason::NoServer);
            return;
        };
        let mac = table.mac(table.destination(service, server));
        self.macs[at] = mac;
        self.verdicts[at] =
            if mac.is_resolved() { Verdict::Forward { service, server } } else { Verdict::Drop(Reason::Unresolved) };
    }
}

/// What is left to do for a frame once its service is known.
enum Input {
    Source,
    Flow(Ports, u8),
    /// `modulo`, and the client's own server is up.
    Settled(u16),
}

#[inline(always)]
fn source(frame: &[u8]) -> PackedMac {
    PackedMac::from_bytes([frame[6], frame[7], frame[8], frame[9], frame[10], frame[11]])
}

/// The service of a frame to a cluster address, and what its server follows from.
fn choose(
    frame: &[u8],
    table: &Table,
    address: &Address,
    upper: Upper,
    client: u128,
) -> Result<(ServiceId, Input), Verdict> {
    if table.is_loop(address, source(frame)) {
        return Err(Verdict::Drop(Reason::Loop));
    }
    let service = match upper {
        Upper::Ports(transport, ports) | Upper::FirstFragment(transport, ports) => {
            table.by_port(address, transport, ports.destination)
        }
        Upper::LaterFragment(transport) => address.by_transport(transport),
        Upper::Address => Some(address.default()),
        Upper::Other => address.any(),
    };
    let service = service.ok_or(Verdict::Drop(Reason::NoService))?;
    let entry = table.service(service);
    let input = match (entry.by_remainder(client), upper) {
        (Some(server), _) => Input::Settled(server),
        (None, Upper::Ports(transport, ports)) if entry.flow => Input::Flow(ports, transport.protocol()),
        _ => Input::Source,
    };
    Ok((service, input))
}

fn flow_blocks_v4(flow: &Flow<[u8; 4]>, ports: Ports, protocol: u8) -> [u64; hash::FLOW_V4] {
    hash::flow_v4(flow.client, flow.cluster, (ports.source, ports.destination), protocol)
}

fn flow_blocks_v6(flow: &Flow<[u8; 16]>, ports: Ports, protocol: u8) -> [u64; hash::FLOW_V6] {
    hash::flow_v6(flow.client, flow.cluster, (ports.source, ports.destination), protocol)
}

/// The hash of one client address, as `Selection` computes it for a burst.
pub fn source_hash(key: Key, client: std::net::IpAddr) -> u64 {
    match client {
        std::net::IpAddr::V4(client) => hash::siphash::blocks(key, hash::source_v4(client.octets())),
        std::net::IpAddr::V6(client) => hash::siphash::blocks(key, hash::source_v6(client.octets())),
    }
}
