//! The dispatcher's own trouble: nobody's connection is moved for it.

use crate::dispatcher::Dispatcher;
use crate::failover::checked;
use crate::network::{Lab, SERVERS, WEB, clients, eventually, lookup, url};
use crate::operator::connected;
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

/// Downloads that go on while `trouble` comes and goes: all arrive whole, and nobody is taken to be down.
fn downloads_survive(lab: &Lab, dispatcher: &Dispatcher, trouble: impl FnOnce()) {
    let piece = fs::read(lab.file("big")).unwrap()[..6 << 20].to_vec();
    // When the trouble is over, all of them go on at once, as fast as this machine can: more would keep the servers from answering checks.
    let begun = &clients(0)[..20];
    thread::scope(|scope| {
        let downloads: Vec<_> = begun
            .iter()
            .map(|client| {
                // At this rate, some twenty seconds: they are all there at once, however slowly they begin.
                let slow = ["--limit-rate", "300K", "--range", "0-6291455", "--max-time", "180"];
                lab.curl(client, &slow)
                    .arg(url(0, "/big"))
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .map(|child| scope.spawn(move || child.wait_with_output().unwrap()))
            .collect();
        connected(lab, begun);
        trouble();
        for download in downloads {
            let done = download.join().unwrap();
            assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), dispatcher.said());
            assert!(done.stdout == piece, "the download arrives whole");
        }
    });
    for server in SERVERS {
        let server = lab.server(WEB[0], server);
        assert_eq!(server["state"], "up", "{server}");
    }
    let judged = |line: &str| line.contains(" of service ") && line.contains(" is down");
    assert!(!dispatcher.said().lines().any(judged), "{}", dispatcher.said());
}

#[test]
fn no_connection_breaks_when_the_dispatcher_loses_its_link_or_its_switch() {
    for (all_down, cut, mend, said) in [
        ("drop", "link set dispatcher down", "link set dispatcher up", "lan0 is down: all servers keep their state"),
        (
            "serve",
            "link set dispatcher nomaster",
            "link set dispatcher master br0",
            "no server answers over IPv4: this host may be cut off: all servers keep their state",
        ),
    ] {
        let Some(lab) = &Lab::up(&[]) else { return };
        let config = checked(lab);
        let text = fs::read_to_string(&config).unwrap();
        let all_down = format!("type = \"http\"\nall_down = \"{all_down}\"\n");
        // When all downloads go on at once on a busy machine, a server may be silent for seconds: it is judged by what it does in ten.
        let text = text
            .replace("type = \"http\"\n", &all_down)
            .replace("_ms = 500\n", "_ms = 1000\n")
            .replace("fall = 6\n", "fall = 10\n");
        assert!(text.contains("fall = 10") && text.contains("timeout_ms = 1000"), "{text}");
        fs::write(&config, text).unwrap();
        let dispatcher = &Dispatcher::start_with(lab, &config, &[]);
        let expected = lookup(&config, WEB[0], &clients(0), &[]);
        assert_eq!(lab.fetch(0, &clients(0)), expected);
        let unchecked = || lab.server(WEB[0], "web1")["check"]["unchecked_s"].is_number();
        downloads_survive(lab, dispatcher, || {
            lab.ip("lan", cut);
            dispatcher.hear(said);
            eventually("it is shown", unchecked);
            // Longer than it takes to find all servers down, one by one.
            thread::sleep(Duration::from_secs(12));
            lab.ip("lan", mend);
        });
        eventually("they are checked again", || !unchecked());
        assert_eq!(lab.fetch(0, &clients(0)), expected, "everybody is where they were");
    }
}
