//! Frames that come in while we listen: whether whoever sent them left checksums to a card that is not there, or frames uncut.
//!
//! On a veth and on virtio a sender may leave in the checksum field the sum of the pseudo header alone, for the card to finish, and a
//! segment longer than the MTU, for the card to cut. The kernel of the receiver knows which (`CHECKSUM_PARTIAL`); a frame that is sent
//! on from an AF_XDP ring is wrong.

use crate::doctor::facts::Heard;
use crate::limits::MAX_VLAN_TAGS;
use crate::model::Mac;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::{Fragment, Ipv4};
use crate::wire::ipv6::Ipv6;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// `ETH_P_ALL`, include/uapi/linux/if_ether.h.
const ALL: u16 = 3;
/// `SKF_AD_OFF`, `SKF_AD_PKTTYPE` and `SKF_AD_IFINDEX`, include/uapi/linux/filter.h; `PACKET_OUTGOING`, include/uapi/linux/if_packet.h.
const ANCILLARY: u32 = 0xffff_f000;
const PACKET_TYPE: u32 = ANCILLARY + 4;
const INDEX: u32 = ANCILLARY + 8;
const OUTGOING: u32 = 4;

/// Listens on an interface; `merges`: its kernel makes long packets of short ones itself (GRO).
///
/// # Errors
/// There is no such socket, for want of CAP_NET_RAW for one.
pub fn listen(index: u32, mtu: u32, merges: bool, time: Duration) -> io::Result<Heard> {
    let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ALL.to_be()))))?;
    socket.attach_filter(&received_on(index))?;
    // What came before the filter was there.
    socket.set_nonblocking(true)?;
    let mut frame = vec![0; 1 << 16];
    while socket.read(&mut frame).is_ok() {}
    socket.set_nonblocking(false)?;
    let (start, mut heard) = (Instant::now(), Heard::default());
    while let Some(left) = time.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match socket.read(&mut frame) {
            Ok(length) => hear(&frame[..length], mtu, merges, &mut heard),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // The interface went down: nothing comes any more.
            Err(error) if error.kind() == io::ErrorKind::NetworkDown => break,
            Err(error) => return Err(error),
        }
    }
    heard.seconds = start.elapsed().as_secs_f64();
    Ok(heard)
}

/// Classic BPF: frames that came in on this interface.
fn received_on(index: u32) -> [SockFilter; 6] {
    let (word, equal, end) = (0x20, 0x15, 0x06);
    [
        SockFilter::new(word, 0, 0, INDEX),
        SockFilter::new(equal, 0, 3, index),
        SockFilter::new(word, 0, 0, PACKET_TYPE),
        SockFilter::new(equal, 1, 0, OUTGOING),
        SockFilter::new(end, 0, 0, u32::MAX),
        SockFilter::new(end, 0, 0, 0),
    ]
}

fn hear(frame: &[u8], mtu: u32, merges: bool, heard: &mut Heard) {
    let Some(from) = frame.get(6..12).and_then(|mac| mac.try_into().ok()).map(Mac) else { return };
    heard.frames += 1;
    let longest = mtu as usize + ethernet::HEADER_LEN + MAX_VLAN_TAGS * ethernet::VLAN_TAG_LEN;
    let is_long = frame.len() > longest;
    let Some(packet) = Packet::of(frame) else { return };
    if packet.is_redirect() {
        *heard.redirects.entry(from).or_default() += 1;
    }
    // What this kernel has merged itself is long, and its checksum unfinished: only packets that it never merges tell.
    if merges && packet.may_be_merged() {
        return;
    }
    if is_long {
        *heard.long.entry(from).or_default() += 1;
    } else if packet.is_unfinished() {
        *heard.unfinished.entry(from).or_default() += 1;
    }
}

/// A whole IP packet: what its pseudo header comes to, its protocol, and what follows the header.
struct Packet<'a> {
    pseudo: u32,
    protocol: u8,
    payload: &'a [u8],
}

const TCP: u8 = 6;
const UDP: u8 = 17;

