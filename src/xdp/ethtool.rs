//! Two questions to the driver that sysfs does not answer, by the ethtool ioctl.
#![allow(unsafe_code)]

use std::ffi::c_char;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketType, socket};

/// `ETHTOOL_GDRVINFO` and `ETHTOOL_GFLAGS`, include/uapi/linux/ethtool.h.
const GET_DRIVER_INFO: u32 = 0x03;
const GET_FLAGS: u32 = 0x25;
/// `ETH_FLAG_RXVLAN` of `enum ethtool_flags`, same file.
const FLAG_RX_VLAN: u32 = 1 << 8;

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
pub(super) fn strips_vlan_tags(interface: &str) -> Option<bool> {
    let mut flags = Value { command: GET_FLAGS, data: 0 };
    // SAFETY: GET_FLAGS fills a `struct ethtool_value`, which `Value` has the layout of.
    unsafe { ask(interface, &mut flags) }?;
    Some(flags.data & FLAG_RX_VLAN != 0)
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

const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Value>() == 8);
