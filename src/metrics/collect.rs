//! The stats thread: once an interval it harvests the workers' histograms, prints a line and writes the interval log. At any
//! time it says what was counted to whoever asks.

use super::aggregate::{self, Aggregator, Long};
use super::interval_log::IntervalLog;
use super::latest::Latest;
use super::snapshot::Snapshot;
use super::source::Source;
use super::summary::{Percentiles, Summary, microseconds};
use crate::limits::{FIGURES_EVERY, FIGURES_PART, LAST_LOOK, LAST_LOOKS, STATS_INTERVAL};
use crate::model::Plan;
use crate::verdict::Reason;
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// What the device itself counts, besides what the workers see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Frames that reached the interface.
    pub seen: u64,
    /// Left to the kernel.
    pub passed: u64,
    /// Passed by a worker, and then not taken by the kernel.
    pub refused: u64,
    /// Meant for a worker, but its ring was full.
    pub lost: u64,
}

/// Reads them.
pub type ReadDevice = Box<dyn Fn() -> DeviceCounters + Send>;

/// Everything that the collector reads besides the workers' metrics. It writes nothing that a worker sees.
pub struct Sources {
    pub workers: usize,
    /// Sources beside the workers'.
    pub beside: usize,
    /// Called at every harvest; drops what workers have done with, which closes the metrics in it.
    pub close: Box<dyn Fn() + Send>,
    /// `None`: the sources see every frame.
    pub device_counters: Option<ReadDevice>,
    pub troubles: Troubles,
}

/// What is wrong with the data path, in words; for whoever finds it out to put down.
pub type Troubles = Latest<Vec<String>>;

/// Where the collector reports.
#[derive(Default)]
pub struct Reports {
    /// A line an interval on standard output, or on standard error.
    pub line: bool,
    pub to_stderr: bool,
    /// For an [`IntervalLog`].
    pub hlog: Option<File>,
}

/// The way to the stats thread. Sending never waits.
#[derive(Clone)]
pub struct Stats {
    inbox: Sender<Message>,
    latest: Latest<Snapshot>,
}

/// The stats thread's end.
pub struct Inbox {
    messages: Receiver<Message>,
    latest: Latest<Snapshot>,
}

pub enum Message {
    Layout(Arc<Plan>, Vec<Box<dyn Source>>),
    Query(Box<dyn FnOnce(Snapshot) + Send>),
    Stop,
}

pub fn channel() -> (Stats, Inbox) {
    let ((inbox, messages), latest) = (channel::unbounded(), Latest::default());
    (Stats { inbox, latest: latest.clone() }, Inbox { messages, latest })
}

impl Stats {
    /// Hands over the sources of metrics for a layout, one a worker, then those beside, before any worker can get these metrics. The layout's tables
    /// have the services and servers of `plan`, in that order.
    pub fn open(&self, plan: Arc<Plan>, sources: Vec<Box<dyn Source>>) {
        self.send(Message::Layout(plan, sources));
    }

    /// Asks for the figures. `reply` is called on the stats thread, and shall not keep it; it is dropped if that has ended.
    pub fn figures(&self, reply: impl FnOnce(Snapshot) + Send + 'static) {
        self.send(Message::Query(Box::new(reply)));
    }

    /// The figures that it has put down last, a few times a second: without asking it. `None`: none yet.
    pub fn latest(&self) -> Option<(Arc<Snapshot>, Duration)> {
        self.latest.get()
    }

    /// Lets the thread end, after a last harvest.
    pub fn stop(&self) {
        self.send(Message::Stop);
    }

    fn send(&self, message: Message) {
        // Without the stats thread frames are dispatched all the same; who waits for an answer sees the question dropped.
        let _ = self.inbox.send(message);
    }
}

