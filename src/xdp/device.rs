//! What the kernel says about an interface, and whether frames can be taken from it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::XdpError;
use super::ethtool;
use super::features::Features;
use crate::limits::MAX_VLAN_TAGS;
use crate::model::Mac;

const SYSFS: &str = "/sys/class/net";

/// `ARPHRD_ETHER`, include/uapi/linux/if_arp.h.
const ETHERNET: u32 = 1;

/// `IFF_UP`, include/uapi/linux/if.h.
const UP: u32 = 1;

/// `XDP_PACKET_HEADROOM`, include/uapi/linux/bpf.h: what the kernel keeps free in front of every frame.
const XDP_HEADROOM: u32 = 256;

/// Room for the arrival stamp. It also puts the frame at 8 bytes beyond a cache line, so that the stamp and the frame's first
/// 56 bytes, all that a worker reads of an untagged IPv4 frame, are one line.
pub const STAMP_ROOM: u32 = 8;

/// Where a frame begins in its chunk.
pub const FRAME_OFFSET: u32 = XDP_HEADROOM + STAMP_ROOM;

/// Has a veth send what a native XDP program forwards; PEER is its other end. Off first: the kernel notes GRO of the other end only as it is
/// switched on while that end is up (drivers/net/veth.c, veth_set_features).
pub const MEND_VETH: &str = "ethtool -K PEER gro off; ethtool -K PEER gro on";

const ETHERNET_HEADER: u32 = 14;
const VLAN_TAG: u32 = 4;

/// The sizes of chunk that the kernel accepts: powers of two from `XDP_UMEM_MIN_CHUNK_SIZE` to a page (net/xdp/xdp_umem.c).
const CHUNKS: [u32; 2] = [2048, 4096];

/// An interface that is fit for AF_XDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub interface: String,
    pub index: u32,
    /// `unknown` where the driver does not say.
    pub driver: String,
    pub mac: Mac,
    /// In bytes, without the Ethernet header.
    pub mtu: u32,
    /// Receive queues that have a transmit queue of the same number: an AF_XDP socket takes both.
    pub queues: u32,
    /// All receive queues. There are more while an XDP program is attached to a virtio_net that has queues to spare: it takes these for
    /// what programs send (drivers/net/virtio_net.c, virtnet_xdp_set), and receives on them too.
    pub receive_queues: u32,
    /// `None`: a virtual device, or a machine with one node.
    pub numa_node: Option<u32>,
    /// The cores of that node; empty where the device has no place.
    pub near_cores: Vec<usize>,
    /// Whether VLAN tags are taken out of frames before steer sees them; `None` where the driver does not say.
    pub strips_vlan_tags: Option<bool>,
    /// Whether the driver may write received frames into an AF_XDP socket's memory by itself; as it is said, see [`Features`].
    pub zero_copies: bool,
}

impl Device {
    /// Whether the interface sends what a native XDP program forwards. A veth does if its other end has GRO or a program.
    pub fn transmits(&self) -> bool {
        self.driver != "veth" || Features::of(self.index).transmits()
    }

    /// The file in which the kernel says whether it has a carrier.
    pub fn carrier(&self) -> Option<File> {
        File::open(Path::new(SYSFS).join(&self.interface).join("carrier")).ok()
    }

    /// The largest MTU with which frames fit into AF_XDP's memory.
    pub fn largest_mtu(&self) -> u32 {
        largest_mtu(CHUNKS[1], self.zero_copies)
    }

    /// Bytes of memory that AF_XDP needs for a frame. `None`: the MTU is too large for it.
    pub fn chunk(&self) -> Option<u32> {
        chunk_for(self.mtu, self.zero_copies)
    }

    /// Whether AF_XDP sockets can be bound to its queues.
    ///
    /// # Errors
    ///
    /// It has too large an MTU.
    pub fn check_for_sockets(&self) -> Result<(), XdpError> {
        if self.chunk().is_some() {
            return Ok(());
        }
        let most = self.largest_mtu();
        Err(XdpError::MtuTooLarge { interface: self.interface.clone(), mtu: self.mtu, most })
    }

    /// Reads the facts from sysfs and the driver.
    ///
    /// # Errors
    ///
    /// The interface does not exist, is not Ethernet, or is down.
    pub fn read(interface: &str) -> Result<Device, XdpError> {
        match Device::look(interface)? {
            (_, false) => Err(XdpError::Down { interface: interface.into() }),
            (device, true) => Ok(device),
        }
    }

    /// As `read`, and whether it is up.
    ///
    /// # Errors
    ///
    /// The interface does not exist, or is not Ethernet.
    pub fn look(interface: &str) -> Result<(Device, bool), XdpError> {
        let folder = folder(interface)?;
        let kind = number(&folder.join("type"))?;
        if kind != ETHERNET {
            return Err(XdpError::NotEthernet { interface: interface.into(), kind });
        }
        let up = flags(&folder.join("flags"))? & UP != 0;
        let queues = folder.join("queues");
        let (receive_queues, index) = (count(&queues, "rx-")?, number(&folder.join("ifindex"))?);
        let device = Device {
            interface: interface.into(),
            index,
            driver: ethtool::driver(interface).unwrap_or_else(|| "unknown".into()),
            mac: parse(&folder.join("address"))?,
            mtu: number(&folder.join("mtu"))?,
            queues: receive_queues.min(count(&queues, "tx-")?),
            receive_queues,
            // Both are absent on a virtual device, and the node is -1 on a machine that has but one.
            numa_node: number(&folder.join("device/numa_node")).ok(),
            near_cores: read(&folder.join("device/local_cpulist")).map(|list| cores(&list)).unwrap_or_default(),
            strips_vlan_tags: ethtool::strips_vlan_tags(interface),
            zero_copies: Features::of(index).zero_copies(),
        };
        Ok((device, up))
    }
}

