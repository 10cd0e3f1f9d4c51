//! Going over to another configuration. What takes long is worked out from a copy, on whichever thread, while servers are
//! followed; then the control thread takes it over.

use super::place::on_link;
use super::{Membership, MembershipError, Name, Side, Update};
use crate::admin::order::{Diff, ServiceDiff};
use crate::control::cost::{self, Cost};
use crate::control::diff;
use crate::control::health::Health;
use crate::control::neighbours::{Neighbours, Upkeep};
use crate::control::overrides::Overrides;
use crate::host::clock;
use crate::limits::{MAX_SERVERS, START_MOST};
use crate::model::identity::continued_services;
use crate::model::{Plan, Server, Service};
use crate::table::ServiceId;
use crate::table::build::{Cluster, Renewal, State};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a configuration was not taken over. Everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{} cannot change while oneip runs; restart it, or change that back", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    #[error(
        "{}\nthat moves most of the clients without need; to do it anyway: `oneip ctl reload --force` (a signal cannot \
         force it)",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    )]
    NeedsForce(Vec<Cost>),
    #[error(transparent)]
    Servers(#[from] MembershipError),
}

/// What another configuration is worked out from: a copy of how things are.
pub struct Base {
    side: Side,
    configured: Arc<Plan>,
    plan: Arc<Plan>,
    cluster: Cluster,
    overrides: Overrides,
    leaving: HashMap<Name, u64>,
}

/// Another configuration, and all that takes long of going over to it.
pub struct Prepared {
    configured: Plan,
    /// What is to be followed.
    plan: Plan,
    renewal: Renewal,
    /// Keys.
    needs_restart: Vec<&'static str>,
    /// A line each; none: nothing has changed.
    changes: Vec<String>,
    costs: Vec<Cost>,
}

/// What came of it.
pub enum Reloaded {
    /// It is in use. What changed, a line each, and what the data path must know.
    Done(Vec<String>, Option<Update>),
    /// What it was worked out from is not so any more: this must be worked out again.
    Outdated(Box<Plan>),
}

/// The plan that is followed: the configuration's, with the operator's weights, and with servers that are leaving behind
/// the others of their service.
pub fn effective(configured: &Plan, overrides: &Overrides, leaving: &[(String, Server)]) -> Plan {
    let mut plan = configured.clone();
    for service in &mut plan.services {
        for server in &mut service.servers {
            if let Some(weight) = overrides.get(&service.name, &server.name).weight {
                server.weight = weight;
            }
        }
        let gone = leaving.iter().filter(|(of, _)| *of == service.name).map(|(_, server)| server.clone());
        let room = MAX_SERVERS - service.servers.len();
        let gone: Vec<Server> = gone.map(|server| Server { weight: 0, ..server }).take(room).collect();
        service.leaving = gone.len();
        service.servers.extend(gone);
    }
    plan
}

/// What is followed after a reload.
struct Proposal {
    plan: Plan,
    overrides: Overrides,
    /// By service and server of then: what they are called now, where they have been leaving before.
    leaving: Vec<(Name, Option<Name>)>,
}

impl Proposal {
    fn new(
        configured: &Plan,
        (before, cluster): (&Plan, &Cluster),
        overrides: &Overrides,
        was_leaving: &HashMap<Name, u64>,
    ) -> Proposal {
        let continued = continued_services(&before.services, &configured.services);
        let overrides = renamed_orders(overrides, configured, (before, &continued));
        let (mut leaving, mut servers) = (Vec::new(), Vec::new());
        for (new, of) in configured.services.iter().zip(&continued) {
            let Some(of) = *of else { continue };
            let old = &before.services[of];
            for (at, it) in old.servers.iter().enumerate() {
                if new.servers.iter().any(|new| new.is_same(it)) {
                    continue;
                }
                let name = (old.name.clone(), it.name.clone());
                let already = at >= old.servers.len() - old.leaving;
                let keeps = cluster.state(of as ServiceId, at) != State::Down && !new.drain.is_zero();
                if if already { was_leaving.contains_key(&name) } else { keeps } {
                    // A new server may have its name.
                    let taken = new.servers.iter().any(|new| new.name == it.name);
                    let called = if taken { it.name_when_replaced() } else { it.name.clone() };
                    leaving.push(((new.name.clone(), called.clone()), already.then_some(name)));
                    servers.push((new.name.clone(), Server { name: called, ..it.clone() }));
                }
            }
        }
        Proposal { plan: effective(configured, &overrides, &servers), overrides, leaving }
    }
}

