//! The worker's turn on ports that behave badly, and what it shares with other threads: tables, counters and
//! histograms.

mod counting;
mod figures;
#[path = "../hlog/mod.rs"]
mod hlog;
mod latency;
mod layouts;
mod links;
#[path = "../model/mod.rs"]
mod model;
mod publish;
mod replay_port;
mod watched;

use counting::Counting;
use model::Model;
use model::mutate::Mutator;
use model::plans::{One, mac, query};
use model::records::{Expected, Golden};
use model::turn::{cluster, table};
use oneip::limits::BURST;
use oneip::metrics::counters::Tally;
use oneip::metrics::histogram::{Answer, Harvest};
use oneip::metrics::worker::{self, WorkerMetrics};
use oneip::model::{NextHop, Plan, Selection};
use oneip::port::faulty::Faulty;
use oneip::port::memory::Memory;
use oneip::port::{Ledger, Port};
use oneip::table::Table;
use oneip::table::build::Cluster;
use oneip::table::flow_table::FlowTable;
use oneip::table::publish::{self as tables, Publisher};
use oneip::table::trace::{Fate, Points, Seen, Watch};
use oneip::verdict::{Reason, Verdict};
use oneip::worker::Worker;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// For tests in which no slot moves.
fn no_flows() -> FlowTable {
    FlowTable::new(0, oneip::hash::Key::new(0, 0))
}

struct Rig<P: Port> {
    worker: Worker<P>,
    tally: Arc<Tally>,
    publisher: Publisher<WorkerMetrics>,
    harvest: Harvest,
}

fn rig<P: Port>(port: P, table: Table) -> Rig<P> {
    let flow_table = FlowTable::new(1024, table.key);
    let (metrics, view) = worker::open(&table);
    let (publisher, mut readers) = tables::channel(table, vec![metrics]);
    let worker = Worker::new(port, readers.pop().expect("one reader"), flow_table);
    Rig { worker, tally: view.tally, publisher, harvest: view.harvest }
}

impl<P: Port> Rig<P> {
    fn turn(&mut self) -> Vec<Verdict> {
        let verdicts = self.worker.turn().iter().map(|outcome| outcome.verdict()).collect();
        let Tally { received, passed, .. } = &*self.tally;
        assert_eq!(received.get(), self.tally.forwarded() + self.tally.dropped_total() + passed.get());
        let ledger = self.worker.port().ledger();
        assert!(ledger.balanced() && ledger.lent == 0, "{ledger:?}");
        verdicts
    }
}

fn queries(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|i| query(std::net::Ipv4Addr::from_bits(0xc633_6400 + i).into(), 5353)).collect()
}

fn three() -> Plan {
    One::weights(&[1, 1, 1], 65_537).selecting(Selection::Modulo).both()
}

/// Lets a worker take every frame off a faulty port. Each is sent or freed once; sent ones are rewritten, others untouched.
fn through_faulty<const PASSES: bool>(
    frames: &[Vec<u8>],
    model: &Model,
    table: Table,
    seed: u64,
) -> [u64; Reason::COUNT] {
    let mut rig = rig(Faulty::<Memory, PASSES>::new(Memory::new(frames), seed), table);
    let mut verdicts = Vec::new();
    while verdicts.len() < frames.len() {
        verdicts.extend(rig.turn());
    }
    let memory = rig.worker.port().inner();
    let all = frames.len();
    let left = memory.sent().len() as u64;
    assert_eq!(memory.ledger(), Ledger { total: all, in_device: all, left, ..Ledger::default() });
    let mut gone: Vec<u32> = memory.sent().iter().chain(memory.freed()).chain(memory.passed()).copied().collect();
    gone.sort_unstable();
    assert!(gone.into_iter().eq(0..all as u32), "every frame went back once");
    let mut dropped = [0; Reason::COUNT];
    for (at, (frame, verdict)) in frames.iter().zip(&verdicts).enumerate() {
        match (model.verdict(frame), *verdict) {
            (Verdict::Forward { .. }, Verdict::Drop(Reason::TxFull)) => dropped[Reason::TxFull as usize] += 1,
            (Verdict::Pass, Verdict::Drop(Reason::Stray)) if !PASSES => dropped[Reason::Stray as usize] += 1,
            (Verdict::Drop(expected), Verdict::Drop(reason)) if reason == expected => dropped[reason as usize] += 1,
            (expected, verdict) => assert_eq!(verdict, expected),
        }
        let is_sent = matches!(verdict, Verdict::Forward { .. });
        assert_eq!(memory.frame(at) != frame, is_sent, "frame {at}: {verdict:?}");
        assert_eq!(memory.frame(at)[12.min(frame.len())..], frame[12.min(frame.len())..]);
    }
    let counted = Reason::ALL.map(|reason| rig.tally.dropped(reason).get());
    assert_eq!(counted, dropped, "the counters");
    let passed = verdicts.iter().filter(|verdict| **verdict == Verdict::Pass).count();
    assert_eq!(rig.tally.passed.get(), passed as u64);
    dropped
}

