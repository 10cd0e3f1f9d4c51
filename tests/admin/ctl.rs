//! `oneip ctl`, the program: what it asks, what it shows, and every way in which there is no answer.

use crate::fake::{Fake, Script};
use crate::sample;
use oneip::admin;
use oneip::admin::order::{LookForTalkers, Order, Point};
use oneip::admin::status::Status;
use oneip::ctl::client::{Client, Error, read};
use oneip::model::{Admin, Prefix};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn ctl(socket: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneip"));
    command.args(["ctl", "--socket"]).arg(socket).args(arguments.split_whitespace());
    command.output().unwrap()
}

/// Standard output of a success.
fn done(fake: &Fake, arguments: &str) -> String {
    let output = ctl(&fake.socket, arguments);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{arguments}: {out}");
    out
}

/// Standard error of a failure.
fn failed(socket: &Path, arguments: &str) -> String {
    let output = ctl(socket, arguments);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), out.as_str()), (Some(1), ""), "{arguments}: {err}");
    err
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn orders_are_what_was_typed() {
    let fake = Fake::start();
    let server = |name: &str| name.to_owned();
    for (arguments, order) in [
        ("drain web1", Order::Drain { server: server("web1"), service: None, timeout_s: None, force: false }),
        (
            "drain web1 --timeout 30",
            Order::Drain { server: server("web1"), service: None, timeout_s: Some(30), force: false },
        ),
        ("undrain web1", Order::Undrain { server: server("web1"), service: None }),
        ("weight web1 0", Order::Weight { server: server("web1"), service: None, weight: Some(0), force: false }),
        ("weight web1 default", Order::Weight { server: server("web1"), service: None, weight: None, force: false }),
        ("disable web1", Order::Disable { server: server("web1"), service: None, force: false }),
        ("disable web1 --force", Order::Disable { server: server("web1"), service: None, force: true }),
        (
            "drain web1 --service web --timeout 30 --force",
            Order::Drain { server: server("web1"), service: Some("web".into()), timeout_s: Some(30), force: true },
        ),
        ("undrain web1 --service web", Order::Undrain { server: server("web1"), service: Some("web".into()) }),
        (
            "weight web1 3 --service web",
            Order::Weight { server: server("web1"), service: Some("web".into()), weight: Some(3), force: false },
        ),
        ("enable web1 --service web", Order::Enable { server: server("web1"), service: Some("web".into()) }),
        ("enable web1", Order::Enable { server: server("web1"), service: None }),
    ] {
        let said = done(&fake, arguments);
        assert_eq!(said, format!("server web1: {order:?}\n"), "{arguments}");
        assert_eq!(fake.orders().last(), Some(&order), "{arguments}");
    }
    for service in [None, Some("web".to_owned())] {
        let option = service.as_ref().map_or(String::new(), |name| format!(" --service {name}"));
        done(&fake, &format!("withdraw{option}"));
        assert_eq!(fake.orders().last(), Some(&Order::Withdraw { service: service.clone() }));
        done(&fake, &format!("announce{option}"));
        assert_eq!(fake.orders().last(), Some(&Order::Announce { service }));
    }
    let prefix: Prefix = "198.51.100.0/24".parse().unwrap();
    done(&fake, "deny 198.51.100.0/24 --for 10m --service web");
    let order = Order::Deny { prefix, service: Some("web".into()), for_s: Some(600) };
    assert_eq!(fake.orders().last(), Some(&order));
    done(&fake, "undeny 198.51.100.0/24");
    assert_eq!(fake.orders().last(), Some(&Order::Undeny { prefix, service: None }));
    assert_eq!(done(&fake, "denied"), "no prefix is denied by ctl\n");
    assert_eq!(done(&fake, "denied --json"), "{\"denied\":[],\"lists\":[]}\n");
    assert_eq!(done(&fake, "ready --service web"), "ready\n");
    let refused = "error: service dns is not ready: withdrawn by oneip ctl withdraw\n";
    assert_eq!(failed(&fake.socket, "ready"), refused);
    assert_eq!(done(&fake, "reload"), "service web: server web4 is new\ngeneration 18\n");
    assert_eq!(fake.orders().last(), Some(&Order::Reload { force: false, dry_run: false }));
    for (arguments, force, dry_run) in [("reload --force", true, false), ("reload --dry-run", false, true)] {
        done(&fake, arguments);
        assert_eq!(fake.orders().last(), Some(&Order::Reload { force, dry_run }), "{arguments}");
    }
    assert_eq!(done(&fake, "enable still"), "nothing to change\n");
    let refused = "error: there is no server nobody; there are ns1, ns2, web1, web2, web3\n";
    assert_eq!(failed(&fake.socket, "drain nobody"), refused);
}

