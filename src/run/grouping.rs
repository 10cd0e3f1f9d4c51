//! What the control thread does for the group: orders that are given here go to the store, and those of others are carried out. It waits
//! for the store in nothing that it does: an order counts here at once, and only its answer waits a moment.

use super::controller::Controller;
use super::edit::edit;
use super::publishing::Publishing;
use super::sharing::Sharing;
use crate::admin::finding::Grade;
use crate::admin::group::{BadValue, GroupStatus, GroupSummary, Living, MemberStatus, OrderStatus};
use crate::admin::order::{Answer, Order};
use crate::admin::timeline::{Kind, Told};
use crate::config::published::{Published, check_text};
use crate::control::membership::{Membership, Update};
use crate::engine::Engine;
use crate::error::Failure;
use crate::group;
use crate::group::book::{Book, Edit, set};
use crate::group::memory::{self, Remembered};
use crate::group::record::{Member, Progress, ServerOrders, now_ms};
use crate::group::store::{Ask, Event, Store};
use crate::limits::{GROUP_ORDER, GROUP_SERVERS};
use crate::model;
use std::collections::BTreeMap;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// A process that is in a group.
pub struct Grouping {
    settings: model::Group,
    mode: &'static str,
    /// Tells this process from another one with its name.
    place: String,
    store: Store,
    book: Book,
    /// Since when the store can be asked, or cannot, and why.
    connection: (Instant, Result<(), String>),
    has_asked: bool,
    lost: u64,
    /// Operators who wait for the store.
    waiting: Vec<Waiting>,
    /// Somebody wants to know how all are.
    asking: Option<Asking>,
    /// What is on disk, or shall be.
    remembered: Option<Remembered>,
    /// What was said last of being outside.
    outside: Option<String>,
    /// `None`: health is each member's own.
    sharing: Option<Sharing>,
    /// `None`: the services are those of the file.
    publishing: Option<Publishing>,
}

struct Waiting {
    id: u64,
    to: oneshot::Sender<Answer>,
    changes: Vec<String>,
    until: Instant,
}

struct Asking {
    answer: oneshot::Receiver<Option<BTreeMap<String, Progress>>>,
    to: Vec<oneshot::Sender<Answer>>,
    until: Instant,
}

/// What has happened.
pub enum Happened {
    Store(Event),
    /// How far the members are, as far as the store says.
    Members(BTreeMap<String, Progress>),
    /// Nobody waits longer, or what others find counts from now on, or does not any more.
    Due,
}

