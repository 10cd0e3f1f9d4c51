//! All orders that count here: those of the group, those that the store has not been told yet, and those for this member only. Pure:
//! it asks nobody and waits for nobody.

use super::heard::{Heard, Order};
use super::memory::{DeniedHere, Remembered, Synced};
use super::record::{DenyOrder, Digest, MemberView, Place, ServerOrders, Stamped, apart, now_ms};
use super::shared::{Entry, Shared};
use crate::control::denials::{Denials, Denied};
use crate::control::overrides::{Override, Overrides};
use crate::limits::{GROUP_CLOCKS, MAX_DENIED};
use crate::model::Prefix;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A change that the store is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// What is there stays; of one thing the later order counts.
    Server {
        server: String,
        orders: ServerOrders,
    },
    Deny {
        prefix: Prefix,
        service: Option<String>,
        order: DenyOrder,
    },
    Undeny {
        prefix: Prefix,
        service: Option<String>,
        at_ms: u64,
    },
}

/// One that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queued {
    pub edit: Edit,
    /// It was given while the store could be asked: what the store has by then is older, whatever clocks say.
    #[serde(skip)]
    pub is_new: bool,
    #[serde(skip)]
    pub id: u64,
}

/// What becomes of a value by an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    Put(Vec<u8>),
    Delete,
    /// It says that already, or something later.
    Stays,
}

impl Edit {
    pub fn place(&self) -> Place {
        match self {
            Edit::Server { server, .. } => Place::Server(server.clone()),
            Edit::Deny { prefix, service, .. } | Edit::Undeny { prefix, service, .. } => {
                Place::Denied(*prefix, service.clone())
            }
        }
    }

    /// The order in it that may last for a time.
    fn lasting(&self) -> Option<Order<'_>> {
        match self {
            Edit::Server { orders, .. } => orders.drained_until.as_ref().map(Stamped::order),
            Edit::Deny { order, .. } => Some(order.order()),
            Edit::Undeny { .. } => None,
        }
    }

    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Edit::Server { orders, .. } => orders.check(),
            Edit::Deny { order, .. } => order.check(),
            Edit::Undeny { .. } => Ok(()),
        }
    }

    /// What the value becomes, and whose other order that replaces, or by whose this is replaced.
    pub fn merge(&self, there: Option<&[u8]>, is_new: bool) -> (Merged, Option<String>) {
        let put = |value: Vec<u8>| Merged::Put(value);
        match self {
            Edit::Server { orders, .. } => {
                // What is no order is replaced.
                let there = there.and_then(|value| ServerOrders::read(value).ok()).unwrap_or_default();
                let orders = if is_new { after(orders, &there) } else { orders.clone() };
                let merged = there.merged(&orders);
                let other = [
                    differs(&there.drained_until, &orders.drained_until, |one, other| one.is_some() != other.is_some()),
                    differs(&there.disabled, &orders.disabled, |one, other| one != other),
                    differs(&there.weight, &orders.weight, |one, other| one != other),
                ];
                let other = other.into_iter().flatten().next();
                match merged == there {
                    true => (Merged::Stays, other),
                    false => (put(serde_json::to_vec(&merged).expect("JSON")), other),
                }
            }
            Edit::Deny { order, .. } => match there.and_then(|value| DenyOrder::read(value).ok()) {
                Some(there) if !is_new && (there.at_ms, &there.by) >= (order.at_ms, &order.by) => (Merged::Stays, None),
                Some(there) => {
                    (put(serde_json::to_vec(order).expect("JSON")), (there.by != order.by).then_some(there.by))
                }
                None => (put(serde_json::to_vec(order).expect("JSON")), None),
            },
            Edit::Undeny { at_ms, .. } => match there {
                None => (Merged::Stays, None),
                Some(value) => match DenyOrder::read(value) {
                    Ok(there) if !is_new && there.at_ms > *at_ms => (Merged::Stays, Some(there.by)),
                    _ => (Merged::Delete, None),
                },
            },
        }
    }
}

/// Who has ordered otherwise there.
fn differs<T>(there: &Option<Stamped<T>>, new: &Option<Stamped<T>>, differ: fn(&T, &T) -> bool) -> Option<String> {
    let (there, new) = (there.as_ref()?, new.as_ref()?);
    (there.by != new.by && differ(&there.set, &new.set)).then(|| there.by.clone())
}

