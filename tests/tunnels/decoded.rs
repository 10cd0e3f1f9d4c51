//! What etherparse finds in the frames that leave: nothing malformed, right checksums, and the packet inside byte for byte.

use crate::WAYS;
use crate::frames::Packet;
use crate::model::deliver::checksum;
use crate::model::records::Golden;
use crate::model::turn::Bench;
use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice};
use oneip::model::Deliver;
use std::net::IpAddr;

/// What a worker makes of frames, each of which it forwards in one.
pub fn sent(deliver: Deliver, is_v6: bool, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let plan = Golden::read().plan_delivering(deliver, is_v6, 1500);
    let mut bench = Bench::without_model(&plan, &[]);
    bench.run(frames);
    let port = bench.worker.port();
    let sent: Vec<Vec<u8>> = port.sent().iter().map(|at| port.frame(*at as usize).to_vec()).collect();
    assert_eq!(sent.len(), frames.len());
    sent
}

/// The packet that the tunnel has inside.
fn inner(deliver: Deliver, frame: &[u8], server: IpAddr) -> Vec<u8> {
    let decoded = SlicedPacket::from_ethernet(frame).expect("it is well-formed");
    let (payload, protocol) = match decoded.net.expect("it has an IP header") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(IpAddr::from(header.destination_addr()), server);
            assert_eq!(checksum(&[header.slice()]), 0, "the header's checksum is right");
            assert_eq!((header.ttl(), header.is_fragmenting_payload()), (64, false));
            (ip.payload().payload.to_vec(), header.protocol())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            assert_eq!((IpAddr::from(header.destination_addr()), header.hop_limit()), (server, 64));
            (ip.payload().payload.to_vec(), header.next_header())
        }
        _ => panic!("no IP"),
    };
    match deliver {
        Deliver::Ipip => {
            assert!(matches!(protocol, IpNumber::IPV4 | IpNumber::IPV6));
            payload
        }
        Deliver::Gue { port } => {
            let Some(TransportSlice::Udp(udp)) = decoded.transport else { panic!("no UDP") };
            assert_eq!(udp.destination_port(), port);
            assert!(udp.source_port() >= 49152);
            let source_and_destination = if server.is_ipv4() { None } else { Some(&frame[22..54]) };
            match source_and_destination {
                None => assert_eq!(udp.checksum(), 0),
                Some(addresses) => {
                    let len = udp.length().to_be_bytes();
                    assert_eq!(
                        checksum(&[addresses, &[0, 0], &len, &[0, 0, 0, 17], &payload]),
                        0,
                        "UDP's checksum is right"
                    );
                }
            }
            udp.payload().to_vec()
        }
        Deliver::Gre => {
            assert_eq!(protocol, IpNumber::GRE);
            assert_eq!(&payload[..2], [0, 0], "no key, no checksum, no sequence number");
            let is_v4 = payload[4] >> 4 == 4;
            assert_eq!(payload[2..4], if is_v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
            payload[4..].to_vec()
        }
        Deliver::L2 | Deliver::L3dsr { .. } => panic!("no tunnel"),
    }
}

pub fn clients() -> Vec<Packet> {
    let mut packets = Vec::new();
    for client in ["198.51.100.7", "203.0.114.9", "2001:db8::7", "2001:db8:9::1"] {
        for data in [0, 1, 40, 1200] {
            for is_udp in [true, false] {
                packets.push(Packet { is_udp, class: 0xb9, padding: 3, ..Packet::new(client, data) });
            }
        }
    }
    packets
}

#[test]
fn the_packet_inside_is_the_clients_byte_for_byte() {
    let packets = clients();
    let frames: Vec<Vec<u8>> = packets.iter().map(Packet::frame).collect();
    let servers = |is_v6: bool| -> Vec<IpAddr> {
        let plan = Golden::read().plan_delivering(Deliver::Ipip, is_v6, 1500);
        plan.services.iter().flat_map(|service| &service.servers).map(|server| server.address).collect()
    };
    for deliver in WAYS.into_iter().filter(|deliver| deliver.is_tunnel()) {
        for is_v6 in [false, true] {
            let servers = servers(is_v6);
            for (packet, (frame, sent)) in packets.iter().zip(frames.iter().zip(sent(deliver, is_v6, &frames))) {
                let to = if is_v6 {
                    IpAddr::from(<[u8; 16]>::try_from(&sent[38..54]).expect("an address"))
                } else {
                    IpAddr::from(<[u8; 4]>::try_from(&sent[30..34]).expect("an address"))
                };
                assert!(servers.contains(&to));
                let class = if is_v6 { sent[14] << 4 | sent[15] >> 4 } else { sent[15] };
                assert_eq!(class, packet.class, "traffic class and ECN are copied");
                let inner = inner(deliver, &sent, to);
                assert_eq!(inner, frame[14..frame.len() - packet.padding], "{deliver}, {packet:?}");
            }
        }
    }
}

/// A client's packets have one source port, and many clients many.
#[test]
fn gue_spreads_clients_over_source_ports() {
    let ports = |client: u32| {
        let client = std::net::Ipv4Addr::from_bits(0xc633_6400 + client).to_string();
        let frames = [Packet::new(&client, 3).frame(), Packet { is_udp: false, ..Packet::new(&client, 90) }.frame()];
        sent(Deliver::Gue { port: 6080 }, false, &frames).iter().map(|sent| [sent[34], sent[35]]).collect::<Vec<_>>()
    };
    let mut seen = std::collections::HashSet::new();
    for client in 0..60 {
        let ports = ports(client);
        assert_eq!(ports[0], ports[1]);
        seen.insert(ports[0]);
    }
    assert!(seen.len() > 55, "{}", seen.len());
}

/// Whatever checksum was right is right afterwards.
#[test]
fn l3dsr_mends_every_checksum() {
    for is_v6 in [false, true] {
        let packets: Vec<Packet> = clients().into_iter().filter(|packet| packet.client.is_ipv6() == is_v6).collect();
        let frames: Vec<Vec<u8>> = packets.iter().map(Packet::frame).collect();
        for (packet, sent) in packets.iter().zip(sent(Deliver::L3dsr { dscp: 10 }, is_v6, &frames)) {
            let end = sent.len() - packet.padding;
            let bytes = &sent[14..end];
            let (addresses, header) = if is_v6 { (&bytes[8..40], 40) } else { (&bytes[12..20], 20) };
            if !is_v6 {
                assert_eq!(checksum(&[&bytes[..20]]), 0);
            }
            let class = if is_v6 { bytes[0] << 4 | bytes[1] >> 4 } else { bytes[1] };
            assert!(
                (10..20).contains(&(class >> 2)) && class & 3 == packet.class & 3,
                "DSCP tells the address, ECN stays"
            );
            let upper = &bytes[header..];
            let protocol = if packet.is_udp { 17 } else { 6 };
            assert_eq!(checksum(&[addresses, &(upper.len() as u32).to_be_bytes(), &[0, 0, 0, protocol], upper]), 0);
            SlicedPacket::from_ethernet(&sent[..end]).expect("it is well-formed");
        }
    }
}
