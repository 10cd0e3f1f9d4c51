//! The last minute: counters, noted again and again, so that a page that is opened has rates at once.

use crate::admin::backend::Backend;
use crate::admin::prometheus::{Buckets, LATENCY_BOUNDS_NS};
use crate::limits::{WEB_EVERY, WEB_MINUTE, WEB_SERVERS_EVERY};
use crate::metrics::snapshot::Snapshot;
use crate::verdict::Reason;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// How many frames were timed, by the bounds of Prometheus; the last are above every bound.
pub type Timed = [u64; LATENCY_BOUNDS_NS.len() + 1];

/// What was noted.
#[derive(Clone, Default)]
pub struct Minute(Arc<Mutex<History>>);

/// Oldest first.
#[derive(Default)]
struct History {
    totals: VecDeque<Totals>,
    servers: VecDeque<Arc<Servers>>,
}

/// Of all frames, since the start of the process.
#[derive(Clone, Copy)]
struct Totals {
    at: Instant,
    frames: u64,
    forwarded: u64,
    passed: u64,
    dropped: [u64; Reason::COUNT],
}

/// Of each server and service, since the start of the process.
pub struct Servers {
    pub at: Instant,
    layout: Arc<Layout>,
    /// In the order of the layout.
    sent: Vec<Sent>,
    timed: HashMap<Arc<str>, Timed>,
}

/// Towards a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub frames: u64,
    pub bytes: u64,
    pub flows: u64,
}

/// Service and server of each place, and where those of a service are. It seldom changes.
struct Layout {
    names: Vec<(Arc<str>, Arc<str>)>,
    services: HashMap<Arc<str>, Vec<usize>>,
}

/// What came and went between two notes, in frames a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// When the interval ended, in seconds before the newest note.
    pub ago_s: f64,
    pub received: f64,
    pub forwarded: f64,
    pub dropped: f64,
    pub passed: f64,
}

impl Minute {
    /// Notes what was counted, without end.
    pub async fn follow(&self, backend: &Backend) {
        let mut ticks = interval(WEB_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some((figures, age)) = backend.counted_last() {
                let now = Instant::now();
                self.note(&figures, now.checked_sub(age).unwrap_or(now));
            }
        }
    }

    /// The figures, which are of that moment. What was noted already changes nothing.
    fn note(&self, figures: &Snapshot, at: Instant) {
        let mut history = self.history();
        if history.totals.back().is_some_and(|last| at <= last.at) {
            return;
        }
        let summary = &figures.summary;
        let (frames, forwarded, passed) = (summary.frames, summary.forwarded, summary.passed);
        history.totals.push_back(Totals { at, frames, forwarded, passed, dropped: summary.dropped });
        let is_old = |then: Instant| at.duration_since(then) > WEB_MINUTE + WEB_EVERY / 2;
        while history.totals.front().is_some_and(|first| is_old(first.at)) {
            history.totals.pop_front();
        }
        let last = history.servers.back();
        // A tick may come a little early.
        let every = WEB_SERVERS_EVERY - WEB_EVERY / 2;
        if last.is_none_or(|last| at.duration_since(last.at) >= every) {
            let servers = Servers::of(figures, at, last.map(|last| &last.layout));
            history.servers.push_back(Arc::new(servers));
        }
        while history.servers.front().is_some_and(|first| is_old(first.at)) {
            history.servers.pop_front();
        }
    }

    /// From interval to interval, oldest first.
    pub fn rates(&self) -> Vec<Rates> {
        let history = self.history();
        let Some(newest) = history.totals.back().map(|last| last.at) else { return Vec::new() };
        let pairs = history.totals.iter().zip(history.totals.iter().skip(1));
        let each = pairs.map(|(from, to)| {
            let seconds = to.at.duration_since(from.at).as_secs_f64();
            let rate = |from: u64, to: u64| rounded(to.saturating_sub(from) as f64 / seconds);
            Rates {
                ago_s: rounded(newest.duration_since(to.at).as_secs_f64()),
                received: rate(from.frames, to.frames),
                forwarded: rate(from.forwarded, to.forwarded),
                dropped: rate(from.dropped.iter().sum(), to.dropped.iter().sum()),
                passed: rate(from.passed, to.passed),
            }
        });
        each.collect()
    }

    /// Frames dropped a second for each reason, over what is known of the last minute.
    pub fn drops_per_s(&self) -> [f64; Reason::COUNT] {
        let history = self.history();
        let (Some(from), Some(to)) = (history.totals.front(), history.totals.back()) else { return Default::default() };
        let seconds = to.at.duration_since(from.at).as_secs_f64();
        std::array::from_fn(|reason| match seconds > 0.0 {
            true => rounded((to.dropped[reason] - from.dropped[reason]) as f64 / seconds),
            false => 0.0,
        })
    }

