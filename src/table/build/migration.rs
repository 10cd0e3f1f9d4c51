//! Changes under way. When slots move from a server that goes on (it is drained, another joins or recovers, weights
//! change), its connections stay with it for a while: a `Change` remembers whose the slots were. What follows for the
//! data path is compiled into `Kept`.
//!
//! A server that dies keeps nothing: its slots move without a change being opened, and it vanishes from those that are open.

use super::maglev::NOBODY;
use crate::hash;
use crate::limits::{FLOW_IDLE, MAX_CHANGES};
use crate::model::Service;
use crate::table::flow_table::ticks;
use crate::table::{MIGRATING, Owners, Rule, remainder};
use arrayvec::ArrayVec;
use std::sync::Arc;

/// The open changes of one service, oldest first. Times are nanoseconds of the clock that the ports use.
#[derive(Clone, Default)]
pub struct Moves {
    open: Vec<Change>,
    /// Whether connections that show themselves while a change is open stay for as long as they last.
    until_closed: bool,
    /// If so: what was open once.
    settled: Option<Settled>,
    /// Whether servers send back what they have no connection for.
    second_chance: bool,
}

/// Of changes whose time is over: what is not remembered of their slots is the present owner's, and what is remembered stays.
#[derive(Clone, PartialEq)]
struct Settled {
    rule: Rule,
    /// By slot, whether it was moving; `None`: flows cannot be told by slot, and any may be remembered.
    slots: Option<Vec<bool>>,
    /// Since when.
    since: u64,
}

#[derive(Clone)]
struct Change {
    /// Whose connections there were that nobody remembers; with the mark `MIGRATING` where the owner became another.
    before: Owners,
    /// Whose the slots were, with the same mark.
    was: Owners,
    began: u64,
    until: u64,
}

/// Who keeps the flows of a service that are not remembered.
pub struct Kept {
    way: Way,
    /// The tick since when the slot that has been moving for longest has.
    pub horizon: u64,
    /// Whether flows that show themselves stay for as long as they last.
    pub until_closed: bool,
    /// Where servers send back what they have no connection for, and several changes are open: whose the slots were before each, oldest
    /// first, with the mark where that one lost them.
    earlier: Vec<Owners>,
}

enum Way {
    /// By the slots that clients have now.
    Slots { rule: Rule, previous_owners: Arc<[PreviousOwner]> },
    /// Clients have or had other slots, or select by remainder: each change by itself, with whether flows without a
    /// beginning may be older.
    Chain(Vec<(Owners, bool)>),
}

/// Who keeps the flows of a slot that are not remembered. One a slot, so it is one word: 16 bits of server or `NOBODY`, one that
/// says `is_learning`, one that says `is_settled`, the rest of it ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousOwner(u64);

/// What the data path selects by while changes are open: the present owners, with the mark `MIGRATING` where a flow must be
/// looked at by itself.
#[derive(Clone)]
pub struct Marked {
    pub owners: Owners,
    pub kept: Arc<Kept>,
    /// How many slots are marked.
    pub slots: u32,
}

impl Moves {
    /// From `now` on the slots are `present`'s; they were `before`'s, and connections stay until `until`. `marked` is what
    /// the data path has selected by up to now. Does nothing where nobody who goes on has lost a slot.
    pub fn open(&mut self, before: Owners, present: &Owners, marked: Option<&Marked>, (now, until): (u64, u64)) {
        // While others are open, what moves must be known in any case.
        let until = self.open.iter().map(|change| change.until).max().unwrap_or(0).max(until);
        if until <= now || !before.lost_to(present) {
            return;
        }
        if !self.is_by_slot(before.rule) {
            // What was before cannot be told slot by slot: it is told in full, until the last of it is over.
            self.prolong(until);
        }
        let was = before.marked_against(present);
        let before = was.clone().kept_through(marked);
        self.open.push(Change { before, was, began: now, until });
        if self.open.len() > MAX_CHANGES {
            // Of two by one rule nothing is lost.
            let alike = self.open.windows(2).position(|pair| pair[0].before.rule == pair[1].before.rule);
            let at = alike.unwrap_or(0);
            let first = self.open.remove(at);
            let second = &mut self.open[at];
            let (before, was) = (first.before.joined(&second.before), first.was.joined(&second.was));
            *second = Change { before, was, began: first.began, until: second.until.max(first.until) };
        }
    }

    /// Whether connections stay with who had them, for whatever reason.
    pub fn keeps(&self) -> bool {
        self.is_open() || self.settled.is_some()
    }

