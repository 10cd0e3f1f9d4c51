//! Why it does not start, and what it leaves behind then: nothing.

use std::fs;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::dispatcher::{Dispatcher, is_attached, run};
use crate::failover::checked;
use crate::filters::{self, Filter};
use crate::network::{Lab, SERVERS, WEB, clients, eventually, write_config};

/// Runs it to its end: the message of its failure.
fn refusal(lab: &Lab, command: &mut Command) -> String {
    refusal_on(lab, "dispatcher", command)
}

/// In another host.
fn refusal_on(lab: &Lab, host: &str, command: &mut Command) -> String {
    let before = state_of(lab, host);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    assert!(said.starts_with("error: "), "the first line is the error: {said}");
    assert_eq!(state_of(lab, host), before, "nothing is left behind: {said}");
    said
}

/// What a run might leave behind: a program, a mode, entries for the servers.
fn state(lab: &Lab) -> String {
    state_of(lab, "dispatcher")
}

fn state_of(lab: &Lab, host: &str) -> String {
    lab.ip(host, "-d link show") + &managed_by(lab, host)
}

/// Neighbours that the kernel keeps fresh because it was asked to.
fn managed(lab: &Lab) -> String {
    managed_by(lab, "dispatcher")
}

fn managed_by(lab: &Lab, host: &str) -> String {
    let neighbours = lab.ip(host, "-d neigh show");
    neighbours.lines().filter(|line| line.contains("managed")).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_it_lacks_is_said_with_what_to_do() {
    let Some(lab) = Lab::up(&[]) else { return };
    let config = fs::read_to_string(lab.config()).unwrap();
    let config: String = config
        .lines()
        .filter(|line| !line.starts_with("pins") && !line.starts_with("idle"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let refused = |old: &str, new: &str, expected: &str| {
        assert!(config.contains(old), "{old}");
        let file = lab.file("refused.toml");
        write_config(&file, &config.replace(old, new));
        let said = refusal(&lab, &mut run(&lab, &file));
        assert!(said.contains(expected), "{expected}: {said}");
    };
    let lan0 = "interface = \"lan0\"";
    refused(lan0, "interface = \"eth9\"", "interface eth9 does not exist; there are: lan0, lo");
    refused(lan0, "interface = \"lo\"", "interface lo is not an Ethernet interface");
    let dpdk = "interface = \"lan0\"\nengine = \"dpdk\"\n[dpdk]\nport = \"net_null0\"";
    if cfg!(not(feature = "dpdk")) {
        let how = "apt-get install libdpdk-dev && cargo build --release --features dpdk";
        refused(lan0, dpdk, &format!("this build has no DPDK port; {how}"));
    }
    refused(lan0, "interface = \"lan0\"\ncores = [777]", "`cores` lists core 777, which this process may not use");
    refused(
        lan0,
        "interface = \"lan0\"\ncores = [0, 1]",
        "has 1 receive queue, and a queue is served by one core; list at most 1",
    );
    refused(&format!("[dispatcher]\n{lan0}"), "", "has no [dispatcher]; `oneip run` needs one:");
    refused(
        "\"192.0.2.12\"",
        "\"100.64.0.2\"",
        "server web2 100.64.0.2 is not on lan0's link: the route goes via 192.0.2.1",
    );
    refused("[cluster]", "[claster]", "claster");

    lab.ip("dispatcher", "address add 203.0.113.80/32 dev lo");
    refused(lan0, lan0, "remove it: ip address del 203.0.113.80/32 dev lo");
    lab.ip("dispatcher", "address del 203.0.113.80/32 dev lo");

    lab.ip("dispatcher", "link set lan0 down");
    refused(lan0, lan0, "interface lan0 is down: ip link set lan0 up");
    lab.ip("dispatcher", "link set lan0 up");
    eventually("its link is back", || lab.ip("dispatcher", "link show lan0").contains("state UP"));

    let mut unprivileged = lab.command("dispatcher", "setpriv");
    unprivileged.args(["--inh-caps=-all", "--bounding-set=-all", env!("CARGO_BIN_EXE_oneip"), "run", "-c"]);
    let said = refusal(&lab, unprivileged.arg(lab.config()));
    assert!(said.contains("needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF: run as root, or: setcap"), "{said}");

    let said = refusal(&lab, run(&lab, &lab.config()).args(["--down", "web9"]));
    assert!(said.contains("--down web9: there is no such server; there are web1, web2, web3"), "{said}");
    let said = refusal(&lab, run(&lab, &lab.config()).args(["--hlog", "/nonesuch/x.hlog"]));
    assert!(said.contains("--hlog /nonesuch/x.hlog: cannot be written"), "{said}");
}

#[test]
fn a_second_one_on_the_interface_is_refused_and_touches_nothing_of_the_first() {
    let Some(lab) = Lab::up(&[]) else { return };
    let config = checked(&lab);
    let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
    let log = lab.file("older.hlog");
    fs::write(&log, "figures of another run").unwrap();
    let second = lab.file("second.toml");
    write_config(&second, &fs::read_to_string(&config).unwrap().replace("oneip.sock", "second.sock"));
    let all_checked = || SERVERS.iter().all(|server| lab.server(WEB[0], server)["check"]["age_s"].is_number());
    eventually("the servers are checked", all_checked);
    let of_ours = || (lab.ip("dispatcher", "rule"), managed(&lab).lines().count());
    let before = of_ours();
    let output = run(&lab, &second).arg("--hlog").arg(&log).output().unwrap();
    assert_eq!(of_ours(), before);
    assert_eq!(fs::read_to_string(&log).unwrap(), "figures of another run");
    assert!(!lab.file("second.sock").exists(), "nothing is left behind");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let pid = dispatcher.child().id();
    assert!(said.starts_with(&format!("error: lan0 is in use: oneip, process {pid}, dispatches")), "{said}");
    assert!(is_attached(&lab));
    assert_eq!(lab.ping(0, &clients(0)[..10], 56), 10);

    // Its probes take their own routes still: a server that fails is found.
    lab.ip("web2", "address del 203.0.113.80/32 dev lo");
    dispatcher.hear("server web2 of service web is down");
    dispatcher.stop();
}

#[test]
fn a_signal_during_the_start_ends_it_cleanly() {
    let Some(lab) = Lab::up(&[]) else { return };
    // A server that does not answer keeps the start waiting a moment.
    lab.ip("lan", "link set web3 nomaster");
    let before = state(&lab);
    let mut command = run(&lab, &lab.config());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("it asks for the servers", || managed(&lab).lines().count() >= 4);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    let said = String::from_utf8(stdout).unwrap();
    assert!(status.success() && said.contains("frames in"), "{status}: {said}");
    assert_eq!(state(&lab), before, "nothing is left behind");
}

/// `ip netns exec` has a /sys of its own, without a BPF file system: it is mounted by the same command.
#[test]
fn a_filter_or_decap_without_a_bpf_file_system_says_how_to_mount_one() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    filters::configure(lab, "", "");
    let text = fs::read_to_string(filters::config(lab, "web1")).unwrap();
    let text = text.replace(&lab.file("bpf").display().to_string(), "/sys/fs/bpf/oneip");
    let decap = text
        .replace("[filter]\n", "[decap]\nsources = [\"192.0.2.2\"]\n")
        .replace("\nports = ", "\ndeliver = \"gue\"\nports = ");
    for (verb, text) in [("filter", &text), ("decap", &decap)] {
        write_config(&filters::config(lab, "web1"), text);
        let mut refused = lab.command("web1", env!("CARGO_BIN_EXE_oneip"));
        let said = refusal_on(lab, "web1", refused.args([verb, "-c"]).arg(filters::config(lab, "web1")));
        let expected = "error: there is no BPF file system at /sys/fs/bpf/oneip: mount -t bpf bpf /sys/fs/bpf\n";
        assert_eq!(said, expected);
        let mut mounted = lab.command("web1", "sh");
        mounted.args(["-c", "mount -t bpf bpf /sys/fs/bpf && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_oneip")]);
        match verb {
            "filter" => Filter::start_by(lab, "web1", mounted).stop(),
            _ => Filter::decap_by(lab, "web1", mounted).stop(),
        };
        fs::remove_file(lab.file("web1.state.json")).unwrap();
    }
}
