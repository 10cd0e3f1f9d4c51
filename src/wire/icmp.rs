//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo requests, and errors that quote the packet they are about.

use super::Malformed;

pub const PROTOCOL_V4: u8 = 1;
pub const PROTOCOL_V6: u8 = 58;
pub const HEADER_LEN: usize = 8;

/// What an ICMP message is to a dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    EchoRequest,
    /// An error, with what it quotes of the packet it is about, from that packet's IP header on.
    Error(&'a [u8]),
    Other,
}

/// The message in an IPv4 packet's payload.
pub fn v4(payload: &[u8]) -> Result<Message<'_>, Malformed> {
    let (header, quoted) = payload.split_first_chunk::<HEADER_LEN>().ok_or(Malformed)?;
    Ok(match header[0] {
        8 => Message::EchoRequest,
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 1122 section 3.2.2).
        3 | 4 | 5 | 11 | 12 => Message::Error(quoted),
        _ => Message::Other,
    })
}

/// The message in an IPv6 packet's payload. Types below 128 are errors (RFC 4443 section 2.1).
pub fn v6(payload: &[u8]) -> Result<Message<'_>, Malformed> {
    let (header, quoted) = payload.split_first_chunk::<HEADER_LEN>().ok_or(Malformed)?;
    Ok(match header[0] {
        128 => Message::EchoRequest,
        0..128 => Message::Error(quoted),
        _ => Message::Other,
    })
}
