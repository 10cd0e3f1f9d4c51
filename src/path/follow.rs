//! Where frames go whose slot is moving, so that connections stay on their server through a change of the cluster.
//!
//! A connection that begins goes to the slot's new owner and is remembered; what is remembered follows its memory; whatever
//! else is of TCP was begun before, and goes to who keeps the slot's connections. Protocols without a beginning are
//! remembered by flow: one that shows itself in the first `FLOW_IDLE` of the change may be an old one and stays with the
//! old owner; one that appears later is new. A server that is gone keeps nothing.

use super::lane::Bits;
use super::parse::{self, Act, Upper, Whole};
use super::select::{Outcome, Selection};
use crate::hash;
use crate::table::pins::{Pins, Stage};
use crate::table::{Rule, ServiceId, Table, ticks};
use crate::verdict::{Reason, Verdict};
use std::net::IpAddr;

impl Selection {
    /// Decides the frames that `decide` has left open. `now` is in nanoseconds, on the clock by which changes begin and end.
    #[cold]
    #[inline(never)]
    pub fn follow<'a>(&mut self, table: &Table, pins: &mut Pins, now: u64, bytes: impl Fn(usize) -> &'a [u8]) {
        for at in Bits(std::mem::take(&mut self.moving)) {
            let service = self.outcomes[at].service;
            self.outcomes[at] = follow(bytes(at), service, table, pins, ticks(now));
        }
    }
}

fn follow(frame: &[u8], service: ServiceId, table: &Table, pins: &mut Pins, now: u32) -> Outcome {
    let entry = table.service(service);
    let (Some(packet), Some(kept)) = (parse::whole(frame), entry.kept()) else {
        unreachable!("a frame with a slot, of a service with moving slots")
    };
    let Whole { flow, act, .. } = packet;
    let client = match flow.client {
        IpAddr::V4(client) => client.to_bits() as u128,
        IpAddr::V6(client) => client.to_bits(),
    };
    let present_hash = packet.hash(entry.rule.key, entry.rule.flow);
    let present = entry.select(present_hash, client).1;
    let hash = |rule: &Rule| if *rule == entry.rule { present_hash } else { packet.hash(rule.key, rule.flow) };
    let keeper = kept.keeper(present, hash, client);
    let name = packet.name(pins.key());
    let pin = pins.find(name, keeper.since).filter(|pin| match table.keeper(pin.server) {
        // Closed, and the same ports begin anew.
        _ if pin.stage == Stage::Closing && act == Act::Begin => false,
        _ if act == Act::Datagram => !pin.is_idle(now),
        keeper => keeper.is_some(),
    });
    if let Some(pin) = pin
        && let Some(destination) = table.keeper(pin.server)
    {
        match act {
            Act::Begin => pins.touch(&pin, pin.stage, now),
            Act::Go if pin.stage == Stage::Begun => pins.touch(&pin, Stage::Established, now),
            Act::Go => pins.touch(&pin, pin.stage, now),
            Act::Close => pins.touch(&pin, Stage::Closing, now),
            Act::Abort => pins.forget(&pin),
            Act::Datagram => pins.touch(&pin, Stage::Datagrams, now),
            Act::Report | Act::Fragment => {}
        }
        return Outcome::to_server(service, table.server(service, destination), destination, table);
    }
    let old = keeper.server();
    let (server, remember) = match act {
        Act::Begin => (present, true),
        Act::Datagram => (old.filter(|_| keeper.learning).or(present), true),
        _ => (old.or(present), false),
    };
    let Some(server) = server else { return Verdict::Drop(Reason::NoServer).into() };
    let destination = table.destination(service, server) as u32;
    if remember {
        pins.remember(name, table.ident(destination), Stage::Begun, now, table.horizon);
    }
    Outcome::to_server(service, server, destination, table)
}

impl Whole {
    /// What a slot follows from; ports take part where `flow` says so and the packet has them.
    fn hash(&self, key: hash::Key, flow: bool) -> u64 {
        match self.flow.upper {
            Upper::Ports(..) if flow => self.name(key),
            _ => hash::source(key, self.flow.client),
        }
    }

    /// What tells the flow from all others. Fragments do not show their ports, all of a datagram alike.
    fn name(&self, key: hash::Key) -> u64 {
        let ports = match self.flow.upper {
            Upper::Ports(_, ports) => (ports.source, ports.destination),
            _ => (0, 0),
        };
        hash::flow(key, self.flow.client, self.flow.cluster, ports, self.protocol)
    }
}
