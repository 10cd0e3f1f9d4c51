//! A worker's books: what it counts and times for the services and servers of one layout.
//!
//! The worker gets new ones together with the table of another layout (`table::publish`), within one turn, and gives the old
//! ones back whole. Whoever drops them closes them: the collector, which has had its view of them from the start, then finds
//! their last histograms, and knows that their counters stand still.

use super::counters::Tally;
use super::histogram::{self, Harvest, Recorder};
use crate::table::Table;
use std::sync::Arc;

pub struct Books {
    pub tally: Arc<Tally>,
    pub latency: Recorder,
}

/// The collector's view of a worker's books.
pub struct View {
    pub tally: Arc<Tally>,
    pub harvest: Harvest,
}

/// Books for the tables of this one's layout.
pub fn open(table: &Table) -> (Books, View) {
    let tally = Arc::new(Tally::new(table.destinations()));
    let (latency, harvest) = histogram::channel(table.services());
    (Books { tally: Arc::clone(&tally), latency }, View { tally, harvest })
}
