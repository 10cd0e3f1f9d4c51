//! Kernel, privileges, clocks.

use crate::admin::finding::Finding;
use crate::doctor::facts::Facts;
use crate::limits::QUEUE_FRAMES;
use crate::model::{Dispatcher, Engine};
use crate::xdp::Device;

/// The oldest kernel, and the oldest that oneip was tried on (docs/engines.md).
const OLDEST: (u32, u32) = (5, 9);
const TESTED: (u32, u32) = (6, 1);

pub fn dispatcher(facts: &Facts) -> Option<&Dispatcher> {
    facts.plan.as_ref()?.dispatcher.as_ref()
}

pub fn engine(facts: &Facts) -> Option<Engine> {
    dispatcher(facts).map(|dispatcher| dispatcher.engine)
}

pub fn kernel(facts: &Facts) -> Vec<Finding> {
    let Some(version) = &facts.host.kernel else { return Vec::new() };
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let update = "apt-get install linux-image-amd64";
    vec![match found {
        _ if found < OLDEST => Finding::fail(
            "kernel",
            format!("Linux {version} has no XDP links: oneip needs 6.1 or newer, then a reboot"),
        )
        .mend(update),
        _ if found < TESTED => {
            Finding::warn("kernel", format!("Linux {version}: oneip was tested on 6.1 and newer only; then reboot"))
                .mend(update)
        }
        _ => Finding::ok("kernel", format!("Linux {version}")),
    }]
}

pub fn af_xdp(facts: &Facts) -> Vec<Finding> {
    match (facts.host.has_af_xdp, engine(facts)) {
        (Some(false), Some(Engine::AfXdp | Engine::Auto) | None) => vec![Finding::fail(
            "af_xdp",
            "this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS): use another kernel, or engine = \"xdp\"",
        )],
        (Some(true), _) => vec![Finding::ok("af_xdp", "the kernel has AF_XDP sockets")],
        _ => Vec::new(),
    }
}

pub fn jit(facts: &Facts) -> Vec<Finding> {
    match facts.host.jit {
        Some(0) => vec![
            Finding::warn("bpf_jit", "BPF programs are interpreted, several times slower than compiled")
                .mend("sysctl -w net.core.bpf_jit_enable=1"),
        ],
        Some(_) => vec![Finding::ok("bpf_jit", "BPF programs are compiled")],
        None => Vec::new(),
    }
}

pub fn capabilities(facts: &Facts) -> Vec<Finding> {
    let Some(missing) = &facts.host.missing else { return Vec::new() };
    if missing.is_empty() {
        return vec![Finding::ok("capabilities", "this process has all capabilities that a dispatcher needs")];
    }
    let set = format!("setcap cap_net_admin,cap_net_raw,cap_bpf,cap_perfmon=ep {}", facts.host.program.display());
    let lacks = format!("this process lacks {}", missing.join(", "));
    let finding = match missing.iter().all(|missing| missing == "CAP_PERFMON") {
        true => Finding::warn(
            "capabilities",
            format!(
                "{lacks}: the kernel adds speculation barriers to its programs, and each frame takes three times as long"
            ),
        ),
        false => Finding::fail("capabilities", format!("{lacks}: run it as root, or set them")),
    };
    vec![finding.mend(set)]
}

pub fn memory_lock(facts: &Facts) -> Vec<Finding> {
    let Some((most, exempt)) = facts.host.memory_lock else { return Vec::new() };
    let devices = facts.interfaces.iter().map(|interface| &interface.device);
    let queues = devices.clone().map(|device| u64::from(device.queues)).sum::<u64>().max(1);
    let chunk = devices.filter_map(Device::chunk).max().unwrap_or(2048);
    let needed = queues * QUEUE_FRAMES as u64 * u64::from(chunk);
    if exempt || most >= needed || !matches!(engine(facts), Some(Engine::AfXdp | Engine::Auto)) {
        return vec![Finding::ok("memlock", "enough memory can be locked for frames")];
    }
    let why = format!(
        "{} KiB may be locked in memory, but AF_XDP needs {} KiB for {queues} queues (in a unit: LimitMEMLOCK=infinity)",
        most >> 10,
        needed >> 10
    );
    vec![Finding::fail("memlock", why).mend("prlimit --pid $$ --memlock=unlimited:unlimited")]
}

