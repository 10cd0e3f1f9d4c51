//! What each kind of packet does while its slot is moving.

use crate::fixture::successor;
use crate::fixture::{Fixture, Kind, Packet};
use oneip::limits::{FLOW_CENSUS, FLOW_CLOSED, FLOW_ESTABLISHED_IDLE, FLOW_IDLE, FLOW_REOPEN};
use oneip::model::{HashInput, Selection};
use oneip::table::build::State;
use oneip::verdict::{Reason, Verdict};
use std::net::Ipv4Addr;
use std::time::Duration;

pub const HOUR: Duration = Duration::from_secs(3600);

/// A fixture of two servers, a client of s0, and one of s1.
fn two() -> (Fixture, Ipv4Addr, Ipv4Addr) {
    let fixture = Fixture::plain(2);
    let client = |server: &str| {
        let mut clients = (0..).map(|i| Ipv4Addr::from_bits(0xc633_6400 + i));
        clients.find(|client| fixture.owner(*client, 1).as_deref() == Some(server)).expect("each has some")
    };
    let (first, second) = (client("s0"), client("s1"));
    (fixture, first, second)
}

pub fn drained() -> (Fixture, Ipv4Addr, Ipv4Addr) {
    let (mut fixture, first, second) = two();
    fixture.set(0, State::Draining, HOUR);
    (fixture, first, second)
}

#[track_caller]
pub fn goes(fixture: &mut Fixture, packet: Packet, client: Ipv4Addr, port: u16, server: &str) {
    assert_eq!(fixture.deliver(packet, client, port).as_deref(), Some(server));
}

#[test]
fn a_draining_server_keeps_its_connections_and_gets_no_new_ones() {
    let (mut fixture, client, other) = drained();
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    goes(&mut fixture, Packet::Syn, client, 2, "s1");
    goes(&mut fixture, Packet::Ack, client, 2, "s1");
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    goes(&mut fixture, Packet::Fin, client, 1, "s0");
    goes(&mut fixture, Packet::Rst, client, 1, "s0");
    goes(&mut fixture, Packet::Ack, other, 1, "s1");
    assert_eq!(fixture.report().remembered, 2, "only what is in a slot that migrates takes memory");
    fixture.wait(HOUR);
    goes(&mut fixture, Packet::Ack, client, 1, "s1");
    assert_eq!(fixture.cluster.moving(0), 0);
}

/// Who kept what is older than a change is gone: whatever else is not remembered has been the owner's since then.
#[test]
fn after_a_restart_an_owner_that_is_drained_keeps_what_it_has_though_its_slots_were_moving() {
    let mut fixture = Fixture::plain(3);
    let client = Ipv4Addr::new(198, 51, 100, 7);
    let position = |fixture: &Fixture| fixture.position(&fixture.owner(client, 1).unwrap()).unwrap();
    let first = position(&fixture);
    fixture.set(first, State::Draining, HOUR);
    fixture.set(first, State::Down, HOUR);
    let second = position(&fixture);
    let name = fixture.name(second);
    goes(&mut fixture, Packet::Syn, client, 1, &name);
    fixture.succeed(successor(&fixture, fixture.cluster.history(0)));
    goes(&mut fixture, Packet::Ack, client, 1, &name);
    fixture.set(second, State::Draining, HOUR);
    goes(&mut fixture, Packet::Ack, client, 1, &name);
    // One that has said nothing since the restart.
    goes(&mut fixture, Packet::Ack, client, 2, &name);
    // The next change as well.
    fixture.set(first, State::Active, HOUR);
    goes(&mut fixture, Packet::Ack, client, 3, &name);
}

#[test]
fn a_connection_that_has_ended_may_begin_anew_elsewhere() {
    let (mut fixture, client, _) = drained();
    goes(&mut fixture, Packet::Syn, client, 1, "s1");
    goes(&mut fixture, Packet::Ack, client, 1, "s1");
    fixture.set(0, State::Active, HOUR);
    fixture.set(1, State::Draining, HOUR);
    // A SYN of a connection that goes on (repeated, or a stranger's) is its server's affair.
    goes(&mut fixture, Packet::Syn, client, 1, "s1");
    goes(&mut fixture, Packet::Fin, client, 1, "s1");
    goes(&mut fixture, Packet::Ack, client, 1, "s1");
    fixture.wait(FLOW_REOPEN + Duration::from_secs(1));
    goes(&mut fixture, Packet::Syn, client, 1, "s0");
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    goes(&mut fixture, Packet::Rst, client, 1, "s0");
}

