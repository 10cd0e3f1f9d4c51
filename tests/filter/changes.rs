//! While a client moves, the kernel's sockets say where its connections are.

use super::forge::Stranger;
use super::model::plans::One;
use super::network::in_a_network;
use super::{OWN, filter};
use etherparse::{PacketBuilder, TcpHeader};
use oneip::engine::filter::{Filter, Generation};
use oneip::model::{Plan, Port, Selection, Transport};
use oneip::table::build::{Cluster, State};
use oneip::xdp::program::Action;
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

/// Client and cluster address.
type Pair = (IpAddr, IpAddr);

const V4: Pair = (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 80)));
const V6: Pair = (IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
const UNTIL: u64 = 600_000_000_000;

/// Two servers of one service with that TCP and UDP port.
fn plan(selection: Selection, address: IpAddr, port: u16) -> Plan {
    let mut plan = One::weights(&[1, 1], 211).selecting(selection).plan();
    plan.services[0].address = address;
    plan.services[0].ports =
        [Transport::Tcp, Transport::Udp].map(|transport| Port { transport, number: port }).to_vec();
    plan
}

#[derive(Clone, Copy)]
enum Segment {
    Syn,
    Ack,
    /// With this sequence number, that of a SYN being 1.
    Later(u32),
    /// An ICMP error about what went to the client.
    Error,
    Fragment,
    Datagram,
}

fn frame(segment: Segment, (client, cluster): Pair, from: u16, to: u16) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0xff; 6]);
    let ip = match (client, cluster) {
        (IpAddr::V4(client), IpAddr::V4(cluster)) => ethernet.ipv4(client.octets(), cluster.octets(), 64),
        (IpAddr::V6(client), IpAddr::V6(cluster)) => ethernet.ipv6(client.octets(), cluster.octets(), 64),
        _ => unreachable!("one family"),
    };
    let mut frame = Vec::new();
    match segment {
        Segment::Syn => ip.tcp(from, to, 1, 1000).syn().write(&mut frame, &[]),
        Segment::Error => {
            let mut quoted = Vec::new();
            match (client, cluster) {
                (IpAddr::V4(client), IpAddr::V4(cluster)) => {
                    let quote = PacketBuilder::ipv4(cluster.octets(), client.octets(), 64);
                    quote.tcp(to, from, 1, 1000).write(&mut quoted, &[]).unwrap();
                    ip.icmpv4_raw(3, 1, [0; 4]).write(&mut frame, &quoted)
                }
                (IpAddr::V6(client), IpAddr::V6(cluster)) => {
                    let quote = PacketBuilder::ipv6(cluster.octets(), client.octets(), 64);
                    quote.tcp(to, from, 1, 1000).write(&mut quoted, &[]).unwrap();
                    ip.icmpv6_raw(1, 3, [0; 4]).write(&mut frame, &quoted)
                }
                _ => unreachable!("one family"),
            }
        }
        Segment::Ack | Segment::Later(_) | Segment::Fragment => {
            let sequence = if let Segment::Later(sequence) = segment { sequence } else { 1 };
            ip.tcp(from, to, sequence, 1000).ack(1).write(&mut frame, &[7; 20])
        }
        Segment::Datagram => ip.udp(from, to).write(&mut frame, &[7; 20]),
    }
    .expect("a Vec takes all");
    match segment {
        // More fragments.
        Segment::Fragment if cluster.is_ipv4() => frame[20] = 0x20,
        Segment::Fragment => {
            let header = [6, 0, 0, 1, 0, 0, 0, 1];
            frame[20] = 44;
            frame[19] += header.len() as u8;
            frame.splice(54..54, header);
        }
        _ => {}
    }
    frame
}

fn who_keeps(filters: &[Filter; 2], frame: &[u8]) -> Vec<usize> {
    (0..2).filter(|at| filters[*at].judge(frame).unwrap().0 == Action::Pass).collect()
}

