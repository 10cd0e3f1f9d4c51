//! One table takes the place of another.

use super::model::plans::{One, query};
use super::model::turn::cluster;
use super::{OWN, filter};
use oneip::engine::filter::{Filter, Generation};
use oneip::limits::MAX_SERVICES;
use oneip::model::{Plan, Port, Transport};
use oneip::xdp::program::Action;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

fn action(filter: &Filter, frame: &[u8]) -> Action {
    filter.measure(frame, 1).unwrap().0
}

/// Two tables that differ in everything but whose a few clients are. Another thread asks for these all the time: what is not
/// read from one of the two shows itself, in a client that changes hands.
#[test]
fn no_frame_is_decided_by_two_tables() {
    let few = One::weights(&[1, 1], 211).keyed([1; 16]).both();
    let mut many = One::weights(&[1, 1], 65_537).keyed([2; 16]).both();
    let more = (0..500u32).map(|at| {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + at));
        oneip::model::Service { name: format!("more {at}"), address, ..many.services[0].clone() }
    });
    let more: Vec<_> = more.collect();
    many.services.splice(0..0, more);
    let generation = |plan: &Plan| Generation::compile(&cluster(plan, &[]), "s0");
    let (few_, many_) = (generation(&few), generation(&many));
    let Some(filter) = filter(OWN, &cluster(&few, &[]), "s0") else { return };
    let clients = (0..2000u32).map(|at| query(IpAddr::V4(Ipv4Addr::from_bits(0xc633_6400 + at)), 4000));
    let clients: Vec<Vec<u8>> = clients.collect();
    let by_few: Vec<Action> = clients.iter().map(|frame| action(&filter, frame)).collect();
    filter.publish(&many_).unwrap();
    let alike: Vec<(&Vec<u8>, Action)> =
        clients.iter().zip(by_few).filter(|(frame, by_few)| action(&filter, frame) == *by_few).collect();
    assert!((500..1500).contains(&alike.len()), "{}", alike.len());
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (frame, expected) in &alike {
                    assert_eq!(action(&filter, frame), *expected);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for _ in 0..100 {
            filter.publish(&few_).unwrap();
            filter.publish(&many_).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(asked.into_inner() > 1000, "it was asked all the time");
}

#[test]
fn as_many_services_as_there_may_be() {
    let mut plan = One::weights(&[1, 1], 65_537).plan();
    let first = plan.services[0].clone();
    plan.services = (0..MAX_SERVICES as u32)
        .map(|at| oneip::model::Service {
            name: format!("service {at}"),
            address: IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + at)),
            ports: (1..=4).map(|number| Port { transport: Transport::Udp, number }).collect(),
            ..first.clone()
        })
        .collect();
    let cluster = cluster(&plan, &[]);
    let filters = ["s0", "s1"].map(|name| filter(OWN, &cluster, name));
    let [Some(first), Some(second)] = filters else { return };
    for at in 0..MAX_SERVICES as u32 {
        let mut frame = query(IpAddr::from([198, 51, 100, 7]), 4000);
        frame[30..34].copy_from_slice(&(0x0b00_0000 + at).to_be_bytes());
        for port in 0..=5u8 {
            frame[36..38].copy_from_slice(&[0, port]);
            let kept = [&first, &second].iter().filter(|filter| action(filter, &frame) == Action::Pass).count();
            assert_eq!(kept, usize::from((1..=4).contains(&port)), "service {at}, port {port}");
        }
    }
}
