//! ICMP echo over one raw socket a family, for all servers: opened at the start, while the process may still open them.
//! A filter in the kernel lets through nothing but replies to us, whatever else is sent to this host.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use crate::limits::HEALTH_PARALLEL;

const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;

/// Type, code, checksum, identifier, sequence number (RFC 792 and RFC 4443, section 4.1).
const HEADER: usize = 8;

/// The largest IPv4 header and ours.
const REPLY: usize = 60 + HEADER;

/// Replies that are read in one go.
const BATCH: usize = 64;

pub(super) struct Echo {
    v4: io::Result<UdpSocket>,
    v6: io::Result<UdpSocket>,
    /// Tells our requests from those of other programs.
    identifier: u16,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    next: u16,
    /// The mark of each socket, IPv4 and IPv6.
    marks: [u32; 2],
    /// Who is asked, and who waits, by sequence number.
    waiting: HashMap<u16, (IpAddr, oneshot::Sender<()>)>,
}

impl Echo {
    /// A socket that cannot be opened is an error only when it is needed.
    pub fn open() -> Echo {
        let identifier = fastrand::u16(..);
        Echo { v4: socket(true, identifier), v6: socket(false, identifier), identifier, asked: Mutex::default() }
    }

    /// Whether echo requests can be sent.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, ipv4: bool) -> io::Result<()> {
        let socket = if ipv4 { &self.v4 } else { &self.v6 };
        socket.as_ref().map(|_| ()).map_err(again)
    }

    /// Sends a request. The receiver gets the answer; if it is dropped, the answer does not matter any more.
    pub fn send(&self, to: SocketAddr, mark: Option<u32>) -> io::Result<oneshot::Receiver<()>> {
        let ipv4 = to.is_ipv4();
        let socket = if ipv4 { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().map_err(again)?;
        let mut asked = self.asked.lock().expect("no panic while it was locked");
        let sequence = asked.next;
        let kind = if ipv4 { REQUEST_V4 } else { REQUEST_V6 };
        let packet = message(kind, self.identifier, sequence);
        let socket = SockRef::from(socket);
        let (mark, is) = (mark.unwrap_or(0), &mut asked.marks[usize::from(!ipv4)]);
        // Needs a privilege, even for none (sock_setsockopt, net/core/sock.c), and a filter, which has given that up, sets none.
        if mark != *is {
            socket.set_mark(mark)?;
            *is = mark;
        }
        socket.send_to(&packet, &to.into())?;
        asked.next = asked.next.wrapping_add(1);
        if asked.waiting.len() >= 2 * HEALTH_PARALLEL {
            asked.waiting.retain(|_, (_, sender)| !sender.is_closed());
        }
        let (sender, receiver) = oneshot::channel();
        asked.waiting.insert(sequence, (to.ip(), sender));
        Ok(receiver)
    }

    /// Waits for replies and hands on what has come. Cancel-safe.
    pub async fn receive(&self) {
        let found = tokio::select! {
            found = replies(&self.v4, REPLY_V4) => found,
            found = replies(&self.v6, REPLY_V6) => found,
        };
        let mut asked = self.asked.lock().expect("no panic while it was locked");
        for (from, sequence) in found {
            let expected = asked.waiting.get(&sequence).is_some_and(|(address, _)| *address == from);
            if let Some((_, sender)) = expected.then(|| asked.waiting.remove(&sequence)).flatten() {
                _ = sender.send(());
            }
        }
    }
}

/// The same error, for one more who asks.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

