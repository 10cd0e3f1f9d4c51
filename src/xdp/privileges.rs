//! What the kernel wants to see before it lends a queue, or takes a program.

use std::env;
use std::io;

use caps::{CapSet, Capability};
use rlimit::{INFINITY, Resource};

use super::error::XdpError;

/// To attach a program and make its socket map; to open a socket; to load a program and its maps.
pub const SOCKETS: [Capability; 3] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_BPF];

/// To attach a program; to load it and its maps.
pub const PROGRAM: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_BPF];

/// Beside those. Without it the verifier puts barriers against speculation into a program, at each place where a register is kept on the stack
/// (kernel/bpf/verifier.c, `bypass_spec_v4`), and a frame costs about three times as much; Linux 6.1 takes no such program at all.
pub const UNGUARDED: Capability = Capability::CAP_PERFMON;

pub fn is_unguarded() -> bool {
    has(UNGUARDED)
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// # Errors
///
/// The process lacks one of the capabilities.
pub fn check(interface: &str, needed: &[Capability]) -> Result<(), XdpError> {
    let missing: Vec<String> =
        needed.iter().filter(|needed| !has(**needed)).map(|capability| capability.to_string()).collect();
    if missing.is_empty() { Ok(()) } else { Err(not_permitted(interface.into(), missing.join(", "), needed)) }
}

/// The kernel said no to a process that has the capabilities: in a container they reach only so far.
pub fn refused(interface: String, reason: &io::Error) -> XdpError {
    not_permitted(interface, format!("more privileges than this process has ({reason})"), &SOCKETS)
}

fn not_permitted(interface: String, missing: String, needed: &[Capability]) -> XdpError {
    let program = env::current_exe().unwrap_or_else(|_| "oneip".into());
    let needed: Vec<String> =
        needed.iter().chain([&UNGUARDED]).map(|capability| capability.to_string().to_lowercase()).collect();
    XdpError::NotPermitted { interface, missing, needed: needed.join(","), program }
}

/// Raises the limit on locked memory as far as it goes. Where that is not far enough, binding a queue says so.
pub fn raise_memory_lock_limit() {
    if Resource::MEMLOCK.set(INFINITY, INFINITY).is_ok() {
        return;
    }
    if let Ok((_, hard)) = Resource::MEMLOCK.get()
        && let Err(error) = Resource::MEMLOCK.set(hard, hard)
    {
        tracing::debug!(%error, "the limit on locked memory stays as it is");
    }
}
