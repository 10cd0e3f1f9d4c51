//! Servers that an operator takes in and out while clients are served.

use crate::description::Description;
use crate::dispatcher::Dispatcher;
use crate::failover::checked;
use crate::network::{AF_XDP, Lab, Pairs, WEB, XDP, clients, eventually, lookup, say, succeed, url};
use crate::restart::browse;
use crate::stop::Stop;
use oneip::limits::{FLOW_REOPEN, TALKERS_VIEW_EVERY, TALKERS_VIEW_FOR};
use serde_json::Value;
use socket2::SockRef;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

impl Lab {
    /// `oneip ctl ARGUMENTS`, which succeeds.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut ctl = self.command("dispatcher", env!("CARGO_BIN_EXE_oneip"));
        succeed(ctl.args(["ctl", "--socket"]).arg(self.file("oneip.sock")).args(arguments))
    }

    /// As `ctl`, of an order that is refused. What it says.
    pub fn ctl_refused(&self, arguments: &[&str]) -> String {
        let mut ctl = self.command("dispatcher", env!("CARGO_BIN_EXE_oneip"));
        let said = ctl.args(["ctl", "--socket"]).arg(self.file("oneip.sock")).args(arguments).output().unwrap();
        assert_eq!(said.status.code(), Some(1));
        String::from_utf8(said.stderr).unwrap()
    }

    /// A service in `ctl status --json`.
    pub fn status(&self, service: &str) -> Value {
        let status: Value = serde_json::from_str(&self.ctl(&["status", "--json"])).unwrap();
        status["services"].as_array().unwrap().iter().find(|known| known["name"] == service).unwrap().clone()
    }

    pub fn server(&self, service: &str, server: &str) -> Value {
        let status = self.status(service);
        status["servers"].as_array().unwrap().iter().find(|known| known["name"] == server).unwrap().clone()
    }
}

/// Short requests, one after another, until told to stop: how many there were. None may fail.
pub fn surf(lab: &Lab, family: usize, client: &str, stop: &AtomicBool) -> usize {
    surf_within(20, lab, family, client, stop)
}

/// As `surf`; a connection may take so many seconds to be made.
pub fn surf_within(seconds: u32, lab: &Lab, family: usize, client: &str, stop: &AtomicBool) -> usize {
    let mut requests = 0;
    while !stop.load(Ordering::Relaxed) {
        let pairs = lab.fetch_within(seconds, family, &[client.to_owned()]);
        assert!(!pairs[0].1.is_empty(), "{client}: request {requests} failed");
        requests += 1;
        // A program is started for each: without a pause these take a core.
        thread::sleep(Duration::from_millis(100));
    }
    requests
}

/// Waits until each client has a connection.
pub fn connected(lab: &Lab, clients: &[String]) {
    // All at once: a connection may be over before as many programs have run as there are clients.
    eventually("they are connected", || {
        let sockets = lab.sh("client", "ss -Htn state established");
        let local =
            |line: &str| line.split_whitespace().nth(2).and_then(|local| Some(local.rsplit_once(':')?.0.to_owned()));
        let connected: Vec<String> = sockets.lines().filter_map(local).collect();
        clients.iter().all(|client| connected.iter().any(|address| address.trim_matches(['[', ']']) == client))
    });
}

fn of(pairs: &Pairs, server: &str, count: usize) -> Vec<String> {
    pairs.iter().filter(|(_, has)| has == server).map(|(client, _)| client.clone()).take(count).collect()
}

