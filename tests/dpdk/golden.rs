//! The golden frames through net_pcap, in and out.

use crate::model::records::{Expected, Golden};
use crate::{attach, settings, turn};
use oneip::metrics::worker;
use oneip::port::dpdk::Attached;
use oneip::table::build::Cluster;
use oneip::table::flow_table::FlowTable;
use oneip::table::publish;
use oneip::verdict::{Reason, Verdict};
use oneip::worker::Worker;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A capture with these frames, a second after one another.
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    for (second, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        file.extend([second as u32, 0, length, length].map(u32::to_le_bytes).concat());
        file.extend(frame);
    }
    file
}

/// The frames of a capture.
fn frames(file: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(file).expect("a capture");
    let (mut frames, mut rest) = (Vec::new(), &file[24..]);
    while let Some((head, tail)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(*head[8..].first_chunk().expect("a length")) as usize;
        frames.push(tail[..length].to_vec());
        rest = &tail[length..];
    }
    frames
}

/// The golden configuration, with a MAC for the server that lacks one: no frame that is forwarded goes there.
fn resolved_config() -> String {
    let golden: toml::Table = toml::from_str(include_str!("../data/golden.toml")).expect("golden.toml is TOML");
    let mut config: toml::Table = toml::from_str(golden["config"].as_str().expect("a text")).expect("TOML");
    for service in config["service"].as_array_mut().expect("services") {
        for server in service["server"].as_array_mut().expect("servers") {
            let server = server.as_table_mut().expect("a section");
            server.entry("mac").or_insert_with(|| "02:00:00:00:09:99".into());
        }
    }
    config.to_string()
}

#[test]
fn golden_frames_come_out_as_replay_has_them() {
    let _turn = turn();
    let golden = Golden::read();
    let folder = tempfile::tempdir().expect("a folder");
    let [input, output, replayed] = ["in.pcap", "out.pcap", "replayed.pcap"].map(|name| folder.path().join(name));
    // The last byte of the device's MAC counts how often there was one (net_pcap, `pmd_init_internals`).
    fs::write(&input, capture(&[vec![0; 60]])).expect("a file");
    let port = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let mut mac = attach(&settings(&port)).1;
    mac.0[5] += 1;

    // To that MAC, what was to the dispatcher's; libpcap knows no frame of nothing.
    let own: [u8; 6] = *golden.records[0].frame.first_chunk().expect("a destination");
    let mut records: Vec<_> = golden.records.iter().filter(|record| !record.frame.is_empty()).collect();
    records.retain(|record| record.frame.len() <= 1514 + 8);
    let to_mac = |frame: &Vec<u8>| match frame.strip_prefix(&own) {
        Some(rest) => [&mac.0, rest].concat(),
        None => frame.clone(),
    };
    let sent: Vec<Vec<u8>> = records.iter().map(|record| to_mac(&record.frame)).collect();
    fs::write(&input, capture(&sent)).expect("a file");

    let mut cluster = Cluster::new(&golden.plan);
    golden.down.iter().for_each(|name| _ = cluster.set_up(name, false));
    let table = cluster.compile();
    let flow_table = FlowTable::new(0, table.key);
    let (metrics, _view) = worker::open(&table);
    let (_publisher, mut readers) = publish::channel(table, vec![metrics]);
    let (attached, has) = attach(&settings(&port));
    assert_eq!(has, mac);
    let Attached { mut ports, service, statistics } = attached;
    let mut worker = Worker::new(ports.remove(0), readers.remove(0), flow_table);
    let mut verdicts = Vec::new();
    while verdicts.len() < sent.len() {
        let outcomes = worker.turn();
        assert!(!outcomes.is_empty(), "{} of {}", verdicts.len(), sent.len());
        verdicts.extend(outcomes.iter().map(|outcome| outcome.verdict()));
    }
    assert!(worker.turn().is_empty());
    drop(worker);
    assert_eq!((statistics.received(), statistics.lost()), (sent.len() as u64, 0));
    drop(service);

    let mut forwarded = Vec::new();
    for ((record, verdict), frame) in records.iter().zip(&verdicts).zip(&sent) {
        let expected = match &record.expected {
            _ if !frame.starts_with(&mac.0) => Verdict::Drop(Reason::PassFull),
            Expected::Pass => Verdict::Drop(Reason::PassFull),
            Expected::Drop(reason) => {
                let of_name = |known: &Reason| known.name() == reason.as_str();
                Verdict::Drop(Reason::ALL.into_iter().find(of_name).expect("a reason"))
            }
            Expected::Forward(..) => {
                assert!(matches!(verdict, Verdict::Forward { .. }), "{}: {verdict:?}", record.what);
                forwarded.push(frame.clone());
                continue;
            }
        };
        assert_eq!(*verdict, expected, "{}", record.what);
    }
    assert!(forwarded.len() > 50, "only {} were forwarded", forwarded.len());

    // What was to another MAC, replay dispatches too: it knows of no MAC that is its own.
    fs::write(&input, capture(&forwarded)).expect("a file");
    let config = folder.path().join("golden-config.toml");
    fs::write(&config, resolved_config()).expect("a file");
    let mut replay = Command::new(env!("CARGO_BIN_EXE_oneip"));
    replay.arg("replay").arg("-c").arg(&config).arg(&input).arg(&replayed);
    golden.down.iter().for_each(|name| _ = replay.args(["--down", name]));
    let run = replay.output().expect("it runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let (ours, theirs) = (frames(&output), frames(&replayed));
    assert_eq!(ours.len(), forwarded.len());
    assert!(ours == theirs, "byte for byte the same");
}