/// As diff(1): 0 the same, 1 different, 2 trouble.
#[test]
fn a_diff_says_by_its_exit_code_whether_anything_differs() {
    let fake = Fake::start();
    let order = "by order, not a difference: server web2 of service web: drained\n";
    assert_eq!(
        done(&fake, "diff"),
        format!("/etc/oneip/cluster.toml is the same as the configuration in use\n{order}")
    );
    assert_eq!(fake.orders(), [Order::Diff { config: None }]);
    let output = ctl(&fake.socket, "diff -c other.toml");
    let own = std::env::current_dir().unwrap().join("other.toml");
    assert_eq!(fake.orders()[1], Order::Diff { config: Some(own) }, "the process has another directory");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), ""));
    let expected = "service web: server web4 added (192.0.2.14, weight 1)
[dispatcher] cores: changed, needs a restart
service web: 16384 of 65537 slots move: 25 % of its clients get another server, although the change of servers needs only 25 %; \
                    connections stay where they are for 300 s
service dns: the slots belong to other clients now: 25 % of its clients get another server, although the change of servers needs only 25 %; \
                    their connections break (drain_s = 0)
by order, not a difference: server web2 of service web: drained
a reload would be refused: [dispatcher] cores cannot change while oneip runs; restart it, or change that back
";
    assert_eq!(text(&output.stdout), expected);
    let output = ctl(&fake.socket, "diff -c other.toml --json");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), document), (Some(1), serde_json::to_value(sample::diff(true)).unwrap()));
    let nobody = ctl(Path::new("/nonexistent/oneip.sock"), "diff");
    let said = text(&nobody.stderr);
    assert!(nobody.status.code() == Some(2) && said.starts_with("error: there is no socket "), "{said}");
}

#[test]
fn what_a_client_meets_is_told_for_each_of_them() {
    let fake = Fake::start();
    let web = "service web (203.0.113.80): hash 0x0123456789abcdef, slot 291
  DENIED by ctl deny 198.51.100.0/24: its frames are dropped
  new connections go to web2: first choice
  failover order: web2, web3, web1
";
    let dns = "service dns (203.0.113.80): hash 0x0123456789abcdef, slot 291
  not in any list
  limits of the service: 100 SYN a second
  packets without ports, such as fragments, go to ns1: failover, since ns2 is draining (by ctl drain)
  connections begun before the change stay on ns2
  failover order: ns2, ns1
";
    let asks = "  hash = \"flow\": the server also depends on the protocol and the ports; --port N shows where \
                connections from port N go, with --to tcp/443 if the service does not list its ports\n";
    let of = |client: &str, end: &str| format!("client {client}\n\n{web}\n{dns}{end}");
    let both = done(&fake, "check-client 198.51.100.7 198.51.100.8");
    assert_eq!(both, format!("{}\n{}", of("198.51.100.7", asks), of("198.51.100.8", asks)));
    let flow = "  from port 4000 to udp/53: slot 12, ns1: first choice\n";
    assert_eq!(done(&fake, "check-client 198.51.100.7 --port 4000 --service web"), of("198.51.100.7", flow));
    let client = "198.51.100.7".parse().unwrap();
    let to = None;
    let order = Order::CheckClient { client, service: Some("web".into()), port: Some(4000), to };
    assert_eq!(fake.orders()[2], order);
    let documents: Value = serde_json::from_str(&done(&fake, "check-client 198.51.100.7 --json")).unwrap();
    assert_eq!(documents, json!([serde_json::to_value(sample::client(client, None)).unwrap()]));
    assert_eq!(ctl(&fake.socket, "check-client").status.code(), Some(2));
}

