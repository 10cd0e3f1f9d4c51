//! How a new table reaches the workers: one writer, many readers, no lock, and no worker ever frees a table.
//!
//! Each worker has a mailbox with two lock-free queues. The control thread puts the new table into `next`; the worker looks
//! there once a turn, takes it, and puts the one it had into `retired`, from where an ordinary thread takes and drops it.
//! `perf/method.md` compares this with an epoch pin and with arc-swap.
//!
//! Beside its table a worker keeps metrics, by the table's positions of services and servers. A table of another layout comes
//! together with new metrics, so that the two always match: the worker takes both or neither, and the old metrics go back
//! with the old table. What metrics are is the worker's affair; here they are `B`.

use super::Table;
use crossbeam::queue::ArrayQueue;
use std::sync::{Arc, Mutex, PoisonError};

/// A table, and metrics where its layout is new to whom it is for.
struct Update<B> {
    table: Arc<Table>,
    metrics: Option<B>,
}

struct Mailbox<B> {
    /// An update that was not taken yet is replaced by a newer one.
    next: ArrayQueue<Update<B>>,
    retired: ArrayQueue<Update<B>>,
    /// Held by the ordinary thread that empties `retired`: after its turn nobody is half-way through with that, which a worker
    /// might have to wait for.
    emptying: Mutex<()>,
}

/// Between two publications that empty `retired` a worker puts there at most what it was about to put there, then what the update replaces that
/// was in its mailbox, and what the next one does.
const SPENT: usize = 3;

impl<B> Mailbox<B> {
    fn new() -> Arc<Mailbox<B>> {
        Arc::new(Mailbox { next: ArrayQueue::new(1), retired: ArrayQueue::new(SPENT), emptying: Mutex::new(()) })
    }

    fn clear(&self) {
        let _alone = self.emptying.lock().unwrap_or_else(PoisonError::into_inner);
        while self.retired.pop().is_some() {}
    }
}

/// The control thread's end.
pub struct Publisher<B> {
    layout: u64,
    mailboxes: Vec<Arc<Mailbox<B>>>,
}

/// A worker's end.
pub struct Reader<B> {
    number: usize,
    table: Arc<Table>,
    metrics: B,
    mailbox: Arc<Mailbox<B>>,
}

/// What the workers have no use for any more. For a thread that does not want to wait for the next publication.
pub struct Retired<B>(Vec<Arc<Mailbox<B>>>);

/// A publisher and its readers, which begin with `table`, each with one of `metrics`.
pub fn channel<B>(table: Table, metrics: Vec<B>) -> (Publisher<B>, Vec<Reader<B>>) {
    let table = Arc::new(table);
    let mailboxes: Vec<_> = metrics.iter().map(|_| Mailbox::new()).collect();
    let reader = |(number, (mailbox, metrics)): (usize, (&Arc<Mailbox<B>>, B))| Reader {
        number,
        table: Arc::clone(&table),
        metrics,
        mailbox: Arc::clone(mailbox),
    };
    let readers = mailboxes.iter().zip(metrics).enumerate().map(reader).collect();
    (Publisher { layout: table.layout, mailboxes }, readers)
}

impl<B> Publisher<B> {
    /// Every worker's next turn sees `table`, which is of the layout of the one before. Drops the tables and metrics that no
    /// worker can see any more. Never waits: in a worker that stands still, only the newest table is waiting.
    pub fn publish(&mut self, table: Table) {
        assert_eq!(table.layout, self.layout, "a table of another layout comes with metrics");
        self.send(table, self.mailboxes.iter().map(|_| None).collect());
    }

    /// As `publish`, for a table of another layout, with metrics for each worker. Metrics that a worker never got to are dropped.
    pub fn publish_layout(&mut self, table: Table, metrics: Vec<B>) {
        assert_ne!(table.layout, self.layout, "the worker's metrics are for this layout");
        assert_eq!(metrics.len(), self.mailboxes.len(), "one a worker");
        self.layout = table.layout;
        self.send(table, metrics.into_iter().map(Some).collect());
    }

    fn send(&mut self, table: Table, metrics: Vec<Option<B>>) {
        let table = Arc::new(table);
        for (mailbox, metrics) in self.mailboxes.iter().zip(metrics) {
            mailbox.clear();
            let unseen = mailbox.next.pop();
            // The worker still needs the metrics that were waiting, unless they are of a layout that it will never see.
            let metrics = metrics.or_else(|| unseen.and_then(|update| update.metrics));
            let update = Update { table: Arc::clone(&table), metrics };
            assert!(mailbox.next.push(update).is_ok(), "nobody else fills `next`");
        }
    }

    pub fn retired(&self) -> Retired<B> {
        Retired(self.mailboxes.clone())
    }
}

impl<B> Retired<B> {
    /// Drops it.
    pub fn clear(&self) {
        self.0.iter().for_each(|mailbox| mailbox.clear());
    }
}

impl<B> Reader<B> {
    /// Which of the publisher's readers this is, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Takes the newest published table, and its metrics if they are new. Once a turn.
    #[inline]
    pub fn renew(&mut self) {
        if !self.mailbox.next.is_empty() {
            self.take();
        }
    }

    #[inline(always)]
    pub fn table(&self) -> &Table {
        &self.table
    }

    #[inline(always)]
    pub fn metrics(&self) -> &B {
        &self.metrics
    }

    #[inline(always)]
    pub fn metrics_mut(&mut self) -> &mut B {
        &mut self.metrics
    }

    /// Both at once.
    #[inline(always)]
    pub fn split(&mut self) -> (&Table, &mut B) {
        (&self.table, &mut self.metrics)
    }

    #[cold]
    fn take(&mut self) {
        let Some(Update { table, metrics }) = self.mailbox.next.pop() else { return };
        let retired = Update {
            table: std::mem::replace(&mut self.table, table),
            metrics: metrics.map(|metrics| std::mem::replace(&mut self.metrics, metrics)),
        };
        assert!(self.mailbox.retired.push(retired).is_ok(), "the publisher empties `retired` before it fills `next`");
    }
}
