//! The dispatcher inside the kernel, by `BPF_PROG_TEST_RUN`: bit for bit what a worker does with a frame, and counts.

#[path = "../changes/cases.rs"]
mod cases;
#[path = "../changes/fixture.rs"]
mod fixture;
mod frames;
mod kept;
#[path = "../changes/law.rs"]
mod law;
mod limits;
#[path = "../model/mod.rs"]
mod model;
mod net;
mod publish;
#[path = "../changes/returned.rs"]
mod returned;
#[path = "../changes/spoofed.rs"]
mod spoofed;
mod twin;
mod watch;

use oneip::model::Mac;
use oneip::table::Table;
use oneip::xdp::dispatch::{Books, Dispatch, Setup};
use twin::twin;

/// Of the laws of tests/changes, which run there more often.
const CASES: u32 = 15;

/// `None` without root, and it says so.
fn dispatch(own: [u8; 6], table: &Table, flows: u32) -> Option<(Dispatch, Books)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    let setup = Setup { mac: Mac(own), egress: 0, queues: 1, flows, timed_of: 3, others: Default::default() };
    let mut dispatch = Dispatch::load(setup, table).unwrap();
    let books = dispatch.open_books(table).unwrap();
    Some((dispatch, books))
}