/// By interface: the number of its first queue among those of all of them.
pub fn first_queues(devices: &[Device]) -> Vec<u32> {
    let mut next = 0;
    let first = |device: &Device| {
        next += device.receive_queues;
        next - device.receive_queues
    };
    devices.iter().map(first).collect()
}

/// Whether what comes in on one of these interfaces fits on the others.
///
/// # Errors
///
/// They have different MTUs.
pub fn check_alike(devices: &[Device]) -> Result<(), XdpError> {
    let Some(other) = devices.iter().find(|other| other.mtu != devices[0].mtu) else { return Ok(()) };
    let of = |device: &Device| (device.interface.clone(), device.mtu);
    Err(XdpError::UnlikeMtus { first: of(&devices[0]), other: of(other) })
}

/// A driver that writes into a chunk by itself may take its room in whole KiB only (igb: SRRCTL.BSIZEPACKET,
/// drivers/net/ethernet/intel/igb/igb_main.c, igb_setup_srrctl), and loses what is behind that.
const DRIVERS_UNIT: u32 = 1024;

/// The smallest chunk that holds every frame of the MTU; AF_XDP's multi-buffer frames are not used.
fn chunk_for(mtu: u32, zero_copies: bool) -> Option<u32> {
    CHUNKS.into_iter().find(|chunk| mtu <= largest_mtu(*chunk, zero_copies))
}

const fn largest_mtu(chunk: u32, zero_copies: bool) -> u32 {
    let room = chunk - FRAME_OFFSET;
    let room = if zero_copies { room / DRIVERS_UNIT * DRIVERS_UNIT } else { room };
    room - ETHERNET_HEADER - MAX_VLAN_TAGS as u32 * VLAN_TAG
}

fn folder(interface: &str) -> Result<PathBuf, XdpError> {
    let folder = Path::new(SYSFS).join(interface);
    // A name is one component of a path; "." and ".." are folders too, but no interface.
    let plain = !interface.is_empty() && !interface.contains('/') && !interface.starts_with('.');
    if plain && folder.is_dir() {
        return Ok(folder);
    }
    let mut existing: Vec<String> = fs::read_dir(SYSFS)
        .map_err(|reason| XdpError::Facts { path: SYSFS.into(), reason })?
        .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    existing.sort();
    Err(XdpError::NoInterface { interface: interface.into(), existing: existing.join(", ") })
}

fn read(path: &Path) -> Result<String, XdpError> {
    let text = fs::read_to_string(path).map_err(|reason| XdpError::Facts { path: path.into(), reason })?;
    Ok(text.trim().into())
}

fn parse<T: FromStr>(path: &Path) -> Result<T, XdpError> {
    let text = read(path)?;
    text.parse().map_err(|_| XdpError::StrangeFact { path: path.into(), text })
}

fn number(path: &Path) -> Result<u32, XdpError> {
    parse(path)
}

/// A number written `0x1003`.
fn flags(path: &Path) -> Result<u32, XdpError> {
    let text = read(path)?;
    u32::from_str_radix(text.trim_start_matches("0x"), 16)
        .map_err(|_| XdpError::StrangeFact { path: path.into(), text })
}

/// Entries of a folder whose names begin with `prefix`.
fn count(folder: &Path, prefix: &str) -> Result<u32, XdpError> {
    let entries = fs::read_dir(folder).map_err(|reason| XdpError::Facts { path: folder.into(), reason })?;
    let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
    Ok(entries.filter(|entry| entry.as_ref().is_ok_and(named)).count() as u32)
}

/// A list of cores as the kernel writes it: `0-3,8,10-11`. What is not understood is left out.
pub fn cores(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cores_is_read_as_the_kernel_writes_it() {
        assert_eq!(cores("0-3,8,10-11"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(cores("5"), [5]);
        assert_eq!(cores(""), Vec::<usize>::new());
    }

    #[test]
    fn the_chunk_holds_the_frame_with_its_tags() {
        assert_eq!(chunk_for(1500, false), Some(2048));
        assert_eq!(chunk_for(2048 - 264 - 22, false), Some(2048));
        assert_eq!(chunk_for(2048 - 264 - 21, false), Some(4096));
        assert_eq!(chunk_for(4096 - 264 - 22, false), Some(4096));
        assert_eq!(chunk_for(9000, false), None);
    }

    #[test]
    fn what_a_driver_writes_by_itself_fits_in_whole_kib() {
        assert_eq!(chunk_for(1024 - 22, true), Some(2048));
        assert_eq!(chunk_for(1500, true), Some(4096));
        assert_eq!(chunk_for(3072 - 22, true), Some(4096));
        assert_eq!(chunk_for(3072 - 21, true), None);
    }

    #[test]
    fn an_interface_that_does_not_exist_is_told_with_those_that_do() {
        for name in ["afx-none", "", "..", "lo/../lo"] {
            let error = Device::read(name).unwrap_err();
            assert!(matches!(error, XdpError::NoInterface { .. }), "{name}: {error}");
            assert!(error.to_string().ends_with("lo") || error.to_string().contains("lo,"), "{error}");
        }
    }

    #[test]
    fn loopback_is_not_ethernet() {
        let error = Device::read("lo").unwrap_err();
        assert!(matches!(error, XdpError::NotEthernet { kind: 772, .. }), "{error}");
    }
}
