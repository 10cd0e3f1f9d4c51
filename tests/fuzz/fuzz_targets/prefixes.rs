//! Any text as a list of prefixes, as `[[deny]]` and `[[allow]]` name files of.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneip::config;
use std::fs;

fuzz_target!(|text: &[u8]| {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("there is memory");
    fs::write(&file, text).expect("there is memory");
    match config::list_file(file.path()) {
        Ok(prefixes) => {
            let shown: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            fs::write(&file, shown.join("\n")).expect("there is memory");
            assert_eq!(config::list_file(file.path()).expect("it was taken before"), prefixes);
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
});
