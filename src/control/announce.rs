//! Which cluster addresses routers may send here: those with a service that is ready. For each of them the kernel has a route in a
//! table of its own ([`AddressRoutes`]), by which the operator's routing daemon announces it.
//!
//! An address that several services share is announced while any of them is ready: a service whose servers have failed must not take
//! the others down with it. What is not ready is withdrawn at once. To be announced again it must have been ready for
//! `hold_down` without a break, so that a service that comes and goes does not make routers work.

use super::overrides::Withdrawn;
use crate::admin::finding::Grade;
use crate::admin::status::AnnounceStatus;
use crate::admin::timeline::{Kind, Timeline, Told};
use crate::limits::ANNOUNCE_LOOK;
use crate::model::{Announce, Plan, Prefix};
use crate::netlink::address_routes::AddressRoutes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// Whether a service is ready, or why not.
pub type Readiness = Result<(), String>;

/// Judges the services of a dispatcher, and has the kernel's routes follow.
pub struct Announcer {
    /// `None`: there is no `[announce]`.
    routes: Option<AddressRoutes>,
    dampers: HashMap<Prefix, Damper>,
    wanted: BTreeSet<Prefix>,
    /// Why an address is not wanted.
    why: BTreeMap<Prefix, String>,
    /// What the kernel had when it was looked last.
    present: BTreeSet<Prefix>,
    trouble: Option<String>,
    next_look: Instant,
    is_stopping: bool,
    timeline: Timeline,
}

impl Announcer {
    /// Finds the routes that a process before this one has left: they stay if their addresses are ready. Inside a runtime.
    ///
    /// # Errors
    /// The interface is not there, or the kernel refuses.
    pub async fn open(settings: Option<&Announce>, interface: &str, timeline: Timeline) -> io::Result<Announcer> {
        let routes = match settings {
            Some(settings) => Some(AddressRoutes::open(interface, settings.table).await?),
            None => None,
        };
        let present = match &routes {
            Some(routes) => routes.present().await?,
            None => BTreeSet::new(),
        };
        Ok(Announcer {
            routes,
            dampers: HashMap::new(),
            wanted: present.clone(),
            why: BTreeMap::new(),
            present,
            trouble: None,
            next_look: Instant::now() + ANNOUNCE_LOOK,
            is_stopping: false,
            timeline,
        })
    }

    /// Judges each service of the plan by its readiness, and by what the operator wants. [`Announcer::settle`] is to follow.
    pub fn judge(&mut self, plan: &Plan, readiness: &[Readiness], withdrawn: &Withdrawn) -> Vec<AnnounceStatus> {
        let is_withdrawn = |service: &crate::model::Service| service.withdrawn || withdrawn.has(&service.name);
        let hold_down = plan.announce.as_ref().map_or(Duration::ZERO, |settings| settings.hold_down);
        let now = Instant::now();
        let services = || plan.services.iter().zip(readiness);
        // Of each address, whether any service is ready, and whether one of these may be announced.
        let mut addresses = BTreeMap::<Prefix, (bool, bool)>::new();
        for (service, readiness) in services() {
            for address in service.addresses() {
                let (ready, may) = addresses.entry(address).or_default();
                *ready |= readiness.is_ok();
                *may |= readiness.is_ok() && !is_withdrawn(service);
            }
        }
        self.dampers.retain(|address, _| addresses.contains_key(address));
        self.wanted.clear();
        let mut held = BTreeMap::new();
        for (address, (ready, may)) in addresses {
            let damper = self.dampers.entry(address).or_default();
            match damper.step(ready, now, hold_down) {
                Some(left) if ready => _ = held.insert(address, left),
                None if may && !self.is_stopping => _ = self.wanted.insert(address),
                _ => {}
            }
        }
        let mut statuses = Vec::with_capacity(readiness.len());
        self.why.clear();
        for (service, readiness) in services() {
            let addresses = service.addresses();
            let by_operator = is_withdrawn(service);
            let why = match readiness {
                Err(why) => why.clone(),
                Ok(()) if self.is_stopping => "the dispatcher is about to stop".to_owned(),
                Ok(()) if service.withdrawn => "withdrawn by announce = \"drain\"".to_owned(),
                Ok(()) if by_operator => "withdrawn by oneip ctl withdraw".to_owned(),
                Ok(()) => match (addresses.iter().find_map(|address| held.get(address)), &self.trouble) {
                    (Some(left), _) if self.routes.is_some() => {
                        format!("ready again, and announced after {:.1} s more (`hold_down_ms`)", left.as_secs_f64())
                    }
                    (_, Some(trouble)) => trouble.clone(),
                    _ => String::new(),
                },
            };
            let ready = readiness.is_ok() && !self.is_stopping;
            let announced =
                self.routes.is_some().then(|| addresses.iter().all(|address| self.present.contains(address)));
            self.why.extend(addresses.into_iter().map(|address| (address, why.clone())));
            statuses.push(AnnounceStatus { ready, withdrawn: by_operator, announced, why });
        }
        statuses
    }

