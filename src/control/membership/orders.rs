//! What an operator asks for of servers.

use super::{Membership, Update, reload};
use crate::admin::order::Answer;
use crate::control::overrides::{Override, Overrides};
use crate::control::state_file::{from_wall_time, in_wall_time};
use crate::host::clock;
use crate::limits::{MAX_DRAIN_S, MAX_WEIGHT};
use crate::model::{Plan, Server, Service, names};
use crate::table::ServiceId;
use crate::table::build::State;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What is done to a server by hand.
#[derive(Clone, Copy, Debug)]
pub enum Set {
    /// For so long it keeps its connections; `None`: as long as its services say.
    Drain(Option<u64>),
    Undrain,
    /// `None`: the configuration's.
    Weight(Option<u32>),
    Disable,
    Enable,
}

/// Of whom: a server, in one service or in every one that has it.
#[derive(Clone, Copy)]
struct Subject<'a> {
    server: &'a str,
    service: Option<&'a str>,
}

impl Membership {
    /// Carries it out, for the server of that name in one service or in each that has it, and remembers it across a restart. Nothing is
    /// changed where the answer is a refusal, such as of what leaves a service without any server, unless it is forced.
    pub async fn set(
        &mut self,
        server: &str,
        service: Option<&str>,
        set: Set,
        force: bool,
    ) -> (Answer, Option<Update>) {
        let subject = Subject { server, service };
        let closed = self.closes(subject, set);
        let result = match closed.is_empty() || force {
            true => self.try_set(subject, set).await,
            false => {
                let services = if closed.len() == 1 { "service" } else { "services" };
                Err(format!(
                    "server {server} is the last one that takes clients of {services} {}; to do it anyway, use --force",
                    names::first(closed.iter().map(String::as_str))
                ))
            }
        };
        self.confirm();
        match result {
            Ok((said, update)) => {
                let mut changes = vec![said];
                if !closed.is_empty() {
                    let closed = names::first(closed.iter().map(String::as_str));
                    changes.push(format!("warning: no server takes clients of {closed} now"));
                }
                self.tell_operator(&changes);
                (Answer::Done { changes }, update)
            }
            Err(error) => (Answer::Refused { error }, None),
        }
    }

    async fn try_set(&mut self, subject: Subject<'_>, set: Set) -> Result<(String, Option<Update>), String> {
        let Subject { server, service } = subject;
        within_bounds(set)?;
        let configured = Arc::clone(&self.configured);
        let of = subject.services(&configured)?;
        let time = match set {
            Set::Drain(Some(seconds)) => Duration::from_secs(seconds),
            _ => of.iter().map(|service| service.drain).max().unwrap_or_default(),
        };
        let before: Vec<Override> = of.iter().map(|service| self.overrides.get(&service.name, server)).collect();
        let said = said(subject, &of, set, &before, time);
        let now = clock::now_ns();
        let drained = matches!(set, Set::Drain(_)).then(|| (in_wall_time(time), now + time.as_nanos() as u64));
        let mut overrides = self.overrides.clone();
        overrides.change(service, server, |one| apply(one, set, drained.map(|(wall, _)| wall)));
        self.remember(&overrides)?;
        let weight = |of: &Overrides, service: &Service| of.get(&service.name, server).weight;
        let reweighed = of.iter().any(|service| weight(&overrides, service) != weight(&self.overrides, service));
        if reweighed {
            let plan = reload::effective(&self.configured, &overrides, &self.still_leaving());
            if let Err(error) = self.follow(plan).await {
                let before = self.remembered(self.overrides.clone());
                let undone = self.file.as_mut().map_or(Ok(()), |file| file.confirm(before));
                return Err(undone.map_or_else(
                    |why| format!("{error}\n{why}: the next start will use the new weight"),
                    |()| error.to_string(),
                ));
            }
        }
        self.overrides = overrides;
        for service in &of {
            let name = (service.name.clone(), server.to_owned());
            match (set, drained) {
                (Set::Undrain, _) => _ = self.draining.remove(&name),
                (_, Some((_, until))) => _ = self.draining.insert(name, Some(until).filter(|until| *until > now)),
                _ => {}
            }
        }
        Ok((said, self.judge_after(subject, drained.map(|(_, until)| until), reweighed, now)))
    }

