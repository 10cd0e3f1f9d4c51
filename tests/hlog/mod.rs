//! Interval logs, as standard tools read them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

/// The intervals of a log: tag and histogram.
pub fn intervals(log: &[u8]) -> Vec<(String, Histogram<u64>)> {
    let mut deserializer = Deserializer::new();
    let entries = IntervalLogIterator::new(log).map(|entry| entry.expect("every line is of the format"));
    entries
        .filter_map(|entry| match entry {
            LogEntry::Interval(interval) => {
                let tag = interval.tag().expect("every interval has a tag").as_str().to_owned();
                let histogram = STANDARD.decode(interval.encoded_histogram()).unwrap();
                Some((tag, deserializer.deserialize(&mut histogram.as_slice()).unwrap()))
            }
            _ => None,
        })
        .collect()
}
