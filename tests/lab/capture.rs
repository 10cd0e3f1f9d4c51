//! `ctl capture`: what is in the file, and that it ends however it ends.

use crate::captured::{Capture, Packet, check, packets_of, read};
use crate::dispatcher::Dispatcher;
use crate::network::{Lab, WEB, clients, eventually, lookup};
use crate::tools::installed;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn of_workers_a_capture_has_a_request_before_and_after_the_rewrite() {
    captures("af_xdp");
}

#[test]
fn of_the_program_a_capture_has_a_request_before_and_after_the_rewrite() {
    captures("xdp");
}

fn captures(engine: &str) {
    let Some(lab) = &Lab::up(&["--engine", engine]) else { return };
    let all = lookup(&lab.config(), WEB[0], &clients(0)[..8], &[]);
    let (client, server) = &all[0];
    let other = all[1].0.clone();
    let dispatcher = Dispatcher::start(lab, &[]);
    let file = lab.file("captured.pcapng");
    let out = file.to_str().unwrap();

    let capture = Capture::start(lab, &["--out", out, "--client", client, "--service", "web"]);
    let refused = lab.ctl_refused(&["capture", "--out", "/nonexistent/file"]);
    assert!(refused.contains("somebody captures frames at the moment; try again when that is over"), "{refused}");
    lab.fetch(0, &[other, client.clone()]);
    eventually("a connection is in the file", || read(&file).len() >= 8);
    let said = capture.interrupt();
    let packets = read(&file);
    assert_eq!(said, format!("{} frames captured, 0 lost because the buffer was full\n", packets.len()));
    check(&packets, client, server);
    by_tshark(&file, &packets);

    // It ends too when whoever asked for it is killed, or has enough.
    let mut killed = Capture::start(lab, &["--out", out]);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let is_over = || {
        let mut trace = lab.command("dispatcher", env!("CARGO_BIN_EXE_oneip"));
        let trace = trace.args(["ctl", "--socket"]).arg(lab.file("oneip.sock"));
        trace.args(["trace", client, "--for", "0.01"]).output().unwrap().status.success()
    };
    eventually("the killed capture is over", is_over);
    let counted = Capture::start(lab, &["--out", "-", "--where", "out", "--count", "2", "--snap", "40"]);
    lab.fetch(0, std::slice::from_ref(client));
    let mut counted = counted;
    let mut piped = Vec::new();
    counted.child.stdout.take().unwrap().read_to_end(&mut piped).unwrap();
    assert_eq!(counted.end(), "2 frames captured, 0 lost because the buffer was full\n");
    let piped = packets_of(&piped[..]);
    assert!(piped.len() == 2 && piped.iter().all(|packet| packet.is_sent && packet.bytes.len() == 40));
    let refused = lab.ctl_refused(&["capture", "--out", out, "--service", "mail"]);
    assert!(refused.contains("there is no service mail; there are web"), "{refused}");

    // Of one server alone, as its frames come in.
    let stranger = &all.iter().find(|(_, has)| has != server).expect("another server has somebody").0;
    let some = ["--out", out, "--where", "in", "--server", server, "--seconds", "8"];
    let capture = Capture::start(lab, &some);
    lab.fetch(0, &[stranger.clone(), client.clone()]);
    capture.end();
    let packets = read(&file);
    let said = format!("verdict=forward service=web server={server} queue=");
    assert!(packets.len() >= 4 && packets.iter().all(|packet| !packet.is_sent && packet.comment.starts_with(&said)));
    // What is dropped, and why. A port that no service has; nothing that is forwarded meanwhile.
    let capture = Capture::start(lab, &["--out", "-", "--where", "drop", "--count", "2"]);
    lab.fetch(0, std::slice::from_ref(client));
    let _ = lab.curl(client, &["--max-time", "4", "http://203.0.113.80:81/"]).output().unwrap();
    by_tshark_in_a_pipe(capture);
    assert!(dispatcher.stop().dropped_total() >= 2);
}

/// Two frames that were dropped, as Wireshark reads them while they come.
fn by_tshark_in_a_pipe(mut capture: Capture) {
    let piped = capture.child.stdout.take().unwrap();
    let mut tshark = Command::new("tshark");
    tshark.args(["-r", "-", "-T", "fields", "-e", "tcp.dstport", "-e", "frame.comment"]).stdin(piped);
    let said = tshark.stderr(Stdio::null()).output().expect("tshark: scripts/setup.sh").stdout;
    capture.end();
    let said = String::from_utf8(said).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines.len() == 2 && lines.iter().all(|line| line.starts_with("81\tverdict=drop reason=no_service ")),
        "{said}"
    );
}

/// What Wireshark makes of it, where that is installed.
fn by_tshark(file: &Path, packets: &[Packet]) {
    if !installed("tshark") {
        return;
    }
    let mut tshark = Command::new("tshark");
    tshark.args(["-r"]).arg(file).args(["-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment"]);
    let output = tshark.stderr(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let expected: Vec<String> = packets.iter().map(|packet| format!("lan0\t{}", packet.comment)).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}