    /// Has all orders be those that count in the group. What the data path must know.
    ///
    /// # Errors
    /// In words; nothing is changed.
    pub async fn adopt(&mut self, wanted: Overrides) -> Result<Option<Update>, String> {
        if wanted == self.overrides {
            return Ok(None);
        }
        let configured = Arc::clone(&self.configured);
        let servers = configured.services.iter().flat_map(|of| of.servers.iter().map(move |it| (&of.name, &it.name)));
        let changed: Vec<(&String, &String, Override, Override)> = servers
            .map(|(service, server)| {
                (service, server, self.overrides.get(service, server), wanted.get(service, server))
            })
            .filter(|(_, _, before, after)| before != after)
            .collect();
        let reweighed = changed.iter().any(|(_, _, before, after)| before.weight != after.weight);
        if reweighed {
            let plan = reload::effective(&self.configured, &wanted, &self.still_leaving());
            self.follow(plan).await.map_err(|error| error.to_string())?;
        }
        self.overrides = wanted;
        let now = clock::now_ns();
        let mut moved = reweighed;
        let mut drained: BTreeMap<&String, Option<u64>> = BTreeMap::new();
        for (service, server, before, after) in &changed {
            let last = drained.entry(*service).or_default();
            let name = ((*service).clone(), (*server).clone());
            match after.drained_until {
                None => _ = self.draining.remove(&name),
                Some(until) if before.drained_until != after.drained_until => {
                    let until = now + from_wall_time(until).as_nanos() as u64;
                    self.draining.insert(name, Some(until).filter(|until| *until > now));
                    *last = (*last).max(Some(until));
                }
                Some(_) => {}
            }
        }
        for at in 0..self.plan.services.len() {
            let Some(until) = drained.get(&self.plan.services[at].name).copied().or(reweighed.then_some(None)) else {
                continue;
            };
            if let Some(until) = until {
                self.cluster.prolong(at as ServiceId, until, now);
            }
            moved |= self.judge(at, now, until);
        }
        let said = changed.iter().map(|(service, server, _, after)| {
            format!("group: server {server} of service {service}: {}", after.said())
        });
        let said: Vec<String> = said.collect();
        if !said.is_empty() {
            self.tell_operator(&said);
        }
        self.note();
        Ok(match (reweighed, moved) {
            (true, _) => Some(Update::Layout),
            (false, true) => Some(Update::Table),
            (false, false) => None,
        })
    }

    /// Judges the services that an order is about: connections that stay do so until `drained`, or for as long as their services say.
    fn judge_after(&mut self, subject: Subject<'_>, drained: Option<u64>, reweighed: bool, now: u64) -> Option<Update> {
        let services: Vec<usize> =
            (0..self.plan.services.len()).filter(|at| reweighed || subject.is_in(&self.plan.services[*at])).collect();
        let moved = services.into_iter().fold(reweighed, |moved, service| {
            if let Some(until) = drained {
                self.cluster.prolong(service as ServiceId, until, now);
            }
            self.judge(service, now, drained) | moved
        });
        match (reweighed, moved) {
            (true, _) => Some(Update::Layout),
            (false, true) => Some(Update::Table),
            (false, false) => None,
        }
    }

    /// The services that have no server left that takes clients, after that.
    fn closes(&self, subject: Subject<'_>, set: Set) -> Vec<String> {
        let takes_none = |service: &Service| match set {
            Set::Drain(_) | Set::Disable | Set::Weight(Some(0)) => true,
            Set::Weight(None) => self.configured_weight(&service.name, subject.server) == Some(0),
            Set::Weight(Some(_)) | Set::Undrain | Set::Enable => false,
        };
        let services = self.plan.services.iter().enumerate();
        let closed = services.filter(|(at, service)| {
            let takes = |(server, it): &(usize, &Server)| {
                it.weight > 0 && self.cluster.state(*at as ServiceId, *server) == State::Active
            };
            let mut taking = service.servers.iter().enumerate().filter(takes).peekable();
            subject.is_in(service)
                && takes_none(service)
                && taking.peek().is_some()
                && taking.all(|(_, server)| server.name == subject.server)
        });
        closed.map(|(_, service)| service.name.clone()).collect()
    }

