//! A dispatcher with two NICs: clients come in by either, and each server is reached by its own.

use crate::machine::Guest;
use crate::network::{HEALTH, Lab, clients, say, with_health};
use crate::second_lan::{lay_second_lan, over_both, received, serves_both_families};
use crate::{CLIENTS, received as by_worker};
use std::fs;

/// A few of each family: all of them in a guest take minutes.
fn some() -> [Vec<String>; 2] {
    [0, 1].map(|family| clients(family)[..CLIENTS].to_vec())
}

/// Whichever engine: its servers checked, over both.
fn config(lab: &Lab, engine: &str) -> String {
    let text = with_health(&fs::read_to_string(lab.config()).unwrap(), HEALTH);
    over_both(&text, &format!("engine = \"{engine}\"\n"), ["", ""])
}

/// By both NICs, in and out.
fn all_are_served(lab: &Lab) {
    let by_second = received(lab, "web3", "lan1");
    serves_both_families(lab, &lab.file("guest.toml"), &some(), &["web1", "web3"]);
    assert!(received(lab, "web3", "lan1") > by_second + 100, "web3 is reached by lan1");
}

/// Frames go from one NIC's rings to the other's without a copy; and, without a process, from driver to driver.
#[test]
#[ignore = "takes minutes"]
fn of_two_igbs_in_zero_copy_mode_each_sends_what_the_other_received() {
    let Some(lab) = &Lab::up(&[]) else { return };
    lay_second_lan(lab, 1);
    let Some(mut guest) = Guest::boot(lab, "igb", 2, &["--second-lan"]) else { return };
    let said = guest.start_with(&config(lab, "af_xdp"), "");
    say(&said);
    assert!(said.contains("AF_XDP, zero-copy mode") && said.contains("lan1 (igb)"), "{said}");
    all_are_served(lab);
    let workers = by_worker(&mut guest);
    assert!(workers.len() == 2 && workers.iter().all(|received| *received > 0), "each has a share: {workers:?}");
    guest.end("KILL");
    all_are_served(lab);
    guest.start_with(&config(lab, "af_xdp"), "");
    all_are_served(lab);
    guest.stop();
    let said = guest.start_with(&config(lab, "xdp"), "");
    say(&said);
    all_are_served(lab);
    guest.stop();
}

#[cfg(feature = "dpdk")]
#[test]
#[ignore = "takes minutes"]
fn of_two_igbs_by_vfio_each_sends_what_the_other_received() {
    let Some(lab) = &Lab::up(&[]) else { return };
    lay_second_lan(lab, 1);
    let Some(mut guest) = Guest::boot(lab, "igb", 2, &["--dpdk", "--second-lan"]) else { return };
    let ports: Vec<String> = guest.run("cat /run/dpdk-port").lines().map(|port| format!("\"{port}\"")).collect();
    let text = config(lab, "dpdk").replacen("engine = \"dpdk\"\n", "engine = \"dpdk\"\ncores = [0, 1]\n", 1);
    let section = format!("[dpdk]\nport = [{}]\neal = [\"--socket-mem\", \"256\"]\n", ports.join(", "));
    let said = guest.start_with(&format!("{text}\n{section}"), "");
    say(&said);
    assert!(ports.len() == 2 && said.matches("net_e1000_igb").count() == 2, "{said}");
    all_are_served(lab);
    let workers = by_worker(&mut guest);
    assert!(workers.len() == 2 && workers.iter().all(|received| *received > 0), "each has a share: {workers:?}");
    guest.stop();
}
