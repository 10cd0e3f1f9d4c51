//! The IPv6 header and its extension headers (RFC 8200 sections 3 and 4).

use super::ipv4::Fragment;
use super::{Malformed, array, be16};
use crate::limits::MAX_EXTENSION_HEADERS;

pub const HEADER_LEN: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// The bytes from the version field on: at least the fixed header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a> {
    bytes: &'a [u8],
}

/// What stands behind the extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper<'a> {
    /// Protocol of the payload. `None` where it cannot be known: a chain longer than is walked, or a later fragment of a
    /// datagram whose fragmentable part begins with an extension header.
    pub protocol: Option<u8>,
    pub fragment: Fragment,
    /// Empty in a later fragment.
    pub payload: &'a [u8],
}

impl<'a> Ipv6<'a> {
    /// `None`: too short for the fixed header. Says nothing else; see `check`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Option<Ipv6<'a>> {
        (bytes.len() >= HEADER_LEN).then_some(Ipv6 { bytes })
    }

    /// Whether the version is 6 and, unless `cut` (a packet quoted in an ICMP error), the payload is all there.
    #[inline]
    pub fn check(&self, cut: bool) -> Result<(), Malformed> {
        let whole = self.version() == 6 && (cut || self.payload_len() <= self.bytes.len() - HEADER_LEN);
        if whole { Ok(()) } else { Err(Malformed) }
    }

    #[inline]
    pub fn version(&self) -> u8 {
        self.bytes[0] >> 4
    }

    #[inline]
    fn payload_len(&self) -> usize {
        be16(self.bytes, 4) as usize
    }

    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.bytes[7]
    }

    #[inline]
    pub fn source(&self) -> [u8; 16] {
        array(self.bytes, 8)
    }

    #[inline]
    pub fn destination(&self) -> [u8; 16] {
        array(self.bytes, 24)
    }

    /// The next header field of the fixed header: an extension header's number or the transport's.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.bytes[6]
    }

    /// What follows the fixed header, without the padding of short frames.
    #[inline]
    fn payload(&self) -> &'a [u8] {
        let end = (HEADER_LEN + self.payload_len()).min(self.bytes.len());
        &self.bytes[HEADER_LEN..end]
    }

    /// Walks the extension headers to the transport. An atomic fragment (offset 0, none to follow, RFC 6946) counts as
    /// whole. `Malformed`: an extension header is cut off.
    pub fn upper(&self) -> Result<Upper<'a>, Malformed> {
        let mut protocol = self.next_header();
        let mut payload = self.payload();
        let mut fragment = Fragment::Whole;
        for _ in 0..MAX_EXTENSION_HEADERS {
            let len = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6 => {
                    8 + 8 * *payload.get(1).ok_or(Malformed)? as usize
                }
                // RFC 4302 section 2.2: in 4-byte units, less two.
                AUTHENTICATION => 8 + 4 * *payload.get(1).ok_or(Malformed)? as usize,
                FRAGMENT => 8,
                _ => return Ok(Upper { protocol: Some(protocol), fragment, payload }),
            };
            let header = payload.get(..len).ok_or(Malformed)?;
            if protocol == FRAGMENT {
                match (be16(header, 2) >> 3, header[3] & 1) {
                    (0, 0) => {}
                    (0, _) => fragment = Fragment::First,
                    _ => return Ok(Self::later(header[0])),
                }
            }
            protocol = header[0];
            payload = &payload[len..];
        }
        if is_extension(protocol) {
            return Ok(Upper { protocol: None, fragment, payload: &[] });
        }
        Ok(Upper { protocol: Some(protocol), fragment, payload })
    }

    fn later(next_header: u8) -> Upper<'a> {
        let protocol = (!is_extension(next_header)).then_some(next_header);
        Upper { protocol, fragment: Fragment::Later, payload: &[] }
    }
}

/// Whether a next header number is one of the extension headers that `upper` walks.
pub fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6
    )
}
