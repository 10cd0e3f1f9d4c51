//! The documents that the page is made of: pure functions over what was put down.

use super::minute::{Minute, Rates, Sent, Servers, Timed, rounded, span};
use crate::admin::backend::Observed;
use crate::admin::finding::{Finding, Grade};
use crate::admin::group::GroupSummary;
use crate::admin::overview::Seen;
use crate::admin::prometheus::{Buckets, LATENCY_BOUNDS_NS};
use crate::admin::ready;
use crate::admin::status::{
    AnnounceStatus, CheckStatus, LatencyStatus, PeerStatus, ServerStatus, State, Status, WorkerStatus,
};
use crate::admin::timeline::{Event, Timeline};
use crate::limits::{WEB_NAMED, WEB_ROWS};
use crate::metrics::summary::Percentiles;
use crate::model::Prefix;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// How the process is, and all frames.
#[derive(Serialize)]
pub struct Now {
    /// The process's clock, in seconds since 1970.
    at: f64,
    /// When the process started.
    started: f64,
    /// How old this is, in seconds.
    control_age_s: f64,
    stats_age_s: f64,
    head: Head,
    /// Why `/healthz` and `/readyz` say no, a line each.
    troubles: Vec<String>,
    services: Tally,
    /// Of services: one of two of them counts twice.
    servers: Tally,
    frames: u64,
    forwarded: u64,
    passed: u64,
    /// Those that occurred, the most frequent of late first.
    dropped: Vec<Dropped>,
    minute: Vec<Rates>,
    workers: Vec<WorkerStatus>,
    /// The number of the newest event.
    last_event: u64,
}

#[derive(Serialize)]
struct Head {
    version: String,
    mode: String,
    engine: Option<String>,
    server: Option<String>,
    pid: u32,
    config: String,
    interface: String,
    interface_up: Option<bool>,
    generation: u64,
    findings: Vec<Finding>,
    peers: Vec<PeerStatus>,
    group: Option<GroupSummary>,
}

#[derive(Default, Serialize)]
struct Tally {
    all: usize,
    ok: usize,
    warn: usize,
    fail: usize,
}

#[derive(Serialize)]
struct Dropped {
    reason: &'static str,
    help: &'static str,
    count: u64,
    per_s: f64,
}

/// Which rows are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In the name or address of a service or a server, or in the ports; empty: all.
    pub find: String,
    /// Only those that are not as they should be.
    pub trouble: bool,
    /// From 1 on.
    pub page: usize,
}

/// Rows, a page of them.
#[derive(Serialize)]
pub struct Rows<R> {
    /// How many there are.
    all: usize,
    /// How many are meant.
    found: usize,
    page: usize,
    pages: usize,
    /// How far back rates go, in seconds; `None`: there are none yet.
    span_s: Option<f64>,
    rows: Vec<R>,
}

#[derive(Serialize)]
pub struct ServiceRow {
    name: String,
    address: String,
    ports: Vec<String>,
    grade: Grade,
    servers: usize,
    takes_clients: usize,
    /// Servers that are not as they should be, the first few.
    named: Vec<Named>,
    more: usize,
    slots: u32,
    moving: u32,
    announce: Option<AnnounceStatus>,
    frames_per_s: Option<f64>,
    /// No more than this, of the minute.
    p99_ns: Option<u64>,
}

#[derive(Serialize)]
struct Named {
    name: String,
    state: State,
    why: String,
}

/// A service and its servers.
#[derive(Serialize)]
pub struct Detail {
    service: ServiceRow,
    hash: String,
    selection: String,
    servers: Rows<ServerRow>,
    /// `None`: nothing was timed.
    latency: Option<Latency>,
}

#[derive(Serialize)]
pub struct ServerRow {
    name: String,
    address: String,
    mac: Option<String>,
    grade: Grade,
    state: State,
    takes_clients: bool,
    why: String,
    since_s: f64,
    weight: u32,
    configured_weight: Option<u32>,
    slots: u32,
    /// Parts of the whole, 0 to 1.
    expected: f64,
    /// Of the frames of the minute; `None`: there were none.
    seen: Option<f64>,
    frames_per_s: Option<f64>,
    bytes_per_s: Option<f64>,
    flows_per_s: Option<f64>,
    frames: u64,
    check: Option<CheckStatus>,
}

#[derive(Serialize)]
struct Latency {
    bounds_ns: [u64; LATENCY_BOUNDS_NS.len()],
    /// Of the minute, between a bound and the one before; the last above every bound.
    counts: Vec<u64>,
    /// Upper bounds of the minute's percentiles; `None`: above every bound, or nothing was timed.
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
    p999_ns: Option<u64>,
    /// Since the start.
    run: LatencyStatus,
}

