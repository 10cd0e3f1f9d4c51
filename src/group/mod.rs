//! What the members of a group share through etcd: orders, what each finds of the servers, and how each member is.
//!
//! In reading order: `record` has the values that stand in the store, each checked like a configuration; `shared` is what is known of
//! the store, and says who belongs to the group; `book` puts shared, queued and local orders together, and is what the control thread
//! works with; `heard` has how long orders with a time last; `memory` keeps that on disk; `stance` says when what other members find
//! counts; `store` is the thread that speaks to etcd, and `writing` what that writes: they know nothing of what the values mean but how two
//! changes of one are merged.
//!
//! The control thread never waits for the store. Whatever etcd does, what is known goes on.

pub mod book;
mod heard;
pub mod memory;
pub mod record;
pub mod shared;
pub mod stance;
pub mod store;
mod writing;

use crate::control::overrides::Overrides;
use crate::engine::filter::digest::Digests;
use crate::hash::{Key, siphash};
use crate::model::{HashKey, Plan};
use record::Digest;
use std::fs;
use std::path::Path;

/// Of this host and the process with that admin socket: the same after a restart, and another one's on no other host.
pub fn place(socket: &Path) -> String {
    let host = fs::read_to_string("/etc/machine-id").or_else(|_| fs::read_to_string("/proc/sys/kernel/hostname"));
    let text = format!("{} {}", host.unwrap_or_default().trim(), socket.display());
    format!("{:016x}", siphash::bytes(Key::from(HashKey([0; 16])), text.as_bytes()))
}

/// What members must have in common: tells configurations and keys apart, and tells nothing of them.
pub fn digest(configured: &Plan) -> Digest {
    let key = Key::from(configured.hash_key);
    let configuration = Digests::new(key, configured, &Overrides::default(), &[]).configuration;
    Digest {
        configuration: format!("{configuration:016x}"),
        key: format!("{:016x}", siphash::bytes(key, b"oneip group")),
    }
}
