//! DPDK's environment abstraction layer: started once in a process, and then there until its end, since DPDK cannot start it
//! twice. Devices come and go in it.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::DpdkError;
use super::ethdev;

/// The arguments it was started with.
static STARTED: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// The last of what DPDK said, for error messages.
static SAID: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

const SAID_MOST: usize = 3;

/// `RTE_LOG_ERR` and `RTE_LOG_WARNING`, rte_log.h; less is worse.
const ERROR: u32 = 4;
const WARNING: u32 = 5;

/// Starts DPDK, if it has not been. To be called on a thread of its own, which DPDK pins.
pub(super) fn start(arguments: Vec<String>) -> Result<(), DpdkError> {
    let mut started = lock(&STARTED);
    if let Some(before) = started.as_ref() {
        if *before == arguments {
            return Ok(());
        }
        return Err(DpdkError::Restart { before: before.join(" "), now: arguments.join(" ") });
    }
    let no_huge = arguments.iter().any(|argument| argument == "--no-huge");
    if !no_huge && !has_huge_pages() {
        return Err(DpdkError::NoHugePages);
    }
    forget_said();
    ethdev::send_log_to(hear);
    match ethdev::start_eal(&arguments) {
        Ok(()) => {
            tracing::debug!("{} started with {}", ethdev::version(), arguments.join(" "));
            *started = Some(arguments);
            if let Err(reason) = ethdev::drop_interrupt_privileges() {
                tracing::warn!("DPDK's interrupt thread keeps privileges that it does not need: {reason}");
            }
            Ok(())
        }
        Err(reason) if reason.is_permission() => {
            let what = "start".to_owned();
            Err(DpdkError::NotPermitted { what, reason: format!("{reason}; {}", said()) })
        }
        Err(reason) => Err(DpdkError::Eal { arguments: arguments.join(" "), reason: reason.to_string(), log: said() }),
    }
}

/// The whole command line of DPDK: the configured arguments, behind those that we want unless they say otherwise.
///
/// Nothing of ours is left behind by a process that dies: memory and state stay in memory. The one thread that DPDK counts as
/// its own is bound to no core; workers bind themselves. And of all devices of the host only the configured ones are touched.
pub(super) fn arguments(configured: &[String], ports: &[String], cores: &[usize]) -> Vec<String> {
    let given = |name: &str| configured.iter().any(|argument| argument.split('=').next() == Some(name));
    let cores = cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut arguments = vec![format!("--lcores=0@({cores})"), "--no-telemetry".to_owned()];
    if given("--no-huge") {
        arguments.push("--no-shconf".to_owned());
    } else if !given("--huge-dir") && !given("--file-prefix") {
        arguments.push("--in-memory".to_owned());
    }
    let pci: Vec<_> = ports.iter().filter(|port| super::device::pci_address(port).is_some()).collect();
    if pci.is_empty() {
        arguments.push("--no-pci".to_owned());
    }
    pci.into_iter().for_each(|port| arguments.extend(["-a".to_owned(), port.clone()]));
    arguments.extend_from_slice(configured);
    arguments
}

/// Whether huge pages of any size are set aside.
fn has_huge_pages() -> bool {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return false };
    sizes.flatten().any(|size| {
        let count = fs::read_to_string(size.path().join("nr_hugepages"));
        count.is_ok_and(|count| count.trim() != "0")
    })
}

/// A message of DPDK's, on any thread.
fn hear(level: u32, text: &str) {
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if level > WARNING {
            tracing::debug!("{line}");
            continue;
        }
        if level <= ERROR {
            tracing::debug!("error: {line}");
        } else {
            tracing::debug!("warning: {line}");
        }
        let mut said = lock(&SAID);
        if said.len() == SAID_MOST {
            said.pop_front();
        }
        said.push_back(line.to_owned());
    }
}

pub(super) fn forget_said() {
    lock(&SAID).clear();
}

/// The last errors and warnings since `forget_said`.
pub(super) fn said() -> String {
    lock(&SAID).iter().cloned().collect::<Vec<_>>().join("; ")
}

/// What is behind these locks is whole between two statements, whatever a thread died of.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(configured: &[&str], ports: &str) -> String {
        let [configured, ports] = [configured.to_vec(), ports.split(' ').collect()]
            .map(|texts| texts.into_iter().map(str::to_owned).collect::<Vec<_>>());
        arguments(&configured, &ports, &[0, 2]).join(" ")
    }

    #[test]
    fn only_the_configured_devices_are_touched_and_nothing_is_left_behind() {
        assert_eq!(line(&[], "net_null0"), "--lcores=0@(0,2) --no-telemetry --in-memory --no-pci");
        assert_eq!(line(&[], "0000:03:00.0"), "--lcores=0@(0,2) --no-telemetry --in-memory -a 0000:03:00.0");
        assert_eq!(
            line(&[], "0000:03:00.0 net_null0 0000:03:00.1"),
            "--lcores=0@(0,2) --no-telemetry --in-memory -a 0000:03:00.0 -a 0000:03:00.1"
        );
        assert_eq!(
            line(&["--no-huge", "-m", "256"], "net_null0"),
            "--lcores=0@(0,2) --no-telemetry --no-shconf --no-pci --no-huge -m 256"
        );
        assert_eq!(
            line(&["--huge-dir=/mnt/huge"], "net_null0"),
            "--lcores=0@(0,2) --no-telemetry --no-pci --huge-dir=/mnt/huge"
        );
    }
}
