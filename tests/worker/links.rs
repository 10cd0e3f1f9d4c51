//! Frames of several interfaces, against what becomes of the same frames where there is one.

use crate::model::mutate::Mutator;
use crate::model::records::Golden;
use crate::model::turn::cluster;
use crate::{Rig, no_flows};
use oneip::metrics::worker;
use oneip::model::{Deliver, Egress, Mac, NextHop, Plan};
use oneip::port::Port;
use oneip::port::faulty::Faulty;
use oneip::port::memory::Memory;
use oneip::table::Table;
use oneip::table::build::Cluster;
use oneip::table::publish as tables;
use oneip::verdict::{Reason, Verdict};
use oneip::worker::Worker;
use std::collections::BTreeMap;

const LINKS: usize = 3;

fn egresses() -> Vec<Egress> {
    (1..=LINKS as u8).map(|at| Egress { index: at.into(), source: Mac([2, 0, 0, 0, 0xee, at]) }).collect()
}

/// Servers are reached by the interfaces in turn, and every fourth one by that which its client's frame comes in on. By MAC address: which.
fn spread(plan: &Plan, cluster: &mut Cluster) -> BTreeMap<[u8; 6], u8> {
    cluster.set_egresses(&egresses());
    let mut found = BTreeMap::new();
    for server in plan.services.iter().flat_map(|service| &service.servers) {
        let Some(mac) = server.mac else { continue };
        let next = found.len() as u8 % (LINKS as u8 + 1);
        let egress = *found.entry(mac.0).or_insert(next);
        cluster.set_next_hop(server.address, Some(NextHop { egress, ..NextHop::on_link(mac) }));
    }
    found
}

/// With a flow table for each of the port's queues.
fn rig<P: Port>(port: P, table: Table) -> Rig<P> {
    let (metrics, view) = worker::open(&table);
    let (publisher, mut readers) = tables::channel(table, vec![metrics]);
    let flow_tables = (0..LINKS).map(|_| no_flows()).collect();
    let worker = Worker::over(port, readers.pop().expect("one reader"), (0, flow_tables));
    Rig { worker, tally: view.tally, publisher, harvest: view.harvest }
}

/// All frames through a worker: their verdicts.
fn run<P: Port>(rig: &mut Rig<P>, count: usize) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    while verdicts.len() < count {
        verdicts.extend(rig.turn());
    }
    verdicts
}

fn memory(frames: &[Vec<u8>], plan: &Plan) -> Memory {
    let has_ways = plan.services.iter().any(|service| service.deliver != Deliver::L2);
    Memory::with_spares(frames, if has_ways { 2 * frames.len() + 64 } else { 0 })
}

/// What was sent, by link, in order.
fn sent(memory: &Memory) -> Vec<Vec<Vec<u8>>> {
    let mut links = vec![Vec::new(); LINKS];
    for (at, link) in memory.sent().iter().zip(memory.sent_by()) {
        links[usize::from(*link)].push(memory.frame(*at as usize).to_vec());
    }
    links
}

/// What should be, of what is sent where there is one interface.
fn expected(one: &Memory, count: usize, egress_of: &BTreeMap<[u8; 6], u8>) -> Vec<Vec<Vec<u8>>> {
    let (mut links, mut came_by) = (vec![Vec::new(); LINKS], 0);
    for at in one.sent() {
        // Frames are received by the interfaces in turn; a fragment follows the frame that it is of.
        if (*at as usize) < count {
            came_by = *at as usize % LINKS;
        }
        let mut frame = one.frame(*at as usize).to_vec();
        let link = match egress_of.get(&frame[..6]) {
            // Its client gets an answer, or the server is where it came by.
            None | Some(0) => came_by,
            Some(egress) => {
                frame[6..12].copy_from_slice(&egresses()[usize::from(*egress) - 1].source.0);
                usize::from(*egress) - 1
            }
        };
        links[link].push(frame);
    }
    links
}

