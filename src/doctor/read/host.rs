//! This machine and its cores.

use super::files::Root;
use crate::doctor::facts::{Cores, Host};
use crate::host::cores;
use crate::model::{Engine, Plan};
use crate::xdp::{core_list, link, privileges};
use caps::{CapSet, Capability};
use rlimit::Resource;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};
use std::env;
use std::path::Path;
use std::time::SystemTime;

/// `own`: this process is to be judged too, for it has the privileges that a dispatcher would have.
pub fn host(root: &Root, plan: Option<&Plan>, own: bool) -> Host {
    let dispatcher = plan.and_then(|plan| plan.dispatcher.as_ref());
    let limit = |family: &str| root.number(&format!("/proc/sys/net/{family}/neigh/default/gc_thresh3"));
    let clocks = "/sys/devices/system/clocksource/clocksource0";
    let needed: &[Capability] = match dispatcher.map(|dispatcher| dispatcher.engine) {
        Some(Engine::Xdp) => &privileges::PROGRAM,
        _ => &privileges::SOCKETS,
    };
    Host {
        kernel: root.text("/proc/sys/kernel/osrelease"),
        has_af_xdp: has_af_xdp(),
        jit: root.number("/proc/sys/net/core/bpf_jit_enable"),
        bpf_stats: root.number("/proc/sys/kernel/bpf_stats_enabled"),
        missing: own.then(|| {
            needed
                .iter()
                .chain([&privileges::UNGUARDED])
                .filter(|needed| !has(**needed))
                .map(ToString::to_string)
                .collect()
        }),
        program: env::current_exe().unwrap_or_else(|_| "oneip".into()),
        memory_lock: own.then(memory_lock).flatten(),
        has_bpf_fs: dispatcher.map(|dispatcher| link::is_bpf_fs(&dispatcher.pins)),
        huge_pages: huge_pages(root),
        clock_source: root.text(&format!("{clocks}/current_clocksource")),
        clock_sources: root.text(&format!("{clocks}/available_clocksource")),
        behind_s: plan.and_then(|plan| behind(&plan.admin.state)),
        irqbalance: is_running(root, "irqbalance"),
        state_dir: plan.filter(|_| own).and_then(|plan| unwritable(&plan.admin.state)),
        neighbours_most: [limit("ipv4"), limit("ipv6")],
    }
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

fn has_af_xdp() -> Option<bool> {
    match socket(AddressFamily::XDP, SocketType::RAW, None) {
        Ok(_) => Some(true),
        Err(Errno::AFNOSUPPORT) => Some(false),
        Err(_) => None,
    }
}

/// The hard limit: oneip raises the other one to it. Neither counts for whoever may lock memory or raise limits.
fn memory_lock() -> Option<(u64, bool)> {
    let (_, hard) = Resource::MEMLOCK.get().ok()?;
    Some((hard, has(Capability::CAP_IPC_LOCK) || has(Capability::CAP_SYS_RESOURCE)))
}

fn huge_pages(root: &Root) -> Option<u64> {
    let folder = "/sys/kernel/mm/hugepages";
    let sizes = root.names(folder);
    let counts = sizes.iter().map(|size| root.number::<u64>(&format!("{folder}/{size}/nr_hugepages")).unwrap_or(0));
    (!sizes.is_empty()).then(|| counts.sum())
}

/// A clock that was set back since the state was written, by whole seconds: file systems have clocks of their own, a little off.
fn behind(state: &Path) -> Option<u64> {
    let written = state.metadata().and_then(|facts| facts.modified()).ok()?;
    let behind = written.duration_since(SystemTime::now()).ok()?.as_secs();
    (behind > 0).then_some(behind)
}

/// Why the state file cannot be written. Its folder is made when it is needed: what counts is the first that is there.
fn unwritable(state: &Path) -> Option<String> {
    let folder = state.parent()?;
    let there = folder.ancestors().find(|folder| folder.exists())?;
    match there.is_dir() {
        false => Some(format!("{} is no directory", there.display())),
        true => rustix::fs::access(there, rustix::fs::Access::WRITE_OK)
            .err()
            .map(|error| format!("{}: {error}", there.display())),
    }
}

fn is_running(root: &Root, program: &str) -> Option<bool> {
    let processes = root.names("/proc");
    let numbered = processes.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let mut names = numbered.filter_map(|pid| root.text(&format!("/proc/{pid}/comm")));
    Some(names.any(|name| name == program))
}

pub fn cores(root: &Root) -> Cores {
    const FOLDER: &str = "/sys/devices/system/cpu";
    let mut found = Cores { available: cores::available(), ..Cores::default() };
    let cores: Vec<usize> =
        root.names(FOLDER).iter().filter_map(|name| name.strip_prefix("cpu")?.parse().ok()).collect();
    for core in cores {
        let of = |file: &str| root.text(&format!("{FOLDER}/cpu{core}/{file}"));
        found.governor.extend(of("cpufreq/scaling_governor").map(|governor| (core, governor)));
        found.siblings.extend(of("topology/thread_siblings_list").map(|list| (core, core_list(&list))));
        let states = root.names(&format!("{FOLDER}/cpu{core}/cpuidle"));
        let enabled =
            states.iter().filter(|state| of(&format!("cpuidle/{state}/disable")).is_some_and(|off| off == "0"));
        let deepest = enabled.filter_map(|state| of(&format!("cpuidle/{state}/latency"))?.parse().ok()).max();
        found.idle_us.extend(deepest.map(|us| (core, us)));
    }
    found.isolated = root.text(&format!("{FOLDER}/isolated")).map(|list| core_list(&list)).unwrap_or_default();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_clock_is_behind_by_seconds_not_by_less() {
        let state = tempfile::NamedTempFile::new().expect("a file");
        let behind_by = |offset: Duration| {
            state.as_file().set_modified(SystemTime::now() + offset).expect("a time");
            behind(state.path())
        };
        assert_eq!(behind_by(Duration::ZERO), None);
        assert_eq!(behind_by(Duration::from_millis(900)), None);
        assert!(matches!(behind_by(Duration::from_secs(90)), Some(88..=90)));
    }
}
