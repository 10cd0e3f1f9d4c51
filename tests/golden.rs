//! Golden frames (tests/data/golden.toml): every row of the verdict table, through a whole worker.

mod model;

use model::records::{Expected, Golden};
use model::turn::Bench;
use oneip::model::{HashInput, Mac, Plan, Prefix, Selection};
use oneip::path::classify::{self, Outer};
use oneip::verdict::{Reason, Verdict};
use oneip::xdp::{Action, Steer};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::Path;

/// A verdict in the words of the records.
fn named(plan: &Plan, verdict: Verdict) -> Expected {
    match verdict {
        Verdict::Forward { service, server } => {
            let service = &plan.services[service as usize];
            Expected::Forward(service.name.clone(), Some(service.servers[server as usize].name.clone()))
        }
        Verdict::Drop(reason) => Expected::Drop(reason.name().into()),
        Verdict::Pass => Expected::Pass,
    }
}

fn without_server(verdict: &Expected) -> Expected {
    match verdict {
        Expected::Forward(service, _) => Expected::Forward(service.clone(), None),
        other => other.clone(),
    }
}

#[test]
fn every_frame_has_its_verdict_and_its_bytes() {
    let golden = Golden::read();
    let mut bench = Bench::new(&golden.plan, &golden.down);
    let verdicts: Vec<Expected> =
        bench.run(&golden.frames()).into_iter().map(|verdict| named(&golden.plan, verdict)).collect();
    let mut wrong = Vec::new();
    for (at, (record, verdict)) in golden.records.iter().zip(&verdicts).enumerate() {
        let expected = &record.expected;
        let is_expected = match expected {
            Expected::Forward(_, None) => without_server(verdict) == *expected,
            _ => verdict == expected,
        };
        if !is_expected {
            wrong.push(format!("{}: {verdict:?}, not {expected:?}", record.what));
        } else if let Some(output) = &record.output {
            assert_eq!(bench.worker.port().frame(at), output, "{}", record.what);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for reason in Reason::ALL {
        let expected = Expected::Drop(reason.name().into());
        let recorded = golden.records.iter().filter(|record| record.expected == expected).count();
        assert_eq!(bench.tally.dropped(reason).get(), recorded as u64, "the counter of {reason}");
    }
}

#[test]
fn frames_that_belong_together_have_one_server() {
    let golden = Golden::read();
    for selection in [Selection::Maglev, Selection::Modulo] {
        // In bulk and alone: a frame's server does not hang on what else is in the burst.
        let mut plan = golden.plan.clone();
        plan.services.iter_mut().filter(|s| s.hash == HashInput::Flow).for_each(|s| s.selection = selection);
        let mut bench = Bench::new(&plan, &golden.down);
        let verdicts = bench.run(&golden.frames());
        for (record, verdict) in golden.records.iter().zip(&verdicts) {
            assert_eq!(bench.run(std::slice::from_ref(&record.frame)), [*verdict], "{} alone", record.what);
        }
        let by_name: HashMap<&str, &Verdict> =
            golden.records.iter().map(|record| record.what.as_str()).zip(&verdicts).collect();
        for record in &golden.records {
            if let Some(other) = &record.same_server_as {
                assert_eq!(by_name[record.what.as_str()], by_name[other.as_str()], "{} and {other}", record.what);
            }
        }
    }
}

/// The rows do not hang on how a service selects: with every selection and hash the verdict is the same but for the server,
/// and the server is the model's.
#[test]
fn the_table_holds_for_every_selection() {
    let golden = Golden::read();
    for selection in [Selection::Maglev, Selection::Modulo] {
        for hash in [HashInput::Source, HashInput::Flow] {
            let plan = golden.plan_with(selection, hash);
            let verdicts = Bench::new(&plan, &golden.down).check(&golden.frames());
            for (record, verdict) in golden.records.iter().zip(verdicts) {
                let verdict = without_server(&named(&plan, verdict));
                assert_eq!(verdict, without_server(&record.expected), "{}, {selection:?}, {hash:?}", record.what);
            }
        }
    }
}

/// A flow's ports decide: many flows of one client reach several servers, with source hashing all reach one.
#[test]
fn ports_take_part_in_the_hash_when_asked() {
    let golden = Golden::read();
    let mut flows: Vec<Vec<u8>> = Vec::new();
    for what in ["flow, IPv4 UDP", "flow, IPv6 UDP"] {
        let record = golden.records.iter().find(|record| record.what == what).expect("a record");
        let ports = if what.contains("IPv4") { 34 } else { 54 };
        for port in 0..200u16 {
            let mut frame = record.frame.clone();
            frame[ports..ports + 2].copy_from_slice(&(1024 + 257 * port).to_be_bytes());
            flows.push(frame);
        }
    }
    for (hash, servers) in [(HashInput::Flow, 5), (HashInput::Source, 1)] {
        let plan = golden.plan_with(Selection::Maglev, hash);
        let verdicts = Bench::new(&plan, &golden.down).check(&flows);
        for version in verdicts.chunks(200) {
            let reached: BTreeSet<String> = version.iter().map(|verdict| format!("{verdict:?}")).collect();
            assert_eq!(reached.len(), servers, "{hash:?}");
        }
    }
}

/// Reasons that no single frame produces, and the test that does.
const ELSEWHERE: [(Reason, &str, &str); 9] = [
    (Reason::TxFull, "tests/worker/main.rs", "what_does_not_fit_is_dropped_as_tx_full"),
    (Reason::Stray, "tests/worker/main.rs", "a_port_that_cannot_pass_counts_strays"),
    (Reason::PassFull, "tests/worker/main.rs", "what_has_no_way_to_the_kernel_is_dropped_as_pass_full"),
    (
        Reason::OtherServer,
        "tests/filter/takeover.rs",
        "frames_are_counted_by_service_and_what_is_anothers_as_other_server",
    ),
    (Reason::TooBig, "tests/tunnels/twins.rs", "too_large_frames_are_answered_so_often_and_counted_always"),
    (Reason::Denied, "tests/twins.rs", "denied_and_counted_frames_are_the_models"),
    (Reason::Limited, "tests/twins.rs", "limited_frames_are_those_of_a_naive_twin"),
    (Reason::Untrusted, "tests/decap/frames.rs", "each_reason_to_leave_or_to_drop_a_packet"),
    (Reason::RxFull, "tests/af_xdp/main.rs", "every_frame_is_accounted_for_under_overload"),
];

#[test]
fn every_reason_has_a_test() {
    let golden = Golden::read();
    let mut recorded: BTreeSet<&str> = golden
        .records
        .iter()
        .filter_map(|record| match &record.expected {
            Expected::Drop(reason) => Some(reason.as_str()),
            _ => None,
        })
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (reason, file, test) in ELSEWHERE {
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(text.contains(&format!("fn {test}()")), "{file} has no test {test} of {reason}");
        recorded.insert(reason.name());
    }
    let all: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(recorded, all);
}

#[test]
fn records_are_well_formed() {
    let golden = Golden::read();
    let names: HashSet<&str> = golden.records.iter().map(|record| record.what.as_str()).collect();
    assert_eq!(names.len(), golden.records.len(), "every `what` is unique");
    for record in &golden.records {
        let names_a_record = record.same_server_as.as_ref().is_none_or(|other| names.contains(other.as_str()));
        assert!(names_a_record, "{}: no record {:?}", record.what, record.same_server_as);
    }
}

/// The XDP program takes from the kernel exactly what the worker does not pass, and stamps nothing into the frame.
#[test]
fn steer_takes_what_the_worker_judges() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let golden = Golden::read();
    let own: [u8; 6] = *golden.records[0].frame.first_chunk().expect("a destination");
    let mut steer = Steer::load(Mac(own), 1).expect("root may load it");
    let addresses: Vec<Prefix> = golden.plan.cluster_addresses().into_iter().collect();
    steer.set_cluster_addresses(&addresses).expect("they fit");
    // A frame too short to hold its destination address is the kernel's; a runt is no frame to the kernel's test run.
    let readable = |frame: &[u8]| !matches!(classify::outer(frame), Outer::Truncated);
    let mut taken = 0;
    for record in golden.records.iter().filter(|record| record.frame.len() >= 14) {
        let ours = record.frame.starts_with(&own) && record.expected != Expected::Pass && readable(&record.frame);
        let (action, _, frame) = steer.judge(&record.frame).expect("it runs");
        // Without a socket on the queue, what would be redirected is dropped.
        assert_eq!(action, if ours { Action::Drop } else { Action::Pass }, "{}", record.what);
        assert_eq!(frame, record.frame, "{}", record.what);
        taken += u32::from(ours);
    }
    assert!(taken > 50, "only {taken} golden frames were taken");
}
