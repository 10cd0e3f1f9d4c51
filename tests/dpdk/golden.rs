//! The golden frames through net_pcap, in and out.

use crate::capture;
use crate::model::records::{Expected, Golden};
use crate::{attach, settings, turn};
use oneip::metrics::worker;
use oneip::port::dpdk::Attached;
use oneip::table::build::Cluster;
use oneip::table::flow_table::FlowTable;
use oneip::table::publish;
use oneip::verdict::{Reason, Verdict};
use oneip::worker::Worker;

#[test]
fn golden_frames_come_out_as_replay_has_them() {
    let _turn = turn();
    let golden = Golden::read();
    let folder = tempfile::tempdir().expect("a folder");
    let [input, output] = ["in.pcap", "out.pcap"].map(|name| folder.path().join(name));
    // The last byte of the device's MAC counts how often there was one (net_pcap, `pmd_init_internals`).
    capture::write(&input, &[vec![0; 60]]);
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
    capture::write(&input, &sent);

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
    let (ours, (theirs, _)) = (capture::read(&output), capture::replayed(&golden, &forwarded));
    assert_eq!(ours.len(), forwarded.len());
    assert!(ours == theirs, "byte for byte the same");
}
