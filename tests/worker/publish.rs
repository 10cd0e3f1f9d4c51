//! One writer, many readers of tables.

use crate::counting;
use crate::model::plans::One;
use arrayvec::ArrayVec;
use oneip::table::build::Cluster;
use oneip::table::publish::{self, Reader};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const READERS: usize = 4;
const TABLES: u64 = 1000;
const SERVERS: usize = 50;

/// Bytes of tables that are alive: of those that this thread makes, publishes and drops, and it is the only one that does.
struct Tables(i64);

impl Tables {
    fn during<T>(&mut self, step: impl FnOnce() -> T) -> T {
        let before = counting::bytes();
        let result = step();
        self.0 += counting::bytes() - before;
        result
    }
}

/// What a reader keeps for a layout: a block of memory with its number in it.
struct WorkerMetrics(Box<[u64; 512]>);

fn metrics(layout: u64, readers: usize) -> Vec<WorkerMetrics> {
    (0..readers).map(|_| WorkerMetrics(Box::new([layout; 512]))).collect()
}

/// Every reader sees generations rise, the last in the end, whole tables only, each with the metrics of its layout; it neither
/// allocates nor frees; and when all is over, the writer has freed every table and all metrics, once.
#[test]
fn tables_reach_every_reader_and_are_freed_by_the_writer() {
    let mut cluster = Cluster::new(&One::weights(&[1; SERVERS], 65_537).plan());
    let mut tables = Tables(0);
    let first = tables.during(|| cluster.compile());
    let size = tables.0;
    assert!(size > 0);
    let (mut publisher, readers) = tables.during(|| {
        let (publisher, readers) = publish::channel(first, metrics(0, READERS));
        (publisher, ArrayVec::<Reader<WorkerMetrics>, READERS>::from_iter(readers))
    });
    let stop = AtomicBool::new(false);
    let poll = |number: u64, mut reader: Reader<WorkerMetrics>| {
        let calls = counting::calls();
        let (mut seen, mut renewals) = (0, 0);
        while !stop.load(SeqCst) {
            reader.renew();
            let (table, metrics) = reader.split();
            assert!(table.generation >= seen, "{} after {seen}", table.generation);
            assert_eq!(table.destinations(), SERVERS);
            assert!(table.next_hop(SERVERS - 1).is_forward());
            assert_eq!(*metrics.0, [table.layout; 512]);
            renewals += (table.generation > seen) as u64;
            seen = table.generation;
            // Some poll, some are slow.
            if number % 2 == 1 {
                thread::sleep(Duration::from_micros(50 * number));
            }
        }
        reader.renew();
        assert_eq!(reader.table().generation, TABLES + 1, "the last table arrives");
        assert_eq!(reader.metrics().0[0], reader.table().layout);
        assert_eq!(counting::calls() - calls, 0, "allocator calls on a reader's thread");
        assert!(renewals > 1);
        reader
    };
    let mut most = 0;
    thread::scope(|scope| {
        let poll = &poll;
        let polling: Vec<_> = (0..).zip(readers).map(|(n, reader)| scope.spawn(move || poll(n, reader))).collect();
        for i in 0..TABLES {
            tables.during(|| match i % 3 {
                0 => publisher.publish(cluster.compile()),
                _ => {
                    cluster.set_layout(1 + i);
                    publisher.publish_layout(cluster.compile(), metrics(1 + i, READERS));
                }
            });
            most = most.max(tables.0);
        }
        stop.store(true, SeqCst);
        for reader in polling {
            let reader = reader.join().expect("a reader ends well");
            tables.during(|| drop(reader));
        }
    });
    // A reader holds one, and its mailbox a newer one and two older.
    let each = size + size_of::<[u64; 512]>() as i64;
    assert!(most <= each * (4 * READERS as i64 + 2), "{most} bytes alive at once, of tables of {size}");
    tables.during(|| drop(publisher));
    assert_eq!(tables.0, 0, "bytes of tables alive");
}

/// A worker that stands still misses tables, but not the newest, nor the metrics for it.
#[test]
fn a_reader_that_stands_still_sees_the_newest_at_last() {
    let mut cluster = Cluster::new(&One::weights(&[1, 1], 1009).plan());
    let (mut publisher, mut readers) = publish::channel(cluster.compile(), metrics(0, 2));
    let mut state = readers.pop().expect("two readers");
    let mut running = readers.pop().expect("two readers");
    for generation in 2..100 {
        if generation % 4 == 0 {
            cluster.set_layout(generation);
            publisher.publish_layout(cluster.compile(), metrics(generation, 2));
        } else {
            publisher.publish(cluster.compile());
        }
        for _ in 0..2 {
            running.renew();
            assert_eq!(running.table().generation, generation);
            assert_eq!(running.metrics().0[0], generation / 4 * 4);
        }
    }
    state.renew();
    assert_eq!((state.table().generation, state.metrics().0[0]), (99, 96));
}

/// Figures would be counted under wrong names.
#[test]
#[should_panic(expected = "a table of another layout comes with metrics")]
fn a_table_of_another_layout_does_not_go_without_books() {
    let mut cluster = Cluster::new(&One::weights(&[1, 1], 1009).plan());
    let (mut publisher, _readers) = publish::channel(cluster.compile(), metrics(0, 1));
    cluster.set_layout(1);
    publisher.publish(cluster.compile());
}
