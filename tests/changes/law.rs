//! Whatever happens to the cluster: a connection stays on its server until that server is gone, or the time is over for
//! which a change lets it stay; and a new one goes to whoever owns its slot. Strangers who forge segments change nothing of it, if
//! they do not know where the client is in its sequence numbers.

use crate::fixture::successor;
use crate::fixture::{Fixture, Kind, Packet, SECOND};
use oneip::limits::{FLOW_REOPEN, FLOW_SEQUENCE_WINDOW};
use oneip::model::{HashInput, Selection};
use oneip::table::build::{Cluster, State};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::Ipv4Addr;
use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Event {
    Set(usize, State, u64),
    Weigh(usize, u32, u64),
    Add(u32, u64),
    Remove(usize, u64),
    /// Another key, number of slots, or hash: every client has another slot.
    Rule(u8, u64),
    /// The servers in another order.
    Turn(usize, u64),
    Wait(u64),
    /// The process ends, and another goes on with what it has written down.
    Restart,
    /// And with its flow tables.
    Takeover,
    Begin(u8),
    /// A stranger forges a segment of this sequence number, in the name of a client who has a connection, or of one who has none.
    Forge(Kind, u16, u32, u16),
    /// The client ends a connection, or has lost it with its server, and uses its port again.
    Again(u16, bool, u32),
}

struct Connection {
    client: Ipv4Addr,
    port: u16,
    server: String,
    /// With which server it broke.
    lost: Option<String>,
    /// Another owns its slot; it may stay until then.
    until: Option<u64>,
    /// Of the client's next byte.
    sequence: u32,
    /// A stranger has forged segments of it.
    forged: bool,
    /// It has shown itself while it might stay: where connections stay until they are closed, it does.
    shown: bool,
}

impl Connection {
    /// Sends a segment. Returns where it went.
    fn send(&mut self, fixture: &mut Fixture, kind: Kind, data: u16) -> Option<String> {
        let to = fixture.deliver(Packet::Tcp(kind, self.sequence, data), self.client, self.port);
        let mark = u32::from(matches!(kind, Kind::Syn | Kind::Fin));
        self.sequence = self.sequence.wrapping_add(u32::from(data) + mark);
        to
    }

    /// Whether a stranger would have to know where the client is to send this.
    fn is_near(&self, sequence: u32) -> bool {
        (sequence.wrapping_sub(self.sequence) as i32).unsigned_abs() < 2 * FLOW_SEQUENCE_WINDOW
    }
}

