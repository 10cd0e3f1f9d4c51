//! Requests, right and wrong, and clients that are slow or many.

use crate::fake::{self, Fake, Script};
use crate::http::{self, exchange, request, tcp, unix};
use crate::sample;
use oneip::admin::order::{Answer, Order};
use oneip::admin::status::Status;
use oneip::admin::timeline::Timeline;
use oneip::admin::{self, Watched};
use oneip::limits::{ADMIN_BODY, ADMIN_CONNECTIONS, ADMIN_PATIENCE, FIGURES_MOST, ORDER_MOST, OVERVIEW_MOST};
use oneip::metrics::latest::Latest;
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_status_has_the_figures_by_name() {
    let fake = Fake::start();
    let reply = unix(&fake.socket, "GET", "/status", "");
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("content-type: application/json"), "{}", reply.head);
    let status: Status = serde_json::from_str(&reply.body).unwrap();
    assert_eq!((status.frames, status.forwarded, status.passed), (6167, 6047, 105));
    assert_eq!(serde_json::to_value(&status.dropped).unwrap(), json!({"no_service": 12, "tx_full": 3}));
    let web2 = &status.services[0].servers[1];
    assert_eq!((web2.frames, web2.bytes, web2.new_flows), (2000, 200_000, 200));
    let ns2 = &status.services[1].servers[1];
    assert_eq!((ns2.frames, ns2.bytes, ns2.new_flows), (0, 0, 0), "counted nothing yet");
    let latency = status.services[0].latency_ns.unwrap();
    assert_eq!((latency.count, status.services[1].latency_ns), (4, None));
    let worker = &status.workers[1];
    assert_eq!((worker.worker, worker.core, worker.received, worker.turns, worker.pins), (1, 3, 2062, true, 20));

    assert!((status.counted_s.unwrap() - status.uptime_s).abs() < 1e-3, "counted on the spot");
    let server = &status.services[0].servers[0];
    assert!((4242.0..4252.0).contains(&server.since_s), "as old as it is when it is asked for: {}", server.since_s);
    let age = server.check.as_ref().unwrap().age_s.unwrap();
    assert!((age - 0.25 - (server.since_s - 4242.0)).abs() < 1e-6, "all by one clock: {age}");

    let order = unix(&fake.socket, "POST", "/order", r#"{"order":"status"}"#).json();
    assert_eq!(order["answer"], "status");
    let ordered: Status = serde_json::from_value(order).unwrap();
    assert_eq!(ordered, as_before(status), "an order for it gives the same document");
}

/// Without the time that has passed since it was put down.
fn as_before(mut status: Status) -> Status {
    let passed = status.uptime_s - sample::status().uptime_s;
    (status.uptime_s, status.counted_s) = (status.uptime_s - passed, None);
    for server in status.services.iter_mut().flat_map(|service| &mut service.servers) {
        server.since_s = (server.since_s - passed).round();
        let check = server.check.iter_mut();
        check.flat_map(|check| &mut check.age_s).for_each(|age| *age = ((*age - passed) * 1000.0).round() / 1000.0);
    }
    status
}

/// However many look: the control thread has put down what they want to know, and so has the stats thread.
#[test]
fn who_only_looks_asks_no_thread() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s.sock");
    let plan = oneip::model::Admin { socket: socket.clone(), socket_given: true, ..Default::default() };
    let overview = Latest::default();
    overview.put(fake::overview_of(sample::status(), Instant::now()));
    let figures = Arc::new(sample::figures());
    let counted = move || Some((Arc::clone(&figures), Duration::ZERO));
    let watched = Watched { overview, figures: Box::new(counted), timeline: Timeline::default() };
    let (backend, mut asked) = admin::channel(watched, |_| panic!("the stats thread is asked"));
    let _server = admin::bind(&plan).unwrap().start(backend).unwrap();
    for path in ["/metrics", "/readyz", "/healthz", "/status"] {
        for _ in 0..50 {
            assert_eq!(unix(&socket, "GET", path, "").status, 200, "{path}");
        }
    }
    assert!(asked.try_recv().is_err(), "the control thread was asked");
}

