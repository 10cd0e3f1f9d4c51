//! Any frame through a worker: its verdict is the model's, only the MACs of a forwarded frame change, and ledger and
//! counters balance. The services are the golden frames', by three selections, so that every way through is taken.
#![no_main]

#[path = "../../model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::records::Golden;
use model::turn::Bench;
use oneip::model::{HashInput, Selection};
use oneip::port::memory::STRIDE;
use std::cell::RefCell;

thread_local! {
    static BENCHES: RefCell<Vec<Bench>> = RefCell::new(benches());
}

fn benches() -> Vec<Bench> {
    let golden = Golden::read();
    let plans = [
        golden.plan.clone(),
        golden.plan_with(Selection::Maglev, HashInput::Source),
        golden.plan_with(Selection::Maglev, HashInput::Flow),
    ];
    plans.iter().map(|plan| Bench::new(plan, &golden.down)).collect()
}

fuzz_target!(|frame: &[u8]| {
    if frame.len() <= STRIDE {
        BENCHES.with_borrow_mut(|benches| benches.iter_mut().for_each(|bench| _ = bench.check(&[frame])));
    }
});
