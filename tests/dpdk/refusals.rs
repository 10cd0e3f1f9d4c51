//! Why it does not start, and what to do about it: by `oneip run`, each in a process of its own.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn config(interface: &str, dpdk: &str) -> String {
    format!(
        "[cluster]\nhash_key = \"00112233445566778899aabbccddeeff\"\n[dispatcher]\ninterface = \"{interface}\"\nengine = \"dpdk\"\n\
         [dpdk]\n{dpdk}\n[[service]]\nname = \"web\"\naddress = \"203.0.113.80\"\n[[service.server]]\nname = \"web1\"\n\
         address = \"192.0.2.11\"\nmac = \"02:00:00:00:00:11\"\n"
    )
}

/// What it says to that configuration, as root or as nobody.
fn refusal_to(interface: &str, dpdk: &str, nobody: bool) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("oneip.toml");
    fs::write(&file, config(interface, dpdk)).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneip"));
    if nobody {
        // Neither the build folder nor a temporary one may be nobody's to read.
        let program = folder.path().join("oneip");
        // Not by this process: a child of another test, forked meanwhile, would have it open to write, and it could not be run.
        let mut install = Command::new("install");
        assert!(install.arg(env!("CARGO_BIN_EXE_oneip")).arg(&program).status().expect("it runs").success());
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("readable");
        command = Command::new(program);
        command.uid(65_534).gid(65_534);
    }
    let output = command.arg("run").arg("-c").arg(&file).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{dpdk}: {said}");
    println!("{said}");
    said
}

fn refusal(interface: &str, dpdk: &str) -> String {
    refusal_to(interface, dpdk, false)
}

const NO_HUGE: &str = "eal = [\"--no-huge\", \"-m\", \"64\"]\n";

#[test]
fn dpdk_that_does_not_start() {
    if !Path::new("/proc/sys/vm/nr_hugepages").exists()
        || fs::read_to_string("/proc/sys/vm/nr_hugepages").is_ok_and(|n| n.trim() == "0")
    {
        let said = refusal("lo", "port = \"net_null0\"\nexception = \"none\"");
        assert!(said.contains("needs huge pages") && said.contains("sysctl -w vm.nr_hugepages"), "{said}");
    }
    let said = refusal("lo", "port = \"net_null0\"\neal = [\"--no-huge\", \"--frobnicate\"]");
    assert!(said.contains("does not start") && said.contains("--frobnicate"), "{said}");
}

#[test]
fn a_device_that_is_not_there_or_not_ours() {
    let said = refusal("lo", &format!("port = \"ffff:1f:1f.7\"\n{NO_HUGE}"));
    assert!(said.contains("no PCI device ffff:1f:1f.7") && said.contains("dpdk-devbind.py --status"), "{said}");
    let said = refusal("lo", &format!("port = \"net_frob0\"\n{NO_HUGE}"));
    assert!(said.contains("no driver for the virtual device \"net_frob0\""), "{said}");
    let said = refusal("lo", &format!("port = \"net_af_packet0,iface=nosuch0\"\n{NO_HUGE}"));
    assert!(
        said.contains("cannot take net_af_packet0,iface=nosuch0 into service") && said.contains("nosuch0"),
        "{said}"
    );
    // Of this machine's own devices, one that its kernel uses.
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    if let Some(device) = devices.into_iter().find(|device| device.path().join("driver").exists()) {
        let address = device.file_name().into_string().expect("an address");
        let said = refusal("lo", &format!("port = \"{address}\"\n{NO_HUGE}"));
        assert!(said.contains("is bound to") && said.contains("dpdk-devbind.py --bind=vfio-pci"), "{said}");
    }
}

