//! The verbs that need neither root nor a NIC: each is a function from arguments to output or an error.

pub mod check;
pub mod import;
pub mod lookup;
pub mod replay;
pub mod script;
pub mod simulate;

use crate::config::{self, Loaded};
use crate::error::Failure;
use crate::model::{Plan, names};
use crate::table::build::Cluster;
use std::path::Path;

/// Loads a configuration and shows its warnings on standard error.
///
/// # Errors
/// All that is wrong with it.
pub fn load(file: &Path) -> Result<Plan, Failure> {
    let Loaded { plan, warnings } = config::load(file)?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    Ok(plan)
}

/// The cluster of a plan with the named servers down.
///
/// # Errors
/// A name that no service has.
pub fn cluster(plan: &Plan, down: &[String]) -> Result<Cluster, Failure> {
    let mut cluster = Cluster::new(plan);
    for name in down {
        if cluster.set_up(name, false).is_none() {
            let mut known: Vec<&str> = plan.services.iter().flat_map(|s| &s.servers).map(|s| s.name.as_str()).collect();
            known.sort_unstable();
            known.dedup();
            return Err(format!("--down {name}: there is no such server; there are {}", names::first(known)).into());
        }
    }
    Ok(cluster)
}