#[test]
fn a_flow_without_a_beginning_stays_if_it_may_be_an_old_one() {
    for packet in [Packet::Udp, Packet::Echo] {
        let (mut fixture, client, _) = drained();
        goes(&mut fixture, packet, client, 1, "s0");
        for _ in 0..6 {
            fixture.wait(FLOW_IDLE / 2);
            goes(&mut fixture, packet, client, 1, "s0");
        }
        if matches!(packet, Packet::Udp) {
            goes(&mut fixture, packet, client, 2, "s1");
        }
        // Silent for too long, it is a new one.
        fixture.wait(FLOW_IDLE + Duration::from_secs(1));
        goes(&mut fixture, packet, client, 1, "s1");
        goes(&mut fixture, packet, client, 1, "s1");
    }
}

/// In a table for 8, the one that goes on outlasts a hundred that came once.
#[test]
fn a_flow_that_goes_on_is_not_displaced_by_others_that_came_once() {
    let mut fixture = Fixture::new(&[1, 1], 1009, Selection::Maglev, HashInput::Source, 8);
    let mut clients = (0..).map(Ipv4Addr::from_bits);
    let client = clients.find(|client| fixture.owner(*client, 1).as_deref() == Some("s0")).expect("each has some");
    fixture.set(0, State::Draining, HOUR);
    for _ in 0..3 {
        goes(&mut fixture, Packet::Udp, client, 1, "s0");
        fixture.wait(FLOW_IDLE * 2 / 3);
    }
    (1000..1100).for_each(|port| goes(&mut fixture, Packet::Udp, client, port, "s1"));
    goes(&mut fixture, Packet::Udp, client, 1, "s0");
}

#[test]
fn an_icmp_error_goes_where_its_connection_is() {
    let (mut fixture, client, _) = drained();
    goes(&mut fixture, Packet::Error, client, 1, "s0");
    goes(&mut fixture, Packet::Syn, client, 1, "s1");
    goes(&mut fixture, Packet::Error, client, 1, "s1");
    // Nothing came back yet: the SYN is only noted.
    assert_eq!(fixture.report().remembered, 0);
}

#[test]
fn a_fragment_of_tcp_goes_to_who_had_the_slot() {
    let (mut fixture, client, _) = drained();
    goes(&mut fixture, Packet::Syn, client, 1, "s1");
    goes(&mut fixture, Packet::Fragment, client, 1, "s0");
    // Nothing came back yet: the SYN is only noted.
    assert_eq!(fixture.report().remembered, 0);
}

#[test]
fn a_server_that_died_keeps_nothing() {
    let (mut fixture, client, _) = drained();
    goes(&mut fixture, Packet::Syn, client, 2, "s1");
    fixture.set(0, State::Down, HOUR);
    goes(&mut fixture, Packet::Ack, client, 1, "s1");
    goes(&mut fixture, Packet::Ack, client, 2, "s1");
    goes(&mut fixture, Packet::Syn, client, 4, "s1");
    // Back: it has lost what it had, and the other keeps what it got meanwhile.
    fixture.set(0, State::Active, HOUR);
    goes(&mut fixture, Packet::Ack, client, 2, "s1");
    goes(&mut fixture, Packet::Ack, client, 4, "s1");
    goes(&mut fixture, Packet::Syn, client, 3, "s0");
    goes(&mut fixture, Packet::Ack, client, 3, "s0");
}