/// The orders, later than those that are there; each lasts as long as it did.
fn after(orders: &ServerOrders, there: &ServerOrders) -> ServerOrders {
    fn later<T: Clone>(new: &Option<Stamped<T>>, there: &Option<Stamped<T>>) -> Option<Stamped<T>> {
        let least = there.as_ref().map_or(0, |there| there.at_ms + 1);
        new.clone().map(|new| Stamped { at_ms: new.at_ms.max(least), ..new })
    }
    ServerOrders {
        drained_until: later(&orders.drained_until, &there.drained_until).map(|new| {
            let given = orders.drained_until.as_ref().map_or(new.at_ms, |it| it.at_ms);
            let set = new.set.map(|until| until + new.at_ms / 1000 - given / 1000);
            Stamped { set, ..new }
        }),
        disabled: later(&orders.disabled, &there.disabled),
        weight: later(&orders.weight, &there.weight),
    }
}

pub struct Book {
    name: String,
    member: String,
    own: Digest,
    pub shared: Shared,
    synced: Option<Synced>,
    /// One of each place at most.
    queue: Vec<Queued>,
    local: BTreeMap<String, ServerOrders>,
    local_denied: BTreeMap<(Prefix, Option<String>), DenyOrder>,
    /// The orders of the group that last for a time.
    heard: Heard,
    last_id: u64,
    /// How often the store went back.
    pub restored: u64,
    /// Up to which revision orders were taken in.
    ordered: i64,
    /// Whether the store, when it was read last, was the one before, gone on.
    pub continues: bool,
}

impl Book {
    /// With what is remembered; `None`: this process is new in the group, and what was ordered here before counts here only.
    pub fn open(
        (name, member): (&str, &str),
        own: Digest,
        remembered: Option<Remembered>,
        (overrides, denials): (&Overrides, &Denials),
    ) -> Book {
        let is_new = remembered.is_none();
        let Remembered { synced, servers, denied, queue, local, local_denied, heard, .. } =
            remembered.unwrap_or_default();
        let by_place = |denied: Vec<DeniedHere>| {
            denied.into_iter().map(|DeniedHere { prefix, service, order }| ((prefix, service), order)).collect()
        };
        let shared = Shared { servers, denied: by_place(denied), ..Shared::default() };
        let mut book = Book {
            name: name.to_owned(),
            member: member.to_owned(),
            own,
            shared,
            synced,
            queue,
            local,
            local_denied: by_place(local_denied),
            heard,
            last_id: 0,
            restored: 0,
            ordered: 0,
            continues: false,
        };
        if is_new {
            let everywhere = overrides.everywhere().iter().map(|(server, set)| (server.clone(), stamped(set, member)));
            let each =
                overrides.each().map(|(service, server, set)| (format!("{server}@{service}"), stamped(set, member)));
            book.local = everywhere.chain(each).collect();
            let here = |denied: &Denied| {
                let order = DenyOrder { until: denied.until, by: member.to_owned(), at_ms: now_ms() };
                ((denied.prefix, denied.service.clone()), order)
            };
            book.local_denied = denials.0.iter().map(here).collect();
        }
        for queued in &mut book.queue {
            book.last_id += 1;
            queued.id = book.last_id;
        }
        book
    }

    /// It is so at once, before the store says it too: who is alone never stands against what it was.
    pub fn set_digest(&mut self, own: Digest) {
        if let Some((member, _)) = self.shared.members.get_mut(&self.member) {
            member.digest = own.clone();
        }
        self.own = own;
    }

    /// Why this process is not in the group.
    pub fn stranger(&self) -> Option<String> {
        self.shared.stranger(&self.own)
    }

    /// Whether clients would get other servers here than in the group.
    pub fn has_other_key(&self) -> bool {
        self.shared.has_other_key(&self.own)
    }

    /// Takes in all that the store has. One that went back, since it was restored or is another one, is told what it has lost.
    pub fn load(&mut self, cluster: u64, revision: i64, entries: &[Entry]) {
        let before = std::mem::take(&mut self.shared);
        entries.iter().for_each(|entry| self.shared.take(entry));
        (self.ordered, self.continues) = (revision, false);
        if let Some(last) = self.synced {
            let went_back = last.cluster != cluster || revision < last.revision;
            self.continues = !went_back && self.shared.continues(&before, last.revision);
            let edits = lost(&before, &self.shared, went_back.then_some(last.at_ms));
            if !went_back && edits.is_empty() {
                return self.synced = Some(Synced { cluster, revision, at_ms: now_ms() });
            }
            self.restored += 1;
            tracing::warn!(
                "group: the store went back from revision {} to {revision}: the {} orders that it lost are written \
                 again",
                last.revision,
                edits.len()
            );
            edits.into_iter().for_each(|edit| _ = self.enqueue(edit, false));
        }
        self.synced = Some(Synced { cluster, revision, at_ms: now_ms() });
    }

