//! `scripts/tune.sh`: shows, sets, undoes; on a real interface, and on files in place of /sys where a namespace has none.

use crate::machine::{healthy, plant};
use crate::net::Net;
use std::fs;
use std::process::Output;

fn tune(net: &Net, arguments: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/tune.sh");
    net.try_sh("d", &format!("ONEIP_TUNE_ROOT={} {script} {arguments}", net.path("root").display()))
}

#[test]
fn it_shows_sets_and_undoes_and_asks_before() {
    let Some(net) = Net::up() else { return };
    let root = net.path("root");
    healthy(&root);
    let governor = "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor";
    let idle = "sys/devices/system/cpu/cpu3/cpuidle/state1/disable";
    let irq = "proc/irq/4040/smp_affinity_list";
    plant(&root, &[(governor, "powersave\n"), (idle, "0\n"), (irq, "2\n"), ("proc/sys/vm/nr_hugepages", "0\n")]);
    net.sh("d", "ethtool -K lan0 rxvlan on; sysctl -qw net.ipv4.conf.lan0.send_redirects=1");
    let files = |path: &str| fs::read_to_string(root.join(path)).expect("it is there").trim().to_owned();
    let state = || {
        let kernel =
            net.sh("d", "ethtool -k lan0 | grep rx-vlan-offload; cat /proc/sys/net/ipv4/conf/lan0/send_redirects");
        (files(governor), files(idle), files(irq), files("proc/sys/vm/nr_hugepages"), kernel)
    };
    let before = state();
    let options = "--interface lan0 --cores 2-3 --huge-pages 8";

    let shown = tune(&net, &format!("show {options}"));
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    for line in
        ["scaling_governor", "powersave -> performance", "0 -> 1", "2 -> 0,1", "rx-vlan-offload", "on -> off", "0 -> 8"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }
    let unasked = tune(&net, &format!("set {options}"));
    assert_eq!(unasked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unasked.stderr).contains("nothing was changed"));
    assert_eq!(state(), before, "nothing is changed without an answer");

    assert!(tune(&net, &format!("set {options} --yes")).status.success());
    let after = state();
    assert_eq!((&*after.0, &*after.1, &*after.2, &*after.3), ("performance", "1", "0,1", "8"));
    assert_eq!(after.4, "rx-vlan-offload: off\n0\n");
    assert_eq!(String::from_utf8_lossy(&tune(&net, &format!("show {options}")).stdout), "all is set\n");

    let unasked = tune(&net, "undo --interface lan0");
    assert_eq!(unasked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unasked.stderr).contains("nothing was changed"));
    assert_eq!(state(), after, "nothing is put back without an answer");

    // What somebody has changed since stays.
    plant(&root, &[(irq, "1\n")]);
    let undone = tune(&net, "undo --interface lan0 --yes");
    assert!(undone.status.success());
    assert!(
        String::from_utf8_lossy(&undone.stdout).contains("left: /proc/irq/4040/smp_affinity_list was changed since")
    );
    plant(&root, &[(irq, "2\n")]);
    assert_eq!(state(), before);
    let again = tune(&net, "undo --interface lan0 --yes");
    assert!(String::from_utf8_lossy(&again.stdout).starts_with("nothing to undo"));
}

#[test]
fn wrong_arguments_are_refused() {
    let Some(net) = Net::up() else { return };
    for (arguments, code, said) in [
        ("", 2, "usage: "),
        ("set", 1, "which interface?"),
        ("show --interface eth9", 1, "there is no interface eth9"),
        ("show --interface lan0 --cores x", 1, "--cores needs a list"),
        ("show --interface lan0 --huge-pages many", 1, "--huge-pages needs a number"),
        ("show --fast", 2, "usage: "),
    ] {
        let output = tune(&net, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{arguments}");
    }
}