impl Grouping {
    /// Begins to follow the group, where the configuration has one. `remembers`: whether what is known is kept on disk.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(membership: &Membership, mode: &'static str, remembers: bool) -> Result<Option<Grouping>, Failure> {
        let plan = membership.configured();
        let Some(settings) = plan.group.clone() else { return Ok(None) };
        let file = remembers.then(|| memory::path(&plan.admin.state));
        let remembered =
            file.as_ref().map_or(Ok(None), |file| memory::load(file, &settings.name)).unwrap_or_else(|why| {
                tracing::warn!("group: {why}; orders given here count here only");
                None
            });
        let digest = group::digest(plan);
        let place = group::place(&plan.admin.socket);
        let orders = (membership.orders().0, membership.denials());
        let book = Book::open((&settings.name, &settings.member), digest.clone(), remembered, orders);
        let member = Member {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: mode.to_owned(),
            place: place.clone(),
            digest,
        };
        let store = Store::start(settings.clone(), member, file)?;
        let connection = (Instant::now(), Err("it is being connected to".to_owned()));
        let sharing = membership.agreement().map(|_| Sharing::new(&settings.member));
        let publishing = settings.takes_published.then(|| Publishing::new(&plan.admin.state, remembers));
        Ok(Some(Grouping {
            settings,
            mode,
            place,
            store,
            book,
            connection,
            has_asked: false,
            lost: 0,
            waiting: Vec::new(),
            asking: None,
            remembered: None,
            outside: None,
            sharing,
            publishing,
        }))
    }

    /// Whether the store has answered, or could not be asked. Until then nobody knows whether this process belongs to the group.
    pub fn has_asked(&self) -> bool {
        self.has_asked
    }

    /// Waits for what happens. Cancel-safe.
    pub async fn next(&mut self) -> Happened {
        let waiting = self.waiting.iter().map(|waiting| waiting.until);
        let shared = self.sharing.as_ref().and_then(Sharing::due);
        let due = waiting.chain(self.asking.as_ref().map(|asking| asking.until)).chain(shared).min();
        let answer = async {
            match &mut self.asking {
                Some(asking) => (&mut asking.answer).await.ok().flatten().unwrap_or_default(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = self.store.next() => Happened::Store(event),
            members = answer => Happened::Members(members),
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Happened::Due,
        }
    }

    fn take(&mut self, happened: Happened, membership: &Membership) {
        self.has_asked |= matches!(&happened, Happened::Store(Event::Loaded { .. } | Event::Lost(_)));
        match happened {
            Happened::Store(Event::Loaded { cluster, revision, entries }) => {
                self.book.load(cluster, revision, &entries);
                self.connection = (Instant::now(), Ok(()));
                for queued in self.book.queue() {
                    let (id, edit, is_new) = (queued.id, queued.edit.clone(), queued.is_new);
                    self.store.ask(Ask::Tell { id, edit, is_new });
                }
                // This one may not stand in the store yet.
                let others = self.book.shared.members.keys().filter(|name| **name != self.settings.member).count();
                tracing::info!("group: orders are shared through etcd, revision {revision}; other members: {others}");
            }
            Happened::Store(Event::Changed { revision, entries }) => self.book.change(revision, &entries),
            Happened::Store(Event::Lost(why)) => {
                self.book.lose();
                if self.connection.1.is_ok() {
                    self.lost += 1;
                    tracing::warn!("group: the store cannot be reached: {why}; the last known state is used");
                    self.connection = (Instant::now(), Err(why));
                } else {
                    // Since when stays.
                    self.connection.1 = Err(why);
                }
                self.waiting.drain(..).for_each(Waiting::queued);
            }
            Happened::Store(Event::Told { id, made }) => {
                let counts = made.as_ref().is_ok_and(|told| told.counts);
                if made.is_ok() {
                    self.book.told(id, counts);
                }
                let Some(at) = self.waiting.iter().position(|waiting| waiting.id == id) else { return };
                let waiting = self.waiting.swap_remove(at);
                match made {
                    Ok(told) => waiting.told(counts, told.other, self.book.shared.members.len()),
                    Err(_) => waiting.queued(),
                }
            }
            Happened::Members(progress) => self.answer_members(&progress, membership),
            Happened::Due => {
                let now = Instant::now();
                self.waiting.extract_if(.., |waiting| waiting.until <= now).for_each(Waiting::queued);
                if self.asking.as_ref().is_some_and(|asking| asking.until <= now) {
                    self.answer_members(&BTreeMap::new(), membership);
                }
            }
        }
    }

    fn answer_members(&mut self, progress: &BTreeMap<String, Progress>, membership: &Membership) {
        let Some(asking) = self.asking.take() else { return };
        let status = self.status(progress, membership);
        asking.to.into_iter().for_each(|to| _ = to.send(Answer::Group(Box::new(status.clone()))));
    }

    fn ask_members(&mut self, to: oneshot::Sender<Answer>, membership: &Membership) {
        if self.connection.1.is_err() {
            let _ = to.send(Answer::Group(Box::new(self.status(&BTreeMap::new(), membership))));
            return;
        }
        if let Some(asking) = &mut self.asking {
            return asking.to.push(to);
        }
        let (ask, answer) = oneshot::channel();
        self.store.ask(Ask::Members(ask));
        self.asking = Some(Asking { answer, to: vec![to], until: Instant::now() + GROUP_ORDER });
    }

    /// As `ctl status` shows it.
    pub fn summary(&self, membership: &Membership) -> GroupSummary {
        let (since, connected) = &self.connection;
        let bad = self.book.shared.bad.iter().map(|(key, why)| BadValue { key: key.clone(), why: why.clone() });
        let bad = bad.chain(self.sharing.iter().flat_map(Sharing::bad));
        let published = self.book.shared.published.as_deref();
        let bad = bad.chain(self.publishing.iter().filter_map(|publishing| publishing.bad(published)));
        let health = self.sharing.as_ref().zip(membership.agreement());
        let digest = self.book.shared.digest();
        let living = self.book.shared.members.iter().map(|(name, (member, _))| Living {
            member: name.clone(),
            mode: member.mode.clone(),
            version: member.version.clone(),
            belongs: Some(&member.digest) == digest,
        });
        GroupSummary {
            name: self.settings.name.clone(),
            member: self.settings.member.clone(),
            connected: connected.is_ok(),
            since_s: since.elapsed().as_secs_f64(),
            why: connected.as_ref().err().cloned(),
            outside: self.book.stranger(),
            other_key: self.book.has_other_key(),
            alive: self.book.shared.members.len(),
            living: living.collect(),
            revision: self.book.revision(),
            queued: self.book.queue().len(),
            lost: self.lost,
            restored: self.book.restored,
            bad: bad.collect(),
            health: health.map(|(sharing, agreement)| sharing.status(agreement)),
            published: self.publishing.as_ref().map(|publishing| publishing.generation()),
        }
    }

    fn status(&self, progress: &BTreeMap<String, Progress>, membership: &Membership) -> GroupStatus {
        let shared = &self.book.shared;
        let digest = shared.digest();
        let members = shared.members.iter().map(|(name, (member, _))| {
            let progress = progress.get(name);
            let behind = |revision: i64| shared.written.values().filter(|written| **written > revision).count();
            MemberStatus {
                member: name.clone(),
                version: member.version.clone(),
                mode: member.mode.clone(),
                belongs: digest == Some(&member.digest),
                generation: progress.map(|progress| progress.generation),
                behind: progress.map(|progress| behind(progress.revision)),
                announced: progress.map(|progress| progress.announced),
                services: progress.map(|progress| progress.services),
                published: progress.and_then(|progress| progress.published),
                finds: self.sharing.as_ref().and_then(|sharing| sharing.finds(name, membership.agreement()?)),
            }
        });
        let queued = self.book.queue().iter().filter_map(|queued| match &queued.edit {
            Edit::Server { server, orders } => Some((server, orders, "queued")),
            _ => None,
        });
        let all = shared.servers.iter().map(|(server, orders)| (server, orders, "group"));
        let local = self.book.local().iter().map(|(server, orders)| (server, orders, "local"));
        let mut orders: Vec<OrderStatus> = all.chain(queued).chain(local).filter_map(of_order).collect();
        orders.sort_by(|one, other| other.age_s.total_cmp(&one.age_s));
        GroupStatus {
            // `members` says it all.
            summary: GroupSummary { living: Vec::new(), ..self.summary(membership) },
            etcd: self.settings.etcd.clone(),
            members: members.collect(),
            orders,
        }
    }
}

fn of_order((server, orders, counts): (&String, &ServerOrders, &str)) -> Option<OrderStatus> {
    let (by, at) = orders.last()?;
    Some(OrderStatus {
        server: server.clone(),
        order: set(orders).said(),
        by: by.to_owned(),
        age_s: now_ms().saturating_sub(at) as f64 / 1e3,
        counts: counts.to_owned(),
    })
}

impl Waiting {
    fn queued(self) {
        let Waiting { to, mut changes, .. } = self;
        changes.push(
            "the group's store cannot be reached: the order counts here, and reaches the other members when the store \
             is back"
                .to_owned(),
        );
        let _ = to.send(Answer::Done { changes });
    }

    fn told(self, counts: bool, other: Option<String>, members: usize) {
        let Waiting { to, mut changes, .. } = self;
        changes.push(match (counts, other) {
            (true, None) => format!("the group has the order: {members} members"),
            (true, Some(other)) => {
                format!("the group has the order: {members} members; it replaces the order given on {other}")
            }
            (false, other) => {
                format!("{} was given a different order meanwhile, and that one counts", other.unwrap_or_default())
            }
        });
        let _ = to.send(Answer::Done { changes });
    }
}

impl Controller<'_> {
    /// Takes in what has happened in the group, and carries out what others have ordered.
    pub(super) async fn take_group(&mut self, membership: &mut Membership, happened: Happened) {
        let Some(group) = &mut self.group else { return };
        let is_store = matches!(happened, Happened::Store(_));
        group.take(happened, membership);
        if is_store {
            group.settle(membership, self.engine).await;
        }
        let is_shared = group.share_health(membership, self.engine);
        if is_store || is_shared {
            self.show(membership);
        }
    }

    /// Takes in what the checks of this member find, and has the others told.
    pub(super) fn tell_checks(&mut self, membership: &mut Membership) {
        let Some(Grouping { sharing: Some(sharing), book, store, .. }) = &mut self.group else { return };
        if let Some(update) = membership.look_at_checks() {
            self.engine.publish(membership, update);
        }
        sharing.tell(book, membership, store);
    }

    /// The configuration may be another one.
    pub(super) async fn regroup(&mut self, membership: &mut Membership) {
        let Some(group) = &mut self.group else { return };
        let digest = group::digest(membership.configured());
        group.book.set_digest(digest.clone());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        group.store.ask(Ask::Member(Member {
            version,
            mode: group.mode.to_owned(),
            place: group.place.clone(),
            digest,
        }));
        group.settle(membership, self.engine).await;
        group.share_health(membership, self.engine);
        // With another key routers shall not send clients here any more.
        self.show(membership);
    }

    /// Says how far this member is.
    pub(super) fn tell_progress(&self, membership: &Membership) {
        let Some(group) = &self.group else { return };
        let announced = self.announcing.iter().flat_map(|announcing| &announcing.statuses);
        group.store.ask(Ask::Progress(Progress {
            generation: membership.generation(),
            revision: group.book.ordered_up_to(),
            announced: announced.filter(|status| status.announced == Some(true)).count(),
            services: membership.plan().services.len(),
            published: group.publishing.as_ref().map(|publishing| publishing.generation()),
        }));
    }

    pub(super) fn show_group(&mut self, to: oneshot::Sender<Answer>, membership: &Membership) {
        match &mut self.group {
            Some(group) => group.ask_members(to, membership),
            None => drop(to.send(Answer::Refused { error: NO_GROUP.to_owned() })),
        }
    }

    /// What keeps an order from being given, before anything is changed.
    pub(super) fn may_order(&self, order: &Order, is_local: bool) -> Result<(), String> {
        let Some(group) = &self.group else {
            return if is_local { Err(NO_GROUP.to_owned()) } else { Ok(()) };
        };
        match (order, is_local) {
            (_, false) => group
                .book
                .stranger()
                .map_or(Ok(()), |why| Err(format!("{why}; or give the order to this member only: --local"))),
            (Order::Undeny { prefix, service }, true) if !group.book.is_denied_here(*prefix, service.as_deref()) => {
                Err(format!("{prefix} is not denied by --local; to undo what the group denies, leave --local out"))
            }
            _ => Ok(()),
        }
    }

    /// An order was carried out here: the group is told, or it is noted that it counts here only. Answers the operator, now or when the
    /// store has it.
    pub(super) fn share(
        &mut self,
        membership: &Membership,
        order: &Order,
        is_local: bool,
        (answer, to): (Answer, oneshot::Sender<Answer>),
    ) {
        let (Some(group), Answer::Done { changes }) = (&mut self.group, &answer) else {
            return drop(to.send(answer));
        };
        let edit = edit(order, membership, &group.settings.member);
        let Some(edit) = edit else { return drop(to.send(answer)) };
        if is_local {
            group.set_local(edit);
            group.remember();
            return drop(to.send(answer));
        }
        let changes = changes.clone();
        let is_new = group.connection.1.is_ok();
        let id = group.book.enqueue(edit, true);
        group.remember();
        let waiting = Waiting { id, to, changes, until: Instant::now() + GROUP_ORDER };
        if !is_new {
            group.book.lose();
            return waiting.queued();
        }
        if let Some(queued) = group.book.queue().iter().find(|queued| queued.id == id) {
            group.store.ask(Ask::Tell { id, edit: queued.edit.clone(), is_new });
        }
        group.waiting.push(waiting);
    }
}

