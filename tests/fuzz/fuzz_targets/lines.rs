//! Any bytes as an access log, or a list of clients: no line is longer than what is looked at.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneip::verbs::simulate::lines::{Line, Lines, parse};

fuzz_target!(|bytes: &[u8]| {
    let mut lines = Lines::new(bytes);
    let mut read = 0;
    while let Some(line) = lines.next_line().expect("memory is read") {
        read += 1;
        assert!(line.len() <= 256 && read <= bytes.len());
        if let Line::Listed(_, requests) = parse(line) {
            assert!(requests > 0);
        }
    }
});
