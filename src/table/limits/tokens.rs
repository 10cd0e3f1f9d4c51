//! A bucket of tokens, which is one word: the time at which it is full again. Shared by all workers.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Times are parts of a nanosecond, 2^-10 of it: a minimum frame at 400 Gbit/s costs more than a thousand. They turn over after 208 days.
pub const PARTS: u32 = 10;

/// A bucket is full no later than its depth from now, but for clocks that differ a little from worker to worker. What seems to be full later
/// is from long ago, before times turned over, or was never used: it is full.
pub const SKEW: u64 = 1_000_000_000 << PARTS;

/// What a bucket of a depth lacks.
#[inline(always)]
pub fn lack(full_at: u64, now: u64, depth: u64) -> u64 {
    let lack = full_at.wrapping_sub(now);
    if lack > depth + SKEW { 0 } else { lack }
}

/// Takes what a frame costs, or a burst, from a bucket that was seen so.
#[inline(always)]
pub fn take(full_at: &AtomicU64, (seen, lack): (u64, u64), now: u64, cost: u64) {
    // Of two who find it full at once, the second adds to what the first has made of it.
    if lack > 0 || full_at.compare_exchange(seen, now.wrapping_add(cost), Relaxed, Relaxed).is_err() {
        full_at.fetch_add(cost, Relaxed);
    }
}