    /// What was noted of servers at the beginning of the minute, or of the process.
    pub fn servers_before(&self) -> Option<Arc<Servers>> {
        self.history().servers.front().cloned()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Servers {
    fn of(figures: &Snapshot, at: Instant, before: Option<&Arc<Layout>>) -> Servers {
        let sent = figures.summary.servers.iter();
        let sent = sent.map(|of| Sent { frames: of.frames, bytes: of.bytes, flows: of.flows }).collect();
        let timed = figures.latency.iter();
        let timed = timed.filter(|(_, times)| !times.is_empty());
        let timed = timed.map(|(service, times)| (service.clone(), Buckets::of(times).each)).collect();
        let layout = before.filter(|layout| layout.is_of(figures));
        let layout = layout.map_or_else(|| Arc::new(Layout::of(figures)), Arc::clone);
        Servers { at, layout, sent, timed }
    }

    /// Of each server of a service.
    pub fn sent(&self, service: &str) -> HashMap<&str, Sent> {
        let places = self.layout.services.get(service).into_iter().flatten();
        places.map(|at| (&*self.layout.names[*at].1, self.sent[*at])).collect()
    }

    /// How many frames of a service were timed.
    pub fn timed(&self, service: &str) -> Timed {
        self.timed.get(service).copied().unwrap_or_default()
    }
}

impl Layout {
    fn of(figures: &Snapshot) -> Layout {
        let servers = &figures.summary.servers;
        let mut services: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for (at, of) in servers.iter().enumerate() {
            match services.get_mut(&of.service) {
                Some(places) => places.push(at),
                None => _ = services.insert(of.service.clone(), vec![at]),
            }
        }
        Layout { names: servers.iter().map(|of| (of.service.clone(), of.server.clone())).collect(), services }
    }

    fn is_of(&self, figures: &Snapshot) -> bool {
        let names = self.names.iter().map(|(service, server)| (service, server));
        names.eq(figures.summary.servers.iter().map(|of| (&of.service, &of.server)))
    }
}

/// To thousandths: what is behind is noise.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// How long it is from the one to the other; `None`: too short for rates.
pub fn span(from: Instant, to: Instant) -> Option<Duration> {
    to.checked_duration_since(from).filter(|span| *span >= WEB_EVERY / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::summary::{ServerSummary, Summary};

    fn figures(frames: u64, servers: &[(&str, &str, u64)]) -> Snapshot {
        let servers = servers.iter().map(|(service, server, frames)| {
            let (service, server) = ((*service).into(), (*server).into());
            ServerSummary { service, server, frames: *frames, bytes: 0, flows: 0 }
        });
        let mut summary = Summary { frames, forwarded: frames, servers: servers.collect(), ..Summary::default() };
        summary.dropped[Reason::Ttl as usize] = frames / 10;
        Snapshot { summary, ..Snapshot::default() }
    }

    #[test]
    fn rates_are_of_each_second_and_go_back_a_minute() {
        let (minute, start) = (Minute::default(), Instant::now());
        for second in 0..200 {
            let at = start + Duration::from_secs(second);
            minute.note(&figures(1000 * second, &[("a", "x", 10 * second)]), at);
            minute.note(&figures(77, &[]), at);
        }
        let rates = minute.rates();
        let expected = Rates { ago_s: 0.0, received: 1000.0, forwarded: 1000.0, dropped: 100.0, passed: 0.0 };
        assert_eq!((rates.len(), rates[59], rates[0].ago_s), (60, expected, 59.0));
        assert_eq!(minute.drops_per_s()[Reason::Ttl as usize], 100.0);
        let before = minute.servers_before().unwrap();
        assert_eq!(before.at, start + Duration::from_secs(140));
        assert_eq!(before.sent("a")["x"].frames, 1400);
        assert!(before.sent("b").is_empty());
    }

    /// A thread that hangs puts down the same again and again.
    #[test]
    fn a_second_that_nobody_counted_has_no_rate() {
        let (minute, start) = (Minute::default(), Instant::now());
        for second in [0, 1, 1, 1, 4] {
            minute.note(&figures(10 * second, &[]), start + Duration::from_secs(second));
        }
        let rates: Vec<(f64, f64)> = minute.rates().iter().map(|rates| (rates.ago_s, rates.received)).collect();
        assert_eq!(rates, [(3.0, 10.0), (0.0, 10.0)]);
    }

    #[test]
    fn a_layout_is_kept_until_servers_come_or_go() {
        let now = Instant::now();
        let first = Servers::of(&figures(0, &[("a", "x", 1), ("b", "x", 2)]), now, None);
        let second = Servers::of(&figures(0, &[("a", "x", 3), ("b", "x", 4)]), now, Some(&first.layout));
        assert!(Arc::ptr_eq(&first.layout, &second.layout));
        let third = Servers::of(&figures(0, &[("b", "x", 5), ("a", "x", 6)]), now, Some(&first.layout));
        assert_eq!((third.sent("a")["x"].frames, second.sent("a")["x"].frames), (6, 3));
    }
}