#[test]
fn the_socket_may_be_named_on_either_side_of_the_verb() {
    let fake = Fake::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneip"));
    let output = command.args(["ctl", "undrain", "web1", "--socket"]).arg(&fake.socket).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn documents_are_printed_as_they_came() {
    let fake = Fake::start();
    let status: Status = serde_json::from_str(&done(&fake, "status --json")).unwrap();
    assert_eq!((status.pid, status.services[0].servers[1].frames), (812, 2000));
    assert!(!done(&fake, "status --json").contains("\"answer\""));

    let lookup: Value = serde_json::from_str(&done(&fake, "lookup 198.51.100.7 --json")).unwrap();
    let of = |service, server| json!({"client": "198.51.100.7", "service": service, "hash": "0x0123456789abcdef", "slot": 291, "server": server});
    assert_eq!(lookup, json!([of("web", "web2"), of("dns", "ns1")]), "the keys of `oneip lookup`");
    let one: Value = serde_json::from_str(&done(&fake, "lookup 198.51.100.7 --service dns --json")).unwrap();
    assert_eq!(one, json!([of("dns", "ns1")]));

    let trace: Value = serde_json::from_str(&done(&fake, "trace 198.51.100.7 --for 0.25 --json")).unwrap();
    assert_eq!(trace, serde_json::to_value(sample::trace(true)).unwrap());
    let client = "198.51.100.7".parse().unwrap();
    assert_eq!(fake.orders()[1..], [Order::Trace { client, watch_ms: 0 }, Order::Trace { client, watch_ms: 250 }][..]);
}

#[test]
fn a_capture_is_written_as_it_comes_and_what_was_lost_is_told() {
    let fake = Fake::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.pcapng");
    let output = ctl(&fake.socket, &format!("capture --out {} --where drop --count 9", file.display()));
    let said = String::from_utf8(output.stderr).unwrap();
    let told = "2 frames captured, 3 lost because the buffer was full; to lose fewer, use --client, --where or a \
                smaller --snap\n";
    assert_eq!((output.status.code(), said), (Some(0), format!("capturing; press Ctrl-C to stop\n{told}")));
    assert_eq!(fs::read(&file).unwrap(), sample::pcapng());
    assert_eq!(ctl(&fake.socket, "capture --out -").stdout, sample::pcapng());
    let lost = ctl(&fake.socket, "capture --out /nonexistent/out.pcapng");
    let said = String::from_utf8(lost.stderr).unwrap();
    assert!(lost.status.code() == Some(1) && said.contains("error: --out /nonexistent/out.pcapng: No such"), "{said}");
    let Order::Capture(capture) = &fake.orders()[0] else { panic!("it is a capture") };
    assert_eq!((capture.point, capture.count, capture.snap), (Some(Point::Drop), Some(9), 2048));
}

#[test]
fn talkers_are_asked_for_as_they_are_told() {
    let fake = Fake::start();
    let asked = "talkers --service web --for 0.5 --top 3 --one-in 64 --prefix-v4 24 --json";
    let talkers: Value = serde_json::from_str(&done(&fake, asked)).unwrap();
    let mut expected = serde_json::to_value(sample::talkers()).unwrap();
    assert_eq!(talkers, expected.take());
    let service = Some("web".to_owned());
    let wanted =
        LookForTalkers { for_ms: 500, one_in: 64, prefix_v4: 24, prefix_v6: 64, most: 3, service, gives_way: false };
    assert_eq!(fake.orders()[..], [Order::Talkers(wanted)][..]);
    assert!(done(&fake, "talkers --one-in 64").contains("198.51.100.7"));
}

#[test]
fn views_come_from_the_documents() {
    let fake = Fake::start();
    assert!(done(&fake, "status").starts_with("oneip "));
    assert!(done(&fake, "lookup 198.51.100.7").contains("\n198.51.100.7  web      web2     291"));
    assert!(done(&fake, "trace 198.51.100.7").contains("2 frames seen within 2 s"));
    let metrics = done(&fake, "metrics");
    assert!(metrics.starts_with("# HELP oneip_build_info "), "{metrics}");
    assert!(metrics.ends_with("oneip_pins_syns_displaced_total{worker=\"1\"} 9\n"), "{metrics}");
    let said = failed(&fake.socket, "lookup 198.51.100.7 --service mail");
    assert_eq!(said, "error: service mail: 198.51.100.7 can be a client of these services: web, dns\n");
}

#[test]
fn stats_are_rates_between_looks() {
    let script = Script::default();
    let figures = script.figures.clone();
    let fake = Fake::with(script);
    let moves = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&moves);
    let moving = thread::spawn(move || {
        let start = Instant::now();
        while still.load(Ordering::Relaxed) {
            if let Some(figures) = figures.lock().unwrap().as_mut() {
                figures.summary.servers[0].frames = 1000 + (start.elapsed().as_secs_f64() * 20_000.0) as u64;
                figures.summary.dropped[0] = 12 + (start.elapsed().as_secs_f64() * 500.0) as u64;
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    let start = Instant::now();
    let said = done(&fake, "stats --interval 4 --count 2");
    moves.store(false, Ordering::Relaxed);
    moving.join().unwrap();
    assert!(start.elapsed() >= Duration::from_secs(8));
    let rates: Vec<f64> = said
        .lines()
        .filter(|line| line.starts_with("  web      web1 "))
        .map(|line| line.split_whitespace().nth(2).unwrap().parse().unwrap())
        .collect();
    assert_eq!(rates.len(), 2, "{said}");
    assert!(rates.iter().all(|rate| (14.0..26.0).contains(rate)), "thousands a second: {said}");
    assert_eq!(said.matches("  dropped no_service ").count(), 2, "{said}");
}

#[test]
fn a_process_that_was_started_again_begins_at_0() {
    let script = Script::default();
    let status = script.status.clone();
    let fake = Fake::with(script);
    let again = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1500));
        let mut status = status.lock().unwrap();
        (status.pid, status.uptime_s) = (4000, 1.0);
    });
    let said = done(&fake, "stats --interval 0.8 --count 4");
    assert_eq!(said.matches("the process was restarted; its counters start at 0\n").count(), 1, "{said}");
    again.join().unwrap();
}

