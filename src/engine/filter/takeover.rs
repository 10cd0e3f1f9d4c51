//! When a server takes over clients: not before those who had them have given them up. A server learns of a change by its own
//! checks, and another one a little sooner or later; so what is lost is lost at once, and what is gained is held for a while.
//!
//! Orders and configurations may come to the servers any time apart. Such a change takes two steps. A server keeps what it loses by
//! it until all servers that it waits for have the change; then it gives that up, and says so. When all have said so, each takes what it gains.
//! It keeps only what is its own whoever else is up. The rest, clients of servers that are down, it has only until one of these comes up: that may
//! go by what was before.

use std::time::Duration;

use tokio::time::Instant;

use super::digest::Digests;
use super::generation::{Generation, Terms};
use super::view::{Active, View};
use crate::limits::{DEFAULT_HOLD, MAX_HOLDS};
use crate::model::{Plan, Service};
use crate::table::build::Cluster;

/// One server's.
pub struct Takeover {
    server: String,
    started: Instant,
    /// What the server has by the newest state.
    view: View,
    held: Vec<Held>,
    /// What it keeps, as its own, though it is another one's by the newest state.
    kept: View,
    /// While others go by another state: who took clients when this server last looked.
    active: Active,
    due: Option<Instant>,
    /// What the newest state came by, and what was known of the others then.
    others: Option<Others>,
}

/// What a server knows of the others that are heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Others {
    /// What this server decides by.
    pub decides: Digests,
    /// Whether all are to decide by the same.
    pub know: bool,
    /// Whether all have given up what they lose by it.
    pub gave_up: bool,
}

/// Until then the server takes no clients but those that it had.
struct Held {
    until: Instant,
    had: View,
    /// And not before all others have given up what they lose.
    awaits: bool,
}

impl Takeover {
    /// Of a server that has no clients yet.
    pub fn new(server: &str, now: Instant) -> Takeover {
        Takeover {
            server: server.to_owned(),
            started: now,
            view: View::default(),
            held: Vec::new(),
            kept: View::default(),
            active: Active::default(),
            due: None,
            others: None,
        }
    }

    /// From now on this server is as one that has just started: whatever it had, others may have.
    pub fn come_again(&mut self, now: Instant) {
        *self = Takeover::new(&self.server, now);
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    /// What the filter decides by from now on. What the state of the cluster gives to the server beyond the state before, it
    /// takes `hold` from now, or later, as the others say. For the first time of each service's `drain`, connections are taken to
    /// be with any server: those that were begun while this one was not there are known to nobody here.
    pub fn next(
        &mut self,
        (plan, cluster): (&Plan, &Cluster),
        now: Instant,
        hold: Duration,
        others: Others,
        account: &dyn Fn(&str) -> u32,
    ) -> Generation {
        self.held.retain(|held| held.until > now || held.awaits && !others.gave_up);
        let view = View::of(cluster, &self.server);
        let is_told = self.others.replace(others).is_some_and(|before| before.decides != others.decides);
        if others.know {
            self.kept = View::default();
        } else if is_told {
            let mut served = self.view.own();
            self.held.iter().for_each(|held| served.keep(&held.had));
            self.kept.join(&served);
        }
        if is_told || self.is_waiting() {
            let active = Active::of(cluster);
            if !is_told && active.has_more_than(&self.active) {
                self.held.iter_mut().filter(|held| held.awaits).for_each(|held| held.had = held.had.own());
            }
            self.active = active;
        }
        self.kept.leave_out(&view);
        self.kept.keep_served(cluster, &self.server);
        let gains = !view.is_within(&self.view);
        let had = std::mem::replace(&mut self.view, view);
        // What it gains later, or gains back, it does by this state too, and others may go by another.
        let awaits = !others.gave_up && (is_told || self.is_waiting());
        if awaits && is_told || gains && !hold.is_zero() {
            self.hold(Held { until: now + hold, had, awaits });
        }
        let settles = |service: &Service| Some(self.started + service.drain).filter(|end| *end > now);
        let settle = plan.services.iter().filter_map(settles).min();
        self.due = self.held.iter().map(|held| held.until).filter(|until| *until > now).chain(settle).min();
        let scattered = |name: &str| {
            plan.services.iter().find(|service| service.name == name).is_some_and(|service| settles(service).is_some())
        };
        let had: Vec<&View> = self.held.iter().map(|held| &held.had).collect();
        let terms = Terms { had: &had, kept: &self.kept, scattered: &scattered, account };
        Generation::on_terms(cluster, &self.server, terms)
    }

    /// Whether the server has given up what it loses by what it decides by.
    pub fn gave_up(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether `next` will say something else because of what the others have said since.
    pub fn is_answered(&self, others: Others) -> bool {
        !self.kept.is_empty() && others.know || others.gave_up && self.is_waiting()
    }

    fn is_waiting(&self) -> bool {
        self.held.iter().any(|held| held.awaits)
    }

    /// When `next` will say something else, though the cluster is as it was.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    fn hold(&mut self, held: Held) {
        self.held.push(held);
        if self.held.len() > MAX_HOLDS {
            let Held { until, had, awaits } = self.held.remove(1);
            let first = &mut self.held[0];
            first.had.keep(&had);
            first.until = first.until.max(until);
            first.awaits |= awaits;
        }
    }
}

/// How long to hold what is gained: as long as the configuration says, or else until two that check the same server have come
/// to a verdict, which they do within an interval and a timeout of each other.
pub fn hold(plan: &Plan) -> Duration {
    let checks = plan.services.iter().filter_map(|service| service.health.as_ref());
    let apart = checks.map(|health| health.interval + health.timeout).max().unwrap_or(DEFAULT_HOLD);
    plan.filter.as_ref().and_then(|filter| filter.hold).unwrap_or(apart)
}

/// The same for a server that comes up: others have its clients until they have seen it rise.
pub fn first_hold(plan: &Plan) -> Duration {
    let checks = plan.services.iter().filter_map(|service| service.health.as_ref());
    let rises = checks.map(|health| health.interval * health.rise + health.timeout).max().unwrap_or_default();
    hold(plan).max(rises)
}