#[test]
fn a_server_with_50_downloads_is_drained_and_empties() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let all = clients(0);
    let before = lookup(&lab.config(), WEB[0], &all, &[]);
    let without = lookup(&lab.config(), WEB[0], &all, &["--down", "web1"]);
    let begun = of(&before, "web1", 4);
    let busy = of(&before, "web1", 50);
    let stop = &AtomicBool::new(false);
    let dispatcher = Dispatcher::start(lab, &[]);
    let piece = fs::read(lab.file("big")).unwrap()[..3 << 20].to_vec();
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let downloads: Vec<_> = busy
            .iter()
            .map(|client| {
                // At this rate, about five seconds.
                let slow = ["--limit-rate", "600K", "--range", "0-3145727"];
                lab.curl(client, &slow).arg(url(0, "/big")).stdout(Stdio::piped()).spawn().unwrap()
            })
            .map(|child| scope.spawn(move || child.wait_with_output().unwrap()))
            .collect();
        let browsers: Vec<_> =
            (0..20).map(|n| before[10 * n].0.clone()).map(|c| scope.spawn(move || browse(lab, 0, &c, stop))).collect();
        let surfer = scope.spawn(|| surf(lab, 1, &clients(1)[0], stop));
        thread::sleep(Duration::from_secs(1));

        let said = lab.ctl(&["drain", "web1"]);
        assert!(said.contains("web1") && said.contains("600 s"), "{said}");
        assert_eq!(lab.fetch(0, &all), without, "no new client goes there");
        let server = lab.server("web", "web1");
        assert_eq!((&server["state"], &server["slots"]), (&Value::from("draining"), &Value::from(0)), "{server}");
        for download in downloads {
            let done = download.join().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            assert!(done.stdout == piece, "the download arrives whole");
        }
        // Begun elsewhere, and back: both go on.
        let meanwhile = begun.iter().map(|c| scope.spawn(move || browse(lab, 0, c, stop)));
        let meanwhile: Vec<_> = meanwhile.collect();
        connected(lab, &begun);
        lab.ctl(&["undrain", "web1"]);
        assert_eq!(lab.fetch(0, &all), before, "its clients are back");
        assert_eq!(lab.server("web", "web1")["state"], "up");
        thread::sleep(Duration::from_millis(500));
        drop(when_done);
        let moved = meanwhile.into_iter().map(|browser| browser.join().unwrap());
        assert!(moved.into_iter().all(|(requests, server)| requests > 3 && server != "web1"));
        assert!(browsers.into_iter().all(|browser| browser.join().unwrap().0 > 20));
        assert!(surfer.join().unwrap() > 5);
        // The workers', or those of the program in the kernel.
        let status: Value = serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap();
        let workers = status["workers"].as_array().unwrap();
        let held: u64 = workers.iter().map(|worker| worker["pins"].as_u64().unwrap()).sum();
        assert!(held > 0, "{workers:?}");
    });
    dispatcher.stop();
}

#[test]
fn a_server_that_fails_moves_its_clients_in_time_and_keeps_what_was_begun_elsewhere_when_it_returns() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let config = checked(lab);
    let all = clients(0);
    let before = lookup(&config, WEB[0], &all, &[]);
    let without = lookup(&config, WEB[0], &all, &["--down", "web2"]);
    let begun = of(&before, "web2", 4);
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let others: Vec<String> =
            before.iter().filter(|(_, has)| has != "web2").map(|p| p.0.clone()).take(20).collect();
        let browsers: Vec<_> = others.into_iter().map(|c| scope.spawn(move || browse(lab, 0, &c, stop))).collect();
        thread::sleep(Duration::from_millis(500));

        let nginx = fs::read_to_string(lab.file("web2/nginx.pid")).unwrap();
        let nginx = nginx.trim();
        lab.sh("web2", &format!("kill -9 {nginx} $(pgrep -P {nginx})"));
        let killed = Instant::now();
        let client = of(&before, "web2", 1);
        eventually("its clients are served by others", || !lab.fetch_within(2, 0, &client)[0].1.is_empty());
        let time = killed.elapsed();
        // 6 x 500 ms for the checks, 100 ms; a request that had no answer until then is sent anew.
        say(&format!("nginx killed: its clients are served after {time:.0?}"));
        assert_eq!(lab.fetch(0, &all), without);
        let server = lab.server("web", "web2");
        assert_eq!(server["state"], "down");
        assert!(server["why"].as_str().unwrap().contains("refuses the connection"), "{server}");

        let meanwhile = begun.iter().map(|c| scope.spawn(move || browse(lab, 0, c, stop)));
        let meanwhile: Vec<_> = meanwhile.collect();
        connected(lab, &begun);
        let at = lab.file("web2");
        lab.sh("web2", &format!("nginx -e {0}/error.log -p {0} -c {0}/nginx.conf", at.display()));
        eventually("it takes its clients back", || lab.fetch_within(2, 0, &all) == before);
        thread::sleep(Duration::from_millis(500));
        drop(when_done);
        let moved = meanwhile.into_iter().map(|browser| browser.join().unwrap());
        assert!(moved.into_iter().all(|(requests, server)| requests > 3 && server != "web2"));
        assert!(browsers.into_iter().all(|browser| browser.join().unwrap().0 > 20), "nobody else's connection breaks");
    });
    dispatcher.stop();
}

