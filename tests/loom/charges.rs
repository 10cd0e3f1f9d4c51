//! Workers that take from one bucket at once: what each takes is missing afterwards.

use crate::tokens::{lack, take};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

const NOW: u64 = 1 << 50;
const DEPTH: u64 = 1000;

fn charge(full_at: &AtomicU64, cost: u64) {
    let seen = full_at.load(Relaxed);
    take(full_at, (seen, lack(seen, NOW, DEPTH)), NOW, cost);
}

pub fn no_charge_is_lost() {
    // Never used, full since long ago, just full, and not full.
    for (before, lacks) in [(0, 0), (NOW - 5000, 0), (NOW, 0), (NOW + 100, 100)] {
        loom::model(move || {
            let full_at = Arc::new(AtomicU64::new(before));
            let others: Vec<_> = [10, 200]
                .into_iter()
                .map(|cost| {
                    let full_at = Arc::clone(&full_at);
                    thread::spawn(move || charge(&full_at, cost))
                })
                .collect();
            charge(&full_at, 3000);
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!(full_at.load(Relaxed), NOW + lacks + 3210);
        });
    }
}