fn plans(golden: &Golden) -> Vec<Plan> {
    let tunnels = [(Deliver::Ipip, false), (Deliver::Gue { port: 6080 }, true)];
    let tunnels = tunnels.map(|(deliver, is_v6)| golden.plan_delivering(deliver, is_v6, 1300));
    let tagged = golden.plan_tagging(Deliver::L2, false, 1500);
    [golden.plan.clone(), tagged].into_iter().chain(tunnels).collect()
}

#[test]
fn frames_leave_by_their_servers_interface_and_nothing_else_differs() {
    let golden = Golden::read();
    let seeds = golden.frames();
    let macs: Vec<[u8; 6]> = vec![[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 8, 1]];
    let mut by_all = [0; LINKS];
    for (seed, plan) in (0..).zip(plans(&golden)) {
        let mut mutator = Mutator::new(seed, &seeds, &macs);
        let frames: Vec<Vec<u8>> = (0..3000).map(|_| mutator.frame()).collect();
        let mut one = rig(memory(&frames, &plan), cluster(&plan, &golden.down).compile());
        let verdicts = run(&mut one, frames.len());
        let mut several = cluster(&plan, &golden.down);
        let egress_of = spread(&plan, &mut several);
        let mut several = rig(memory(&frames, &plan).with_links(LINKS), several.compile());
        assert_eq!(run(&mut several, frames.len()), verdicts, "the interfaces change no verdict");
        let (found, wanted) = (sent(several.worker.port()), expected(one.worker.port(), frames.len(), &egress_of));
        for (link, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert_eq!(found.len(), wanted.len(), "plan {seed}, link {link}");
            let differs = found.iter().zip(wanted).position(|(found, wanted)| found != wanted);
            assert_eq!(differs, None, "plan {seed}, link {link}");
            by_all[link] += found.len();
        }
        assert_eq!(several.tally.forwarded(), one.tally.forwarded());
        for reason in Reason::ALL {
            assert_eq!(several.tally.dropped(reason).get(), one.tally.dropped(reason).get(), "{reason:?}");
        }
    }
    assert!(by_all.iter().all(|count| *count > 500), "{by_all:?}");
}

#[test]
fn a_link_without_room_takes_nothing_from_the_others_and_no_frame_is_lost() {
    let golden = Golden::read();
    let seeds = golden.frames();
    let macs: Vec<[u8; 6]> = vec![[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 8, 1]];
    let plan = &golden.plan;
    for seed in 0..20 {
        let mut mutator = Mutator::new(seed, &seeds, &macs);
        let frames: Vec<Vec<u8>> = (0..1500).map(|_| mutator.frame()).collect();
        let mut cluster = cluster(plan, &golden.down);
        spread(plan, &mut cluster);
        let port = Faulty::<Memory>::new(memory(&frames, plan).with_links(LINKS), seed);
        // The port asserts that each link gets no more than it has room for.
        let mut rig = rig(port, cluster.compile());
        let verdicts = run(&mut rig, frames.len());
        let full = verdicts.iter().filter(|verdict| **verdict == Verdict::Drop(Reason::TxFull)).count();
        let forwarded = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Forward { .. })).count();
        assert!(full > 0 && forwarded > 0, "{full} {forwarded}");
        let memory = rig.worker.port().inner();
        assert_eq!(memory.sent().len(), forwarded);
        let mut gone: Vec<u32> = memory.sent().iter().chain(memory.freed()).chain(memory.passed()).copied().collect();
        gone.sort_unstable();
        assert!(gone.into_iter().eq(0..frames.len() as u32), "every frame went back once");
    }
    // One without room, and the others have it.
    let frames = crate::queries(30);
    let mut cluster = cluster(&crate::three(), &[]);
    spread(&crate::three(), &mut cluster);
    let mut rig = rig(Memory::new(&frames).with_links(LINKS), cluster.compile());
    rig.worker.port_mut().full_link = Some(0);
    run(&mut rig, frames.len());
    let memory = rig.worker.port();
    assert!(memory.sent_by().iter().all(|link| *link != 0) && memory.sent().len() > 5, "{:?}", memory.sent_by());
    assert_eq!(rig.tally.dropped(Reason::TxFull).get(), 30 - memory.sent().len() as u64);
}
