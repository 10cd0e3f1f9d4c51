//! Health that dispatchers share: what each finds of the servers goes in, and what counts for all of them comes out.
//!
//! ```text
//! checks of this member -> find ----+
//!                                   +-> vote: the middle one -> counts -> table
//! views of other members -> hear ---+
//! ```
//!
//! Pure: it asks nobody, and time comes in as a [`Stance`]. `vote` says what becomes of the findings of one server, `runs` how a member
//! writes them down, `duty` who checks which servers where not everybody checks all.

mod duty;
mod runs;
mod vote;

pub use vote::{Finding, Votes};

use crate::control::health::Verdict;
use crate::hash::Key;
use crate::limits::{GROUP_REASON, GROUP_REASONS, MAX_SERVICES};
use crate::model::identity::continued_services;
use crate::model::{Plan, Service};
use duty::Mark;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How this member stands to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// It knows what they find: what most find counts.
    Together,
    /// It does not know that any more, or not yet. What counts stays, until a check of its own comes to another verdict.
    Waiting,
    /// It has not known that for long: its own checks count, of all servers.
    Alone,
}

/// What a member finds, as it tells the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// By service: of its servers, in the order of their names; see `runs`.
    pub finds: BTreeMap<String, String>,
    /// Why servers are not up; of the first `GROUP_REASONS`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// It is cut off from the servers, and judges nobody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_off: bool,
}

/// Why a server is not up. It is shown, and nothing else is done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    pub service: String,
    pub server: String,
    /// Seconds since 1970, by that member's clock.
    pub since: u64,
    pub why: String,
}

impl View {
    /// # Errors
    /// What is wrong with it, whatever the configuration, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.finds.len() > MAX_SERVICES || self.reasons.len() > GROUP_REASONS {
            return Err(format!("it has more than {MAX_SERVICES} services, or more than {GROUP_REASONS} reasons"));
        }
        for (service, finds) in &self.finds {
            runs::read(finds).map_err(|why| format!("service {service:?}: {why}"))?;
        }
        match self.reasons.iter().find(|it| it.why.chars().count() > GROUP_REASON || it.why.contains(char::is_control))
        {
            Some(_) => Err(format!("a reason has more than {GROUP_REASON} characters, or control characters")),
            None => Ok(()),
        }
    }
}

/// One server of a service.
#[derive(Clone, Copy)]
struct Place {
    counts: Verdict,
    /// What counted when this member was together with the others last; `Unknown`: it has not been yet.
    agreed: Verdict,
    /// What this member finds.
    own: Option<Finding>,
    /// What it found last, if it finds nothing at the moment.
    last: Option<Finding>,
    /// It has found something else since it was judged.
    is_new: bool,
    others: Votes,
    /// Whether this member checks it.
    is_mine: bool,
    mark: Mark,
}

impl Place {
    /// See [`Agreement::is_in_doubt`].
    fn is_in_doubt(&self) -> bool {
        self.counts == Verdict::Down && matches!(self.agreed, Verdict::Up | Verdict::Held)
    }
}

/// A service that is checked.
struct Checked {
    name: String,
    /// Of the servers, as in the plan.
    names: Vec<String>,
    /// By index into the plan, in the order of their names, without those that are leaving: others may not have these.
    order: Vec<usize>,
    /// As in the plan.
    places: Vec<Place>,
}

/// Another member.
struct Other {
    view: View,
    /// Of the checked services, as in `order`.
    finds: Vec<Vec<Option<Finding>>>,
    mark: Mark,
}

pub struct Agreement {
    key: Key,
    /// What this one is called.
    member: String,
    /// How many members check a server; `None`: all.
    check_by: Option<usize>,
    stance: Stance,
    /// As in the plan; `None`: it is not checked.
    services: Vec<Option<Checked>>,
    others: BTreeMap<String, Other>,
    /// Services that have to be judged anew.
    touched: BTreeSet<usize>,
    /// Those that can check are others than when it was said who checks what, or the servers are.
    is_unassigned: bool,
}

