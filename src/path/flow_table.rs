//! Where frames go whose slot is migrating, so that connections stay on their server through a change of the cluster.
//!
//! A connection that begins goes to the slot's new owner; its SYN is noted, and when something comes back that follows it, the
//! connection is remembered. What is noted or remembered follows its entry; whatever
//! else is of TCP was begun before, and goes to the slot's previous owner. Protocols without a beginning are remembered by flow:
//! one that shows itself in the first `FLOW_IDLE` of the change may be an old one and stays with the previous owner; one that
//! appears later is new. A server that is gone keeps nothing.
//!
//! Clients' addresses can be forged, and of what servers answer nothing is seen here. What a stranger does not know is where the
//! client is in its sequence numbers. So an entry changes only by segments that fit those before: a connection is where its SYN
//! went only for segments that follow this SYN, and a FIN or RST that fits does no more than start a time after which a SYN begins
//! anew. Segments that do not fit have an entry never changed by any again. A SYN for a connection that is there goes where that is:
//! its server answers with a challenge (RFC 5961, section 4), and the client's RST decides. For this, old connections are
//! remembered too, where there is room.

use super::batch::Bits;
use super::classify::{self, Act, Segment, Upper, Whole};
use super::second_chance;
use super::select::{Outcome, Selection};
use crate::hash;
use crate::limits::{FLOW_ESTABLISHED_IDLE, FLOW_IDLE, FLOW_REOPEN, FLOW_SYN_RETRY};
use crate::table::flow_table::{Flow, FlowTable, Position, Stage, ticks};
use crate::table::{Rule, ServiceId, Table};
use crate::verdict::{Reason, Verdict};
use std::net::IpAddr;

impl Selection {
    /// Decides the frames that `decide` has left open, each by the flow table that is at the position told for it. `now` is in nanoseconds, on
    /// the clock by which changes begin and end.
    #[cold]
    #[inline(never)]
    pub fn look_up_flows<'a>(
        &mut self,
        table: &Table,
        (flow_tables, flow_table): (&mut [FlowTable], impl Fn(usize) -> usize),
        now: u64,
        bytes: impl Fn(usize) -> &'a [u8],
    ) {
        for at in Bits(std::mem::take(&mut self.migrating)) {
            let service = self.outcomes[at].service;
            let flows = &mut flow_tables[flow_table(at)];
            self.outcomes[at] = look_up(bytes(at), service, table, flows, ticks(now));
        }
        for at in Bits(std::mem::take(&mut self.returned)) {
            let service = self.outcomes[at].service;
            let flows = &mut flow_tables[flow_table(at)];
            let (outcome, is_last) = second_chance::look_up(bytes(at), service, table, flows, ticks(now));
            self.outcomes[at] = outcome;
            self.last_chances |= u64::from(is_last) << at;
        }
    }
}

fn look_up(frame: &[u8], service: ServiceId, table: &Table, flows: &mut FlowTable, now: u64) -> Outcome {
    let entry = table.service(service);
    let (Some(packet), Some(kept)) = (classify::whole(frame), entry.kept()) else {
        unreachable!("a frame with a slot, of a service with migrating slots")
    };
    let client = packet.client();
    let present_hash = packet.hash(entry.rule.key, entry.rule.flow);
    let present = entry.select(present_hash, client).1;
    let hash = |rule: &Rule| if *rule == entry.rule { present_hash } else { packet.hash(rule.key, rule.flow) };
    let previous_owner = kept.previous_owner(present, hash, client);
    let previous = previous_owner.server();
    let name = packet.name(flows.key());
    let lasts = |flow: &Flow| !previous_owner.is_settled() || !flow.is_silent(FLOW_ESTABLISHED_IDLE, now);
    let is_kept = |flow: &Flow| table.previous_owner_in(service, flow.server).is_some() && lasts(flow);
    let known = flows.find(name, previous_owner.since(), is_kept);
    let mut remembers = !previous_owner.is_settled();
    if let Some((flow, at)) = known {
        match seen(&packet, flow, now) {
            Seen::Now(next) => {
                let destination = table.previous_owner_in(service, flow.server).expect("it was looked for");
                let server = table.server(service, destination);
                if previous_owner.is_settled() && present == Some(server) {
                    // It would go there if it were forgotten.
                    flows.forget(at);
                } else if flows.is_noted(at) && comes_back(&packet, &flow) {
                    flows.confirm(at, name, &next, table.horizon);
                } else if next != flow {
                    flows.update(at, &next);
                }
                return Outcome::to_server(service, server, destination, table);
            }
            Seen::Over => flows.forget(at),
            Seen::Not => remembers = false,
        }
    } else if packet.act == Act::Begin && !remembers {
        // What is known is of a connection to a server that is gone. That may come back, and would get this one.
        while let Some((_, at)) = flows.find(name, previous_owner.since(), |_| true) {
            flows.forget(at);
        }
    }
    let old = if kept.until_closed { Stage::Shown } else { Stage::Spare };
    let (server, stage) = match packet.act {
        Act::Begin => (present, Some(Stage::Begun)),
        Act::Datagram => (previous.filter(|_| previous_owner.is_learning()).or(present), Some(Stage::Begun)),
        Act::Go => (previous.or(present), previous.filter(|previous| Some(*previous) != present).map(|_| old)),
        Act::Close | Act::Abort | Act::Report | Act::Fragment => (previous.or(present), None),
    };
    let Some(server) = server else { return Verdict::Drop(Reason::NoServer).into() };
    let destination = table.destination(service, server) as u32;
    if let Some(stage) = stage.filter(|_| remembers) {
        let position = position(&packet);
        let flow = Flow { server: table.ident(destination), stage, position, disputed: false, seen: now };
        match packet.act {
            Act::Begin => flows.note(name, &flow, table.horizon),
            _ => flows.remember(name, &flow, table.horizon),
        }
    }
    Outcome::to_server(service, server, destination, table)
}