#[test]
fn what_was_set_by_hand_holds_after_a_restart_and_is_shown() {
    let Some(lab) = Lab::up(&[]) else { return };
    let all = clients(0);
    let dispatcher = Dispatcher::start(&lab, &[]);
    lab.ctl(&["disable", "web1"]);
    lab.ctl(&["weight", "web2", "3"]);
    let weighed = lab.fetch(0, &all);
    assert!(weighed.iter().all(|(_, server)| server == "web2" || server == "web3"));
    let web2 = lab.server("web", "web2");
    assert_eq!((&web2["weight"], &web2["configured_weight"]), (&Value::from(3), &Value::from(1)), "{web2}");
    let said = lab.ctl_refused(&["drain", "web9"]);
    assert!(said.starts_with("error: there is no server web9; there are web1, web2, web3"), "{said}");
    dispatcher.kill();

    let dispatcher = Dispatcher::start(&lab, &[]);
    assert!(dispatcher.said().contains("server web1: disabled by the operator, as before the restart"));
    assert_eq!(lab.fetch(0, &all), weighed);
    lab.ctl(&["enable", "web1"]);
    lab.ctl(&["weight", "web2", "default"]);
    assert_eq!(lab.fetch(0, &all), lookup(&lab.config(), WEB[0], &all, &[]));
    dispatcher.stop();

    fs::write(lab.file("state.json"), "{ damaged").unwrap();
    let dispatcher = Dispatcher::start(&lab, &[]);
    assert!(
        dispatcher.said().contains("is damaged")
            && dispatcher.said().contains("servers start in the state that the configuration gives")
    );
    dispatcher.stop();
}

#[test]
fn a_drain_ends_at_its_time() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let before = lookup(&lab.config(), WEB[0], &clients(0), &[]);
    let client = of(&before, "web3", 1).remove(0);
    let dispatcher = Dispatcher::start(lab, &[]);
    let connection = lab.connect(&client, "203.0.113.80:80".parse().unwrap());
    lab.ctl(&["drain", "web3", "--timeout", "10"]);
    assert_eq!(lab.server("web", "web3")["state"], "draining");
    eventually("its time is over", || lab.server("web", "web3")["state"] == "drained");
    let mut answer = Vec::new();
    let asked =
        (&connection).write_all(b"GET / HTTP/1.0\r\n\r\n").and_then(|()| (&connection).read_to_end(&mut answer));
    assert!(asked.is_err() && answer.is_empty(), "another server has it now, and resets it");
    assert_eq!(lab.status("web")["moving"], 0);
    dispatcher.stop();
}

/// Asks for the lab's big file and reads it little by little, so that the client shows itself all the time; when told to stop, the rest of
/// it. It arrives whole; from which server.
fn download(connection: &TcpStream, big: &[u8], stop: &AtomicBool) -> String {
    let mut connection = connection;
    connection.write_all(b"GET /big HTTP/1.1\r\nHost: cluster\r\n\r\n").unwrap();
    let (mut answer, mut piece) = (Vec::new(), [0; 16 << 10]);
    while !stop.load(Ordering::Relaxed) {
        connection.read_exact(&mut piece).unwrap();
        answer.extend_from_slice(&piece);
        thread::sleep(Duration::from_millis(20));
    }
    let begins = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let so_far = answer.len();
    answer.resize(begins + big.len(), 0);
    connection.read_exact(&mut answer[so_far..]).unwrap();
    assert!(answer[begins..] == *big, "the download arrives whole");
    let head = String::from_utf8(answer[..begins].to_vec()).unwrap();
    head.lines().find_map(|line| line.strip_prefix("X-Server: ")).unwrap().to_owned()
}

