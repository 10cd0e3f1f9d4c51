//! Any text as a configuration of keepalived, or as what `ipvsadm -S` says: what comes of it is a configuration of ours.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneip::{config, verbs};
use std::fs;

fuzz_target!(|text: &[u8]| {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("there is memory");
    fs::write(&file, text).expect("there is memory");
    if let Ok(imported) = verbs::import::run(&[file.path()], Some("eth1")) {
        let taken = config::parse(&imported.configuration, "oneip.toml");
        taken.unwrap_or_else(|errors| panic!("{errors}\n{}", imported.configuration));
    }
});