#[test]
fn usage_is_checked_before_anybody_is_asked() {
    let nowhere = Path::new("/nonexistent/oneip.sock");
    for arguments in [
        "",
        "fly",
        "drain",
        "drain web1 --timeout -1",
        "drain web1 --timeout 604801",
        "weight web1",
        "weight web1 65536",
        "weight web1 heavy",
        "trace",
        "trace 198.51.100",
        "trace 198.51.100.7 --for 61",
        "stats --interval 0",
        "stats --interval NaN",
        "lookup web1",
        "capture",
        "talkers --for 61",
        "talkers --for 0",
        "talkers --top 0",
        "talkers --top 1001",
        "talkers --one-in 0",
        "talkers --prefix-v4 33",
        "talkers --prefix-v6 129",
        "capture --out x --snap 0",
        "capture --out x --snap 9217",
        "capture --out x --where up",
        "capture --out x --count 0",
        "capture --out x --seconds 86401",
    ] {
        let output = ctl(nowhere, arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments}: {output:?}");
    }
}

#[test]
fn every_way_to_have_no_answer_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let said = |expected: &str| {
        let expected = format!("error: {}\n", expected.replace("PATH", &path.display().to_string()));
        assert_eq!(failed(&path, "status"), expected.replace("--socket WHERE", "--socket PATH"));
    };
    said(
        "there is no socket PATH; is a dispatcher running? If its configuration sets another `socket` in [admin], use \
         --socket WHERE",
    );
    let listener = UnixListener::bind(&path).unwrap();
    // Somebody else's service.
    let server = thread::spawn(move || {
        let mut held = Vec::new();
        for answer in [
            "",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\nwhat?\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
            // It may leave the connection open after an answer.
            held.extend((!answer.is_empty()).then_some(stream));
        }
        drop(listener);
    });
    let ended = failed(&path, "status");
    assert!(
        ended.starts_with(&format!("error: the process on {} ended before it answered: ", path.display())),
        "{ended}"
    );
    said("the process on PATH does not know GET /status; it answers: 404 Not Found what?");
    said("the answer cannot be read: missing field `version`");
    server.join().unwrap();
    // A child of another test may have the listener for a moment more.
    while UnixStream::connect(&path).is_ok() {
        thread::sleep(Duration::from_millis(1));
    }
    said("nobody answers on the socket PATH; the dispatcher that made it has ended, and the next one will replace it");
}

