//! What the receiving side notices, by running its program on frames one by one.

use super::veth::{CLUSTER_V4, CLUSTER_V6};
use super::{RUN, is_root, port, traffic, udp};
use hdrhistogram::Histogram;
use oneip::host::clock::now_ns;
use oneip::metrics::buckets::{DIGITS, MAX_NS};
use oneip::model::{Mac, Transport};
use oneip::pktgen::frames::{Frames, Traffic};
use oneip::pktgen::sink::{Counts, Sink};
use std::collections::BTreeMap;

fn frame(frames: &Frames, number: u64, stamp: u64) -> Vec<u8> {
    let mut frame = vec![0; frames.size_of(number)];
    frames.write(number, stamp, &mut frame);
    frame
}

/// The counts, and without the times.
fn counts(sink: &Sink) -> Counts {
    Counts { latency: Default::default(), ..sink.counts().unwrap() }
}

/// All that a change of one byte can be: each byte of each kind of frame, by turns in a low and in a high bit.
#[test]
fn a_changed_byte_is_noticed_wherever_it_is() {
    if !is_root() {
        return;
    }
    for (address, ttl_at, checksum_at) in [(CLUSTER_V4, 22, Some(24)), (CLUSTER_V6, 21, None)] {
        for transport in [Transport::Udp, Transport::Tcp] {
            for size in [96, 97, 103, 250] {
                let frames = Frames::new(&traffic(&[address], &[port(transport, 80)], &[size]), RUN).unwrap();
                let mut sink = Sink::load(&frames, 1).unwrap();
                let (mut expected, mut gone) = (Counts::default(), 0);
                for at in 0..size - 4 {
                    let mut frame = frame(&frames, at as u64, now_ns());
                    frame[at] ^= if at % 2 == 0 { 0x80 } else { 1 };
                    let is_run = (size - 22..size - 18).contains(&at);
                    assert_eq!(sink.takes(&frame).unwrap(), !is_run, "byte {at} of {size}");
                    if is_run {
                        gone += 1;
                    } else if at < 12 {
                        expected.received += 1;
                        expected.bytes += frame.len() as u64;
                    } else {
                        expected.corrupt += 1;
                    }
                    assert_eq!(counts(&sink), expected, "byte {at} of {size}, {transport:?} to {address}");
                }
                assert_eq!(gone, 4);
                // A router's doing.
                let mut routed = frame(&frames, 5000, now_ns());
                routed[ttl_at] -= 1;
                if let Some(at) = checksum_at {
                    let sum = u16::from_be_bytes([routed[at], routed[at + 1]]);
                    let (sum, carry) = sum.overflowing_add(0x100);
                    routed[at..at + 2].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
                }
                assert!(sink.takes(&routed).unwrap());
                expected = Counts {
                    received: expected.received + 1,
                    bytes: expected.bytes + size as u64 - 4,
                    routed: 1,
                    ..expected
                };
                assert_eq!(counts(&sink), expected);
            }
        }
    }
}

#[test]
fn a_frame_that_became_longer_or_shorter_is_not_taken_for_another() {
    if !is_root() {
        return;
    }
    let frames = Frames::new(&traffic(&[CLUSTER_V4], &[port(Transport::Udp, 80)], &[100, 200]), RUN).unwrap();
    let mut sink = Sink::load(&frames, 1).unwrap();
    let short = frame(&frames, 0, now_ns());
    assert!(!sink.takes(&short[..short.len() - 1]).unwrap(), "its trailer is not where it was");
    let padded = [short.as_slice(), &[0; 4]].concat();
    assert!(!sink.takes(&padded).unwrap());
    // A tag in front: of this run, but not as it went.
    let tagged = [&short[..12], &[0x81, 0, 0, 7], &short[12..]].concat();
    assert!(sink.takes(&tagged).unwrap());
    assert_eq!(counts(&sink), Counts { corrupt: 1, ..Counts::default() });
}