/// Whether a packet of a connection of which only a SYN is known shows that there is somebody who sent that: it is the same SYN, or follows it.
fn comes_back(packet: &Whole, syn: &Flow) -> bool {
    match packet.act {
        Act::Begin => position(packet) == syn.position,
        Act::Go | Act::Close | Act::Abort => true,
        Act::Report | Act::Fragment | Act::Datagram => false,
    }
}

/// What a packet is for a flow that is known.
enum Seen {
    /// One of it. It is so now.
    Now(Flow),
    /// The first that follows it: it is over.
    Over,
    /// One of another flow with the same addresses and ports. Which of the two is a forged one will show.
    Not,
}

fn seen(packet: &Whole, flow: Flow, now: u64) -> Seen {
    match packet.act {
        Act::Report | Act::Fragment => Seen::Now(flow),
        Act::Datagram if flow.is_silent(FLOW_IDLE, now) => Seen::Over,
        Act::Datagram => Seen::Now(Flow { stage: Stage::Datagrams, seen: now, ..flow }),
        Act::Begin => begin(flow, packet, now).map_or(Seen::Over, Seen::Now),
        Act::Go | Act::Close | Act::Abort if flow.stage != Stage::Begun => Seen::Now(go_on(flow, packet, now)),
        Act::Go | Act::Close | Act::Abort if flow.is_over(now) => Seen::Over,
        Act::Go | Act::Close | Act::Abort => first(flow, packet, now).map_or(Seen::Not, Seen::Now),
    }
}

/// A SYN for a flow that is known. `None`: that one is over, and another begins.
fn begin(flow: Flow, packet: &Whole, now: u64) -> Option<Flow> {
    let position = position(packet);
    match flow.stage {
        Stage::Begun if flow.is_over(now) => None,
        // Repeated, or the next attempt.
        Stage::Begun if position == flow.position || flow.is_silent(FLOW_SYN_RETRY, now) => {
            Some(Flow { position, seen: now, ..flow })
        }
        Stage::Closing if flow.is_silent(FLOW_REOPEN, now) => None,
        _ => Some(flow),
    }
}

/// The first segment after a SYN, if it follows that.
fn first(flow: Flow, packet: &Whole, now: u64) -> Option<Flow> {
    if !flow.position.is_followed_by(Position::of(packet.segment.sequence)) {
        return None;
    }
    let stage = if packet.act == Act::Go { Stage::Established } else { Stage::Closing };
    Some(Flow { stage, position: flow.position.furthest(position(packet)), seen: now, ..flow })
}

/// Any segment but a SYN, of a connection that is known.
fn go_on(flow: Flow, packet: &Whole, now: u64) -> Flow {
    let Segment { sequence, has_data, .. } = packet.segment;
    let fits = !flow.disputed && flow.position.is_near(Position::of(sequence));
    let stage = match (packet.act, flow.stage) {
        (Act::Go, Stage::Shown) => Stage::Established,
        // It was not the client's end: that sends nothing new afterwards.
        (Act::Go, Stage::Closing) if has_data || !fits => Stage::Established,
        (Act::Close | Act::Abort, _) if fits => Stage::Closing,
        (_, stage) => stage,
    };
    if !fits {
        let seen = if packet.act == Act::Go { now } else { flow.seen };
        return Flow { stage, disputed: true, seen, ..flow };
    }
    Flow { stage, position: flow.position.furthest(position(packet)), seen: now, ..flow }
}

/// Where the client is behind a segment. What a SYN carries may be refused (RFC 7413), and come again.
pub(super) fn position(packet: &Whole) -> Position {
    let Segment { sequence, next, .. } = packet.segment;
    Position::of(if packet.act == Act::Begin { sequence.wrapping_add(1) } else { next })
}

impl Whole {
    /// The client's address as a number.
    pub(super) fn client(&self) -> u128 {
        match self.flow.client {
            IpAddr::V4(client) => client.to_bits() as u128,
            IpAddr::V6(client) => client.to_bits(),
        }
    }

    /// What a slot follows from; ports take part where `flow` says so and the packet has them.
    pub(super) fn hash(&self, key: hash::Key, flow: bool) -> u64 {
        match self.flow.upper {
            Upper::Ports(..) if flow => self.name(key),
            _ => hash::source(key, self.flow.client),
        }
    }

    /// What tells the flow from all others. Fragments do not show their ports, all of a datagram alike.
    pub(super) fn name(&self, key: hash::Key) -> u64 {
        let ports = match self.flow.upper {
            Upper::Ports(_, ports) => (ports.source, ports.destination),
            _ => (0, 0),
        };
        hash::flow(key, self.flow.client, self.flow.cluster, ports, self.protocol)
    }
}