#[test]
fn no_frame_is_lost_on_a_faulty_port() {
    let golden = Golden::read();
    let seeds = golden.frames();
    let macs: Vec<[u8; 6]> = vec![[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 8, 1]];
    let model = Model::new(&golden.plan, &golden.down);
    let mut cluster = cluster(&golden.plan, &golden.down);
    for seed in 0..40 {
        let mut mutator = Mutator::new(seed, &seeds, &macs);
        let frames: Vec<Vec<u8>> = (0..1500).map(|_| mutator.frame()).collect();
        let dropped = through_faulty::<true>(&frames, &model, cluster.compile(), seed);
        assert!(dropped[Reason::TxFull as usize] > 0 && dropped[Reason::Stray as usize] == 0, "{dropped:?}");
        let dropped = through_faulty::<false>(&frames, &model, cluster.compile(), !seed);
        assert!(dropped[Reason::TxFull as usize] > 0 && dropped[Reason::Stray as usize] > 0, "{dropped:?}");
    }
}

#[test]
fn what_does_not_fit_is_dropped_as_tx_full() {
    let frames = queries(2 * BURST as u32);
    for room in [0, 1, 10, BURST - 1, BURST] {
        let mut rig = rig(Memory::new(&frames), table(&three(), &[]));
        rig.worker.port_mut().tx_room = room;
        for turn in 1..=2 {
            let verdicts = rig.turn();
            let full = verdicts.iter().filter(|verdict| **verdict == Verdict::Drop(Reason::TxFull)).count();
            assert_eq!((verdicts.len(), full), (BURST, BURST - room));
            assert!(
                verdicts[room..].iter().all(|verdict| *verdict == Verdict::Drop(Reason::TxFull)),
                "the last go first"
            );
            assert_eq!(rig.tally.dropped(Reason::TxFull).get() as usize, turn * (BURST - room));
            assert_eq!(rig.tally.forwarded() as usize, turn * room);
        }
        assert_eq!(rig.worker.port().sent().len(), 2 * room);
    }
}

#[test]
fn a_port_that_cannot_pass_counts_strays() {
    let golden = Golden::read();
    let is_pass = |record: &&model::records::Record| record.expected == Expected::Pass;
    let frames: Vec<Vec<u8>> = golden.records.iter().filter(is_pass).map(|record| record.frame.clone()).collect();
    let model = Model::new(&golden.plan, &golden.down);
    let mut cluster = cluster(&golden.plan, &golden.down);
    let dropped = through_faulty::<false>(&frames, &model, cluster.compile(), 1);
    assert_eq!(dropped[Reason::Stray as usize], frames.len() as u64);
    let dropped = through_faulty::<true>(&frames, &model, cluster.compile(), 1);
    assert_eq!(dropped, [0; Reason::COUNT]);
}

