//! How a new table reaches the workers: one writer, many readers, no lock, and no worker ever frees a table.
//!
//! Each worker has a mailbox with two lock-free queues. The control thread puts the new table into `next`; the worker looks
//! there once a burst, takes it, and puts the one it had into `spent`, from where the control thread takes and drops it at
//! its next publication. `perf/method.md` compares this with an epoch pin and with arc-swap.

use super::Table;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;

struct Mailbox {
    /// A table that was not taken yet is replaced by a newer one.
    next: ArrayQueue<Arc<Table>>,
    spent: ArrayQueue<Arc<Table>>,
}

/// Between two publications a worker takes at most the table that was in its mailbox and the one that replaced it.
const SPENT: usize = 2;

/// The control thread's end.
pub struct Publisher {
    mailboxes: Vec<Arc<Mailbox>>,
}

/// A worker's end.
pub struct Reader {
    current: Arc<Table>,
    mailbox: Arc<Mailbox>,
}

/// A publisher and its readers, all of which begin with `table`.
pub fn channel(table: Table, readers: usize) -> (Publisher, Vec<Reader>) {
    let table = Arc::new(table);
    let mailboxes: Vec<Arc<Mailbox>> =
        (0..readers).map(|_| Arc::new(Mailbox { next: ArrayQueue::new(1), spent: ArrayQueue::new(SPENT) })).collect();
    let readers = mailboxes.iter().map(|m| Reader { current: Arc::clone(&table), mailbox: Arc::clone(m) }).collect();
    (Publisher { mailboxes }, readers)
}

impl Publisher {
    /// Every worker's next burst sees `table`. Drops the tables that no worker can see any more.
    pub fn publish(&mut self, table: Table) {
        let table = Arc::new(table);
        for mailbox in &self.mailboxes {
            while mailbox.spent.pop().is_some() {}
            mailbox.next.force_push(Arc::clone(&table));
        }
    }
}

impl Reader {
    /// The newest published table. Once a burst.
    #[inline]
    pub fn load(&mut self) -> &Table {
        if !self.mailbox.next.is_empty() {
            self.renew();
        }
        &self.current
    }

    #[cold]
    fn renew(&mut self) {
        let Some(next) = self.mailbox.next.pop() else { return };
        let spent = std::mem::replace(&mut self.current, next);
        assert!(self.mailbox.spent.push(spent).is_ok(), "the publisher empties `spent` before it fills `next`");
    }
}
