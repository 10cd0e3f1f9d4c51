//! The golden frames from a peer NIC, through the driver and back, byte for byte as `oneip replay` has them.

use crate::capture::replayed;
use crate::machine::Guest;
use crate::model::records::Golden;
use crate::network::{Lab, say};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::Stdio;

const DISPATCHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Shorter ones are padded by the NIC that sends them (IEEE 802.3, without the FCS).
const SHORTEST: usize = 60;
/// A whole one at an MTU of 1,500, with a VLAN tag.
const LONGEST: usize = 1518;

/// What comes back from qemu's NIC, whatever the driver gave it, as something else (payload length 0) or not at all: it reads extension headers
/// when it sends (hw/net/net_tx_pkt.c).
const NOT_BY_QEMU: [&str; 4] = [
    "catch-all, IPv6 no next header",
    "IPv6 later fragment whose transport cannot be known",
    "IPv6 authentication header, UDP",
    "IPv6 chain of six in the order of RFC 8200, UDP",
];

/// The golden frames that a cable carries to the dispatcher.
fn sent(golden: &Golden) -> Vec<Vec<u8>> {
    let own = &golden.records[0].frame[..6];
    let records = golden.records.iter().filter(|record| !NOT_BY_QEMU.contains(&record.what.as_str()));
    records
        .filter(|record| record.frame.starts_with(own))
        .map(|record| {
            let mut frame = [&DISPATCHER, &record.frame[6..]].concat();
            frame.resize(frame.len().max(SHORTEST), 0);
            frame
        })
        .filter(|frame| frame.len() <= LONGEST)
        .collect()
}

/// The NIC filters VLANs: it drops frames of one for which the host has no device (`ethtool -k`: "rx-vlan-filter: on [fixed]").
pub fn make_vlan_devices(guest: &mut Guest) {
    let tagged =
        |frame: Vec<u8>| (frame[12..14] == [0x81, 0]).then(|| u16::from_be_bytes([frame[14] & 0xf, frame[15]]));
    let ids: BTreeSet<u16> = sent(&Golden::read()).into_iter().filter_map(tagged).collect();
    assert!(ids.len() > 3);
    for id in ids {
        guest.run(&format!("ip link add link lan0 name lan0.{id} type vlan id {id}; ip link set lan0.{id} up"));
    }
}

/// How often each of them is there, but for those to MACs that are no server's: the kernel answers what is passed to it.
fn counted(frames: Vec<Vec<u8>>, servers: &[Vec<u8>]) -> BTreeMap<Vec<u8>, usize> {
    let mut counts = BTreeMap::new();
    for mut frame in frames {
        if servers.iter().any(|server| frame.starts_with(server)) {
            frame.resize(frame.len().max(SHORTEST), 0);
            *counts.entry(frame).or_default() += 1;
        }
    }
    counts
}

/// What comes back from the dispatcher, at a port of the LAN's bridge of its own.
fn through_the_nic(lab: &Lab, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let hex = |frame: &Vec<u8>| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    let mut peer = lab
        .command("lan", "python3")
        .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/peer.py"), "peer0", "02:00:00:00:00:02"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    peer.stdin.take().unwrap().write_all(frames.iter().map(hex).collect::<String>().as_bytes()).unwrap();
    let said = peer.wait_with_output().unwrap();
    assert!(said.status.success());
    String::from_utf8(said.stdout).unwrap().lines().map(crate::model::records::hex).collect()
}

/// All of them, with this engine.
pub fn golden_frames_come_back(lab: &Lab, guest: &mut Guest, engine: &str) {
    let golden = Golden::read();
    let frames = sent(&golden);
    let (expected, account) = replayed(&golden, &frames);
    let servers = golden.plan.services.iter().flat_map(|service| &service.servers).filter_map(|server| server.mac);
    let servers: Vec<Vec<u8>> = servers.map(|mac| mac.0.to_vec()).collect();
    let expected = counted(expected, &servers);
    assert!(expected.values().sum::<usize>() > 50);

    let down: String = golden.down.iter().map(|name| format!(" --down {name}")).collect();
    let config = format!("[dispatcher]\ninterface = \"lan0\"\nengine = \"{engine}\"\n{}", Golden::config_with_macs());
    let socket = format!("[admin]\nsocket = \"{}\"\n", lab.file("oneip.sock").display());
    guest.start_with(&format!("{socket}{config}"), &down);
    crate::wait_for_carrier(guest);
    let got = counted(through_the_nic(lab, &frames), &servers);
    let wrong: Vec<String> = expected
        .keys()
        .chain(got.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|frame| got.get(*frame) != expected.get(*frame))
        .map(|frame| format!("{:?} times, not {:?}: {frame:02x?}", got.get(frame), expected.get(frame)))
        .collect();
    assert!(wrong.is_empty(), "{engine}:\n{}", wrong.join("\n"));
    let dropped = &guest.stop()["dropped"];
    assert_eq!(*dropped, account["dropped"], "{engine}: by reason");
    say(&format!("{} golden frames over {engine}, {} forwarded", frames.len(), expected.values().sum::<usize>()));
}