#[test]
fn frames_of_others_pass() {
    if !is_root() {
        return;
    }
    let frames = Frames::new(&udp(), RUN).unwrap();
    let mut sink = Sink::load(&frames, 1).unwrap();
    let another_run = Frames::new(&udp(), RUN + 1).unwrap();
    for other in [frame(&another_run, 0, now_ns()), vec![0xff; 60], vec![0; 14], vec![0x5a; 1514], vec![0x5a; 3500]] {
        assert!(!sink.takes(&other).unwrap(), "{} bytes", other.len());
    }
    assert_eq!(counts(&sink), Counts::default());
    assert!(sink.takes(&frame(&frames, 0, now_ns())).unwrap());
}

#[test]
fn repetitions_and_latecomers_are_told_apart() {
    if !is_root() {
        return;
    }
    let frames = Frames::new(&udp(), RUN).unwrap();
    let mut sink = Sink::load(&frames, 1).unwrap();
    let window = 1u64 << 24;
    // Number, and what it adds: received, duplicates, reordered.
    let arrivals = [
        (0, [1, 0, 0]),
        (1, [1, 0, 0]),
        (1, [0, 1, 0]),
        (0, [0, 1, 0]),
        (5, [1, 0, 0]),
        (3, [1, 0, 1]),
        (4, [1, 0, 1]),
        (3, [0, 1, 0]),
        (6, [1, 0, 0]),
        (31, [1, 0, 0]),
        (32, [1, 0, 0]),
        (31, [0, 1, 0]),
        // In the same place of the window, a round later.
        (window + 5, [1, 0, 0]),
        (window + 5, [0, 1, 0]),
        (window + 6, [1, 0, 0]),
        // Too late for the window to know of.
        (6, [1, 0, 1]),
        (40, [1, 0, 1]),
        (3 * window + 40, [1, 0, 0]),
        (3 * window + 40, [0, 1, 0]),
    ];
    let mut expected = [0; 3];
    for (number, adds) in arrivals {
        assert!(sink.takes(&frame(&frames, number, now_ns())).unwrap());
        expected.iter_mut().zip(adds).for_each(|(sum, add)| *sum += add);
        let Counts { received, duplicates, reordered, corrupt, .. } = counts(&sink);
        assert_eq!(([received, duplicates, reordered], corrupt), (expected, 0), "after {number}");
    }
}

/// The k-th of several senders sends the numbers k, k + senders, and so on.
#[test]
fn senders_do_not_overtake_each_other_and_have_a_window_each() {
    if !is_root() {
        return;
    }
    let frames = Frames::new(&udp(), RUN).unwrap();
    let (senders, window) = (3, 1u64 << 24);
    let mut sink = Sink::load(&frames, senders).unwrap();
    // Sender, how many it had sent before, and what it adds: received, duplicates, reordered.
    let arrivals = [
        (0, 100, [1, 0, 0]),
        (2, 7, [1, 0, 0]),
        (1, 7, [1, 0, 0]),
        (2, 7, [0, 1, 0]),
        (2, 5, [1, 0, 1]),
        (1, 8, [1, 0, 0]),
        (0, 99, [1, 0, 1]),
        // One is two windows ahead.
        (0, 2 * window + 8, [1, 0, 0]),
        (1, 8, [0, 1, 0]),
        (2, 8, [1, 0, 0]),
        (2, 8, [0, 1, 0]),
        (0, 2 * window + 8, [0, 1, 0]),
    ];
    let mut expected = [0; 3];
    for (sender, before, adds) in arrivals {
        let number = sender + before * senders as u64;
        assert!(sink.takes(&frame(&frames, number, now_ns())).unwrap());
        expected.iter_mut().zip(adds).for_each(|(sum, add)| *sum += add);
        let Counts { received, duplicates, reordered, .. } = counts(&sink);
        assert_eq!([received, duplicates, reordered], expected, "after frame {before} of sender {sender}");
    }
}

#[test]
fn frames_are_counted_by_destination_mac() {
    if !is_root() {
        return;
    }
    let frames = Frames::new(&udp(), RUN).unwrap();
    let mut sink = Sink::load(&frames, 1).unwrap();
    let mut expected = BTreeMap::new();
    for number in 0..1000u64 {
        let mac = Mac([2, 0, 0, 0, 1, (number * number % 37) as u8]);
        let mut frame = frame(&frames, number, now_ns());
        frame[..6].copy_from_slice(&mac.0);
        assert!(sink.takes(&frame).unwrap());
        // A second time it counts nowhere.
        assert!(sink.takes(&frame).unwrap());
        *expected.entry(mac).or_insert(0) += 1;
    }
    assert_eq!(sink.by_mac().unwrap(), expected);
}

