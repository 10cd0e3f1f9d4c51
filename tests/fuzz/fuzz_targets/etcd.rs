//! Any key and value in a group's store: refused in words, or within the bounds of a configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneip::group::record::{Place, Record, progress};

// The key, a line, and the value.
fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let _ = progress(value);
    let Ok(place) = Place::read(key) else { return };
    assert_eq!(Place::read(place.key().as_bytes()).as_ref(), Ok(&place));
    match Record::read(&place, value) {
        Ok(Record::Server(_, orders)) => assert_eq!(orders.check(), Ok(())),
        Ok(Record::Denied(.., order)) => assert_eq!(order.check(), Ok(())),
        Ok(Record::Config(published)) => assert_eq!(published.check(), Ok(())),
        Ok(Record::Member(..) | Record::View(..)) => {}
        Err(said) => assert!(!said.is_empty()),
    }
});
