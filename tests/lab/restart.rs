//! kill -9 and restart under load.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::dispatcher::{Dispatcher, is_attached};
use crate::echo::{Echo, round_trip};
use crate::network::{CLUSTER, Lab, WEB, clients, eventually, lookup, say, succeed, url};
use crate::stop::Stop;

/// Requests on one connection until told to stop: how many there were, and the server, which is the same for all.
pub fn browse(lab: &Lab, family: usize, client: &str, stop: &AtomicBool) -> (usize, String) {
    let connection = lab.connect(client, (CLUSTER[family].parse::<std::net::IpAddr>().unwrap(), 80).into());
    let mut answers = BufReader::new(connection.try_clone().unwrap());
    let (mut requests, mut server) = (0, None);
    while !stop.load(Ordering::Relaxed) {
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
        thread::sleep(Duration::from_millis(20));
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
        let detached = eventually("the kernel takes the program off", || !is_attached(lab));
        let dispatcher = Dispatcher::start(lab, &[]);
        thread::sleep(Duration::from_secs(1));
        drop(when_done);

        let silence = probe.join().unwrap();
        say(&format!("kill -9 and restart: detached after {detached:.0?}, no dispatch for {silence:.0?}"));
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
