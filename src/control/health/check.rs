//! What is known of one server of one service, and of all that are checked for it.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::change::What;
use super::observer::Evidence;
use super::probe::{Failure, Trouble};
use super::state::{Rules, State, Verdict};
use crate::limits::{HEALTH_FIRST_PAUSE, HEALTH_RELAY};
use crate::model::identity::Identity;
use crate::model::{self, Deliver, Via};

pub(super) struct Service {
    pub name: String,
    pub identity: Identity,
    pub cluster: IpAddr,
    pub deliver: Deliver,
    pub health: Arc<model::Health>,
    pub rules: Rules,
    /// As in the plan.
    pub checks: Vec<Check>,
    pub all_down: bool,
    /// How many probes have come to a result.
    pub results: u64,
}

/// A verdict, as it is remembered across a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    pub service: String,
    pub server: String,
    pub address: IpAddr,
    pub verdict: Verdict,
    /// Seconds since 1970.
    pub since: u64,
    /// It flaps: how long it must go without a failure to come up, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_s: Option<u64>,
}

/// One server of one service.
pub(super) struct Check {
    pub server: model::Server,
    /// What it is asked at: the cluster address or its primary one.
    pub asked: IpAddr,
    pub state: State,
    /// Since when it has its verdict, in seconds since 1970.
    pub since: u64,
    pub due: Instant,
    pub is_running: bool,
    /// Whether it is probed from here.
    pub is_on: bool,
    /// Failures since the last success.
    pub failures: u32,
    pub failure: Option<(Instant, String)>,
    pub checked: Option<Instant>,
    pub latency: Option<Duration>,
    /// When the last probe that succeeded began.
    pub succeeded: Option<Instant>,
    /// The last probe was not answered, or not to its end.
    pub stalled: Option<Evidence>,
    /// A failure that does not count yet, by when its probe began.
    pub doubt: Option<(Instant, Evidence)>,
    pub unchecked: Option<(Instant, String)>,
}

impl Service {
    /// What `before` has of it keeps its state.
    pub fn new(service: &model::Service, before: Option<Service>) -> Option<Service> {
        let health = service.health.clone()?;
        let now = Instant::now();
        let interval = health.interval;
        let (mut checks, all_down) = before.map_or_else(Default::default, |old| (old.checks, old.all_down));
        let asked = |server: &model::Server| match health.via {
            Via::Service => service.address,
            Via::Primary => server.address,
        };
        let check = |server: &model::Server| {
            let same = |old: &Check| old.server.is_same(server);
            match checks.iter().position(same).map(|at| checks.swap_remove(at)) {
                Some(old) => {
                    let due = old.due.min(now + interval);
                    Check { server: server.clone(), asked: asked(server), due, is_running: false, doubt: None, ..old }
                }
                None => Check::new(server.clone(), asked(server), now, interval),
            }
        };
        let checks = service.servers.iter().map(check).collect();
        let rules = Rules::from(&health);
        let (name, cluster, deliver) = (service.name.clone(), service.address, service.deliver);
        let identity = Identity::of(service);
        Some(Service {
            name,
            identity,
            cluster,
            deliver,
            health: Arc::new(health),
            rules,
            checks,
            all_down,
            results: 0,
        })
    }

    /// Whether all servers that count are down, if that has changed.
    pub fn count(&mut self) -> Option<What> {
        let mut count = self.checks.iter().filter(|check| check.server.weight > 0).peekable();
        let all_down = count.peek().is_some() && count.all(|check| check.state.verdict == Verdict::Down);
        if all_down == self.all_down {
            return None;
        }
        self.all_down = all_down;
        Some(if all_down { What::AllDown(self.health.all_down) } else { What::NotAllDown })
    }
}

impl Check {
    pub fn new(server: model::Server, asked: IpAddr, now: Instant, interval: Duration) -> Check {
        Check {
            server,
            asked,
            state: State::new(now),
            since: since_1970(),
            due: now + interval.min(HEALTH_FIRST_PAUSE).mul_f64(fastrand::f64()),
            is_running: false,
            is_on: true,
            failures: 0,
            failure: None,
            checked: None,
            latency: None,
            succeeded: None,
            stalled: None,
            doubt: None,
            unchecked: None,
        }
    }

    /// Begins to be probed from here, or is not any more: nothing is known of it then.
    pub fn turn(&mut self, on: bool, now: Instant, interval: Duration) {
        let (server, asked, is_running) = (self.server.clone(), self.asked, self.is_running);
        *self = Check { is_on: on, is_running, ..Check::new(server, asked, now, interval) };
    }

    /// Whether it is asked over IPv4, or over IPv6.
    pub fn is_of(&self, ipv4: bool) -> bool {
        self.asked.is_ipv4() == ipv4
    }

    /// Whether the probe route to the server may be what is wrong.
    pub fn needs_relay(&self, result: &Result<Duration, Trouble>) -> bool {
        match result {
            Ok(_) => false,
            Err(Trouble::Server(_)) => self.failures.is_multiple_of(HEALTH_RELAY),
            Err(Trouble::Here(_)) => true,
        }
    }

    pub fn succeed(&mut self, latency: Duration, began: Instant) {
        self.failures = 0;
        self.latency = Some(latency);
        self.succeeded = Some(began);
        (self.stalled, self.doubt) = (None, None);
    }

    pub fn fail(&mut self, failure: &Failure, now: Instant) {
        self.failures += 1;
        self.failure = Some((now, failure.to_string()));
        self.stalled = Some(failure.evidence()).filter(|evidence| evidence.needs_witness());
    }

    /// Since when is counted from the first reason on, until there is a result again.
    pub fn set_unchecked(&mut self, reason: &str, now: Instant) {
        let since = self.unchecked.as_ref().map_or(now, |(since, _)| *since);
        self.unchecked = Some((since, reason.to_owned()));
    }

    /// Takes in a result that counts. What is to be told of it.
    pub fn judge(&mut self, success: bool, rules: &Rules, server: usize, now: Instant) -> Option<What> {
        self.checked = Some(now);
        (self.unchecked, self.doubt) = (None, None);
        if !self.state.judge(success, rules, now) {
            return None;
        }
        self.since = since_1970();
        let hold = self.state.hold();
        Some(match self.state.verdict {
            Verdict::Unknown | Verdict::Up => What::Up { server, latency: self.latency.unwrap_or_default() },
            Verdict::Held => What::Held { server, hold: hold.unwrap_or_default() },
            Verdict::Down => {
                let reason = self.failure.as_ref().map(|(_, reason)| reason.clone()).unwrap_or_default();
                What::Down { server, reason, hold }
            }
        })
    }
}

/// Seconds.
pub fn since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
