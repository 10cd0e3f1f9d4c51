//! DPDK on PCI devices: the NIC is bound to vfio-pci, behind an IOMMU that qemu emulates.

use crate::machine::Guest;
use crate::network::{HEALTH, Lab, clients, eventually, say, with_health};
use crate::tools::installed;
use crate::{CLIENTS, ROUTES, all_is_well, expected, received, wait_for_link};

/// The lab's configuration over DPDK, its servers checked.
fn config(lab: &Lab, guest: &mut Guest, queues: usize) -> String {
    let port = guest.run("cat /run/dpdk-port");
    let text = with_health(&std::fs::read_to_string(lab.config()).unwrap(), HEALTH);
    let cores = if queues == 2 { "[0, 1]" } else { "[1]" };
    let settings = format!("[dispatcher]\nengine = \"dpdk\"\ncores = {cores}\n");
    let section = format!("[dpdk]\nport = \"{port}\"\neal = [\"--socket-mem\", \"256\"]\n\n[dispatcher]");
    text.replace("[dispatcher]\n", &settings).replace("[dispatcher]", &section)
}

/// Bound by the guest's script.
fn works_on(nic: &str, driver: &str, queues: usize) {
    let Some(lab) = Lab::up(&[]) else { return };
    let Some(guest) = Guest::boot(&lab, nic, queues as u32, &["--dpdk"]) else { return };
    works(&lab, guest, driver, queues);
}

/// What each driver of DPDK's must stand.
fn works(lab: &Lab, mut guest: Guest<'_>, driver: &str, queues: usize) {
    let config = config(lab, &mut guest, queues);
    let said = guest.start_with(&config, "");
    say(&said);
    assert!(said.contains(driver), "{said}");
    let plan = guest.check();
    assert!(plan.contains("DPDK") && plan.contains(&guest.run("cat /run/dpdk-port")), "{plan}");
    all_is_well(lab);
    let workers = received(&mut guest);
    assert!(workers.len() == queues && workers.iter().all(|received| *received > 0), "each has a share: {workers:?}");
    lab.sh("router", "ping -qc3 -W2 192.0.2.2; ping -qc3 -W2 2001:db8:2::2");

    guest.set_link(false);
    eventually("it is told, and the tap has no carrier", || {
        guest.heard().contains("down") && guest.run("cat /sys/class/net/lan0/carrier") == "0"
    });
    guest.set_link(true);
    wait_for_link(lab);
    assert_eq!(lab.fetch(0, &clients(0)[..CLIENTS]), expected(lab), "after the cable was out");

    guest.end("KILL");
    let said = guest.start_with(&config, "");
    assert!(said.contains(driver), "{said}");
    all_is_well(lab);
    guest.stop();
}

/// Bound as the page says.
#[test]
#[ignore = "takes minutes"]
fn igb_by_vfio() {
    if !installed("dpdk-devbind.py") {
        return;
    }
    let Some(lab) = Lab::up(&[]) else { return };
    let Some(mut guest) = Guest::boot(&lab, "igb", 2, &["--iommu"]) else { return };
    guest.run("ip link set lan0 down; ip link set lan0 name eth1; ip link set eth1 up");
    guest.read("sh vfio", 1);
    guest.run(&format!(
        "ip tuntap add dev lan0 mode tap; sysctl -qw net.ipv4.conf.lan0.send_redirects=0 net.ipv6.conf.lan0.accept_dad=0; \
         ip link set lan0 up; ip address add 192.0.2.2/24 dev lan0; ip address add 2001:db8:2::2/64 dev lan0 nodad; {ROUTES}; \
         echo 0000:03:00.0 >/run/dpdk-port"
    ));
    works(&lab, guest, "net_e1000_igb", 2);
}

#[test]
#[ignore = "takes minutes"]
fn virtio_by_vfio() {
    works_on("virtio", "net_virtio", 2);
}

#[test]
#[ignore = "takes minutes"]
fn vmxnet3_by_vfio() {
    works_on("vmxnet3", "net_vmxnet3", 1);
}
