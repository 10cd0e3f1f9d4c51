//! Any bytes as a capture, pcap or pcapng: it ends, or it is said what is wrong where.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneip::port::pcap::{Frame, Reader};
use std::io::Cursor;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = Reader::new(Path::new("x.pcap"), Cursor::new(bytes.to_vec())) else { return };
    let mut frame = Frame::empty();
    let mut frames = 0;
    loop {
        match reader.next(&mut frame) {
            Ok(true) => {
                frames += 1;
                assert!(frame.bytes().len() <= bytes.len() && frames <= bytes.len());
                reader.time(&frame);
            }
            Ok(false) => break,
            Err(error) => {
                assert!(error.to_string().contains("x.pcap"), "{error}");
                break;
            }
        }
    }
});
