//! Health that a group shares: what its members find goes to the membership, what this one finds goes to the store, and time says when
//! the others count.

use crate::admin::group::{BadValue, FindsStatus, HealthStatus};
use crate::control::agreement::{self, Agreement, Stance, View};
use crate::control::membership::Membership;
use crate::engine::Engine;
use crate::group::book::Book;
use crate::group::record::MemberView;
use crate::group::stance::StanceClock;
use crate::group::store::{Ask, Store};
use std::collections::BTreeMap;
use tokio::time::Instant;

pub struct Sharing {
    member: String,
    clock: StanceClock,
    /// Views that the membership has, by when they were written.
    heard: BTreeMap<String, i64>,
    /// Those that are not about these servers, and why.
    unfit: BTreeMap<String, String>,
    /// What the others were told last.
    told: Option<MemberView>,
}

impl Sharing {
    pub fn new(member: &str) -> Sharing {
        Sharing {
            member: member.to_owned(),
            clock: StanceClock::new(Instant::now()),
            heard: BTreeMap::new(),
            unfit: BTreeMap::new(),
            told: None,
        }
    }

    /// When time alone changes something.
    pub fn due(&self) -> Option<Instant> {
        self.clock.due()
    }

    /// Takes in what has come from the store, and what time it is.
    pub fn hear(&mut self, (book, connected): (&Book, bool), membership: &mut Membership, engine: &mut dyn Engine) {
        let before = self.clock.stance();
        self.clock.see(connected && book.stranger().is_none(), book.continues, Instant::now());
        if self.clock.stance() != before {
            tell(self.clock.stance());
        }
        let counted: BTreeMap<&String, (&MemberView, i64)> =
            book.views().filter(|(name, ..)| **name != self.member).map(|(name, of, at)| (name, (of, at))).collect();
        let gone = self.heard.keys().filter(|name| !counted.contains_key(name)).map(|name| (name.clone(), None));
        let new = counted.iter().filter(|(name, (_, at))| self.heard.get(**name) != Some(at));
        let new = new.map(|(name, (of, _))| ((*name).clone(), Some(of.view.clone())));
        let views: Vec<(String, Option<View>)> = gone.chain(new).collect();
        self.heard = counted.into_iter().map(|(name, (_, at))| (name.clone(), at)).collect();
        views.iter().for_each(|(name, _)| _ = self.unfit.remove(name));
        let (update, unfit) = membership.hear_views(views, self.clock.stance());
        self.unfit.extend(unfit);
        update.into_iter().for_each(|update| engine.publish(membership, update));
    }

    /// Has the others told what this member finds, if that is new. It is another configuration's where the digest is another.
    pub fn tell(&mut self, book: &Book, membership: &Membership, store: &Store) {
        let digest = book.digest();
        let told = self.told.as_ref().filter(|told| told.digest == *digest).map(|told| &told.view);
        if let Some(view) = membership.view(told) {
            let view = MemberView { digest: digest.clone(), view };
            store.ask(Ask::View(Box::new(view.clone())));
            self.told = Some(view);
        }
    }

    /// Views that are not used.
    pub fn bad(&self) -> impl Iterator<Item = BadValue> {
        self.unfit.iter().map(|(name, why)| BadValue { key: format!("views/{name}"), why: why.clone() })
    }

    pub fn status(&self, agreement: &Agreement) -> HealthStatus {
        let (checks, of, differs) = agreement.tally();
        HealthStatus {
            stance: name(self.clock.stance()).to_owned(),
            since_s: self.clock.since().elapsed().as_secs_f64(),
            views: agreement.others().count() + 1,
            checks,
            of,
            differs,
        }
    }

    /// What a member finds, as it has told.
    pub fn finds(&self, member: &str, agreement: &Agreement) -> Option<FindsStatus> {
        let own = || self.told.as_ref().map(|told| &told.view);
        let mut others = agreement.others().filter(|(name, _)| *name == member);
        let view = if member == self.member { own() } else { others.next().map(|(_, view)| view) }?;
        let (checks, out) = agreement::count(view);
        Some(FindsStatus { checks, out, cut_off: view.cut_off })
    }
}

fn name(stance: Stance) -> &'static str {
    match stance {
        Stance::Together => "together",
        Stance::Waiting => "waiting",
        Stance::Alone => "alone",
    }
}

fn tell(stance: Stance) {
    match stance {
        Stance::Together => {
            tracing::info!("group: from now on the majority of the members decides which servers are up")
        }
        Stance::Waiting => {
            tracing::warn!(
                "group: the findings of the other members are not known now: servers keep their state, unless this \
                 member's own checks change"
            );
        }
        Stance::Alone => {
            tracing::warn!(
                "group: from now on only this member's own checks decide which servers are up; it checks all of them"
            )
        }
    }
}
