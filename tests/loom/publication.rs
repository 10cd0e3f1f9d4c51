//! Tables reach a worker in order, each with the metrics of its layout, and no worker frees one.

use crate::Table;
use crate::publish::channel;
use loom::thread;
use std::cell::Cell;

loom::thread_local! {
    pub static IS_WORKER: Cell<bool> = Cell::new(false);
}

/// The layout that they are for.
struct Metrics(u64);

impl Drop for Metrics {
    fn drop(&mut self) {
        IS_WORKER.with(|is_worker| assert!(!is_worker.get()));
    }
}

/// A worker that turns while tables of one layout and of another are published, and an ordinary thread clears what it has done with.
fn published(clears: bool) {
    let (mut publisher, mut readers) = channel(Table { layout: 0, number: 0 }, vec![Metrics(0)]);
    let mut reader = readers.remove(0);
    let worker = thread::spawn(move || {
        IS_WORKER.with(|is_worker| is_worker.set(true));
        let mut last = 0;
        for _ in 0..3 {
            reader.renew();
            let (table, metrics) = reader.split();
            assert_eq!(table.layout, metrics.0);
            assert!(table.number >= last);
            last = table.number;
        }
        reader
    });
    let clearer = clears.then(|| {
        let retired = publisher.retired();
        thread::spawn(move || retired.clear())
    });
    publisher.publish(Table { layout: 0, number: 1 });
    publisher.publish_layout(Table { layout: 1, number: 2 }, vec![Metrics(1)]);
    if !clears {
        publisher.publish(Table { layout: 1, number: 3 });
        publisher.publish_layout(Table { layout: 2, number: 4 }, vec![Metrics(2)]);
    }
    let mut reader = worker.join().unwrap();
    if let Some(clearer) = clearer {
        clearer.join().unwrap();
    }
    reader.renew();
    let (table, metrics) = reader.split();
    let last = if clears { (1, 2) } else { (2, 4) };
    assert_eq!((table.layout, table.number, metrics.0), (last.0, last.1, last.0));
}

pub fn a_worker_sees_tables_in_order_with_their_metrics() {
    loom::model(|| published(false));
}

pub fn what_is_retired_is_cleared_by_anybody_but_the_worker() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| published(true));
}