fn connections_stay_where_their_sockets_are(selection: Selection, pair: Pair) {
    let listener = TcpListener::bind((pair.1, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut cluster = Cluster::new(&plan(selection, pair.1, port));
    let filters = ["s0", "s1"].map(|name| filter(OWN, &cluster, name));
    let [Some(first), Some(second)] = filters else { return };
    let filters = [first, second];
    let publish = |cluster: &Cluster| {
        for (name, filter) in ["s0", "s1"].iter().zip(&filters) {
            filter.publish(&Generation::compile(cluster, name)).unwrap();
        }
    };

    let client = Socket::new(Domain::for_address((pair.0, 0).into()), Type::STREAM, None).unwrap();
    client.bind(&SocketAddr::from((pair.0, 0)).into()).unwrap();
    client.connect(&SocketAddr::from((pair.1, port)).into()).unwrap();
    let (server, from) = listener.accept().unwrap();
    let (known, unknown) = (from.port(), from.port() ^ 1);

    // At rest nobody asks for sockets.
    let [old] = who_keeps(&filters, &frame(Segment::Ack, pair, unknown, port))[..] else { panic!("one owner") };
    assert_eq!(who_keeps(&filters, &frame(Segment::Ack, pair, known, port)), [old]);
    let new = 1 - old;

    let mut states = [State::Active; 2];
    states[old] = State::Draining;
    assert!(cluster.set_states(0, &states, 0, UNTIL));
    publish(&cluster);
    let keeps = |segment, client_port| who_keeps(&filters, &frame(segment, pair, client_port, port));
    // Both filters are on this host, and so both find the socket.
    assert_eq!(keeps(Segment::Ack, known), [0, 1], "where the socket is");
    assert_eq!(keeps(Segment::Ack, unknown), [0; 0], "a listening socket has no connection");
    assert_eq!(keeps(Segment::Syn, unknown), [new]);
    assert_eq!(keeps(Segment::Syn, known), [new]);
    assert_eq!(keeps(Segment::Datagram, known), [new]);
    // Who kept the connections is not known slot by slot where all clients move.
    let previous_owner = if selection == Selection::Maglev { old } else { new };
    assert_eq!(keeps(Segment::Fragment, known), [previous_owner]);
    assert!(cluster.moving(0) > 0);

    // With nobody to take over, connections are kept nevertheless.
    assert!(cluster.set_states(0, &[State::Draining; 2], 1, UNTIL));
    publish(&cluster);
    assert_eq!(keeps(Segment::Ack, known), [0, 1]);
    assert_eq!(keeps(Segment::Syn, unknown), [0; 0]);

    // Who kept them has failed: what was begun meanwhile may be with anybody, and nobody ends it.
    states[new] = State::Active;
    let mut failed = cluster.clone();
    states[old] = State::Down;
    assert!(failed.set_states(0, &states, 2, UNTIL));
    publish(&failed);
    assert_eq!(keeps(Segment::Ack, known), [0, 1], "where the socket is");
    assert_eq!(keeps(Segment::Ack, unknown), [0; 0], "it may be with another one");
    assert_eq!(keeps(Segment::Syn, unknown), [new]);
    assert_eq!(keeps(Segment::Fragment, known), [new]);

    states[old] = State::Draining;
    cluster.set_states(0, &states, 2, UNTIL);
    assert!(cluster.expire(2 * UNTIL));
    publish(&cluster);
    assert_eq!(keeps(Segment::Ack, known), [new], "the change is over");
    drop(server);
}

#[test]
fn connections_stay_by_hash() {
    [V4, V6].into_iter().for_each(|pair| connections_stay_where_their_sockets_are(Selection::Maglev, pair));
}

#[test]
fn connections_stay_by_remainder() {
    [V4, V6].into_iter().for_each(|pair| connections_stay_where_their_sockets_are(Selection::Modulo, pair));
}

/// Of a SYN's number 1.
fn a_handshake_takes_its_own_segments(client: &str, cluster: &str) {
    let pair: Pair = (client.parse().unwrap(), cluster.parse().unwrap());
    let listener = TcpListener::bind((pair.1, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut cluster = Cluster::new(&plan(Selection::Maglev, pair.1, port));
    let filters = ["s0", "s1"].map(|name| filter(OWN, &cluster, name).expect("as root"));
    const FROM: u16 = 40_000;
    let keeps = |segment| who_keeps(&filters, &frame(segment, pair, FROM, port));
    let [old] = keeps(Segment::Syn)[..] else { panic!("one owner") };
    let new = 1 - old;
    let mut states = [State::Active; 2];
    states[old] = State::Draining;
    assert!(cluster.set_states(0, &states, 0, UNTIL));
    let publish = || {
        for (name, filter) in ["s0", "s1"].iter().zip(&filters) {
            filter.publish(&Generation::compile(&cluster, name)).unwrap();
        }
    };
    publish();

    // The kernel has answered a SYN, and nobody that.
    Stranger::new().send(pair.0, pair.1, TcpHeader { syn: true, ..TcpHeader::new(FROM, port, 1, 1000) }).unwrap();
    let begin = Instant::now();
    // Both filters are on this host, and neither has seen it: it can have begun before the change.
    while keeps(Segment::Later(2)) != [0, 1] {
        assert!(begin.elapsed() < Duration::from_secs(10), "the kernel has no handshake");
        thread::sleep(Duration::from_millis(1));
    }
    filters.iter().for_each(|filter| filter.unnoticed(0).unwrap());
    assert_eq!(keeps(Segment::Later(2)), [0; 0], "neither has seen its SYN");

    assert_eq!(keeps(Segment::Syn), [new]);
    assert_eq!(keeps(Segment::Later(2)), [new], "it ends the handshake");
    assert_eq!(keeps(Segment::Later(65_536)), [new], "as much as a window takes");
    assert_eq!(keeps(Segment::Later(65_537)), [0; 0], "it is of another connection");
    assert_eq!(keeps(Segment::Later(0)), [0; 0]);
    assert_eq!(keeps(Segment::Error), [0, 1], "the kernel judges it");

    // The kernel goes on with the first.
    let mut other = frame(Segment::Syn, pair, FROM, port);
    let sequence = if pair.1.is_ipv4() { 38 } else { 58 };
    other[sequence..sequence + 4].copy_from_slice(&9_000_000_u32.to_be_bytes());
    assert_eq!(who_keeps(&filters, &other), [new]);
    assert_eq!(keeps(Segment::Later(9_000_001)), [0; 0]);
    assert_eq!(keeps(Segment::Later(2)), [new]);

    publish();
    assert_eq!(keeps(Segment::Later(9_000_001)), [old], "of a SYN that it has not seen, for a while");
}

#[test]
fn a_segment_of_another_connection_does_not_meet_a_handshake() {
    let made = [
        "link set lo up",
        "address add 203.0.113.80/32 dev lo",
        "address add 2001:db8::80/128 dev lo nodad",
        // The clients' side, which says nothing.
        "link add clients type veth peer name nobody",
        "link set clients up",
        "link set nobody up",
        "route add 198.51.100.9 dev clients",
        "route add 2001:db8:1::9 dev clients",
        "neighbour add 198.51.100.9 lladdr 02:00:00:00:00:09 dev clients",
        "neighbour add 2001:db8:1::9 lladdr 02:00:00:00:00:09 dev clients",
    ];
    in_a_network(made.map(str::to_owned), || {
        a_handshake_takes_its_own_segments("198.51.100.9", "203.0.113.80");
        a_handshake_takes_its_own_segments("2001:db8:1::9", "2001:db8::80");
    });
}
