//! Every byte of the frames, as others read them, and that the kernel's program makes the same.

use super::veth::{CLIENT_MAC, CLUSTER_V4, CLUSTER_V6, DEVICE_MAC};
use super::{RUN, is_root, port, traffic, udp};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use oneip::model::Transport;
use oneip::pktgen::frames::{FCS, Frames, Order, Size, Traffic, TrafficError};
use oneip::pktgen::schedule::Schedule;
use oneip::pktgen::transmit::{Load, Share, Until};
use oneip::pktgen::xdp::Generator;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const STAMP: u64 = 0x0102_0304_0506_0708;
const ADDRESSES: [&str; 2] = [CLUSTER_V4, CLUSTER_V6];
const TRANSPORTS: [Transport; 2] = [Transport::Udp, Transport::Tcp];
const LEAST: [[usize; 2]; 2] = [[64, 76], [84, 96]];

fn frame(frames: &Frames, number: u64) -> Vec<u8> {
    let mut frame = vec![0xee; frames.size_of(number)];
    frames.write(number, STAMP, &mut frame);
    frame
}

/// What etherparse makes of a frame whose checksums it finds right: who sends, to whom and which port, and the payload.
fn parsed(frame: &[u8]) -> (IpAddr, IpAddr, Transport, u16, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let link = packet.link.as_ref().and_then(|link| link.to_header()).and_then(|link| link.ethernet2()).unwrap();
    assert_eq!((link.destination, link.source), (CLIENT_MAC.0, DEVICE_MAC.0));
    let (source, destination, whole): (IpAddr, IpAddr, usize) = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert!(header.dont_fragment && header.time_to_live == 64 && header.options.is_empty());
            (header.source.into(), header.destination.into(), 14 + usize::from(header.total_len))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.hop_limit, 64);
            (header.source.into(), header.destination.into(), 54 + usize::from(header.payload_length))
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(whole, frame.len(), "no padding");
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (from, to) = (bytes(source), bytes(destination));
    match packet.transport.unwrap() {
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let payload = udp.payload();
            let expected = match source {
                IpAddr::V4(_) => {
                    header.calc_checksum_ipv4_raw(from.try_into().unwrap(), to.try_into().unwrap(), payload)
                }
                IpAddr::V6(_) => {
                    header.calc_checksum_ipv6_raw(from.try_into().unwrap(), to.try_into().unwrap(), payload)
                }
            };
            assert_eq!(header.checksum, expected.unwrap());
            (source, destination, Transport::Udp, header.destination_port, payload.to_vec())
        }
        TransportSlice::Tcp(tcp) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            assert!(header.ack && !header.syn && !header.fin && !header.rst);
            let expected = match source {
                IpAddr::V4(_) => {
                    header.calc_checksum_ipv4_raw(from.try_into().unwrap(), to.try_into().unwrap(), payload)
                }
                IpAddr::V6(_) => {
                    header.calc_checksum_ipv6_raw(from.try_into().unwrap(), to.try_into().unwrap(), payload)
                }
            };
            // To a receiver's sum 0 and 0xffff are one.
            assert_eq!(header.checksum % 0xffff, expected.unwrap() % 0xffff);
            (source, destination, Transport::Tcp, header.destination_port, payload.to_vec())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_of_every_kind_are_right_in_every_byte() {
    for (family, address) in ADDRESSES.into_iter().enumerate() {
        for (which, transport) in TRANSPORTS.into_iter().enumerate() {
            let least = LEAST[family][which];
            for size in (least..least + 40).chain([593, 594, 1517, 1518, 3004]) {
                let frames = Frames::new(&traffic(&[address], &[port(transport, 443)], &[size]), RUN).unwrap();
                for number in [0, 1, 255, 65_536, (1 << 32) + 7, (1 << 48) - 1] {
                    let frame = frame(&frames, number);
                    assert_eq!(frame.len() + FCS, size);
                    let (_, to, as_transport, to_port, payload) = parsed(&frame);
                    assert_eq!((to, as_transport, to_port), (address.parse().unwrap(), transport, 443));
                    let (_, trailer) = payload.split_at(payload.len() - 18);
                    assert_eq!(trailer[..4], RUN.to_be_bytes());
                    assert_eq!(trailer[4..10], number.to_be_bytes()[2..]);
                    assert_eq!(trailer[10..], STAMP.to_be_bytes());
                }
            }
            let too_small = Frames::new(&traffic(&[address], &[port(transport, 443)], &[least - 1]), RUN).unwrap_err();
            assert!(too_small.to_string().ends_with(&format!("--size {least} is the smallest")), "{too_small}");
            let smallest = Frames::new(&traffic(&[address], &[port(transport, 443)], &[]), RUN).unwrap();
            assert_eq!(smallest.sizes(), [least]);
        }
    }
}