#[derive(Serialize)]
pub struct Events {
    last: u64,
    /// Newest first.
    events: Vec<Event>,
}

pub fn now(seen: &Observed, minute: &Minute, timeline: &Timeline) -> Now {
    let Observed { overview, figures, .. } = seen;
    let (head, summary) = (&overview.head, &figures.summary);
    let (mut services, mut servers) = (Tally::default(), Tally::default());
    for (at, service) in overview.services.iter().enumerate() {
        services.add(grade_of(seen, at));
        service.service.servers.iter().for_each(|server| servers.add(grade_of_server(head, server)));
    }
    let lately = minute.drops_per_s();
    let mut dropped: Vec<Dropped> = summary
        .reasons()
        .map(|(reason, count)| Dropped {
            reason: reason.name(),
            help: reason.help(),
            count,
            per_s: lately[reason as usize],
        })
        .collect();
    dropped.sort_by(|one, other| other.per_s.total_cmp(&one.per_s).then(other.count.cmp(&one.count)));
    Now {
        at: since_1970(SystemTime::now()),
        started: since_1970(seen.started),
        control_age_s: rounded(seen.overview_age.as_secs_f64()),
        stats_age_s: rounded(seen.figures_age.as_secs_f64()),
        head: Head::of(head),
        troubles: troubles(seen),
        services,
        servers,
        frames: summary.frames,
        forwarded: summary.forwarded,
        passed: summary.passed,
        dropped,
        minute: minute.rates(),
        workers: workers(seen),
        last_event: timeline.last(),
    }
}

fn troubles(seen: &Observed) -> Vec<String> {
    let (healthy, ready) = (ready::healthy(&seen.figures), ready::ready(&seen.overview));
    let said = [healthy, ready].into_iter().filter_map(Result::err);
    said.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn workers(seen: &Observed) -> Vec<WorkerStatus> {
    // Without services, which have their own figures.
    let mut status = Status { services: Vec::new(), ..seen.overview.head.clone() };
    crate::admin::figures::fill(&mut status, &seen.figures);
    status.workers
}

/// A page of the services, those that are worst first.
pub fn services(seen: &Observed, minute: &Minute, wanted: &Wanted) -> Rows<ServiceRow> {
    let services = &seen.overview.services;
    let all = (0..services.len()).map(|at| (grade_of(seen, at), at));
    let is_meant = |(grade, at): &(Grade, usize)| {
        (!wanted.trouble || *grade > Grade::Ok) && (wanted.find.is_empty() || finds(&services[*at], &wanted.find))
    };
    let mut found: Vec<(Grade, usize)> = all.filter(is_meant).collect();
    found.sort_by_key(|(grade, _)| std::cmp::Reverse(*grade));
    let (page, shown) = cut(&found, wanted.page);
    let lately = Lately::of(seen, minute, shown.iter().map(|(_, at)| services[*at].service.name.as_str()).collect());
    Rows {
        all: services.len(),
        found: found.len(),
        page,
        pages: found.len().div_ceil(WEB_ROWS),
        span_s: lately.span_s,
        rows: shown.iter().map(|(_, at)| service_row(seen, *at, &lately)).collect(),
    }
}

/// A service and a page of its servers; `None`: there is no such service.
pub fn service(seen: &Observed, minute: &Minute, name: &str, wanted: &Wanted) -> Option<Detail> {
    let at = seen.overview.services.iter().position(|service| service.service.name == name)?;
    let service = &seen.overview.services[at];
    let lately = Lately::of(seen, minute, HashSet::from([name]));
    let head = &seen.overview.head;
    let is_meant = |server: &&ServerStatus| {
        let is_bad = grade_of_server(head, server) > Grade::Ok;
        (!wanted.trouble || is_bad) && (wanted.find.is_empty() || finds_server(server, &wanted.find.to_lowercase()))
    };
    let found: Vec<&ServerStatus> = service.service.servers.iter().filter(is_meant).collect();
    let (page, shown) = cut(&found, wanted.page);
    let sent = lately.sent(name);
    let servers = Rows {
        all: service.service.servers.len(),
        found: found.len(),
        page,
        pages: found.len().div_ceil(WEB_ROWS),
        span_s: lately.span_s,
        rows: shown.iter().map(|server| server_row(head, (service, server), &sent, &lately)).collect(),
    };
    Some(Detail {
        service: service_row(seen, at, &lately),
        hash: service.service.hash.clone(),
        selection: service.service.selection.clone(),
        servers,
        latency: latency(seen, name, &lately),
    })
}

/// Those with a greater number than that.
pub fn events(timeline: &Timeline, after: u64) -> Events {
    let (last, events) = timeline.events_newest_first();
    let new = events.iter().filter(|event| event.number > after);
    Events { last, events: new.map(|event| Event::clone(event)).collect() }
}

/// What was sent and timed of a few services, and since when.
struct Lately<'s> {
    now: HashMap<&'s str, HashMap<&'s str, Sent>>,
    before: Option<Arc<Servers>>,
    /// How far back that is; `None`: nothing is known, or not for long enough.
    span_s: Option<f64>,
    timed: HashMap<&'s str, Timed>,
}

