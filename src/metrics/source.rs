//! Where the collector finds what was counted and timed: in a worker's memory, or in the kernel's.

use super::counters::Tally;
use super::histogram::{Answer, Latencies};
use super::worker::View;
use crate::model::{LimitKind, OddKind};
use crate::verdict::Reason;

/// Frames, servers apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub received: u64,
    /// To all servers together. What the kernel's program counts is looked at once for all of these, so they add up while it runs; what is
    /// counted of each server is looked at after that.
    pub forwarded: u64,
    pub passed: u64,
    /// By `Reason`.
    pub dropped: [u64; Reason::COUNT],
    pub odd: OddCounts,
}

/// What limits say of frames that are dear to read, by `OddKind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OddCounts {
    pub limited: [u64; OddKind::COUNT],
    pub would_limit: [u64; OddKind::COUNT],
}

impl std::ops::AddAssign for OddCounts {
    fn add_assign(&mut self, other: OddCounts) {
        self.limited.iter_mut().zip(other.limited).for_each(|(sum, count)| *sum += count);
        self.would_limit.iter_mut().zip(other.would_limit).for_each(|(sum, count)| *sum += count);
    }
}

/// What went to one server of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentCounts {
    pub frames: u64,
    pub bytes: u64,
    pub flows: u64,
}

/// What lists say of the frames to one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListedCounts {
    pub denied: u64,
    pub would_deny: u64,
}

/// What limits say of the frames to one service, by `LimitKind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitedCounts {
    pub limited: [u64; LimitKind::COUNT],
    pub would_limit: [u64; LimitKind::COUNT],
}

impl std::ops::AddAssign for LimitedCounts {
    fn add_assign(&mut self, other: LimitedCounts) {
        self.limited.iter_mut().zip(other.limited).for_each(|(sum, count)| *sum += count);
        self.would_limit.iter_mut().zip(other.would_limit).for_each(|(sum, count)| *sum += count);
    }
}

/// Counters for the services and servers of one layout. They never go back.
pub trait Counted {
    fn counts(&self) -> Counts;

    /// `Table::destinations`
    fn destinations(&self) -> usize;

    /// By `Table::destination`.
    fn sent(&self, destination: usize) -> SentCounts;

    /// `Table::services`
    fn services(&self) -> usize;

    /// By service.
    fn listed(&self, service: usize) -> ListedCounts;

    /// By service.
    fn limited(&self, service: usize) -> LimitedCounts;
}

/// Counters, and the histograms beside them.
pub trait Source: Counted + Send {
    /// Asks for what was timed since this was asked last. Again before `collect`, it does nothing.
    fn request(&mut self);

    /// Shows `with` what was asked for, if it has come; in the end, all that is left.
    fn collect(&mut self, with: &mut dyn FnMut(&Latencies)) -> Answer;
}

/// Sources of one kind, for who takes any.
pub fn boxed(sources: Vec<impl Source + 'static>) -> Vec<Box<dyn Source>> {
    sources.into_iter().map(|source| Box::new(source) as Box<dyn Source>).collect()
}

impl Counted for Tally {
    fn counts(&self) -> Counts {
        Counts {
            received: self.received.get(),
            forwarded: self.forwarded(),
            passed: self.passed.get(),
            dropped: Reason::ALL.map(|reason| self.dropped(reason).get()),
            odd: OddCounts {
                limited: OddKind::ALL.map(|kind| self.odd(kind).limited.get()),
                would_limit: OddKind::ALL.map(|kind| self.odd(kind).would_limit.get()),
            },
        }
    }

    fn destinations(&self) -> usize {
        Tally::destinations(self)
    }

    fn sent(&self, destination: usize) -> SentCounts {
        let sent = Tally::sent(self, destination);
        SentCounts { frames: sent.frames.get(), bytes: sent.bytes.get(), flows: sent.flows.get() }
    }

    fn services(&self) -> usize {
        Tally::services(self)
    }

    fn listed(&self, service: usize) -> ListedCounts {
        let listed = Tally::listed(self, service);
        ListedCounts { denied: listed.denied.get(), would_deny: listed.would_deny.get() }
    }

    fn limited(&self, service: usize) -> LimitedCounts {
        let each = LimitKind::ALL.map(|kind| Tally::limited(self, service, kind));
        LimitedCounts { limited: each.map(|of| of.limited.get()), would_limit: each.map(|of| of.would_limit.get()) }
    }
}

impl Counted for View {
    fn counts(&self) -> Counts {
        self.tally.counts()
    }

    fn destinations(&self) -> usize {
        self.tally.destinations()
    }

    fn sent(&self, destination: usize) -> SentCounts {
        Counted::sent(&*self.tally, destination)
    }

    fn services(&self) -> usize {
        self.tally.services()
    }

    fn listed(&self, service: usize) -> ListedCounts {
        Counted::listed(&*self.tally, service)
    }

    fn limited(&self, service: usize) -> LimitedCounts {
        Counted::limited(&*self.tally, service)
    }
}

impl Source for View {
    fn request(&mut self) {
        self.harvest.request();
    }

    fn collect(&mut self, with: &mut dyn FnMut(&Latencies)) -> Answer {
        self.harvest.collect(with)
    }
}