#[test]
fn a_process_whose_queue_is_full_is_said_to_be_crowded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    let words = "has too many admin clients at the moment; try again";
    assert_eq!(failed(&path, "status"), format!("error: the process on {} {words}\n", path.display()));
}

#[test]
fn who_may_not_connect_is_told_who_may() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: needs root, to be somebody else");
    }
    let fake = Fake::start();
    let folder = fake.socket.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let client = fake.socket.clone();
    let binary = folder.join("oneip");
    // Not by this process: a child of another test, forked meanwhile, would have it open to write, and it could not be run.
    let mut install = Command::new("install");
    assert!(install.args(["-m", "755", env!("CARGO_BIN_EXE_oneip")]).arg(&binary).status().unwrap().success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(binary);
    let output = command.args(["ctl", "--socket"]).arg(&client).arg("status").output().unwrap();
    let expected = format!(
        "error: permission denied on the socket {}; only root, its owner and its group may give orders\n",
        client.display()
    );
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), expected));
}

#[test]
fn threads_that_have_ended_are_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Admin { socket: folder.path().join("s.sock"), socket_given: true, ..Admin::default() };
    let (backend, asked) = admin::channel(crate::fake::nothing(), drop);
    drop(asked);
    let _server = admin::bind(&plan).unwrap().start(backend).unwrap();
    let ended = "error: the thread that was asked has ended: this process is about to stop\n";
    let nothing = "error: the control thread has not reported the state of the servers yet\n";
    for (verb, words) in [("status", nothing), ("reload", ended), ("metrics", nothing)] {
        assert_eq!(failed(&plan.socket, verb), words, "{verb}");
    }
}

#[test]
fn top_wants_a_terminal() {
    let fake = Fake::start();
    let said = failed(&fake.socket, "top");
    let expected = "error: `top` needs a terminal, and standard output is not one; use `oneip ctl status` or `stats`\n";
    assert_eq!(said, expected);
}

#[test]
fn another_version_is_no_error_as_long_as_it_can_be_read() {
    let mut document = serde_json::to_value(sample::status()).unwrap();
    document["version"] = "9.0.0".into();
    document["weather"] = "fine".into();
    assert_eq!(read::<Status>(document.clone()).unwrap().version, "9.0.0");
    document.as_object_mut().unwrap().remove("pid");
    let error = read::<Status>(document).unwrap_err().to_string();
    let expected = format!(
        "the answer of oneip 9.0.0 cannot be read by oneip {}: missing field `pid`; use the binary of that version, or --json",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(error, expected);
}

#[test]
fn one_client_asks_as_often_as_it_likes() {
    let fake = Fake::start();
    let client = Client::new(fake.socket.clone()).unwrap();
    for _ in 0..200 {
        assert_eq!(client.status().unwrap()["pid"], 812);
    }
    assert!(client.metrics().unwrap().contains("oneip_build_info"));
    drop(fake.server);
    assert!(matches!(client.status(), Err(Error::Absent(_))));
}