/// What was put down long ago is no answer of a process that works.
#[test]
fn threads_that_put_down_nothing_hang() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s.sock");
    let plan = oneip::model::Admin { socket: socket.clone(), socket_given: true, ..Default::default() };
    let (overview, age) = (Latest::default(), Arc::new(Mutex::new(FIGURES_MOST + Duration::from_millis(100))));
    let figures = Arc::new(sample::figures());
    let old = Arc::clone(&age);
    let counted = move || Some((Arc::clone(&figures), *old.lock().unwrap()));
    let watched = Watched { overview: overview.clone(), figures: Box::new(counted), timeline: Timeline::default() };
    let (backend, _asked) = admin::channel(watched, drop);
    let _server = admin::bind(&plan).unwrap().start(backend).unwrap();
    overview.put(fake::overview_of(sample::status(), Instant::now()));
    let reply = unix(&socket, "GET", "/healthz", "");
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (503, "the stats thread hangs: it has not reported counters for 2.1s\n")
    );
    // What is known of the servers is not kept back for that.
    let status = || {
        let shown = Command::new(env!("CARGO_BIN_EXE_oneip"))
            .args(["ctl", "status", "--socket"])
            .arg(&socket)
            .output()
            .unwrap();
        String::from_utf8(shown.stdout).unwrap()
    };
    let said = status();
    let note = "NOTE: these counters are 2.1 s old: the stats thread hangs, or gets no CPU time";
    assert!(said.contains(note), "{said}");
    *age.lock().unwrap() = Duration::ZERO;
    assert_eq!(unix(&socket, "GET", "/healthz", "").status, 200);
    assert!(!status().contains("NOTE: these counters are"));
    thread::sleep(OVERVIEW_MOST);
    for path in ["/healthz", "/readyz"] {
        let reply = unix(&socket, "GET", path, "");
        assert!(reply.status == 503 && reply.body.starts_with("the control thread hangs: "), "{path}: {reply:?}");
    }
    let pages = [0, 1].map(|_| unix(&socket, "GET", "/metrics", ""));
    assert!(pages.iter().all(|page| page.status == 200 && page.body == pages[0].body), "{pages:?}");
    let seen = "oneip_snapshot_timestamp_seconds{thread=\"control\"} ";
    assert!(pages[0].body.contains(seen), "a page that is old says so: {}", pages[0].body);
}