impl Agreement {
    /// As the start of `member`: it waits, checks all servers, and knows nothing of them.
    pub fn new(plan: &Plan, member: &str, check_by: Option<usize>) -> Agreement {
        let key = Key::from(plan.hash_key);
        let services = plan.services.iter().map(|service| Checked::new(service, key)).collect();
        let (others, touched) = (BTreeMap::new(), BTreeSet::new());
        let (member, stance, is_unassigned) = (member.to_owned(), Stance::Waiting, true);
        Agreement { key, member, check_by, stance, services, others, touched, is_unassigned }
    }

    /// Goes over to another plan: what stays the same server of the same service keeps what is known of it.
    pub fn follow(&mut self, before: &Plan, after: &Plan) {
        self.key = Key::from(after.hash_key);
        let mut services: Vec<Option<Checked>> =
            after.services.iter().map(|service| Checked::new(service, self.key)).collect();
        let continued = continued_services(&before.services, &after.services);
        for ((new, service), of) in services.iter_mut().zip(&after.services).zip(continued) {
            let Some((new, of)) = new.as_mut().zip(of) else { continue };
            let Some(old) = &self.services[of] else { continue };
            for (place, server) in new.places.iter_mut().zip(&service.servers) {
                let was = before.services[of].servers.iter().position(|was| was.is_same(server));
                if let Some(was) = was.map(|at| old.places[at]) {
                    *place = Place { others: Votes::default(), mark: place.mark, ..was };
                }
            }
        }
        self.services = services;
        (self.touched, self.is_unassigned) = ((0..self.services.len()).collect(), true);
        for (name, Other { view, .. }) in std::mem::take(&mut self.others) {
            // One that does not fit any more is of another configuration, and will be told anew.
            let _ = self.hear(&name, Some(view));
        }
    }

    /// Goes on with what a process before this one knew: what its check found, and what counted.
    pub fn recall(&mut self, (service, server): (usize, usize), found: Option<Verdict>, counted: Verdict) {
        let Some(place) = self.place_mut(service, server) else { return };
        place.last = found.and_then(Finding::of);
        place.counts = counted;
    }

    /// What the checks of this member find of a server; `None`: nothing that can be said.
    pub fn find(&mut self, (service, server): (usize, usize), found: Option<Finding>) {
        let Some(place) = self.place_mut(service, server).filter(|place| place.own != found) else { return };
        place.own = found;
        place.is_new |= found.is_some() && found != place.last;
        place.last = found.or(place.last);
        self.touched.insert(service);
    }

    /// What another member finds; `None`: it is gone, or does not count.
    ///
    /// # Errors
    /// It is not about these servers, in words. It counts for nothing then.
    pub fn hear(&mut self, member: &str, view: Option<View>) -> Result<(), String> {
        let finds = view.as_ref().map(|view| self.fitted(view)).transpose();
        let (finds, refused) = match finds {
            Ok(finds) => (finds, Ok(())),
            Err(why) => (None, Err(why)),
        };
        let before = self.others.remove(member);
        let cut_off = |view: &View| view.cut_off;
        let counted = view.as_ref().filter(|_| finds.is_some());
        self.is_unassigned |= before.as_ref().map(|other| other.view.cut_off) != counted.map(cut_off);
        let before = before.map(|other| other.finds).unwrap_or_default();
        let after = finds.as_deref().unwrap_or_default();
        for (at, service) in self.services.iter_mut().enumerate() {
            let Some(Checked { order, places, .. }) = service else { continue };
            let (before, after) = (before.get(at).map(Vec::as_slice), after.get(at).map(Vec::as_slice));
            if before.unwrap_or_default() == after.unwrap_or_default() {
                continue;
            }
            self.touched.insert(at);
            let found = |of: Option<&[Option<Finding>]>, place: usize| of.and_then(|of| *of.get(place)?);
            for (place, server) in order.iter().enumerate() {
                places[*server].others.take_back(found(before, place));
                places[*server].others.add(found(after, place));
            }
        }
        if let (Some(view), Some(finds)) = (view, finds) {
            let mark = Mark::member(self.key, member);
            self.others.insert(member.to_owned(), Other { view, finds, mark });
        }
        refused
    }