impl Grouping {
    /// What was published, if this member goes by something older.
    pub(super) fn newer(&self) -> Option<&Published> {
        self.publishing.as_ref()?.newer(self.book.shared.published.as_deref()?)
    }

    /// As `newer`, if it has not been refused here.
    pub(super) fn to_adopt(&self) -> Option<&Published> {
        self.newer().filter(|newer| self.publishing.as_ref().is_some_and(|publishing| !publishing.has_refused(newer)))
    }

    /// What came of taking over what was published.
    pub(super) fn adopted(&mut self, published: Published, refused: Option<&str>) {
        let Some(publishing) = &mut self.publishing else { return };
        match refused {
            None => {
                if let Some(file) = publishing.adopt(published.generation) {
                    self.store.ask(Ask::Keep(Box::new(published), file));
                }
            }
            Some(why) => publishing.refuse(&published, why),
        }
    }

    /// What an operator wants to publish, as this member would.
    ///
    /// # Errors
    /// Why it cannot, in words.
    pub(super) fn draft(&self, text: String, force: bool) -> Result<Published, String> {
        let Some(publishing) = &self.publishing else {
            return Err(
                "this process takes its services from its file: to publish, write config = \"etcd\" in its [group]"
                    .to_owned(),
            );
        };
        if let Err(why) = &self.connection.1 {
            return Err(format!("the group's store cannot be reached: {why}"));
        }
        let by = self.settings.member.clone();
        check_text(&text).map(|()| Published { generation: publishing.generation(), by, at_ms: now_ms(), force, text })
    }

