//! Golden frames (tests/data/tunnels.toml), made by scapy: through a worker, and through the program in the kernel.

use crate::kernel;
use crate::model::records::hex;
use crate::model::turn::{self, Bench};
use oneip::config;
use oneip::verdict::{Reason, Verdict};
use oneip::xdp::dispatch::Action;
use serde::Deserialize;
use std::collections::HashSet;

#[derive(Deserialize)]
struct File {
    frame: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    what: String,
    deliver: String,
    server: String,
    vlan: Option<u16>,
    verdict: String,
    bytes: String,
    leaves: Vec<String>,
}

const SERVICES: [(&str, &str); 2] = [("four", "203.0.113.80"), ("six", "2001:db8:80::80")];

impl Record {
    fn config(&self) -> String {
        let mut text =
            "[cluster]\nhash_key = \"8f3a1c5e7b9d2046a1b3c5d7e9f00112\"\n[dispatcher]\ninterface = \"eth1\"\nsource = \
                        [\"192.0.2.2\", \"2001:db8:2::2\"]\n"
                .to_owned();
        let is_v6 = self.server.contains(':');
        for (name, address) in SERVICES {
            if self.deliver == "l3dsr" && is_v6 != address.contains(':') {
                continue;
            }
            let vlan = self.vlan.map_or(String::new(), |id| format!("vlan = {id}\n"));
            let dscp = if self.deliver == "l3dsr" { "dscp = 12\n" } else { "" };
            text += &format!(
                "[[service]]\nname = \"{name}\"\naddress = \"{address}\"\ndeliver = \"{}\"\n{dscp}[[service.server]]\nname = \
                 \"one\"\naddress = \"{}\"\nmac = \"02:00:00:00:09:01\"\n{vlan}",
                self.deliver, self.server
            );
        }
        text
    }
}

#[test]
fn every_frame_leaves_as_scapy_would_send_it() {
    let File { frame: records } = toml::from_str(include_str!("../data/tunnels.toml")).expect("tunnels.toml is TOML");
    let names: HashSet<&str> = records.iter().map(|record| record.what.as_str()).collect();
    assert_eq!(names.len(), records.len(), "every `what` is unique");
    for record in &records {
        let what = &record.what;
        let plan = config::parse(&record.config(), "t.toml").unwrap_or_else(|errors| panic!("{what}: {errors}")).plan;
        let (frame, leaves) = (hex(&record.bytes), record.leaves.iter().map(|text| hex(text)).collect::<Vec<_>>());
        let mut bench = Bench::without_model(&plan, &[]);
        let verdict = bench.one(&frame);
        match record.verdict.as_str() {
            "forward" => assert!(matches!(verdict, Verdict::Forward { .. }), "{what}: {verdict:?}"),
            "drop too_big" => assert_eq!(verdict, Verdict::Drop(Reason::TooBig), "{what}"),
            other => panic!("{what}: what is {other}?"),
        }
        let port = bench.worker.port();
        let sent: Vec<String> = port.sent().iter().map(|at| turn::hex(port.frame(*at as usize))).collect();
        assert_eq!(sent, leaves.iter().map(|frame| turn::hex(frame)).collect::<Vec<_>>(), "{what}");
        // What goes in fragments is another matter there.
        if let [leaving] = &leaves[..]
            && let Some(dispatch) = kernel::load(&plan, &[], *frame.first_chunk().expect("a destination"))
        {
            let (action, after) = dispatch.judge(&frame).expect("it runs");
            assert_eq!((action, turn::hex(&after)), (Action::Send, turn::hex(leaving)), "{what}, in the kernel");
        }
    }
    assert!(records.len() >= 20);
}
