//! A table changes under the program: no frame is decided by half of one, and what is counted stays with its layout.

use super::dispatch;
use super::frames::sum;
use super::model::plans::{One, mac, query};
use super::model::turn::cluster;
use oneip::limits::MAX_SERVICES;
use oneip::model::{Egress, List, ListKind, Mac, NextHop, Plan, Port, Prefix, Selection, Service, Transport};
use oneip::table::build::Cluster;
use oneip::verdict::Reason;
use oneip::xdp::dispatch::{Action, Dispatch, Measured, Other, PublishError, Setup};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// The address in the frames of `model::plans::query`.
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn clients(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|at| query(IpAddr::V4(Ipv4Addr::from_bits(0xc633_6400 + at)), 4000)).collect()
}

/// As many services more, in front.
fn with_more(plan: &Plan, count: u32) -> Plan {
    let more = (0..count).map(|at| {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + at));
        Service { name: format!("more {at}"), address, ..plan.services[0].clone() }
    });
    Plan { services: more.chain(plan.services.iter().cloned()).collect(), ..plan.clone() }
}

/// Two tables of the same size, with the same services in another order, by another key, all but one of them with servers of their own.
/// Another thread asks all the time for clients whose server is the same by both: what is not read from one of the two shows
/// itself in a client that goes to another server.
#[test]
fn no_frame_is_decided_by_two_tables() {
    let of = |key: [u8; 16]| {
        let mut plan = with_more(&One::weights(&[1, 1], 1009).keyed(key).both(), 500);
        for (at, service) in plan.services.iter_mut().filter(|service| service.name.starts_with("more")).enumerate() {
            service.servers.iter_mut().for_each(|server| server.mac = Some(mac(1000 + at)));
        }
        plan
    };
    let (one, mut other) = (of([1; 16]), of([2; 16]));
    other.services.reverse();
    let [mut one, mut other] = [one, other].map(|plan| Cluster::new(&plan));
    other.set_layout(1);
    let Some((mut dispatch, _)) = dispatch(OWN, &other.compile(), 0) else { return };
    let clients = clients(2000);
    let (judge, tables) = dispatch.split();
    let by_other: Vec<_> = clients.iter().map(|frame| judge.judge(frame).unwrap()).collect();
    tables.publish(&one.compile()).unwrap();
    let alike: Vec<_> =
        clients.iter().zip(by_other).filter(|(frame, by_other)| judge.judge(frame).unwrap() == *by_other).collect();
    assert!((500..1500).contains(&alike.len()), "{}", alike.len());
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (frame, expected) in &alike {
                    assert_eq!(judge.judge(frame).unwrap(), *expected);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for round in 1..60 {
            one.set_layout(2 * round);
            tables.publish(&one.compile()).unwrap();
            other.set_layout(2 * round + 1);
            tables.publish(&other.compile()).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(asked.into_inner() > 1000, "it was asked all the time");
}

/// Lists of many prefixes take each other's place, in which some clients are always denied and others never.
#[test]
fn no_frame_is_decided_by_half_a_list() {
    let mut plan = One::weights(&[1, 1], 1009).both();
    let list = |seed: u32| {
        let others = (0..20_000u32).map(|at| (at * 2 + seed) << 8 | 0x0a00_0000);
        // Every second client.
        let clients = (0..200).step_by(2).map(|at| 0xc633_6400 + at);
        let prefixes = others.chain(clients).map(|bits| Prefix::host(IpAddr::V4(Ipv4Addr::from_bits(bits)))).collect();
        vec![List { kind: ListKind::Deny, services: Vec::new(), prefixes, files: Vec::new() }]
    };
    plan.lists = list(0);
    let mut cluster = Cluster::new(&plan);
    let tables = [cluster.compile(), {
        cluster.set_lists(&list(1), Vec::new().into()).unwrap();
        cluster.compile()
    }];
    let Some((mut dispatch, _)) = dispatch(OWN, &tables[0], 0) else { return };
    let clients = clients(200);
    let (judge, published) = dispatch.split();
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (at, frame) in clients.iter().enumerate() {
                    assert_eq!(judge.judge(frame).unwrap().0 == Action::Drop, at % 2 == 0, "client {at}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for round in 0..30 {
            published.publish(&tables[round % 2]).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(asked.into_inner() > 200, "it was asked all the time");
}

/// The same services and servers, again and again: only what is new is written, and what is old is free again.
#[test]
fn tables_come_and_go_in_the_same_memory() {
    let plan = One::weights(&[1, 1, 1], 65_537).both();
    let mut cluster = cluster(&plan, &[]);
    let Some((mut dispatch, books)) = dispatch(OWN, &cluster.compile(), 0) else { return };
    let frames = clients(40);
    for round in 0..200 {
        cluster.set_up(&format!("s{}", round % 3), round % 2 == 0);
        cluster.set_next_hop("10.0.0.2".parse().unwrap(), (round % 5 > 0).then(|| NextHop::on_link(mac(round))));
        let table = cluster.compile();
        dispatch.publish(&table).unwrap();
        for frame in &frames {
            let client = IpAddr::from(*frame[26..].first_chunk::<4>().unwrap());
            let hash = oneip::hash::source(table.key, client);
            let place = table.place(0, hash);
            let hop = table.next_hop(place.destination as usize);
            let (action, after) = dispatch.judge(frame).unwrap();
            assert_eq!(action, if hop.is_forward() { Action::Send } else { Action::Drop });
            assert!(!hop.is_forward() || after.starts_with(&hop.mac()));
        }
    }
    let (tally, sent) = sum(&books);
    assert_eq!(tally.received(), 200 * 40);
    assert!(tally.dropped[Reason::Unresolved as usize] > 0);
    assert_eq!(sent.iter().map(|sent| sent.frames).sum::<u64>(), tally.forwarded);
}

/// A byte has room for 127 servers; with one more, slots take two. Each has its clients, by slots and by remainders, and nobody has them where
/// nobody is up.
#[test]
fn slots_of_a_byte_and_of_two_lead_to_the_same_servers() {
    for selection in [Selection::Maglev, Selection::Modulo] {
        let of = |servers| Cluster::new(&One::weights(&vec![1; servers], 65_537).selecting(selection).plan());
        let mut nobody = of(127);
        for at in 0..127 {
            nobody.set_up(&format!("s{at}"), false);
        }
        let clusters = [of(128), of(127), of(126), nobody, of(1000), of(127)];
        let Some((mut dispatch, _)) = dispatch(OWN, &of(1000).compile(), 0) else { return };
        for (round, mut cluster) in clusters.into_iter().enumerate() {
            cluster.set_layout(round as u64 + 1);
            let table = cluster.compile();
            dispatch.publish(&table).unwrap();
            let mut seen = HashSet::new();
            for frame in clients(3000) {
                let client = Ipv4Addr::from(*frame[26..].first_chunk::<4>().unwrap());
                let hash = oneip::hash::source(table.key, client.into());
                let (_, server) = table.service(0).select(hash, client.to_bits().into());
                let (action, after) = dispatch.judge(&frame).unwrap();
                match server {
                    Some(server) => {
                        assert!(after.starts_with(&mac(server.into()).0), "{client} of {server}: {after:?}")
                    }
                    None => assert_eq!(action, Action::Drop),
                }
                seen.insert(server);
            }
            let servers = table.destinations();
            assert!(seen.len() * 10 > servers * 8 || seen == HashSet::from([None]), "{} of {servers}", seen.len());
        }
    }
}

#[test]
fn a_layout_that_is_gone_is_counted_to_the_end_and_its_place_is_used_again() {
    let plan = One::weights(&[1, 1], 211).plan();
    let mut cluster = Cluster::new(&plan);
    let table = cluster.compile();
    let Some((mut dispatch, mut books)) = dispatch(OWN, &table, 0) else { return };
    let frames = clients(10);
    for layout in 1..40 {
        frames.iter().for_each(|frame| _ = dispatch.judge(frame).unwrap());
        cluster.set_layout(layout);
        let table = cluster.compile();
        let next = dispatch.open_books(&table).unwrap();
        assert!(!books.are_final());
        dispatch.publish(&table).unwrap();
        assert!(books.are_final());
        let (tally, sent) = sum(&books);
        assert_eq!((tally.received(), sent.iter().map(|sent| sent.frames).sum::<u64>()), (10, 10));
        assert_eq!(sum(&next).0.received(), 0);
        books = next;
    }
}

#[test]
fn what_does_not_fit_is_said_and_changes_nothing() {
    let plan = One::weights(&[1, 1], 211).plan();
    let Some((mut dispatch, books)) = dispatch(OWN, &Cluster::new(&plan).compile(), 0) else { return };
    let larger: Vec<(String, u32)> = (0..1000).map(|at| (format!("s{at}"), 1)).collect();
    let larger = with_more(&One { servers: larger, ..One::weights(&[1], 65_537) }.plan(), 3);
    let mut larger = Cluster::new(&larger);
    larger.set_layout(1);
    let table = larger.compile();
    assert!(matches!(dispatch.publish(&table), Err(PublishError::Full)));
    clients(10).iter().for_each(|frame| assert_eq!(dispatch.judge(frame).unwrap().0, Action::Send));
    assert_eq!(sum(&books).0.forwarded, 10);
    let setup = Setup { mac: Mac(OWN), egress: 0, queues: 1, flows: 0, timed_of: 1, others: Default::default() };
    let next = Dispatch::load(setup, &table).unwrap();
    dispatch.close().unwrap();
    assert!(books.are_final());
    assert_eq!(next.judge(&clients(1)[0]).unwrap().0, Action::Send);
}

#[test]
fn as_many_services_as_there_may_be() {
    let mut plan = One::weights(&[1; 32], 65_537).plan();
    let first = plan.services[0].clone();
    plan.services = (0..MAX_SERVICES as u32)
        .map(|at| Service {
            name: format!("service {at}"),
            address: IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + at)),
            ports: (1..=4).map(|number| Port { transport: Transport::Udp, number }).collect(),
            ..first.clone()
        })
        .collect();
    let Some((dispatch, books)) = dispatch(OWN, &Cluster::new(&plan).compile(), 0) else { return };
    for at in 0..MAX_SERVICES as u32 {
        let mut frame = query(IpAddr::from([198, 51, 100, 7]), 4000);
        frame[30..34].copy_from_slice(&(0x0b00_0000 + at).to_be_bytes());
        for port in 0..=5u8 {
            frame[36..38].copy_from_slice(&[0, port]);
            let expected = if (1..=4).contains(&port) { Action::Send } else { Action::Drop };
            assert_eq!(dispatch.judge(&frame).unwrap().0, expected, "service {at}, port {port}");
        }
    }
    let (_, sent) = sum(&books);
    assert!(sent.chunks(32).all(|service| service.iter().map(|sent| sent.frames).sum::<u64>() == 4));
}

#[test]
fn frames_leave_by_the_egress_of_their_next_hop() {
    let mut cluster = Cluster::new(&One::weights(&[1, 1], 211).plan());
    // The loopback interface of this namespace: the frame goes nowhere in a test run.
    let source = Mac([2, 0, 0, 0, 7, 7]);
    cluster.set_egresses(&[Egress { index: 1, source }]);
    let there = NextHop { egress: 1, ..NextHop::on_link(mac(1)) };
    cluster.set_next_hop("10.0.0.2".parse().unwrap(), Some(there));
    let Some((dispatch, books)) = dispatch(OWN, &cluster.compile(), 0) else { return };
    let mut redirected = 0;
    for frame in clients(40) {
        let (action, after) = dispatch.judge(&frame).unwrap();
        let expected = match action {
            Action::Redirect => [&mac(1).0[..], &source.0, &frame[12..]].concat(),
            _ => [&mac(0).0[..], &OWN, &frame[12..]].concat(),
        };
        assert_eq!(after, expected);
        redirected += u64::from(action == Action::Redirect);
    }
    assert!((5..35).contains(&redirected));
    assert_eq!(sum(&books).1[1].frames, redirected);
}

/// The kernel's test runs come in on the loopback interface of this namespace, which has the number 1.
#[test]
fn frames_are_ours_by_the_interface_that_they_come_in_on() {
    let table = Cluster::new(&One::weights(&[1], 211).plan()).compile();
    let Some((alone, _)) = dispatch(OWN, &table, 0) else { return };
    let mine = &clients(1)[0];
    let theirs = [&[2, 0, 0, 0, 9, 9], &mine[6..]].concat();
    let setup = Setup { mac: Mac(OWN), egress: 0, queues: 3, flows: 0, timed_of: 1, others: Default::default() };
    let with = |at: usize, index| {
        let mut others = setup.others;
        others[0] = Some(Other { index: 77, first_queue: 1, mac: [2, 0, 0, 0, 8, 8] });
        others[at] = Some(Other { index, first_queue: 2, mac: [2, 0, 0, 0, 9, 9] });
        Dispatch::load(Setup { others, ..setup }, &table).unwrap()
    };
    let takes = |dispatch: &Dispatch, frame: &[u8]| dispatch.judge(frame).unwrap().0 == Action::Send;
    assert!(takes(&alone, mine) && !takes(&alone, &theirs));
    for at in [1, 6] {
        let other = with(at, 1);
        assert!(!takes(&other, mine) && takes(&other, &theirs), "it came in on the interface with that address");
        let first = with(at, 99);
        assert!(takes(&first, mine) && !takes(&first, &theirs), "it came in on the first one");
    }
}

/// One frame of three, whatever they are; of those that are dispatched.
#[test]
fn a_part_of_the_frames_is_timed() {
    let Some((dispatch, books)) = dispatch(OWN, &Cluster::new(&One::weights(&[1], 211).plan()).compile(), 0) else {
        return;
    };
    // On one core all; each other one begins anew.
    clients(300).iter().for_each(|frame| _ = dispatch.judge(frame).unwrap());
    let timed: Vec<(usize, u32)> = books.timed(0).filter(|(_, count)| *count > 0).collect();
    let count: u32 = timed.iter().map(|(_, count)| count).sum();
    let most = 100 + books.cores() as u32;
    assert!((100..=most).contains(&count), "{count}");
    assert!(timed.iter().all(|(bucket, _)| *bucket > 5), "no frame takes a few nanoseconds: {timed:?}");
}

/// More bytes than 32 bits have room for, to one server: the account of a frame is a word, and turns over.
#[test]
fn accounts_go_on_beyond_four_gigabytes() {
    let mut plan = One::weights(&[1], 211).plan();
    // Of the program that is run again and again.
    plan.services[0].address = IpAddr::from([203, 0, 113, 0]);
    let Some((mut dispatch, books)) = dispatch(OWN, &Cluster::new(&plan).compile(), 0) else { return };
    let mut frame = clients(1).remove(0);
    let bytes = 1514;
    frame.resize(bytes, 0);
    let (rounds, frames) = (32, 100_000);
    for round in 1..=rounds {
        let (_, took) = dispatch.measure(Measured::Dispatch, &frame, frames).unwrap();
        let (tally, sent) = sum(&books);
        let all = u64::from(round * frames);
        assert_eq!(tally.forwarded, all, "{took:?} a frame");
        assert_eq!((sent[0].frames, sent[0].bytes), (all, all * bytes as u64));
    }
    assert!(u64::from(rounds * frames) * bytes as u64 > u32::MAX.into());
}
