//! The frames of a watched client: what the program notes is what a worker notes.

use super::dispatch;
use super::model::mutate::Mutator;
use super::model::records::Golden;
use super::model::turn;
use oneip::path::classify::{self, Outer};
use oneip::path::select::Selection;
use oneip::table::trace::{Fate, Seen, Watch};
use oneip::xdp::dispatch::{self, Noted};
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
    let mut events = kernel.events().unwrap().expect("it is the first that asks");
    let mut pipeline = Selection::default();
    let mut noted = 0;
    for client in clients.iter().step_by(5) {
        let watch = Arc::new(Watch::new(*client, 10));
        cluster.set_watch(Some(Arc::clone(&watch)));
        let table = cluster.compile();
        kernel.publish(&table).unwrap();
        kernel.set_clock(77);
        for frame in &frames {
            pipeline.classify(1, &table, |_| frame);
            pipeline.decide(&table);
            pipeline.note(&watch, 0, 77, |_| frame);
            kernel.judge(frame).unwrap();
            let by_worker = watch.seen.pop();
            // What is not for a cluster address, or not for us, is none of the program's business.
            let is_passed = matches!(by_worker, Some(Seen { fate: Fate::Pass, .. }));
            let expected = by_worker.filter(|_| {
                !is_passed && frame.starts_with(&own) && !matches!(classify::outer(frame), Outer::Truncated)
            });
            let by_program = events.next().map(|Noted { at, queue, bytes, protocol, verdict, .. }| Seen {
                at,
                worker: queue as usize,
                bytes,
                protocol,
                fate: match verdict {
                    dispatch::Fate::Forward { service, destination } => {
                        Fate::Forward(service, table.server(service, destination))
                    }
                    dispatch::Fate::Drop(reason) => Fate::Drop(reason.name()),
                    dispatch::Fate::Pass => Fate::Pass,
                },
            });
            assert_eq!(by_program, expected, "{}", turn::hex(frame));
            noted += u32::from(expected.is_some());
        }
    }
    assert!(noted > 100, "{noted}");
    cluster.set_watch(None);
    kernel.publish(&cluster.compile()).unwrap();
    frames.iter().for_each(|frame| _ = kernel.judge(frame).unwrap());
    assert!(events.next().is_none());
}