    /// Has it published, and answers the operator.
    pub(super) fn publish(&self, published: Published, to: oneshot::Sender<Answer>, mut changes: Vec<String>) {
        let (tell, told) = oneshot::channel();
        self.store.ask(Ask::Publish { published: Box::new(published), to: tell });
        tokio::spawn(async move {
            let told = timeout(GROUP_ORDER, told)
                .await
                .map(|told| told.unwrap_or_else(|_| Err("the process ends".to_owned())));
            let told = told.unwrap_or_else(|_| {
                Err("the store has not answered: see `oneip ctl group` for what is published".to_owned())
            });
            let _ = to.send(match told {
                Ok(generation) => {
                    changes.push(format!(
                        "published as generation {generation}: `oneip ctl group` shows which members use it"
                    ));
                    Answer::Done { changes }
                }
                Err(error) => Answer::Refused { error },
            });
        });
    }
}

pub(super) const NO_GROUP: &str = "this process is in no group: its configuration has no [group]";

impl Grouping {
    fn set_local(&mut self, edit: Edit) {
        match edit {
            Edit::Server { server, orders } if self.book.local().len() < GROUP_SERVERS => {
                self.book.set_local(&server, &orders)
            }
            Edit::Server { .. } => {}
            Edit::Deny { prefix, service, order } => self.book.deny_local(prefix, service, order),
            Edit::Undeny { prefix, service, .. } => self.book.undeny_local(prefix, service.as_deref()),
        }
    }