impl Base {
    /// Works out what it takes to go over to `configured`. Takes as long as it takes.
    pub fn prepare(&self, configured: Plan) -> Prepared {
        let Base { side, plan: before, cluster, overrides, leaving, .. } = self;
        let configured = side.adapted(configured);
        let needs_restart = diff::needs_restart(&self.configured, &configured, *side);
        let changes = diff::between(&self.configured, &configured);
        let Proposal { plan, .. } = Proposal::new(&configured, (before, cluster), overrides, leaving);
        let renewal = cluster.renewal(&plan, clock::now_ns());
        let costs = cost::of(before, &plan, cluster, &renewal);
        Prepared { configured, plan, renewal, needs_restart, changes, costs }
    }
}

impl Prepared {
    /// What would change, a line each, and what it costs.
    pub fn changes(&self) -> Vec<String> {
        let costs = self.costs.iter().filter(|cost| cost.is_told()).map(|cost| format!("warning: {cost}"));
        self.changes.iter().cloned().chain(costs).collect()
    }

    /// # Errors
    /// It cannot be gone over to while this process runs.
    pub fn possible(&self) -> Result<(), Refusal> {
        match &self.needs_restart[..] {
            [] => Ok(()),
            keys => Err(Refusal::NeedsRestart(keys.to_vec())),
        }
    }

    /// How it differs from what is in use. `refused`: what else a reload would be refused for.
    pub fn compared(&self, refused: Option<String>) -> Diff {
        let of_service = |cost: &Cost| ServiceDiff {
            service: cost.service.clone(),
            slots: cost.slots,
            moved_slots: cost.moved_slots,
            moved: cost.moved,
            must: cost.must,
            drain_s: cost.drain.as_secs(),
            needs_force: cost.is_too_much(),
        };
        let refusal = self.possible().and_then(|()| self.confirm()).err();
        Diff {
            config: PathBuf::new(),
            same: self.changes.is_empty() && self.needs_restart.is_empty(),
            changes: self.changes.clone(),
            needs_restart: self.needs_restart.iter().map(|key| (*key).to_owned()).collect(),
            services: self.costs.iter().map(of_service).collect(),
            refused: refused.or_else(|| refusal.map(|refusal| refusal.to_string())),
            warnings: Vec::new(),
            orders: Vec::new(),
        }
    }

    /// # Errors
    /// It moves so many clients for nothing that it must be forced.
    pub fn confirm(&self) -> Result<(), Refusal> {
        let too_much: Vec<Cost> = self.costs.iter().filter(|cost| cost.is_too_much()).cloned().collect();
        if too_much.is_empty() { Ok(()) } else { Err(Refusal::NeedsForce(too_much)) }
    }
}

impl Membership {
    /// What another configuration can be worked out from, on another thread.
    pub fn base(&self) -> Base {
        Base {
            side: self.side,
            configured: Arc::clone(&self.configured),
            plan: Arc::clone(&self.plan),
            cluster: self.cluster.clone(),
            overrides: self.overrides.clone(),
            leaving: self.leaving.clone(),
        }
    }

    /// Goes over to a configuration.
    ///
    /// # Errors
    /// Everything is as it was then.
    pub async fn reload(&mut self, prepared: Prepared) -> Result<Reloaded, Refusal> {
        prepared.possible()?;
        let changes = prepared.changes();
        let Prepared { configured, plan, renewal, .. } = prepared;
        if changes.is_empty() {
            return Ok(Reloaded::Done(changes, None));
        }
        let proposal = Proposal::new(&configured, (&self.plan, &self.cluster), &self.overrides, &self.leaving);
        if proposal.plan != plan || !self.cluster.can_adopt(&renewal) {
            return Ok(Reloaded::Outdated(Box::new(configured)));
        }
        let now = clock::now_ns();
        let before = Arc::clone(&self.plan);
        let continued = continued_services(&before.services, &plan.services);
        self.take_over(plan, renewal).await?;
        self.configured = Arc::new(configured);
        self.rename(&before, &continued, proposal.overrides);
        self.relist();
        let drain = |service: &str| {
            let known = self.plan.services.iter().find(|known| known.name == service);
            known.map_or(0, |known| known.drain.as_nanos() as u64)
        };
        let until = |(name, was): (Name, Option<Name>)| {
            let until = was.and_then(|was| self.leaving.get(&was).copied());
            let until = until.unwrap_or_else(|| now + drain(&name.0));
            (name, until)
        };
        self.leaving = proposal.leaving.into_iter().map(until).collect();
        let plan = Arc::clone(&self.plan);
        for (service, of) in plan.services.iter().zip(&continued) {
            let old = of.map_or(&[][..], |at| &before.services[at].servers);
            let new = service.servers.iter().filter(|server| !old.iter().any(|old| old.is_same(server)));
            self.joining.extend(new.map(|server| (service.name.clone(), server.name.clone())));
            if of.is_none() {
                self.starting.insert(service.name.clone(), now + START_MOST.as_nanos() as u64);
            }
        }
        let present: HashSet<Name> = names(&self.plan).collect();
        self.joining.retain(|name| present.contains(name));
        self.standing_in.retain(|name, _| present.contains(name));
        self.states.retain(|name, _| present.contains(name));
        self.starting.retain(|name, _| plan.services.iter().any(|service| service.name == *name));
        self.judge_all(now);
        self.confirm();
        Ok(Reloaded::Done(changes, Some(Update::Layout)))
    }

