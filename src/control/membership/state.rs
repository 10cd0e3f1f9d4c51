//! What a server is there for, by all that is known of it.

use super::{Membership, Name, Side};
use crate::admin::status::State;
use crate::control::health::Verdict;
use crate::host::clock;
use crate::table::ServiceId;
use crate::table::build;

/// What is known of one server of one service.
pub struct Judged {
    pub state: State,
    /// Why, in words; empty where nothing is to be said.
    pub why: String,
    /// Whether it may take clients, if a check does not say otherwise.
    pub may: bool,
    /// Whether the connections that it has stay with it.
    pub keeps: bool,
}

impl Judged {
    pub fn new(state: State, why: impl Into<String>) -> Judged {
        let keeps = matches!(state, State::Up | State::Draining | State::Leaving);
        Judged { state, why: why.into(), may: false, keeps }
    }

    /// `stood_in`: it took clients though it was not up.
    pub fn in_table(&self, takes: bool, stood_in: bool) -> build::State {
        match (takes, self.keeps || stood_in) {
            (true, _) => build::State::Active,
            (false, true) => build::State::Draining,
            (false, false) => build::State::Down,
        }
    }
}

impl Membership {
    /// By indices into the plan.
    pub(super) fn judged(&self, service: usize, server: usize) -> Judged {
        self.judged_here(service, server).with(self.hearsay(service, server))
    }

    /// The same, whatever other filters say.
    pub(super) fn judged_here(&self, service: usize, server: usize) -> Judged {
        let of = &self.plan.services[service];
        let it = &of.servers[server];
        let name = (of.name.clone(), it.name.clone());
        if self.down.contains(&it.name) {
            return Judged::new(State::Down, "--down on the command line");
        }
        if self.overrides.get(&of.name, &it.name).disabled {
            return Judged::new(State::Disabled, "by ctl disable");
        }
        let status = self.health.as_ref().and_then(|health| health.status(service, server));
        let resolved = self.side != Side::Dispatcher || self.cluster.mac(service as ServiceId, server).is_some();
        let verdict = self.verdict(service, server);
        if self.joining.contains(&name) {
            if let Some(why) = self.not_ready(service, server) {
                return Judged::new(State::Joining, why);
            }
            if self.starting.contains_key(&of.name) {
                return Judged::new(State::Joining, "the service is new, and waits for its other servers");
            }
        }
        let now = clock::now_ns();
        let agreed = self.agreement.as_ref().map(|_| self.agreed_why(service, server));
        let why = || agreed.clone().unwrap_or_else(|| status.map_or_else(String::new, |status| status.why()));
        let keeps = |until: u64| match until.saturating_sub(now).div_ceil(1_000_000_000) {
            0 => "keeps its active connections until they are closed".to_owned(),
            seconds => format!("keeps its connections for {seconds} s more"),
        };
        let by_check = match verdict {
            Verdict::Down => {
                // Who may serve by way of others gets no new clients here, and keeps its connections.
                let kept = self.in_doubt.get(&name).filter(|until| **until > now);
                let left = kept.map(|until| format!("; {} unless the group finds it down too", keeps(*until)));
                let why = why() + &left.unwrap_or_default();
                Some(Judged { may: true, keeps: kept.is_some(), ..Judged::new(State::Down, why) })
            }
            Verdict::Held => Some(Judged { may: true, ..Judged::new(State::Held, why()) }),
            Verdict::Up | Verdict::Unknown => None,
        };
        if let Some(until) = self.leaving.get(&name) {
            let left = format!("removed from the configuration; {}", keeps(*until));
            return by_check.map_or(Judged::new(State::Leaving, left), |judged| Judged { may: false, ..judged });
        }
        if let Some(until) = self.draining.get(&name) {
            let Some(until) = *until else {
                return Judged::new(State::Drained, "by ctl drain; its timeout has passed");
            };
            let left = format!("by ctl drain; {}", keeps(until));
            return by_check.map_or(Judged::new(State::Draining, left), |judged| Judged { may: false, ..judged });
        }
        let may = it.weight > 0;
        if let Some(judged) = by_check {
            return Judged { may, ..judged };
        }
        let why = match (resolved, may) {
            (false, _) => "its MAC address is not known: its clients' frames are dropped".to_owned(),
            (true, false) => "weight 0: takes no clients".to_owned(),
            (true, true) => agreed.filter(|why| !why.is_empty()).unwrap_or_else(|| self.unconfirmed(it.address)),
        };
        Judged { may, ..Judged::new(State::Up, why) }
    }

    /// Notes which servers of a service are in doubt from now on, and for how long. When one is not any more, its connections move no longer than
    /// they would have, if it had never been: until then; `None`: there is none.
    pub(super) fn doubt(&mut self, service: usize, now: u64) -> Option<u64> {
        let agreement = self.agreement.as_ref()?;
        let of = &self.plan.services[service];
        let mut over = None;
        for (at, server) in of.servers.iter().enumerate() {
            let name = (of.name.clone(), server.name.clone());
            if agreement.is_in_doubt(service, at) {
                self.in_doubt.entry(name).or_insert(now + of.drain.as_nanos() as u64);
            } else if let Some(until) = self.in_doubt.remove(&name).filter(|until| *until > now) {
                over = Some(over.map_or(until, |over: u64| over.min(until)));
            }
        }
        over
    }

    /// Why it is not known yet whether a server serves.
    fn not_ready(&self, service: usize, server: usize) -> Option<&'static str> {
        if self.side == Side::Dispatcher && self.cluster.mac(service as ServiceId, server).is_none() {
            return Some("its MAC address is not known yet");
        }
        self.is_unknown(service, server).then_some("no check result yet")
    }

    /// Lets the servers of a new service join, when it is known of each whether it serves, or after a while.
    pub(super) fn start_together(&mut self, service: usize, now: u64) {
        let of = &self.plan.services[service];
        let Some(until) = self.starting.get(&of.name) else { return };
        let mut servers = of.servers.iter().enumerate().filter(|(_, server)| server.weight > 0);
        if *until <= now || servers.all(|(server, _)| self.not_ready(service, server).is_none()) {
            self.starting.remove(&of.name);
        }
    }

    /// Whether a server that does not take clients has stood in for those that are up, so that it keeps the connections that
    /// it has. One that has failed since keeps none.
    pub(super) fn stand_in(&mut self, name: &Name, state: State, takes: bool) -> bool {
        let verdict = match state {
            State::Held => Verdict::Held,
            State::Down => Verdict::Down,
            _ => {
                self.standing_in.remove(name);
                return false;
            }
        };
        if takes {
            self.standing_in.insert(name.clone(), verdict);
        }
        let kept = self.standing_in.get(name).is_some_and(|then| *then == verdict || verdict == Verdict::Held);
        if !kept {
            self.standing_in.remove(name);
        }
        kept
    }
}