    fn remember(&mut self, overrides: &Overrides) -> Result<(), String> {
        let Some(mut file) = self.file.take_if(|_| *overrides != self.overrides) else { return Ok(()) };
        let confirmed = file.confirm(self.remembered(overrides.clone()));
        self.file = Some(file);
        confirmed.map_err(|error| format!("{error}; nothing was changed, because a restart would lose the order"))
    }

    pub fn interface(&self) -> &str {
        &self.interfaces[0]
    }

    pub(super) fn configured_weight(&self, service: &str, server: &str) -> Option<u32> {
        let service = self.configured.services.iter().find(|known| known.name == service)?;
        Some(service.servers.iter().find(|known| known.name == server)?.weight)
    }

    pub(super) fn plan_of(&self) -> Arc<crate::model::Plan> {
        Arc::clone(&self.plan)
    }
}

impl Subject<'_> {
    fn is_in(&self, service: &Service) -> bool {
        self.service.is_none_or(|name| service.name == name)
            && service.servers.iter().any(|server| server.name == self.server)
    }

    /// The services that it is about.
    ///
    /// # Errors
    /// There are none; in words.
    fn services<'p>(&self, configured: &'p Plan) -> Result<Vec<&'p Service>, String> {
        let of: Vec<&Service> = configured.services.iter().filter(|service| self.is_in(service)).collect();
        if !of.is_empty() {
            return Ok(of);
        }
        let (server, services) = (self.server, &configured.services);
        let named = |name: &&str| services.iter().find(|service| service.name == **name);
        if let Some(service) = self.service.filter(|service| named(service).is_none()) {
            let known = names::first(services.iter().map(|service| service.name.as_str()));
            return Err(format!("there is no service {service}; there are {known}"));
        }
        let of = self.service.as_ref().and_then(named);
        let among = of.map_or(&services[..], std::slice::from_ref);
        let mut known: Vec<&str> = among.iter().flat_map(|of| &of.servers).map(|server| server.name.as_str()).collect();
        known.sort_unstable();
        known.dedup();
        let place = of.map_or(String::new(), |service| format!(" in service {}", service.name));
        Err(format!("there is no server {server}{place}; there are {}", names::first(known)))
    }
}

fn within_bounds(set: Set) -> Result<(), String> {
    match set {
        Set::Drain(Some(seconds)) if seconds > u64::from(MAX_DRAIN_S) => {
            Err(format!("a drain of {seconds} s is too long; the most is {MAX_DRAIN_S} s (a week)"))
        }
        Set::Weight(Some(weight)) if weight > MAX_WEIGHT => {
            Err(format!("weight {weight} is too great; the greatest is {MAX_WEIGHT}"))
        }
        _ => Ok(()),
    }
}

/// `drained_until`: of the wall clock.
fn apply(one: &mut Override, set: Set, drained_until: Option<u64>) {
    match set {
        Set::Drain(_) => one.drained_until = drained_until,
        Set::Undrain => one.drained_until = None,
        Set::Weight(weight) => one.weight = weight,
        Set::Disable => one.disabled = true,
        Set::Enable => one.disabled = false,
    }
}

/// What is done, in words. `before`: what was set in these services; `time`: of a drain.
fn said(subject: Subject, of: &[&Service], set: Set, before: &[Override], time: Duration) -> String {
    let what = match set {
        Set::Drain(_) => {
            let seconds = time.as_secs();
            let then = match of.iter().any(|service| service.until_closed) {
                true => format!("; those that send packets in the first {seconds} s stay until they end"),
                false => format!(" until they end, or for {seconds} s"),
            };
            format!("drains: no new clients; the connections it has stay{then}")
        }
        Set::Undrain if before.iter().all(|one| one.drained_until.is_none()) => "is not drained".to_owned(),
        Set::Weight(Some(weight)) => format!("has weight {weight} now, instead of the configuration's weight"),
        Set::Weight(None) => "has the weight of the configuration".to_owned(),
        Set::Disable => "is disabled: it gets no frames, and its connections break".to_owned(),
        Set::Enable if before.iter().all(|one| !one.disabled) => "is not disabled".to_owned(),
        Set::Undrain | Set::Enable => "takes clients again".to_owned(),
    };
    let names = names::first(of.iter().map(|service| service.name.as_str()));
    let services = match of.len() {
        1 => format!("service {names}"),
        count => format!("{count} services ({names})"),
    };
    format!("server {} of {services} {what}", subject.server)
}
