//! What is known of workers and of names, at any time.

use crate::model::plans::{One, query};
use crate::model::turn::table;
use crate::no_flows;
use crate::three;
use oneip::metrics::aggregate::Aggregator;
use oneip::metrics::snapshot::WorkerSnapshot;
use oneip::metrics::source::boxed;
use oneip::metrics::summary::{ServerSummary, Summary};
use oneip::metrics::worker::{self, WorkerMetrics};
use oneip::model::Plan;
use oneip::port::memory::{Frame, Memory};
use oneip::port::{Burst, Ledger, Port};
use oneip::table::build::Cluster;
use oneip::table::publish::{self, Publisher};
use oneip::worker::Worker;

/// A port that says of its transmit side what it is told to.
struct Reported {
    memory: Memory,
    sending: usize,
    left: u64,
}

impl Port for Reported {
    type Frame = Frame;

    const PASSES: bool = true;

    fn service(&mut self) {
        self.memory.service();
    }

    fn rx(&mut self, burst: &mut Burst<Frame>) {
        self.memory.rx(burst);
    }

    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.memory.bytes(frame)
    }

    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.memory.bytes_mut(frame)
    }

    fn reshape<'a>(&'a mut self, frame: &'a mut Frame, front: isize, len: usize) -> &'a mut [u8] {
        self.memory.reshape(frame, front, len)
    }

    fn blank(&mut self, with: &Frame, len: usize) -> Option<Frame> {
        self.memory.blank(with, len)
    }

    fn arrival(&mut self, frame: &mut Frame) -> u64 {
        self.memory.arrival(frame)
    }

    fn now(&self) -> u64 {
        self.memory.now()
    }

    fn room(&mut self, link: usize) -> usize {
        self.memory.room(link)
    }

    fn tx(&mut self, link: usize, burst: &mut Burst<Frame>) {
        self.memory.tx(link, burst);
    }

    fn free(&mut self, burst: &mut Burst<Frame>) {
        self.memory.free(burst);
    }

    fn ledger(&self) -> Ledger {
        Ledger { sending: self.sending, left: self.left, ..self.memory.ledger() }
    }
}

fn worker(plan: &Plan, accounts: &mut Aggregator) -> (Worker<Reported>, Publisher<WorkerMetrics>) {
    let table = table(plan, &[]);
    let (metrics, view) = worker::open(&table);
    accounts.open(plan, boxed(vec![view]));
    let (publisher, mut readers) = publish::channel(table, vec![metrics]);
    let memory = Memory::new(&[query("192.0.2.1".parse().expect("an address"), 5353)]);
    (Worker::new(Reported { memory, sending: 0, left: 0 }, readers.remove(0), no_flows()), publisher)
}

#[test]
fn a_worker_that_does_not_answer_and_one_that_cannot_send_are_seen() {
    let plan = three();
    let mut accounts = Aggregator::new(1);
    let (mut worker, mut publisher) = worker(&plan, &mut accounts);
    let figures = |accounts: &Aggregator| {
        let WorkerSnapshot { turns, stuck, .. } = accounts.workers()[0];
        (turns, stuck)
    };
    assert_eq!(figures(&accounts), (true, false), "not asked yet");
    // Frames that wait, frames that left, whether it turns; and what is to be seen.
    for (sending, left, answers, expected) in [
        (0, 0, true, (true, false)),
        (5, 10, true, (true, false)),
        (5, 20, true, (true, false)),
        (5, 20, true, (true, true)),
        // Nothing new is known.
        (5, 20, false, (false, true)),
        (7, 20, true, (true, true)),
        (7, 21, true, (true, false)),
        (0, 28, true, (true, false)),
        // Handed over a moment ago.
        (3, 28, true, (true, false)),
        (3, 31, false, (false, false)),
    ] {
        (worker.port_mut().sending, worker.port_mut().left) = (sending, left);
        accounts.ask();
        assert!(!accounts.gather(), "it has not turned");
        if answers {
            worker.turn();
        }
        assert_eq!(accounts.gather(), answers);
        accounts.end_interval();
        assert_eq!(figures(&accounts), expected, "{sending} frames wait, {left} left");
        let ledger = accounts.workers()[0].report.ledger;
        assert!(!answers || (ledger.sending, ledger.left) == (sending, left));
    }
    // An answer that comes late counts for nothing but what it says.
    worker.turn();
    accounts.ask();
    assert_eq!(figures(&accounts), (false, false));
    assert_eq!(accounts.workers()[0].report.ledger.left, 31);
    // A change of the layout between question and answer takes nothing from the answer.
    let mut cluster = Cluster::new(&plan);
    cluster.set_layout(1);
    let table = cluster.compile();
    let (metrics, view) = worker::open(&table);
    accounts.open(&plan, boxed(vec![view]));
    publisher.publish_layout(table, vec![metrics]);
    worker.port_mut().left = 40;
    worker.turn();
    publisher.retired().clear();
    assert!(accounts.gather());
    accounts.end_interval();
    assert_eq!(figures(&accounts), (true, false));
    assert_eq!(accounts.workers()[0].received, 1);
}

