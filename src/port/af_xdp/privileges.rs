//! What the kernel wants to see before it lends a queue.

use std::env;
use std::io;

use caps::{CapSet, Capability};
use rlimit::{INFINITY, Resource};

use crate::xdp::XdpError;

/// To attach a program and make its socket map; to open a socket; to load a program and its maps.
const NEEDED: [Capability; 3] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_BPF];

/// # Errors
///
/// The process lacks one of the capabilities.
pub(super) fn check(interface: &str) -> Result<(), XdpError> {
    let lacks = |needed: &Capability| !caps::has_cap(None, CapSet::Effective, *needed).unwrap_or(false);
    let missing: Vec<String> = NEEDED.into_iter().filter(lacks).map(|capability| capability.to_string()).collect();
    if missing.is_empty() { Ok(()) } else { Err(not_permitted(interface.into(), missing.join(", "))) }
}

/// The kernel said no to a process that has the capabilities: in a container they reach only so far.
pub(super) fn refused(interface: String, reason: &io::Error) -> XdpError {
    not_permitted(interface, format!("more privileges than this process has ({reason})"))
}

fn not_permitted(interface: String, missing: String) -> XdpError {
    let program = env::current_exe().unwrap_or_else(|_| "oneip".into());
    XdpError::NotPermitted { interface, missing, program }
}

/// Raises the limit on locked memory as far as it goes. Where that is not far enough, binding a queue says so.
pub(super) fn raise_memory_lock_limit() {
    if Resource::MEMLOCK.set(INFINITY, INFINITY).is_ok() {
        return;
    }
    if let Ok((_, hard)) = Resource::MEMLOCK.get()
        && let Err(error) = Resource::MEMLOCK.set(hard, hard)
    {
        tracing::debug!(%error, "the limit on locked memory stays as it is");
    }
}
