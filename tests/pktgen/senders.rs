//! Threads that send together: one start, one end, and one error.

use oneip::host::clock::now_ns;
use oneip::host::cores;
use oneip::pktgen::error::PktgenError;
use oneip::pktgen::senders::{AtWork, Ended};
use oneip::pktgen::transmit::{Sender, Sent, Start};
use rustix::thread::{sched_getaffinity, sched_getcpu};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What a sender does instead of sending, and what it was given.
struct Fake {
    fails_with: Option<&'static str>,
    start: u64,
    core: usize,
    cores: u32,
}

impl Fake {
    fn new(fails_with: Option<&'static str>) -> Fake {
        Fake { fails_with, start: 0, core: usize::MAX, cores: 0 }
    }
}

impl Sender for Fake {
    fn send(&mut self, start: &Start, stop: &AtomicBool) -> Result<Sent, PktgenError> {
        let start = *start.wait();
        (self.start, self.core) = (start, sched_getcpu());
        self.cores = sched_getaffinity(None).unwrap().count();
        if let Some(reason) = self.fails_with {
            return Err(PktgenError::Run { reason: reason.into() });
        }
        let give_up = Instant::now() + Duration::from_secs(20);
        while !stop.load(Ordering::Relaxed) {
            assert!(Instant::now() < give_up, "nobody stops it");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(Sent { frames: 3, first: start, last: start + 10, lag: None })
    }
}

fn until_all_ended(_: &AtWork, mut ended: Ended) -> usize {
    let mut count = 0;
    while ended.blocking_recv().is_some() {
        count += 1;
    }
    count
}

#[test]
fn the_error_of_one_stops_the_others_and_is_the_answer() {
    let mut senders = [None, Some("the second"), None].map(Fake::new);
    let (sent, ended) = AtWork::new([]).during(&mut senders, &[], until_all_ended);
    let said = sent.unwrap_err().to_string();
    assert!(said.ends_with("the second"), "{said}");
    assert_eq!(ended, 3);
}

#[test]
fn the_errors_of_all_are_told_as_one() {
    let mut senders = [Some("the first"), Some("the second")].map(Fake::new);
    let (sent, ended) = AtWork::new([]).during(&mut senders, &[], until_all_ended);
    assert!(sent.unwrap_err().to_string().ends_with("the first"));
    assert_eq!(ended, 2);
}

#[test]
fn all_have_one_start_and_stop_when_they_are_told() {
    let mut senders = [None; 3].map(Fake::new);
    let before = now_ns();
    let stop = |at_work: &AtWork, ended: Ended| {
        at_work.stop();
        until_all_ended(at_work, ended)
    };
    let (sent, ended) = AtWork::new([]).during(&mut senders, &[], stop);
    let start = senders[0].start;
    assert!(start > before && senders.iter().all(|sender| sender.start == start));
    let sent = sent.unwrap();
    assert_eq!((ended, sent.frames, sent.first, sent.last), (3, 9, start, start + 10));
}

#[test]
fn each_is_on_its_core_alone() {
    let cores = cores::available();
    let mut senders: Vec<Fake> = cores.iter().map(|_| Fake::new(Some("at once"))).collect();
    AtWork::new([]).during(&mut senders, &cores, until_all_ended).0.unwrap_err();
    for (sender, core) in senders.iter().zip(cores) {
        assert_eq!((sender.core, sender.cores), (core, 1));
    }
}
