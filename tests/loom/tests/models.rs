//! The models, as tests: the sources have tests of their own, which are not compiled here.

use oneip_loom::{charges, heartbeat, publication, tally, timing};

#[test]
fn no_charge_is_lost() {
    charges::no_charge_is_lost();
}

#[test]
fn no_more_is_lost_than_the_ring_holds() {
    heartbeat::no_more_is_lost_than_the_ring_holds();
}

#[test]
fn a_worker_sees_tables_in_order_with_their_metrics() {
    publication::a_worker_sees_tables_in_order_with_their_metrics();
}

#[test]
fn what_is_retired_is_cleared_by_anybody_but_the_worker() {
    publication::what_is_retired_is_cleared_by_anybody_but_the_worker();
}

#[test]
fn no_count_goes_back_and_none_is_lost() {
    tally::no_count_goes_back_and_none_is_lost();
}

#[test]
fn what_is_timed_is_harvested_once() {
    timing::what_is_timed_is_harvested_once();
}