pub fn bpf_fs(facts: &Facts) -> Vec<Finding> {
    let (Some(has), Some(dispatcher)) = (facts.host.has_bpf_fs, dispatcher(facts)) else { return Vec::new() };
    let pins = dispatcher.pins.display();
    if has || dispatcher.engine == Engine::Dpdk {
        return vec![Finding::ok("bpf_fs", format!("{pins} is on a BPF file system"))];
    }
    let mount = match dispatcher.pins.starts_with("/sys/fs/bpf") {
        true => "mount -t bpf bpf /sys/fs/bpf".to_owned(),
        false => format!("mkdir -p {pins} && mount -t bpf bpf {pins}"),
    };
    let why = format!("{pins} is not on a BPF file system: if the process is killed, nothing is dispatched any more");
    vec![Finding::warn("bpf_fs", why).mend(mount)]
}

pub fn huge_pages(facts: &Facts) -> Vec<Finding> {
    let Some(pages) = facts.host.huge_pages else { return Vec::new() };
    let dpdk = dispatcher(facts).and_then(|dispatcher| dispatcher.dpdk.as_ref());
    let does_without = dpdk.is_some_and(|dpdk| dpdk.eal.iter().any(|argument| argument == "--no-huge"));
    match (engine(facts), pages) {
        (Some(Engine::Dpdk), 0) if !does_without => vec![
            Finding::fail("huge_pages", "DPDK needs huge pages, but none are reserved")
                .mend("sysctl -w vm.nr_hugepages=512"),
        ],
        (_, 0) => vec![Finding::ok("huge_pages", "none reserved; AF_XDP and XDP do not need them")],
        (_, pages) => vec![Finding::ok("huge_pages", format!("{pages} reserved"))],
    }
}

/// Workers read the clock at each turn.
pub fn clock_source(facts: &Facts) -> Vec<Finding> {
    let Some(source) = &facts.host.clock_source else { return Vec::new() };
    const FAST: [&str; 5] = ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "timebase"];
    if FAST.contains(&source.as_str()) {
        return vec![Finding::ok("clock_source", source.clone())];
    }
    let others = facts.host.clock_sources.iter().flat_map(|list| list.split_whitespace());
    let better = others.into_iter().find(|other| FAST.contains(other));
    let why = format!(
        "the kernel's clock source is {source}: each time that a worker reads the clock costs a system call or more"
    );
    let finding = Finding::warn("clock_source", why);
    vec![match better {
        Some(better) => {
            finding.mend(format!("echo {better} >/sys/devices/system/clocksource/clocksource0/current_clocksource"))
        }
        None => finding,
    }]
}

pub fn wall_clock(facts: &Facts) -> Vec<Finding> {
    match facts.host.behind_s {
        Some(seconds) => vec![
            Finding::warn(
                "clock",
                format!("the clock is {seconds} s behind the last write of the state file: if this host has rebooted since then, times in the file are wrong"),
            )
            .mend("timedatectl set-ntp true"),
        ],
        None => vec![Finding::ok("clock", "the clock is not behind the state file")],
    }
}

pub fn bpf_stats(facts: &Facts) -> Vec<Finding> {
    match facts.host.bpf_stats {
        Some(1) => vec![
            Finding::warn("bpf_stats", "the kernel reads the clock twice for each run of a BPF program, to measure it")
                .mend("sysctl -w kernel.bpf_stats_enabled=0"),
        ],
        _ => Vec::new(),
    }
}

pub fn state_dir(facts: &Facts) -> Vec<Finding> {
    let Some(plan) = &facts.plan else { return Vec::new() };
    let state = plan.admin.state.display();
    match &facts.host.state_dir {
        None => vec![Finding::ok("state_file", format!("{state} can be written"))],
        Some(why) => {
            let folder = plan.admin.state.parent().unwrap_or(&plan.admin.state).display();
            let why = format!("{state} cannot be written: {why}; a restart forgets orders and check results");
            vec![Finding::fail("state_file", why).mend(format!("rm -f {folder}; mkdir -p {folder}"))]
        }
    }
}

pub fn irqbalance(facts: &Facts) -> Vec<Finding> {
    match facts.host.irqbalance {
        Some(true) => vec![
            Finding::warn("irqbalance", "irqbalance moves the NIC's interrupts, also to the workers' cores")
                .mend("systemctl disable --now irqbalance"),
        ],
        _ => vec![Finding::ok("irqbalance", "no program moves interrupts")],
    }
}