fn clients(traffic: &Traffic, count: u64) -> Vec<IpAddr> {
    let frames = Frames::new(traffic, RUN).unwrap();
    (0..count).map(|number| parsed(&frame(&frames, number)).0).collect()
}

#[test]
fn clients_in_order_are_each_address_of_the_range_once_a_round() {
    type Client = fn(u64) -> IpAddr;
    let ranges: [(&str, Client); 2] = [
        (CLUSTER_V4, |n| Ipv4Addr::from_bits(0x0a00_00f0 + n as u32).into()),
        (CLUSTER_V6, |n| Ipv6Addr::from_bits(0x2001_0002_0000_0000_0000_0000_ffff_fff0 + u128::from(n)).into()),
    ];
    for (address, client) in ranges {
        let traffic = Traffic {
            clients: 1000,
            order: Order::Sequential,
            first_v4: [10, 0, 0, 240].into(),
            first_v6: "2001:2::ffff:fff0".parse().unwrap(),
            ..traffic(&[address], &[port(Transport::Udp, 80)], &[])
        };
        let expected: Vec<IpAddr> = (0..2000).map(|n| client(n % 1000)).collect();
        assert_eq!(clients(&traffic, 2000), expected);
    }
}

#[test]
fn clients_at_random_are_alike_probable_and_depend_on_the_seed_alone() {
    let traffic = Traffic { clients: 16, ..udp() };
    let seen = clients(&traffic, 16_000);
    let mut counts = BTreeMap::new();
    seen.iter().for_each(|client| *counts.entry(client).or_insert(0i64) += 1);
    assert_eq!(counts.len(), 16);
    // Chi-squared with 15 degrees of freedom: above 44.3 once in ten thousand seeds.
    let chi: i64 = counts.values().map(|count| (count - 1000).pow(2)).sum();
    assert!(chi < 44_300, "{counts:?}");
    assert_eq!(clients(&traffic, 16_000), seen);
    assert_ne!(clients(&Traffic { seed: 2, ..traffic }, 16_000), seen);
}

#[test]
fn kinds_of_frame_take_turns_and_each_client_gets_each() {
    let sizes = [64, 594, 64].map(Size::AtLeast);
    let traffic = Traffic { clients: 6, order: Order::Sequential, sizes: sizes.to_vec(), ..udp() };
    let frames = Frames::new(&traffic, RUN).unwrap();
    let turns: Vec<usize> = (0..6).map(|number| frames.size_of(number) + FCS).collect();
    assert_eq!(turns, [64, 594, 64, 64, 594, 64]);
    let pairs: BTreeSet<(u64, usize)> =
        (0..18).map(|number| (frames.client_of(number), frames.size_of(number))).collect();
    assert_eq!(pairs.len(), 12, "{pairs:?}");
}

#[test]
fn traffic_that_cannot_be_is_refused() {
    let refused = |traffic: &Traffic| Frames::new(traffic, RUN).unwrap_err();
    assert_eq!(refused(&Traffic { sizes: vec![Size::Bytes(3005)], ..udp() }), TrafficError::TooLarge { size: 3005 });
    let many = Traffic { sizes: vec![Size::Bytes(64); 1025], ..udp() };
    assert_eq!(refused(&many), TrafficError::TooMany { count: 1025 });
    assert_eq!(
        refused(&traffic(&[CLUSTER_V4], &[port(Transport::Sctp, 9)], &[])),
        TrafficError::Transport { port: port(Transport::Sctp, 9) }
    );
    let last = Traffic { first_v4: [255, 255, 255, 0].into(), clients: 256, ..udp() };
    assert!(Frames::new(&last, RUN).is_ok());
    assert!(matches!(refused(&Traffic { clients: 257, ..last }), TrafficError::Clients { clients: 257, .. }));
    // The upper half of an IPv6 address does not count up.
    let v6 = |first: &str| Traffic {
        first_v6: first.parse().unwrap(),
        clients: 2,
        ..traffic(&[CLUSTER_V6], &[port(Transport::Udp, 80)], &[])
    };
    assert!(Frames::new(&v6("2001:2::ffff:ffff:ffff:fffe"), RUN).is_ok());
    assert!(matches!(refused(&v6("2001:2::ffff:ffff:ffff:ffff")), TrafficError::Clients { .. }));
}

