//! What a service has gone through since its oldest change that is open, or of which flows may be remembered. A process that comes after
//! this one goes through the same, and so keeps connections where this one does: who keeps what follows from nothing else.

use super::service::State;
use crate::limits::{MAX_HISTORY, MAX_SERVERS, MAX_SLOTS, MAX_WEIGHT};
use crate::model::prime::is_prime;
use crate::model::{HashInput, Selection, Server, Service, Tags};
use crate::table::flow_table::MAX_IDENT;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::IpAddr;

/// Never empty. Times are nanoseconds on the clock of the ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    configurations: Vec<Configuration>,
    /// The first one is what everything began with.
    steps: Vec<Step>,
}

/// What slots and their owners follow from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    servers: Vec<Candidate>,
    /// What flow tables call them, which may outlast the process; empty: that is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    idents: Vec<u32>,
    /// How many of them, at the end, a reload removed.
    leaving: usize,
    slots: u32,
    flow: bool,
    modulo: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Candidate {
    name: String,
    address: IpAddr,
    weight: u32,
}

/// What the servers were there for from then on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// By index.
    configuration: usize,
    /// In the order of its servers.
    #[serde(with = "letters")]
    pub states: Vec<State>,
    pub at: u64,
    /// Until when connections stay that they were kept from.
    pub until: u64,
    /// Until when those stay at least that stay already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prolonged: Option<u64>,
}

impl Configuration {
    fn of(service: &Service, idents: Vec<u32>) -> Configuration {
        let candidate =
            |server: &Server| Candidate { name: server.name.clone(), address: server.address, weight: server.weight };
        Configuration {
            servers: service.servers.iter().map(candidate).collect(),
            idents,
            leaving: service.leaving,
            slots: service.slots,
            flow: service.hash == HashInput::Flow,
            modulo: service.selection == Selection::Modulo,
        }
    }

    fn check(&self) -> Result<(), String> {
        let Configuration { servers, idents, leaving, slots, flow, modulo } = self;
        if *slots > MAX_SLOTS || !is_prime(*slots) {
            return Err(format!("`slots` {slots} is not a prime up to {MAX_SLOTS}"));
        }
        let staying = servers.len().saturating_sub(*leaving);
        if staying == 0 || servers.len() > MAX_SERVERS {
            return Err(format!("it has {} `servers`, of which {leaving} are `leaving`", servers.len()));
        }
        if let Some(server) = servers.iter().find(|server| server.weight > MAX_WEIGHT) {
            return Err(format!(
                "server {} has `weight` {}, which is more than {MAX_WEIGHT}",
                server.name, server.weight
            ));
        }
        let mut known = HashSet::new();
        if let Some(twice) = servers.iter().find(|server| !known.insert(server.address)) {
            return Err(format!("it has two servers at {}", twice.address));
        }
        let mut known = HashSet::new();
        let is_ident = |ident: &u32| (1..=MAX_IDENT).contains(ident) && known.insert(*ident);
        if !idents.is_empty() && (idents.len() != servers.len() || !idents.iter().all(is_ident)) {
            return Err("its `idents` are not one a server, each another".to_owned());
        }
        if *flow && *modulo { Err("it is both by `flow` and `modulo`".to_owned()) } else { Ok(()) }
    }

    /// The service as it was.
    fn applied(&self, service: &Service) -> Service {
        let server = |of: &Candidate| Server {
            name: of.name.clone(),
            address: of.address,
            mac: None,
            weight: of.weight,
            tags: Tags::AsReceived,
            quic_ids: Vec::new(),
        };
        Service {
            servers: self.servers.iter().map(server).collect(),
            leaving: self.leaving,
            slots: self.slots,
            hash: if self.flow { HashInput::Flow } else { HashInput::Source },
            selection: if self.modulo { Selection::Modulo } else { Selection::Maglev },
            ..service.clone()
        }
    }
}

impl History {
    /// Of a service that has just begun so. `idents` are its servers'.
    pub fn new(service: &Service, states: Vec<State>, idents: Vec<u32>) -> History {
        let first = Step { configuration: 0, states, at: 0, until: 0, prolonged: None };
        History { configurations: vec![Configuration::of(service, idents)], steps: vec![first] }
    }

    /// What flow tables call the servers that were there.
    pub fn idents(&self) -> impl Iterator<Item = u32> {
        self.configurations.iter().flat_map(|configuration| configuration.idents.iter().copied())
    }