fn socket(ipv4: bool, identifier: u16) -> io::Result<UdpSocket> {
    let (domain, protocol) = if ipv4 { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
    socket.attach_filter(&filter(ipv4, identifier))?;
    // The calls of a UDP socket are those of a raw one.
    UdpSocket::from_std(socket.into())
}

/// Classic BPF: keeps a packet whose type is a reply's and whose identifier is ours. On a raw socket the packet begins with
/// the IPv4 header, but without the IPv6 header (`raw_rcv`, net/ipv4/raw.c; `rawv6_rcv`, net/ipv6/raw.c).
fn filter(ipv4: bool, identifier: u16) -> [SockFilter; 7] {
    // BPF_LDX|BPF_B|BPF_MSH, BPF_LDX|BPF_IMM, BPF_LD|BPF_B|BPF_IND, BPF_LD|BPF_H|BPF_IND, BPF_JMP|BPF_JEQ, BPF_RET
    let (header_length, zero, byte, half, equal, end) = (0xb1, 0x01, 0x50, 0x48, 0x15, 0x06);
    let reply = if ipv4 { REPLY_V4 } else { REPLY_V6 };
    [
        SockFilter::new(if ipv4 { header_length } else { zero }, 0, 0, 0),
        SockFilter::new(byte, 0, 0, 0),
        SockFilter::new(equal, 0, 3, reply.into()),
        SockFilter::new(half, 0, 0, 4),
        SockFilter::new(equal, 0, 1, identifier.into()),
        SockFilter::new(end, 0, 0, u32::MAX),
        SockFilter::new(end, 0, 0, 0),
    ]
}

/// Without data. The kernel fills in the checksum of ICMPv6 (RFC 3542, section 3.1).
fn message(kind: u8, identifier: u16, sequence: u16) -> [u8; HEADER] {
    let [i0, i1] = identifier.to_be_bytes();
    let [s0, s1] = sequence.to_be_bytes();
    let sum = u32::from(kind) * 256 + u32::from(identifier) + u32::from(sequence);
    let folded = (sum & 0xffff) + (sum >> 16);
    let [c0, c1] = (!(((folded & 0xffff) + (folded >> 16)) as u16)).to_be_bytes();
    [kind, 0, c0, c1, i0, i1, s0, s1]
}

/// Whose replies have come, and to which requests; for ever none where there is no socket.
async fn replies(socket: &io::Result<UdpSocket>, kind: u8) -> Vec<(IpAddr, u16)> {
    let Ok(socket) = socket else { return std::future::pending().await };
    let mut found = Vec::new();
    while found.is_empty() {
        if socket.readable().await.is_err() {
            return std::future::pending().await;
        }
        for _ in 0..BATCH {
            let mut buffer = [0; REPLY];
            match socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => found.extend(sequence(&buffer[..length], kind).map(|number| (from.ip(), number))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What the kernel says of an earlier request; that probe times out.
                Err(_) => {}
            }
        }
    }
    found
}

/// The sequence number of a reply.
fn sequence(packet: &[u8], kind: u8) -> Option<u16> {
    let header = if kind == REPLY_V4 { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
    let message = packet.get(header..header + HEADER)?;
    (message[0] == kind).then(|| u16::from_be_bytes([message[6], message[7]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_makes_the_sum_of_the_message_all_ones() {
        for (identifier, sequence) in [(0, 0), (1, 1), (0xffff, 0xffff), (0xf7ff, 0), (0x1234, 0xabcd)] {
            let message = message(REQUEST_V4, identifier, sequence);
            let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            assert_eq!(folded, 0xffff, "{identifier:#x} {sequence:#x}");
        }
    }

    #[test]
    fn a_reply_is_found_behind_the_header_and_nothing_in_what_is_cut_short() {
        let mut packet = vec![0x46; 24];
        packet.extend(message(REPLY_V4, 7, 0x0102));
        assert_eq!(sequence(&packet, REPLY_V4), Some(0x0102));
        for length in 0..packet.len() {
            assert_eq!(sequence(&packet[..length], REPLY_V4), None);
        }
        assert_eq!(sequence(&message(REPLY_V6, 7, 3), REPLY_V6), Some(3));
        assert_eq!(sequence(&message(REQUEST_V6, 7, 3), REPLY_V6), None);
    }
}
