//! What an operator asks for.

use super::{Membership, Update, reload};
use crate::admin::order::{Answer, TracedService};
use crate::control::overrides::{Override, Overrides, Withdrawn};
use crate::control::state_file::in_wall_time;
use crate::hash;
use crate::host::clock;
use crate::limits::{MAX_DRAIN_S, MAX_WEIGHT};
use crate::model::{Selection, Server, Service};
use crate::table::ServiceId;
use crate::table::build::State;
use std::net::IpAddr;
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

impl Membership {
    /// Carries it out, and remembers it across a restart. Nothing is changed where the answer is a refusal, such as of what
    /// leaves a service without any server, unless it is forced.
    pub async fn set(&mut self, server: &str, set: Set, force: bool) -> (Answer, Option<Update>) {
        let result = match self.closes(server, set) {
            closed if closed.is_empty() || force => self.try_set(server, set).await,
            closed => Err(format!(
                "server {server} is the last that takes clients of {}; if nobody is to serve them: --force",
                closed.iter().map(|service| format!("service {service}")).collect::<Vec<_>>().join(", ")
            )),
        };
        self.confirm();
        match result {
            Ok((changes, update)) => {
                self.tell_operator(&changes);
                (Answer::Done { changes }, update)
            }
            Err(error) => (Answer::Refused { error }, None),
        }
    }

    async fn try_set(&mut self, name: &str, set: Set) -> Result<(Vec<String>, Option<Update>), String> {
        let of: Vec<&Service> =
            self.configured.services.iter().filter(|s| s.servers.iter().any(|server| server.name == name)).collect();
        if of.is_empty() {
            let all = self.configured.services.iter().flat_map(|service| &service.servers);
            let mut known: Vec<&str> = all.map(|server| server.name.as_str()).collect();
            known.sort_unstable();
            known.dedup();
            known.truncate(12);
            return Err(format!("there is no server {name}; there are {}", known.join(", ")));
        }
        let longest = of.iter().map(|service| service.drain).max().unwrap_or_default();
        let names: Vec<&str> = of.iter().map(|service| service.name.as_str()).collect();
        let subject = format!("server {name} of service{} {}", if of.len() == 1 { "" } else { "s" }, names.join(", "));
        let now = clock::now_ns();
        let mut one = self.overrides.get(name).cloned().unwrap_or_default();
        let mut drained = None;
        let mut said = match set {
            Set::Drain(Some(seconds)) if seconds > u64::from(MAX_DRAIN_S) => {
                return Err(format!("a drain of {seconds} s is too long; the most is {MAX_DRAIN_S} s (a week)"));
            }
            Set::Drain(time) => {
                let time = time.map_or(longest, Duration::from_secs);
                one.drained_until = Some(in_wall_time(time));
                drained = Some(now + time.as_nanos() as u64);
                let seconds = time.as_secs();
                let until_closed = of.iter().any(|service| service.until_closed);
                let then = match until_closed {
                    true => format!("; those that show themselves in the first {seconds} s stay until they end"),
                    false => format!(" until they end, or for {seconds} s"),
                };
                format!("drains: no new clients; the connections it has stay{then}")
            }
            Set::Undrain if one.drained_until.is_none() => "is not drained".to_owned(),
            Set::Undrain => {
                one.drained_until = None;
                "takes clients again".to_owned()
            }
            Set::Weight(Some(weight)) if weight > MAX_WEIGHT => {
                return Err(format!("weight {weight} is too great; the greatest is {MAX_WEIGHT}"));
            }
            Set::Weight(Some(weight)) => {
                one.weight = Some(weight);
                format!("has weight {weight} now, and not that of the configuration")
            }
            Set::Weight(None) => {
                one.weight = None;
                "has the weight of the configuration".to_owned()
            }
            Set::Disable => {
                one.disabled = true;
                "is disabled: it gets nothing, and its connections are cut".to_owned()
            }
            Set::Enable if !one.disabled => "is not disabled".to_owned(),
            Set::Enable => {
                one.disabled = false;
                "takes clients again".to_owned()
            }
        };
        said = format!("{subject} {said}");
        let mut overrides = self.overrides.clone();
        overrides.remove(name);
        if one != Override::default() {
            overrides.insert(name.to_owned(), one);
        }
        self.remember(&overrides)?;
        let reweighed =
            overrides.get(name).and_then(|set| set.weight) != self.overrides.get(name).and_then(|set| set.weight);
        if reweighed {
            let plan = reload::effective(&self.configured, &overrides, &self.still_leaving());
            if let Err(error) = self.follow(plan).await {
                let before = self.remembered(self.overrides.clone());
                let undone = self.file.as_mut().map_or(Ok(()), |file| file.confirm(before));
                return Err(undone.map_or_else(
                    |why| format!("{error}\n{why}: the next start takes the weight"),
                    |()| error.to_string(),
                ));
            }
        }
        self.overrides = overrides;
        match (set, drained) {
            (Set::Undrain, _) => _ = self.draining.remove(name),
            (_, Some(until)) => _ = self.draining.insert(name.to_owned(), Some(until).filter(|until| *until > now)),
            _ => {}
        }
        let services: Vec<usize> = (0..self.plan.services.len())
            .filter(|at| reweighed || self.plan.services[*at].servers.iter().any(|server| server.name == name))
            .collect();
        let moved = services.into_iter().fold(reweighed, |moved, service| {
            if let Some(until) = drained {
                self.cluster.prolong(service as ServiceId, until, now);
            }
            self.judge(service, now, drained) | moved
        });
        let update = match (reweighed, moved) {
            (true, _) => Some(Update::Layout),
            (false, true) => Some(Update::Table),
            (false, false) => None,
        };
        Ok((vec![said], update))
    }

