//! Segments that a stranger sends in a client's name move no connection. He knows addresses and ports, but not where the client is in
//! its sequence numbers.

use crate::cases::{HOUR, drained, goes};
use crate::fixture::{Fixture, Kind, Packet};
use oneip::limits::{FLOW_HALF_OPEN, FLOW_REOPEN, FLOW_SYN_RETRY};
use oneip::model::{HashInput, Selection};
use oneip::table::build::State;
use oneip::table::flow_table::FlowTableReport;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn syn(sequence: u32) -> Packet {
    Packet::Tcp(Kind::Syn, sequence, 0)
}

fn ack(sequence: u32) -> Packet {
    Packet::Tcp(Kind::Ack, sequence, 0)
}

fn data(sequence: u32) -> Packet {
    Packet::Tcp(Kind::Ack, sequence, 1000)
}

fn fin(sequence: u32) -> Packet {
    Packet::Tcp(Kind::Fin, sequence, 0)
}

fn rst(sequence: u32) -> Packet {
    Packet::Tcp(Kind::Rst, sequence, 0)
}

/// The client's slot went from s0 to s1 and back. It has a connection that was begun at s1, is at 1,001, and has s0 for a previous
/// owner.
fn begun_elsewhere() -> (Fixture, Ipv4Addr) {
    let (mut fixture, client, _) = drained();
    goes(&mut fixture, syn(1000), client, 1, "s1");
    goes(&mut fixture, ack(1001), client, 1, "s1");
    fixture.set(0, State::Active, HOUR);
    (fixture, client)
}

#[test]
fn a_syn_does_not_move_a_connection_that_is_there() {
    let (mut fixture, client, _) = drained();
    // Never seen before: who sends it cannot be told, but whose segments follow it can.
    goes(&mut fixture, syn(7), client, 1, "s1");
    goes(&mut fixture, data(90_000_000), client, 1, "s0");
    goes(&mut fixture, rst(3_000_000_000), client, 1, "s0");
    goes(&mut fixture, data(90_001_000), client, 1, "s0");
    // Seen before, it goes there: the server decides.
    goes(&mut fixture, data(90_000_000), client, 2, "s0");
    goes(&mut fixture, syn(7), client, 2, "s0");
    goes(&mut fixture, ack(8), client, 2, "s0");
    goes(&mut fixture, data(90_001_000), client, 2, "s0");
    let (mut fixture, client) = begun_elsewhere();
    goes(&mut fixture, syn(7), client, 1, "s1");
    goes(&mut fixture, data(1001), client, 1, "s1");
}

/// A client that uploads comes by every sequence number.
#[test]
fn an_upload_passes_the_number_of_a_spoofed_syn() {
    let (mut fixture, client, _) = drained();
    goes(&mut fixture, data(0), client, 1, "s0");
    goes(&mut fixture, syn(1_000_000), client, 1, "s0");
    (0..2000).for_each(|segment| goes(&mut fixture, data(segment * 1000), client, 1, "s0"));
}

#[test]
fn a_reset_ends_nothing_by_itself() {
    let (mut fixture, client) = begun_elsewhere();
    goes(&mut fixture, rst(2_000_000_000), client, 1, "s1");
    goes(&mut fixture, data(1001), client, 1, "s1");
    // Nor does one that fits, as long as the connection goes on.
    let (mut fixture, client) = begun_elsewhere();
    goes(&mut fixture, rst(1001), client, 1, "s1");
    fixture.wait(SECOND);
    goes(&mut fixture, data(1001), client, 1, "s1");
    fixture.wait(FLOW_REOPEN + SECOND);
    goes(&mut fixture, syn(7), client, 1, "s1");
    goes(&mut fixture, data(2001), client, 1, "s1");
}

#[test]
fn a_spoofed_end_and_a_spoofed_beginning() {
    for end in [fin, rst] {
        let (mut fixture, client) = begun_elsewhere();
        goes(&mut fixture, end(2_000_000_000), client, 1, "s1");
        fixture.wait(FLOW_REOPEN + SECOND);
        goes(&mut fixture, syn(7), client, 1, "s1");
        goes(&mut fixture, data(1001), client, 1, "s1");
    }
}

/// Who guesses may guess once.
#[test]
fn after_a_wrong_guess_the_right_one_ends_nothing() {
    let (mut fixture, client) = begun_elsewhere();
    goes(&mut fixture, rst(2_000_000_000), client, 1, "s1");
    goes(&mut fixture, fin(1001), client, 1, "s1");
    fixture.wait(FLOW_REOPEN + SECOND);
    goes(&mut fixture, syn(7), client, 1, "s1");
    goes(&mut fixture, data(1001), client, 1, "s1");
}