    pub fn change(&mut self, revision: i64, entries: &[Entry]) {
        entries.iter().for_each(|entry| self.shared.take(entry));
        let places = entries.iter().filter_map(|entry| Place::read(&entry.key).ok());
        let ordered: Vec<Place> = places.filter(Place::is_order).collect();
        if !ordered.is_empty() {
            self.ordered = revision;
            self.hear(&ordered);
        }
        if let Some(synced) = &mut self.synced {
            (synced.revision, synced.at_ms) = (revision, now_ms());
        }
    }

    /// Notes of what was ordered there just now when it was heard of, and forgets that of what is not ordered any more.
    fn hear(&mut self, places: &[Place]) {
        let Book { heard, shared, queue, .. } = self;
        let now = now_ms();
        for place in places {
            match place {
                Place::Server(name) => {
                    let drained = shared.servers.get(name).and_then(|orders| orders.drained_until.as_ref());
                    drained.into_iter().for_each(|drained| heard.note(drained.order(), now));
                }
                Place::Denied(prefix, service) => {
                    let denied = shared.denied.get(&(*prefix, service.clone()));
                    denied.into_iter().for_each(|denied| heard.note(denied.order(), now));
                }
                Place::Member(_) | Place::View(_) | Place::Config => {}
            }
        }
        let queued = queue.iter().filter_map(|queued| queued.edit.lasting());
        let drained = shared.servers.values().filter_map(|orders| Some(orders.drained_until.as_ref()?.order()));
        let there: BTreeSet<Order<'_>> =
            queued.chain(drained).chain(shared.denied.values().map(DenyOrder::order)).collect();
        heard.retain(|order| there.contains(&order));
    }

    /// Denials whose time is over, to be taken out of the store. By a wrong clock one that was not heard of as it came may only seem so.
    pub fn over(&self) -> Vec<Edit> {
        let at_ms = now_ms();
        let is_over = |order: &DenyOrder| {
            let more = if self.heard.has(order.order()) { Duration::ZERO } else { GROUP_CLOCKS };
            self.lasts(order).is_some_and(|until| (until + more.as_secs()) * 1000 <= at_ms)
        };
        let over = self.shared.denied.iter().filter(|(_, order)| is_over(order));
        let waits = |place: &Place| self.queue.iter().any(|queued| queued.edit.place() == *place);
        over.map(|((prefix, service), _)| Edit::Undeny { prefix: *prefix, service: service.clone(), at_ms })
            .filter(|edit| !waits(&edit.place()))
            .collect()
    }

    /// What members find that have what this process has.
    pub fn views(&self) -> impl Iterator<Item = (&String, &MemberView, i64)> {
        self.shared.views_of(&self.own)
    }

    pub fn digest(&self) -> &Digest {
        &self.own
    }

    /// Up to which revision orders were taken in: it stays while members only say what they find.
    pub fn ordered_up_to(&self) -> i64 {
        self.ordered
    }

    pub fn revision(&self) -> Option<i64> {
        self.synced.map(|synced| synced.revision)
    }

    /// The group's orders, and those that it has not been told yet.
    fn ordered(&self, subject: &str) -> ServerOrders {
        let mut orders = self.shared.servers.get(subject).cloned().unwrap_or_default();
        for queued in &self.queue {
            if let Edit::Server { server: of, orders: new } = &queued.edit
                && of == subject
            {
                orders = orders.merged(new);
            }
        }
        orders
    }

    /// What counts here. What is ordered of a server in one service stands beside what is ordered of it in all: of one thing the later
    /// order counts. Those for this member stand over all.
    fn orders(&self, subject: &str) -> ServerOrders {
        let (server, service) = apart(subject);
        let mut orders = self.ordered(server);
        let mut local = self.local.get(server).cloned().unwrap_or_default();
        if service.is_some() {
            orders = orders.merged(&self.ordered(subject));
            local = local.merged(&self.local.get(subject).cloned().unwrap_or_default());
        }
        orders.under(&local)
    }

    fn subjects(&self) -> BTreeSet<&String> {
        let queued = self.queue.iter().filter_map(|queued| match &queued.edit {
            Edit::Server { server, .. } => Some(server),
            _ => None,
        });
        self.shared.servers.keys().chain(self.local.keys()).chain(queued).collect()
    }

