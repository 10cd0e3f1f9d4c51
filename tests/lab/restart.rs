//! kill -9 and restart under load.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::dispatcher::{Dispatcher, is_attached};
use crate::echo::{Echo, round_trip};
use crate::failover::checked;
use crate::network::{CLUSTER, Lab, WEB, clients, eventually, lookup, say, succeed, url};
use crate::operator::connected;
use crate::reload::without_web3;
use crate::stop::Stop;

const LAST_REQUESTS: usize = 6;

/// Requests on one connection until told to stop, and `LAST_REQUESTS` more, however slow this host is: how many there were, and the server, which
/// is the same for all.
pub fn browse(lab: &Lab, family: usize, client: &str, stop: &AtomicBool) -> (usize, String) {
    let connection = lab.connect(client, (CLUSTER[family].parse::<std::net::IpAddr>().unwrap(), 80).into());
    let mut answers = BufReader::new(connection.try_clone().unwrap());
    let (mut requests, mut last, mut server) = (0, LAST_REQUESTS, None);
    while !stop.load(Ordering::Relaxed) || last > 0 {
        last -= usize::from(stop.load(Ordering::Relaxed));
        (&connection).write_all(b"GET / HTTP/1.1\r\nHost: cluster\r\n\r\n").unwrap();
        let mut line = String::new();
        // The page is the server's name in a line, and comes last.
        while !line.starts_with("web") {
            line.clear();
            let length = answers.read_line(&mut line).unwrap_or_else(|error| panic!("{client}: {error}"));
            assert!(length > 0, "{client}: the connection was closed after {requests} requests");
        }
        let name = line.trim().to_owned();
        assert_eq!(server.get_or_insert_with(|| name.clone()), &name, "{client}");
        requests += 1;
        // A hundred that ask without a pause take a core.
        thread::sleep(Duration::from_millis(80));
    }
    (requests, server.unwrap())
}

/// A datagram a millisecond: the longest time without one that came back.
fn longest_silence(socket: &UdpSocket, stop: &AtomicBool) -> Duration {
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        if round_trip(socket, 18).is_some() {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        thread::sleep(Duration::from_millis(1));
    }
    longest
}

#[test]
fn kill_9_and_restart_break_no_connection() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let _echo = Echo::serve(lab);
    let big = std::fs::read(lab.file("big")).unwrap();
    let stop = &AtomicBool::new(false);
    let dispatcher = Dispatcher::start(lab, &[]);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let both = [0, 1].map(clients);
        let browsers: Vec<_> = (0..40)
            .map(|n| (n % 2, both[n % 2][n].clone()))
            .map(|(family, client)| (client.clone(), scope.spawn(move || browse(lab, family, &client, stop))))
            .collect();
        let transfers = [0, 1].map(|family| {
            // At this rate, four seconds.
            let (client, rate) = (both[family][50].clone(), ["--limit-rate", "5M"]);
            let download = scope.spawn({
                let client = client.clone();
                move || lab.curl(&client, &rate).arg(url(family, "/big")).output().unwrap()
            });
            let upload = move || {
                succeed(lab.curl(&client, &rate).arg("-T").arg(lab.file("big")).arg(url(family, "/upload/long")))
            };
            (download, scope.spawn(upload))
        });
        let probe = lab.datagrams(0, &both[0][60]);
        let probe = scope.spawn(move || longest_silence(&probe, stop));

        thread::sleep(Duration::from_secs(1));
        dispatcher.kill();
        assert!(is_attached(lab), "the program stays, and goes on");
        let dispatcher = Dispatcher::start(lab, &[]);
        thread::sleep(Duration::from_secs(1));
        drop(when_done);

        let silence = probe.join().unwrap();
        say(&format!("kill -9 and restart: no dispatch for {silence:.0?}"));
        for (family, (download, upload)) in transfers.into_iter().enumerate() {
            let download = download.join().unwrap();
            assert!(download.status.success(), "{}", String::from_utf8_lossy(&download.stderr));
            assert!(download.stdout == big, "the download arrives whole");
            upload.join().unwrap();
            let (_, server) = &lookup(&lab.config(), WEB[family], &both[family][50..51], &[])[0];
            let uploaded = std::fs::read(lab.file(&format!("{server}/upload/long"))).unwrap();
            assert!(uploaded == big, "the upload arrives whole");
        }
        for (client, browser) in browsers {
            let (requests, server) = browser.join().unwrap();
            let family = usize::from(client.contains(':'));
            let expected = lookup(&lab.config(), WEB[family], std::slice::from_ref(&client), &[]);
            assert_eq!(expected, [(client, server)]);
            assert!(requests > 5, "requests went on: {requests}");
        }
        dispatcher.stop();
    });
}

