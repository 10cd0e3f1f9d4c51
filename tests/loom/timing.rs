//! What a worker times is harvested once, whole, and nothing of it is lost.

use crate::histogram::{Answer, channel};
use crate::snapshot::WorkerReport;
use loom::thread;

pub fn what_is_timed_is_harvested_once() {
    loom::model(|| {
        let (mut recorder, mut harvest) = channel(1);
        let worker = thread::spawn(move || {
            for turn in 0..2 {
                recorder.exchange(|| WorkerReport);
                recorder.record(0, 100 + turn);
            }
        });
        let mut timed = 0;
        let mut is_over = false;
        for _ in 0..2 {
            harvest.request();
            let answer = harvest.collect(|set| timed += set.services().flatten().map(|(_, count)| count).sum::<u32>());
            is_over |= answer == Answer::Last;
        }
        worker.join().unwrap();
        if !is_over {
            let answer = harvest.collect(|set| timed += set.services().flatten().map(|(_, count)| count).sum::<u32>());
            assert_eq!(answer, Answer::Last);
        }
        assert_eq!(timed, 2);
    });
}
