//! Which connections may break: those on a server that was out while they lived, and what an event says of itself. Nothing else.

use crate::network::say;
use std::collections::HashMap;
use std::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// A connection that lives.
#[derive(Clone)]
pub struct Live {
    pub client: String,
    pub port: u16,
    pub server: String,
    pub begun: Instant,
    /// When something last came over it.
    moved: Instant,
    /// Why it may break.
    pub excuse: Option<String>,
}

/// A server is out, or may be taken to be.
struct Outage {
    server: &'static str,
    from: Instant,
    /// `None`: it goes on.
    until: Option<Instant>,
}

#[derive(Default)]
struct State {
    live: HashMap<usize, Live>,
    /// Which server had the last connection of a client's port.
    last: HashMap<(String, u16), String>,
    next: usize,
    outages: Vec<Outage>,
    failures: Vec<String>,
    log: Vec<(Instant, String)>,
    begun: usize,
    fetched: usize,
    excused: usize,
    /// When whoever dispatches last forgot which connections there are.
    forgot: Option<Instant>,
}

pub struct Model {
    began: Instant,
    state: Mutex<State>,
    /// Whoever begins a connection reads it until `begin`.
    beginning: RwLock<()>,
}

impl Model {
    pub fn new() -> Model {
        Model { began: Instant::now(), state: Mutex::default(), beginning: RwLock::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap())
    }

    fn clock(&self, at: Instant) -> String {
        format!("{:8.3}", at.saturating_duration_since(self.began).as_secs_f64())
    }

    /// An event, for the log.
    pub fn note(&self, what: &str) {
        let now = Instant::now();
        say(&format!("{} {what}", self.clock(now)));
        self.with(|state| state.log.push((now, what.to_owned())));
    }

    /// A connection is begun, until this is dropped.
    pub fn beginning(&self) -> RwLockReadGuard<'_, ()> {
        self.beginning.read().unwrap()
    }

    /// Nobody begins one until this is dropped: all that there are, are known.
    pub fn hold(&self) -> RwLockWriteGuard<'_, ()> {
        self.beginning.write().unwrap()
    }

    /// A connection was made, and this server answers.
    pub fn begin(&self, client: &str, port: u16, server: &str) -> usize {
        self.with(|state| {
            let now = Instant::now();
            let is_out = state
                .outages
                .iter()
                .any(|outage| outage.server == server && outage.until.is_none_or(|until| until > now));
            let excuse = is_out.then(|| format!("{server} was out"));
            state.next += 1;
            state.begun += 1;
            let (client, server) = (client.to_owned(), server.to_owned());
            state.last.insert((client.clone(), port), server.clone());
            state.live.insert(state.next, Live { client, port, server, begun: now, moved: now, excuse });
            state.next
        })
    }

    /// Something came over it.
    pub fn moved(&self, id: usize) {
        let now = Instant::now();
        self.with(|state| state.live.get_mut(&id).into_iter().for_each(|live| live.moved = now));
    }

    pub fn last_of(&self, client: &str, port: u16) -> Option<String> {
        self.with(|state| state.last.get(&(client.to_owned(), port)).cloned())
    }

    /// It ended as it should.
    pub fn end(&self, id: usize) {
        self.with(|state| {
            state.live.remove(&id);
            state.fetched += 1;
        });
    }

    /// It was given up, since all is over.
    pub fn leave(&self, id: usize) {
        self.with(|state| drop(state.live.remove(&id)));
    }

    /// It broke.
    pub fn break_(&self, id: usize, how: &str) {
        let now = Instant::now();
        self.with(|state| {
            let Some(Live { client, port, server, begun, excuse, .. }) = state.live.remove(&id) else { return };
            match excuse {
                Some(_) => state.excused += 1,
                None => {
                    let since = self.clock(begun);
                    let what = format!("{} {client}:{port} on {server}, begun at {since}: {how}", self.clock(now));
                    let failure = self.with_events(state, what, now);
                    state.failures.push(failure);
                }
            }
        });
    }

    /// A connection could not be made, or got no answer. `servers`: who may have been meant to answer.
    pub fn refuse(&self, client: &str, from: Instant, servers: &[String], how: &str) {
        let now = Instant::now();
        self.with(|state| {
            let meant = |outage: &&Outage| servers.iter().any(|server| server == outage.server);
            let overlaps = |outage: &&Outage| outage.until.is_none_or(|until| until > from);
            if state.outages.iter().filter(meant).any(|outage| overlaps(&outage)) {
                state.excused += 1;
                return;
            }
            let what = format!("{} {client} asked {servers:?} at {}: {how}", self.clock(now), self.clock(from));
            let failure = self.with_events(state, what, now);
            state.failures.push(failure);
        });
    }

    fn with_events(&self, state: &State, mut text: String, now: Instant) -> String {
        let recent = state.log.iter().filter(|(at, _)| now.duration_since(*at) < Duration::from_secs(60));
        recent.for_each(|(at, what)| text += &format!("\n    {} {what}", self.clock(*at)));
        text
    }

    /// From now on, until `back`, what has to do with the server may break.
    pub fn out(&self, server: &'static str) {
        self.with(|state| {
            state.outages.push(Outage { server, from: Instant::now(), until: None });
            state.excuse(&format!("{server} was out"), |live| live.server == server);
        });
    }

    /// It is back for everybody; what was begun there until now may break yet.
    pub fn back(&self, server: &'static str) {
        self.with(|state| {
            let now = Instant::now();
            let open = state.outages.iter_mut().filter(|outage| outage.server == server && outage.until.is_none());
            open.for_each(|outage| outage.until = Some(now));
            state.excuse(&format!("{server} was out"), |live| live.server == server);
        });
    }

    /// Connections that may break for another reason.
    pub fn excuse(&self, why: &str, which: impl Fn(&Live) -> bool) {
        self.with(|state| state.excuse(why, which));
    }

    pub fn all(&self) -> Vec<Live> {
        self.with(|state| state.live.values().cloned().collect())
    }

    /// Whoever dispatches knows nothing any more of what was before.
    pub fn forget(&self) {
        self.with(|state| state.forgot = Some(Instant::now()));
    }

    /// Those that whoever dispatches has seen since it began to remember.
    pub fn seen(&self) -> Vec<Live> {
        let forgot = self.with(|state| state.forgot);
        self.all().into_iter().filter(|live| forgot.is_none_or(|forgot| live.moved > forgot)).collect()
    }

    pub fn live(&self) -> usize {
        self.with(|state| state.live.len())
    }

    pub fn failures(&self) -> Vec<String> {
        self.with(|state| state.failures.clone())
    }

    pub fn fetched(&self) -> usize {
        self.with(|state| state.fetched)
    }

    pub fn account(&self) -> String {
        self.with(|state| {
            let State { begun, fetched, excused, log, failures, outages, .. } = state;
            let out: Duration = outages.iter().map(|outage| outage.until.unwrap_or(outage.from) - outage.from).sum();
            format!(
                "{} events, servers out for {out:.0?} in all; {begun} connections begun, {fetched} ended well, {excused} broke that \
                 may, {} that may not",
                log.len(),
                failures.len()
            )
        })
    }
}

impl State {
    fn excuse(&mut self, why: &str, which: impl Fn(&Live) -> bool) {
        for live in self.live.values_mut().filter(|live| which(live)) {
            live.excuse.get_or_insert_with(|| why.to_owned());
        }
    }
}
