//! The interval log: a histogram for each service and interval, tagged with the service's name, in nanoseconds, which standard tools display
//! in milliseconds. The format is HdrHistogram's.
//!
//! It is appended to. Who rotates it copies it and cuts it off (`copytruncate` of logrotate): a process that is confined could not open
//! another file. What follows the cut has a head of its own.

use super::aggregate::Long;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub struct IntervalLog {
    file: File,
    serializer: V2DeflateSerializer,
    began: SystemTime,
    /// How long the head is, which is the same each time.
    head: usize,
    /// How long the file was after the last interval.
    end: u64,
}

impl IntervalLog {
    /// Goes on behind what the file holds. `file` was opened to append: another process may write to it too, the one that takes over.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(file: File) -> io::Result<IntervalLog> {
        let mut log =
            IntervalLog { file, serializer: V2DeflateSerializer::new(), began: SystemTime::now(), head: 0, end: 0 };
        let head = log.text(|_| Ok(()))?;
        log.head = head.len();
        log.append(&head)?;
        Ok(log)
    }

    /// Adds an interval, by when it began and ended, since the log was begun. It is one write: what has been logged survives however the process
    /// ends.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, start: Duration, end: Duration, services: &[(Arc<str>, Long)]) -> io::Result<()> {
        let text = self.text(|writer| {
            for (service, histogram) in services {
                writer
                    .write_histogram(histogram, start, end - start, Tag::new(service))
                    .map_err(|error| io::Error::other(error.to_string()))?;
            }
            Ok(())
        })?;
        let is_cut = self.file.metadata()?.len() < self.end;
        self.append(&text[if is_cut { 0 } else { self.head }..])
    }

    /// The head, and behind it what `write` writes.
    fn text(&mut self, write: impl FnOnce(&mut Writer) -> io::Result<()>) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut writer = IntervalLogWriterBuilder::new()
            .add_comment("oneip: latency from arrival to hand-over, nanoseconds, tagged by service")
            .with_start_time(self.began)
            .with_base_time(self.began)
            .with_max_value_divisor(1e6)
            .begin_log_with(&mut text, &mut self.serializer)?;
        write(&mut writer)?;
        Ok(text)
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        self.file.write_all(text)?;
        self.end = self.file.metadata()?.len();
        Ok(())
    }
}

type Writer<'a, 'b> = IntervalLogWriter<'a, 'b, Vec<u8>, V2DeflateSerializer>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::aggregate;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use std::fs;

    fn open(path: &std::path::Path) -> IntervalLog {
        IntervalLog::begin(File::options().append(true).create(true).open(path).expect("a file")).expect("written")
    }

    fn second(log: &mut IntervalLog, number: u64) {
        let mut timed = aggregate::empty();
        timed.record(1000 * number).expect("in range");
        let (start, end) = (Duration::from_secs(number), Duration::from_secs(number + 1));
        log.add(start, end, &[("web".into(), timed)]).expect("written");
    }

    /// How many heads there are, and when its intervals began.
    fn read(text: &[u8]) -> (usize, Vec<u64>) {
        let (mut heads, mut starts) = (0, Vec::new());
        for entry in IntervalLogIterator::new(text) {
            match entry.expect("every line is of the format") {
                LogEntry::StartTime(_) => heads += 1,
                LogEntry::Interval(interval) => {
                    assert_eq!(interval.tag().map(|tag| tag.as_str()), Some("web"));
                    starts.push(interval.start_timestamp().as_secs());
                }
                LogEntry::BaseTime(_) => {}
            }
        }
        (heads, starts)
    }

    #[test]
    fn what_follows_a_rotation_is_a_whole_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, rotated) = (folder.path().join("latency.hlog"), folder.path().join("latency.hlog.1"));
        let mut log = open(&path);
        (1..=3).for_each(|number| second(&mut log, number));
        fs::copy(&path, &rotated).expect("copied");
        File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("cut");
        (4..=5).for_each(|number| second(&mut log, number));
        assert_eq!(read(&fs::read(&rotated).expect("read")), (1, vec![1, 2, 3]));
        let text = fs::read(&path).expect("read");
        assert!(text.starts_with(b"#oneip") && !text.contains(&0), "no hole is left where the older part was");
        assert_eq!(read(&text), (1, vec![4, 5]));
    }

    /// Also while the process before writes its last interval.
    #[test]
    fn a_process_that_follows_goes_on_behind_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("latency.hlog");
        let mut log = open(&path);
        second(&mut log, 1);
        let mut next = open(&path);
        second(&mut next, 0);
        second(&mut log, 2);
        drop(log);
        second(&mut next, 1);
        assert_eq!(read(&fs::read(&path).expect("read")), (2, vec![1, 0, 2, 1]));
    }
}
