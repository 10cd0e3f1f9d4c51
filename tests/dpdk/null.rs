//! net_null: a device that receives as fast as it is asked, and to which everything can be sent.

use crate::{attach, settings, turn};
use oneip::port::dpdk::Attached;
use oneip::port::{Burst, Ledger, Port};
use std::time::{Duration, Instant};

const FRAMES: u64 = 100_000_000;

/// By all ways that frames take: sent, freed, passed (to nowhere).
#[test]
fn a_hundred_million_frames_and_none_goes_astray() {
    let _turn = turn();
    let (attached, _) = attach(&settings("net_null0,size=64"));
    let Attached { mut ports, service, statistics } = attached;
    let port = &mut ports[0];
    let before = port.ledger();
    assert!(before.balanced() && before.idle == before.total, "{before:?}");
    let (mut seen, start) = (0, Instant::now());
    let mut burst = Burst::new();
    while seen < FRAMES {
        port.service();
        port.rx(&mut burst);
        seen += burst.len() as u64;
        // A look at the pool costs more than a burst.
        if seen % (1 << 20) < 64 {
            let ledger = port.ledger();
            assert_eq!((ledger.lent, ledger.idle + burst.len()), (burst.len(), ledger.total), "{ledger:?}");
        }
        match seen / 64 % 3 {
            0 => port.free(&mut burst),
            1 => port.pass(&mut burst),
            _ => port.tx(0, &mut burst),
        }
        assert!(burst.is_empty());
    }
    println!("{} ns a frame", start.elapsed().as_nanos() as f64 / seen as f64);
    let after = port.ledger();
    assert!(after.left > FRAMES / 4, "{after:?}");
    assert_eq!(Ledger { left: 0, ..after }, before, "the pool has all that it had");
    assert_eq!((statistics.received(), statistics.lost()), (seen, 0));
    drop(ports);
    drop(service);
}

/// Whatever comes by one device can leave by another, be freed or passed: each has its turns, and the pool has all that it had.
#[test]
fn of_two_devices_each_sends_what_came_by_the_other_and_no_frame_goes_astray() {
    let _turn = turn();
    let mut settings = settings("net_null4,size=64");
    settings.ports.push("net_null5,size=128".into());
    settings.queues = 2;
    let Attached { mut ports, service, statistics } = attach(&settings).0;
    assert_eq!(ports.len(), 2);
    for port in &mut ports {
        let before = port.ledger();
        assert_eq!((port.links(), before.idle, before.lent), (2, before.total, 0));
        let (mut burst, mut seen) = (Burst::new(), [0, 0]);
        for turn in 0..30_000 {
            port.service();
            port.rx(&mut burst);
            let link = port.link(&burst[0]);
            for frame in &burst {
                assert_eq!((port.link(frame), port.bytes(frame).len()), (link, [64, 128][link]));
            }
            seen[link] += burst.len();
            let beside = port.blank(&burst[0], 60).expect("there are more than a burst");
            assert_eq!(port.link(&beside), link);
            let mut alone = Burst::from_iter([beside]);
            match turn % 3 {
                0 => port.free(&mut burst),
                1 => port.pass(&mut burst),
                _ => port.tx(1 - link, &mut burst),
            }
            port.answer(link, &mut alone);
            assert!(burst.is_empty() && alone.is_empty() && port.ledger().balanced());
        }
        assert_eq!(seen[0], seen[1], "each has its turns");
        let after = port.ledger();
        assert_eq!(Ledger { left: 0, ..after }, before, "the pool has all that it had");
        assert_eq!(after.left, 30_000 + 10_000 * 64);
    }
    assert_eq!((statistics.received(), statistics.lost()), (2 * 30_000 * 64, 0));
    drop(ports);
    drop(service);
}

/// Into the headroom that DPDK leaves (RTE_PKTMBUF_HEADROOM, 128 bytes), and out of it again.
#[test]
fn a_frame_is_moved_within_its_buffer_and_never_out_of_it() {
    let _turn = turn();
    let Attached { mut ports, service, .. } = attach(&settings("net_null8,size=64")).0;
    let port = &mut ports[0];
    let mut burst = Burst::new();
    port.service();
    port.rx(&mut burst);
    let frame = &mut burst[0];
    port.bytes_mut(frame).fill(7);
    port.reshape(frame, 128, 192).get_mut(..128).expect("as long as was said").fill(9);
    assert_eq!(*port.bytes(frame), *[[9; 128].as_slice(), &[7; 64]].concat());
    assert_eq!(*port.reshape(frame, -100, 90), *[[9; 28].as_slice(), &[7; 62]].concat());
    for (front, len) in [(101, 60), (isize::MIN, 60), (0, 1 << 16), (-4096, 60)] {
        let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| port.reshape(frame, front, len).len()));
        assert!(moved.is_err(), "{front} {len}");
    }
    assert_eq!(port.bytes(frame).len(), 90);
    port.free(&mut burst);
    assert!(port.ledger().balanced());
    drop(ports);
    drop(service);
}

#[test]
fn a_device_stops_and_starts_again_in_one_process() {
    let _turn = turn();
    for round in 0..3 {
        let mut settings = settings("net_null7,size=64");
        settings.queues = 1 + round;
        let Attached { mut ports, service, .. } = attach(&settings).0;
        assert_eq!(ports.len(), usize::from(settings.queues));
        for (queue, port) in ports.iter_mut().enumerate() {
            assert_eq!(usize::from(port.queue()), queue);
            let mut burst = Burst::new();
            port.service();
            port.rx(&mut burst);
            assert!(burst.is_full() && burst.iter().all(|frame| port.bytes(frame).len() == 64));
            assert_eq!(port.ledger().lent, burst.len());
            port.tx(0, &mut burst);
            assert_eq!(port.ledger().lent, 0);
        }
        drop(ports);
        drop(service);
    }
}

/// Two devices, on two threads, each with its own frames.
#[test]
fn a_worker_may_be_on_any_thread() {
    let _turn = turn();
    let devices = ["net_null1,size=64", "net_null2,size=1500"].map(|port| attach(&settings(port)).0);
    std::thread::scope(|scope| {
        for (Attached { mut ports, service, .. }, length) in devices.into_iter().zip([64, 1500]) {
            scope.spawn(move || {
                let mut burst = Burst::new();
                for _ in 0..10_000 {
                    ports[0].service();
                    ports[0].rx(&mut burst);
                    assert!(burst.iter().all(|frame| ports[0].bytes(frame).len() == length));
                    ports[0].tx(0, &mut burst);
                }
                let ledger = ports[0].ledger();
                assert_eq!(ledger.idle, ledger.total);
                drop(ports);
                drop(service);
            });
        }
    });
}

fn monotonic() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The port's clock is CLOCK_MONOTONIC, to what a preemption between two readings takes; and it stays so.
#[test]
fn its_clock_is_the_kernels_monotonic_one() {
    let _turn = turn();
    let Attached { mut ports, service, .. } = attach(&settings("net_null3,size=64")).0;
    let port = &mut ports[0];
    let (mut burst, mut worst) = (Burst::new(), 0);
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        port.service();
        port.rx(&mut burst);
        let arrival = port.arrival(&mut burst[0]);
        let (before, now, after) = (monotonic(), port.now(), monotonic());
        assert!(arrival <= now && now - arrival < 1_000_000_000);
        if after - before < 5_000 {
            worst = worst.max(before.saturating_sub(now)).max(now.saturating_sub(after));
        }
        port.free(&mut burst);
    }
    println!("at most {worst} ns off");
    assert!(worst < 50_000, "{worst} ns off");
    drop(ports);
    drop(service);
}
