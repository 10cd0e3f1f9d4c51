//! The dispatcher inside the kernel, by `BPF_PROG_TEST_RUN`: bit for bit what a worker does with a frame, and counts.

mod frames;
#[path = "../model/mod.rs"]
mod model;

use oneip::model::Mac;
use oneip::table::Table;
use oneip::xdp::dispatch::{Books, Dispatch, Setup};

/// `None` without root, and it says so.
fn dispatch(own: [u8; 6], table: &Table) -> Option<(Dispatch, Books)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    let setup = Setup { mac: Mac(own), queues: 1, flows: 1 << 13, timed_of: 3 };
    let mut dispatch = Dispatch::load(setup, table).unwrap();
    let books = dispatch.open_books(table).unwrap();
    Some((dispatch, books))
}
