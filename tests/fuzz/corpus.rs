//! Writes the first inputs of every target, into a folder for each beneath the one that is named: golden frames, and small texts of every kind.

#[path = "../model/mod.rs"]
mod model;

use oneip::port::pcap::{Blocks, Packet};
use std::path::PathBuf;
use std::{env, fs, io};

const STATES: [&str; 2] = [
    r#"{"config":"/etc/oneip/oneip.toml","written":1790000000,"key":"00"}"#,
    r#"{"config":"/etc/oneip/oneip.toml","drained":{"web1":{"until":1}},"verdicts":[],"leaving":[],"changes":[],"denied":[]}"#,
];

const ORDERS: [&str; 6] = [
    r#"{"order":"drain","server":"web1","timeout_s":60,"service":"web","force":true}"#,
    r#"{"order":"local","inner":{"order":"weight","server":"web1","weight":3}}"#,
    r#"{"order":"deny","prefix":"198.51.100.0/24","for_s":600}"#,
    r#"{"order":"trace","client":"2001:db8::7","watch_ms":100}"#,
    r#"{"order":"check_client","client":"198.51.100.7","port":40000,"to":"tcp/80"}"#,
    r#"{"order":"reload","dry_run":true}"#,
];

const LINES: [&str; 3] = [
    "198.51.100.7 - - [01/Jan/2026:00:00:00 +0000] \"GET / HTTP/1.1\" 200 1\n::ffff:198.51.100.8 - -\n",
    "# clients\n198.51.100.7 12\n2001:db8::7\n",
    "     12 198.51.100.7\n",
];

const ETCD: [&str; 4] = [
    "orders/servers/web1@web\n{\"disabled\":{\"set\":true,\"by\":\"a\",\"at_ms\":1},\"weight\":{\"set\":5,\"by\":\"b\",\"at_ms\":2}}",
    "orders/denied/198.51.100.0/24@web\n{\"until\":1790000000,\"by\":\"a\",\"at_ms\":1}",
    "members/a\n{\"version\":\"1\",\"mode\":\"dispatcher\",\"place\":\"x\",\"digest\":{\"configuration\":\"y\",\"key\":\"z\"}}",
    "views/a\n{\"digest\":{\"configuration\":\"y\",\"key\":\"z\"},\"view\":{}}",
];

/// A long header's datagram, and a short one's, behind the three bytes that say how it is read.
const DATAGRAMS: [&[u8]; 2] = [
    &[2, 1, 0, 0xc0, 0, 0, 0, 1, 8, 0x03, 1, 2, 3, 4, 5, 6, 7, 0, 0],
    &[2, 1, 1, 0x40, 0x03, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
];

/// A route to 192.0.2.0/24 by device 2, and a neighbour there (struct nlmsghdr, then struct rtmsg or ndmsg, then attributes).
const MESSAGES: [&[u8]; 2] = [
    &[
        44, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 24, 0, 0, 254, 111, 0, 1, 0, 0, 0, 0, 8, 0, 1, 0, 192, 0,
        2, 0, 8, 0, 4, 0, 2, 0, 0, 0,
    ],
    &[
        48, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 8, 0, 1, 0, 192, 0, 2, 7,
        10, 0, 2, 0, 2, 0, 0, 0, 0, 1, 0, 0,
    ],
];

const CONFIG: &[u8] = include_bytes!("../../packaging/oneip.toml");

const IMPORTS: [&[u8]; 2] =
    [include_bytes!("../data/import/keepalived.conf"), include_bytes!("../data/import/ipvsadm.rules")];

#[allow(dead_code)] // by the test, which asks for `seeds`
fn main() -> io::Result<()> {
    let root = PathBuf::from(env::args_os().nth(1).expect("usage: corpus DIRECTORY"));
    for (target, seeds) in seeds() {
        let folder = root.join(target);
        fs::create_dir_all(&folder)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}

/// By target.
pub fn seeds() -> [(&'static str, Vec<Vec<u8>>); 12] {
    let golden = model::records::Golden::read();
    let frames: Vec<Vec<u8>> = golden.frames().iter().map(|frame| frame.to_vec()).collect();
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    let bytes = |all: &[&[u8]]| all.iter().map(|bytes| bytes.to_vec()).collect();
    [
        ("turn", frames.clone()),
        ("engines", frames.clone()),
        ("config", bytes(&[CONFIG])),
        ("prefixes", texts(&["# a\n198.51.100.0/24\n2001:db8::/48 # b\n", "198.51.100.7/24\n"])),
        ("state", texts(&STATES)),
        ("order", texts(&ORDERS)),
        ("capture", vec![pcap(&frames[..4]), pcapng(&frames[..4])]),
        ("lines", texts(&LINES)),
        ("import", bytes(&IMPORTS)),
        ("netlink", bytes(&MESSAGES)),
        ("etcd", texts(&ETCD)),
        ("quic", bytes(&DATAGRAMS)),
    ]
}

fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = [[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0], [0; 8], [0, 0, 4, 0, 1, 0, 0, 0]].concat();
    for frame in frames {
        let len = (frame.len() as u32).to_le_bytes();
        file.extend([&[1, 0, 0, 0, 2, 0, 0, 0][..], &len, &len, frame].concat());
    }
    file
}

fn pcapng(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut blocks = Blocks::new("eth1", 2048);
    for (at, frame) in frames.iter().enumerate() {
        let comment = "seed".to_owned();
        blocks.add(Packet { at: at as u64, original: frame.len() as u32, bytes: frame, is_sent: false, comment });
    }
    blocks.take()
}