/// As many kinds of traffic as there are to choose from.
fn any_traffic() -> impl Strategy<Value = Traffic> {
    let addresses = proptest::sample::subsequence(vec![CLUSTER_V4, CLUSTER_V6, "203.0.113.255"], 1..=3);
    let ports = proptest::sample::subsequence(TRANSPORTS.map(|transport| port(transport, 65_535)).to_vec(), 1..=2);
    let sizes = proptest::collection::vec(60usize..1600, 0..4);
    let clients = prop_oneof![Just(1u64), 2..100u64, Just(1_000_000), Just(1 << 26)];
    let first = (1u32..0x8000_0000, any::<u64>(), 0..u64::MAX >> 1);
    (addresses, ports, sizes, clients, first, any::<bool>(), any::<u64>()).prop_map(
        |(addresses, ports, sizes, clients, (v4, high, low), in_order, seed)| Traffic {
            sizes: sizes.into_iter().map(Size::AtLeast).collect(),
            clients,
            first_v4: Ipv4Addr::from_bits(v4),
            first_v6: Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)),
            order: if in_order { Order::Sequential } else { Order::Random },
            seed,
            syn: false,
            ..traffic(&addresses, &ports, &[])
        },
    )
}

#[test]
fn the_kernels_program_makes_the_same_frames() {
    if !is_root() {
        return;
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(48));
    let any_share = (0u64..9, 1u64..9).prop_map(|(first, others)| Share { first, stride: first + others });
    let outcome = runner.run(&(any_traffic(), any_share), |(traffic, share)| {
        let frames = Frames::new(&traffic, RUN).unwrap();
        let load = Load { schedule: None, until: Until::Count(1000) };
        let mut generator = Generator::load(&frames, load, share, 1).unwrap();
        generator.progress().begin(0).unwrap();
        let mut last = 0;
        for number in (0..40).map(|nth| share.number(nth)) {
            let made = generator.next_frame().unwrap();
            let stamp = u64::from_be_bytes(*made.last_chunk().unwrap());
            prop_assert!(stamp >= last);
            last = stamp;
            let mut expected = vec![0; frames.size_of(number)];
            frames.write(number, stamp, &mut expected);
            prop_assert_eq!(made, expected, "frame {}", number);
        }
        Ok(())
    });
    outcome.unwrap();
}

/// The kernel begins to run it some milliseconds after it was asked to: frames that were due then would all be late.
#[test]
fn the_kernels_program_waits_until_it_may_begin() {
    if !is_root() {
        return;
    }
    let frames = Frames::new(&Traffic { clients: 9, ..udp() }, RUN).unwrap();
    let load = Load { schedule: Some(Schedule::new(1000)), until: Until::Count(1) };
    let mut generator = Generator::load(&frames, load, Share::WHOLE, 1).unwrap();
    let (progress, nothing) = (generator.progress(), vec![0; frames.size_of(0)]);
    assert!(!progress.waits().unwrap());
    for _ in 0..3 {
        assert_eq!(generator.next_frame().unwrap(), nothing);
    }
    assert!(progress.waits().unwrap() && !progress.is_over().unwrap());
    progress.begin(7_000).unwrap();
    let mut expected = nothing.clone();
    frames.write(0, 7_000, &mut expected);
    assert_eq!(generator.next_frame().unwrap(), expected);
    assert_eq!(generator.next_frame().unwrap(), nothing);
    assert!(progress.is_over().unwrap());
}

#[test]
fn segments_begin_connections_when_asked() {
    for address in [CLUSTER_V4, CLUSTER_V6] {
        let traffic = Traffic { syn: true, ..traffic(&[address], &[port(Transport::Tcp, 80)], &[]) };
        let frame = frame(&Frames::new(&traffic, RUN).unwrap(), 0);
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("{frame:?}") };
        let header = tcp.to_header();
        assert!(header.syn && !header.ack && header.acknowledgment_number == 0);
        let Some(NetSlice::Ipv4(ip)) = packet.net else { continue };
        let expected = header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).unwrap();
        assert_eq!(header.checksum, expected);
    }
}
