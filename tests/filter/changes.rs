//! While a client moves, the kernel's sockets say where its connections are.

use super::model::plans::One;
use super::{OWN, filter};
use etherparse::PacketBuilder;
use oneip::filter::{Action, Filter, Generation};
use oneip::plan::{Plan, Port, Selection, Transport};
use oneip::table::cluster::{Cluster, Standing};
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};

const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const CLUSTER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 80);
const UNTIL: u64 = 600_000_000_000;

/// Two servers of one service at `CLUSTER`, with that TCP port and every UDP one that is asked for here.
fn plan(selection: Selection, port: u16) -> Plan {
    let mut plan = One::weights(&[1, 1], 211).selecting(selection).plan();
    plan.services[0].address = IpAddr::V4(CLUSTER);
    plan.services[0].ports =
        [Transport::Tcp, Transport::Udp].map(|transport| Port { transport, number: port }).to_vec();
    plan
}

#[derive(Clone, Copy)]
enum Segment {
    Syn,
    Ack,
    Fragment,
    Datagram,
}

fn frame(segment: Segment, from: u16, to: u16) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0xff; 6]).ipv4(CLIENT.octets(), CLUSTER.octets(), 64);
    let mut frame = Vec::new();
    match segment {
        Segment::Syn => ip.tcp(from, to, 1, 1000).syn().write(&mut frame, &[]),
        Segment::Ack | Segment::Fragment => ip.tcp(from, to, 1, 1000).ack(1).write(&mut frame, &[7; 20]),
        Segment::Datagram => ip.udp(from, to).write(&mut frame, &[7; 20]),
    }
    .expect("a Vec takes all");
    if let Segment::Fragment = segment {
        // More fragments.
        frame[20] = 0x20;
    }
    frame
}

fn who_keeps(filters: &[Filter; 2], frame: &[u8]) -> Vec<usize> {
    (0..2).filter(|at| filters[*at].judge(frame).unwrap().0 == Action::Pass).collect()
}

fn connections_stay_where_their_sockets_are(selection: Selection) {
    let listener = TcpListener::bind((CLUSTER, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut cluster = Cluster::new(&plan(selection, port));
    let filters = ["s0", "s1"].map(|name| filter(OWN, &cluster, name));
    let [Some(first), Some(second)] = filters else { return };
    let filters = [first, second];
    let publish = |cluster: &Cluster| {
        for (name, filter) in ["s0", "s1"].iter().zip(&filters) {
            filter.publish(&Generation::compile(cluster, name)).unwrap();
        }
    };

    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.bind(&SocketAddr::from((CLIENT, 0)).into()).unwrap();
    client.connect(&SocketAddr::V4(SocketAddrV4::new(CLUSTER, port)).into()).unwrap();
    let (server, from) = listener.accept().unwrap();
    let (known, unknown) = (from.port(), from.port() ^ 1);

    // At rest nobody asks for sockets.
    let [old] = who_keeps(&filters, &frame(Segment::Ack, unknown, port))[..] else { panic!("one owner") };
    assert_eq!(who_keeps(&filters, &frame(Segment::Ack, known, port)), [old]);
    let new = 1 - old;

    let mut standings = [Standing::Taking; 2];
    standings[old] = Standing::Keeping;
    assert!(cluster.set_standings(0, &standings, 0, UNTIL));
    publish(&cluster);
    let keeps = |segment, port_| who_keeps(&filters, &frame(segment, port_, port));
    // Both filters are on this host, and so both find the socket.
    assert_eq!(keeps(Segment::Ack, known), [0, 1], "where the socket is");
    assert_eq!(keeps(Segment::Ack, unknown), [0; 0], "a listening socket has no connection");
    assert_eq!(keeps(Segment::Syn, unknown), [new]);
    assert_eq!(keeps(Segment::Syn, known), [new]);
    assert_eq!(keeps(Segment::Datagram, known), [new]);
    // Who kept the connections is not known slot by slot where all clients move.
    let keeper = if selection == Selection::Maglev { old } else { new };
    assert_eq!(keeps(Segment::Fragment, known), [keeper]);
    let service = cluster.moving(0);
    assert!(service > 0);

    // With nobody to take over, connections are kept nevertheless.
    assert!(cluster.set_standings(0, &[Standing::Keeping; 2], 1, UNTIL));
    publish(&cluster);
    assert_eq!(keeps(Segment::Ack, known), [0, 1]);
    assert_eq!(keeps(Segment::Syn, unknown), [0; 0]);

    standings[new] = Standing::Taking;
    cluster.set_standings(0, &standings, 2, UNTIL);
    assert!(cluster.expire(2 * UNTIL));
    publish(&cluster);
    assert_eq!(keeps(Segment::Ack, known), [new], "the change is over");
    drop(server);
}

#[test]
fn connections_stay_by_hash() {
    connections_stay_where_their_sockets_are(Selection::Maglev);
}

#[test]
fn connections_stay_by_remainder() {
    connections_stay_where_their_sockets_are(Selection::Modulo);
}