/// Collects until it is stopped, and once more then. Returns itself, for the figures of the whole run. An interval log
/// that cannot be written is given up, with a warning: the figures go on.
pub fn run(sources: Sources, reports: Reports, inbox: &Inbox) -> Collector {
    let mut log = reports.hlog.and_then(|file| IntervalLog::begin(file).map_err(|error| give_up(&error)).ok());
    let mut collector = Collector::new(sources);
    loop {
        let stopping = collector.wait(inbox);
        let interval = collector.harvest(inbox);
        if let Some(into) = &mut log
            && let Err(error) = into.add(interval.start, interval.end, &interval.services)
        {
            give_up(&error);
            log = None;
        }
        if reports.line {
            say(&collector.line(&interval), reports.to_stderr);
        }
        if stopping {
            return collector;
        }
    }
}

fn give_up(reason: &io::Error) {
    tracing::warn!("the interval log cannot be written and ends here: {reason}");
}

/// A line for whoever listens. When nobody does any more, frames are dispatched all the same.
pub fn say(line: &str, to_stderr: bool) {
    let _ = if to_stderr { writeln!(io::stderr(), "{line}") } else { writeln!(io::stdout(), "{line}") };
}

/// The stats thread's own: the sources, and what they have given so far.
pub struct Collector {
    accounts: Aggregator,
    close: Box<dyn Fn() + Send>,
    device_counters: Option<ReadDevice>,
    troubles: Troubles,
    /// Harvests that every worker has answered in time.
    rounds: u64,
    /// The passed frames of the summary before.
    passed: Cell<u64>,
    started: Instant,
    /// Start of the present interval.
    since: Instant,
    /// The figures in the line before.
    before: Summary,
    /// When the figures are put down for others next.
    show: Instant,
    stopping: bool,
}

/// What one interval brought: since the collector was started, from when to when, and what was timed, by service.
pub struct Interval {
    start: Duration,
    end: Duration,
    services: Vec<(Arc<str>, Long)>,
}

impl Collector {
    pub fn new(sources: Sources) -> Collector {
        let Sources { workers, beside, close, device_counters, troubles } = sources;
        let now = Instant::now();
        let accounts = Aggregator::new(workers).and(beside);
        Collector {
            accounts,
            close,
            device_counters,
            troubles,
            rounds: 0,
            passed: Cell::new(0),
            started: now,
            since: now,
            before: Summary::default(),
            show: now,
            stopping: false,
        }
    }

