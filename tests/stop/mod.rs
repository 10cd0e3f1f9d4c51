//! The end of what goes on beside a test.

use std::sync::atomic::{AtomicBool, Ordering};

/// Raised when dropped: what goes on in the background ends with the test, failed or not.
pub struct Stop<'s>(pub &'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
