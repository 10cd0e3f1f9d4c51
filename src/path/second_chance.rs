//! A segment that a server has sent back, since it has no connection for it: a second chance.
//!
//! A dispatcher remembers the connections that begin during a change. Another one, to which routers move such a connection, does not know
//! it and sends its segments to the slot's previous owner. With `second_chance` that server sends back what it has no socket for, to the
//! dispatcher that it came from (`src/bpf/decap.bpf.c`). So whose connection it is is found by asking those that may have it, one
//! after the other, and nobody has to tell anybody. GitHub's GLB does so with two servers a slot ("second chance", 2016).
//!
//! Who may have it are `Kept::candidates`, in their order, each once: so a frame goes round at most as often as there are of them. To the
//! last one it goes with a TTL of 1 (`rewrite::mark_last_chance`), which that server does not send back: its kernel answers with a reset,
//! as for any segment that nobody has a connection for.

use super::classify::{self, Act};
use super::flow_table::position;
use super::select::{Outcome, source};
use crate::limits::MAX_CHANGES;
use crate::table::build::migration::Kept;
use crate::table::flow_table::{Flow, FlowTable, Stage};
use crate::table::{PackedMac, Rule, ServiceId, Table};
use crate::verdict::{Reason, Verdict};
use arrayvec::ArrayVec;

/// What becomes of the frame, and whether nobody else will be asked. `now` is in ticks.
pub fn look_up(frame: &[u8], service: ServiceId, table: &Table, flows: &mut FlowTable, now: u64) -> (Outcome, bool) {
    let refused = (Verdict::Drop(Reason::Loop).into(), false);
    let Some(packet) = classify::whole(frame).filter(|it| matches!(it.act, Act::Go | Act::Close | Act::Abort)) else {
        return refused;
    };
    let (entry, client) = (table.service(service), packet.client());
    let hash = |rule: &Rule| packet.hash(rule.key, rule.flow);
    let present = entry.select(hash(&entry.rule), client).1;
    let candidates = match entry.kept() {
        Some(kept) => kept.candidates(present, hash, client),
        None => present.into_iter().collect(),
    };
    let next_hop = |server: u16| table.next_hop(table.destination(service, server));
    let there: ArrayVec<u16, { MAX_CHANGES + 2 }> =
        candidates.into_iter().filter(|server| next_hop(*server).is_forward()).collect();
    let from = source(frame);
    let is_from = |server: &u16| PackedMac::from_low_word(next_hop(*server).mac_word()) == from;
    let Some(at) = there.iter().position(is_from) else { return refused };
    let (server, is_last) = match &there[at + 1..] {
        // Nobody has it: its own server answers.
        [] => (there[at], true),
        [next] => (*next, true),
        [next, ..] => (*next, false),
    };
    let destination = table.destination(service, server) as u32;
    let remembers = |kept: &Kept| !kept.previous_owner(present, hash, client).is_settled();
    if packet.act == Act::Go && server != there[at] && entry.kept().is_some_and(remembers) {
        let (server, position) = (table.ident(destination), position(&packet));
        let flow = Flow { server, stage: Stage::Shown, position, disputed: false, seen: now };
        flows.remember(packet.name(flows.key()), &flow, table.horizon);
    }
    (Outcome::to_server(service, server, destination, table), is_last)
}