#[test]
fn what_has_no_way_to_the_kernel_is_dropped_as_pass_full() {
    let golden = Golden::read();
    let passing = golden.records.iter().find(|record| record.expected == Expected::Pass).expect("a record");
    let frames = vec![passing.frame.clone(); BURST];
    for room in [0, 1, BURST - 1, BURST] {
        let mut rig = rig(Memory::new(&frames), table(&golden.plan, &[]));
        rig.worker.port_mut().pass_room = room;
        let verdicts = rig.turn();
        assert_eq!(verdicts[..room], vec![Verdict::Pass; room]);
        assert_eq!(verdicts[room..], vec![Verdict::Drop(Reason::PassFull); BURST - room], "the last go first");
        assert_eq!(rig.tally.passed.get() as usize, room);
        assert_eq!(rig.tally.dropped(Reason::PassFull).get() as usize, BURST - room);
        let memory = rig.worker.port();
        assert_eq!((memory.passed().len(), memory.freed().len()), (room, BURST - room));
    }
}

#[test]
fn what_is_noted_of_a_client_is_what_became_of_its_frames() {
    let client = std::net::Ipv4Addr::new(198, 51, 100, 7);
    let mut elsewhere = query(client.into(), 5353);
    elsewhere[33] ^= 1;
    let frames = [vec![query(client.into(), 5353); BURST / 2], vec![elsewhere; BURST / 2]].concat();
    let watch = Arc::new(Watch::new(client.into(), BURST));
    let mut cluster = Cluster::new(&three());
    cluster.set_watch(Some(Arc::clone(&watch)));
    let mut rig = rig(Memory::new(&frames), cluster.compile());
    (rig.worker.port_mut().tx_room, rig.worker.port_mut().pass_room) = (10, 20);
    let verdicts = rig.turn();
    let count = |wanted: fn(&Verdict) -> bool| verdicts.iter().filter(|verdict| wanted(verdict)).count();
    assert_eq!(
        (count(|verdict| matches!(verdict, Verdict::Forward { .. })), count(|verdict| *verdict == Verdict::Pass)),
        (10, 20)
    );
    let fates = verdicts.iter().map(|verdict| match *verdict {
        Verdict::Forward { service, server } => Fate::Forward(service, server),
        Verdict::Drop(reason) => Fate::Drop(reason.name()),
        Verdict::Pass => Fate::Pass,
    });
    let noted = std::iter::from_fn(|| watch.take(|seen, _| seen.fate));
    assert!(noted.eq(fates), "{verdicts:?}");
}

#[test]
fn a_capture_has_frames_as_they_came_and_as_they_went_and_counts_what_found_no_room() {
    let frames = queries(4);
    let (sent, room) = (2, 6);
    let watch = Arc::new(Watch::capture(None, Points::ALL, 40, room));
    let mut cluster = Cluster::new(&three());
    cluster.set_watch(Some(Arc::clone(&watch)));
    let mut rig = rig(Memory::new(&frames), cluster.compile());
    rig.turn();
    let noted: Vec<(Seen, Vec<u8>)> = std::iter::from_fn(|| watch.take(|seen, bytes| (seen, bytes.to_vec()))).collect();
    assert_eq!((noted.len(), watch.lost()), (room, (2 * frames.len() - room) as u64));
    for (at, (seen, bytes)) in noted.iter().enumerate() {
        let frame = &frames[at % frames.len()];
        assert_eq!((seen.is_sent, seen.bytes as usize), (at >= room - sent, frame.len()));
        assert_eq!(bytes[14..], frame[14..40]);
        assert_eq!(bytes[..6] == frame[..6], !seen.is_sent, "the server's address is in what was sent alone");
    }
    assert!(watch.take(|_, _| ()).is_none() && watch.room().is_some(), "room is used again");
}

#[test]
fn of_some_frames_chance_takes_its_part() {
    let (mut cluster, rounds) = (Cluster::new(&three()), 200);
    let watch = Arc::new(Watch::capture(None, Points::RECEIVED, 0, 16 * rounds).sampled(4));
    cluster.set_watch(Some(Arc::clone(&watch)));
    let mut rig = rig(Memory::new(&queries(16)), cluster.compile());
    for _ in 0..rounds {
        rig.worker.port_mut().rewind();
        rig.turn();
    }
    let taken = std::iter::from_fn(|| watch.take(|_, _| ())).count();
    assert!((700..900).contains(&taken) && watch.lost() == 0, "{taken} of {}", 16 * rounds);
}

