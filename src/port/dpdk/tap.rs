//! A tap: a network interface of the kernel's whose other end is a file of ours (Documentation/networking/tuntap.rst).
#![allow(unsafe_code)]

use std::ffi::{c_char, c_ulong};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketType, socket};

use super::error::DpdkError;
use crate::model::Mac;

/// `IFF_UP`, include/uapi/linux/if.h.
const UP: u32 = 1;
/// `ARPHRD_ETHER`, include/uapi/linux/if_arp.h.
const ETHERNET: u16 = 1;

/// `_IOW('T', 226, int)`, include/uapi/linux/if_tun.h.
const TUNSETCARRIER: c_ulong = 0x4004_54e2;

pub(super) struct Tap {
    file: File,
}

impl Tap {
    /// Takes the other end of a tap that is there and up, and gives it the port's MAC, which is the one that answers are sent to.
    pub(super) fn open(interface: &str, mac: Mac, port: &str, mtu: u16) -> Result<Tap, DpdkError> {
        let name = || interface.to_owned();
        let failed = |step| {
            move |reason: io::Error| match reason.kind() {
                ErrorKind::PermissionDenied => DpdkError::NotPermitted {
                    what: format!("{step} the tap {}", name()),
                    reason: "needs cap_net_admin and /dev/net/tun".into(),
                },
                ErrorKind::ResourceBusy => DpdkError::TapBusy { interface: name() },
                _ => DpdkError::Tap { interface: name(), step, reason },
            }
        };
        if !folder(interface).is_dir() {
            return Err(DpdkError::NoTap { interface: name() });
        }
        let is_tap = hex(interface, "tun_flags").is_some_and(|flags| flags & libc::IFF_TAP as u32 != 0);
        if !is_tap {
            return Err(DpdkError::NotTap { interface: name() });
        }
        if hex(interface, "flags").is_some_and(|flags| flags & UP == 0) {
            return Err(DpdkError::Down { interface: name() });
        }
        let tap = fact(interface, "mtu").and_then(|mtu| mtu.parse::<u32>().ok());
        if let Some(tap) = tap.filter(|tap| *tap > u32::from(mtu)) {
            return Err(DpdkError::TapMtu { interface: name(), tap, port: port.into(), mtu });
        }
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
        let file = file.map_err(failed("open"))?;
        attach(&file, interface).map_err(failed("take"))?;
        if mac_of(interface) != Some(mac) {
            set_mac(interface, mac).map_err(failed("set the MAC of"))?;
        }
        Ok(Tap { file })
    }

    /// Has the kernel see a carrier, or none (`TUNSETCARRIER`, from Linux 5.0).
    pub(super) fn set_carrier(&self, carrier: bool) -> io::Result<()> {
        let carrier = libc::c_int::from(carrier);
        // SAFETY: TUNSETCARRIER reads an int, which outlives the call.
        answer(unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETCARRIER, &carrier) })
    }

    /// Hands a frame to the kernel. What it does not take is lost, as it would be on a wire.
    pub(super) fn write(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(drop)
    }

    /// The next frame that the kernel sends; how long it is, or `None` where it sends none now.
    pub(super) fn read(&self, room: &mut [u8]) -> Option<usize> {
        (&self.file).read(room).ok()
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn folder(interface: &str) -> PathBuf {
    Path::new("/sys/class/net").join(interface)
}

fn fact(interface: &str, name: &str) -> Option<String> {
    Some(fs::read_to_string(folder(interface).join(name)).ok()?.trim().to_owned())
}

fn hex(interface: &str, name: &str) -> Option<u32> {
    u32::from_str_radix(fact(interface, name)?.trim_start_matches("0x"), 16).ok()
}

/// The MAC of an interface of the kernel's.
pub(super) fn mac_of(interface: &str) -> Option<Mac> {
    fact(interface, "address")?.parse().ok()
}

fn request(interface: &str) -> libc::ifreq {
    let mut name = [0 as c_char; libc::IFNAMSIZ];
    for (slot, byte) in name[..libc::IFNAMSIZ - 1].iter_mut().zip(interface.bytes()) {
        *slot = byte as c_char;
    }
    libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 } }
}

/// Frames with no header in front (`IFF_NO_PI`), and finished by the kernel (no `IFF_VNET_HDR`).
fn attach(file: &File, interface: &str) -> io::Result<()> {
    let mut request = request(interface);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, which outlives the call.
    answer(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as c_ulong, &mut request) })
}

fn set_mac(interface: &str, mac: Mac) -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut request = request(interface);
    let mut address = libc::sockaddr { sa_family: ETHERNET, sa_data: [0; 14] };
    for (slot, byte) in address.sa_data.iter_mut().zip(mac.0) {
        *slot = byte as c_char;
    }
    request.ifr_ifru.ifru_hwaddr = address;
    // SAFETY: SIOCSIFHWADDR reads a `struct ifreq`, which outlives the call.
    answer(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFHWADDR, &request) })
}

fn answer(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