    /// Whether it is the same, in the same memory.
    pub fn is(&self, other: &Moves) -> bool {
        let same = |(one, other): (&Change, &Change)| {
            (one.began, one.until) == (other.began, other.until)
                && one.before.is(&other.before)
                && one.was.is(&other.was)
        };
        (self.until_closed, self.second_chance) == (other.until_closed, other.second_chance)
            && self.open.len() == other.open.len()
            && self.open.iter().zip(&other.open).all(same)
            && self.settled == other.settled
    }

    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// When the change began that was opened last.
    pub fn began_last(&self) -> Option<u64> {
        self.open.last().map(|change| change.began)
    }

    /// Lets no open change end before.
    pub fn prolong(&mut self, until: u64) {
        self.open.iter_mut().for_each(|change| change.until = change.until.max(until));
    }

    /// Whether connections stay for as long as they last, and whether servers send back what they have no connection for, from now on.
    pub fn configure(&mut self, service: &Service) {
        (self.until_closed, self.second_chance) = (service.until_closed, service.second_chance);
        self.settled.take_if(|_| !service.until_closed);
    }

    pub fn second_chance(&self) -> bool {
        self.second_chance
    }

    /// Whether connections that show themselves now will stay for as long as they last.
    pub fn is_learning(&self) -> bool {
        self.until_closed && !self.open.is_empty()
    }

    /// Since when there is nothing to be learnt of changes of which flows are remembered.
    pub fn settled_since(&self) -> Option<u64> {
        self.settled.as_ref().map(|settled| settled.since)
    }

    /// Nothing is remembered any more of changes whose time is over.
    pub fn close_settled(&mut self) {
        self.settled = None;
    }

    /// Ends the changes whose time is over.
    pub fn expire(&mut self, now: u64) {
        let over: Vec<Change> = self.open.extract_if(.., |change| change.until <= now).collect();
        if self.until_closed {
            over.iter().for_each(|change| change.settle(&mut self.settled, now));
        }
    }

    /// When `mark` will say something else, if nothing happens until then.
    pub fn next(&self, now: u64) -> Option<u64> {
        self.open.iter().flat_map(|change| [change.until, change.learnt()]).filter(|time| *time > now).min()
    }

    /// The servers have other positions now; one that is gone has `NOBODY`'s.
    pub fn renumber(&mut self, new: impl Fn(u16) -> u16) {
        for change in &mut self.open {
            change.before.renumber(&new);
            change.was.renumber(&new);
        }
    }

    /// `None`: no slot moves. `marked` is what this said before.
    pub fn mark(&self, present: &Owners, marked: Option<&Marked>, now: u64) -> Option<Marked> {
        let began = self.open.first().map(|first| first.began).or(self.settled_since())?;
        let until_closed = self.until_closed;
        if !self.is_by_slot(present.rule) {
            // Every flow must be looked at.
            let horizon = marked.map_or(ticks(began), |marked| marked.kept.horizon);
            let chain = self.open.iter().map(|change| (change.before.clone(), now < change.learnt())).collect();
            let owners = present.map(|owners| owners.iter().map(|owner| owner | MIGRATING).collect());
            let kept = Arc::new(Kept { way: Way::Chain(chain), horizon, until_closed, earlier: self.earlier() });
            return Some(Marked { slots: present.rule.slots, owners, kept });
        }
        let laid = self.lay(&present.slots, marked.and_then(|marked| marked.by_slot(present.rule)), now);
        let moving = || laid.iter().filter(|(owner, _)| owner & MIGRATING != 0);
        let horizon = moving().map(|(_, previous_owner)| previous_owner.since()).min()?;
        let (slots, previous_owners): (Vec<u16>, Vec<PreviousOwner>) = laid.iter().copied().unzip();
        let kept = Arc::new(Kept {
            way: Way::Slots { rule: present.rule, previous_owners: previous_owners.into() },
            horizon,
            until_closed,
            earlier: self.earlier(),
        });
        let owners = Owners { rule: present.rule, slots: slots.into(), remainders: None };
        Some(Marked { slots: moving().count() as u32, owners, kept })
    }

    /// `Kept::earlier`
    fn earlier(&self) -> Vec<Owners> {
        match self.second_chance && self.open.len() > 1 {
            true => self.open.iter().map(|change| change.was.clone()).collect(),
            false => Vec::new(),
        }
    }

