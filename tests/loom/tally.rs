//! Counters with one writer: whoever reads sees no count go back.

use crate::counters::Tally;
use crate::verdict::Reason;
use loom::sync::Arc;
use loom::thread;

pub fn no_count_goes_back_and_none_is_lost() {
    loom::model(|| {
        let tally = Arc::new(Tally::new(1, 1));
        let written = Arc::clone(&tally);
        let worker = thread::spawn(move || {
            written.received.add(2);
            written.dropped(Reason::Limited).add(1);
            written.received.add(1);
        });
        let reads = [(); 3].map(|()| tally.received.get());
        assert!(reads.is_sorted() && reads.iter().all(|count| [0, 2, 3].contains(count)), "{reads:?}");
        worker.join().unwrap();
        assert_eq!((tally.received.get(), tally.dropped(Reason::Limited).get()), (3, 1));
    });
}