/// What is remembered of the connection that had the port before is of a server that is away, and may come back.
#[test]
fn a_port_that_is_used_again_while_its_server_is_away_stays_with_its_new_server() {
    let mut fixture = Fixture::plain(3);
    let client = Ipv4Addr::new(198, 51, 100, 7);
    let position = |fixture: &Fixture| fixture.position(&fixture.owner(client, 1).unwrap()).unwrap();
    let first = position(&fixture);
    fixture.set(first, State::Draining, HOUR);
    let second = position(&fixture);
    for packet in [Packet::Syn, Packet::Ack, Packet::Fin] {
        let server = fixture.name(second);
        goes(&mut fixture, packet, client, 2, &server);
    }
    fixture.set(second, State::Down, HOUR);
    let third = fixture.owner(client, 1).unwrap();
    goes(&mut fixture, Packet::Syn, client, 2, &third);
    goes(&mut fixture, Packet::Ack, client, 2, &third);
    fixture.set(second, State::Active, HOUR);
    goes(&mut fixture, Packet::Ack, client, 2, &third);
    goes(&mut fixture, Packet::Ack, client, 2, &third);
}

#[test]
fn a_failure_opens_no_change() {
    let (mut fixture, client, _) = two();
    fixture.set(0, State::Down, HOUR);
    goes(&mut fixture, Packet::Syn, client, 1, "s1");
    assert_eq!((fixture.cluster.moving(0), fixture.cluster.due(), fixture.report().remembered), (0, None, 0));
}

#[test]
fn the_last_server_drains_too() {
    let mut fixture = Fixture::plain(1);
    let client = Ipv4Addr::new(198, 51, 100, 7);
    fixture.set(0, State::Draining, HOUR);
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    assert_eq!(fixture.send(Packet::Syn, client, 2), Verdict::Drop(Reason::NoServer));
    fixture.wait(HOUR);
    assert_eq!(fixture.send(Packet::Ack, client, 1), Verdict::Drop(Reason::NoServer));
}

/// The operator chose to remember nothing: what is old stays, what is new breaks.
#[test]
fn without_memory_old_connections_stay() {
    let mut fixture = Fixture::new(&[1, 1], 1009, Selection::Maglev, HashInput::Source, 0);
    let client = (0..).map(Ipv4Addr::from_bits).find(|c| fixture.owner(*c, 1).as_deref() == Some("s0")).expect("some");
    fixture.set(0, State::Draining, HOUR);
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    goes(&mut fixture, Packet::Syn, client, 2, "s1");
    goes(&mut fixture, Packet::Ack, client, 2, "s0");
}

/// What is remembered of a change that is over is not taken for that of the next one, however late that comes.
#[test]
fn an_old_change_is_forgotten() {
    for days in [0, 1, 20, 26, 27, 40, 51, 52, 53, 90, 130, 1000, 10_000] {
        let (mut fixture, client, _) = drained();
        goes(&mut fixture, Packet::Syn, client, 1, "s1");
        goes(&mut fixture, Packet::Ack, client, 1, "s1");
        fixture.set(0, State::Active, Duration::ZERO);
        fixture.wait(HOUR * (24 * days + 1));
        // The same ports once more, while nothing moves, and then a change.
        goes(&mut fixture, Packet::Syn, client, 1, "s0");
        fixture.set(0, State::Draining, HOUR);
        goes(&mut fixture, Packet::Ack, client, 1, "s0");
    }
}

#[test]
fn more_changes_at_once_than_are_told_apart() {
    let (mut fixture, client, _) = two();
    let mut at = Vec::new();
    for change in 0..40u16 {
        fixture.set(usize::from(change % 2), State::Draining, HOUR);
        fixture.set(usize::from(1 - change % 2), State::Active, HOUR);
        let server = fixture.owner(client, 1).expect("one takes");
        goes(&mut fixture, Packet::Syn, client, 100 + change, &server);
        at.push(server);
        goes(&mut fixture, Packet::Ack, client, 1, "s0");
        at.iter().zip(100..).for_each(|(server, port)| goes(&mut fixture, Packet::Ack, client, port, server));
    }
}

/// Adopted by another server while its own was away, or on one that drains.
fn until_closed() -> (Fixture, Ipv4Addr) {
    let mut fixture = Fixture::of(&[1, 1], 1009, (Selection::Maglev, HashInput::Source), 4096, true);
    let mut clients = (0..).map(Ipv4Addr::from_bits);
    let client = clients.find(|client| fixture.owner(*client, 1).as_deref() == Some("s0")).expect("each has some");
    fixture.set(0, State::Draining, HOUR);
    (fixture, client)
}

