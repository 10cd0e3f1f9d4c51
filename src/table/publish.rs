//! How a new table reaches the workers: one writer, many readers, no lock, and no worker ever frees a table.
//!
//! Each worker has a mailbox with two lock-free queues. The control thread puts the new table into `next`; the worker looks
//! there once a turn, takes it, and puts the one it had into `spent`, from where an ordinary thread takes and drops it.
//! `perf/method.md` compares this with an epoch pin and with arc-swap.
//!
//! Beside its table a worker keeps books, by the table's positions of services and servers. A table of another layout comes
//! together with new books, so that the two always match: the worker takes both or neither, and the old books go back
//! with the old table. What books are is the worker's affair; here they are `B`.

use super::Table;
use crossbeam::queue::ArrayQueue;
use std::sync::{Arc, Mutex, PoisonError};

/// A table, and books where its layout is new to whom it is for.
struct Edition<B> {
    table: Arc<Table>,
    books: Option<B>,
}

struct Mailbox<B> {
    /// An edition that was not taken yet is replaced by a newer one.
    next: ArrayQueue<Edition<B>>,
    spent: ArrayQueue<Edition<B>>,
    /// Held by the ordinary thread that empties `spent`: after its turn nobody is half-way through with that, which a worker
    /// might have to wait for.
    emptying: Mutex<()>,
}

/// Between two publications a worker takes at most the edition that was in its mailbox and the one that replaced it.
const SPENT: usize = 2;

impl<B> Mailbox<B> {
    fn new() -> Arc<Mailbox<B>> {
        Arc::new(Mailbox { next: ArrayQueue::new(1), spent: ArrayQueue::new(SPENT), emptying: Mutex::new(()) })
    }

    fn clear(&self) {
        let _alone = self.emptying.lock().unwrap_or_else(PoisonError::into_inner);
        while self.spent.pop().is_some() {}
    }
}

/// The control thread's end.
pub struct Publisher<B> {
    layout: u64,
    mailboxes: Vec<Arc<Mailbox<B>>>,
}

/// A worker's end.
pub struct Reader<B> {
    table: Arc<Table>,
    books: B,
    mailbox: Arc<Mailbox<B>>,
}

/// What the workers have no use for any more. For a thread that does not want to wait for the next publication.
pub struct Spent<B>(Vec<Arc<Mailbox<B>>>);

/// A publisher and its readers, which begin with `table`, each with one of `books`.
pub fn channel<B>(table: Table, books: Vec<B>) -> (Publisher<B>, Vec<Reader<B>>) {
    let table = Arc::new(table);
    let mailboxes: Vec<_> = books.iter().map(|_| Mailbox::new()).collect();
    let readers = mailboxes.iter().zip(books);
    let readers =
        readers.map(|(mailbox, books)| Reader { table: Arc::clone(&table), books, mailbox: Arc::clone(mailbox) });
    let readers = readers.collect();
    (Publisher { layout: table.layout, mailboxes }, readers)
}

impl<B> Publisher<B> {
    /// Every worker's next turn sees `table`, which is of the layout of the one before. Drops the tables and books that no
    /// worker can see any more. Never waits: in a worker that stands still, only the newest table is waiting.
    pub fn publish(&mut self, table: Table) {
        assert_eq!(table.layout, self.layout, "a table of another layout comes with books");
        self.send(table, self.mailboxes.iter().map(|_| None).collect());
    }

    /// As `publish`, for a table of another layout, with books for each worker. Books that a worker never got to are dropped.
    pub fn publish_layout(&mut self, table: Table, books: Vec<B>) {
        assert_ne!(table.layout, self.layout, "the worker's books are for this layout");
        assert_eq!(books.len(), self.mailboxes.len(), "one a worker");
        self.layout = table.layout;
        self.send(table, books.into_iter().map(Some).collect());
    }

    fn send(&mut self, table: Table, books: Vec<Option<B>>) {
        let table = Arc::new(table);
        for (mailbox, books) in self.mailboxes.iter().zip(books) {
            mailbox.clear();
            let unseen = mailbox.next.pop();
            // The worker still needs the books that were waiting, unless they are of a layout that it will never see.
            let books = books.or_else(|| unseen.and_then(|edition| edition.books));
            let edition = Edition { table: Arc::clone(&table), books };
            assert!(mailbox.next.push(edition).is_ok(), "nobody else fills `next`");
        }
    }

    pub fn spent(&self) -> Spent<B> {
        Spent(self.mailboxes.clone())
    }
}

impl<B> Spent<B> {
    /// Drops it.
    pub fn clear(&self) {
        self.0.iter().for_each(|mailbox| mailbox.clear());
    }
}

impl<B> Reader<B> {
    /// Takes the newest published table, and its books if they are new. Once a turn.
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
    pub fn books(&self) -> &B {
        &self.books
    }

    #[inline(always)]
    pub fn books_mut(&mut self) -> &mut B {
        &mut self.books
    }

    /// Both at once.
    #[inline(always)]
    pub fn split(&mut self) -> (&Table, &mut B) {
        (&self.table, &mut self.books)
    }

    #[cold]
    fn take(&mut self) {
        let Some(Edition { table, books }) = self.mailbox.next.pop() else { return };
        let spent = Edition {
            table: std::mem::replace(&mut self.table, table),
            books: books.map(|books| std::mem::replace(&mut self.books, books)),
        };
        assert!(self.mailbox.spent.push(spent).is_ok(), "the publisher empties `spent` before it fills `next`");
    }
}
