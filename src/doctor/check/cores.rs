//! Which cores the work is on, and how they run.

use super::host::{dispatcher, engine};
use super::interface::of;
use crate::admin::finding::Finding;
use crate::doctor::facts::{Facts, Interface};
use crate::host::cores::{self, CoresError};
use crate::model::Engine;
use std::collections::BTreeSet;

/// A core that wakes up for a longer time than this delays the frames that wake it.
const WAKE_UP_US: u64 = 10;

/// A core for each queue, as `oneip run` would take them, for the interface with most of them; `None`: the engine has no workers, or no NIC
/// is known.
fn assigned(facts: &Facts) -> Option<Result<Vec<usize>, CoresError>> {
    if let Some(workers) = working(facts) {
        return Some(Ok(workers));
    }
    let all: Option<Result<Vec<_>, _>> =
        facts.interfaces.iter().map(|interface| assigned_to(facts, interface)).collect();
    match all? {
        Ok(all) => all.into_iter().max_by_key(Vec::len).map(Ok),
        Err(error) => Some(Err(error)),
    }
}

/// The cores of workers that run, whatever the port.
fn working(facts: &Facts) -> Option<Vec<usize>> {
    let running = facts.running.as_ref().filter(|running| running.status.engine.as_deref() != Some("xdp"))?;
    Some(running.status.workers.iter().map(|worker| worker.core).collect())
}

/// As `assigned`, for that interface.
pub fn assigned_to(facts: &Facts, interface: &Interface) -> Option<Result<Vec<usize>, CoresError>> {
    if let Some(workers) = working(facts) {
        return Some(Ok(workers));
    }
    let dispatcher = dispatcher(facts)?;
    let device = &interface.device;
    let has_workers = match dispatcher.engine {
        Engine::AfXdp => true,
        Engine::Auto => interface.features.zero_copies(),
        Engine::Xdp | Engine::Dpdk => false,
    };
    let available = &facts.cores.available;
    let place = dispatcher.interfaces().position(|name| name == device.interface)?;
    let settings = dispatcher.queues.get(place).cloned().unwrap_or_default();
    let listed = settings.cores.as_deref().or(dispatcher.cores.as_deref());
    let queues = settings.count.map_or(device.queues, |count| count.min(device.queues));
    let assign = || cores::assign(&device.interface, queues as usize, listed, &device.near_cores, available);
    has_workers.then(assign)
}

/// Those that frames are handled on: the workers', or those that serve the NIC's interrupts.
fn at_work(facts: &Facts) -> Vec<usize> {
    match assigned(facts) {
        Some(Ok(cores)) => cores,
        Some(Err(_)) => Vec::new(),
        None => {
            let interrupts = facts.interfaces.iter().flat_map(|interface| interface.interrupts.values());
            let cores: BTreeSet<usize> = interrupts.flatten().copied().collect();
            cores.into_iter().collect()
        }
    }
}

/// Of those at work, or of all where that is not known.
fn concerned<'f>(facts: &'f Facts, all: impl Iterator<Item = &'f usize>) -> Vec<usize> {
    let at_work = at_work(facts);
    all.copied().filter(|core| at_work.is_empty() || at_work.contains(core)).collect()
}