    /// What is not to be announced.
    pub fn withdrawn(&self) -> &Withdrawn {
        &self.withdrawn
    }

    /// Has a service, or all of them, not be announced any more, or again; and remembers it across a restart.
    pub fn set_withdrawn(&mut self, service: Option<&str>, withdrawn: bool) -> Answer {
        match self.try_set_withdrawn(service, withdrawn) {
            Ok(changes) => {
                self.tell_operator(&changes);
                Answer::Done { changes }
            }
            Err(error) => Answer::Refused { error },
        }
    }

    fn try_set_withdrawn(&mut self, service: Option<&str>, withdrawn: bool) -> Result<Vec<String>, String> {
        let mut wanted = self.withdrawn.clone();
        let known = |name: &str| self.configured.services.iter().find(|service| service.name == name);
        let said = match (service, withdrawn) {
            (Some(name), _) if known(name).is_none() && (withdrawn || !wanted.services.contains(name)) => {
                let known: Vec<&str> =
                    self.configured.services.iter().map(|known| known.name.as_str()).take(12).collect();
                return Err(format!("there is no service {name}; there are {}", known.join(", ")));
            }
            (Some(name), false) if wanted.all => {
                return Err(format!(
                    "every service is withdrawn, and not service {name} alone; `oneip ctl announce` announces all that are ready"
                ));
            }
            (Some(name), true) => {
                wanted.services.insert(name.to_owned());
                format!("service {name} is withdrawn: frames that come to it are dispatched still")
            }
            (Some(name), false) => match wanted.services.remove(name) {
                true => format!("service {name} is announced when it is ready"),
                false => format!("service {name} is not withdrawn by ctl"),
            },
            (None, true) => {
                wanted.all = true;
                "every service is withdrawn: frames that come are dispatched still".to_owned()
            }
            (None, false) if wanted == Withdrawn::default() => "no service is withdrawn by ctl".to_owned(),
            (None, false) => {
                wanted = Withdrawn::default();
                "every service is announced when it is ready".to_owned()
            }
        };
        let mut changes = vec![said];
        if self.configured.announce.is_none() && wanted != self.withdrawn {
            changes.push(
                "there is no [announce], so no route changes; `oneip ctl ready` tells it to keepalived".to_owned(),
            );
        }
        if let (Some(of), true) = (service.and_then(known), withdrawn) {
            let others = self.configured.services.iter().filter(|other| other.address == of.address);
            let others: Vec<&str> =
                others.filter(|other| !wanted.has(&other.name)).map(|other| other.name.as_str()).collect();
            let shared = format!("{} stays announced while service {} is ready", of.address, others.join(", "));
            changes.extend((!others.is_empty()).then_some(shared));
        }
        if wanted != self.withdrawn {
            let before = std::mem::replace(&mut self.withdrawn, wanted);
            if let Some(mut file) = self.file.take() {
                let confirmed = file.confirm(self.remembered(self.overrides.clone()));
                self.file = Some(file);
                if let Err(error) = confirmed {
                    self.withdrawn = before;
                    return Err(format!("{error}; nothing was changed, since a restart would forget it"));
                }
            }
        }
        Ok(changes)
    }

