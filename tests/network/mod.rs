//! A network of its own for a test that takes one thread: its interfaces, and a BPF file system.

use caps::{CapSet, Capability};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::collections::HashSet;
use std::process::Command;
use std::thread;
use std::time::Duration;

pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `body` in a network that `ip` has made with each of these arguments. Skips it, loudly, without root.
pub fn in_a_network(made: impl IntoIterator<Item = String>, body: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let made: Vec<String> = made.into_iter().collect();
    let inside = move || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        umount2("/sys", MntFlags::MNT_DETACH).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).unwrap();
        made.iter().for_each(|arguments| _ = ip(arguments));
        made.iter().for_each(|arguments| wait_for_route(arguments));
        body();
    };
    thread::spawn(inside).join().unwrap();
}

/// The kernel makes the route of an IPv6 address later (net/ipv6/addrconf.c, addrconf_dad_work), without duplicate detection too.
fn wait_for_route(made: &str) {
    let Some((address, _)) = made.strip_prefix("address add ").and_then(|it| it.split_once('/')) else { return };
    let is_there = || ip(&format!("-6 route show table local {address}")).contains(&format!("local {address} "));
    for _ in 0..1000 {
        if !address.contains(':') || is_there() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("ip {made}: the address has no route");
}

/// Gives up all capabilities but the two that a program on a server's interface needs. CAP_PERFMON would let it read kernel memory.
pub fn keep_two_capabilities() {
    let few = HashSet::from([Capability::CAP_NET_ADMIN, Capability::CAP_BPF]);
    caps::set(None, CapSet::Effective, &few).unwrap();
    caps::set(None, CapSet::Permitted, &few).unwrap();
}