#[test]
fn a_connection_that_has_shown_itself_stays_until_it_is_closed() {
    let (mut fixture, client) = until_closed();
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    goes(&mut fixture, Packet::Syn, client, 2, "s1");
    goes(&mut fixture, Packet::Ack, client, 2, "s1");
    fixture.wait(HOUR);
    // Whoever comes only now is the owner's, and takes no memory.
    let remembered = fixture.report().remembered;
    goes(&mut fixture, Packet::Ack, client, 3, "s1");
    goes(&mut fixture, Packet::Syn, client, 4, "s1");
    goes(&mut fixture, Packet::Udp, client, 5, "s1");
    assert_eq!(fixture.report().remembered, remembered);
    // What the owner has anyway need not be remembered any more.
    goes(&mut fixture, Packet::Ack, client, 2, "s1");
    assert_eq!(fixture.report().held, 1);
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    for _ in 0..48 {
        fixture.wait(HOUR * 2);
        goes(&mut fixture, Packet::Ack, client, 1, "s0");
        assert!(fixture.cluster.remembers("web", "s0") && fixture.cluster.moving(0) > 0);
    }
    goes(&mut fixture, Packet::Fin, client, 1, "s0");
    fixture.wait(FLOW_CLOSED + Duration::from_secs(1));
    fixture.wait(Duration::from_secs(1));
    assert!(!fixture.cluster.remembers("web", "s0"));
    assert_eq!((fixture.cluster.moving(0), fixture.cluster.due()), (0, None));
    goes(&mut fixture, Packet::Ack, client, 1, "s1");
}

#[test]
fn a_connection_that_is_silent_for_too_long_is_over() {
    let (mut fixture, client) = until_closed();
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    fixture.wait(HOUR);
    fixture.wait(FLOW_ESTABLISHED_IDLE - HOUR - Duration::from_secs(1));
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    fixture.wait(FLOW_ESTABLISHED_IDLE - Duration::from_secs(1));
    assert!(fixture.cluster.moving(0) > 0);
    fixture.wait(Duration::from_secs(3));
    assert_eq!(fixture.cluster.moving(0), 0);
    goes(&mut fixture, Packet::Ack, client, 1, "s1");
}

/// Of two that send in its name, one is the client.
#[test]
fn a_connection_of_which_segments_do_not_fit_is_not_silent() {
    let (mut fixture, client) = until_closed();
    let data = |sequence| Packet::Tcp(Kind::Ack, sequence, 9);
    goes(&mut fixture, data(1000), client, 1, "s0");
    for turn in 0..4 {
        goes(&mut fixture, data([2_000_000_000, 1000][turn % 2]), client, 1, "s0");
        fixture.wait(FLOW_ESTABLISHED_IDLE * 2 / 3);
    }
    goes(&mut fixture, data(1000), client, 1, "s0");
}

#[test]
fn a_server_that_fails_keeps_nothing_even_until_closed() {
    let (mut fixture, client) = until_closed();
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    fixture.wait(HOUR);
    goes(&mut fixture, Packet::Ack, client, 1, "s0");
    fixture.set(0, State::Down, HOUR);
    goes(&mut fixture, Packet::Ack, client, 1, "s1");
    fixture.wait(Duration::from_secs(2));
    fixture.wait(Duration::from_secs(2));
    assert_eq!(fixture.cluster.moving(0), 0);
}

#[test]
fn where_nothing_has_shown_itself_the_change_is_over() {
    let (mut fixture, client) = until_closed();
    fixture.wait(HOUR);
    assert!(fixture.cluster.moving(0) > 0, "nobody has looked yet");
    (0..2).for_each(|_| fixture.wait(FLOW_CENSUS * 2));
    assert_eq!(fixture.cluster.moving(0), 0);
    goes(&mut fixture, Packet::Ack, client, 1, "s1");
}

/// Each knows only its own flows.
#[test]
fn a_change_is_over_when_all_workers_have_looked() {
    let (mut fixture, _) = until_closed();
    fixture.cluster.set_workers(2);
    fixture.wait(HOUR);
    (0..3).for_each(|_| fixture.wait(FLOW_CENSUS * 2));
    assert!(fixture.cluster.moving(0) > 0, "the second one has not looked");
    fixture.cluster.set_workers(1);
    (0..3).for_each(|_| fixture.wait(FLOW_CENSUS * 2));
    assert_eq!(fixture.cluster.moving(0), 0);
}
