//! In broadcast mode every server has a filter, and these tell each other how they are. What they say counts beside what this
//! server's checks find: a server is the first to know whether it serves, and one that others still have as serving is not taken over.

use super::state::Judged;
use super::{Membership, Name, Update};
use crate::admin::status::State;
use crate::control::health::Verdict;
use crate::control::overrides::Overrides;
use crate::host::clock;
use crate::model::{Plan, Server};
use crate::table::ServiceId;
use crate::table::build;
use std::collections::HashMap;

/// What the filters say of a server of a service, and what is to be known of it, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hearsay {
    /// It takes clients, whatever is known here.
    Serves(String),
    /// It takes clients as soon as others have given them up.
    Joins(String),
    /// It takes no new clients, but keeps the connections that it has.
    Keeps(String),
    /// It serves nobody.
    Fails(String),
}

/// By service and server.
pub type Hearsays = HashMap<Name, Hearsay>;

/// How a server of a service is seen from here, whatever others say.
#[derive(Clone, Debug)]
pub struct Seen {
    pub service: String,
    pub server: String,
    /// It has a weight.
    pub may: bool,
    /// No check has found it down. Of this server itself: it would take clients.
    pub serves: bool,
    /// A check has found it down. Of this server itself: it keeps no connection either.
    pub failed: bool,
    /// It takes clients by the present table.
    pub takes: bool,
}

impl Membership {
    /// What the configuration file says, without what operators ordered.
    pub fn configured(&self) -> &Plan {
        &self.configured
    }

    /// What operators ordered, and the servers that the command line takes as down.
    pub fn orders(&self) -> (&Overrides, &[String]) {
        (&self.overrides, &self.down)
    }

    /// Takes in what filters say. Returns what the data path must know of it.
    pub fn hear(&mut self, hearsays: Hearsays) -> Option<Update> {
        if self.hearsays == hearsays {
            return None;
        }
        self.hearsays = hearsays;
        let services = 0..self.plan.services.len();
        let now = clock::now_ns();
        let moved = services.fold(false, |moved, service| self.judge(service, now, None) | moved);
        self.note();
        moved.then_some(Update::Table)
    }

    /// Whether a server takes clients of any service by the present table.
    pub fn takes_clients(&self, server: &str) -> bool {
        (0..self.cluster.services() as ServiceId).any(|of| self.cluster.active(of).any(|name| name == server))
    }

    /// All servers but those that are leaving, as they are seen from `me`.
    pub fn seen(&self, me: &str) -> Vec<Seen> {
        let mut all = Vec::new();
        for (at, service) in self.plan.services.iter().enumerate() {
            let staying = service.servers.len() - service.leaving;
            for (position, server) in service.servers[..staying].iter().enumerate() {
                let (serves, failed) = match server.name == me {
                    true => self.own(at, position),
                    false => self.checked(at, position, server),
                };
                let takes = self.cluster.state(at as ServiceId, position) == build::State::Active;
                let (may, service, server) = (server.weight > 0, service.name.clone(), server.name.clone());
                all.push(Seen { service, server, may, serves, failed, takes });
            }
        }
        all
    }

    /// Whether another server serves, and whether it has failed, by checks.
    fn checked(&self, service: usize, position: usize, server: &Server) -> (bool, bool) {
        let status = self.health.as_ref().and_then(|health| health.status(service, position));
        let verdict = status.map_or(Verdict::Up, |status| status.verdict);
        let is_down = self.down.contains(&server.name);
        (matches!(verdict, Verdict::Up | Verdict::Unknown) && !is_down, verdict == Verdict::Down)
    }

    /// The same of this server, which orders concern as well.
    fn own(&self, service: usize, position: usize) -> (bool, bool) {
        let servers = 0..self.plan.services[service].servers.len();
        let judged: Vec<Judged> = servers.map(|server| self.judged_here(service, server)).collect();
        let may: Vec<bool> = judged.iter().map(|judged| judged.may).collect();
        let takes = self.health.as_ref().map_or_else(|| may.clone(), |health| health.serving(service, &may));
        let state = judged[position].in_table(takes[position], false);
        (state == build::State::Active, state == build::State::Down)
    }

    pub(super) fn hearsay(&self, service: usize, server: usize) -> Option<&Hearsay> {
        if self.hearsays.is_empty() {
            return None;
        }
        let of = &self.plan.services[service];
        let it = &of.servers[server];
        let may = it.weight > 0 && server < of.servers.len() - of.leaving;
        may.then(|| self.hearsays.get(&(of.name.clone(), it.name.clone()))).flatten()
    }
}

impl Judged {
    pub(super) fn with(self, hearsay: Option<&Hearsay>) -> Judged {
        let (state, why, keeps) = match hearsay {
            None => return self,
            Some(Hearsay::Serves(_)) if self.state == State::Up => return self,
            Some(Hearsay::Serves(why)) => {
                let here = if self.why.is_empty() { String::new() } else { format!(" ({})", self.why) };
                let why = format!("{} by this host's own checks{here}, but {why}", self.state.name());
                return Judged { may: true, ..Judged::new(State::Up, why) };
            }
            Some(Hearsay::Joins(why)) => (State::Joining, why, true),
            Some(Hearsay::Keeps(why)) => (State::Down, why, true),
            Some(Hearsay::Fails(why)) => (State::Down, why, false),
        };
        // What is known here already says more.
        let (state, why) = if self.state == State::Up { (state, why.clone()) } else { (self.state, self.why) };
        Judged { keeps, ..Judged::new(state, why) }
    }
}