    /// What is known by name is known by the new names.
    fn rename(&mut self, before: &Plan, continued: &[Option<usize>], overrides: Overrides) {
        let after = Arc::clone(&self.plan);
        let servers = names_of_servers(before, &after, continued);
        self.overrides = overrides;
        let down = self.down.drain(..).map(|name| (name, ())).collect();
        self.down = renamed(&down, |name| has_server(&after, name), &servers).into_keys().collect();
        let mut services: HashMap<String, Vec<String>> = HashMap::new();
        for (new, of) in after.services.iter().zip(continued) {
            let Some(old) = of.map(|at| &before.services[at]) else { continue };
            services.entry(old.name.clone()).or_default().push(new.name.clone());
        }
        let mut names = names_in_services(before, &after, continued);
        names.retain(|was, is| is.len() != 1 || is[0] != *was);
        if names.is_empty() {
            return self.redrain();
        }
        rename_keys(&mut self.draining, &names);
        self.redrain();
        rename_keys(&mut self.states, &names);
        rename_keys(&mut self.standing_in, &names);
        rename_keys(&mut self.in_doubt, &names);
        rename_keys(&mut self.starting, &services);
        self.denials.rename(&services);
        let mut joining = self.joining.drain().map(|name| (name, ())).collect();
        rename_keys(&mut joining, &names);
        self.joining = joining.into_keys().collect();
    }

    /// Servers that a reload removed and whose time is not over.
    pub(super) fn still_leaving(&self) -> Vec<(String, Server)> {
        let services = self.plan.services.iter();
        let leaving = services.flat_map(|service| {
            let staying = service.servers.len() - service.leaving;
            service.servers[staying..].iter().map(|server| (service.name.clone(), server.clone()))
        });
        leaving.filter(|(service, it)| self.leaving.contains_key(&(service.clone(), it.name.clone()))).collect()
    }

    /// Follows the servers of another plan of the same configuration. Verdicts that were not told yet may not be told any
    /// more: whoever calls this judges every service after it.
    ///
    /// # Errors
    /// Those of the plan before are followed then.
    pub(super) async fn follow(&mut self, plan: Plan) -> Result<(), MembershipError> {
        let renewal = self.cluster.renewal(&plan, clock::now_ns());
        self.take_over(plan, renewal).await
    }

    async fn take_over(&mut self, plan: Plan, renewal: Renewal) -> Result<(), MembershipError> {
        let before = Arc::clone(&self.plan);
        if let Err(error) = self.watch(&plan).await {
            if let Err(error) = self.watch(&before).await {
                tracing::error!(%error, "the running configuration would be refused now as well");
            }
            return Err(error);
        }
        self.plan = Arc::new(plan);
        self.cluster.adopt(renewal, &self.plan, clock::now_ns());
        let plan = Arc::clone(&self.plan);
        self.wanted(&plan).iter().for_each(|(_, address)| self.tell_mac(*address));
        self.agree_on(&before);
        Ok(())
    }

