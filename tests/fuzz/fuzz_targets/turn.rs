//! Any frame through a worker: its verdict is the model's, only the MACs of a forwarded frame change, and ledger and
//! counters balance. The services are the golden frames', by three selections and by each way to deliver, to servers of either family, with room for
//! a packet of 1,280 bytes and its headers or without: so every way through is taken.
#![no_main]

#[path = "../../model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::records::{Golden, few_slots};
use model::turn::Bench;
use oneip::model::{Deliver, HashInput, Selection};
use oneip::port::memory::STRIDE;
use std::cell::RefCell;

thread_local! {
    static BENCHES: RefCell<Vec<Bench>> = RefCell::new(benches());
}

fn benches() -> Vec<Bench> {
    let golden = Golden::read();
    let mut usual = golden.plan.clone();
    few_slots(&mut usual);
    let mut plans = vec![
        usual,
        golden.plan_with(Selection::Maglev, HashInput::Source),
        golden.plan_with(Selection::Maglev, HashInput::Flow),
    ];
    for deliver in [Deliver::Ipip, Deliver::Gue { port: 6080 }, Deliver::Gre, Deliver::L3dsr { dscp: 10 }] {
        for (is_v6, mtu) in [(false, 1500), (true, 1280)] {
            plans.push(golden.plan_delivering(deliver, is_v6, mtu));
        }
    }
    plans.iter().map(|plan| Bench::new(plan, &golden.down)).collect()
}

fuzz_target!(|frame: &[u8]| {
    if frame.len() <= STRIDE {
        BENCHES.with_borrow_mut(|benches| benches.iter_mut().for_each(|bench| _ = bench.check(&[frame])));
    }
});
