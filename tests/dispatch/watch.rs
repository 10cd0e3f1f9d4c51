//! The frames of a watched client: what the program notes is what a worker notes.

use super::dispatch;
use super::model::mutate::Mutator;
use super::model::records::Golden;
use super::model::turn;
use oneip::path::classify::{self, Outer};
use oneip::path::rewrite;
use oneip::path::select::Selection;
use oneip::path::trace::{Notes, Noting};
use oneip::table::trace::{Fate, Points, Seen, Watch};
use oneip::xdp::dispatch::Reader;
use std::net::IpAddr;
use std::sync::Arc;

#[test]
fn what_is_noted_is_what_a_worker_notes() {
    let golden = Golden::read();
    let own: [u8; 6] = *golden.records[0].frame.first_chunk().expect("a destination");
    let seeds: Vec<Vec<u8>> = golden.frames().into_iter().filter(|frame| frame.len() >= 14).collect();
    let mut mutator = Mutator::new(11, &seeds, &[[6, 0, 0, 0xff, 0, 0]]);
    let damaged =
        std::iter::repeat_with(|| mutator.frame()).filter(|frame| (14..1514).contains(&frame.len())).take(4000);
    let frames: Vec<Vec<u8>> = seeds.iter().cloned().chain(damaged).collect();
    let clients: Vec<IpAddr> =
        seeds.iter().filter_map(|frame| classify::whole(frame)).map(|whole| whole.flow.client).collect();
    let mut cluster = turn::cluster(&golden.plan, &golden.down);
    let Some((mut kernel, _)) = dispatch(own, &cluster.compile(), 0) else { return };
    let mut events = Reader::new(kernel.split().1).unwrap();
    let mut pipeline = Selection::default();
    let (mut noted, mut sent) = (0, 0);
    let snaps = [0, 1, 60, 1500];
    let points = [Points::RECEIVED, Points::ALL, Points::DROPPED, Points::SENT];
    let watched = clients.iter().step_by(5).map(Some).chain([None; 4]);
    for (number, client) in watched.enumerate() {
        let (snap, points) = (snaps[number % 4], points[number / 2 % 4]);
        let of = |client| Arc::new(Watch::capture(client, points, snap, 10));
        let (by_worker, by_program) = (of(client.copied()), of(client.copied()));
        cluster.set_watch(Some(Arc::clone(&by_program)));
        let table = cluster.compile();
        kernel.publish(&table).unwrap();
        events.follow(&table);
        kernel.set_clock(77);
        let mut notes = Notes::default();
        let noting = Noting { watch: &by_worker, table: &table, worker: 0, now: 77 };
        for frame in &frames {
            pipeline.classify(1, &table, |_| frame);
            pipeline.decide(&table);
            notes.receive(&by_worker, 1, |_| frame);
            notes.judge(noting, pipeline.outcomes(), |_| frame);
            let mut rewritten = frame.clone();
            if pipeline.outcomes()[0].is_forward() {
                rewrite::to_next_hop(&mut rewritten, pipeline.outcomes()[0].next_hop);
                rewritten[6..12].copy_from_slice(&own);
            }
            notes.send(noting, pipeline.outcomes(), |_| &rewritten);
            kernel.judge(frame).unwrap();
            events.read(kernel.split().1);
            let all = |watch: &Watch| -> Vec<(Seen, Vec<u8>)> {
                std::iter::from_fn(|| watch.take(|seen, bytes| (seen, bytes.to_vec()))).collect()
            };
            // What is not for a cluster address, or not for us, is none of the program's business.
            let is_passed = |(seen, _): &(Seen, Vec<u8>)| seen.fate == Fate::Pass;
            let expected = all(&by_worker);
            let is_ours = frame.starts_with(&own) && !matches!(classify::outer(frame), Outer::Truncated);
            let expected = if expected.iter().any(is_passed) || !is_ours { Vec::new() } else { expected };
            let found = all(&by_program);
            assert_eq!(found, expected, "{}", turn::hex(frame));
            assert!(found.iter().all(|(seen, bytes)| bytes.len() == snap.min(seen.bytes as usize)));
            noted += expected.len();
            sent += expected.iter().filter(|(seen, _)| seen.is_sent).count();
        }
        assert_eq!((by_worker.lost(), by_program.lost()), (0, 0));
    }
    assert!(noted > 1000 && sent > 100, "{noted} {sent}");
    cluster.set_watch(None);
    kernel.publish(&cluster.compile()).unwrap();
    let unseen = kernel.split().1.unseen();
    frames.iter().for_each(|frame| _ = kernel.judge(frame).unwrap());
    let everybody = Arc::new(Watch::capture(None, Points::ALL, 1500, 10));
    cluster.set_watch(Some(Arc::clone(&everybody)));
    events.follow(&cluster.compile());
    events.read(kernel.split().1);
    assert!(everybody.take(|_, _| ()).is_none(), "nothing is noted without a watch");
    assert_eq!((unseen, everybody.lost()), (0, 0));

    // Chance takes one in so many.
    let large = frames.iter().find(|frame| !kernel_passes(frame, &own)).expect("a frame to a cluster address");
    let some = Arc::new(Watch::capture(None, Points::RECEIVED, 0, 4000).sampled(4));
    cluster.set_watch(Some(Arc::clone(&some)));
    let table = cluster.compile();
    kernel.publish(&table).unwrap();
    events.follow(&table);
    (0..4000).for_each(|_| _ = kernel.judge(large).unwrap());
    events.read(kernel.split().1);
    let taken = std::iter::from_fn(|| some.take(|_, _| ())).count();
    assert!((800..1200).contains(&taken) && some.lost() == 0, "{taken} of 4000");
    cluster.set_watch(Some(Arc::clone(&everybody)));
    let table = cluster.compile();
    events.follow(&table);

    // Frames that find no room are counted, in the ring as in the watch.
    kernel.publish(&table).unwrap();
    let rounds = 30_000;
    (0..rounds).for_each(|_| _ = kernel.judge(large).unwrap());
    assert!(kernel.split().1.unseen() > 0);
    events.read(kernel.split().1);
    let taken = std::iter::from_fn(|| everybody.take(|_, _| ())).count() as u64;
    assert!(taken == 10 && (rounds - 10..2 * rounds).contains(&everybody.lost()), "{taken} {}", everybody.lost());
}

fn kernel_passes(frame: &[u8], own: &[u8]) -> bool {
    !frame.starts_with(own) || classify::whole(frame).is_none()
}