impl<'a> Packet<'a> {
    fn of(frame: &'a [u8]) -> Option<Packet<'a>> {
        let (pseudo, protocol, payload) = match Ethernet::new(frame)?.payload() {
            (ethernet::IPV4, bytes) => {
                let ip = Ipv4::new(bytes)?;
                ip.check(true).ok()?;
                if ip.fragment() != Fragment::Whole {
                    return None;
                }
                let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
                let header = 4 * usize::from(bytes[0] & 0x0f);
                // 0: a packet that is longer than its length field can say.
                let payload = bytes.get(header..if total == 0 { bytes.len() } else { total })?;
                (sum(&ip.source()) + sum(&ip.destination()), ip.protocol(), payload)
            }
            (ethernet::IPV6, bytes) => {
                let ip = Ipv6::new(bytes)?;
                let length = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
                let payload = bytes.get(40..if length == 0 { bytes.len() } else { 40 + length })?;
                // Behind extension headers nothing is looked for.
                (sum(&ip.source()) + sum(&ip.destination()), ip.next_header(), payload)
            }
            _ => return None,
        };
        Some(Packet { pseudo: pseudo + u32::from(protocol) + payload.len() as u32, protocol, payload })
    }

    /// Whether the checksum is that of the pseudo header alone, not inverted (`tcp_v4_check` with `CHECKSUM_PARTIAL`,
    /// include/net/tcp.h). By chance a finished one is, once in 65,536.
    fn is_unfinished(&self) -> bool {
        let at = match self.protocol {
            TCP => 16,
            UDP => 6,
            _ => return false,
        };
        let found = self.payload.get(at..at + 2).map(|field| u16::from_be_bytes([field[0], field[1]]));
        found.is_some_and(|found| found == fold(self.pseudo) && found != 0 && !self.is_right())
    }

    /// Whether the checksum is a finished one (RFC 1071).
    fn is_right(&self) -> bool {
        fold(self.pseudo + sum(self.payload)) == 0xffff
    }

    /// TCP with data; UDP is merged only for a socket that wants it.
    fn may_be_merged(&self) -> bool {
        let header = self.payload.get(12).map_or(0, |offset| 4 * usize::from(offset >> 4));
        self.protocol == TCP && self.payload.len() > header
    }

    /// ICMP type 5 (RFC 792), ICMPv6 type 137 (RFC 4861, section 4.5).
    fn is_redirect(&self) -> bool {
        matches!((self.protocol, self.payload.first()), (1, Some(5)) | (58, Some(137)))
    }
}

/// The sum of 16-bit words; of at most 64 KiB, so 32 bits hold it.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    words.sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    const FROM: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn frames(payload: &[u8]) -> Vec<Vec<u8>> {
        let link = || PacketBuilder::ethernet2(FROM.0, [2, 0, 0, 0, 0, 2]);
        let (v4, v6) = (([198, 51, 100, 7], [203, 0, 113, 80]), ([1; 16], [2; 16]));
        let mut frames = vec![Vec::new(); 4];
        link().ipv4(v4.0, v4.1, 9).tcp(4000, 80, 1, 100).write(&mut frames[0], payload).expect("written");
        link().ipv6(v6.0, v6.1, 9).tcp(4000, 80, 1, 100).write(&mut frames[1], payload).expect("written");
        link().ipv4(v4.0, v4.1, 9).udp(4000, 80).write(&mut frames[2], payload).expect("written");
        link().ipv6(v6.0, v6.1, 9).udp(4000, 80).write(&mut frames[3], payload).expect("written");
        frames
    }

    /// As the kernel leaves it to a card.
    fn unfinish(frame: &mut [u8]) {
        let packet = Packet::of(frame).expect("a packet");
        let at = frame.len() - packet.payload.len() + if packet.protocol == TCP { 16 } else { 6 };
        let partial = fold(packet.pseudo);
        frame[at..at + 2].copy_from_slice(&partial.to_be_bytes());
    }

    fn heard(frame: &[u8], merges: bool) -> (u64, u64) {
        let mut heard = Heard::default();
        hear(frame, 1500, merges, &mut heard);
        assert_eq!(heard.frames, 1);
        (heard.unfinished.values().sum(), heard.long.values().sum())
    }

    #[test]
    fn unfinished_checksums_are_told_from_finished_ones() {
        for payload in [&b""[..], b"x", &[0xff; 700], &[7; 1400]] {
            for mut frame in frames(payload) {
                assert!(Packet::of(&frame).expect("a packet").is_right());
                assert_eq!(heard(&frame, false), (0, 0));
                unfinish(&mut frame);
                assert_eq!(heard(&frame, false), (1, 0), "{payload:?}");
                let (from, count) = {
                    let mut heard = Heard::default();
                    hear(&frame, 1500, false, &mut heard);
                    heard.unfinished.into_iter().next().expect("one")
                };
                assert_eq!((from, count), (FROM, 1));
                *frame.last_mut().expect("a byte") ^= 1;
            }
        }
    }

    #[test]
    fn what_this_kernel_has_merged_itself_is_not_its_sender_s_fault() {
        for (payload, told) in [(&b""[..], true), (b"data", false)] {
            let mut tcp = frames(payload).remove(0);
            unfinish(&mut tcp);
            assert_eq!(heard(&tcp, true), (u64::from(told), 0));
        }
        let mut udp = frames(b"data").remove(2);
        unfinish(&mut udp);
        assert_eq!(heard(&udp, true), (1, 0));
    }

    #[test]
    fn frames_longer_than_the_mtu_are_seen() {
        for frame in frames(&[7; 3000]) {
            assert_eq!(heard(&frame, false), (0, 1));
        }
    }

    #[test]
    fn redirects_are_seen_and_other_frames_do_no_harm() {
        let mut redirect = Vec::new();
        let link = PacketBuilder::ethernet2(FROM.0, [2, 0, 0, 0, 0, 2]);
        link.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 9)
            .icmpv4_raw(5, 1, [0; 4])
            .write(&mut redirect, &[0; 28])
            .expect("written");
        let mut seen = Heard::default();
        hear(&redirect, 1500, false, &mut seen);
        assert_eq!(seen.redirects.get(&FROM), Some(&1));
        for frame in frames(b"some data") {
            for end in 0..frame.len() {
                hear(&frame[..end], 1500, false, &mut seen);
            }
        }
        assert_eq!(seen.redirects.len(), 1);
        assert!(seen.unfinished.is_empty() && seen.long.is_empty());
    }
}
