//! `oneip ctl capture` in a lab, and the frames of its file.

use crate::network::{Lab, eventually};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};

/// A frame of a file, with what is said of it.
pub struct Packet {
    pub bytes: Vec<u8>,
    pub comment: String,
    pub is_sent: bool,
}

/// `oneip ctl capture`, when it has begun.
pub struct Capture {
    pub child: Child,
    said: BufReader<ChildStderr>,
}

impl Capture {
    /// One before it may have to be told first that its reader has gone.
    pub fn start(lab: &Lab, arguments: &[&str]) -> Capture {
        let mut begun = None;
        eventually("nobody else captures", || {
            begun = Capture::try_start(lab, arguments);
            begun.is_some()
        });
        begun.expect("it was waited for")
    }

    fn try_start(lab: &Lab, arguments: &[&str]) -> Option<Capture> {
        let mut ctl = lab.command("dispatcher", env!("CARGO_BIN_EXE_oneip"));
        ctl.args(["ctl", "--socket"]).arg(lab.file("oneip.sock")).arg("capture").args(arguments);
        let mut child = ctl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        if line.contains("somebody captures frames at the moment") {
            child.wait().unwrap();
            return None;
        }
        assert_eq!(line, "capturing; press Ctrl-C to stop\n");
        Some(Capture { child, said })
    }

    /// As by Ctrl-C. What it says.
    pub fn interrupt(self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.end()
    }

    /// What it says at the end.
    pub fn end(mut self) -> String {
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        said
    }
}

/// It has a connection of that client's, each frame before and after the rewrite.
pub fn check(packets: &[Packet], client: &str, server: &str) {
    let source = client.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let said = format!("verdict=forward service=web server={server} queue=");
    for packet in packets {
        assert!(packet.bytes[26..30] == source && packet.comment.starts_with(&said), "{}", packet.comment);
    }
    let of = |is_sent| packets.iter().filter(move |packet| packet.is_sent == is_sent);
    let (received, sent): (Vec<_>, Vec<_>) = (of(false).collect(), of(true).collect());
    assert!(received.len() >= 4 && received.len() == sent.len(), "{} and {}", received.len(), sent.len());
    for (received, sent) in received.iter().zip(&sent) {
        assert_eq!(received.bytes[14..], sent.bytes[14..], "the packet is the same");
        assert_eq!(received.bytes[..6], sent.bytes[6..12], "from the address that it was sent to");
        assert_ne!(received.bytes[..6], sent.bytes[..6], "to the server");
    }
}

pub fn read(file: &Path) -> Vec<Packet> {
    packets_of(File::open(file).unwrap())
}

pub fn packets_of(file: impl Read) -> Vec<Packet> {
    let mut reader = PcapNgReader::new(file).unwrap();
    let mut packets = Vec::new();
    while let Some(Ok(block)) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block else { continue };
        let mut comment = String::new();
        let mut is_sent = false;
        for option in &packet.options {
            match option {
                EnhancedPacketOption::Comment(said) => comment = said.to_string(),
                EnhancedPacketOption::Flags(flags) => is_sent = flags & 3 == 2,
                _ => {}
            }
        }
        packets.push(Packet { bytes: packet.data.to_vec(), comment, is_sent });
    }
    packets
}