    /// Has it kept on disk, if there is anything new.
    fn remember(&mut self) {
        let remembered = self.book.remembered();
        let is_new = self
            .remembered
            .as_ref()
            .is_none_or(|last| Remembered { synced: last.synced, ..remembered.clone() } != *last);
        if is_new {
            self.store.ask(Ask::Remember(Box::new(remembered.clone())));
            self.remembered = Some(remembered);
        }
    }

    /// One of the members takes out of the store what is over.
    fn sweep(&mut self) {
        let is_first = self.book.shared.members.keys().next() == Some(&self.settings.member);
        if self.connection.1.is_err() || !is_first {
            return;
        }
        for edit in self.book.over() {
            let id = self.book.enqueue(edit.clone(), false);
            self.store.ask(Ask::Tell { id, edit, is_new: false });
        }
    }

    /// Takes in what others find, and how it stands to them. Whether health is shared.
    fn share_health(&mut self, membership: &mut Membership, engine: &mut dyn Engine) -> bool {
        let Some(sharing) = &mut self.sharing else { return false };
        sharing.hear((&self.book, self.connection.1.is_ok()), membership, engine);
        true
    }

    /// Has everything here be as the orders that count here say.
    async fn settle(&mut self, membership: &mut Membership, engine: &mut dyn Engine) {
        self.remember();
        let outside = self.book.stranger();
        if outside != self.outside {
            let (grade, text) = match &outside {
                Some(why) => (Grade::Fail, format!("group: {why}")),
                None => (Grade::Ok, "group: this process belongs to it".to_owned()),
            };
            match grade {
                Grade::Ok => tracing::info!("{text}"),
                _ => tracing::error!("{text}"),
            }
            membership.timeline().tell(Told { kind: Kind::Order, grade, text: &text, mark: None });
            self.outside = outside;
        }
        if self.outside.is_some() {
            return;
        }
        self.sweep();
        let mut updates = Vec::new();
        match membership.adopt(self.book.wanted()).await {
            Ok(update) => updates.extend(update),
            Err(error) => tracing::warn!("group: orders cannot be carried out: {error}"),
        }
        updates.extend(membership.adopt_denied(self.book.wanted_denied()));
        let update = if updates.contains(&Update::Layout) { Some(Update::Layout) } else { updates.pop() };
        update.into_iter().for_each(|update| engine.publish(membership, update));
    }
}

/// Waits for what happens in the group, for ever where there is none.
pub(super) async fn next_of_group(group: &mut Option<Grouping>) -> Happened {
    match group {
        Some(group) => group.next().await,
        None => std::future::pending().await,
    }
}
