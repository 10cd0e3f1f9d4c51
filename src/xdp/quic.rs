//! Servers by QUIC connection IDs in BPF tables: the entries that `src/bpf/quic.h` reads. It has no AES: of configs with a key there are none.

use super::directory::{Directory, Entry};
use crate::table::ServiceId;
use crate::table::quic::ConnectionIds;
use std::collections::BTreeSet;

/// `CONFIG` and `SERVER_ID` of src/bpf/quic.h.
const CONFIG: u8 = 1;
const SERVER_ID: u8 = 2;

/// Of one service. None: no connection ID says anything.
pub fn entries(service: ServiceId, ids: &ConnectionIds) -> Vec<Entry> {
    let plain = || ids.configs().filter(|config| config.key.is_none());
    let lengths: BTreeSet<usize> = plain().map(|config| config.server_id_length.into()).collect();
    let configs = plain().map(|config| {
        let least = 1 + u64::from(config.server_id_length) + u64::from(config.nonce_length);
        entry([config.id.into(), 0], key(service, CONFIG, 0), u64::from(config.server_id_length) | least << 16)
    });
    let servers = ids.servers().filter(|(id, _)| lengths.contains(&id.length())).map(|(id, server)| {
        let words = [id.bytes() as u64, (id.bytes() >> 64) as u64];
        entry(words, key(service, SERVER_ID, id.length() as u8), server.into())
    });
    configs.chain(servers).collect()
}

/// Of all services.
pub fn directory(entries: Vec<Entry>) -> Directory {
    Directory::of_entries(entries.into_iter())
}

fn key(service: ServiceId, kind: u8, length: u8) -> u32 {
    u32::from(service) << 16 | u32::from(kind) << 8 | u32::from(length)
}

/// `services` is what stands in their place.
fn entry([low, high]: [u64; 2], port: u32, services: u64) -> Entry {
    [low, high, u64::from(port) | services << 32, 0]
}
