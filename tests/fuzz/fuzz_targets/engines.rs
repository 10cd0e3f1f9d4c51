//! Any frame through a worker and through the program in the kernel, with lists and limits: the same verdict, and the same bytes leave. Needs
//! root, or tries nothing.
#![no_main]

#[path = "../../model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::limits::{Naive, with_limits};
use model::records::{Golden, few_slots};
use model::{Model, turn};
use oneip::model::Mac;
use oneip::path::classify::{self, Outer};
use oneip::port::memory::{Memory, STRIDE};
use oneip::verdict::Verdict;
use oneip::xdp::dispatch::{Action, Dispatch, Setup};
use std::cell::RefCell;

struct Engines {
    own: [u8; 6],
    model: Model,
    naive: Naive,
    worker: turn::Bench,
    program: Dispatch,
    now: u64,
}

thread_local! {
    static ENGINES: RefCell<Vec<Engines>> = RefCell::new(engines());
}

fn engines() -> Vec<Engines> {
    let golden = Golden::read();
    let own: [u8; 6] = *golden.records[0].frame.first_chunk().expect("a destination");
    let engines = |turn: usize| {
        let mut plan = with_limits(golden.with_lists(golden.plan.clone()), turn);
        few_slots(&mut plan);
        let table = turn::table(&plan, &golden.down);
        let setup = Setup { mac: Mac(own), egress: 0, queues: 1, flows: 0, timed_of: 1, others: Default::default() };
        Some(Engines {
            own,
            model: Model::new(&plan, &golden.down),
            naive: Naive::new(&plan),
            worker: turn::Bench::new(&plan, &golden.down),
            program: Dispatch::load(setup, &table).ok()?,
            now: 7_000_000_000_000,
        })
    };
    // More of them take long to make, with sanitizers.
    let engines: Vec<Engines> = [0, 7].into_iter().filter_map(engines).collect();
    if engines.is_empty() {
        eprintln!("SKIPPED: the program in the kernel needs root");
    }
    engines
}

fuzz_target!(|frame: &[u8]| {
    if !(14..=STRIDE.min(1500)).contains(&frame.len()) {
        return;
    }
    ENGINES.with_borrow_mut(|engines| engines.iter_mut().for_each(|engines| engines.agree(frame)));
});

impl Engines {
    fn agree(&mut self, frame: &[u8]) {
        // To us, or it passes everywhere.
        let frame = [&self.own[..], &frame[6..]].concat();
        if matches!(classify::outer(&frame), Outer::Truncated) {
            return;
        }
        self.now += 30_000;
        let expected = self.naive.verdict(&self.model, &frame, self.now);
        let port = self.worker.worker.port_mut();
        *port = Memory::new(&[&frame]);
        port.now = self.now;
        assert_eq!(self.worker.worker.turn()[0].verdict(), expected, "{}", turn::hex(&frame));
        self.program.set_clock(self.now);
        let (action, after) = self.program.judge(&frame).expect("it runs");
        let wanted = match expected {
            Verdict::Pass => Action::Pass,
            Verdict::Drop(_) => Action::Drop,
            Verdict::Forward { .. } => Action::Send,
        };
        assert_eq!(action, wanted, "{expected:?} {}", turn::hex(&frame));
        let left = if action == Action::Send { self.worker.worker.port().frame(0).to_vec() } else { frame };
        assert_eq!(turn::hex(&after), turn::hex(&left));
    }
}
