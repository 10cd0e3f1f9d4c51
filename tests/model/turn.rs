//! Frames through a worker, and the laws that hold for every one of them.

use super::Model;
use super::deliver::{self, Leaving, Sent};
use oneip::metrics::counters::Tally;
use oneip::metrics::worker;
use oneip::model::{Deliver, Plan, Service};
use oneip::port::Port;
use oneip::port::memory::Memory;
use oneip::table::Table;
use oneip::table::build::Cluster;
use oneip::table::flow_table::FlowTable;
use oneip::table::publish;
use oneip::verdict::{Reason, Verdict};
use oneip::worker::Worker;
use std::collections::HashSet;
use std::sync::Arc;

pub struct Bench {
    pub worker: Worker<Memory>,
    pub tally: Arc<Tally>,
    plan: Plan,
    /// Whose verdicts `check` expects.
    model: Option<Model>,
    left: Sent,
}

pub fn table(plan: &Plan, down: &[String]) -> Table {
    cluster(plan, down).compile()
}

pub fn cluster(plan: &Plan, down: &[String]) -> Cluster {
    let mut cluster = Cluster::new(plan);
    for name in down {
        assert!(cluster.set_up(name, false).is_some(), "no server {name}");
    }
    cluster
}

/// What the counters say: received, passed, dropped by reason, and frames and bytes by destination.
type Counts = (u64, u64, [u64; Reason::COUNT], Vec<(u64, u64)>);

impl Bench {
    pub fn new(plan: &Plan, down: &[String]) -> Bench {
        Bench { model: Some(Model::new(plan, down)), ..Bench::without_model(plan, down) }
    }

    /// For plans that the model cannot populate.
    pub fn without_model(plan: &Plan, down: &[String]) -> Bench {
        let table = table(plan, down);
        let flow_table = FlowTable::new(1024, table.key);
        let (metrics, view) = worker::open(&table);
        let (_, mut readers) = publish::channel(table, vec![metrics]);
        let reader = readers.pop().expect("one reader");
        let none: [&[u8]; 0] = [];
        let worker = Worker::new(Memory::new(&none), reader, flow_table);
        Bench { worker, tally: view.tally, plan: plan.clone(), model: None, left: Sent::default() }
    }

    /// Lets the worker take all frames, and checks everything but the verdicts: bytes, ledger, counters.
    pub fn run(&mut self, frames: &[impl AsRef<[u8]>]) -> Vec<Verdict> {
        let mut expected = self.counts();
        let spares = if self.worker_has_ways() { 2 * frames.len() + 64 } else { 0 };
        *self.worker.port_mut() = Memory::with_spares(frames, spares);
        let mut verdicts = Vec::with_capacity(frames.len());
        while verdicts.len() < frames.len() {
            let (first, before) = (verdicts.len(), self.worker.port().sent().len());
            let outcomes = self.worker.turn();
            assert!(!outcomes.is_empty(), "the worker takes what is there");
            verdicts.extend(outcomes.iter().map(|outcome| outcome.verdict()));
            let leaving = self.leaving(&frames[first..verdicts.len()], &verdicts[first..]);
            let port = self.worker.port();
            let sent: Vec<&[u8]> = port.sent()[before..].iter().map(|at| port.frame(*at as usize)).collect();
            for (at, (sent, leaving)) in sent.iter().zip(&leaving).enumerate() {
                assert_eq!(hex(sent), hex(leaving), "frame {at} that was sent of those from {first} on");
            }
            assert_eq!(sent.len(), leaving.len(), "as many are sent");
            let ledger = self.worker.port().ledger();
            assert!(ledger.balanced() && ledger.lent == 0, "{ledger:?}");
        }
        expected.0 += frames.len() as u64;
        for (at, (frame, verdict)) in frames.iter().zip(&verdicts).enumerate() {
            let (frame, after) = (frame.as_ref(), self.worker.port().frame(at));
            match *verdict {
                Verdict::Forward { service, server } => {
                    let (frames, bytes) = &mut expected.3[self.destination(service, server)];
                    *frames += 1;
                    *bytes += frame.len() as u64;
                }
                Verdict::Drop(reason) => {
                    assert!(after == frame || reason == Reason::TooBig, "a dropped frame is not touched");
                    expected.2[reason as usize] += 1;
                }
                Verdict::Pass => {
                    assert_eq!(after, frame, "a passed frame is not touched");
                    expected.1 += 1;
                }
            }
        }
        let sent: HashSet<u32> = self.worker.port().sent().iter().copied().collect();
        let kept: Vec<u32> = (0..frames.len() as u32).filter(|at| !sent.contains(at)).collect();
        let (passed, freed): (Vec<u32>, Vec<u32>) =
            kept.into_iter().partition(|at| verdicts[*at as usize] == Verdict::Pass);
        assert_eq!(self.worker.port().freed(), freed, "dropped frames are freed, in order");
        assert_eq!(self.worker.port().passed(), passed, "the others are passed, in order");
        assert_eq!(self.counts(), expected, "the counters");
        let Tally { received, passed, .. } = &*self.tally;
        assert_eq!(received.get(), self.tally.forwarded() + self.tally.dropped_total() + passed.get());
        verdicts
    }

