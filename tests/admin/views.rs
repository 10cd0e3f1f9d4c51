//! The views for people, from documents alone.

use crate::sample;
use oneip::admin::finding::Finding;
use oneip::admin::order::Trace;
use oneip::admin::status::{CheckStatus, LatencyStatus, ProgramStatus, State, Status};
use oneip::ctl::{rates, stats, status, talkers, trace};
use std::time::Duration;

/// With counters, and every state that says something.
fn busy() -> Status {
    let mut status = sample::status();
    (status.frames, status.forwarded, status.passed) = (12_345_678, 12_345_000, 600);
    status.dropped = [("no_service".to_owned(), 70), ("tx_full".to_owned(), 8)].into();
    status.services[0].latency_ns =
        Some(LatencyStatus { count: 12_000_000, p50: 3_100, p90: 5_200, p99: 12_345, p999: 90_123, max: 1_234_567 });
    let servers = &mut status.services[0].servers;
    (servers[0].frames, servers[0].bytes, servers[0].new_flows) = (12_000_000, 3_456_789_012, 1234);
    servers[1].state = State::Down;
    servers[1].why = "no answer within 500 ms".to_owned();
    servers[1].check = Some(CheckStatus {
        age_s: Some(0.5),
        latency_ms: None,
        failing: true,
        failure: Some("no answer within 500 ms".to_owned()),
        failure_age_s: Some(0.5),
        unchecked: None,
        unchecked_s: None,
    });
    servers[2].check.as_mut().unwrap().failure = Some("status 503".to_owned());
    servers[2].check.as_mut().unwrap().failure_age_s = Some(0.4);
    servers[2].check.as_mut().unwrap().failing = true;
    status.workers[0].received = 12_000_000;
    (status.workers[0].turns, status.workers[0].pins, status.workers[0].pins_most) = (true, 1500, 1 << 20);
    (status.workers[1].turns, status.workers[1].stuck) = (true, true);
    status
}

/// Without the blanks at their ends.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim_end).collect()
}