    /// Does what it is asked, until the interval is over. Whether that was the last.
    fn wait(&mut self, inbox: &Inbox) -> bool {
        let end = self.since + STATS_INTERVAL;
        // However many ask, the interval ends.
        while !self.stopping && Instant::now() < end {
            let now = Instant::now();
            if now >= self.show {
                inbox.latest.put(self.figures());
                let part = (FIGURES_PART * now.elapsed()).clamp(FIGURES_EVERY, STATS_INTERVAL);
                self.show = now + part;
            }
            match inbox.messages.recv_deadline(end.min(self.show)) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.stopping = true,
            }
        }
        self.stopping
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Layout(plan, sources) => self.accounts.open(&plan, sources),
            Message::Query(reply) => reply(self.figures()),
            Message::Stop => self.stopping = true,
        }
    }

    /// Asks every worker for its histograms and waits until they have come: a turn each, unless a worker is stuck.
    fn harvest(&mut self, inbox: &Inbox) -> Interval {
        let give_up = Instant::now() + STATS_INTERVAL / 4;
        self.accounts.ask();
        loop {
            // A worker may come to another layout in the meantime.
            (self.close)();
            inbox.messages.try_iter().for_each(|message| self.take(message));
            let all = self.accounts.gather();
            self.rounds += u64::from(all);
            if all || Instant::now() >= give_up {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let now = Instant::now();
        let start = std::mem::replace(&mut self.since, now) - self.started;
        Interval { start, end: now - self.started, services: self.accounts.end_interval() }
    }

    /// Rates of the interval, and its latency.
    fn line(&mut self, interval: &Interval) -> String {
        let now = self.summary();
        let before = std::mem::replace(&mut self.before, now.clone());
        let seconds = (interval.end - interval.start).as_secs_f64();
        let rate = |now: u64, before: u64| format!("{:.0}/s", now.saturating_sub(before) as f64 / seconds);
        let mut line = format!(
            "{:6.1} s  in {}  forwarded {}  dropped {}  passed {}",
            interval.end.as_secs_f64(),
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
        if let Some(Percentiles { p50, p99, max, .. }) = interval.latency() {
            line += &format!("  p50 {}  p99 {}  max {}", microseconds(p50), microseconds(p99), microseconds(max));
        }
        line
    }

    /// The whole run, up to now, the device's counters included.
    pub fn summary(&self) -> Summary {
        // The device first: what it has seen after this is not missed among the workers'.
        let device_counters = self.device_counters.as_ref().map(|read| read());
        let mut summary = self.accounts.summary();
        let Some(device_counters) = device_counters else { return summary };
        summary.frames = device_counters.seen;
        summary.passed += device_counters.passed;
        summary.dropped[Reason::RxFull as usize] += device_counters.lost;
        self.passed.set(refuse(&mut summary, device_counters.refused, self.passed.get()));
        summary
    }

    /// The whole run, when its workers have ended. Where the program is left to go on, frames come still: the device and the sources are read
    /// between two of them, where that can be.
    pub fn last_summary(&self) -> Summary {
        let seen = || self.device_counters.as_ref().map(|read| read());
        for _ in 0..LAST_LOOKS {
            let before = seen();
            // A frame that the program has counted as seen is decided by then.
            thread::sleep(LAST_LOOK);
            let summary = self.summary();
            if seen() == before {
                return summary;
            }
        }
        self.summary()
    }

    pub fn figures(&self) -> Snapshot {
        let (summary, workers, latency) = (self.summary(), self.accounts.workers(), self.accounts.latency());
        let troubles = self.troubles.get().map(|(troubles, _)| (*troubles).clone()).unwrap_or_default();
        Snapshot { summary, workers, latency, rounds: self.rounds, troubles }
    }
}

/// Counts what the kernel refused as dropped, not as passed; how many are passed then. A frame counts as passed until its refusal is
/// counted, and no count goes back: `before` is how many there were.
fn refuse(summary: &mut Summary, refused: u64, before: u64) -> u64 {
    let passed = summary.passed.saturating_sub(refused).max(before);
    summary.dropped[Reason::PassFull as usize] += summary.passed - passed;
    summary.passed = passed;
    passed
}

impl Interval {
    /// Of all services together.
    fn latency(&self) -> Option<Percentiles> {
        let mut all = aggregate::empty();
        self.services.iter().for_each(|(_, service)| aggregate::add(&mut all, service));
        Percentiles::of(&all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However late refusals are counted, the two counts are of all frames, neither goes back, and in the end they are right.
        #[test]
        fn refused_frames_are_dropped_and_no_count_goes_back(steps in prop::collection::vec((0u64..50, 0u64..50), 1..40)) {
            const FULL: usize = Reason::PassFull as usize;
            let (mut handed, mut refused, mut last) = (0, 0, Summary::default());
            let mut look = |handed: u64, refused: u64| {
                let mut summary = Summary { passed: handed, ..Summary::default() };
                refuse(&mut summary, refused, last.passed);
                assert_eq!(summary.passed + summary.dropped[FULL], handed);
                assert!(summary.passed >= last.passed && summary.dropped[FULL] >= last.dropped[FULL]);
                last = summary.clone();
                summary
            };
            for (more, late) in steps {
                handed += more;
                refused = (refused + late).min(handed);
                look(handed, refused);
            }
            // Some more that are not refused make up for what was counted too early.
            let settled = look(handed + refused, refused);
            prop_assert_eq!(settled.passed, handed);
        }
    }
}