    /// The services that have no server left that takes clients, after that.
    fn closes(&self, name: &str, set: Set) -> Vec<&str> {
        if !matches!(set, Set::Drain(_) | Set::Disable | Set::Weight(Some(0))) {
            return Vec::new();
        }
        let services = self.plan.services.iter().enumerate();
        let closed = services.filter(|(at, service)| {
            let takes = |(server, it): &(usize, &Server)| {
                it.weight > 0 && self.cluster.state(*at as ServiceId, *server) == State::Active
            };
            let mut taking = service.servers.iter().enumerate().filter(takes).peekable();
            taking.peek().is_some() && taking.all(|(_, server)| server.name == name)
        });
        closed.map(|(_, service)| service.name.as_str()).collect()
    }

    fn remember(&mut self, overrides: &Overrides) -> Result<(), String> {
        let Some(mut file) = self.file.take_if(|_| *overrides != self.overrides) else { return Ok(()) };
        let confirmed = file.confirm(self.remembered(overrides.clone()));
        self.file = Some(file);
        confirmed.map_err(|error| format!("{error}; nothing was changed, since a restart would forget it"))
    }

    /// Where a client address belongs, in every service of its family.
    pub fn trace(&self, client: IpAddr) -> Vec<TracedService> {
        let number = match client {
            IpAddr::V4(client) => client.to_bits() as u128,
            IpAddr::V6(client) => client.to_bits(),
        };
        let services = self.plan.services.iter().enumerate();
        let of_family = services.filter(|(_, service)| service.address.is_ipv4() == client.is_ipv4());
        of_family
            .map(|(at, service)| {
                let id = at as ServiceId;
                let table = self.cluster.service(id);
                let name = |server: u16| service.servers[server as usize].name.clone();
                let hash = hash::source(table.rule.key, client);
                let (slot, server) = table.select(hash, number);
                let by_rule = |rule: &crate::table::Rule| hash::source(rule.key, client);
                let keeps = table.kept().and_then(|kept| kept.previous_owner(server, by_rule, number).server());
                let order = self.cluster.order(id, hash::slot(hash, table.rule.slots));
                let mut order: Vec<String> = order.into_iter().map(name).collect();
                if service.selection == Selection::Modulo {
                    // Its own server comes first, then whom the slot has.
                    let own = service.servers[slot as usize].name.clone();
                    order.retain(|server| *server != own);
                    order.insert(0, own);
                }
                TracedService {
                    service: service.name.clone(),
                    hash: format!("{hash:#018x}"),
                    slot,
                    server: server.map(name),
                    keeps: keeps.filter(|previous_owner| Some(*previous_owner) != server).map(name),
                    order,
                }
            })
            .collect()
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    pub(super) fn configured_weight(&self, service: &str, server: &str) -> Option<u32> {
        let service = self.configured.services.iter().find(|known| known.name == service)?;
        Some(service.servers.iter().find(|known| known.name == server)?.weight)
    }

    pub(super) fn plan_of(&self) -> Arc<crate::model::Plan> {
        Arc::clone(&self.plan)
    }
}
