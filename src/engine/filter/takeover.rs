//! When a server takes over clients: not before those who had them have given them up. A server learns of a change by its own
//! checks, and another one a little sooner or later; so what is lost is lost at once, and what is gained is held for a while.

use std::time::Duration;

use tokio::time::Instant;

use super::generation::{Generation, Terms};
use super::view::View;
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
    due: Option<Instant>,
}

/// Until then the server takes no clients but those that it had.
struct Held {
    until: Instant,
    had: View,
}

impl Takeover {
    /// Of a server that has no clients yet.
    pub fn new(server: &str, now: Instant) -> Takeover {
        Takeover { server: server.to_owned(), started: now, view: View::default(), held: Vec::new(), due: None }
    }

    /// From now on this server is as one that has just started: whatever it had, others may have.
    pub fn come_again(&mut self, now: Instant) {
        *self = Takeover::new(&self.server, now);
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    /// What the filter decides by from now on. What the state of the cluster gives to the server beyond the state before, it
    /// takes `hold` from now. For the first time of each service's `drain`, connections are taken to be with any server: those that
    /// were begun while this one was not there are known to nobody here.
    pub fn next(
        &mut self,
        (plan, cluster): (&Plan, &Cluster),
        now: Instant,
        hold: Duration,
        account: &dyn Fn(&str) -> u32,
    ) -> Generation {
        self.held.retain(|held| held.until > now);
        let view = View::of(cluster, &self.server);
        let gains = !view.is_within(&self.view);
        let had = std::mem::replace(&mut self.view, view);
        if gains && !hold.is_zero() {
            self.hold(Held { until: now + hold, had });
        }
        let settles = |service: &Service| Some(self.started + service.drain).filter(|end| *end > now);
        let settle = plan.services.iter().filter_map(settles).min();
        self.due = self.held.iter().map(|held| held.until).chain(settle).min();
        let scattered = |name: &str| {
            plan.services.iter().find(|service| service.name == name).is_some_and(|service| settles(service).is_some())
        };
        let had: Vec<&View> = self.held.iter().map(|held| &held.had).collect();
        Generation::on_terms(cluster, &self.server, Terms { had: &had, scattered: &scattered, account })
    }

    /// When `next` will say something else, though the cluster is as it was.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    fn hold(&mut self, held: Held) {
        self.held.push(held);
        if self.held.len() > MAX_HOLDS {
            let Held { until, had } = self.held.remove(1);
            let first = &mut self.held[0];
            first.had.keep(&had);
            first.until = first.until.max(until);
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