    /// As the services are here.
    fn fitted(&self, view: &View) -> Result<Vec<Vec<Option<Finding>>>, String> {
        let mut finds = vec![Vec::new(); self.services.len()];
        let by_name: HashMap<&str, usize> = self.checked().map(|(at, service)| (service.name.as_str(), at)).collect();
        for (name, text) in &view.finds {
            let at =
                *by_name.get(name.as_str()).ok_or_else(|| format!("there is no service {name:?} that is checked"))?;
            let found = runs::read(text)?;
            let servers = self.services[at].as_ref().map_or(0, |service| service.order.len());
            if found.len() != servers {
                return Err(format!("it is of {} servers of service {name}, which has {servers}", found.len()));
            }
            finds[at] = found;
        }
        Ok(finds)
    }

    pub fn set_stance(&mut self, stance: Stance) {
        if std::mem::replace(&mut self.stance, stance) != stance {
            (self.touched, self.is_unassigned) = ((0..self.services.len()).collect(), true);
        }
    }

    /// Judges what is new. The services of which anything is, and of each whether something else counts now.
    pub fn settle(&mut self) -> Vec<(usize, bool)> {
        let mut judged = Vec::new();
        for at in std::mem::take(&mut self.touched) {
            let Some(Checked { places, .. }) = self.services.get_mut(at).and_then(Option::as_mut) else { continue };
            let mut is_other = false;
            for place in places {
                let was_in_doubt = place.is_in_doubt();
                // What it found alone is no more than its vote.
                let before = if was_in_doubt { place.agreed } else { place.counts };
                let counts = match (self.stance, place.own) {
                    (Stance::Together, own) => place.others.with(own).verdict(before),
                    (Stance::Waiting, Some(own)) if place.is_new => own.into(),
                    (Stance::Alone, Some(own)) => own.into(),
                    (Stance::Waiting, _) | (Stance::Alone, None) => place.counts,
                };
                place.is_new = false;
                is_other |= std::mem::replace(&mut place.counts, counts) != counts;
                if self.stance == Stance::Together {
                    place.agreed = counts;
                }
                is_other |= place.is_in_doubt() != was_in_doubt;
            }
            judged.push((at, is_other));
        }
        judged
    }

    /// Says anew who checks what: with the others as many as wanted, alone everything. Whether anything is other than before.
    pub fn assign(&mut self) -> bool {
        if self.stance == Stance::Waiting || !std::mem::take(&mut self.is_unassigned) {
            return false;
        }
        let others: Vec<Mark> =
            self.others.values().filter(|other| !other.view.cut_off).map(|other| other.mark).collect();
        let most = self.check_by.filter(|_| self.stance == Stance::Together);
        let (own, mut is_other) = (Mark::member(self.key, &self.member), false);
        for Checked { order, places, .. } in self.services.iter_mut().flatten() {
            for server in order {
                let place = &mut places[*server];
                let is_mine = most.is_none_or(|most| duty::is_mine(own, &others, place.mark, most));
                is_other |= std::mem::replace(&mut place.is_mine, is_mine) != is_mine;
            }
        }
        is_other
    }

    fn place_mut(&mut self, service: usize, server: usize) -> Option<&mut Place> {
        self.services.get_mut(service)?.as_mut()?.places.get_mut(server)
    }

    fn place(&self, service: usize, server: usize) -> Option<&Place> {
        self.services.get(service)?.as_ref()?.places.get(server)
    }

    fn checked(&self) -> impl Iterator<Item = (usize, &Checked)> {
        self.services.iter().enumerate().filter_map(|(at, service)| Some((at, service.as_ref()?)))
    }