#[test]
fn ports_used_again_after_an_end_get_the_new_owner_in_the_end() {
    for end in [fin, rst] {
        let (mut fixture, client) = begun_elsewhere();
        goes(&mut fixture, data(1001), client, 1, "s1");
        goes(&mut fixture, end(2001), client, 1, "s1");
        // At once, the server that has ended it decides (RFC 6191), and keeps what it accepts.
        goes(&mut fixture, syn(50_000_000), client, 1, "s1");
        goes(&mut fixture, ack(50_000_001), client, 1, "s1");
        fixture.wait(FLOW_REOPEN + SECOND);
        goes(&mut fixture, data(50_000_001), client, 1, "s1");

        let (mut fixture, client) = begun_elsewhere();
        goes(&mut fixture, data(1001), client, 1, "s1");
        goes(&mut fixture, end(2001), client, 1, "s1");
        fixture.wait(FLOW_REOPEN + SECOND);
        goes(&mut fixture, syn(50_000_000), client, 1, "s0");
        goes(&mut fixture, ack(50_000_001), client, 1, "s0");
    }
}

/// The client has sent all that it has, and downloads for long.
#[test]
fn a_connection_that_is_closed_by_half_goes_on() {
    let (mut fixture, client) = begun_elsewhere();
    goes(&mut fixture, fin(1001), client, 1, "s1");
    for _ in 0..100 {
        fixture.wait(SECOND);
        goes(&mut fixture, ack(1002), client, 1, "s1");
        goes(&mut fixture, syn(7), client, 1, "s1");
    }
    fixture.wait(20 * SECOND);
    goes(&mut fixture, ack(1002), client, 1, "s1");
}

#[test]
fn a_connection_that_begins_is_whose_syn_was_first() {
    let (mut fixture, client, _) = drained();
    goes(&mut fixture, syn(1000), client, 1, "s1");
    goes(&mut fixture, syn(2_000_000_000), client, 1, "s1");
    // What does not follow the SYN is of an older one, if of any.
    goes(&mut fixture, ack(2_000_000_001), client, 1, "s0");
    goes(&mut fixture, data(3_000_000_000), client, 1, "s0");
    goes(&mut fixture, rst(3_000_000_000), client, 1, "s0");
    goes(&mut fixture, ack(1001), client, 1, "s1");
    goes(&mut fixture, data(1001), client, 1, "s1");
    // The client's next attempt comes later.
    goes(&mut fixture, syn(1000), client, 2, "s1");
    fixture.wait(FLOW_SYN_RETRY + SECOND);
    goes(&mut fixture, syn(2_000_000_000), client, 2, "s1");
    goes(&mut fixture, ack(2_000_000_001), client, 2, "s1");
    // Repeated for a minute.
    for wait in [1, 2, 4, 8, 16, 32] {
        goes(&mut fixture, syn(1000), client, 3, "s1");
        fixture.wait(wait * SECOND);
    }
    goes(&mut fixture, ack(1001), client, 3, "s1");
    goes(&mut fixture, syn(1000), client, 4, "s1");
    fixture.wait(FLOW_HALF_OPEN + SECOND);
    goes(&mut fixture, ack(1001), client, 4, "s0");
}

/// What is noted of a SYN is over after a minute in which it did not come again, and not before.
#[test]
fn a_syn_of_which_nothing_comes_is_forgotten_and_one_that_comes_again_is_not() {
    let noted = || {
        let (mut fixture, client, _) = drained();
        goes(&mut fixture, syn(1000), client, 1, "s1");
        fixture.set(0, State::Active, HOUR);
        (fixture, client)
    };
    let (mut fixture, client) = noted();
    fixture.wait(FLOW_HALF_OPEN + SECOND);
    goes(&mut fixture, syn(1000), client, 1, "s0");
    let (mut fixture, client) = noted();
    for _ in 0..4 {
        fixture.wait(FLOW_HALF_OPEN / 2 + SECOND);
        goes(&mut fixture, syn(1000), client, 1, "s1");
    }
}

/// What fits is what is near the last segment, however far that is from the first.
#[test]
fn an_end_after_much_data_fits_and_ends() {
    let (mut fixture, client, _) = drained();
    goes(&mut fixture, syn(1000), client, 1, "s1");
    fixture.set(0, State::Active, HOUR);
    for sequence in [60_000, 120_000, 180_000] {
        goes(&mut fixture, data(sequence), client, 1, "s1");
    }
    goes(&mut fixture, fin(240_000), client, 1, "s1");
    fixture.wait(FLOW_REOPEN + SECOND);
    goes(&mut fixture, syn(7), client, 1, "s0");
}

/// The time after which a SYN begins anew begins with the end.
#[test]
fn an_end_counts_from_when_it_came() {
    // Right behind the SYN, but later.
    let (mut fixture, client, _) = drained();
    goes(&mut fixture, syn(1000), client, 1, "s1");
    fixture.set(0, State::Active, HOUR);
    fixture.wait(FLOW_REOPEN * 2);
    goes(&mut fixture, fin(1001), client, 1, "s1");
    goes(&mut fixture, syn(7), client, 1, "s1");
    // A stranger's does not draw it out.
    let (mut fixture, client) = begun_elsewhere();
    goes(&mut fixture, fin(1001), client, 1, "s1");
    fixture.wait(FLOW_REOPEN - SECOND);
    goes(&mut fixture, rst(2_000_000_000), client, 1, "s1");
    fixture.wait(2 * SECOND);
    goes(&mut fixture, syn(7), client, 1, "s0");
}

