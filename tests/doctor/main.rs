//! `oneip doctor` on hosts with planted faults, one at a time: it names each and nothing else, and its command mends it.
//!
//! - `net`: the hosts
//! - `dispatcher`: faults of one that does not run, `running`: of one that does, `server`: of a server
//! - `machine`: faults that no namespace has (clock frequency, NUMA, ...), planted as files below `--root`; `tune`: `scripts/tune.sh`, on
//!   the same files

mod dispatcher;
mod machine;
mod net;
mod running;
mod server;
mod tune;

use net::{Findings, Net};

/// A fault of a host: what plants it, how doctor calls it, and what else has to be put right that its command does not.
pub struct Fault {
    pub plant: &'static str,
    pub named: &'static str,
    pub after: &'static str,
}

pub const fn fault(named: &'static str, plant: &'static str) -> Fault {
    Fault { plant, named, after: "" }
}

/// Plants each, has it named and mended.
pub fn try_all(net: &Net, host: &str, options: &str, faults: &[Fault]) {
    let healthy = net.doctor(host, "", options);
    for Fault { plant, named, after } in faults {
        let plant = plant.replace("DIR", &net.dir()).replace("ONEIP", net::ONEIP);
        net.sh(host, &plant);
        let found = net.doctor(host, "", options);
        only(&healthy, &found, named, &plant);
        let fixes = found.fixes(named);
        assert!(!fixes.is_empty(), "{named} has a command: {}", found.text());
        for fix in fixes {
            // As a shell would find it.
            net.sh(host, &fix.replace("oneip ctl", &format!("{} ctl", net::ONEIP)));
        }
        if !after.is_empty() {
            net.sh(host, after);
        }
        let mended = net.doctor(host, "", options);
        assert_eq!(mended.bad(), healthy.bad(), "after mending {plant}: {}", mended.text());
    }
}

/// This is named, and nothing else that was not before.
pub fn only(healthy: &Findings, found: &Findings, named: &str, plant: &str) {
    let new: Vec<String> = found.bad().difference(&healthy.bad()).cloned().collect();
    assert_eq!(new, [named], "after {plant}: {}", found.text());
}
