//! The stats thread: once an interval it harvests the workers' histograms, prints a line and writes the interval log.

use super::latency::{self, Harvest};
use super::summary::{Percentiles, Summary, microseconds};
use super::tally::Tally;
use crate::limits::STATS_INTERVAL;
use crate::plan::Plan;
use crate::verdict::Reason;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};
use std::fs::File;
use std::io::{self, LineWriter, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// What the device itself counts, besides what the workers see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Frames that reached the interface.
    pub seen: u64,
    /// Left to the kernel.
    pub passed: u64,
    /// Meant for a worker, but its ring was full.
    pub lost: u64,
}

/// Everything the collector reads. It writes nothing that a worker sees.
pub struct Sources {
    pub plan: Arc<Plan>,
    pub tallies: Vec<Arc<Tally>>,
    pub harvests: Vec<Harvest>,
    pub outside: Box<dyn Fn() -> Outside + Send>,
}

/// Where the collector reports.
#[derive(Default)]
pub struct Reports {
    /// A line an interval on standard output, or on standard error.
    pub line: bool,
    pub to_stderr: bool,
    /// An interval log: a histogram for each service and interval, tagged with the service's name, in nanoseconds, displayed
    /// by standard tools in milliseconds.
    pub hlog: Option<File>,
}

/// A histogram of any number of frames.
type Long = Histogram<u64>;

/// Collects until `stop` is closed, and once more then. Returns itself, for the figures of the whole run. An interval log
/// that cannot be written is given up, with a warning: the figures go on.
pub fn run(sources: Sources, reports: Reports, stop: &Receiver<()>) -> Collector {
    let mut serializer = V2DeflateSerializer::new();
    // Line by line: what has been logged survives however the process ends.
    let mut file = reports.hlog.map(LineWriter::new);
    let log = file.as_mut().map(|file| {
        IntervalLogWriterBuilder::new()
            .add_comment("oneip: latency from arrival to hand-over, nanoseconds, tagged by service")
            .with_start_time(SystemTime::now())
            .with_base_time(SystemTime::now())
            .with_max_value_divisor(1e6)
            .begin_log_with(file, &mut serializer)
    });
    let mut log = log.and_then(|log| log.map_err(|error| give_up(&format!("{error:?}"))).ok());
    let mut collector = Collector::new(sources);
    loop {
        let stopping = stop.recv_timeout(STATS_INTERVAL) != Err(RecvTimeoutError::Timeout);
        let interval = collector.harvest();
        if let Some(writer) = &mut log
            && let Err(error) = collector.write(writer, &interval)
        {
            give_up(&error.to_string());
            log = None;
        }
        if reports.line {
            say(&collector.line(&interval), reports.to_stderr);
        }
        collector.next(interval.end);
        if stopping {
            return collector;
        }
    }
}

fn give_up(reason: &str) {
    tracing::warn!("the interval log cannot be written and ends here: {reason}");
}

/// A line for whoever listens. When nobody does any more, frames are dispatched all the same.
pub fn say(line: &str, to_stderr: bool) {
    let _ = if to_stderr { writeln!(io::stderr(), "{line}") } else { writeln!(io::stdout(), "{line}") };
}

/// The stats thread's own: the sources, and what they have given so far.
pub struct Collector {
    sources: Sources,
    started: Instant,
    /// Start of the present interval, and the figures then.
    since: Instant,
    before: Summary,
    /// Over the whole run, all services together.
    total: Long,
}

/// What one interval brought.
struct Interval {
    end: Instant,
    services: Vec<Long>,
}

impl Collector {
    fn new(sources: Sources) -> Collector {
        let now = Instant::now();
        Collector { sources, started: now, since: now, before: Summary::default(), total: empty() }
    }

    /// Asks every worker for its histograms and waits until they have come: a turn each, unless a worker is stuck.
    fn harvest(&mut self) -> Interval {
        let mut services: Vec<Long> = self.sources.plan.services.iter().map(|_| empty()).collect();
        let give_up = Instant::now() + STATS_INTERVAL / 4;
        let mut open: Vec<&mut Harvest> = self.sources.harvests.iter_mut().collect();
        open.iter_mut().for_each(|harvest| harvest.request());
        while !open.is_empty() && Instant::now() < give_up {
            open.retain_mut(|harvest| {
                !harvest.collect(|latencies| {
                    for (sum, part) in services.iter_mut().zip(latencies.services()) {
                        part.iter_recorded().for_each(|step| {
                            sum.saturating_record_n(step.value_iterated_to(), step.count_at_value().into());
                        });
                    }
                })
            });
            if !open.is_empty() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        for service in &services {
            self.total.add(service).expect("both have the same bounds");
        }
        Interval { end: Instant::now(), services }
    }

    fn write<W: Write>(
        &self,
        log: &mut IntervalLogWriter<W, V2DeflateSerializer>,
        interval: &Interval,
    ) -> io::Result<()> {
        let (start, length) = (self.since - self.started, interval.end - self.since);
        for (service, histogram) in self.sources.plan.services.iter().zip(&interval.services) {
            if !histogram.is_empty() {
                log.write_histogram(histogram, start, length, Tag::new(&service.name))
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
            }
        }
        Ok(())
    }

    /// Rates of the interval, and its latency.
    fn line(&self, interval: &Interval) -> String {
        let (now, before) = (self.figures(), &self.before);
        let seconds = (interval.end - self.since).as_secs_f64();
        let rate = |now: u64, before: u64| format!("{:.0}/s", now.saturating_sub(before) as f64 / seconds);
        let mut line = format!(
            "{:6.1} s  in {}  forwarded {}  dropped {}  passed {}",
            (interval.end - self.started).as_secs_f64(),
            rate(now.frames, before.frames),
            rate(now.forwarded, before.forwarded),
            rate(now.dropped_total(), before.dropped_total()),
            rate(now.passed, before.passed),
        );
        for (reason, count) in now.reasons() {
            let gained = count - before.dropped[reason as usize];
            if gained > 0 {
                line += &format!("  {reason} {gained}");
            }
        }
        let mut all = empty();
        interval.services.iter().for_each(|service| all.add(service).expect("both have the same bounds"));
        if let Some(Percentiles { p50, p99, max, .. }) = Percentiles::of(&all) {
            line += &format!("  p50 {}  p99 {}  max {}", microseconds(p50), microseconds(p99), microseconds(max));
        }
        line
    }

    fn next(&mut self, end: Instant) {
        self.before = self.figures();
        self.since = end;
    }

    /// All counters as they are now, the device's included.
    fn figures(&self) -> Summary {
        // The device first: what it has seen after this is not missed among the workers'.
        let outside = (self.sources.outside)();
        let mut figures = Summary::new(&self.sources.plan, &self.sources.tallies);
        figures.frames = outside.seen;
        figures.passed += outside.passed;
        figures.dropped[Reason::RxFull as usize] += outside.lost;
        figures
    }

    /// The whole run, up to now.
    pub fn summary(&self) -> Summary {
        let mut summary = self.figures();
        summary.latency = Percentiles::of(&self.total);
        summary
    }
}

fn empty() -> Long {
    Long::new_with_bounds(1, latency::MAX_NS, latency::DIGITS).expect("the bounds are valid")
}
