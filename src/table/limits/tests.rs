//! What limits promise, where the time is what a test says. (Frame by frame they are held against a naive twin in tests/twins.rs.)

use super::*;
use crate::model::{
    Admin, Decap, Deliver, Dispatcher, Engine, HashInput, HashKey, Idle, PINS, Queues, Selection, Server, Service, Tags,
};
use std::sync::Barrier;
use std::sync::atomic::AtomicU64 as Sum;
use std::thread;
use std::time::Duration;

const MS: u64 = 1_000_000;

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_second, burst })
}

const NONE: Limit = Limit { packets: None, bits: None, syn: None, per_source: None, only_counts: false };

fn of_source(packets: Option<Rate>, syn: Option<Rate>, [prefix_v4, prefix_v6]: [u8; 2]) -> Limit {
    Limit { per_source: Some(PerSource { prefix_v4, prefix_v6, packets, syn }), ..NONE }
}

/// Services a, b, ... with these limits, and cells for so many sources.
fn plan(cells: u32, limits: &[Limit]) -> Plan {
    let service = |(at, limit): (u8, &Limit)| Service {
        name: char::from(b'a' + at).to_string(),
        address: [203, 0, 113, at].into(),
        prefixes: Vec::new(),
        ports: Vec::new(),
        hash: HashInput::Source,
        deliver: Deliver::L2,
        selection: Selection::Maglev,
        slots: 211,
        drain: Duration::ZERO,
        until_closed: false,
        second_chance: false,
        servers: vec![Server {
            name: "s".to_owned(),
            address: [192, 0, 2, 1].into(),
            mac: None,
            weight: 1,
            tags: Tags::AsReceived,
            quic_ids: Vec::new(),
        }],
        leaving: 0,
        health: None,
        withdrawn: false,
        limit: Some(limit.clone()),
        quic: Vec::new(),
    };
    let dispatcher = Dispatcher {
        interface: "eth1".to_owned(),
        others: Vec::new(),
        queues: vec![Queues::default()],
        engine: Engine::AfXdp,
        cores: None,
        flows: 0,
        heartbeat: Duration::ZERO,
        xdp: None,
        pins: PINS.into(),
        dpdk: None,
        source: Vec::new(),
        mtu: None,
        gateway_mac: None,
        limit_sources: cells,
        idle: Idle::Poll,
    };
    Plan {
        hash_key: HashKey(*b"sixteen bytes !!"),
        dispatcher: Some(dispatcher),
        filter: None,
        decap: Decap::default(),
        admin: Admin::default(),
        announce: None,
        group: None,
        lists: Vec::new(),
        odd_limit: None,
        services: (0..).zip(limits).map(service).collect(),
    }
}

fn limiter(plan: &Plan) -> Limiter {
    Limiter::new(Key::from(plan.hash_key), plan)
}

fn v4(number: u32) -> Source {
    Source::v4(number.to_be_bytes())
}

/// Whether one frame of 100 bytes passes.
fn passes(limits: &Limits, service: ServiceId, source: Source, now: u64) -> bool {
    let mut charges = Charges::default();
    let subject = Subject { service, begins: true, len: 100, source };
    let limited = limits.judge(&subject, now, &mut charges);
    limits.charge(now, &mut charges);
    limited == Limited::No
}

fn passing(limits: &Limits, source: Source, now: u64, frames: u32) -> u32 {
    (0..frames).map(|_| u32::from(passes(limits, 0, source, now))).sum()
}

#[test]
fn a_bucket_holds_its_burst_and_fills_by_its_rate() {
    let limits = limiter(&plan(4, &[Limit { packets: rate(1000, 50), ..NONE }])).limits().unwrap();
    // Times as they are after a start, of a capture, and shortly before they turn over.
    for start in [1, 90_000 * MS, 1_790_000_000_000 * MS, (1 << 54) - 5 * MS, 5 * (1 << 54) + (1 << 53)] {
        assert_eq!(passing(&limits, v4(1), start, 200), 50, "{start}");
        assert_eq!(passing(&limits, v4(1), start + MS - 1, 10), 0);
        assert_eq!(passing(&limits, v4(1), start + 10 * MS, 200), 10);
        // The clock of another core is behind.
        assert_eq!(passing(&limits, v4(1), start + 9 * MS, 200), 0);
        assert_eq!(passing(&limits, v4(1), start + 11 * MS, 200), 1);
        assert_eq!(passing(&limits, v4(1), start + 100 * MS, 200), 50);
    }
}

#[test]
fn bits_are_those_of_whole_frames_and_one_larger_than_the_burst_never_passes() {
    let limits = limiter(&plan(4, &[Limit { bits: rate(8_000_000, 80_000), ..NONE }])).limits().unwrap();
    let judge = |len, now| {
        let mut charges = Charges::default();
        let subject = Subject { service: 0, begins: false, len, source: v4(1) };
        let limited = limits.judge(&subject, now, &mut charges);
        limits.charge(now, &mut charges);
        limited
    };
    assert_eq!(judge(10_001, MS), Limited::Dropped(LimitKind::Bits));
    assert_eq!(judge(10_000, MS), Limited::No);
    assert_eq!(judge(60, MS), Limited::Dropped(LimitKind::Bits));
    // A byte comes in a microsecond.
    assert_eq!(judge(60, MS + 60_000), Limited::No);
}

