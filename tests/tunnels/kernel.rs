//! The program in the kernel against a worker, over `BPF_PROG_TEST_RUN`: the same frames, byte for byte. What a worker sends in fragments
//! the program drops as too big.

use crate::ALL;
use crate::frames::Packet;
use crate::model::mutate::Mutator;
use crate::model::records::Golden;
use crate::model::turn::{self, Bench};
use oneip::model::{Deliver, Mac, Plan};
use oneip::path::classify::{self, Outer};
use oneip::verdict::{Reason, Verdict};
use oneip::xdp::dispatch::{Action, Dispatch, Setup};

pub fn load(plan: &Plan, down: &[String], own: [u8; 6]) -> Option<Dispatch> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    // Answers are counted by core.
    let core = core_affinity::get_core_ids().expect("there are cores")[0];
    assert!(core_affinity::set_for_current(core));
    let table = turn::table(plan, down);
    let setup = Setup { mac: Mac(own), egress: 0, queues: 1, flows: 0, timed_of: 3, others: Default::default() };
    let dispatch = Dispatch::load(setup, &table).expect("root may load it");
    dispatch.set_clock(1);
    Some(dispatch)
}

/// How many frames went out, and how many answers.
fn alike(plan: &Plan, down: &[String], own: [u8; 6], frames: &[Vec<u8>]) -> (usize, usize) {
    let Some(dispatch) = load(plan, down, own) else { return (usize::MAX, usize::MAX) };
    let mut bench = Bench::without_model(plan, down);
    let (mut forwarded, mut answered) = (0, 0);
    for frame in frames {
        // A frame too short to hold a destination address is the kernel's.
        if !frame.starts_with(&own) || matches!(classify::outer(frame), Outer::Truncated) {
            continue;
        }
        let verdict = bench.one(frame);
        let port = bench.worker.port();
        let sent: Vec<&[u8]> = port.sent().iter().map(|at| port.frame(*at as usize)).collect();
        if sent.len() > 1 {
            continue;
        }
        let (action, after) = dispatch.judge(frame).expect("it runs");
        let what = || format!("{verdict:?} of {}", turn::hex(frame));
        match (verdict, sent.first()) {
            (Verdict::Pass, _) => assert_eq!(action, Action::Pass, "{}", what()),
            (_, Some(sent)) => {
                assert_eq!(action, Action::Send, "{}", what());
                assert_eq!(turn::hex(&after), turn::hex(sent), "{}", what());
                forwarded += usize::from(verdict != Verdict::Drop(Reason::TooBig));
                answered += usize::from(verdict == Verdict::Drop(Reason::TooBig));
            }
            _ => {
                assert_eq!(action, Action::Drop, "{}", what());
                assert_eq!(&after, frame);
            }
        }
    }
    (forwarded, answered)
}

#[test]
fn golden_and_damaged_frames_go_as_by_a_worker() {
    let golden = Golden::read();
    let own = *golden.records[0].frame.first_chunk().expect("a destination");
    // A runt is no frame to the kernel's test run.
    let frames: Vec<Vec<u8>> = golden.frames().into_iter().filter(|frame| frame.len() >= 14).collect();
    for (seed, deliver) in (40..).zip(ALL) {
        for is_v6 in [false, true] {
            let plan = golden.plan_tagging(deliver, is_v6, 1500);
            let macs: Vec<[u8; 6]> = plan
                .services
                .iter()
                .flat_map(|s| &s.servers)
                .filter_map(|server| server.mac)
                .map(|mac| mac.0)
                .collect();
            let mut mutator = Mutator::new(seed, &frames, &macs);
            let damaged = std::iter::repeat_with(|| mutator.frame()).filter(|frame| (14..1514).contains(&frame.len()));
            let all: Vec<Vec<u8>> = frames.iter().cloned().chain(damaged.take(3000)).collect();
            let (forwarded, _) = alike(&plan, &golden.down, own, &all);
            assert!(forwarded > 500, "{deliver} {is_v6}: {forwarded}");
        }
    }
}

#[test]
fn packets_of_any_length_go_as_by_a_worker() {
    let golden = Golden::read();
    let mut frames = Vec::new();
    for client in ["198.51.100.7", "2001:db8::7", "127.0.0.1", "::1", "ff02::1", "224.0.0.1"] {
        for data in (0..30).chain(1180..1240).chain(1380..1473) {
            for is_tagged in [false, true] {
                let class = data as u8;
                frames.push(Packet { is_tagged, class, padding: data % 5, ..Packet::new(client, data) }.frame());
                let is_free =
                    Packet { dont_fragment: false, is_udp: false, id: 9, ..Packet::new(client, data.min(1400)) };
                frames.push(is_free.frame());
            }
        }
    }
    let own = *frames[0].first_chunk().expect("a destination");
    for deliver in ALL {
        for is_v6 in [false, true] {
            let plan = golden.plan_tagging(deliver, is_v6, 1500);
            let (forwarded, answered) = alike(&plan, &[], own, &frames);
            assert!(forwarded > 1000, "{deliver} {is_v6}: {forwarded}");
            let is_skipped = forwarded == usize::MAX;
            assert!(answered == 64 || is_skipped || !deliver.is_tunnel(), "{deliver} {is_v6}: {answered}");
        }
    }
}

/// Twice the kernel's own page of a frame, and what does not fit in one buffer.
#[test]
fn what_a_worker_sends_in_fragments_is_too_big_in_the_kernel() {
    let golden = Golden::read();
    let plan = golden.plan_delivering(Deliver::Ipip, false, 1500);
    let frame = Packet { dont_fragment: false, ..Packet::new("198.51.100.7", 1472) }.frame();
    let own = *frame.first_chunk().expect("a destination");
    let Some(mut dispatch) = load(&plan, &[], own) else { return };
    let books = dispatch.open_books(&turn::table(&plan, &[])).expect("they are open");
    let (action, after) = dispatch.judge(&frame).expect("it runs");
    let dropped: u64 = (0..books.cores()).map(|core| books.tally(core).dropped[Reason::TooBig as usize]).sum();
    assert_eq!((action, dropped), (Action::Send, 1));
    // The client makes smaller ones of them, as it does of those with DF.
    assert_eq!((after[34], after[35], u16::from_be_bytes([after[40], after[41]])), (3, 4, 1480));
}
