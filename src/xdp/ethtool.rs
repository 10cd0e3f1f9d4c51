//! Questions to the driver that sysfs does not answer, by the ethtool ioctl.
#![allow(unsafe_code)]

use std::ffi::c_char;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketType, socket};

/// `ETHTOOL_GDRVINFO`, `_GRINGPARAM`, `_GFLAGS`, `_GGRO`, `_GRXCLSRLCNT`, `_GRXFHINDIR` and `_GCHANNELS`, include/uapi/linux/ethtool.h.
const GET_DRIVER_INFO: u32 = 0x03;
const GET_RINGS: u32 = 0x10;
const GET_FLAGS: u32 = 0x25;
const GET_GRO: u32 = 0x2b;
const GET_RULES: u32 = 0x2e;
const GET_INDIRECTION: u32 = 0x38;
const GET_CHANNELS: u32 = 0x3c;
/// `ETH_FLAG_LRO` and `ETH_FLAG_RXVLAN` of `enum ethtool_flags`, same file.
const FLAG_LRO: u32 = 1 << 15;
const FLAG_RX_VLAN: u32 = 1 << 8;

/// More than any NIC has (mlx5: 4096 at most).
const INDIRECTION_MOST: usize = 8192;

/// `struct ethtool_drvinfo`, same file.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_value`, same file.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// The name of the interface's driver; `None` where it does not say.
pub fn driver(interface: &str) -> Option<String> {
    let mut info = DriverInfo { command: GET_DRIVER_INFO, driver: [0; 32], rest: [0; 160] };
    // SAFETY: GET_DRIVER_INFO fills a `struct ethtool_drvinfo`, which `DriverInfo` has the layout of (196 bytes).
    unsafe { ask(interface, &mut info) }?;
    let name = info.driver.split(|byte| *byte == 0).next()?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// Whether the interface takes VLAN tags out of received frames before XDP sees them.
pub fn strips_vlan_tags(interface: &str) -> Option<bool> {
    value(interface, GET_FLAGS).map(|flags| flags & FLAG_RX_VLAN != 0)
}

/// Whether the NIC makes long frames of those that it receives (LRO).
pub fn lro(interface: &str) -> Option<bool> {
    value(interface, GET_FLAGS).map(|flags| flags & FLAG_LRO != 0)
}

/// Whether the kernel makes long packets of the frames that it receives there (GRO).
pub fn gro(interface: &str) -> Option<bool> {
    value(interface, GET_GRO).map(|on| on != 0)
}

fn value(interface: &str, command: u32) -> Option<u32> {
    let mut value = Value { command, data: 0 };
    // SAFETY: GET_FLAGS and GET_GRO fill a `struct ethtool_value`, which `Value` has the layout of.
    unsafe { ask(interface, &mut value) }?;
    Some(value.data)
}

/// Descriptors of a receive ring, and the most that there can be.
pub fn receive_ring(interface: &str) -> Option<(u32, u32)> {
    let mut words = [GET_RINGS, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: GET_RINGS fills a `struct ethtool_ringparam`, which is 9 words.
    unsafe { ask(interface, &mut words) }?;
    let [_, most, _, _, _, now, ..] = words;
    Some((now, most))
}

/// How many channels there can be that both receive and send; 0: receive and transmit queues are set apart from each other.
pub fn most_combined(interface: &str) -> Option<u32> {
    let mut words = [GET_CHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: GET_CHANNELS fills a `struct ethtool_channels`, which is 9 words.
    unsafe { ask(interface, &mut words) }?;
    Some(words[4])
}

/// The receive queues among which RSS spreads packets, each once.
pub fn spread_over(interface: &str) -> Option<Vec<u32>> {
    let mut words = vec![0; 2 + INDIRECTION_MOST].into_boxed_slice();
    (words[0], words[1]) = (GET_INDIRECTION, INDIRECTION_MOST as u32);
    let words: &mut [u32; 2 + INDIRECTION_MOST] = (&mut *words).try_into().ok()?;
    // SAFETY: GET_INDIRECTION fills a `struct ethtool_rxfh_indir`, which is 2 words and as many as the second of them says.
    unsafe { ask(interface, words) }?;
    let mut queues: Vec<u32> = words[2..].iter().copied().take(words[1] as usize).collect();
    queues.sort_unstable();
    queues.dedup();
    Some(queues)
}

/// How many rules steer flows to queues before RSS does (`ethtool -n`).
pub fn flow_rules(interface: &str) -> Option<u32> {
    let mut rules = Rules { command: GET_RULES, flow_type: 0, data: 0, spec: [0; 21], count: 0, rest: 0 };
    // SAFETY: GET_RULES fills a `struct ethtool_rxnfc`, which `Rules` has the layout of (192 bytes).
    unsafe { ask(interface, &mut rules) }?;
    Some(rules.count)
}

/// `struct ethtool_rxnfc`, same file, without the locations of rules behind it.
#[repr(C)]
struct Rules {
    command: u32,
    flow_type: u32,
    data: u64,
    spec: [u64; 21],
    count: u32,
    rest: u32,
}

/// # Safety
///
/// `question` begins with an ethtool command, and has the layout of the structure that this command fills.
unsafe fn ask<T>(interface: &str, question: &mut T) -> Option<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    let mut name = [0 as c_char; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return None;
    }
    for (slot, byte) in name.iter_mut().zip(interface.bytes()) {
        *slot = byte as c_char;
    }
    let data = std::ptr::from_mut(question).cast();
    let mut request = libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data } };
    // SAFETY: the name is terminated, and `ifru_data` points to a structure that outlives the call and that, as the caller
    // promises, is the one the kernel fills.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &mut request) };
    (result == 0).then_some(())
}

const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Value>() == 8 && size_of::<Rules>() == 192);
