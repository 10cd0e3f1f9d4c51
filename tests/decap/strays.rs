//! What is sent back: segments of connections that this server does not have, and nothing else.

use super::network::{in_a_network, keep_two_capabilities};
use super::packets::{CLIENTS, address, cluster, frame, ip, packets, sum_header};
use super::{OWN, plan, program};
use etherparse::{IpNumber, TcpHeader};
use oneip::engine::decap::{self, Table};
use oneip::verdict::Reason;
use oneip::xdp::program::{Action, Program};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

/// The service with a second chance.
const N: u8 = 7;

fn segment(from: SocketAddr, to: IpAddr, set: impl FnOnce(&mut TcpHeader)) -> Vec<u8> {
    let mut tcp = TcpHeader::new(from.port(), 80, 78, 65_000);
    set(&mut tcp);
    ip(from.ip(), to, IpNumber::TCP, &tcp.to_bytes())
}

/// Whether the frame goes back as it came, but for the MACs. Else it goes on to the kernel, and is not touched.
fn goes_back(program: &Program, frame: &[u8]) -> bool {
    let before = program.counts().unwrap();
    let (action, after) = program.judge(frame).unwrap();
    let counts = program.counts().unwrap();
    let sent = counts.dropped(Reason::OtherServer) - before.dropped(Reason::OtherServer);
    assert_eq!(sent + counts.passed - before.passed, 1);
    assert_eq!(after[12..], frame[12..]);
    match action {
        Action::Send => {
            assert_eq!((&after[..6], &after[6..12], sent), (&frame[6..12], &OWN.0[..], 1));
            true
        }
        action => {
            assert_eq!((action, &after[..12], sent), (Action::Pass, &frame[..12], 0));
            false
        }
    }
}

#[test]
fn a_segment_without_a_connection_goes_back_and_nothing_else_does() {
    let Some(program) = &program(&plan()) else { return };
    for family in [0, 1] {
        let (to, from) = (cluster(N, family), SocketAddr::new(address(CLIENTS[family]), 4321));
        let ttl_at = if family == 0 { 8 } else { 7 };
        for tags in 0..3 {
            let back = |packet: &[u8]| goes_back(program, &frame(tags, packet));
            assert!(back(&segment(from, to, |tcp| tcp.ack = true)));
            assert!(back(&segment(from, to, |tcp| (tcp.fin, tcp.ack) = (true, true))));
            assert!(back(&segment(from, to, |tcp| tcp.rst = true)));
            assert!(!back(&segment(from, to, |tcp| tcp.syn = true)), "it has no connection yet");
            let mut last = segment(from, to, |tcp| tcp.ack = true);
            last[ttl_at] = 1;
            if family == 0 {
                sum_header(&mut last);
            }
            assert!(!back(&last), "nobody else has it");
            assert!(!back(&segment(from, to, |tcp| (tcp.ack, tcp.destination_port) = (true, 81))), "no service");
            assert!(!back(&segment(from, cluster(5, family), |tcp| tcp.ack = true)), "a service without it");
            // A datagram, an echo request, an ICMP error, options or an extension header, a later fragment.
            packets(to).iter().skip(2).for_each(|packet| assert!(!back(packet), "{packet:02x?}"));
        }
        let mut flooded = frame(0, &segment(from, to, |tcp| tcp.ack = true));
        flooded[5] ^= 1;
        assert!(!goes_back(program, &flooded), "another host's");
    }
}

/// The kernel knows: of a listening socket nobody has a connection yet; what has ended is remembered in TIME_WAIT.
#[test]
fn what_has_a_socket_stays() {
    let addresses = [0, 1].map(|family| (address(CLIENTS[family]), cluster(N, family)));
    let made = addresses.iter().flat_map(|(client, cluster)| [client, cluster]).map(|address| {
        let flag = if address.is_ipv6() { "nodad" } else { "" };
        format!("address add {address}/{} dev lo {flag}", if address.is_ipv6() { 128 } else { 32 })
    });
    let made: Vec<String> = ["link set lo up".to_owned()].into_iter().chain(made).collect();
    in_a_network(made, move || {
        let listeners = addresses.map(|(_, cluster)| TcpListener::bind((cluster, 80)).unwrap());
        keep_two_capabilities();
        let program = decap::load(OWN).unwrap();
        program.publish(Table::compile(&plan(), "s0", &|_| 0).cells()).unwrap();
        for ((client, cluster), listener) in addresses.into_iter().zip(&listeners) {
            let back = |from: SocketAddr| goes_back(&program, &frame(0, &segment(from, cluster, |tcp| tcp.ack = true)));
            assert!(back(SocketAddr::new(client, 9)), "a listening socket has no connection");
            let connect = || {
                let socket = socket2::Socket::new(
                    if client.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 },
                    socket2::Type::STREAM,
                    None,
                )
                .unwrap();
                socket.bind(&SocketAddr::new(client, 0).into()).unwrap();
                socket.connect(&SocketAddr::new(cluster, 80).into()).unwrap();
                socket
            };
            let from = |socket: &socket2::Socket| socket.local_addr().unwrap().as_socket().unwrap();
            let there = connect();
            assert!(!back(from(&there)), "not accepted yet, and there all the same");
            let accepted = listener.accept().unwrap().0;
            assert!(!back(from(&there)));
            // The server closes first, so it is there that TIME_WAIT is.
            let closed = from(&there);
            drop(accepted);
            drop(there);
            std::thread::sleep(Duration::from_millis(50));
            assert!(!back(closed), "TIME_WAIT");
            let reset = connect();
            let _accepted = listener.accept().unwrap().0;
            reset.set_linger(Some(Duration::ZERO)).unwrap();
            let gone = from(&reset);
            drop(reset);
            assert!(back(gone), "it was reset");
        }
    });
}