    /// Has the kernel's routes be as they should. Whether that changed any. What the kernel refuses is tried again later.
    pub async fn settle(&mut self) -> bool {
        let Some(routes) = &self.routes else { return false };
        let now = Instant::now();
        if self.present == self.wanted && now < self.next_look {
            return false;
        }
        if self.trouble.is_some() && now < self.next_look {
            return false;
        }
        self.next_look = now + ANNOUNCE_LOOK;
        let before = self.present.clone();
        let settled = reconcile(routes, &self.wanted, &mut self.present).await;
        for new in self.present.difference(&before) {
            let text = format!("{new} is announced");
            tracing::info!("{text}");
            self.timeline.tell(Told { kind: Kind::Announce, grade: Grade::Ok, text: &text, mark: None });
        }
        for gone in before.difference(&self.present) {
            let why = self.why.get(gone).filter(|why| !why.is_empty() && !self.wanted.contains(gone));
            let text = format!("{gone} is withdrawn{}", why.map_or(String::new(), |why| format!(": {why}")));
            tracing::warn!("{text}");
            self.timeline.tell(Told { kind: Kind::Announce, grade: Grade::Warn, text: &text, mark: None });
        }
        let trouble = settled.err().map(|error| format!("the kernel refuses its route: {error}"));
        if trouble != self.trouble {
            trouble.iter().for_each(|trouble| tracing::error!("announce: {trouble}"));
            self.trouble = trouble;
        }
        self.present != before
    }

    /// Nothing is announced from now on. Whether anything was.
    pub async fn stop(&mut self) -> bool {
        self.is_stopping = true;
        self.wanted.clear();
        let had = !self.present.is_empty();
        self.why =
            self.present.iter().map(|address| (*address, "the dispatcher is about to stop".to_owned())).collect();
        self.settle().await;
        had
    }

    /// Whether anything is announced.
    pub fn is_announcing(&self) -> bool {
        !self.present.is_empty()
    }
}

/// `present` is what there is afterwards.
async fn reconcile(
    routes: &AddressRoutes,
    wanted: &BTreeSet<Prefix>,
    present: &mut BTreeSet<Prefix>,
) -> io::Result<()> {
    *present = routes.present().await?;
    let gone: Vec<Prefix> = present.difference(wanted).copied().collect();
    for gone in gone {
        routes.remove(gone).await?;
        present.remove(&gone);
    }
    let new: Vec<Prefix> = wanted.difference(present).copied().collect();
    for new in new {
        routes.add(new).await?;
        present.insert(new);
    }
    Ok(())
}

/// Of one address: whether it was ready, and is again.
#[derive(Debug, Default)]
struct Damper {
    /// It has been ready, and then it was not.
    has_fallen: bool,
    was_ready: bool,
    /// Since when it has been ready without a break.
    since: Option<Instant>,
}

impl Damper {
    /// `None`: it may be announced. Else how long it must be ready yet.
    fn step(&mut self, ready: bool, now: Instant, hold_down: Duration) -> Option<Duration> {
        self.has_fallen |= self.was_ready && !ready;
        self.was_ready = ready;
        if !ready {
            self.since = None;
            return Some(hold_down);
        }
        let since = *self.since.get_or_insert(now);
        let left = hold_down.saturating_sub(now - since);
        self.has_fallen &= !left.is_zero();
        self.has_fallen.then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD_DOWN: Duration = Duration::from_secs(5);

    #[test]
    fn what_comes_and_goes_is_announced_when_it_has_stayed_for_a_while() {
        let (mut damper, start) = (Damper::default(), Instant::now());
        let mut at = |second: f64, ready| {
            damper.step(ready, start + Duration::from_secs_f64(second), HOLD_DOWN).map(|left| left.as_secs_f64())
        };
        assert_eq!(at(0.0, false), Some(5.0), "not ready yet");
        assert_eq!(at(1.0, true), None, "the first time there is nothing to damp");
        assert_eq!(at(2.0, false), Some(5.0));
        assert_eq!(at(3.0, true), Some(5.0));
        assert_eq!(at(7.0, true), Some(1.0));
        assert_eq!(at(7.5, false), Some(5.0), "the time begins anew");
        assert_eq!(at(8.0, true), Some(5.0));
        assert_eq!(at(13.0, true), None);
        assert_eq!(at(14.0, true), None);
        assert_eq!(at(15.0, false), Some(5.0));
    }
}