    /// What counts here for each server that there is any order of.
    pub fn wanted(&self) -> Overrides {
        let (mut servers, mut each) = (BTreeMap::new(), Vec::new());
        for subject in self.subjects() {
            let orders = self.orders(subject);
            let drained = orders.drained_until.as_ref();
            let until = drained.and_then(|it| Some(self.heard.until(it.order(), it.set?)));
            let set = Override { drained_until: until, ..set(&orders) };
            match apart(subject) {
                (server, None) => _ = servers.insert(server.to_owned(), set),
                (server, Some(service)) => each.push(((service.to_owned(), server.to_owned()), set)),
            }
        }
        Overrides::new(servers, each)
    }

    /// Until when it denies, in seconds since 1970 by this member's clock.
    fn lasts(&self, order: &DenyOrder) -> Option<u64> {
        order.until.map(|until| self.heard.until(order.order(), until))
    }

    pub fn wanted_denied(&self) -> Denials {
        let mut all = self.shared.denied.clone();
        for queued in &self.queue {
            match &queued.edit {
                Edit::Deny { prefix, service, order } => _ = all.insert((*prefix, service.clone()), order.clone()),
                Edit::Undeny { prefix, service, .. } => _ = all.remove(&(*prefix, service.clone())),
                Edit::Server { .. } => {}
            }
        }
        all.extend(self.local_denied.clone());
        let mut all: Vec<_> = all
            .into_iter()
            .filter(|(_, order)| self.lasts(order).is_none_or(|until| until * 1000 > now_ms()))
            .collect();
        all.sort_by_key(|(place, order)| (order.at_ms, place.clone()));
        let denied = |((prefix, service), order): (_, DenyOrder)| Denied { prefix, service, until: self.lasts(&order) };
        Denials(all.into_iter().take(MAX_DENIED).map(denied).collect())
    }

    /// Has the store told. The number by which what comes of it is told.
    pub fn enqueue(&mut self, edit: Edit, is_new: bool) -> u64 {
        self.last_id += 1;
        let given = edit.lasting().map(|(_, at_ms)| at_ms);
        let edit = match edit {
            Edit::Server { server, orders } => {
                let is_about = |subject: &str| subject == server || apart(subject).0 == server;
                if is_new {
                    // Who speaks for all speaks for this member too.
                    self.local
                        .iter_mut()
                        .filter(|(of, _)| is_about(of))
                        .for_each(|(_, local)| *local = without(local, &orders));
                    self.local.retain(|_, local| *local != ServerOrders::default());
                }
                let known = self.subjects().into_iter().filter(|of| is_about(of) || **of == apart(&server).0);
                let known = known.fold(ServerOrders::default(), |all, of| all.merged(&self.ordered(of)));
                let orders = if is_new { after(&orders, &known) } else { orders };
                let waiting = self.queue.iter().find_map(|queued| match &queued.edit {
                    Edit::Server { server: of, orders } if *of == server => Some(orders),
                    _ => None,
                });
                let orders = waiting.map_or(orders.clone(), |waiting| waiting.under(&orders));
                Edit::Server { server, orders }
            }
            Edit::Undeny { prefix, ref service, .. } | Edit::Deny { prefix, ref service, .. } => {
                if is_new {
                    self.local_denied.remove(&(prefix, service.clone()));
                }
                edit
            }
        };
        if let Some((order, given)) = edit.lasting().zip(given).filter(|_| is_new) {
            self.heard.note(order, given);
        }
        self.queue.retain(|queued| queued.edit.place() != edit.place());
        self.queue.push(Queued { edit, is_new, id: self.last_id });
        self.last_id
    }

    pub fn queue(&self) -> &[Queued] {
        &self.queue
    }

    /// The store has it, if it `counts`, or something later. It is known here from now on: that it was changed may be heard of later.
    pub fn told(&mut self, id: u64, counts: bool) {
        for Queued { edit, .. } in self.queue.extract_if(.., |queued| queued.id == id).filter(|_| counts) {
            match edit {
                Edit::Server { server, orders } => {
                    let there = self.shared.servers.entry(server).or_default();
                    *there = there.merged(&orders);
                }
                Edit::Deny { prefix, service, order } => _ = self.shared.denied.insert((prefix, service), order),
                Edit::Undeny { prefix, service, .. } => _ = self.shared.denied.remove(&(prefix, service)),
            }
        }
    }

    /// The store cannot be asked: what waits is compared by time when it is back.
    pub fn lose(&mut self) {
        self.queue.iter_mut().for_each(|queued| queued.is_new = false);
    }

