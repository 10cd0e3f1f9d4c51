//! The server-side filter. Its program is run by BPF_PROG_TEST_RUN; tests of the link have an interface.

mod changes;
mod clients;
#[path = "../forge/mod.rs"]
mod forge;
mod frames;
mod link;
#[path = "../model/mod.rs"]
mod model;
#[path = "../network/mod.rs"]
mod network;
mod peers;
mod publish;
#[path = "../stop/mod.rs"]
mod stop;
mod takeover;

use oneip::engine::filter::{Filter, Generation};
use oneip::model::Mac;
use oneip::table::build::Cluster;

/// The address in the frames of `model::plans::query`.
const OWN: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// For the server of that name. `None` without root, and it says so.
fn filter(own: Mac, cluster: &Cluster, server: &str) -> Option<Filter> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    let filter = Filter::load(own, None).unwrap();
    filter.publish(&Generation::compile(cluster, server)).unwrap();
    Some(filter)
}