#[test]
fn more_macs_than_there_is_room_for_are_counted_together() {
    if !is_root() {
        return;
    }
    let frames = Frames::new(&udp(), RUN).unwrap();
    let mut sink = Sink::load(&frames, 1).unwrap();
    for number in 0..5000u64 {
        let mut frame = frame(&frames, number, now_ns());
        frame[4..6].copy_from_slice(&(number as u16).to_be_bytes());
        assert!(sink.takes(&frame).unwrap());
    }
    let told_apart: u64 = sink.by_mac().unwrap().values().sum();
    assert_eq!((told_apart, counts(&sink).other_macs), (4096, 904));
}

/// Latencies of every size, each into the bucket that HdrHistogram with two digits has for it.
#[test]
fn latencies_fall_into_hdr_histograms_buckets() {
    if !is_root() {
        return;
    }
    let frames = Frames::new(&Traffic { clients: 1, ..udp() }, RUN).unwrap();
    let mut sink = Sink::load(&frames, 1).unwrap();
    let hdr = Histogram::<u64>::new_with_bounds(1, MAX_NS, DIGITS).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut before = sink.counts().unwrap().latency;
    for number in 0..400 {
        // Of every magnitude alike; beyond the last bucket too.
        let ns = random.u64(..) >> random.u32(28..64);
        assert!(sink.takes(&frame(&frames, number, now_ns().saturating_sub(ns))).unwrap());
        let after = sink.counts().unwrap().latency;
        let measured = after.sum - before.sum;
        assert!(measured >= ns && after.count == number + 1, "{measured} for {ns}");
        let had: BTreeMap<u64, u64> = before.buckets().collect();
        let gained: Vec<(u64, u64)> = after
            .buckets()
            .map(|(value, count)| (value, count - had.get(&value).unwrap_or(&0)))
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(gained, [(hdr.lowest_equivalent(measured.min(MAX_NS)), 1)], "{measured} ns");
        assert_eq!(after.most, before.most.max(measured));
        assert_eq!(after.least, if number == 0 { measured } else { before.least.min(measured) });
        before = after;
    }
    // A clock that runs behind ours.
    assert!(sink.takes(&frame(&frames, 400, now_ns() + 1_000_000_000)).unwrap());
    assert_eq!(sink.counts().unwrap().latency.least, 0);
}

/// By each tunnel of IP in IPv4, from a cluster address of either family: what is inside counts, by the outer frame's length and MAC.
#[test]
fn what_comes_by_a_tunnel_is_judged_by_what_it_holds() {
    if !is_root() {
        return;
    }
    for (address, protocol) in [(CLUSTER_V4, 4), (CLUSTER_V6, 41)] {
        let frames = Frames::new(&traffic(&[address], &[port(Transport::Udp, 80)], &[100]), RUN).unwrap();
        let mut sink = Sink::load(&frames, 1).unwrap();
        let wrapped = |number| {
            let inner = frame(&frames, number, now_ns());
            let mut outer = inner[..12].to_vec();
            outer.extend([8, 0, 0x45, 0, 0, 102, 0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 2, 192, 0, 2, 11]);
            outer.extend(&inner[14..]);
            outer
        };
        assert!(sink.takes(&wrapped(0)).unwrap() && sink.takes(&wrapped(1)).unwrap());
        let mut changed = wrapped(2);
        changed[34 + 20 + 16] ^= 1;
        assert!(sink.takes(&changed).unwrap());
        let mut other = wrapped(3);
        other[23] = 47;
        assert!(sink.takes(&other).unwrap());
        let expected = Counts { received: 2, bytes: 2 * 116, corrupt: 2, ..Counts::default() };
        assert_eq!(counts(&sink), expected, "{address}");
    }
}