    /// A frame alone, without a look at what leaves.
    pub fn one(&mut self, frame: &[u8]) -> Verdict {
        *self.worker.port_mut() = Memory::new(&[frame]);
        self.worker.turn()[0].verdict()
    }

    /// As `run`, and the verdicts are the model's.
    pub fn check(&mut self, frames: &[impl AsRef<[u8]>]) -> Vec<Verdict> {
        let verdicts = self.run(frames);
        let model = self.model.as_ref().expect("a bench with a model");
        for (frame, verdict) in frames.iter().zip(&verdicts) {
            assert_eq!(*verdict, model.verdict(frame.as_ref()), "{}", hex(frame.as_ref()));
        }
        verdicts
    }

    fn worker_has_ways(&self) -> bool {
        let has_tags = |service: &Service| service.servers.iter().any(|server| !server.tags.are_as_received());
        self.plan.services.iter().any(|service| service.deliver != Deliver::L2 || has_tags(service))
    }

    /// What one turn sends: forwarded frames, in order, and then answers.
    fn leaving(&mut self, frames: &[impl AsRef<[u8]>], verdicts: &[Verdict]) -> Vec<Vec<u8>> {
        let (mut sent, mut answers) = (Vec::new(), Vec::new());
        for (frame, verdict) in frames.iter().zip(verdicts) {
            let frame = frame.as_ref();
            let is_too_big = *verdict == Verdict::Drop(Reason::TooBig);
            let place = match (*verdict, &self.model) {
                (Verdict::Forward { service, server }, _) => Some((service, server)),
                (Verdict::Drop(Reason::TooBig), Some(model)) => model.place(frame).ok(),
                _ => None,
            };
            let Some((service, server)) = place else { continue };
            let mac = next_hop(&self.plan, service, server);
            match deliver::leave(&self.plan, frame, service, server, &mut self.left, &mac) {
                Leaving::Frames(frames) => {
                    assert!(!is_too_big, "{}", hex(frame));
                    sent.extend(frames);
                }
                Leaving::TooBig(answer) => {
                    assert!(is_too_big, "{}", hex(frame));
                    answers.extend(answer);
                }
            }
        }
        sent.extend(answers);
        sent
    }

    fn counts(&self) -> Counts {
        let sent = (0..self.plan.services.iter().map(|service| service.servers.len()).sum())
            .map(|d| self.tally.sent(d))
            .map(|s| (s.frames.get(), s.bytes.get()));
        let dropped = Reason::ALL.map(|reason| self.tally.dropped(reason).get());
        (self.tally.received.get(), self.tally.passed.get(), dropped, sent.collect())
    }

    fn destination(&self, service: u16, server: u16) -> usize {
        let before = &self.plan.services[..service as usize];
        before.iter().map(|service| service.servers.len()).sum::<usize>() + server as usize
    }
}

/// Its own MAC, or the router's.
pub fn next_hop(plan: &Plan, service: u16, server: u16) -> [u8; 6] {
    let gateway = || plan.dispatcher.as_ref().and_then(|dispatcher| dispatcher.gateway_mac);
    plan.services[service as usize].servers[server as usize].mac.or_else(gateway).expect("it is resolved").0
}

pub fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}
