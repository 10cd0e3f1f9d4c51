//! The NIC, as its driver and the kernel describe it.

use super::files::Root;
use crate::doctor::facts::{Interface, Settings};
use crate::model::Dispatcher;
use crate::netlink::links;
use crate::xdp::link::{self, Kept, Place};
use crate::xdp::{Device, Features, XdpError, core_list, ethtool};
use rtnetlink::Handle;
use std::collections::BTreeMap;
use std::fs;

/// # Errors
/// There is none, or it is not Ethernet.
pub async fn interface(
    root: &Root,
    handle: &Handle,
    dispatcher: &Dispatcher,
    name: &str,
) -> Result<Interface, XdpError> {
    let (mut device, up) = Device::look(name)?;
    let sys = format!("/sys/class/net/{name}");
    device.numa_node = root.number(&format!("{sys}/device/numa_node")).or(device.numa_node);
    let near = root.text(&format!("{sys}/device/local_cpulist"));
    device.near_cores = near.map_or(device.near_cores, |list| core_list(&list));
    let program = links::one(handle, device.index).await.ok().and_then(|look| look.program);
    let place = Place {
        kept: Kept::Dispatcher,
        interface: name.to_owned(),
        index: device.index,
        pins: dispatcher.pins.clone(),
    };
    Ok(Interface {
        up,
        carrier: root.number::<u8>(&format!("{sys}/carrier")).map(|carrier| carrier != 0),
        master: fs::read_link(format!("{sys}/master"))
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
        features: Features::of(device.index),
        program,
        program_is_ours: link::is_pinned(&place).unwrap_or(false),
        gro: ethtool::gro(name),
        lro: ethtool::lro(name),
        ring: ethtool::receive_ring(name),
        most_combined: ethtool::most_combined(name),
        spread_over: ethtool::spread_over(name),
        flow_rules: ethtool::flow_rules(name),
        interrupts: interrupts(root, name),
        ipv6_disabled: root.number(&format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")),
        settings: settings(root, name),
        heard: None,
        device,
    })
}

/// Of an interface, or of `all`.
pub fn settings(root: &Root, of: &str) -> Settings {
    let number = |key: &str| root.number(&format!("/proc/sys/net/ipv4/conf/{of}/{key}"));
    Settings {
        send_redirects: number("send_redirects"),
        rp_filter: number("rp_filter"),
        proxy_arp: number("proxy_arp"),
    }
}

/// Those that are called for the interface, or for the device that it is of.
fn interrupts(root: &Root, interface: &str) -> BTreeMap<u32, Vec<usize>> {
    let device = fs::read_link(root.path(&format!("/sys/class/net/{interface}/device")));
    let device = device.ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let table = root.text("/proc/interrupts").unwrap_or_default();
    let numbers = table.lines().filter_map(|line| numbered(line, interface, device.as_deref()));
    let served = |number: u32| {
        let of = |file: &str| root.text(&format!("/proc/irq/{number}/{file}")).filter(|list| !list.is_empty());
        let cores = of("effective_affinity_list").or_else(|| of("smp_affinity_list"))?;
        Some((number, core_list(&cores)))
    };
    numbers.filter_map(served).collect()
}

/// The number of an interrupt that receives for the interface: ` 38:  0  6914  PCI-MSIX-0000:00:03.0  1-edge  virtio2-input.0`
fn numbered(line: &str, interface: &str, device: Option<&str>) -> Option<u32> {
    let (number, rest) = line.trim_start().split_once(':')?;
    let name = rest.split_whitespace().last()?;
    let parts: Vec<&str> = name.split(['-', '@', '.']).collect();
    let is_its = parts.contains(&interface) || device.is_some_and(|device| name.contains(device));
    let receives = !["config", "control", "output", "async"].iter().any(|other| name.contains(other));
    (is_its && receives).then(|| number.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_found_by_the_name_of_the_interface_or_of_its_device() {
        let of = |line| numbered(line, "eth1", Some("virtio2"));
        assert_eq!(of(" 38:   0   6914  PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0"), Some(38));
        assert_eq!(of(" 39:   0   6914  PCI-MSIX-0000:00:03.0   2-edge      virtio2-output.0"), None);
        assert_eq!(of(" 37:   0   0  PCI-MSIX-0000:00:03.0   0-edge      virtio2-config"), None);
        assert_eq!(of("120:   7   0  IR-PCI-MSIX-0000:81:00.0  3-edge   ice-eth1-TxRx-2"), Some(120));
        assert_eq!(of("121:   7   0  IR-PCI-MSIX-0000:81:00.0  3-edge   ice-eth10-TxRx-2"), None);
        assert_eq!(of("LOC:   363862   692467   Local timer interrupts"), None);
        let mlx5 = "44: 0 0 PCI-MSIX-0000:03:00.0 1-edge mlx5_comp0@pci:0000:03:00.0";
        assert_eq!(numbered(mlx5, "eth1", Some("0000:03:00.0")), Some(44));
    }
}