/// Two downloads that outlast the time of a change: one that a drained server has, and one that another has in its place when it returns.
fn lasts_until_it_is_closed(options: &[&str]) {
    let Some(lab) = &Lab::up(options) else { return };
    // Services of the other family are time-limited: they show when the time is over.
    let text = fs::read_to_string(lab.config()).unwrap().replace("[[service]]\n", "[[service]]\ndrain_s = 6\n");
    fs::write(lab.config(), text.replace("name = \"web\"\n", "name = \"web\"\ndrain = \"until-closed\"\n")).unwrap();
    let all = clients(0);
    let before = lookup(&lab.config(), WEB[0], &all, &[]);
    let without = lookup(&lab.config(), WEB[0], &all, &["--down", "web1"]);
    let cluster = "203.0.113.80:80".parse().unwrap();
    let connect = |client: &str| {
        let connection = lab.connect(client, cluster);
        SockRef::from(&connection).set_recv_buffer_size(64 << 10).unwrap();
        connection
    };
    let [first, second] = &of(&before, "web1", 2)[..] else { panic!("web1 has clients") };
    let (_, stands_in) = without.iter().find(|(client, _)| client == second).unwrap();
    let (big, stop) = (&fs::read(lab.file("big")).unwrap(), &AtomicBool::new(false));
    let dispatcher = Dispatcher::start(lab, &[]);
    let kept = connect(first);
    let begun = thread::scope(|scope| {
        let when_done = Stop(stop);
        let old = scope.spawn(|| download(&kept, big, stop));
        let said = lab.ctl(&["drain", "web1"]);
        assert!(said.contains("those that send packets in the first 6 s stay until they end"), "{said}");
        eventually("the time is over", || lab.server("web6", "web1")["state"] == "drained");
        assert_eq!(lab.server("web", "web1")["state"], "draining");
        assert_eq!(lab.fetch(0, &all), without, "new connections go to others");
        let begun = connect(second);
        let reader = begun.try_clone().unwrap();
        let new = scope.spawn(move || download(&reader, big, stop));

        lab.ctl(&["undrain", "web1"]);
        assert_eq!(lab.fetch(0, &all), before);
        eventually("the time is over", || lab.status("web6")["moving"] == 0);
        assert_eq!(lab.fetch(0, &all), before, "new connections go to the owner, whatever else goes on");
        drop(when_done);
        assert_eq!((old.join().unwrap(), &new.join().unwrap()), ("web1".to_owned(), stands_in));
        begun
    });

    // Both are closed. From the same port, the next one is its owner's.
    let from = begun.local_addr().unwrap();
    SockRef::from(&begun).set_linger(Some(Duration::ZERO)).unwrap();
    drop((kept, begun));
    thread::sleep(FLOW_REOPEN + Duration::from_secs(1));
    let mut next = lab.connect_from(from, cluster);
    let mut answer = String::new();
    next.write_all(b"GET / HTTP/1.0\r\n\r\n").and_then(|()| next.read_to_string(&mut answer)).unwrap();
    assert!(answer.contains("X-Server: web1\r\n"), "{answer}");
    dispatcher.stop();
}

#[test]
fn a_download_lasts_through_a_drain_and_a_return_until_it_is_closed() {
    lasts_until_it_is_closed(&XDP);
}

#[test]
fn a_download_over_workers_lasts_through_a_drain_and_a_return_until_it_is_closed() {
    lasts_until_it_is_closed(&AF_XDP);
}