/// For a shell: `{2,3}`, or `2`.
fn braces(cores: &[usize]) -> String {
    match cores {
        [one] => one.to_string(),
        all => format!("{{{}}}", all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
    }
}

pub fn governor(facts: &Facts) -> Vec<Finding> {
    let slow = facts.cores.governor.iter().filter(|(_, governor)| *governor != "performance").map(|(core, _)| core);
    let slow = concerned(facts, slow);
    if slow.is_empty() {
        let known =
            if facts.cores.governor.is_empty() { "this host does not change clock frequencies" } else { "performance" };
        return vec![Finding::ok("governor", known)];
    }
    let why = format!("the clock frequency of cores {} varies with their load: latency varies", cores::list(&slow));
    let fix = format!("echo performance | tee /sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor", braces(&slow));
    vec![Finding::warn("governor", why).mend(fix)]
}

pub fn idle(facts: &Facts) -> Vec<Finding> {
    let deep = facts.cores.idle_us.iter().filter(|(_, us)| **us > WAKE_UP_US).map(|(core, _)| core);
    // Interrupts come to any core.
    let deep: Vec<usize> = deep.copied().collect();
    let Some(most) = deep.iter().filter_map(|core| facts.cores.idle_us.get(core)).max() else {
        return vec![Finding::ok("c_states", "no core enters deep idle states")];
    };
    let why =
        format!("cores {} enter idle states from which they need {most} us to wake up for a frame", cores::list(&deep));
    let fix = format!(
        "for state in /sys/devices/system/cpu/cpu*/cpuidle/state*; do [ \"$(cat $state/latency)\" -le {WAKE_UP_US} ] || \
         echo 1 >$state/disable; done"
    );
    vec![Finding::warn("c_states", why).mend(fix)]
}

pub fn siblings(facts: &Facts) -> Vec<Finding> {
    let Some(Ok(workers)) = assigned(facts) else { return Vec::new() };
    let shares = |worker: &&usize| {
        let siblings = facts.cores.siblings.get(worker).into_iter().flatten();
        siblings.into_iter().any(|sibling| sibling != *worker && workers.contains(sibling))
    };
    match workers.iter().find(shares) {
        None => vec![Finding::ok("smt", "no two workers share a physical core")],
        Some(core) => {
            let siblings = cores::list(&facts.cores.siblings[core]);
            let why = format!(
                "{siblings} are two threads of one physical core, and each has a worker: list other cores in `cores`"
            );
            vec![Finding::warn("smt", why)]
        }
    }
}

pub fn isolated(facts: &Facts) -> Vec<Finding> {
    let Some(Ok(workers)) = assigned(facts) else { return Vec::new() };
    let shared: Vec<usize> = workers.iter().copied().filter(|core| !facts.cores.isolated.contains(core)).collect();
    if shared.is_empty() {
        return vec![Finding::ok("isolated_cores", "the kernel runs no other programs on the workers' cores")];
    }
    let list = cores::list_distinct(&shared);
    let why =
        format!("the kernel may run other programs on the workers' cores {list}; the fix takes effect after a reboot");
    let fix = format!(
        "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&isolcpus={list} nohz_full={list} rcu_nocbs={list} /' /etc/default/grub && update-grub"
    );
    vec![Finding::warn("isolated_cores", why).mend(fix)]
}

pub fn numa(facts: &Facts) -> Vec<Finding> {
    let Some(Ok(workers)) = assigned(facts) else { return Vec::new() };
    of(facts, |interface, _| {
        let (node, near) = (interface.device.numa_node, &interface.device.near_cores);
        let Some(node) = node.filter(|_| !near.is_empty()) else {
            return Finding::ok("numa", "the NIC is equally near to all cores");
        };
        let far: Vec<usize> = workers.iter().copied().filter(|core| !near.contains(core)).collect();
        if far.is_empty() {
            return Finding::ok("numa", format!("the workers are on the NIC's node {node}"));
        }
        let why = format!(
            "workers are on cores {}, but the NIC is on node {node}, whose cores are {}: every frame crosses nodes; write cores = \
             [...] with cores of that node in [dispatcher]",
            cores::list(&far),
            cores::list(near)
        );
        Finding::warn("numa", why)
    })
}

pub fn interrupts(facts: &Facts) -> Vec<Finding> {
    let workers = match assigned(facts) {
        Some(Ok(workers)) => Some(workers),
        _ => None,
    };
    of(facts, |interface, name| {
        if interface.interrupts.is_empty() || engine(facts) == Some(Engine::Dpdk) {
            return Finding::ok("irq_affinity", "the NIC has no own interrupts");
        }
        match &workers {
            Some(workers) => beside_workers(facts, interface, name, workers),
            None => spread(facts, interface, name),
        }
    })
}

/// Of a NIC that workers poll.
fn beside_workers(facts: &Facts, interface: &Interface, name: &str, workers: &[usize]) -> Finding {
    let near = |core: &&usize| interface.device.near_cores.is_empty() || interface.device.near_cores.contains(core);
    let others: Vec<usize> =
        facts.cores.available.iter().filter(near).copied().filter(|core| !workers.contains(core)).collect();
    let is_workers = |on: &[usize]| on.iter().any(|core| workers.contains(core));
    let on_workers = interface.interrupts.iter().filter(|(_, on)| is_workers(on));
    let numbers: Vec<String> = on_workers.map(|(number, _)| number.to_string()).collect();
    let Some(first) = others.first().filter(|_| !numbers.is_empty()) else {
        return Finding::ok(
            "irq_affinity",
            "no worker's core handles the NIC's interrupts, unless there are no other cores",
        );
    };
    let why = format!(
        "workers' cores handle the interrupts {} of {name}: these cores receive and dispatch frames alternately",
        numbers.join(", ")
    );
    let fix = format!("for irq in {}; do echo {first} >/proc/irq/$irq/smp_affinity_list; done", numbers.join(" "));
    Finding::warn("irq_affinity", why).mend(fix)
}

/// Of a NIC whose frames are handled where its interrupts are.
fn spread(facts: &Facts, interface: &Interface, name: &str) -> Finding {
    let on: BTreeSet<usize> = interface.interrupts.values().flatten().copied().collect();
    let (queues, cores) = (interface.interrupts.len(), facts.cores.available.len());
    if on.len() != 1 || queues == 1 || cores == 1 {
        return Finding::ok("irq_affinity", "the NIC's interrupts are spread over the cores");
    }
    let why = format!(
        "one core handles all {queues} interrupts of {name}, so the program in the kernel runs only on this core"
    );
    let spread: Vec<String> = interface
        .interrupts
        .keys()
        .zip(facts.cores.available.iter().cycle())
        .map(|(irq, core)| format!("echo {core} >/proc/irq/{irq}/smp_affinity_list"))
        .collect();
    Finding::warn("irq_affinity", why).mend(spread.join("; "))
}
