//! The dispatcher's own health checks on their way out: the program does with them what a worker does with a client's packet.

use crate::WAYS;
use crate::decoded::sent;
use crate::frames::Packet;
use crate::model::deliver::checksum;
use crate::model::records::Golden;
use oneip::model::Deliver;
use oneip::table::{TunnelEnd, Way};
use oneip::xdp::probes::Probes;
use std::net::IpAddr;

/// Of the first server, over IPv4 and over IPv6.
const MARK: u32 = 0x6f6e_0001;
const KEYS: [u32; 2] = [2, 3];

fn loaded() -> Option<Probes> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    Some(Probes::load().expect("the kernel takes it"))
}

/// As a probe is: over TCP, or an echo request.
fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for client in ["198.51.100.7", "192.0.2.2", "2001:db8::7", "fd09::1"] {
        for data in [0, 1, 40, 1200] {
            packets.push(Packet { is_udp: false, class: 0x02, ..Packet::new(client, data) });
        }
    }
    packets
}

/// The destination of a packet, from its version field on.
fn destination(packet: &[u8]) -> IpAddr {
    match packet[0] >> 4 {
        4 => IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).expect("so many")),
        _ => IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).expect("so many")),
    }
}

/// The source port of GUE, which for clients is made with the key, is taken out of the headers, and with it a checksum that was right.
fn without_port(packet: &mut [u8]) {
    let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
    assert!(packet[at] >= 0xc0, "a dynamic port");
    if at == 40 {
        let len = u32::from(u16::from_be_bytes([packet[44], packet[45]])).to_be_bytes();
        assert_eq!(checksum(&[&packet[8..40], &len, &[0, 0, 0, 17], &packet[40..]]), 0, "UDP's checksum is right");
        packet[46..48].fill(0);
    }
    packet[at..at + 2].fill(0);
}

#[test]
fn a_probe_leaves_as_a_clients_packet_does() {
    let Some(mut probes) = loaded() else { return };
    for deliver in WAYS {
        for is_v6 in [false, true] {
            let plan = Golden::read().plan_delivering(deliver, is_v6, 1500);
            let source = &plan.dispatcher.as_ref().expect("it has one").source;
            let end = TunnelEnd::new(source, 1500);
            let is_l3dsr = matches!(deliver, Deliver::L3dsr { .. });
            let packets: Vec<Packet> =
                packets().into_iter().filter(|packet| !is_l3dsr || packet.client.is_ipv6() == is_v6).collect();
            let frames: Vec<Vec<u8>> = packets.iter().map(Packet::frame).collect();
            for (packet, (frame, sent)) in packets.iter().zip(frames.iter().zip(sent(deliver, is_v6, &frames))) {
                let cluster = destination(&frame[14..]);
                let server = destination(&sent[14..]);
                let service = plan.services.iter().find(|service| service.address == cluster).expect("it is one's");
                let way = Way::new(service.deliver, cluster, server, &end);
                let key = KEYS[usize::from(packet.client.is_ipv6())];
                probes.set(key, Some(&way)).expect("there is room");
                let before = probes.sent(key);
                let mut left = probes.judge(MARK, frame).expect("it runs").expect("it is not dropped");
                assert_eq!(probes.sent(key), before + 1);
                let mut sent = sent;
                assert_eq!(left[..12], frame[..12], "MACs are the route's");
                if matches!(deliver, Deliver::Gue { .. }) {
                    without_port(&mut left[14..]);
                    without_port(&mut sent[14..]);
                }
                assert_eq!(left[12..], sent[12..], "{deliver}, {packet:?}, to {server}");
            }
        }
    }
}

#[test]
fn what_is_no_probe_through_a_tunnel_leaves_as_it_is() {
    let Some(mut probes) = loaded() else { return };
    let way = Way::new(
        Deliver::Gre,
        "203.0.113.80".parse().unwrap(),
        "192.0.2.11".parse().unwrap(),
        &TunnelEnd::new(&["192.0.2.2".parse().unwrap()], 1500),
    );
    probes.set(KEYS[0], Some(&way)).expect("there is room");
    let frames = ["198.51.100.7", "2001:db8::7"].map(|client| Packet::new(client, 9).frame());
    for (mark, frame) in [(0, 0), (1, 0), (MARK + 1, 0), (MARK, 1), (0x6f6f_0001, 0)] {
        assert_eq!(probes.judge(mark, &frames[frame]).expect("it runs").as_ref(), Some(&frames[frame]), "{mark:#x}");
    }
    assert_eq!(probes.sent(KEYS[0]), 0);
    probes.set(KEYS[0], None).expect("it can be taken away");
    assert_eq!(probes.judge(MARK, &frames[0]).expect("it runs").as_ref(), Some(&frames[0]));
}

/// All probes from one address, and many addresses many.
#[test]
fn gue_has_a_source_port_by_the_address() {
    let Some(mut probes) = loaded() else { return };
    let end = TunnelEnd::new(&["192.0.2.2".parse().unwrap()], 1500);
    let way =
        Way::new(Deliver::Gue { port: 6080 }, "203.0.113.80".parse().unwrap(), "192.0.2.11".parse().unwrap(), &end);
    probes.set(KEYS[0], Some(&way)).expect("there is room");
    let mut port = |client: &str, data| {
        let frame = Packet { is_udp: false, ..Packet::new(client, data) }.frame();
        let left = probes.judge(MARK, &frame).expect("it runs").expect("it is not dropped");
        [left[34], left[35]]
    };
    assert_eq!(port("198.51.100.7", 1), port("198.51.100.7", 900));
    assert_ne!(port("198.51.100.7", 1), port("198.51.100.8", 1));
}
