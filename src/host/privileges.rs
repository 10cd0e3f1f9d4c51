//! Giving up what is not needed any more. Capabilities belong to a thread: each thread drops its own, and a thread that is
//! started afterwards has no more than the one that started it.

use caps::{CapSet, Capability, CapsHashSet};

/// Asks the kernel to resolve servers (`control::neighbours`).
pub const CONTROL: [Capability; 1] = [Capability::CAP_NET_ADMIN];

/// As `CONTROL`, and makes the kernel wait for frames that are decided by an old table, and loads the program again where a table has outgrown it.
/// (For `CAP_PERFMON` see `xdp::privileges::UNGUARDED`.)
pub const KERNEL: [Capability; 3] = [Capability::CAP_NET_ADMIN, Capability::CAP_BPF, Capability::CAP_PERFMON];

/// Makes new tables for a server's program.
pub const SERVER: [Capability; 1] = [Capability::CAP_BPF];

/// The memory of this process, in which the hash key is, is in no core dump from now on, and no other process of the same user may
/// look at it. (Root still may.)
pub fn hide_memory() {
    let none = rustix::process::DumpableBehavior::NotDumpable;
    if let Err(error) = rustix::process::set_dumpable_behavior(none) {
        tracing::warn!(%error, "the hash key may be in a core dump of this process");
    }
}

/// Keeps none: for a thread that needs no privileges.
pub fn drop_all() {
    if let Err(error) = keep(&[]) {
        tracing::warn!(%error, "a thread keeps privileges that it does not need");
    }
}

/// Keeps only `keep` of the capabilities that this thread has, and rules out that a program it might start gains any.
/// Returns what was kept.
///
/// # Errors
/// The kernel refuses.
pub fn keep(keep: &[Capability]) -> Result<Vec<Capability>, caps::errors::CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: Vec<Capability> = keep.iter().copied().filter(|capability| held.contains(capability)).collect();
    let set: CapsHashSet = kept.iter().copied().collect();
    // A program started by root would get all capabilities back.
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        tracing::warn!(%error, "programs started by this process could gain privileges");
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &set)?;
    caps::set(None, CapSet::Permitted, &set)?;
    Ok(kept)
}