    /// Whether the open changes can be told slot by slot: clients have one slot by that rule, and had no other.
    fn is_by_slot(&self, rule: Rule) -> bool {
        let settled = self.settled.as_ref().is_none_or(|settled| settled.rule == rule && settled.slots.is_some());
        rule.modulo.is_none() && settled && self.open.iter().all(|change| change.before.rule == rule)
    }

    /// Marks the slots that moved in an open change. They are kept by who had them before the first; where that one is gone, by who
    /// has got since then what nobody remembers: the owner before the next.
    fn lay(&self, present: &[u16], marked: Option<(&[u16], &[PreviousOwner])>, now: u64) -> Vec<(u16, PreviousOwner)> {
        let still = |owner: &u16| (*owner, PreviousOwner::new(*owner, false, ticks(now)));
        let mut laid: Vec<(u16, PreviousOwner)> = present.iter().map(still).collect();
        for change in &self.open {
            let moved = change.before.slots.iter().enumerate().filter(|(_, before)| **before & MIGRATING != 0);
            for (slot, before) in moved {
                let (owner, previous_owner) = &mut laid[slot];
                let is_first = *owner & MIGRATING == 0;
                if !is_first && previous_owner.server().is_some() {
                    continue;
                }
                *owner |= MIGRATING;
                let long = marked.filter(|(owners, _)| owners[slot] & MIGRATING != 0);
                let since = match long {
                    Some((_, previous_owners)) => previous_owners[slot].since(),
                    None if is_first => ticks(change.began),
                    None => previous_owner.since(),
                };
                *previous_owner = PreviousOwner::new(before & !MIGRATING, now < change.learnt(), since);
            }
        }
        let settled = self.settled.iter().filter_map(|settled| settled.slots.as_ref()).flatten().zip(&mut laid);
        for (slot, (_, (owner, previous_owner))) in
            settled.enumerate().filter(|(_, (moved, (owner, _)))| **moved && owner & MIGRATING == 0)
        {
            let long = marked.filter(|(owners, _)| owners[slot] & MIGRATING != 0);
            *previous_owner =
                long.map_or(*previous_owner, |(_, previous_owners)| previous_owners[slot]).kept_by(*owner).settled();
            *owner |= MIGRATING;
        }
        laid
    }
}

impl Change {
    /// Its time is over.
    fn settle(&self, settled: &mut Option<Settled>, now: u64) {
        let Owners { rule, slots, .. } = &self.before;
        let moved: Vec<bool> = slots.iter().map(|owner| owner & MIGRATING != 0).collect();
        let all = match settled.take() {
            None if rule.modulo.is_none() => Some(moved),
            Some(Settled { rule: known, slots: Some(mut slots), .. }) if known == *rule => {
                slots.iter_mut().zip(moved).for_each(|(slot, moved)| *slot |= moved);
                Some(slots)
            }
            _ => None,
        };
        *settled = Some(Settled { rule: *rule, slots: all, since: now });
    }

    /// When every flow without a beginning that was there has shown itself, or is over.
    fn learnt(&self) -> u64 {
        self.began + FLOW_IDLE.as_nanos() as u64
    }
}

impl Owners {
    /// The server of a client, or `NOBODY`; with the mark, if its slot has it.
    fn find(&self, hash: u64, client: u128) -> u16 {
        let by_slot = || self.slots[hash::slot(hash, self.rule.slots) as usize];
        let by_remainder = self.remainders.as_ref().map(|owners| owners[remainder(client, owners.len())]);
        by_remainder.filter(|owner| owner & !MIGRATING != NOBODY).unwrap_or_else(by_slot)
    }