#[test]
fn orders_are_passed_on_and_answers_come_back() {
    let fake = Fake::start();
    let order = |text: &str| unix(&fake.socket, "POST", "/order", text);
    let reply = order(r#"{"order":"drain","server":"web1","timeout_s":30}"#);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["answer"], "done");
    assert_eq!(order(r#"{"order":"drain","server":"web2"}"#).status, 200, "the timeout may be left out");
    let reply = order(r#"{"order":"disable","server":"nobody"}"#);
    assert_eq!(reply.status, 409);
    assert_eq!(reply.refused(), "there is no server nobody; there are ns1, ns2, web1, web2, web3");
    for explicit in [
        r#"{"order":"drain","server":"web1","service":null,"timeout_s":null,"force":false}"#,
        r#"{"order":"disable","server":"web1","service":"web","force":false}"#,
        r#"{"order":"reload","force":false,"dry_run":false}"#,
        r#"{"order":"withdraw","service":null}"#,
    ] {
        assert_eq!(order(explicit).status, 200, "{explicit}");
    }
    let expected = [
        Order::Drain { server: "web1".into(), service: None, timeout_s: Some(30), force: false },
        Order::Drain { server: "web2".into(), service: None, timeout_s: None, force: false },
        Order::Disable { server: "nobody".into(), service: None, force: false },
        // What is said of every field is what its absence means.
        Order::Drain { server: "web1".into(), service: None, timeout_s: None, force: false },
        Order::Disable { server: "web1".into(), service: Some("web".into()), force: false },
        Order::Reload { force: false, dry_run: false },
        Order::Withdraw { service: None },
    ];
    assert_eq!(fake.orders(), expected);
}

#[test]
fn what_is_no_order_is_refused_in_words_and_reaches_nobody() {
    let fake = Fake::start();
    let too_long = format!("\"{}\"", "x".repeat(ADMIN_BODY));
    for (body, status, words) in [
        (
            "",
            400,
            r#"this is not an order: EOF while parsing a value at line 1 column 0; write one like {"order":"drain","server":"web1"}"#,
        ),
        ("{", 400, "this is not an order: EOF while parsing an object"),
        (
            r#"{"order":"fly"}"#,
            400,
            "this is not an order: unknown variant `fly`, expected one of `status`, `reload`, `publish`, `diff`",
        ),
        (r#"{"order":"drain"}"#, 400, "this is not an order: missing field `server`"),
        (r#"{"order":"trace","client":"x","watch_ms":0}"#, 400, "this is not an order: invalid IP address syntax"),
        (
            r#"{"order":"trace","client":"192.0.2.1","watch_ms":60001}"#,
            400,
            "a trace watches for at most 60s, not for 60001 ms",
        ),
        (r#"{"order":"talkers","for_ms":60001}"#, 400, "talkers are counted for at most 60s, not for 60001 ms"),
        (r#"{"order":"capture","snap":9217}"#, 400, "a capture keeps 1 to 9216 bytes of a frame, not 9217"),
        (r#"{"order":"capture","seconds":86401}"#, 400, "a capture takes at most 86400 seconds"),
        (
            r#"{"order":"capture","host":"x"}"#,
            400,
            "this is not an order: unknown field `host`, expected one of `client`, `service`",
        ),
        (
            r#"{"order":"drain","server":"web1","timeout":5}"#,
            400,
            "this is not an order: unknown field `timeout`, expected one of `server`, `service`, `timeout_s`, `force`; \
             write one like",
        ),
        (
            r#"{"order":"undrain","server":"web1","force":false}"#,
            400,
            "this is not an order: unknown field `force`, expected ",
        ),
        (
            r#"{"order":"reload","forced":true}"#,
            400,
            "this is not an order: unknown field `forced`, expected `force` or ",
        ),
        (
            r#"{"order":"status","verbose":true}"#,
            400,
            "this is not an order: unknown field `verbose`, there are no fields but `order`; ",
        ),
        (r#"["reload"]"#, 400, "this is not an order: "),
        (&too_long, 413, "an order has at most 2097152 bytes; nothing was done"),
    ] {
        let reply = unix(&fake.socket, "POST", "/order", body);
        assert_eq!(reply.status, status, "{reply:?}");
        assert!(reply.refused().starts_with(words), "{reply:?}");
    }
    assert_eq!(fake.orders(), []);
}

#[test]
fn over_tcp_there_is_nothing_but_reading() {
    let fake = Fake::start();
    for path in ["/metrics", "/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(tcp(&fake, "GET", path).status, 200, "{path}");
        assert_eq!(unix(&fake.socket, "GET", path, "").status, 200, "{path}");
        let reply = tcp(&fake, "POST", path);
        assert_eq!(reply.status, 405, "{path}");
        assert_eq!(
            reply.body,
            "this method is not allowed; there are GET /metrics, /healthz, /readyz and \
                                /openapi.json\n"
        );
        assert!(reply.head.contains("allow: get,head"), "{}", reply.head);
    }
    for (method, path) in
        [("GET", "/status"), ("POST", "/order"), ("GET", "/lookup"), ("GET", "/"), ("GET", "/metrics/x")]
    {
        let reply = tcp(&fake, method, path);
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (404, "not found; there are GET /metrics, /healthz, /readyz and /openapi.json\n")
        );
    }
    let there_are =
        "there are POST /order, GET /status, /lookup, /talkers, /metrics, /healthz, /readyz and /openapi.json\n";
    for (method, path, status, words) in [
        ("GET", "/order", 405, "this method is not allowed; "),
        ("DELETE", "/status", 405, "this method is not allowed; "),
        ("GET", "/orders", 404, "not found; "),
    ] {
        let reply = unix(&fake.socket, method, path, "");
        assert_eq!((reply.status, reply.body), (status, format!("{words}{there_are}")));
    }
    assert_eq!(fake.orders(), []);
}

#[test]
fn what_is_not_http_is_closed() {
    let fake = Fake::start();
    let reply = exchange(UnixStream::connect(&fake.socket).unwrap(), b"\x16\x03\x01 hello\r\n\r\n");
    assert_eq!(reply.unwrap().status, 400);
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(32 << 10));
    let status = exchange(UnixStream::connect(&fake.socket).unwrap(), long.as_bytes()).map_or(0, |reply| reply.status);
    assert!([0, 414, 431].contains(&status), "{status}");
    assert_eq!(tcp(&fake, "GET", "/healthz").status, 200, "others are served on");
}

/// Heads that never end, bodies that never come, answers that nobody reads: as many of each as are served at once.
#[test]
fn slow_clients_are_gone_in_bounded_time_and_keep_nobody_out_on_the_other_side() {
    let fake = Fake::start();
    let start = Instant::now();
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..ADMIN_CONNECTIONS + 8 {
        let mut stream = TcpStream::connect(fake.metrics).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: ").unwrap();
        held.push(stream);
    }
    let mut half: Vec<UnixStream> = Vec::new();
    for _ in 0..ADMIN_CONNECTIONS / 2 {
        let mut stream = UnixStream::connect(&fake.socket).unwrap();
        stream.write_all(b"POST /order HTTP/1.1\r\nhost: x\r\ncontent-length: 18\r\n\r\n{\"order\"").unwrap();
        half.push(stream);
    }
    // An operator has a place all the same, while the slow ones have theirs.
    assert_eq!(unix(&fake.socket, "GET", "/status", "").status, 200);
    half[0].set_nonblocking(true).unwrap();
    assert_eq!(half[0].read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    half[0].set_nonblocking(false).unwrap();
    // Who scrapes waits until the slow ones' time is over.
    assert_eq!(tcp(&fake, "GET", "/healthz").status, 200);
    assert!(start.elapsed() >= ADMIN_PATIENCE, "{:?}", start.elapsed());
    for mut stream in half {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let reply = http::reply(&text).expect("an answer");
        assert_eq!(reply.status, 408);
        assert_eq!(reply.refused(), "the order did not arrive within 5s; nothing was done");
    }
    for mut stream in held.drain(..ADMIN_CONNECTIONS) {
        assert!(stream.read_to_end(&mut Vec::new()).is_ok(), "it was closed");
    }
    assert_eq!(fake.orders(), []);
}

#[test]
fn orders_of_many_are_carried_out_one_after_the_other() {
    let fake = Fake::with(Script {
        answer: |_| Some(Answer::Done { changes: Vec::new() }),
        pause: Duration::from_millis(5),
        ..Script::default()
    });
    let start = Instant::now();
    thread::scope(|scope| {
        for client in 0..32 {
            let fake = &fake;
            scope.spawn(move || {
                for n in 0..4 {
                    let body = format!(r#"{{"order":"weight","server":"web1","weight":{}}}"#, client * 4 + n);
                    assert_eq!(unix(&fake.socket, "POST", "/order", &body).status, 200);
                }
            });
        }
    });
    assert!(start.elapsed() >= 128 * Duration::from_millis(5));
    let mut weights: Vec<Option<u32>> = fake
        .orders()
        .into_iter()
        .map(|order| match order {
            Order::Weight { weight, .. } => weight,
            other => panic!("{other:?}"),
        })
        .collect();
    weights.sort_unstable();
    assert_eq!(weights, (0..128).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_control_thread_that_does_not_answer_is_said_to_hang() {
    let fake = Fake::with(Script { answer: |_| None, ..Script::default() });
    let start = Instant::now();
    let reply = unix(&fake.socket, "POST", "/order", r#"{"order":"reload"}"#);
    assert_eq!(reply.status, 503);
    let words = "the control thread did not answer within 10s; the order may still be carried out: see `oneip ctl \
                 status`";
    assert_eq!(reply.refused(), words);
    assert!(start.elapsed() >= ORDER_MOST, "{:?}", start.elapsed());
}

#[test]
fn a_control_thread_that_is_busy_leaves_the_orders_of_those_who_gave_up() {
    let fake = Fake::with(Script { pause: ORDER_MOST + Duration::from_secs(1), ..Script::default() });
    let replies = thread::scope(|scope| {
        let order = |server| {
            let body = format!(r#"{{"order":"enable","server":"{server}"}}"#);
            unix(&fake.socket, "POST", "/order", &body)
        };
        let clients: Vec<_> = ["a", "b", "c"]
            .map(|server| {
                let thread = scope.spawn(move || order(server));
                thread::sleep(Duration::from_millis(300));
                thread
            })
            .into();
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(replies.iter().all(|reply| reply.status == 503), "{replies:?}");
    assert!(replies[0].refused().contains("may still be carried out"), "{replies:?}");
    assert!(replies[1].refused().contains("may still be carried out"), "{replies:?}");
    assert!(replies[2].refused().contains("busy") && replies[2].refused().contains("nothing was done"), "{replies:?}");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(
        fake.orders(),
        [Order::Enable { server: "a".into(), service: None }],
        "the second's asker had gone when its turn came"
    );
}

#[test]
fn a_stats_thread_that_does_not_answer_is_no_zero() {
    let script = Script::default();
    *script.figures.lock().unwrap() = None;
    let fake = Fake::with(script);
    for path in ["/metrics", "/healthz"] {
        let reply = tcp(&fake, "GET", path);
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (503, "the stats thread did not deliver its counters within 2s\n")
        );
    }
    let reply = unix(&fake.socket, "GET", "/status", "");
    assert_eq!(
        (reply.status, reply.refused().as_str()),
        (
            503,
            "the stats thread did not deliver its counters within \
                                                                2s"
        )
    );
}

#[test]
fn threads_that_have_ended_are_said_to_have() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s.sock");
    let plan = oneip::model::Admin { socket: socket.clone(), socket_given: true, ..Default::default() };
    let (backend, asked) = oneip::admin::channel(crate::fake::nothing(), drop);
    drop(asked);
    let _server = oneip::admin::bind(&plan).unwrap().start(backend).unwrap();
    let words = "the thread that was asked has ended: this process is about to stop";
    let reply = unix(&socket, "POST", "/order", r#"{"order":"reload"}"#);
    assert_eq!((reply.status, reply.refused().as_str()), (503, words));
    let words = "the control thread has not reported the state of the servers yet\n";
    assert_eq!(unix(&socket, "GET", "/healthz", "").body, words);
}

#[test]
fn a_client_that_goes_leaves_its_place() {
    let fake = Fake::with(Script { pause: Duration::from_millis(20), ..Script::default() });
    for _ in 0..2 * ADMIN_CONNECTIONS {
        let mut stream = UnixStream::connect(&fake.socket).unwrap();
        stream.write_all(request("GET", "/status", "").as_bytes()).unwrap();
    }
    assert_eq!(unix(&fake.socket, "GET", "/status", "").status, 200);
}
