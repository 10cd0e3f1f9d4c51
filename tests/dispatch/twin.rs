//! The program through changes of the cluster: the cases and the law of tests/changes, with every frame decided by both.

use super::dispatch;
use super::fixture::Twin;
use oneip::path::rewrite::mark_last_chance;
use oneip::table::Table;
use oneip::table::flow_table::FlowTableReport;
use oneip::verdict::{Reason, Verdict};
use oneip::xdp::dispatch::{Action, Books, Dispatch};

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 2];

struct Kernel {
    dispatch: Dispatch,
    books: Books,
    /// By destination.
    macs: Vec<[u8; 6]>,
}

fn macs(table: &Table) -> Vec<[u8; 6]> {
    (0..table.destinations()).map(|destination| table.next_hop(destination).mac()).collect()
}

pub fn twin(table: &Table, flows: usize) -> Option<Box<dyn Twin>> {
    let (dispatch, books) = dispatch(OURS, table, flows as u32)?;
    Some(Box::new(Kernel { dispatch, books, macs: macs(table) }))
}

impl Twin for Kernel {
    fn publish(&mut self, table: &Table) {
        self.dispatch.publish(table).unwrap();
        self.books = self.dispatch.open_books(table).unwrap();
        self.macs = macs(table);
    }

    fn judge(&mut self, frame: &[u8], now: u64) -> (Verdict, bool) {
        let dropped =
            |reason| (0..self.books.cores()).map(|core| self.books.tally(core).dropped[reason as usize]).sum::<u64>();
        let before = Reason::ALL.map(dropped);
        self.dispatch.set_clock(now);
        let (action, after) = self.dispatch.judge(frame).unwrap();
        let verdict = match action {
            Action::Pass => Verdict::Pass,
            Action::Drop => {
                let reason = Reason::ALL.into_iter().find(|reason| dropped(*reason) > before[*reason as usize]);
                Verdict::Drop(reason.expect("what is dropped is counted"))
            }
            Action::Send | Action::Redirect => {
                let server = self.macs.iter().position(|mac| after.starts_with(mac)).expect("it goes to a server");
                Verdict::Forward { service: 0, server: server as u16 }
            }
        };
        let mut marked = frame.to_vec();
        mark_last_chance(&mut marked);
        let is_last = after[12..] != frame[12..];
        assert!(!is_last || after[12..] == marked[12..], "{after:02x?}");
        (verdict, is_last)
    }

    fn report(&self) -> FlowTableReport {
        self.dispatch.flows().of_queue(0).report()
    }
}
