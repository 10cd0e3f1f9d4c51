//! What a thread has said last, for whoever wants to know: nobody asks that thread, and nobody waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A place for the newest of a kind. Whoever reads gets what is there, and how old it is.
pub struct Latest<T>(Arc<Mutex<Newest<T>>>);

/// What was said, and when.
type Newest<T> = Option<(Arc<T>, Instant)>;

impl<T> Clone for Latest<T> {
    fn clone(&self) -> Latest<T> {
        Latest(Arc::clone(&self.0))
    }
}

impl<T> Default for Latest<T> {
    fn default() -> Latest<T> {
        Latest(Arc::default())
    }
}

impl<T> Latest<T> {
    pub fn put(&self, newest: T) {
        let newest = Some((Arc::new(newest), Instant::now()));
        // What was there is dropped when nobody holds the lock any more.
        let _before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), newest);
    }

    /// `None`: nothing was said yet.
    pub fn get(&self) -> Option<(Arc<T>, Duration)> {
        let there = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        there.map(|(newest, at)| (newest, at.elapsed()))
    }
}
