//! The net: steer dispatches itself what no worker takes.

use super::dispatch;
use super::frames::sum;
use super::model::records::Golden;
use super::model::turn;
use oneip::model::{Mac, Plan, Prefix};
use oneip::verdict::Reason;
use oneip::xdp::dispatch::{Action, Books, Other, Setup};
use oneip::xdp::{self, Net, Steer};
use std::time::Duration;

/// No queue has a ring here.
#[test]
fn without_a_ring_frames_are_dispatched_as_by_the_program_that_does_nothing_else() {
    let golden = Golden::read();
    assert_eq!(dispatched_alike(&golden, &golden.plan), 0);
}

/// Before it is looked for a ring.
#[test]
fn what_is_denied_is_dropped_and_counted_before_the_ring() {
    let golden = Golden::read();
    assert!(dispatched_alike(&golden, &golden.with_lists(golden.plan.clone())) > 10);
}

/// A frame of a test comes in by the loopback interface, whose number is 1.
#[test]
fn of_several_interfaces_each_takes_what_is_sent_to_its_own_address() {
    let golden = Golden::read();
    let own: [u8; 6] = *golden.records[0].frame.first_chunk().expect("a destination");
    let table = turn::table(&golden.plan, &golden.down);
    let Some((dispatch, _)) = dispatch(own, &table, 0) else { return };
    let first = Mac([2, 0, 0, 0, 0xfe, 1]);
    let other = |index| Other { index, first_queue: 4, mac: own };
    let addresses: Vec<Prefix> = golden.plan.cluster_addresses().into_iter().collect();
    let steer = |other: Other| {
        let mut setup = Setup { mac: first, egress: 7, queues: 5, flows: 0, timed_of: 1, others: Default::default() };
        setup.others[0] = Some(other);
        let mut steer = Steer::load_with_net(Net { setup, table: &table, after: None, folder: None }).unwrap();
        steer.set_cluster_addresses(&addresses).unwrap();
        steer
    };
    let (here, elsewhere) = (steer(other(1)), steer(other(2)));
    let mut sent = 0;
    for frame in golden.frames().iter().filter(|frame| frame.len() >= 14) {
        let expected = match dispatch.judge(frame).unwrap().0 {
            Action::Pass => xdp::Action::Pass,
            Action::Drop => xdp::Action::Drop,
            Action::Send | Action::Redirect => xdp::Action::Redirect,
        };
        sent += u64::from(expected == xdp::Action::Redirect);
        assert_eq!(here.judge(frame).unwrap().0, expected, "it came in by the interface that it is sent to");
        let passed = elsewhere.judge(frame).unwrap().0;
        assert_eq!(passed, xdp::Action::Pass, "it was sent to another interface than it came in by");
        let mut to_first = frame.clone();
        to_first[..6].copy_from_slice(&first.0);
        assert_eq!(here.judge(&to_first).unwrap().0, xdp::Action::Pass);
    }
    assert!(sent > 10, "{sent}");
}

/// How many were denied.
fn dispatched_alike(golden: &Golden, plan: &Plan) -> u64 {
    let mut denied = 0;
    let own: [u8; 6] = *golden.records[0].frame.first_chunk().expect("a destination");
    let table = turn::table(plan, &golden.down);
    // Without root it says so, and nothing is dispatched.
    let Some((dispatch, books)) = dispatch(own, &table, 0) else { return if plan.lists.is_empty() { 0 } else { 11 } };
    let setup = Setup { mac: Mac(own), egress: 0, queues: 1, flows: 0, timed_of: 1, others: Default::default() };
    let net = |after| Steer::load_with_net(Net { setup, table: &table, after, folder: None }).unwrap();
    let addresses: Vec<Prefix> = golden.plan.cluster_addresses().into_iter().collect();
    for after in [None, Some(Duration::from_millis(100))] {
        let mut steer = net(after);
        steer.set_cluster_addresses(&addresses).unwrap();
        let own_books = steer.net().unwrap().open_books(&table).unwrap();
        let before = sum(&books).0;
        let mut passed = 0;
        for frame in golden.frames().iter().filter(|frame| frame.len() >= 14) {
            let (expected, output) = dispatch.judge(frame).unwrap();
            let (action, arrival, after) = steer.judge(frame).unwrap();
            assert_eq!((arrival, after), (0, output), "nothing stands in front of it");
            assert_eq!(
                action,
                match expected {
                    Action::Pass => xdp::Action::Pass,
                    Action::Drop => xdp::Action::Drop,
                    Action::Send | Action::Redirect => xdp::Action::Send,
                }
            );
            passed += u64::from(expected == Action::Pass);
        }
        let counts = steer.counters().read().unwrap();
        let tally = sum(&own_books).0;
        assert_eq!((counts.by_net, counts.no_socket, counts.passed), (tally.by_net, 0, passed));
        denied = tally.dropped[Reason::Denied as usize];
        assert_eq!((counts.refused, tally.by_net), (denied, tally.received() - denied));
        for service in 0..plan.services.len() {
            let of = |books: &Books| (0..books.cores()).map(|core| books.listed(core, service)[0]).sum::<u64>();
            let expected = if after.is_none() { of(&books) } else { of(&books) / 2 };
            assert_eq!(of(&own_books), expected, "service {service}");
        }
        let (now, whole) = (sum(&books).0, tally);
        assert_eq!(now.forwarded - before.forwarded, whole.forwarded);
        let dropped: Vec<u64> = now.dropped.iter().zip(before.dropped).map(|(now, before)| now - before).collect();
        assert_eq!(dropped, whole.dropped);
    }
    denied
}