#[test]
fn a_turn_without_frames_is_only_counted() {
    let mut rig = rig(Memory::new(&queries(1)), table(&three(), &[]));
    assert_eq!(rig.turn().len(), 1);
    assert!(rig.turn().is_empty() && rig.turn().is_empty());
    assert_eq!(rig.tally.received.get(), 1);
}

#[test]
fn a_published_table_decides_the_next_burst() {
    let plan = three();
    let mut cluster = Cluster::new(&plan);
    let frames = queries(4 * BURST as u32);
    let mut rig = rig(Memory::new(&frames), table(&plan, &[]));
    let mut turn = |rig: &mut Rig<Memory>, change: &dyn Fn(&mut Cluster)| {
        change(&mut cluster);
        rig.publisher.publish(cluster.compile());
        rig.turn()
    };
    let to = |verdicts: &[Verdict], server: u16| {
        verdicts.iter().filter(|v| **v == Verdict::Forward { service: 0, server }).count()
    };
    let verdicts = turn(&mut rig, &|_| ());
    assert!((0..3).all(|server| to(&verdicts, server) >= 21), "{verdicts:?}");
    let verdicts = turn(&mut rig, &|cluster| _ = cluster.set_up("s1", false));
    assert_eq!((to(&verdicts, 1), to(&verdicts, 0) + to(&verdicts, 2)), (0, BURST));
    let new = oneip::model::Mac([2, 9, 9, 9, 9, 9]);
    let first: std::net::IpAddr = "10.0.0.1".parse().expect("an address");
    let verdicts = turn(&mut rig, &|cluster| cluster.set_next_hop(first, Some(NextHop::on_link(new))));
    for (at, verdict) in (2 * BURST..).zip(verdicts) {
        let Verdict::Forward { server, .. } = verdict else { panic!("{verdict:?}") };
        let expected = if server == 0 { new } else { mac(server as usize) };
        assert_eq!(rig.worker.port().frame(at)[..6], expected.0);
    }
    let verdicts = turn(&mut rig, &|cluster| cluster.set_next_hop(first, None));
    let unresolved = verdicts.iter().filter(|verdict| **verdict == Verdict::Drop(Reason::Unresolved)).count();
    assert_eq!(unresolved + to(&verdicts, 2), BURST);
    assert!(unresolved >= 21);
}

#[test]
fn a_turn_does_not_allocate() {
    let golden = Golden::read();
    let seeds = golden.frames();
    let mut mutator = Mutator::new(7, &seeds, &[[2, 0, 0, 0, 1, 1]]);
    let frames: Vec<Vec<u8>> = (0..40 * BURST).map(|_| mutator.frame()).collect();
    let mut cluster = Cluster::new(&golden.plan);
    let mut rig = rig(Memory::new(&frames), table(&golden.plan, &golden.down));
    rig.worker.port_mut().set_arrivals(1);
    rig.worker.port_mut().now = 5_000;
    let mut swaps = 0;
    for turn in 0..40 {
        // Every kind of turn: with a new table, of another layout too, with a histogram that is asked for, and with little
        // room.
        if turn % 3 == 0 {
            rig.publisher.publish(cluster.compile());
        }
        if turn % 7 == 1 {
            cluster.set_layout(turn as u64);
            let table = cluster.compile();
            let (metrics, view) = worker::open(&table);
            rig.publisher.publish_layout(table, vec![metrics]);
            (rig.tally, rig.harvest) = (view.tally, view.harvest);
        }
        if turn % 4 == 0 {
            swaps += (rig.harvest.collect(|_| ()) != Answer::None) as u64;
            rig.harvest.request();
        }
        rig.worker.port_mut().tx_room = if turn % 5 == 0 { 7 } else { usize::MAX };
        let before = counting::calls();
        let decided = rig.worker.turn().len();
        assert_eq!(counting::calls() - before, 0, "allocator calls in turn {turn}");
        assert_eq!(decided, BURST);
        assert!(rig.tally.received.get() >= BURST as u64, "it writes in the newest books");
    }
    assert_eq!(swaps, 3, "histograms were exchanged, where the layout stayed for long enough");
}