pub fn event() -> impl Strategy<Value = Event> {
    let keep = || prop_oneof![Just(0u64), 1u64..40, 1u64..400];
    prop_oneof![
        6 => (0usize..8, select(&[State::Down, State::Draining, State::Active, State::Active][..]), keep())
            .prop_map(|(at, state, keep)| Event::Set(at, state, keep)),
        1 => (0usize..8, 0u32..4, keep()).prop_map(|(at, weight, keep)| Event::Weigh(at, weight, keep)),
        1 => (0u32..4, keep()).prop_map(|(weight, keep)| Event::Add(weight, keep)),
        1 => (0usize..8, keep()).prop_map(|(at, keep)| Event::Remove(at, keep)),
        1 => (0u8..4, keep()).prop_map(|(rule, keep)| Event::Rule(rule, keep)),
        1 => (0usize..8, keep()).prop_map(|(by, keep)| Event::Turn(by, keep)),
        3 => (0u64..60).prop_map(Event::Wait),
        4 => (1u8..40).prop_map(Event::Begin),
        6 => (kind(), any::<(u16, u32)>(), 0u16..1400).prop_map(|(kind, (whose, number), data)| Event::Forge(kind, whose, number, data)),
        1 => Just(Event::Restart),
        1 => Just(Event::Takeover),
        2 => any::<(u16, bool, u32)>().prop_map(|(which, reset, number)| Event::Again(which, reset, number)),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    select(&[Kind::Syn, Kind::Ack, Kind::Fin, Kind::Rst][..])
}

/// For how long connections may stay; `None`: nothing happened to the cluster.
pub fn apply(fixture: &mut Fixture, event: &Event) -> Option<u64> {
    let seconds = Duration::from_secs;
    match *event {
        Event::Set(at, state, keep) => {
            fixture.set(fixture.staying(at), state, seconds(keep));
            Some(keep)
        }
        Event::Weigh(at, weight, keep) => {
            let at = fixture.staying(at);
            fixture.servers()[at].weight = weight;
            fixture.reload(seconds(keep));
            Some(keep)
        }
        Event::Add(weight, keep) => {
            fixture.add(weight, seconds(keep));
            Some(keep)
        }
        Event::Remove(at, keep) => {
            let service = &fixture.plan.services[0];
            if service.servers.len() - service.leaving > 1 {
                fixture.remove(fixture.staying(at), seconds(keep));
            }
            Some(keep)
        }
        Event::Rule(rule, keep) => {
            let service = &mut fixture.plan.services[0];
            match rule {
                0 => fixture.plan.hash_key.0[0] ^= 1,
                1 => service.slots = if service.slots == 1009 { 2003 } else { 1009 },
                2 => {
                    service.hash = match service.hash {
                        HashInput::Flow => HashInput::Source,
                        HashInput::Source if service.selection == Selection::Modulo => HashInput::Source,
                        HashInput::Source => HashInput::Flow,
                    }
                }
                _ => {
                    service.selection = match service.selection {
                        Selection::Maglev if service.hash == HashInput::Flow => Selection::Maglev,
                        Selection::Maglev => Selection::Modulo,
                        Selection::Modulo => Selection::Maglev,
                    }
                }
            }
            fixture.reload(seconds(keep));
            Some(keep)
        }
        Event::Turn(by, keep) => {
            let service = &mut fixture.plan.services[0];
            let staying = service.servers.len() - service.leaving;
            service.servers[..staying].rotate_left(by % staying);
            fixture.reload(seconds(keep));
            Some(keep)
        }
        Event::Wait(time) => {
            fixture.wait(seconds(time));
            None
        }
        Event::Restart | Event::Takeover | Event::Begin(_) | Event::Forge(..) | Event::Again(..) => None,
    }
}

/// A new connection: its SYN goes to the owner, and what follows it to the same server. Strangers forge `forged` meanwhile.
fn open(
    fixture: &mut Fixture,
    (client, port, sequence): (Ipv4Addr, u16, u32),
    forged: Option<(Kind, u32)>,
) -> Result<Connection, TestCaseError> {
    let owner = fixture.owner(client, port);
    let mut new = Connection {
        client,
        port,
        server: String::new(),
        lost: None,
        until: None,
        sequence,
        forged: false,
        shown: false,
    };
    let server = new.send(fixture, Kind::Syn, 0);
    prop_assert_eq!(&server, &owner, "a new connection goes to the owner");
    let taking = owner.as_ref().map(|owner| fixture.state(owner));
    prop_assert!(taking.is_none_or(|state| state == Some(State::Active)));
    // What nobody takes is no connection; its number is used up.
    let Some(server) = server else { return Ok(new) };
    if let Some((kind, number)) = forged.filter(|(_, number)| !new.is_near(*number)) {
        fixture.deliver(Packet::Tcp(kind, number, 0), client, port);
    }
    let then = new.send(fixture, Kind::Ack, 0);
    prop_assert_eq!(then.as_ref(), Some(&server), "what follows a SYN");
    new.server = server;
    Ok(new)
}

fn begin(fixture: &mut Fixture, connections: &mut Vec<Connection>, count: u8) -> Result<(), TestCaseError> {
    for _ in 0..count {
        let number = connections.len() as u32;
        let (client, port) = (Ipv4Addr::from_bits(0xc633_6400 + number * 7), 1024 + number as u16);
        let noise = number.wrapping_mul(0x9e37_79b9);
        let kind = [Kind::Syn, Kind::Ack, Kind::Fin, Kind::Rst][noise as usize >> 4 & 3];
        let forged = number.is_multiple_of(2).then_some((kind, noise.wrapping_mul(77)));
        connections.push(open(fixture, (client, port, noise), forged)?);
    }
    Ok(())
}

fn forge(fixture: &mut Fixture, connections: &mut [Connection], (kind, whose, number, data): (Kind, u16, u32, u16)) {
    let packet = Packet::Tcp(kind, number, data);
    let of = connections.len() + 1;
    match connections.get_mut(usize::from(whose) % of) {
        Some(connection) if !connection.is_near(number) => {
            connection.forged = true;
            fixture.deliver(packet, connection.client, connection.port);
        }
        Some(_) => {}
        None => _ = fixture.deliver(packet, Ipv4Addr::from_bits(0x0a01_0000 + u32::from(whose)), 9),
    }
}

/// The client ends a connection and, a while later, uses the port again; or at once, while the server is away with which it broke.
fn again(
    fixture: &mut Fixture,
    connections: &mut [Connection],
    (which, reset, number): (u16, bool, u32),
) -> Result<(), TestCaseError> {
    let of = connections.len().max(1);
    let Some(old) = connections.get_mut(usize::from(which) % of) else { return Ok(()) };
    if old.server.is_empty() {
        let is_away = old.lost.as_ref().is_some_and(|server| fixture.state(server) == Some(State::Down));
        if is_away && !old.forged && !old.is_near(number) {
            *old = open(fixture, (old.client, old.port, number), None)?;
        }
        return Ok(());
    }
    let to = old.send(fixture, if reset { Kind::Rst } else { Kind::Fin }, 0);
    prop_assert_eq!(to.as_ref(), Some(&old.server));
    fixture.wait(FLOW_REOPEN + Duration::from_secs(1));
    if old.forged || old.is_near(number) {
        // It may stay with its server: that serves it as well.
        old.server.clear();
        return Ok(());
    }
    *old = open(fixture, (old.client, old.port, number), None)?;
    Ok(())
}

/// Another process goes on. Connections that were begun during a change, away from who keeps what it does not remember, are lost.
fn restart(fixture: &mut Fixture, connections: &mut [Connection]) {
    fixture.succeed(successor(fixture, fixture.cluster.history(0)));
    for connection in connections.iter_mut().filter(|connection| !connection.server.is_empty()) {
        connection.shown = false;
        if fixture.place(connection.client, connection.port).1.as_ref() != Some(&connection.server) {
            connection.server.clear();
        }
    }
}

/// Another process goes on with the flow tables too: nothing is lost.
fn take_over(fixture: &mut Fixture) {
    fixture.take_over(successor(fixture, fixture.cluster.history(0)));
}

/// Forgets the connections that may break, and checks the others: those that send something after this step.
fn check(
    fixture: &mut Fixture,
    connections: &mut [Connection],
    keep: Option<u64>,
    sends: impl Fn(u16) -> bool,
) -> Result<(), TestCaseError> {
    let until_closed = fixture.plan.services[0].until_closed;
    for connection in connections.iter_mut().filter(|connection| !connection.server.is_empty()) {
        let Connection { client, port, server, lost, until, .. } = connection;
        let at_home = fixture.owner(*client, *port).as_ref() == Some(server);
        if at_home {
            (*until, connection.shown) = (None, false);
        } else if let Some(keep) = keep {
            *until = until.or(Some(fixture.now + keep * SECOND));
        }
        let gone = fixture.state(server).is_none_or(|state| state == State::Down);
        // Of one whose ports a forged SYN has, what shows itself is not remembered while that is.
        let stays = until_closed && connection.shown && !connection.forged;
        if gone || (!stays && until.is_some_and(|until| until <= fixture.now)) {
            *lost = gone.then(|| std::mem::take(server));
            server.clear();
            continue;
        }
        if !sends(*port) {
            continue;
        }
        let reached = connection.send(fixture, Kind::Ack, 700);
        connection.shown = connection.until.is_some();
        let Connection { client, port, server, until, .. } = connection;
        prop_assert_eq!(reached.as_ref(), Some(&*server), "{}:{} at {}, until {:?}", client, port, fixture.now, until);
    }
    Ok(())
}

/// Who owns what does not depend on how it came about.
fn no_history(fixture: &Fixture) -> Result<(), TestCaseError> {
    let mut straight = Cluster::new(&fixture.plan);
    for (at, server) in fixture.plan.services[0].servers.iter().enumerate() {
        straight.set_up(&server.name, fixture.cluster.state(0, at) == State::Active);
    }
    prop_assert_eq!(straight.shares(0), fixture.cluster.shares(0));
    Ok(())
}

fn run(mut fixture: Fixture, events: &[Event]) -> Result<(), TestCaseError> {
    let mut connections: Vec<Connection> = Vec::new();
    for (step, event) in events.iter().enumerate() {
        let keep = apply(&mut fixture, event);
        match *event {
            Event::Restart => restart(&mut fixture, &mut connections),
            Event::Takeover => take_over(&mut fixture),
            Event::Begin(count) => begin(&mut fixture, &mut connections, count)?,
            Event::Forge(kind, whose, number, data) => {
                forge(&mut fixture, &mut connections, (kind, whose, number, data))
            }
            Event::Again(which, reset, number) => again(&mut fixture, &mut connections, (which, reset, number))?,
            _ => {}
        }
        // A third of them send at every step, a third now and then, a third never.
        let sends = |port: u16| port.is_multiple_of(3) || (port % 3 == 1 && (port as usize + step).is_multiple_of(7));
        check(&mut fixture, &mut connections, keep, sends)?;
    }
    check(&mut fixture, &mut connections, None, |_| true)?;
    no_history(&fixture)?;
    prop_assert_eq!(fixture.report().evicted, 0);
    Ok(())
}

/// A connection that has outlasted its time is at home again, and another change begins, when the process ends: the next one finds in
/// the flow table what was last seen before that change.
#[test]
fn what_outlasted_its_time_stays_through_a_takeover() {
    let fixture = Fixture::of(&[0, 2], 1009, (Selection::Maglev, HashInput::Source), 1 << 13, true);
    let events = [
        Event::Begin(200),
        Event::Add(1, 14),
        Event::Wait(0),
        Event::Wait(14),
        Event::Set(2, State::Draining, 1),
        Event::Takeover,
    ];
    run(fixture, &events).unwrap();
}

/// A client's connection is lost with its server, and it uses its port again; then the server is back, for what it has, and what was known of the
/// lost connection is not of the new one.
#[test]
fn a_port_that_is_used_again_while_its_server_is_away_stays_where_it_is_now() {
    let fixture = Fixture::of(&[1, 0], 1009, (Selection::Maglev, HashInput::Source), 1 << 13, true);
    let events = [
        Event::Begin(29),
        Event::Add(2, 1),
        Event::Set(0, State::Down, 0),
        Event::Set(0, State::Down, 0),
        Event::Wait(1),
        Event::Again(9645, false, 0),
        Event::Set(3, State::Draining, 0),
    ];
    run(fixture, &events).unwrap();
}

/// What new services begin with: a few servers, and in one case of four many more that take no clients. The program in the kernel lays slots out
/// otherwise where there are many.
fn weights() -> impl Strategy<Value = Vec<u32>> {
    let few = prop::collection::vec(0u32..4, 2..6);
    let more = prop_oneof![3 => Just(0), 1 => Just(130)];
    (few, more).prop_map(|(few, more)| few.into_iter().chain(std::iter::repeat_n(0, more)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::CASES, ..ProptestConfig::default() })]

    #[test]
    fn connections_stay(
        weights in weights(),
        kind in select(&[
            (Selection::Maglev, HashInput::Source), (Selection::Maglev, HashInput::Flow), (Selection::Modulo, HashInput::Source),
        ][..]),
        mut events in prop::collection::vec(event(), 1..40),
        until_closed: bool,
    ) {
        events.retain(|event| !matches!(event, Event::Restart | Event::Takeover));
        run(Fixture::of(&weights, 1009, kind, 1 << 13, until_closed), &events)?;
    }

    /// What a process that has just begun does not remember stays where it goes; and where it finds the flow tables, everything stays where
    /// it is. (By other rules it does, as long as no more than `MAX_CHANGES` are under way.)
    #[test]
    fn connections_stay_through_restarts(
        weights in weights(),
        hash in select(&[HashInput::Source, HashInput::Flow][..]),
        mut events in prop::collection::vec(event(), 1..40),
        until_closed: bool,
    ) {
        events.retain(|event| !matches!(event, Event::Rule(..)));
        run(Fixture::of(&weights, 1009, (Selection::Maglev, hash), 1 << 13, until_closed), &events)?;
    }
}
