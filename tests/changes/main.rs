//! Connections through a change of the cluster: the laws, the memory, and cases by hand.

mod cases;
mod fixture;
mod law;
mod meanwhile;
mod memory;
mod reported;
mod restart;
mod returned;
mod shared;
mod spoofed;

use fixture::Twin;
use oneip::table::Table;

/// Of each law.
const CASES: u32 = 400;

/// The pipeline stands for itself.
fn twin(_: &Table, _: usize) -> Option<Box<dyn Twin>> {
    None
}