/// Servers of one service, with what each got.
fn shown(summary: &Summary) -> Vec<(&str, u64, u64, u64)> {
    summary.servers.iter().map(|s| (&*s.server, s.frames, s.bytes, s.flows)).collect()
}

#[test]
fn names_keep_what_they_had() {
    let plan = |names: &[&str]| {
        let mut one = One::weights(&vec![1; names.len()], 1009);
        one.servers.iter_mut().zip(names).for_each(|(server, name)| server.0 = (*name).to_string());
        let mut plan = one.plan();
        // A machine of its own for each name.
        let servers = plan.services[0].servers.iter_mut().zip(names);
        servers.for_each(|(server, name)| server.address = [192, 0, 2, name.as_bytes()[0]].into());
        plan
    };
    let mut accounts = Aggregator::new(1);
    let mut count = |names: &[&str], frames: &[u64]| {
        let plan = plan(names);
        let (metrics, view) = worker::open(&table(&plan, &[]));
        accounts.open(&plan, boxed(vec![view]));
        for (at, frames) in frames.iter().enumerate() {
            let sent = metrics.tally.sent(at);
            metrics.tally.received.add(*frames);
            sent.frames.add(*frames);
            sent.bytes.add(frames * 60);
            sent.flows.add(frames / 10);
        }
        let open = accounts.summary();
        drop(metrics);
        accounts.gather();
        assert_eq!(accounts.summary(), open, "closing metrics changes no figure");
        assert_eq!(open.frames, open.forwarded);
        open
    };
    let first = count(&["a", "b", "idle"], &[10, 20, 0]);
    assert_eq!(shown(&first), [("a", 10, 600, 1), ("b", 20, 1200, 2), ("idle", 0, 0, 0)]);
    let second = count(&["c", "b"], &[100, 200]);
    assert_eq!(
        shown(&second),
        [("c", 100, 6000, 10), ("b", 220, 13_200, 22), ("a", 10, 600, 1)],
        "what is gone is last"
    );
    let third = count(&["a", "idle"], &[1000, 0]);
    assert_eq!(
        shown(&third),
        [("a", 1010, 60_600, 101), ("idle", 0, 0, 0), ("b", 220, 13_200, 22), ("c", 100, 6000, 10)]
    );
    assert_eq!(third.json()["servers"]["b"], serde_json::json!({"frames": 220, "bytes": 13_200, "flows": 22}));
    let text = third.to_string();
    let header: Vec<&str> = text.lines().next().expect("a line").split_whitespace().collect();
    assert_eq!(header, ["service", "server", "frames", "bytes", "flows"]);
    assert!(text.contains("frames in 1330 = forwarded 1330 + dropped 0 + passed 0"), "{text}");
}

/// A service is its address and ports, a server its address: what is counted goes on under other names, two that change
/// theirs included.
#[test]
fn what_was_counted_goes_by_the_new_names() {
    let mut plan = One::weights(&[1, 1], 1009).plan();
    let mut accounts = Aggregator::new(1);
    let mut count = |plan: &oneip::model::Plan, frames: [u64; 2]| {
        let (metrics, view) = worker::open(&table(plan, &[]));
        accounts.open(plan, boxed(vec![view]));
        (0..2).for_each(|at| metrics.tally.sent(at).frames.add(frames[at]));
        drop(metrics);
        accounts.gather();
        let summary = accounts.summary();
        let each = |s: &ServerSummary| (s.service.to_string(), s.server.to_string(), s.frames);
        summary.servers.iter().map(each).collect::<Vec<_>>()
    };
    let names = plan.services[0].servers.iter().map(|server| server.name.clone()).collect::<Vec<_>>();
    let service = plan.services[0].name.clone();
    let of = |service: &str, server: &str, frames| (service.to_owned(), server.to_owned(), frames);
    assert_eq!(count(&plan, [1, 20]), [of(&service, &names[0], 1), of(&service, &names[1], 20)]);
    plan.services[0].name = "www".into();
    assert_eq!(count(&plan, [2, 0]), [of("www", &names[0], 3), of("www", &names[1], 20)]);
    for (server, name) in plan.services[0].servers.iter_mut().zip([&names[1], &names[0]]) {
        server.name.clone_from(name);
    }
    assert_eq!(count(&plan, [0, 5]), [of("www", &names[1], 3), of("www", &names[0], 25)]);
    plan.services[0].servers[1].name = "new".into();
    plan.services[0].name = service.clone();
    assert_eq!(count(&plan, [0, 0]), [of(&service, &names[1], 3), of(&service, "new", 25)]);
}
