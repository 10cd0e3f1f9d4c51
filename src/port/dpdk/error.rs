use std::io;

use crate::model::Mac;

/// Why a device could not be taken into service by DPDK, and what to do about it. `log` is what DPDK itself said last.
#[derive(Debug, thiserror::Error)]
pub enum DpdkError {
    #[error(
        "DPDK needs huge pages, and this host has none: sysctl -w vm.nr_hugepages=512 (or hugepages=512 on the kernel's \
         command line); to try it out without: eal = [\"--no-huge\", \"-m\", \"256\"] in [dpdk]"
    )]
    NoHugePages,

    #[error(
        "DPDK is not permitted to {what} ({reason}): run as root; in a container, with its devices and capabilities"
    )]
    NotPermitted { what: String, reason: String },

    #[error("DPDK (EAL) does not start with {arguments}: {reason}{}", said(log))]
    Eal { arguments: String, reason: String, log: String },

    #[error(
        "DPDK was started in this process with {before}, and cannot be started again with {now}: start a new process"
    )]
    Restart { before: String, now: String },

    #[error("there is no PCI device {address}: dpdk-devbind.py --status (or lspci -D) lists those that there are")]
    NoPciDevice { address: String },

    #[error(
        "PCI device {address} ({id}) is {driver}, which DPDK cannot use: ip link set its interface down, then modprobe \
         vfio-pci && dpdk-devbind.py --bind=vfio-pci {address} (from Debian's package dpdk)"
    )]
    NotBound { address: String, id: String, driver: String },

    #[error(
        "DPDK has no driver for the virtual device \"{port}\": its name begins with the driver's, as in \
         \"net_af_packet0,iface=eth1\"; the drivers are packages of their own (apt-get install librte-net-...){}",
        said(log)
    )]
    NoVdevDriver { port: String, log: String },

    #[error("DPDK cannot take {port} into service: {reason}{}", said(log))]
    Probe { port: String, reason: String, log: String },

    #[error("{port} has at most {most} queues with DPDK, not {queues}: set `queues` in [dpdk]")]
    FewQueues { port: String, queues: u16, most: u16 },

    #[error("{port} can have an MTU from {least} to {most}, not {mtu}: set `mtu` in [dpdk]")]
    Mtu { port: String, mtu: u16, least: u16, most: u16 },

    #[error(
        "there is no memory for the {count} mbufs of queue {queue} of {port}, {kib} KiB: {reason}; give DPDK more (huge pages, or -m \
         in `eal`), or ask for fewer (`mbufs`, `descriptors` in [dpdk])"
    )]
    NoMemory { port: String, queue: u16, count: u32, kib: u64, reason: String },

    #[error(
        "{mbufs} mbufs are too few for a queue of {port}, whose rings take {rings}: mbufs = {least} in [dpdk], or leave it out"
    )]
    FewMbufs { port: String, mbufs: u32, rings: u32, least: u32 },

    #[error("DPDK cannot {step} {port}: {reason}{}", said(log))]
    Setup { port: String, step: &'static str, reason: String, log: String },

    #[error(
        "there is no interface {interface}, through which the kernel would get what is not for a cluster address; make it, with the \
         dispatcher's own addresses: ip tuntap add dev {interface} mode tap && ip link set {interface} up && ip address add \
         ADDRESS dev {interface}"
    )]
    NoTap { interface: String },

    #[error(
        "{interface} is not a tap, and the kernel gets what is not for a cluster address through a tap: name another interface, or \
         set `exception` in [dpdk]"
    )]
    NotTap { interface: String },

    #[error("interface {interface} is down: ip link set {interface} up")]
    Down { interface: String },

    #[error("another program holds the tap {interface}: stop it (fuser -v /dev/net/tun shows which have one)")]
    TapBusy { interface: String },

    #[error(
        "the tap {interface} has an MTU of {tap}, and {port} one of {mtu}: ip link set {interface} mtu {mtu}, or set `mtu` in [dpdk]"
    )]
    TapMtu { interface: String, tap: u32, port: String, mtu: u16 },

    #[error("cannot {step} the tap {interface}: {reason}")]
    Tap { interface: String, step: &'static str, reason: io::Error },

    #[error(
        "with exception = \"kernel\", `interface` is the one that {port} sits on, with its MAC {mac}; {interface} has {}",
        found.map_or("none".into(), |mac| mac.to_string())
    )]
    OtherInterface { interface: String, port: String, mac: Mac, found: Option<Mac> },

    #[error(
        "with exception = \"kernel\" the kernel sees clients' frames too, and {interface} forwards {family}, so that each would arrive \
         twice: sysctl -w {sysctl}=0"
    )]
    Forwards { interface: String, family: &'static str, sysctl: String },

    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

fn said(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; DPDK said: {log}") }
}
