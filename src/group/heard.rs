//! When orders that last for a time were heard of. Such an order lasts as long as it was given for, on each member from when that hears of
//! it: a member whose clock is wrong does not end it early for its clients. Whoever hears of one only later, as at a start, goes by clocks.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An order, by the member that was told and when, by that member's clock.
pub type Order<'a> = (&'a str, u64);

/// When that was, in milliseconds since 1970 by this member's clock; by member, and by time of the order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Heard(BTreeMap<String, BTreeMap<u64, u64>>);

impl Heard {
    /// What was heard before is not heard anew.
    pub fn note(&mut self, (by, at_ms): Order<'_>, here_ms: u64) {
        self.0.entry(by.to_owned()).or_default().entry(at_ms).or_insert(here_ms);
    }

    fn at(&self, (by, at_ms): Order<'_>) -> Option<u64> {
        self.0.get(by)?.get(&at_ms).copied()
    }

    /// Whether it was heard of as it came.
    pub fn has(&self, order: Order<'_>) -> bool {
        self.at(order).is_some()
    }

    /// Until when an order lasts, in seconds since 1970 by this member's clock; `until` is by that of the member that was told.
    pub fn until(&self, order: Order<'_>, until: u64) -> u64 {
        self.at(order).map_or(until, |here_ms| (here_ms / 1000 + until).saturating_sub(order.1 / 1000))
    }

    pub fn retain(&mut self, mut is_there: impl FnMut(Order<'_>) -> bool) {
        for (by, orders) in &mut self.0 {
            orders.retain(|at_ms, _| is_there((by, *at_ms)));
        }
        self.0.retain(|_, orders| !orders.is_empty());
    }
}
