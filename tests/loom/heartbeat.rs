//! A worker that stops at any step, and the program in the kernel, which goes on in its place: of the frames that the program gives it, no more
//! are lost than its ring holds, and as many again that find no room there. The program's side is `hangs` of src/bpf/steer.bpf.c, line by line; the worker's is xdp::steer::Heartbeat.

use crossbeam::queue::ArrayQueue;
use loom::sync::Arc;
use loom::sync::atomic::Ordering::Relaxed;
use loom::sync::atomic::{AtomicBool, AtomicU64};
use loom::thread;

const RING: u64 = 2;
const FRAMES: u64 = 5;

struct Shared {
    bursts: AtomicU64,
    ring: ArrayQueue<u64>,
    decided: AtomicU64,
    is_killed: AtomicBool,
}

/// `struct waiting`
#[derive(Default)]
struct Waiting {
    bursts: u64,
    frames: u64,
}

impl Waiting {
    fn hangs(&mut self, shared: &Shared) -> bool {
        let bursts = shared.bursts.load(Relaxed);
        if self.bursts != bursts {
            *self = Waiting { bursts, frames: 0 };
        }
        let is_full = self.frames >= RING;
        self.frames += 1;
        is_full
    }
}

pub fn no_more_is_lost_than_the_ring_holds() {
    loom::model(|| {
        let shared = Arc::new(Shared {
            bursts: AtomicU64::new(0),
            ring: ArrayQueue::new(RING as usize),
            decided: AtomicU64::new(0),
            is_killed: AtomicBool::new(false),
        });
        let of_worker = Arc::clone(&shared);
        let worker = thread::spawn(move || {
            let mut bursts = 0;
            // Two turns, and then nothing any more.
            for _ in 0..2 {
                let mut taken = 0;
                while of_worker.ring.pop().is_some() {
                    taken += 1;
                }
                if taken > 0 {
                    bursts += 1;
                    of_worker.bursts.store(bursts, Relaxed);
                    of_worker.decided.fetch_add(taken, Relaxed);
                }
            }
            of_worker.is_killed.store(true, Relaxed);
        });
        let (mut waiting, mut by_net, mut no_room) = (Waiting::default(), 0, 0);
        for frame in 0..FRAMES {
            if waiting.hangs(&shared) {
                by_net += 1;
            } else if shared.ring.push(frame).is_err() {
                no_room += 1;
            }
        }
        worker.join().unwrap();
        let mut left = 0;
        while shared.ring.pop().is_some() {
            left += 1;
        }
        let decided = shared.decided.load(Relaxed);
        assert_eq!(decided + by_net + no_room + left, FRAMES);
        let lost = left + no_room;
        assert!(
            left <= RING && lost <= 2 * RING,
            "{decided} by the worker, {by_net} by the net, {no_room} without room"
        );
    });
}
