//! Through a real dispatcher: every frame comes back, to the server that `lookup` says.

use super::veth::{CLIENT_MAC, CLUSTER_V4, CLUSTER_V6, Cable, DEVICE};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

const CLIENTS: u32 = 500;
const SERVERS: u8 = 3;

fn configuration(folder: &Path) -> String {
    let socket = folder.join("oneip.sock");
    let mut text = format!(
        "[cluster]\nhash_key = \"00112233445566778899aabbccddeeff\"\n[dispatcher]\ninterface = \"c0\"\n\
         [admin]\nsocket = \"{}\"\nstate = \"{}\"\n",
        socket.display(),
        folder.join("state.json").display()
    );
    for (name, address, network) in [("v4", CLUSTER_V4, "192.0.2."), ("v6", CLUSTER_V6, "2001:db8::")] {
        let _ = writeln!(
            text,
            "[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nports = [\"udp/80\", \"tcp/443\"]"
        );
        for server in 1..=SERVERS {
            let _ = writeln!(
                text,
                "[[service.server]]\nname = \"{name}-{server}\"\naddress = \"{network}{}\"\nmac = \"{}\"\nweight = {server}",
                10 + server,
                mac(server)
            );
        }
    }
    text
}

fn mac(server: u8) -> String {
    format!("02:00:00:00:01:{server:02x}")
}

/// `rounds` frames of each client to each address, by the MAC of the server that it gets.
fn expected(config: &Path, rounds: u64) -> Map<String, Value> {
    let v4 = (0..CLIENTS).map(|n| Ipv4Addr::from_bits(0xc612_0000 + n).to_string()).collect::<Vec<_>>();
    let v6 = (0..CLIENTS).map(|n| Ipv6Addr::from_bits((0x2001_0002 << 96) + u128::from(n)).to_string()).collect();
    let mut counts = Map::new();
    for (service, clients) in [("v4", v4), ("v6", v6)] {
        let output = Command::new(env!("CARGO_BIN_EXE_oneip"))
            .args(["lookup", "--json", "--service", service, "-c"])
            .arg(config)
            .args(clients)
            .output()
            .unwrap();
        let looked_up: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        for entry in looked_up {
            let server: u8 = entry["server"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
            let count = counts.entry(mac(server)).or_insert(0.into());
            *count = (count.as_u64().unwrap() + rounds).into();
        }
    }
    counts
}

/// A dispatcher on this thread's network, dispatching.
fn dispatcher(config: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneip"));
    let command = command.args(["run", "--json", "-c"]).arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "ready"), "it becomes ready");
    // Or it would stop at a full pipe.
    thread::spawn(move || lines.for_each(drop));
    child
}

#[test]
fn a_dispatcher_returns_every_frame_by_the_server_that_lookup_says() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = &folder.path().join("oneip.toml");
    fs::write(config, configuration(folder.path())).unwrap();
    // Two addresses by turns, moving on by one with each round of the clients: in two rounds each client has sent to both.
    let rounds = 2;
    let expected = expected(config, rounds / 2);
    let (ready, when_ready) = mpsc::channel();
    let (done, when_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let dispatcher = cable.client_thread(scope, move || {
            let child = dispatcher(config);
            ready.send(()).unwrap();
            // Or the other side has given up.
            let _ = when_done.recv();
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
            let output = child.wait_with_output().unwrap();
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        });
        let reports = cable.device_thread(scope, move || {
            let _done = done;
            when_ready.recv().unwrap();
            ["xdp", "af_xdp"].map(|method| {
                let count = (u64::from(CLIENTS) * rounds).to_string();
                let output = Command::new(env!("CARGO_BIN_EXE_oneip"))
                    .args([
                        "pktgen",
                        "--json",
                        "--interface",
                        DEVICE,
                        "--to",
                        &CLIENT_MAC.to_string(),
                        "--rate",
                        "2000",
                    ])
                    .args([
                        "--address",
                        CLUSTER_V4,
                        "--address",
                        CLUSTER_V6,
                        "--order",
                        "sequential",
                        "--method",
                        method,
                    ])
                    .args(["--clients", &CLIENTS.to_string(), "--count", &count])
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                serde_json::from_slice::<Value>(&output.stdout).unwrap()
            })
        });
        let reports = reports.join().unwrap();
        let account = dispatcher.join().unwrap();
        for report in &reports {
            assert_eq!((&report["sent"], &report["received"]), (&1000.into(), &1000.into()), "{report} {account}");
            for key in ["lost", "duplicates", "reordered", "corrupt", "routed"] {
                assert_eq!(report[key], 0, "{key}: {report} {account}");
            }
            assert_eq!(report["by_mac"].as_object().unwrap(), &expected, "{account}");
        }
        assert_eq!((&account["forwarded"], &account["dropped"]), (&2000.into(), &serde_json::json!({})), "{account}");
    });
}
