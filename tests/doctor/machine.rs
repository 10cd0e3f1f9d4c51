//! Faults that no network namespace has: planted as files in place of /proc and /sys. The commands that mend them write there too.

use crate::net::{HEALTH, Net};
use crate::only;
use std::fs;
use std::path::Path;

/// Puts files below a folder.
pub fn plant(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
}

/// A healthy machine of four cores, two of them near the NIC, which has an interrupt.
pub fn healthy(root: &Path) {
    for core in 0..4 {
        let cpu = format!("sys/devices/system/cpu/cpu{core}");
        plant(
            root,
            &[
                (&format!("{cpu}/cpufreq/scaling_governor"), "performance\n"),
                (&format!("{cpu}/cpuidle/state0/latency"), "2\n"),
                (&format!("{cpu}/cpuidle/state0/disable"), "0\n"),
                (&format!("{cpu}/cpuidle/state1/latency"), "133\n"),
                (&format!("{cpu}/cpuidle/state1/disable"), "1\n"),
                (&format!("{cpu}/topology/thread_siblings_list"), &format!("{core}\n")),
            ],
        );
    }
    plant(
        root,
        &[
            ("sys/devices/system/cpu/isolated", "0-3\n"),
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
            ("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet acpi_pm\n"),
            ("sys/class/net/lan0/device/numa_node", "0\n"),
            ("sys/class/net/lan0/device/local_cpulist", "0-1\n"),
            ("proc/interrupts", "  CPU0 CPU1\n 4040:  5  0  IR-PCI-MSIX-0000:81:00.0  3-edge  ice-lan0-TxRx-0\n"),
            ("proc/irq/4040/smp_affinity_list", "0\n"),
            ("proc/sys/kernel/osrelease", "6.18.0\n"),
            ("proc/sys/kernel/bpf_stats_enabled", "0\n"),
            ("proc/sys/net/core/bpf_jit_enable", "1\n"),
            ("proc/sys/net/ipv4/neigh/default/gc_thresh3", "1024\n"),
            ("proc/sys/net/ipv4/neigh/default/gc_thresh2", "512\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n"),
        ],
    );
}

#[test]
fn faults_of_the_machine_are_named_alone() {
    let Some(net) = Net::up() else { return };
    // On core 1: the first is spared for interrupts.
    net.write("cluster.toml", &net.config("engine = \"af_xdp\"\ncores = [1]\n", HEALTH));
    let root = net.path("root");
    healthy(&root);
    let options = format!("--seconds 0 --root {}", root.display());
    let before = net.doctor("d", "", &options);
    let cpu = "sys/devices/system/cpu";
    // What mends it is run on the planted files; None: it takes effect at the next start, or there is no command.
    let faults: [(&str, &str, &str, bool); 12] = [
        ("governor", &format!("{cpu}/cpu1/cpufreq/scaling_governor"), "powersave\n", true),
        ("c_states", &format!("{cpu}/cpu1/cpuidle/state1/disable"), "0\n", true),
        ("irq_affinity", "proc/irq/4040/smp_affinity_list", "1\n", true),
        ("clock_source", "sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n", true),
        ("bpf_jit", "proc/sys/net/core/bpf_jit_enable", "0\n", true),
        ("bpf_stats", "proc/sys/kernel/bpf_stats_enabled", "1\n", true),
        ("neighbour_table", "proc/sys/net/ipv4/neigh/default/gc_thresh3", "3\n", true),
        ("isolated_cores", &format!("{cpu}/isolated"), "\n", false),
        ("numa", "sys/class/net/lan0/device/local_cpulist", "2-3\n", false),
        ("kernel", "proc/sys/kernel/osrelease", "5.4.0-generic\n", false),
        ("kernel", "proc/sys/kernel/osrelease", "5.15.0\n", false),
        ("irqbalance", "proc/4711/comm", "irqbalance\n", false),
    ];
    for (named, file, text, mends) in faults {
        let was = fs::read_to_string(root.join(file)).ok();
        plant(&root, &[(file, text)]);
        let found = net.doctor("d", "", &options);
        only(&before, &found, named, file);
        if mends {
            for fix in found.fixes(named) {
                net.sh("d", &on_files(&fix, &root));
            }
            assert_eq!(net.doctor("d", "", &options).bad(), before.bad(), "{named}");
        }
        match was {
            Some(was) => plant(&root, &[(file, &was)]),
            None => fs::remove_dir_all(root.join("proc/4711")).expect("removed"),
        }
    }
    // Two threads of one core, for two queues.
    net.sh("d", "ethtool -L lan0 rx 2 tx 2");
    net.write("cluster.toml", &net.config("engine = \"af_xdp\"\ncores = [0, 1]\n", HEALTH));
    let before = net.doctor("d", "", &options);
    plant(&root, &[(&format!("{cpu}/cpu1/topology/thread_siblings_list"), "0-1\n")]);
    only(&before, &net.doctor("d", "", &options), "smt", "siblings");
}

/// DPDK's are read where the configuration asks for it, with or without the feature.
#[test]
fn huge_pages_that_dpdk_lacks_are_named() {
    let Some(net) = Net::up() else { return };
    net.write("cluster.toml", &net.config("engine = \"dpdk\"\n[dpdk]\nport = \"0000:03:00.0\"\n", HEALTH));
    let root = net.path("root");
    healthy(&root);
    let options = format!("--seconds 0 --root {}", root.display());
    let reserved = "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    plant(&root, &[(reserved, "512\n")]);
    let before = net.doctor("d", "", &options);
    plant(&root, &[(reserved, "0\n")]);
    let found = net.doctor("d", "", &options);
    only(&before, &found, "huge_pages", "none");
    // The kernel reserves them when the setting is written.
    assert_eq!(found.fixes("huge_pages"), ["sysctl -w vm.nr_hugepages=512"]);
    plant(&root, &[(reserved, "512\n")]);
    assert_eq!(net.doctor("d", "", &options).bad(), before.bad());
}

/// The command, on the planted files: sysctl(8) has no other root.
fn on_files(fix: &str, root: &Path) -> String {
    let root = root.display();
    match fix.strip_prefix("sysctl -w ") {
        Some(settings) => settings
            .split(' ')
            .filter_map(|setting| setting.split_once('='))
            .map(|(key, value)| format!("echo {value} >{root}/proc/sys/{};", key.replace('.', "/")))
            .collect(),
        None => fix.replace("/sys/", &format!("{root}/sys/")).replace("/proc/", &format!("{root}/proc/")),
    }
}