    /// An order for this member only. What the group has ordered as well is no order of its own.
    pub fn set_local(&mut self, server: &str, orders: &ServerOrders) {
        let shared = self.ordered(apart(server).0).merged(&self.ordered(server));
        let mut local = self.local.remove(server).unwrap_or_default().under(orders);
        let of_group = set(&shared);
        let drained = |it: &Option<Stamped<Option<u64>>>| it.as_ref().and_then(|it| it.set).is_some();
        if !drained(&local.drained_until) && of_group.drained_until.is_none() {
            local.drained_until = None;
        }
        local.disabled = local.disabled.filter(|it| it.set != of_group.disabled);
        local.weight = local.weight.filter(|it| it.set != of_group.weight);
        if local != ServerOrders::default() {
            self.local.insert(server.to_owned(), local);
        }
    }

    pub fn deny_local(&mut self, prefix: Prefix, service: Option<String>, order: DenyOrder) {
        self.local_denied.insert((prefix, service), order);
    }

    pub fn undeny_local(&mut self, prefix: Prefix, service: Option<&str>) {
        self.local_denied.remove(&(prefix, service.map(str::to_owned)));
    }

    /// Whether it is denied for this member only.
    pub fn is_denied_here(&self, prefix: Prefix, service: Option<&str>) -> bool {
        self.local_denied.contains_key(&(prefix, service.map(str::to_owned)))
    }

    pub fn local(&self) -> &BTreeMap<String, ServerOrders> {
        &self.local
    }

    pub fn remembered(&self) -> Remembered {
        let list = |denied: &BTreeMap<(Prefix, Option<String>), DenyOrder>| {
            let here = |((prefix, service), order): (&(Prefix, Option<String>), &DenyOrder)| DeniedHere {
                prefix: *prefix,
                service: service.clone(),
                order: order.clone(),
            };
            denied.iter().map(here).collect()
        };
        Remembered {
            name: self.name.clone(),
            synced: self.synced,
            servers: self.shared.servers.clone(),
            denied: list(&self.shared.denied),
            queue: self.queue.clone(),
            local: self.local.clone(),
            local_denied: list(&self.local_denied),
            heard: self.heard.clone(),
        }
    }
}

/// What a store had that went back, and what it had no more. Orders of servers are never deleted and never get older: where they have,
/// it went back, whatever its revision. `went_back`: it did, and until when it was known.
fn lost(before: &Shared, now: &Shared, went_back: Option<u64>) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (server, orders) in &before.servers {
        let there = now.servers.get(server).cloned().unwrap_or_default();
        if there.merged(orders) != there {
            edits.push(Edit::Server { server: server.clone(), orders: orders.clone() });
        }
    }
    let Some(at_ms) = went_back.or_else(|| (!edits.is_empty()).then(now_ms)) else { return edits };
    for ((prefix, service), order) in &before.denied {
        if now.denied.get(&(*prefix, service.clone())).is_none_or(|there| there.at_ms < order.at_ms) {
            edits.push(Edit::Deny { prefix: *prefix, service: service.clone(), order: order.clone() });
        }
    }
    for ((prefix, service), order) in now.denied.iter().filter(|_| went_back.is_some()) {
        if order.at_ms < at_ms && !before.denied.contains_key(&(*prefix, service.clone())) {
            edits.push(Edit::Undeny { prefix: *prefix, service: service.clone(), at_ms });
        }
    }
    edits
}

/// What is left of orders without those that others stand for.
fn without(orders: &ServerOrders, others: &ServerOrders) -> ServerOrders {
    ServerOrders {
        drained_until: orders.drained_until.clone().filter(|_| others.drained_until.is_none()),
        disabled: orders.disabled.clone().filter(|_| others.disabled.is_none()),
        weight: orders.weight.clone().filter(|_| others.weight.is_none()),
    }
}

/// What they come to.
pub fn set(orders: &ServerOrders) -> Override {
    Override {
        drained_until: orders.drained_until.as_ref().and_then(|it| it.set),
        disabled: orders.disabled.as_ref().is_some_and(|it| it.set),
        weight: orders.weight.as_ref().and_then(|it| it.set),
    }
}

/// What was set, as orders of this moment.
fn stamped(set: &Override, by: &str) -> ServerOrders {
    let at_ms = now_ms();
    let by = || by.to_owned();
    ServerOrders {
        drained_until: set.drained_until.map(|until| Stamped { set: Some(until), by: by(), at_ms }),
        disabled: set.disabled.then(|| Stamped { set: true, by: by(), at_ms }),
        weight: set.weight.map(|weight| Stamped { set: Some(weight), by: by(), at_ms }),
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
