//! What services come to that have the same servers and go through the same: made once, and shared. Where thousands of services have the
//! same servers, an order, a failure and the end of a change cost one pass over the slots, and the memory of one.

use super::migration::{Marked, Moves};
use crate::limits::SHARED_MOVES;
use crate::table::Owners;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// The owner of each slot, or `NOBODY`, and how many slots each server owns.
pub struct Elected {
    pub slots: Arc<[u16]>,
    pub shares: Arc<[u32]>,
}

/// Of the services with one ranking.
#[derive(Default)]
pub struct Shared(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// By which servers take clients, as long as any service has it.
    elected: HashMap<Vec<bool>, InUse>,
    /// The last ones, while slots move.
    moved: Vec<(Step, Moved)>,
}

struct InUse {
    slots: Weak<[u16]>,
    shares: Weak<[u32]>,
}

/// What the changes of a service are before something happens, and what that is.
#[derive(Clone)]
pub struct Step {
    /// Whose the slots were until now; `None`: they stay whose they are.
    pub before: Option<Owners>,
    /// By position of the servers of all that was, their positions now, or `NOBODY`; `None`: the same.
    pub positions: Option<Vec<u16>>,
    pub present: Owners,
    pub moves: Moves,
    pub marked: Option<Marked>,
    /// Now, and until when connections stay.
    pub times: (u64, u64),
}

/// And what they are then.
#[derive(Clone)]
pub struct Moved {
    pub moves: Moves,
    /// `None`: no slot moves.
    pub marked: Option<Marked>,
}

impl Elected {
    fn new(slots: Arc<[u16]>, servers: usize) -> Elected {
        let mut shares = vec![0; servers];
        // `NOBODY` is behind all of them.
        slots.iter().for_each(|owner| shares.get_mut(*owner as usize).into_iter().for_each(|share| *share += 1));
        Elected { slots, shares: shares.into() }
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("nothing panics while it is locked")
    }

    /// Who owns what where these servers take clients, if any service has that already.
    pub fn elected(&self, taking: &[bool]) -> Option<Elected> {
        let known = self.known();
        let InUse { slots, shares } = known.elected.get(taking)?;
        Some(Elected { slots: slots.upgrade()?, shares: shares.upgrade()? })
    }

    /// Where these servers take clients, the slots are owned so. `others`: other services may ask for that.
    pub fn elect(&self, taking: Vec<bool>, slots: Arc<[u16]>, others: bool) -> Elected {
        let elected = Elected::new(slots, taking.len());
        if !others {
            return elected;
        }
        let mut known = self.known();
        known.elected.retain(|_, in_use| in_use.slots.strong_count() > 0);
        let in_use = InUse { slots: Arc::downgrade(&elected.slots), shares: Arc::downgrade(&elected.shares) };
        known.elected.insert(taking, in_use);
        elected
    }

    /// What comes of a step. `others`: other services may go the same.
    pub fn take(&self, step: Step, others: bool) -> Moved {
        if !step.moves.keeps() && (step.before.is_none() || step.times.1 <= step.times.0) {
            return Moved { moves: step.moves, marked: None };
        }
        if !others {
            return step.take();
        }
        let of = |known: &Known| Some(known.moved.iter().find(|(other, _)| other.is(&step))?.1.clone());
        if let Some(known) = of(&self.known()) {
            return known;
        }
        let moved = step.clone().take();
        let mut known = self.known();
        if moved.marked.is_none() {
            known.moved.clear();
        } else {
            let full = known.moved.len() == SHARED_MOVES;
            known.moved.drain(..usize::from(full));
            known.moved.push((step, moved.clone()));
        }
        moved
    }
}

impl Step {
    fn take(self) -> Moved {
        let Step { mut before, positions, present, mut moves, mut marked, times: (now, until) } = self;
        if let Some(new) = positions {
            let renumber = |old: u16| new.get(old as usize).copied().unwrap_or(old);
            before.iter_mut().for_each(|before| before.renumber(renumber));
            moves.renumber(renumber);
            marked.iter_mut().for_each(|marked| marked.renumber(renumber));
        }
        if let Some(before) = before {
            moves.open(before, &present, marked.as_ref(), (now, until));
        }
        moves.expire(now);
        let marked = moves.mark(&present, marked.as_ref(), now);
        Moved { moves, marked }
    }

    /// Whether the same comes of both.
    fn is(&self, other: &Step) -> bool {
        self.times == other.times
            && self.positions == other.positions
            && self.present.is(&other.present)
            && both(self.before.as_ref(), other.before.as_ref(), Owners::is)
            && both(self.marked.as_ref(), other.marked.as_ref(), Marked::is)
            && self.moves.is(&other.moves)
    }
}

/// Whether neither is there, or both are and are the same.
fn both<T>(one: Option<&T>, other: Option<&T>, is: impl Fn(&T, &T) -> bool) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => is(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}
