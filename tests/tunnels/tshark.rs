//! What tshark's dissectors find in the frames that leave: nothing malformed, no wrong checksum, and the client's packet byte for byte where they
//! see it begin.

use crate::WAYS;
use crate::decoded::{clients, sent};
use crate::frames::Packet;
use crate::model::records::Golden;
use crate::model::turn::Bench;
use crate::tools::installed;
use oneip::model::Deliver;
use std::process::Command;

/// `None`, said aloud, where it is not installed.
fn tshark() -> Option<Command> {
    installed("tshark").then(|| Command::new("tshark"))
}

/// A capture in the classic format.
fn capture(frames: &[Vec<u8>]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut bytes: Vec<u8> = Vec::new();
    // Version 2.4, no time zone, whole frames, Ethernet.
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = frame.len() as u32;
        bytes.extend([0, 0, len, len].into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(frame);
    }
    std::fs::write(file.path(), bytes).expect("written");
    file
}

/// Of each frame: the protocols, in order, and where their headers begin.
type Seen = Vec<(String, usize)>;

/// `inside`: what is behind the UDP header of GUE, which tshark has no dissector for.
fn dissect(frames: &[Vec<u8>], inside: &str) -> Option<Vec<Seen>> {
    let file = capture(frames);
    let mut command = tshark()?;
    command.args(["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"]);
    // What clients send is in no protocol of theirs, whatever the ports say.
    command.args([
        "-d",
        "udp.port==4000,data",
        "-d",
        "tcp.port==4000,data",
        "-d",
        "udp.port==443,data",
        "-d",
        "tcp.port==443,data",
    ]);
    command.args(["-d", &format!("udp.port==6080,{inside}"), "-T", "pdml", "-r"]).arg(file.path());
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let attribute = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let mut seen = Vec::new();
    for packet in text.split("<packet>").skip(1) {
        assert!(!packet.contains("_ws.malformed"), "malformed: {packet}");
        let mut protocols = Seen::new();
        for line in packet.lines().map(str::trim) {
            if line.contains("checksum.status\"") {
                // 1 good, 2 not verified (a quoted or cut one), 3 not there.
                assert_ne!(attribute(line, "show").as_deref(), Some("0"), "a wrong checksum: {packet}");
            }
            if let Some(name) = line.strip_prefix("<proto").and_then(|line| attribute(line, "name")) {
                let at = attribute(line, "pos").and_then(|at| at.parse().ok()).unwrap_or(0);
                protocols.push((name, at));
            }
        }
        seen.push(protocols);
    }
    assert_eq!(seen.len(), frames.len());
    Some(seen)
}

fn is_ip(protocol: &str) -> bool {
    protocol == "ip" || protocol == "ipv6"
}

#[test]
fn tshark_finds_the_clients_packet_in_every_tunnel() {
    for inner_is_v6 in [false, true] {
        let packets: Vec<Packet> =
            clients().into_iter().filter(|packet| packet.client.is_ipv6() == inner_is_v6).collect();
        let frames: Vec<Vec<u8>> = packets.iter().map(Packet::frame).collect();
        let is_l3dsr = |deliver| matches!(deliver, Deliver::L3dsr { .. });
        let mut ways: Vec<(Deliver, bool)> =
            WAYS.into_iter().flat_map(|deliver| [false, true].map(|is_v6| (deliver, is_v6))).collect();
        ways.retain(|(deliver, is_v6)| !is_l3dsr(*deliver) || *is_v6 == inner_is_v6);
        let all: Vec<Vec<u8>> = ways.iter().flat_map(|(deliver, is_v6)| sent(*deliver, *is_v6, &frames)).collect();
        let inside = if inner_is_v6 { "ipv6" } else { "ip" };
        let Some(all_seen) = dissect(&all, inside) else { return };
        for (at, (sent, seen)) in all.iter().zip(&all_seen).enumerate() {
            let ((deliver, is_v6), packet) = (ways[at / frames.len()], &packets[at % frames.len()]);
            let what = format!("{deliver}, {packet:?}: {seen:?}");
            let headers: Vec<&(String, usize)> = seen.iter().filter(|(name, _)| is_ip(name)).collect();
            let upper = if packet.is_udp { "udp" } else { "tcp" };
            assert!(seen.iter().any(|(name, _)| name == upper), "{what}");
            if is_l3dsr(deliver) {
                assert_eq!(headers.len(), 1, "{what}");
                continue;
            }
            assert_eq!(headers.len(), 2, "{what}");
            assert_eq!(headers[0].0, if is_v6 { "ipv6" } else { "ip" }, "{what}");
            assert_eq!(headers[1].0, inside, "{what}");
            let middle = match deliver {
                Deliver::Gre => "gre",
                Deliver::Gue { .. } => "udp",
                _ => inside,
            };
            let first = seen.iter().position(|(name, _)| is_ip(name)).expect("it has one");
            assert_eq!(seen[first + 1].0, middle, "{what}");
            let frame = &frames[at % frames.len()];
            assert_eq!(sent[headers[1].1..], frame[14..frame.len() - packet.padding], "{what}");
        }
    }
}

/// Fragments, which it puts together, and answers to what is too large.
#[test]
fn tshark_finds_nothing_wrong_in_fragments_and_answers() {
    for deliver in WAYS.into_iter().filter(|deliver| deliver.is_tunnel()) {
        let mut all = Vec::new();
        for is_v6 in [false, true] {
            let plan = Golden::read().plan_delivering(deliver, is_v6, 1280);
            let large = |dont_fragment| Packet { dont_fragment, ..Packet::new("198.51.100.7", 1400) }.frame();
            let mut bench = Bench::new(&plan, &[]);
            bench.run(&[large(true), large(false), Packet::new("2001:db8::7", 1400).frame()]);
            let port = bench.worker.port();
            let sent: Vec<Vec<u8>> = port.sent().iter().map(|at| port.frame(*at as usize).to_vec()).collect();
            assert_eq!(sent.len(), 4, "two answers, and two fragments");
            all.extend(sent);
        }
        let Some(seen) = dissect(&all, "ip") else { return };
        let with = |protocol: &str| seen.iter().filter(|seen| seen.iter().any(|(name, _)| name == protocol)).count();
        assert_eq!((with("icmp"), with("icmpv6")), (2, 2), "{seen:?}");
        let is_answer = |seen: &Seen| seen.iter().any(|(name, _)| name.starts_with("icmp"));
        // In the last fragment it finds the client's packet.
        let whole = |seen: &&Seen| seen.iter().filter(|(name, _)| is_ip(name)).count() == 2 && !is_answer(seen);
        assert_eq!(seen.iter().filter(whole).count(), 2, "{seen:?}");
    }
}