impl<'s> Lately<'s> {
    fn of(seen: &'s Observed, minute: &Minute, services: HashSet<&str>) -> Lately<'s> {
        let (before, now) = (minute.servers_before(), Instant::now());
        let at = now.checked_sub(seen.figures_age).unwrap_or(now);
        let span_s = before.as_ref().and_then(|before| span(before.at, at)).map(|span| rounded(span.as_secs_f64()));
        let mut sent: HashMap<&str, HashMap<&str, Sent>> = HashMap::new();
        for of in seen.figures.summary.servers.iter().filter(|of| services.contains(&*of.service)) {
            let count = Sent { frames: of.frames, bytes: of.bytes, flows: of.flows };
            sent.entry(&of.service).or_default().insert(&of.server, count);
        }
        let timed = seen.figures.latency.iter().filter(|(service, _)| services.contains(&**service));
        let timed = timed.map(|(service, times)| (&**service, Buckets::of(times).each)).collect();
        Lately { now: sent, before, span_s, timed }
    }

    /// What each server of a service was sent in the minute. One that was not there then has begun at 0.
    fn sent(&self, service: &str) -> HashMap<&str, Sent> {
        let before = self.before.as_ref().map(|before| before.sent(service)).unwrap_or_default();
        let now = self.now.get(service).into_iter().flatten();
        now.map(|(server, now)| {
            let then = before.get(server).copied().unwrap_or_default();
            let since = |now: u64, then: u64| now.saturating_sub(then);
            let (frames, bytes) = (since(now.frames, then.frames), since(now.bytes, then.bytes));
            (*server, Sent { frames, bytes, flows: since(now.flows, then.flows) })
        })
        .collect()
    }

    fn per_s(&self, count: u64) -> Option<f64> {
        self.span_s.map(|seconds| rounded(count as f64 / seconds))
    }

    fn timed(&self, service: &str) -> Timed {
        let now = self.timed.get(service).copied().unwrap_or_default();
        let before = self.before.as_ref().map(|before| before.timed(service)).unwrap_or_default();
        std::array::from_fn(|at| now[at].saturating_sub(before[at]))
    }
}

impl Tally {
    fn add(&mut self, grade: Grade) {
        self.all += 1;
        *match grade {
            Grade::Ok => &mut self.ok,
            Grade::Warn => &mut self.warn,
            Grade::Fail => &mut self.fail,
        } += 1;
    }
}

impl Head {
    fn of(status: &Status) -> Head {
        Head {
            version: status.version.clone(),
            mode: status.mode.clone(),
            engine: status.engine.clone(),
            server: status.server.clone(),
            pid: status.pid,
            config: status.config.clone(),
            interface: status.interface.clone(),
            interface_up: status.interface_up,
            generation: status.generation,
            findings: status.findings.clone(),
            peers: status.peers.clone(),
            group: status.group.clone(),
        }
    }
}

/// A service that nobody serves fails; what differs from how the configuration would have it is a warning.
fn grade_of(seen: &Observed, at: usize) -> Grade {
    let (head, service) = (&seen.overview.head, &seen.overview.services[at].service);
    let is_meant = service.servers.iter().any(|server| server.weight > 0);
    if is_meant && !service.servers.iter().any(|server| head.takes_clients(server)) {
        return Grade::Fail;
    }
    let announce = seen.overview.announcements.get(at).or(service.announce.as_ref());
    let is_announced = announce.is_none_or(|announce| announce.wants_clients().is_ok());
    let are_fine = service.servers.iter().all(|server| grade_of_server(head, server) == Grade::Ok);
    if are_fine && is_announced { Grade::Ok } else { Grade::Warn }
}

fn grade_of_server(head: &Status, server: &ServerStatus) -> Grade {
    let is_doubtful = server.check.as_ref().is_some_and(|check| check.failing || check.unchecked.is_some());
    match server.state {
        State::Down => Grade::Fail,
        State::Up if server.weight == 0 && server.configured_weight.is_none() => Grade::Ok,
        State::Up if head.takes_clients(server) && !is_doubtful && server.why.is_empty() => Grade::Ok,
        _ => Grade::Warn,
    }
}

fn finds(seen: &Seen, text: &str) -> bool {
    let (service, text) = (&seen.service, text.to_lowercase());
    let has = |field: &str| field.to_lowercase().contains(&text);
    has(&service.name)
        || service.addresses().any(|address| has(address) || is_in(address, &text))
        || service.ports.iter().any(|port| has(port))
        || service.servers.iter().any(|server| finds_server(server, &text))
}

/// Whether it is an address of that prefix.
fn is_in(prefix: &str, text: &str) -> bool {
    text.parse().is_ok_and(|address| prefix.parse::<Prefix>().is_ok_and(|prefix| prefix.contains(address)))
}

/// `text` is in lower case.
fn finds_server(server: &ServerStatus, text: &str) -> bool {
    server.name.to_lowercase().contains(text)
        || server.address.to_string().contains(text)
        || server.state.name().contains(text)
}

/// The page of that number, or the last; and what is on it.
fn cut<T>(found: &[T], page: usize) -> (usize, &[T]) {
    let page = page.clamp(1, found.len().div_ceil(WEB_ROWS).max(1));
    let from = (page - 1) * WEB_ROWS;
    (page, &found[from..found.len().min(from + WEB_ROWS)])
}

fn service_row(seen: &Observed, at: usize, lately: &Lately) -> ServiceRow {
    let (head, of) = (&seen.overview.head, &seen.overview.services[at]);
    let service = &of.service;
    let bad = || service.servers.iter().filter(|server| grade_of_server(head, server) > Grade::Ok);
    let named = bad().take(WEB_NAMED).map(|server| Named {
        name: server.name.clone(),
        state: server.state,
        why: server.why.clone(),
    });
    let frames = lately.sent(&service.name).values().map(|sent| sent.frames).sum();
    let announce = seen.overview.announcements.get(at).or(service.announce.as_ref());
    ServiceRow {
        name: service.name.clone(),
        address: service.addresses_text(),
        ports: service.ports.clone(),
        grade: grade_of(seen, at),
        servers: service.servers.len(),
        takes_clients: service.servers.iter().filter(|server| head.takes_clients(server)).count(),
        named: named.collect(),
        more: bad().count().saturating_sub(WEB_NAMED),
        slots: service.slots,
        moving: service.moving,
        announce: announce.cloned(),
        frames_per_s: lately.per_s(frames),
        p99_ns: below(&lately.timed(&service.name), 0.99),
    }
}

fn server_row(
    head: &Status,
    (of, server): (&Seen, &ServerStatus),
    sent: &HashMap<&str, Sent>,
    lately: &Lately,
) -> ServerRow {
    let all: u64 = sent.values().map(|sent| sent.frames).sum();
    let server = &of.server_as_of(server, Instant::now());
    let its = sent.get(server.name.as_str()).copied().unwrap_or_default();
    let since_start = lately.now.get(of.service.name.as_str()).and_then(|sent| sent.get(server.name.as_str()));
    ServerRow {
        name: server.name.clone(),
        address: server.address.to_string(),
        mac: server.mac.clone(),
        grade: grade_of_server(head, server),
        state: server.state,
        takes_clients: head.takes_clients(server),
        why: server.why.clone(),
        since_s: rounded(server.since_s),
        weight: server.weight,
        configured_weight: server.configured_weight,
        slots: server.slots,
        expected: server.share,
        seen: (all > 0 && lately.span_s.is_some()).then(|| its.frames as f64 / all as f64),
        frames_per_s: lately.per_s(its.frames),
        bytes_per_s: lately.per_s(its.bytes),
        flows_per_s: lately.per_s(its.flows),
        frames: since_start.map_or(0, |sent| sent.frames),
        check: server.check.clone(),
    }
}

fn latency(seen: &Observed, service: &str, lately: &Lately) -> Option<Latency> {
    let (_, run) = seen.figures.latency.iter().find(|(of, _)| &**of == service)?;
    let Percentiles { count, p50, p90, p99, p999, max } = Percentiles::of(run)?;
    let timed = lately.timed(service);
    Some(Latency {
        bounds_ns: LATENCY_BOUNDS_NS,
        counts: timed.to_vec(),
        p50_ns: below(&timed, 0.5),
        p90_ns: below(&timed, 0.9),
        p99_ns: below(&timed, 0.99),
        p999_ns: below(&timed, 0.999),
        run: LatencyStatus { count, p50, p90, p99, p999, max },
    })
}

/// The lowest bound below which this part of all is.
fn below(timed: &Timed, part: f64) -> Option<u64> {
    let all: u64 = timed.iter().sum();
    let mut sum = 0;
    let reached = timed.iter().position(|count| {
        sum += count;
        all > 0 && sum as f64 >= part * all as f64
    });
    LATENCY_BOUNDS_NS.get(reached?).copied()
}

fn since_1970(moment: SystemTime) -> f64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1e3
}