    /// Whether they are the same, in the same memory.
    pub(super) fn is(&self, other: &Owners) -> bool {
        let same = |one: &Arc<[u16]>, other: &Arc<[u16]>| Arc::ptr_eq(one, other);
        let remainders = match (&self.remainders, &other.remainders) {
            (Some(one), Some(other)) => same(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.rule == other.rule && remainders && same(&self.slots, &other.slots)
    }

    fn map(&self, f: impl Fn(&Arc<[u16]>) -> Arc<[u16]>) -> Owners {
        Owners { rule: self.rule, slots: f(&self.slots), remainders: self.remainders.as_ref().map(f) }
    }

    fn zip(&self, other: &Owners, f: impl Fn(u16, u16) -> u16) -> Owners {
        let zip = |mine: &[u16], others: &[u16]| mine.iter().zip(others).map(|(a, b)| f(*a, *b)).collect();
        let remainders = self.remainders.as_ref().zip(other.remainders.as_ref()).map(|(a, b)| zip(a, b));
        Owners { rule: self.rule, slots: zip(&self.slots, &other.slots), remainders }
    }

    /// The servers have other positions now. Marks stay.
    pub(super) fn renumber(&mut self, new: impl Fn(u16) -> u16) {
        *self = self.map(|owners| owners.iter().map(|owner| new(owner & !MIGRATING) | owner & MIGRATING).collect());
    }

    /// Whether somebody has a slot here that is another's in `present`.
    fn lost_to(&self, present: &Owners) -> bool {
        let lost = |(mine, present): (&u16, &u16)| mine != present && *mine != NOBODY;
        let any_slot = || self.slots.iter().zip(present.slots.iter()).any(lost);
        // A server that comes back gets its remainder from all others.
        self.rule != present.rule || self.remainders != present.remainders || any_slot()
    }

    /// Where a slot that moves has been moving before, those of its connections that nobody remembers are older than its
    /// last owner, which gets them only if who had them is gone.
    fn kept_through(mut self, marked: Option<&Marked>) -> Owners {
        if let Some((owners, previous_owners)) = marked.and_then(|marked| marked.by_slot(self.rule)) {
            let through =
                |(mine, (owner, previous_owner)): (&u16, (&u16, &PreviousOwner))| match owner & mine & MIGRATING {
                    0 => *mine,
                    mark => previous_owner.server().map_or(*mine, |server| server | mark),
                };
            self.slots = self.slots.iter().zip(owners.iter().zip(previous_owners)).map(through).collect();
        }
        self
    }

    /// With the mark where the owner is another in `present`.
    fn marked_against(&self, present: &Owners) -> Owners {
        if self.rule != present.rule || self.rule.modulo.is_some() {
            return self.map(|owners| owners.iter().map(|owner| owner | MIGRATING).collect());
        }
        self.zip(present, |mine, present| if mine == present { mine } else { mine | MIGRATING })
    }

    /// Two changes as one: this one, and a newer.
    fn joined(&self, newer: &Owners) -> Owners {
        if self.rule != newer.rule {
            return self.clone();
        }
        // A remainder that is nobody's is the slot's.
        let by_slot = self.rule.modulo.is_none();
        self.zip(newer, |mine, newer| match (mine & MIGRATING != 0, newer & MIGRATING != 0) {
            (true, true) if by_slot && mine & !MIGRATING == NOBODY => newer,
            (true, _) => mine,
            (false, _) => newer,
        })
    }
}

impl Marked {
    /// Whether it is the same, in the same memory.
    pub fn is(&self, other: &Marked) -> bool {
        Arc::ptr_eq(&self.kept, &other.kept) && self.owners.is(&other.owners)
    }

    /// Owners and previous owners by slot, if clients have the slots of that rule, and had no others.
    fn by_slot(&self, rule: Rule) -> Option<(&[u16], &[PreviousOwner])> {
        match &self.kept.way {
            Way::Slots { rule: kept, previous_owners } if *kept == rule => Some((&self.owners.slots, previous_owners)),
            _ => None,
        }
    }

    /// The servers have other positions now; one that is gone has `NOBODY`'s.
    pub fn renumber(&mut self, new: impl Fn(u16) -> u16 + Copy) {
        self.owners.renumber(new);
        let way = match &self.kept.way {
            Way::Slots { rule, previous_owners } => {
                let renumber =
                    |previous_owner: &PreviousOwner| previous_owner.kept_by(new(previous_owner.server_or_nobody()));
                Way::Slots { rule: *rule, previous_owners: previous_owners.iter().map(renumber).collect() }
            }
            Way::Chain(chain) => {
                let mut chain = chain.clone();
                chain.iter_mut().for_each(|(owners, _)| owners.renumber(new));
                Way::Chain(chain)
            }
        };
        let Kept { horizon, until_closed, .. } = *self.kept;
        let mut earlier = self.kept.earlier.clone();
        earlier.iter_mut().for_each(|owners| owners.renumber(new));
        self.kept = Arc::new(Kept { way, horizon, until_closed, earlier });
    }
}

impl Kept {
    /// By slot, whether it moves or not; `None`: every client moves, and each must be looked at by itself.
    pub fn previous_owners(&self) -> Option<&[PreviousOwner]> {
        match &self.way {
            Way::Slots { previous_owners, .. } => Some(previous_owners),
            Way::Chain(_) => None,
        }
    }

    /// As `previous_owners`, with the rule by which clients have slots. The same slice says the same, in whatever table.
    pub fn shared_previous_owners(&self) -> Option<(Rule, &Arc<[PreviousOwner]>)> {
        match &self.way {
            Way::Slots { rule, previous_owners } => Some((*rule, previous_owners)),
            Way::Chain(_) => None,
        }
    }

    /// Where every client moves: whose clients were, by the oldest open change first, with whether flows without a beginning may be
    /// older.
    pub fn chain(&self) -> &[(Owners, bool)] {
        match &self.way {
            Way::Slots { .. } => &[],
            Way::Chain(chain) => chain,
        }
    }

    /// Whose the slots were before each open change, where that is needed for who may have a client's connections.
    pub fn earlier(&self) -> &[Owners] {
        &self.earlier
    }

    /// All who may have a client's TCP connection: who keeps those that are not remembered, who had the client since, and who has it now.
    pub fn candidates(
        &self,
        present: Option<u16>,
        hash: impl Fn(&Rule) -> u64,
        client: u128,
    ) -> ArrayVec<u16, { MAX_CHANGES + 2 }> {
        let lost = |owners: &Owners| {
            let owner = owners.find(hash(&owners.rule), client);
            (owner & MIGRATING != 0 && owner != MIGRATING | NOBODY).then_some(owner & !MIGRATING)
        };
        let since: ArrayVec<u16, MAX_CHANGES> = self.earlier.iter().filter_map(lost).collect();
        let mut candidates = ArrayVec::new();
        for server in self.previous_owner(present, &hash, client).server().into_iter().chain(since).chain(present) {
            if !candidates.contains(&server) {
                candidates.push(server);
            }
        }
        candidates
    }

    /// Who keeps a client's flows of which nothing is remembered. `present` owns its slot, `hash` is its hash by a rule.
    pub fn previous_owner(&self, present: Option<u16>, hash: impl Fn(&Rule) -> u64, client: u128) -> PreviousOwner {
        match &self.way {
            Way::Slots { rule, previous_owners } => previous_owners[hash::slot(hash(rule), rule.slots) as usize],
            Way::Chain(chain) => {
                let first = chain.iter().find_map(|(owners, learning)| {
                    let owner = owners.find(hash(&owners.rule), client);
                    (owner & MIGRATING != 0 && owner != MIGRATING | NOBODY).then_some((owner & !MIGRATING, *learning))
                });
                let (server, learning) = first.unwrap_or((present.unwrap_or(NOBODY), false));
                let previous_owner = PreviousOwner::new(server, learning, self.horizon);
                if chain.is_empty() { previous_owner.settled() } else { previous_owner }
            }
        }
    }
}

impl PreviousOwner {
    const LEARNING: u64 = 1 << 16;
    const SETTLED: u64 = 1 << 17;
    const SINCE: u32 = 18;

    fn new(server: u16, is_learning: bool, since: u64) -> PreviousOwner {
        PreviousOwner(
            u64::from(server) | if is_learning { PreviousOwner::LEARNING } else { 0 } | since << PreviousOwner::SINCE,
        )
    }

    /// All of it: the server or `NOBODY` in the low 16 bits, then one that says `is_learning`, one that says `is_settled`, and
    /// `since`.
    pub fn word(&self) -> u64 {
        self.0
    }

    fn server_or_nobody(&self) -> u16 {
        self.0 as u16
    }

    pub fn server(&self) -> Option<u16> {
        (self.server_or_nobody() != NOBODY).then_some(self.server_or_nobody())
    }

    /// Whether a flow of a protocol without a beginning may still be an old one.
    pub fn is_learning(&self) -> bool {
        self.0 & PreviousOwner::LEARNING != 0
    }

    /// The tick since when the slot has been moving: what was last seen before was remembered for a change that is over.
    pub fn since(&self) -> u64 {
        self.0 >> PreviousOwner::SINCE
    }

    /// Whether what is not remembered is the present owner's, and so is all that begins: nothing more is remembered.
    pub fn is_settled(&self) -> bool {
        self.0 & PreviousOwner::SETTLED != 0
    }

    fn kept_by(&self, server: u16) -> PreviousOwner {
        PreviousOwner(self.0 & !u64::from(u16::MAX) | u64::from(server))
    }

    fn settled(&self) -> PreviousOwner {
        PreviousOwner(self.0 & !PreviousOwner::LEARNING | PreviousOwner::SETTLED)
    }
}