#[test]
fn a_client_is_traced() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let (client, server) = lookup(&lab.config(), WEB[0], &clients(0)[..1], &[]).remove(0);
    let dispatcher = Dispatcher::start(lab, &[]);
    let trace: Value = thread::scope(|scope| {
        let generation = || {
            let status: Value = serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap();
            status["generation"].as_u64().unwrap()
        };
        // What is shown is a moment old.
        let mut before = generation();
        let is_steady = || {
            thread::sleep(Duration::from_secs(1));
            generation() == std::mem::replace(&mut before, generation())
        };
        eventually("nothing changes", is_steady);
        let trace = scope.spawn(|| lab.ctl(&["trace", &client, "--for", "10", "--json"]));
        eventually("the workers look for it", || generation() > before);
        assert_eq!(lab.fetch(0, std::slice::from_ref(&client)), [(client.clone(), server.clone())]);
        serde_json::from_str(&trace.join().unwrap()).unwrap()
    });
    let web = trace["services"].as_array().unwrap().iter().find(|known| known["service"] == "web").unwrap();
    assert_eq!(web["server"], server.as_str(), "{trace}");
    assert_eq!(web["order"].as_array().unwrap().len(), 3, "{trace}");
    assert_eq!(web["order"][0], server.as_str(), "{trace}");
    let frames = trace["frames"].as_array().unwrap();
    assert!(frames.len() >= 4, "SYN, ACK, request, FIN: {trace}");
    assert!(
        frames.iter().all(|f| f["server"] == server.as_str() && f["protocol"] == "tcp" && f["verdict"] == "forward")
    );
    let ask = |what: &str| {
        let url = format!("http://oneip{what}");
        succeed(lab.command("dispatcher", "curl").args(["-sS", "--unix-socket"]).arg(lab.file("oneip.sock")).arg(url))
    };
    let description = Description::new(&ask("/openapi.json"));
    description.check("GET", "/status", 200, &ask("/status"));
    let found = ask(&format!("/lookup?client={client}"));
    description.check("GET", "/lookup", 200, &found);
    assert_eq!(found.trim_end(), lab.ctl(&["lookup", &client, "--json"]).trim_end());
    let checked: Value =
        serde_json::from_str(&lab.ctl(&["check-client", &client, "--service", "web", "--json"])).unwrap();
    assert_eq!(checked[0]["services"][0]["server"], server.as_str(), "{checked}");
    assert!(lab.ctl(&["diff"]).contains("is the same as the configuration in use"));
    let account = dispatcher.stop();
    assert_eq!(account.server(&server, "flows"), 1, "{}", account.json);
}

#[test]
fn who_sends_most_is_shown() {
    let Some(lab) = &Lab::up(&[]) else { return };
    let few = clients(0)[..2].to_vec();
    let dispatcher = Dispatcher::start(lab, &[]);
    // Somebody looks on, as `ctl top` does, and gives way to an order.
    let look = || -> Value {
        let socket = lab.file("oneip.sock");
        let mut curl = lab.command("dispatcher", "curl");
        let text = succeed(curl.args(["-sS", "--unix-socket"]).arg(socket).arg("http://oneip/talkers"));
        serde_json::from_str(&text).unwrap()
    };
    eventually("who sends most is known to who looks on", || {
        lab.fetch(0, &few[1..]);
        look()["talkers"]["sources"][0]["source"] == few[1].as_str()
    });
    // An order comes into the middle of a view, on a host that does not stand still just then.
    eventually("a view gives way", || {
        thread::sleep(TALKERS_VIEW_EVERY);
        look();
        thread::sleep(TALKERS_VIEW_FOR * 3 / 2);
        lab.ctl(&["talkers", "--for", "1", "--one-in", "1", "--json"]);
        let ended = look();
        ended["error"].is_null() && ended["talkers"]["for_ms"].as_u64().unwrap() < 1000
    });
    let talkers: Value = thread::scope(|scope| {
        let talkers = scope.spawn(|| lab.ctl(&["talkers", "--for", "10", "--one-in", "1", "--json"]));
        while !talkers.is_finished() {
            for client in [&few[0], &few[0], &few[0], &few[1]] {
                lab.fetch(0, std::slice::from_ref(client));
            }
        }
        serde_json::from_str(&talkers.join().unwrap()).unwrap()
    });
    let sources = talkers["sources"].as_array().unwrap();
    let of_web: Vec<&Value> = sources.iter().filter(|source| source["service"] == "web").collect();
    let number = |at: usize, key: &str| of_web[at][key].as_u64().unwrap();
    assert_eq!((&of_web[0]["source"], &of_web[1]["source"]), (&few[0].as_str().into(), &few[1].as_str().into()));
    assert!(number(0, "frames") > number(1, "frames") && number(1, "syns") >= 1, "{talkers}");
    assert!(
        number(0, "frames") >= 3 * number(0, "syns") && number(0, "bytes") >= 60 * number(0, "frames"),
        "{talkers}"
    );
    assert_eq!((number(0, "dropped"), &talkers["missed"]), (0, &0.into()));
    let refused = lab.ctl_refused(&["talkers", "--service", "wbe"]);
    assert!(refused.contains("there is no service wbe; there are web"), "{refused}");
    dispatcher.stop();
}