/// A flood of sources that send one frame each has all cells many times a second. Who is beyond his limit is held all the same, and nobody is
/// limited who is not.
#[test]
fn a_flood_of_sources_neither_frees_who_is_beyond_nor_harms_who_is_within() {
    let limits = limiter(&plan(512, &[of_source(rate(50, 16), None, [32, 64])])).limits().unwrap();
    let (mut heavy, mut light, mut flood) = ([0; 32], [0; 16], 0);
    // 100,000 sources a second, each of which lacks a frame for 20 ms: four times as many at once as there are cells.
    for step in 0..200_000u32 {
        let now = 1_000 * MS + u64::from(step) * 10_000;
        flood += u32::from(!passes(&limits, 0, v4(0x0b00_0000 + step), now));
        if step % 500 == 0 {
            for (at, passed) in heavy.iter_mut().enumerate() {
                *passed += u32::from(passes(&limits, 0, v4(0x0a00_0000 + at as u32), now));
            }
        }
        if step % 2500 == 0 {
            for (at, refused) in light.iter_mut().enumerate() {
                *refused += u32::from(!passes(&limits, 0, v4(0x0a01_0000 + at as u32), now));
            }
        }
    }
    // 200 frames a second for 2 s: 16 at once, and 50 a second.
    assert!(heavy.iter().all(|passed| (110..=116 + 16).contains(passed)), "at most their burst once more: {heavy:?}");
    assert_eq!((light, flood), ([0; 16], 0), "40 a second is within 50");
}

/// Workers look once a burst: together they let by no more than a burst each beyond the limit, and over time nothing.
#[test]
fn a_limit_holds_over_all_workers() {
    const WORKERS: u64 = 4;
    let limits = limiter(&plan(4, &[Limit { packets: rate(100_000, 1000), ..NONE }])).limits().unwrap();
    let (passed, step) = (Sum::new(0), Barrier::new(WORKERS as usize));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                for ms in 1..=500u64 {
                    step.wait();
                    let mut charges = Charges::default();
                    for _ in 0..BURST {
                        let subject = Subject { service: 0, begins: false, len: 60, source: v4(7) };
                        let limited = limits.judge(&subject, ms * MS, &mut charges);
                        passed.fetch_add(u64::from(limited == Limited::No), Relaxed);
                    }
                    limits.charge(ms * MS, &mut charges);
                    let most = 1000 + 100 * (ms - 1) + (WORKERS - 1) * BURST as u64;
                    assert!(passed.load(Relaxed) <= most + (WORKERS - 1) * BURST as u64, "at {ms} ms");
                }
            });
        }
    });
    let (passed, least) = (passed.into_inner(), 1000 + 100 * 499);
    assert!((least..=least + (WORKERS - 1) * BURST as u64).contains(&passed), "{passed}");
}

#[test]
fn sources_are_told_apart_by_their_prefixes_and_services_each_by_itself() {
    let each = of_source(None, rate(1, 2), [24, 64]);
    let limits = limiter(&plan(64, &[each.clone(), each])).limits().unwrap();
    let v6 = |text: &str| Source::v6(text.parse::<std::net::Ipv6Addr>().unwrap().octets());
    for (one, same, other) in [
        (v4(0xc633_6407), v4(0xc633_64ff), v4(0xc633_6507)),
        (v6("2001:db8::7"), v6("2001:db8::ffff:0:0:1"), v6("2001:db8:0:1::7")),
    ] {
        assert!(passes(&limits, 0, one, MS) && passes(&limits, 0, same, MS) && !passes(&limits, 0, one, MS));
        assert!(passes(&limits, 0, other, MS) && passes(&limits, 1, one, MS));
    }
    // An IPv6 address whose first bytes are those of an IPv4 address.
    assert_ne!(
        limits.hash(&limits.rules[0].unwrap(), LimitKind::Syn, v4(0x2001_0db8)),
        limits.hash(&limits.rules[0].unwrap(), LimitKind::Syn, v6("2001:db8::"))
    );
}

#[test]
fn sources_are_hashed_by_a_key_of_their_own() {
    let plan = plan(64, &[of_source(None, rate(1, 16), [32, 64])]);
    let key = Key::from(plan.hash_key);
    let limits = limiter(&plan).limits().unwrap();
    assert!(limits.key() != key && limits.key() != crate::table::flow_table::flow_key(key));
    assert!(
        Limiter::new(Key::new(1, 2), &plan).limits().unwrap().key() != limits.key(),
        "it follows from the cluster's"
    );
}

#[test]
fn a_reload_keeps_the_buckets_of_services_that_stay() {
    let a = Limit { packets: rate(10, 5), ..NONE };
    let b = Limit { syn: rate(1, 2), ..of_source(None, rate(1, 1), [32, 64]) };
    let mut plan = plan(64, &[a, b]);
    let mut limiter = limiter(&plan);
    let limits = limiter.limits().unwrap();
    assert!(passes(&limits, 1, v4(1), MS) && passes(&limits, 1, v4(2), MS) && !passes(&limits, 1, v4(3), MS));
    // b is the first now, and a comes back behind it under another name.
    let mut first = plan.services.remove(0);
    first.name = "c".to_owned();
    plan.services.push(first);
    limiter.renew(Key::from(plan.hash_key), &plan);
    let limits = limiter.limits().unwrap();
    assert!(!passes(&limits, 0, v4(3), MS), "its SYNs are used up");
    assert!(!passes(&limits, 0, v4(1), 1001 * MS - 1), "its sources' too");
    assert!(passes(&limits, 0, v4(3), 1001 * MS));
    assert_eq!((0..9).filter(|_| passes(&limits, 1, v4(1), 2000 * MS)).count(), 5);
    plan.services.iter_mut().for_each(|service| service.limit = None);
    limiter.renew(Key::from(plan.hash_key), &plan);
    assert!(limiter.limits().is_none());
}
