//! TCP (RFC 9293 section 3.1), UDP (RFC 768) and SCTP (RFC 9260 section 3.1): the ports, and whether the header is whole.

use super::{Malformed, be16};
use crate::model::Transport;

pub const TCP_HEADER_LEN: usize = 20;
pub const UDP_HEADER_LEN: usize = 8;
pub const SCTP_HEADER_LEN: usize = 12;

/// TCP's control bits.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// Source and destination port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub source: u16,
    pub destination: u16,
}

impl Ports {
    /// As the other side sees them.
    pub fn reversed(self) -> Ports {
        Ports { source: self.destination, destination: self.source }
    }
}

/// The ports alone: of a quoted packet, or of a first fragment. `None`: cut off before their end.
#[inline]
pub fn ports(payload: &[u8]) -> Option<Ports> {
    let bytes = payload.first_chunk::<4>()?;
    Some(Ports { source: be16(bytes, 0), destination: be16(bytes, 2) })
}

/// The ports of an unfragmented packet whose header must be whole: TCP's data offset and UDP's length lie within the packet.
#[inline]
pub fn checked_ports(transport: Transport, payload: &[u8]) -> Result<Ports, Malformed> {
    let whole = match transport {
        Transport::Tcp => {
            payload.len() >= TCP_HEADER_LEN && {
                let offset = (payload[12] >> 4) as usize * 4;
                offset >= TCP_HEADER_LEN && offset <= payload.len()
            }
        }
        Transport::Udp => {
            payload.len() >= UDP_HEADER_LEN && {
                let len = be16(payload, 4) as usize;
                len >= UDP_HEADER_LEN && len <= payload.len()
            }
        }
        Transport::Sctp => payload.len() >= SCTP_HEADER_LEN,
    };
    if whole { ports(payload).ok_or(Malformed) } else { Err(Malformed) }
}

/// What a UDP datagram carries, of which `checked_ports` has found nothing wrong.
#[inline]
pub fn datagram(payload: &[u8]) -> Option<&[u8]> {
    let len = be16(payload.first_chunk::<UDP_HEADER_LEN>()?, 4);
    payload.get(UDP_HEADER_LEN..len.into())
}
