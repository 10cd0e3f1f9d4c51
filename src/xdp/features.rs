//! What of XDP an interface can do at this moment: a question to the kernel's netlink family `netdev`
//! (Documentation/netlink/specs/netdev.yaml).

use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use std::iter;

/// `NETDEV_XDP_ACT_BASIC`, `_REDIRECT`, `_NDO_XMIT` and `_XSK_ZEROCOPY` of `enum netdev_xdp_act`, include/uapi/linux/netdev.h: its driver
/// runs programs; frames leave it for sockets and other devices; it sends what programs redirect to it; it reads and writes the memory of
/// AF_XDP sockets.
const BASIC: u64 = 1 << 0;
const REDIRECT: u64 = 1 << 1;
const NDO_XMIT: u64 = 1 << 2;
const XSK_ZEROCOPY: u64 = 1 << 3;

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and `CTRL_ATTR_FAMILY_NAME`, include/uapi/linux/genetlink.h.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX` and `NETDEV_A_DEV_XDP_FEATURES`, include/uapi/linux/netdev.h.
const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;

/// `NLM_F_REQUEST`, include/uapi/linux/netlink.h.
const REQUEST: u16 = 1;

/// Headers of a message, and of its family's part.
const HEADERS: usize = 16 + 4;

/// What the kernel says of an interface; before 6.3 nothing, and then all is taken for possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(Option<u64>);

impl Features {
    pub fn of(index: u32) -> Features {
        Features(features(index))
    }

    /// Of these bits of `enum netdev_xdp_act`; `None`: the kernel does not say.
    pub fn new(bits: Option<u64>) -> Features {
        Features(bits)
    }

    /// Whether the kernel has said anything.
    pub fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// Whether programs run in the driver, and can redirect frames from there.
    pub fn is_native(&self) -> bool {
        self.has(BASIC) && self.has(REDIRECT)
    }

    /// Whether the interface sends what XDP programs redirect to it.
    pub fn transmits(&self) -> bool {
        self.has(NDO_XMIT)
    }

    /// Whether AF_XDP sockets do without copies on it.
    pub fn zero_copies(&self) -> bool {
        self.has(XSK_ZEROCOPY)
    }

    fn has(&self, feature: u64) -> bool {
        self.0.is_none_or(|features| features & feature != 0)
    }
}

fn features(index: u32) -> Option<u64> {
    let family = ask(CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0")?;
    let family = u16::from_ne_bytes(attribute(&family, FAMILY_ID)?.try_into().ok()?);
    let device = ask(family, DEV_GET, IFINDEX, &index.to_ne_bytes())?;
    Some(u64::from_ne_bytes(attribute(&device, XDP_FEATURES)?.try_into().ok()?))
}

/// One request with one attribute; the attributes of the answer.
fn ask(family: u16, command: u8, kind: u16, value: &[u8]) -> Option<Vec<u8>> {
    let attribute = 4 + value.len();
    let padded = attribute.next_multiple_of(4);
    let mut message = Vec::with_capacity(HEADERS + padded);
    message.extend(((HEADERS + padded) as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence and sender, of which there is one; then the family's header.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend((attribute as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(HEADERS + padded, 0);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(GENERIC)).ok()?;
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).ok()?;
    let mut answer = vec![0; 8192];
    let (len, _) = recv(&socket, &mut answer, RecvFlags::empty()).ok()?;
    answer.truncate(len);
    // An error comes as a message of another type.
    let is_answer = answer.get(4..6)? == family.to_ne_bytes();
    is_answer.then(|| answer.split_off(HEADERS.min(len)))
}

fn attribute(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    let mut each = iter::from_fn(|| {
        let (len, kind) =
            (u16::from_ne_bytes(*rest.first_chunk()?), u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?));
        let value = rest.get(4..usize::from(len))?;
        rest = rest.get(usize::from(len).next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    });
    each.find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}