    /// What counts; `None`: its service is not checked.
    pub fn counts(&self, service: usize, server: usize) -> Option<Verdict> {
        self.place(service, server).map(|place| place.counts)
    }

    /// Whether this member alone has found it down, since it last knew what the others find, and they had it up: it may be this member
    /// that is cut off, with some of the servers, and the server that serves its clients by way of the others.
    pub fn is_in_doubt(&self, service: usize, server: usize) -> bool {
        self.place(service, server).is_some_and(Place::is_in_doubt)
    }

    /// Whether this member checks it.
    pub fn is_mine(&self, service: usize, server: usize) -> bool {
        self.place(service, server).is_none_or(|place| place.is_mine)
    }

    pub fn stance(&self) -> Stance {
        self.stance
    }

    /// What this member finds of each service of which it finds anything.
    pub fn finds(&self) -> BTreeMap<String, String> {
        let found = self
            .checked()
            .filter(|(_, service)| service.order.iter().any(|server| service.places[*server].own.is_some()));
        found
            .map(|(_, service)| {
                (service.name.clone(), runs::write(service.order.iter().map(|server| service.places[*server].own)))
            })
            .collect()
    }

    /// What all find of a server, this member included, and what it finds itself.
    pub fn votes(&self, service: usize, server: usize) -> Option<(Votes, Option<Finding>)> {
        self.place(service, server).map(|place| (place.others.with(place.own), place.own))
    }

    /// Who else finds that, and why, as far as it is told.
    pub fn reason(&self, (service, server): (usize, usize), found: Finding) -> Option<(&str, &Reason)> {
        let Checked { name, names, order, .. } = self.services.get(service)?.as_ref()?;
        let at = order.iter().position(|it| *it == server)?;
        let mut others = self.others.iter().filter(|(_, other)| other.finds[service].get(at) == Some(&Some(found)));
        others.find_map(|(member, other)| {
            let mut reasons = other.view.reasons.iter();
            let reason = reasons.find(|reason| reason.service == *name && reason.server == names[server])?;
            Some((member.as_str(), reason))
        })
    }

    /// The views that count, this member's not among them.
    pub fn others(&self) -> impl Iterator<Item = (&str, &View)> {
        self.others.iter().map(|(name, other)| (name.as_str(), &other.view))
    }

    /// Servers of services that this member checks, and all that are checked; and those of which it finds something else than counts.
    pub fn tally(&self) -> (usize, usize, usize) {
        let places = self.services.iter().flatten().flat_map(|service| &service.places);
        places.fold((0, 0, 0), |(mine, all, differ), place| {
            let is_other = place.own.is_some_and(|own| Verdict::from(own) != place.counts);
            (mine + usize::from(place.is_mine), all + 1, differ + usize::from(is_other))
        })
    }
}

/// How many servers a view has findings of, and how many of them are not up.
pub fn count(view: &View) -> (usize, usize) {
    let finds = view.finds.values().filter_map(|text| runs::read(text).ok()).flatten().flatten();
    finds.fold((0, 0), |(all, out), found| (all + 1, out + usize::from(found != Finding::Up)))
}

impl Checked {
    fn new(service: &Service, key: Key) -> Option<Checked> {
        service.health.as_ref()?;
        let name = service.name.clone();
        let mut order: Vec<usize> = (0..service.servers.len() - service.leaving).collect();
        order.sort_by_key(|at| &service.servers[*at].name);
        let place = |server: &crate::model::Server| Place {
            counts: Verdict::Unknown,
            agreed: Verdict::Unknown,
            own: None,
            last: None,
            is_new: false,
            others: Votes::default(),
            is_mine: true,
            mark: Mark::server(key, &name, &server.name),
        };
        let places = service.servers.iter().map(place).collect();
        let names = service.servers.iter().map(|server| server.name.clone()).collect();
        Some(Checked { name, names, order, places })
    }
}