#[test]
fn the_engine_in_the_kernel_has_cores_and_a_run_time() {
    let mut status = busy();
    status.engine = Some("xdp".to_owned());
    status.program = Some(ProgramStatus { run_time_ns: 2_400_000_000, runs: 30_000_000 });
    let text = status::text(&status);
    for line in [
        "  configuration /etc/oneip/cluster.toml, engine xdp\n",
        "  core 2, where the program in the kernel runs, received 12.0 M\n",
        "  the program took 2.4 s of the cores' time for 30.0 M frames, 80 ns each\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
}

/// Five at most: those that fail first, and otherwise in the order in which doctor looks.
#[test]
fn the_worst_of_the_host_come_first_in_a_status() {
    let found = |name: &str, fails: bool| match fails {
        true => Finding::fail(name, "it fails").mend("mend it"),
        false => Finding::warn(name, "it is slow"),
    };
    let mut status = busy();
    let of = |status: &Status| -> Vec<String> {
        let text = status::text(status);
        let is_of_host = |line: &&str| ["  fail ", "  warn ", "  and "].iter().any(|start| line.starts_with(start));
        text.lines().filter(is_of_host).map(str::to_owned).collect()
    };
    assert_eq!(of(&status), [""; 0]);
    status.findings = [("mtu", false), ("gro", false), ("link", true), ("numa", false), ("routes", true)]
        .map(|(name, fails)| found(name, fails))
        .into();
    let five = [
        "  fail link: it fails; mend it",
        "  fail routes: it fails; mend it",
        "  warn mtu: it is slow",
        "  warn gro: it is slow",
        "  warn numa: it is slow",
    ];
    assert_eq!(of(&status), five);
    status.findings.extend([found("clock", false), found("bpf_jit", false)]);
    let more = "  and 2 more: oneip doctor -c /etc/oneip/cluster.toml";
    assert_eq!(of(&status), [&five[..], &[more]].concat());
    status.findings.push(found("memlock", true));
    let said = of(&status);
    assert_eq!(said[2], "  fail memlock: it fails; mend it");
    assert_eq!((said.len(), said[5].as_str()), (6, more.replace('2', "3").as_str()));
}

#[test]
fn a_status_is_grouped_by_service() {
    let expected = format!(
        "\
oneip {}, dispatcher on eth1, up 3 d 4 h (process 812), table generation 17
  configuration /etc/oneip/cluster.toml, engine af_xdp
  worker 0 on core 2 runs, received 12.0 M, remembers 1500 of 1.05 M flows
  worker 1 on core 3 runs, but its transmit ring is STUCK, received 0
  frames in 12.3 M = forwarded 12.3 M + dropped 78 + passed 600
    dropped no_service       70  to a cluster address, but no service has that protocol and port
    dropped tx_full           8  the transmit ring was full: the link is down, or it or the kernel takes frames slower than they come

service web: 203.0.113.80 tcp/80 tcp/443; maglev over the source, 65537 slots
  announced
  latency p50 3.10 us, p90 5.20 us, p99 12.3 us, p99.9 90.1 us, max 1235 us (12.0 M frames)
  server  address     state       since  weight  slots    share  frames    bytes  new flows    check
  web1    192.0.2.11  up     1 h 10 min       1  21845  33.33 %  12.0 M  3.46 GB       1234  0.81 ms
  web2    192.0.2.12  down   1 h 10 min       1  21845  33.33 %       0      0 B          0  failing  no answer within 500 ms
  web3    192.0.2.13  up     1 h 10 min       1  21845  33.33 %       0      0 B          0  0.81 ms  a check failed 0.4 s ago: status 503

service dns: 203.0.113.53 tcp/80 tcp/443; maglev over the source, 65537 slots, 1200 of them moving: their connections stay where they are
  NOT ANNOUNCED: withdrawn by oneip ctl withdraw
  server  address     state          since     weight  slots    share  frames  bytes  new flows  check
  ns1     192.0.2.51  up        1 h 10 min          1  21845  33.33 %       0    0 B          0
  ns2     192.0.2.52  draining  1 h 10 min  3 (not 1)  21845  33.33 %       0    0 B          0         by `ctl drain`, its connections end in 312 s",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(lines(&status::text(&busy())), lines(&expected));
}

#[test]
fn whether_clients_should_come_is_told_by_service() {
    let mut status = busy();
    assert_eq!(status::ready(&status, Some("web")), Ok(()));
    let error = "service dns is not ready: withdrawn by oneip ctl withdraw";
    assert_eq!(status::ready(&status, None), Err(error.to_owned()));
    assert_eq!(status::ready(&status, Some("x")), Err("there is no service x; there are web, dns".to_owned()));
    let announce = status.services[0].announce.as_mut().unwrap();
    // Without [announce] there is no route, and the answer is the same.
    announce.announced = None;
    assert!(!status::text(&status).contains("\n  announced"));
    let announce = status.services[0].announce.as_mut().unwrap();
    (announce.ready, announce.why) = (false, "eth1 is down".to_owned());
    assert!(status::text(&status).contains("\n  NOT READY: eth1 is down\n"));
    let both = format!("service web is not ready: eth1 is down\n{error}");
    assert_eq!(status::ready(&status, None), Err(both));
    status.services[0].announce = None;
    assert_eq!(status::ready(&status, Some("web")), Err("service web was not judged yet".to_owned()));
    status.mode = "filter".to_owned();
    assert_eq!(
        status::ready(&status, None),
        Err("a filter is not announced; give the order to a dispatcher".to_owned())
    );
}

#[test]
fn a_failure_is_shown_until_a_check_succeeds() {
    let mut status = busy();
    assert!(status::text(&status).contains("a check failed"));
    status.services[0].servers[2].check.as_mut().unwrap().failing = false;
    assert!(!status::text(&status).contains("a check failed"), "it is over");
}

#[test]
fn where_nothing_is_dropped_the_rate_is_0() {
    let status = sample::status();
    let rates = rates::between(&status, &status, Duration::from_secs(1)).unwrap();
    assert!(rates.dropped.is_empty());
    let text = stats::text(&rates);
    assert!(text.starts_with("in 0/s  forwarded 0/s  dropped 0/s  passed 0/s\n"), "{text}");
}

#[test]
fn a_filter_s_status_has_a_line_for_each_of_the_others() {
    let text = status::text(&Status { peers: sample::peers(), workers: Vec::new(), ..sample::status() });
    let than = "than this one; a client may be answered by two servers or by none:";
    let expected = [
        "  the filter of web2 is heard, and agrees".to_owned(),
        "  the filter of web3 is heard".to_owned(),
        format!(
            "  NOTE: the filter of web3 has another configuration {than} give both the same services, servers and weights, and \
             reload"
        ),
        format!("  NOTE: the filter of web3 has other orders {than} give both the same orders with oneip ctl"),
        "  the filter of web4 is NOT HEARD: its last message came 1 min 15 s ago".to_owned(),
        "  the filter of web5 is NOT HEARD".to_owned(),
        format!("  NOTE: the filter of web5 has another hash_key {than} give both the same, and reload"),
    ];
    assert_eq!(lines(&text)[2..9], expected);
}

#[test]
fn a_status_says_what_is_missing() {
    let mut status = sample::status();
    status.generation = 0;
    status.workers[0].turns = false;
    let servers = &mut status.services[0].servers;
    servers[0].why = "its MAC address is not known".to_owned();
    let check = servers[1].check.as_mut().unwrap();
    (check.unchecked, check.unchecked_s) = (Some("fwmark routes cannot be made".to_owned()), Some(12.7));
    servers[2].check = Some(CheckStatus {
        age_s: None,
        latency_ms: None,
        failing: false,
        failure: None,
        failure_age_s: None,
        unchecked: None,
        unchecked_s: None,
    });
    let text = status::text(&status);
    for part in [
        "(process 812), no table yet\n",
        "worker 0 on core 2 HANGS, received 0\n",
        "its MAC address is not known",
        "unchecked since 12 s: fwmark routes cannot be made",
        "not yet",
        "frames in 0 = forwarded 0 + dropped 0 + passed 0\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn rates_are_differences_by_the_second() {
    let (before, mut now) = (busy(), busy());
    now.uptime_s += 2.0;
    (now.frames, now.forwarded, now.passed) = (now.frames + 5000, now.forwarded + 4000, now.passed + 10);
    now.dropped.insert("ttl".to_owned(), 20);
    now.services[0].servers[0].frames += 3000;
    now.services[0].servers[0].bytes += 200_000;
    now.services[0].servers[2].new_flows += 9;
    // One that a reload brought.
    let mut new = sample::server("web4", 3);
    (new.frames, new.bytes) = (1000, 64_000);
    now.services[0].servers.push(new);
    let rates = rates::between(&before, &now, Duration::from_secs(2)).unwrap();
    let text = stats::text(&rates);
    let expected = "\
in 2.50 k/s  forwarded 2.00 k/s  dropped 10/s  passed 5/s
  dropped ttl 10/s
  service  server  frames/s  bytes/s  new flows/s
  web      web1      1.50 k    100 k            0
  web      web2           0        0            0
  web      web3           0        0         4.50
  web      web4         500   32.0 k            0
  web      all       2.00 k    132 k         4.50
  dns      ns1            0        0            0
  dns      ns2            0        0            0
  dns      all            0        0            0
";
    assert_eq!(text, expected);
}

#[test]
fn there_are_no_rates_between_two_processes() {
    let (before, mut now) = (busy(), busy());
    now.pid += 1;
    assert_eq!(rates::between(&before, &now, Duration::from_secs(1)), None);
    (now.pid, now.uptime_s) = (before.pid, 3.0);
    assert_eq!(rates::between(&before, &now, Duration::from_secs(1)), None, "the same number, used again");
    let calm = rates::between(&before, &before, Duration::ZERO).unwrap();
    assert_eq!((calm.frames, calm.dropped.len(), calm.services.len()), (0.0, 0, 2), "two looks at one moment");
}

#[test]
fn a_trace_says_who_gets_what_and_what_was_seen() {
    let expected = "\
client 198.51.100.7

service web: hash 0x0123456789abcdef, slot 291
  new connections go to web2
  failover order: web2, web3, web1

service dns: hash 0x0123456789abcdef, slot 291
  new connections go to ns1
  connections begun before the change stay on ns2
  failover order: ns2, ns1

2 frames seen within 2 s
    after  worker  bytes  protocol  verdict
  12.3 ms       1     74  tcp       forward to web2 (web)
   900 ms       1     74  tcp       drop, no_service";
    assert_eq!(trace::text(&sample::trace(true), Duration::from_secs(2)), expected);
    let nothing = trace::text(&sample::trace(false), Duration::from_millis(500));
    assert!(nothing.ends_with("\n\nno frame of this client came within 0.5 s"), "{nothing}");
    let unwatched = trace::text(&sample::trace(false), Duration::ZERO);
    assert!(unwatched.ends_with("failover order: ns2, ns1"), "{unwatched}");
}

#[test]
fn a_lookup_is_a_row_a_service() {
    let expected = "\
client        service  server  slot
198.51.100.7  web      web2     291
198.51.100.7  dns      ns1      291  connections begun before stay on ns2";
    assert_eq!(lines(&trace::lookup(&sample::trace(false))), lines(expected));
    let mut closed = sample::trace(false);
    closed.services[0].server = None;
    assert!(trace::lookup(&closed).contains("  web      (no server is up)   291"));
    let foreign = Trace { client: "2001:db8::7".parse().unwrap(), services: Vec::new(), frames: Vec::new() };
    assert_eq!(trace::lookup(&foreign), "2001:db8::7: no service has an IPv6 address");
    assert_eq!(trace::text(&foreign, Duration::ZERO), "2001:db8::7: no service has an IPv6 address");
}

#[test]
fn talkers_are_a_row_a_source() {
    let expected = "\
1000 frames sampled in 2 s, one in 64

source             service    share  frames/s   dropped      bit/s  SYN/s
198.51.100.7       web      75.00 %    24.0 k   50.00 %  19.2 Mbit    320
2001:db8:0:7::/64  (none)   12.50 %    4.00 k  100.00 %  3.20 Mbit      0
198.51.100.8       dns       0.10 %        32    0.00 %  25.6 kbit     32";
    let mut talkers = sample::talkers();
    assert_eq!(talkers::text(&talkers), expected);
    (talkers.missed, talkers.one_in) = (70, 1);
    assert!(talkers::text(&talkers).starts_with(
        "1000 frames sampled in 2 s, all\n70 more were missed because the buffer was full; use a larger --one-in\n"
    ));
    talkers.sources.clear();
    assert!(talkers::text(&talkers).ends_with("nobody was seen"));
}
