//! The clock that changes of the cluster are timed by: the one of the ports.

use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::sync::OnceLock;

/// `CLOCK_MONOTONIC`, in nanoseconds.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Which boot of this host it is: as long as it is the same, so is that clock. `None`: the kernel does not say.
pub fn boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned());
    BOOT.get_or_init(read).as_deref()
}