/// Whoever sends it, the connection is not known to be over.
#[test]
fn a_segment_that_does_not_fit_has_an_ended_connection_go_on() {
    let (mut fixture, client) = begun_elsewhere();
    goes(&mut fixture, fin(1001), client, 1, "s1");
    goes(&mut fixture, ack(2_000_000_000), client, 1, "s1");
    fixture.wait(FLOW_REOPEN + SECOND);
    goes(&mut fixture, syn(7), client, 1, "s1");
}

/// The first segments after the SYN are lost on the way here, or come by turns.
#[test]
fn whatever_the_answer_to_a_syn_allows_follows_it() {
    for first in [1u32, 1461, 14_601, 65_535] {
        let (mut fixture, client, _) = drained();
        let start = u32::MAX - 5000;
        goes(&mut fixture, syn(start), client, 1, "s1");
        goes(&mut fixture, data(start.wrapping_add(first)), client, 1, "s1");
        goes(&mut fixture, data(start.wrapping_add(1)), client, 1, "s1");
    }
    // Data in a SYN that was taken, or refused (RFC 7413).
    for first in [1, 1001] {
        let (mut fixture, client, _) = drained();
        goes(&mut fixture, Packet::Tcp(Kind::Syn, 4000, 1000), client, 1, "s1");
        goes(&mut fixture, data(4000 + first), client, 1, "s1");
    }
}

/// Who begins and goes on with numbers that do not fit gets no further than who only begins.
#[test]
fn pairs_that_do_not_fit_displace_nobody() {
    let mut fixture = Fixture::new(&[1, 1], 1009, Selection::Maglev, HashInput::Source, 1024);
    let client = |owner: &str, fixture: &Fixture| {
        let mut clients = (0..).map(Ipv4Addr::from_bits);
        clients.find(|client| fixture.owner(*client, 1).as_deref() == Some(owner)).expect("each has some")
    };
    let client = client("s0", &fixture);
    fixture.set(0, State::Draining, HOUR);
    for port in 1..300 {
        goes(&mut fixture, syn(1000), client, port, "s1");
        goes(&mut fixture, ack(1001), client, port, "s1");
    }
    fixture.wait(SECOND);
    for port in 1000..30_000 {
        fixture.send(syn(1000), client, port);
        fixture.send(ack(1_000_000_000), client, port);
    }
    (1..300).for_each(|port| goes(&mut fixture, data(1001), client, port, "s1"));
}

/// Of SYNs of which nothing comes back, no flow is remembered and none forgotten. What comes back is remembered.
#[test]
fn a_flood_of_syns_takes_no_place_of_a_flow() {
    let mut fixture = Fixture::new(&[1, 1], 1009, Selection::Maglev, HashInput::Source, 1024);
    let owned = |client: &Ipv4Addr| fixture.owner(*client, 1).as_deref() == Some("s0");
    let client = (0..).map(Ipv4Addr::from_bits).find(owned).expect("each has some");
    fixture.set(0, State::Draining, HOUR);
    // Begun before the change, and known for safety alone.
    (1..900).for_each(|port| goes(&mut fixture, data(1000), client, port, "s0"));
    let before = fixture.report();
    let flood = |fixture: &mut Fixture, ports: Range<u16>| {
        for port in ports {
            fixture.now += 10_000_000;
            goes(fixture, syn(7), client, port, "s1");
        }
    };
    flood(&mut fixture, 1000..40_000);
    let after = fixture.report();
    assert_eq!(after, FlowTableReport { displaced: after.displaced, ..before });
    assert!(after.displaced > 35_000, "{after:?}");
    // Beside the flood, clients go where their SYN went.
    goes(&mut fixture, syn(1000), client, 50_000, "s1");
    flood(&mut fixture, 51_000..51_050);
    goes(&mut fixture, ack(1001), client, 50_000, "s1");
    goes(&mut fixture, syn(1000), client, 50_001, "s1");
    flood(&mut fixture, 52_000..52_050);
    goes(&mut fixture, syn(1000), client, 50_001, "s1");
    assert_eq!(fixture.report().remembered, before.remembered + 2);
    for from in [53_000, 54_000] {
        flood(&mut fixture, from..from + 1000);
        goes(&mut fixture, data(1001), client, 50_000, "s1");
        goes(&mut fixture, ack(1001), client, 50_001, "s1");
    }
    // The first one is forgotten, as if it had never been.
    goes(&mut fixture, ack(8), client, 1000, "s0");
}