    async fn watch(&mut self, plan: &Plan) -> Result<(), MembershipError> {
        self.follow_routes(plan).await?;
        let wanted = self.wanted(plan);
        match &mut self.neighbours {
            Some(neighbours) => neighbours.watch(&wanted).await?,
            None if wanted.is_empty() => {}
            None => self.neighbours = Some(Neighbours::open_with(&self.interfaces, &wanted, Upkeep::Kernel).await?),
        }
        if let Some(neighbours) = &self.neighbours {
            on_link(neighbours)?;
        }
        match &mut self.health {
            Some(health) => health.watch(plan).await?,
            None if self.side.checks(plan) => {
                self.health = Some(Health::open_on(plan, &self.interfaces, self.cluster.tunnel_end()).await?);
            }
            None => {}
        }
        self.verify_what_fails();
        if let (Some(neighbours), Some(health)) = (&self.neighbours, &mut self.health) {
            wanted.iter().for_each(|(_, address)| health.set_mac(*address, neighbours.mac(*address)));
        }
        Ok(())
    }
}

fn names(plan: &Plan) -> impl Iterator<Item = Name> {
    let services = plan.services.iter();
    services.flat_map(|s| s.servers.iter().map(|server| (s.name.clone(), server.name.clone())))
}

/// The servers that both have, as they were and as they are.
fn pairs<'p>(old: &'p Service, new: &'p Service) -> impl Iterator<Item = (&'p Server, &'p Server)> {
    old.servers.iter().filter_map(|was| Some((was, new.servers.iter().find(|is| is.is_same(was))?)))
}

/// What each server is called in another plan, by what it is called now. It may have several names there: one a service.
fn names_of_servers(old: &Plan, new: &Plan, continued: &[Option<usize>]) -> HashMap<String, Vec<String>> {
    let mut names: HashMap<String, Vec<String>> = HashMap::new();
    for (new, of) in new.services.iter().zip(continued) {
        for (was, is) in of.iter().flat_map(|at| pairs(&old.services[*at], new)) {
            let known = names.entry(was.name.clone()).or_default();
            if !known.contains(&is.name) {
                known.push(is.name.clone());
            }
        }
    }
    names
}

/// The same, of each service.
fn names_in_services(old: &Plan, new: &Plan, continued: &[Option<usize>]) -> HashMap<Name, Vec<Name>> {
    let mut names: HashMap<Name, Vec<Name>> = HashMap::new();
    for (new, of) in new.services.iter().zip(continued) {
        let Some(old) = of.map(|at| &old.services[at]) else { continue };
        for (was, is) in pairs(old, new) {
            let name = (old.name.clone(), was.name.clone());
            names.entry(name).or_default().push((new.name.clone(), is.name.clone()));
        }
    }
    names
}

fn has_server(plan: &Plan, name: &str) -> bool {
    plan.services.iter().flat_map(|service| &service.servers).any(|server| server.name == name)
}

/// Orders, by what their servers and services are called now.
fn renamed_orders(orders: &Overrides, after: &Plan, (before, continued): (&Plan, &[Option<usize>])) -> Overrides {
    let names = names_of_servers(before, after, continued);
    let everywhere = renamed(orders.everywhere(), |name| has_server(after, name), &names);
    let each = orders.each().map(|(service, server, one)| ((service.to_owned(), server.to_owned()), *one)).collect();
    let is_taken = |(service, server): &Name| {
        let known = after.services.iter().find(|known| known.name == *service);
        known.is_some_and(|known| known.servers.iter().any(|known| known.name == *server))
    };
    Overrides::new(everywhere, renamed(&each, is_taken, &names_in_services(before, after, continued)))
}

/// What stands under a name stands under the new ones. A name without any stays, unless another server has it now.
fn renamed<K: Clone + Ord + Hash, V: Clone>(
    map: &BTreeMap<K, V>,
    is_taken: impl Fn(&K) -> bool,
    names: &HashMap<K, Vec<K>>,
) -> BTreeMap<K, V> {
    let (known, unknown): (Vec<_>, Vec<_>) = map.iter().partition(|(name, _)| names.contains_key(*name));
    let stay = unknown.into_iter().filter(|(name, _)| !is_taken(name)).map(|(name, it)| (name.clone(), it.clone()));
    let go = known.into_iter().flat_map(|(name, it)| names[name].iter().map(move |new| (new.clone(), it.clone())));
    stay.chain(go).collect()
}

fn rename_keys<K: Clone + Eq + Hash, V: Clone>(map: &mut HashMap<K, V>, names: &HashMap<K, Vec<K>>) {
    let moved: Vec<(K, V)> = names
        .iter()
        .filter_map(|(old, new)| Some((new, map.remove(old)?)))
        .flat_map(|(new, it)| new.iter().map(move |new| (new.clone(), it.clone())).collect::<Vec<_>>())
        .collect();
    map.extend(moved);
}
