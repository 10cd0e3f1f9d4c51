//! Any text as a state file: it is refused in words, or what it says is said again by what is written of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneip::control::state_file::StateFile;
use std::fs;
use std::path::Path;

fuzz_target!(|text: &[u8]| {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("there is memory");
    fs::write(&file, text).expect("there is memory");
    let state = StateFile::new(file.path(), Path::new("/etc/oneip/oneip.toml"));
    match state.load() {
        Ok((remembered, _)) => {
            state.save(&remembered).expect("there is memory");
            state.load().expect("what was written is read");
        }
        Err(said) => assert!(said.contains("the state file"), "{said}"),
    }
});