    /// Whether it can be gone through.
    ///
    /// # Errors
    /// What is wrong with it, in words: somebody else than this program wrote that.
    pub fn check(&self) -> Result<(), String> {
        let History { configurations, steps } = self;
        configurations.iter().try_for_each(Configuration::check)?;
        if configurations.len() > steps.len() || steps.len() > MAX_HISTORY {
            return Err(format!("it has {} `configurations` and {} `steps`", configurations.len(), steps.len()));
        }
        let mut last = Some(0);
        for step in steps {
            let at = step.configuration;
            let Some(configuration) =
                configurations.get(at).filter(|_| last.is_some_and(|last| (last..=last + 1).contains(&at)))
            else {
                return Err(format!("a step has `configuration` {at} out of order"));
            };
            if step.states.len() != configuration.servers.len() {
                return Err(format!(
                    "a step has {} `states` for {} servers",
                    step.states.len(),
                    configuration.servers.len()
                ));
            }
            last = Some(at);
        }
        if steps.first().is_none_or(|step| step.configuration != 0) {
            Err("it has no first step".to_owned())
        } else {
            Ok(())
        }
    }

    /// All times in it.
    pub fn times(&self) -> impl Iterator<Item = u64> {
        self.steps.iter().flat_map(|step| [step.at, step.until].into_iter().chain(step.prolonged))
    }

    /// From now on it is configured so. `idents` are its servers'.
    pub fn configure(&mut self, service: &Service, idents: Vec<u32>) {
        self.configurations.push(Configuration::of(service, idents));
    }

    /// The servers of the last configuration are called so.
    pub fn rename(&mut self, idents: Vec<u32>) {
        self.configurations.last_mut().expect("there is always one").idents = idents;
    }

    /// By the last configuration, the servers are there for that from now on.
    pub fn note(&mut self, states: Vec<State>, (at, until): (u64, u64), prolonged: Option<u64>) {
        let configuration = self.configurations.len() - 1;
        self.steps.push(Step { configuration, states, at, until, prolonged });
        if self.steps.len() > MAX_HISTORY {
            self.forget(1);
        }
    }

    /// Nothing of what was matters any more.
    pub fn settle(&mut self) {
        self.forget(self.steps.len() - 1);
    }

    fn forget(&mut self, steps: usize) {
        self.steps.drain(..steps);
        let unused = self.steps[0].configuration;
        self.configurations.drain(..unused);
        self.steps.iter_mut().for_each(|step| step.configuration -= unused);
    }

    /// Whether there is nothing that another process must know.
    pub fn is_settled(&self) -> bool {
        self.steps.len() == 1
    }

    /// Each step, with the service as it was configured then and the idents of its servers, where that is another than before.
    pub fn steps(&self, service: &Service) -> impl Iterator<Item = (Option<(Service, &[u32])>, &Step)> {
        let mut last = None;
        self.steps.iter().filter_map(move |step| {
            let is_new = last.replace(step.configuration) != Some(step.configuration);
            let configuration = self.configurations.get(step.configuration)?;
            let fits = step.states.len() == configuration.servers.len();
            fits.then(|| (is_new.then(|| (configuration.applied(service), &configuration.idents[..])), step))
        })
    }

    /// Whether the last configuration is that of a service.
    pub fn ends_with(&self, service: &Service) -> bool {
        self.configurations.last().is_some_and(|last| *last == Configuration::of(service, last.idents.clone()))
    }

    /// With its times on another clock.
    pub fn on_clock(mut self, to: impl Fn(u64) -> u64) -> History {
        for step in &mut self.steps {
            (step.at, step.until) = (to(step.at), to(step.until));
            step.prolonged = step.prolonged.map(&to);
        }
        self
    }
}

/// States as a word with a letter for each: as a list they would take a line each, and there may be `MAX_HISTORY` steps of `MAX_SERVERS`. A
/// list of letters is read too.
mod letters {
    use super::State;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    const LETTERS: [(State, char); 3] = [(State::Down, 'o'), (State::Draining, 'k'), (State::Active, 't')];

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Letters {
        Word(String),
        List(Vec<char>),
    }

    pub fn serialize<S: Serializer>(states: &[State], to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&states.iter().map(|state| LETTERS[*state as usize].1).collect::<String>())
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<State>, D::Error> {
        let letters = match Letters::deserialize(from)? {
            Letters::Word(word) => word.chars().collect(),
            Letters::List(list) => list,
        };
        let state = |letter| LETTERS.iter().find(|(_, its)| *its == letter).map(|(state, _)| *state);
        let known = |letter| state(letter).ok_or_else(|| D::Error::custom(format!("no state is `{letter}`")));
        letters.into_iter().map(known).collect()
    }
}