#[test]
fn settings_that_the_device_cannot_have() {
    let of = |rest: &str| refusal("lo", &format!("port = \"net_null0\"\nexception = \"none\"\n{NO_HUGE}{rest}"));
    let said = of("mbufs = 100");
    assert!(said.contains("100 mbufs are too few") && said.contains("mbufs = 3008"), "{said}");
    let said = of("mbufs = 200000");
    assert!(said.contains("no memory for the 200000 mbufs of queue 0"), "{said}");
    let pcap = format!("port = \"net_pcap0,rx_iface=lo,tx_iface=lo\"\nexception = \"none\"\nqueues = 2\n{NO_HUGE}");
    let said = refusal("lo", &pcap);
    assert!(said.contains("at most 1 queues") && said.contains("`queues` in [dpdk]"), "{said}");
}

#[test]
fn an_interface_that_is_no_way_to_the_kernel() {
    let with = |interface: &str, rest: &str| refusal(interface, &format!("port = \"net_null0\"\n{NO_HUGE}{rest}"));
    let said = with("nosuch0", "");
    assert!(said.contains("no interface nosuch0") && said.contains("ip tuntap add dev nosuch0 mode tap"), "{said}");
    let said = with("lo", "");
    assert!(said.contains("lo is not a tap"), "{said}");
    let said = with("lo", "exception = \"kernel\"");
    assert!(said.contains("is the one that net_null0 sits on"), "{said}");
}

#[test]
fn privileges_that_are_missing() {
    let said = refusal_to("lo", &format!("port = \"net_af_packet0,iface=lo\"\n{NO_HUGE}"), true);
    assert!(said.contains("net_af_packet0") && said.contains("run as root"), "{said}");
}

#[test]
fn check_tells_what_dpdk_would_make_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("oneip.toml");
    let told = |text: String| {
        fs::write(&file, text).expect("a file");
        let check = Command::new(env!("CARGO_BIN_EXE_oneip")).arg("check").arg("-c").arg(&file).output();
        String::from_utf8_lossy(&check.expect("it runs").stdout).into_owned()
    };
    let one = config("oneip0", "port = \"net_null0,size=64\"");
    let interfaces = "[[dispatcher.interface]]\nname = \"oneip0\"\n[[dispatcher.interface]]\nname = \"oneip1\"\n";
    let two = one.replace("interface = \"oneip0\"\nengine = \"dpdk\"\n", &format!("engine = \"dpdk\"\n{interfaces}"));
    let two = two.replace("\"net_null0,size=64\"", "[\"net_null0\", \"net_tap0,iface=t\"]");
    let common = ["DPDK 2", "driver net_null", "queue 0 -> core "];
    let of_one = ["queues     1, rings of 1024, 4095 mbufs each", "through the tap oneip0\n"];
    let of_two = [
        "port       net_tap0,iface=t: driver net_tap",
        "queues     1 of each port, rings of 1024, 8191 mbufs each",
        "through the taps oneip0, oneip1\n",
    ];
    for (text, own) in [(one, &of_one[..]), (two, &of_two)] {
        let plan = told(text);
        for fact in common.iter().chain(own) {
            assert!(plan.contains(fact), "{fact}: {plan}");
        }
    }
}

/// What is refused to AF_XDP is nothing to a device that needs no interface of the kernel's. Nor does it end only when the device,
/// which cannot be detached, has no more frames: this one always has.
#[test]
fn without_a_way_to_the_kernel_it_starts_without_the_interface() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("oneip.toml");
    let dpdk = format!("port = \"net_null0\"\nexception = \"none\"\n{NO_HUGE}");
    let admin = "[admin]\nsocket = \"oneip.sock\"\nstate = \"state.json\"\n";
    fs::write(&file, config("not-there", &dpdk) + admin).expect("a file");
    // Which hands our signal on, and kills what does not follow it.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=20", "60", env!("CARGO_BIN_EXE_oneip"), "run", "-c"]).arg(&file);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let ready = lines.any(|line| line == "ready");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it is there");
    let figures = lines.any(|line| line.contains("frames in"));
    let status = child.wait().expect("it ends");
    assert!(ready && figures && status.success(), "ready: {ready}, figures at the end: {figures}, {status}");
}
