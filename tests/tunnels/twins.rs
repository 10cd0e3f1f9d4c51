//! The worker against the second data path of tests/model: golden frames, damaged ones, and packets of any length at any MTU.

use crate::ALL;
use crate::frames::Packet;
use crate::model::mutate::Mutator;
use crate::model::records::Golden;
use crate::model::turn::Bench;
use oneip::limits::TOO_BIG_WINDOW;
use oneip::model::Deliver;
use oneip::port::memory::Memory;
use oneip::verdict::{Reason, Verdict};
use proptest::prelude::*;
use std::net::IpAddr;

#[test]
fn golden_frames_come_as_the_second_data_path_sends_them() {
    let golden = Golden::read();
    for deliver in ALL {
        for is_v6 in [false, true] {
            // With the smaller one, nearly every frame goes in fragments.
            for mtu in [1500, 128] {
                let plan = golden.plan_tagging(deliver, is_v6, mtu);
                let verdicts = Bench::new(&plan, &golden.down).check(&golden.frames());
                let forwarded = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Forward { .. })).count();
                assert!(forwarded > 30, "{deliver} {is_v6} {mtu}: {forwarded}");
            }
        }
    }
}

#[test]
fn damaged_frames_come_as_the_second_data_path_sends_them() {
    let golden = Golden::read();
    let seeds = golden.frames();
    for (seed, deliver) in (20..).zip(ALL) {
        for is_v6 in [false, true] {
            for mtu in [1500, 150] {
                let plan = golden.plan_tagging(deliver, is_v6, mtu);
                let macs: Vec<[u8; 6]> = plan
                    .services
                    .iter()
                    .flat_map(|s| &s.servers)
                    .filter_map(|server| server.mac)
                    .map(|mac| mac.0)
                    .collect();
                let mut mutator = Mutator::new(seed, &seeds, &macs);
                let frames: Vec<Vec<u8>> = (0..1500).map(|_| mutator.frame()).collect();
                Bench::new(&plan, &golden.down).check(&frames);
            }
        }
    }
}

fn packets() -> impl Strategy<Value = Packet> {
    let client = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
    let bits = (any::<bool>(), any::<bool>(), any::<bool>());
    (client, bits, 0usize..1600, any::<u8>(), any::<u16>(), 0usize..30).prop_map(
        |(client, (is_udp, dont_fragment, is_tagged), data, class, id, padding)| Packet {
            client,
            is_udp,
            data,
            class,
            id,
            dont_fragment,
            is_tagged,
            padding,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packets_of_any_length_come_as_the_second_data_path_sends_them(
        packets in prop::collection::vec(packets(), 1..40), mtu in 1280u32..1600, way in 0usize..5, is_v6: bool,
    ) {
        let golden = Golden::read();
        let plan = golden.plan_tagging(ALL[way], is_v6, mtu);
        let frames: Vec<Vec<u8>> = packets.iter().map(Packet::frame).collect();
        Bench::new(&plan, &[]).check(&frames);
    }
}

/// More than are allowed in a window of time.
#[test]
fn too_large_frames_are_answered_so_often_and_counted_always() {
    let golden = Golden::read();
    let plan = golden.plan_delivering(Deliver::Ipip, false, 1500);
    let frames: Vec<Vec<u8>> = (0..200).map(|_| Packet::new("198.51.100.7", 1472).frame()).collect();
    let mut bench = Bench::new(&plan, &[]);
    let verdicts = bench.check(&frames);
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Drop(Reason::TooBig)));
    assert_eq!(bench.worker.port().sent().len(), 64);
    assert_eq!(bench.tally.dropped(Reason::TooBig).get(), 200);
}

/// A window of time begins anew, and not with each turn.
#[test]
fn too_large_frames_are_answered_again_in_the_next_window() {
    let golden = Golden::read();
    let plan = golden.plan_delivering(Deliver::Ipip, false, 1500);
    let frames: Vec<Vec<u8>> = (0..64).map(|_| Packet::new("198.51.100.7", 1472).frame()).collect();
    let mut bench = Bench::without_model(&plan, &[]);
    let mut answered = |now: u64| {
        *bench.worker.port_mut() = Memory::new(&frames);
        bench.worker.port_mut().now = now;
        while !bench.worker.turn().is_empty() {}
        bench.worker.port().sent().len()
    };
    let begin = 5 * TOO_BIG_WINDOW;
    let times = [begin, begin + 1, begin + TOO_BIG_WINDOW - 1, begin + TOO_BIG_WINDOW];
    assert_eq!(times.map(&mut answered), [64, 0, 0, 64]);
}

/// Every link carries 1280 bytes of IPv6 (RFC 8200, section 5), a tunnel as well.
#[test]
fn a_packet_that_every_link_carries_goes_in_fragments() {
    let golden = Golden::read();
    for (len, reason) in [(1280, None), (1281, Some(Reason::TooBig))] {
        let mut bench = Bench::new(&golden.plan_delivering(Deliver::Ipip, true, 1280), &[]);
        let verdicts = bench.check(&[Packet::new("2001:db8::7", len - 48).frame()]);
        let dropped = match verdicts[0] {
            Verdict::Drop(reason) => Some(reason),
            _ => None,
        };
        assert_eq!(dropped, reason, "{len}");
    }
}

/// As many frames are free for fragments as the port has.
#[test]
fn without_a_frame_for_its_fragments_a_packet_is_dropped_as_tx_full() {
    let golden = Golden::read();
    let plan = golden.plan_delivering(Deliver::Gre, false, 1500);
    let large = Packet { dont_fragment: false, ..Packet::new("198.51.100.7", 1472) };
    let frames: Vec<Vec<u8>> = (0..10).map(|_| large.frame()).collect();
    let mut bench = Bench::without_model(&plan, &[]);
    *bench.worker.port_mut() = Memory::with_spares(&frames, 7);
    let forwarded = bench.worker.turn().iter().filter(|outcome| outcome.is_forward()).count();
    assert_eq!((forwarded, bench.tally.dropped(Reason::TxFull).get()), (7, 3));
    let port = bench.worker.port();
    assert_eq!((port.sent().len(), port.freed().len()), (14, 3));
    *bench.worker.port_mut() = Memory::with_spares(&frames, 64);
    bench.worker.port_mut().tx_room = 9;
    let forwarded = bench.worker.turn().iter().filter(|outcome| outcome.is_forward()).count();
    assert_eq!(
        (forwarded, bench.worker.port().sent().len()),
        (4, 8),
        "there is room for both fragments, or it is dropped"
    );
}