/// The state file says what is moving; how the process ends does not matter.
#[test]
fn a_restart_in_the_middle_of_a_drain_and_of_a_removal_breaks_no_connection() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let config = checked(lab);
    let stop = &AtomicBool::new(false);
    let all = clients(0);
    let expected = lookup(&config, WEB[0], &all, &[]);
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let browsers: Vec<_> =
            all[..40].iter().map(|client| scope.spawn(move || browse(lab, 0, client, stop))).collect();
        connected(lab, &all[..40]);

        lab.ctl(&["drain", "web1"]);
        dispatcher.kill();
        let dispatcher = Dispatcher::start_with(lab, &config, &[]);
        dispatcher.hear("service web: ");
        assert!(dispatcher.said().contains("slots are still moving, as before the restart"), "{}", dispatcher.said());
        assert_eq!(lab.server("web", "web1")["state"], "draining");
        thread::sleep(Duration::from_millis(500));

        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, without_web3(&text)).unwrap();
        lab.ctl(&["reload"]);
        dispatcher.stop();
        let dispatcher = Dispatcher::start_with(lab, &config, &[]);
        assert_eq!(lab.server("web", "web3")["state"], "leaving");
        thread::sleep(Duration::from_millis(500));
        drop(when_done);
        for (browser, expected) in browsers.into_iter().zip(&expected) {
            let (requests, server) = browser.join().unwrap();
            assert_eq!(server, expected.1);
            assert!(requests > 5, "requests went on: {requests}");
        }
        dispatcher.stop();
    });
}

#[test]
fn kill_9_in_the_middle_of_a_change_breaks_no_connection_begun_during_it() {
    let Some(lab) = &Lab::up(&[]) else { return };
    goes_on_through_a_change(lab, |dispatcher, config| {
        dispatcher.kill();
        // With no process at all.
        thread::sleep(Duration::from_millis(300));
        Dispatcher::start_with(lab, config, &[])
    });
}

#[test]
fn a_takeover_in_the_middle_of_a_change_breaks_no_connection_begun_during_it() {
    let Some(lab) = &Lab::up(&[]) else { return };
    goes_on_through_a_change(lab, |dispatcher, config| {
        let next = Dispatcher::start_with(lab, config, &["--takeover"]);
        dispatcher.ended();
        next
    });
}

/// What flows are remembered outlives the process, so connections that were begun during a drain go on to where they were begun, and not to
/// the server that is drained.
fn goes_on_through_a_change<'l>(lab: &'l Lab, replaced: impl FnOnce(Dispatcher<'l>, &Path) -> Dispatcher<'l>) {
    let config = checked(lab);
    let stop = &AtomicBool::new(false);
    let before = lookup(&config, WEB[0], &clients(0), &[]);
    let of_web1: Vec<String> = before.into_iter().filter(|(_, has)| has == "web1").map(|(client, _)| client).collect();
    let of_web1 = &of_web1[..20];
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        lab.ctl(&["drain", "web1"]);
        let browsers: Vec<_> = of_web1.iter().map(|client| scope.spawn(move || browse(lab, 0, client, stop))).collect();
        connected(lab, of_web1);
        let dispatcher = replaced(dispatcher, &config);
        // Where nothing was dispatched meanwhile, clients send again by and by.
        thread::sleep(Duration::from_millis(1500));
        drop(when_done);
        for browser in browsers {
            let (requests, server) = browser.join().unwrap();
            assert!(server != "web1" && requests > 5, "{requests} of {server}");
        }
        assert_eq!(lab.server("web", "web1")["state"], "draining");
        dispatcher.stop();
    });
}

#[test]
fn a_restart_after_a_recovery_breaks_no_connection_that_was_begun_during_the_failure() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let config = checked(lab);
    let stop = &AtomicBool::new(false);
    let before = lookup(&config, WEB[0], &clients(0), &[]);
    let of_web2: Vec<String> =
        before.iter().filter(|(_, has)| has == "web2").map(|(client, _)| client.clone()).collect();
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        lab.ip("web2", "address del 203.0.113.80/32 dev lo");
        eventually("it is found", || lab.server("web", "web2")["state"] == "down");
        let browsers: Vec<_> =
            of_web2[..20].iter().map(|client| scope.spawn(move || browse(lab, 0, client, stop))).collect();
        connected(lab, &of_web2[..20]);
        lab.ip("web2", "address add 203.0.113.80/32 dev lo");
        eventually("it is back", || lab.server("web", "web2")["state"] == "up");
        dispatcher.kill();
        let dispatcher = Dispatcher::start_with(lab, &config, &[]);
        thread::sleep(Duration::from_millis(500));
        assert_eq!(lab.fetch(0, &of_web2), of_web2.iter().map(|c| (c.clone(), "web2".to_owned())).collect::<Vec<_>>());
        drop(when_done);
        for browser in browsers {
            let (requests, server) = browser.join().unwrap();
            assert!(server != "web2" && requests > 5, "{requests} of {server}");
        }
        dispatcher.stop();
    });
}

#[test]
fn a_start_right_after_kill_9_is_not_refused() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let mut running = Dispatcher::start(lab, &[]);
    for _ in 0..4 {
        kill_process(Pid::from_child(running.child()), Signal::KILL).unwrap();
        let next = Dispatcher::start(lab, &[]);
        std::mem::replace(&mut running, next).kill();
    }
    running.kill();
}
