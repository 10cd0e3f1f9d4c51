//! The dispatcher inside the kernel (`engine = "xdp"`, and the net under AF_XDP): what goes on without a process, and what takes its place.
//! (With `LAB_ENGINE=xdp` the other tests run over it too.)

use std::fmt::Write as _;
use std::fs;
use std::net::UdpSocket;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oneip::limits::RING;
use rustix::process::{Pid, Signal, kill_process};

use crate::dispatcher::{Dispatcher, is_attached, run};
use crate::echo::{Echo, round_trip};
use crate::network::{AF_XDP, Lab, SERVERS, WEB, XDP, clients, eventually, lookup, say, succeed, write_config};
use crate::operator::connected;
use crate::restart::browse;
use crate::stop::Stop;

const TAKEN_OVER: &str = "taken over from the process before";

#[test]
fn what_was_killed_goes_on_and_the_next_takes_it_over() {
    goes_on("xdp", "XDP program in the kernel, native XDP, goes on if this process is killed");
}

/// Without workers their frames are dispatched by the program that gave them to the workers.
#[test]
fn under_af_xdp_is_a_net() {
    goes_on("af_xdp", "AF_XDP, copy mode, native XDP");
}

/// Stopped by a signal, it stands for every way in which workers can stand still: nobody receives, nobody publishes.
#[test]
fn under_af_xdp_the_net_dispatches_for_workers_that_hang() {
    let Some(lab) = &Lab::up(&["--engine", "af_xdp"]) else { return };
    let all = &clients(0)[..40];
    let expected = lookup(&lab.config(), WEB[0], all, &[]);
    let stop = &AtomicBool::new(false);
    let dispatcher = Dispatcher::start(lab, &[]);
    let process = Pid::from_child(dispatcher.child());
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let browsers: Vec<_> =
            all[..10].iter().map(|client| scope.spawn(move || browse(lab, 0, client, stop))).collect();
        connected(lab, &all[..10]);
        let of_workers = received(lab);
        kill_process(process, Signal::STOP).unwrap();
        // Longer than `heartbeat_ms`.
        thread::sleep(Duration::from_millis(300));
        assert_eq!(lab.fetch(0, all), expected, "while the process is stopped");
        kill_process(process, Signal::CONT).unwrap();
        eventually("the workers receive again", || received(lab) > of_workers + 200);
        assert_eq!(lab.fetch(0, all), expected, "and afterwards");
        drop(when_done);
        for (browser, expected) in browsers.into_iter().zip(&expected) {
            let (requests, server) = browser.join().unwrap();
            assert!(server == expected.1 && requests > 5, "{requests} of {server}");
        }
    });
    let account = dispatcher.stop();
    assert_eq!(account.dropped_total(), 0, "{}", account.json);
}

/// Frames that workers have received.
fn received(lab: &Lab) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap();
    let workers = status["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["received"].as_u64().unwrap()).sum()
}

fn goes_on(engine: &str, said: &str) {
    let Some(lab) = &Lab::up(&["--engine", engine]) else { return };
    let all: Vec<Vec<String>> = (0..2).map(|family| clients(family)[..40].to_vec()).collect();
    let serves = |when: &str| {
        for (family, all) in all.iter().enumerate() {
            assert_eq!(lab.fetch(family, all), lookup(&lab.config(), WEB[family], all, &[]), "{when}");
        }
    };
    let dispatcher = Dispatcher::start(lab, &[]);
    assert!(dispatcher.said().contains(said), "{}", dispatcher.said());
    let status: serde_json::Value = serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap();
    assert_eq!(status["engine"], engine);
    serves("at first");
    dispatcher.kill();
    assert!(is_attached(lab));
    serves("with no process at all");
    let dispatcher = Dispatcher::start(lab, &[]);
    assert!(dispatcher.said().contains(TAKEN_OVER), "{}", dispatcher.said());
    serves("by the next process");
    let account = dispatcher.stop();
    assert!(
        account.number("forwarded") > 400 && account.dropped_total() == 0,
        "its own frames alone: {}",
        account.json
    );
    assert!(!lab.file("bpf/lan0").exists(), "nothing is left where programs are kept");

    Dispatcher::start(lab, &[]).kill();
    let detach = || run(lab, &lab.config()).arg("--detach").output().unwrap();
    let out = |said: &Output| String::from_utf8_lossy(&said.stdout).into_owned();
    let said = detach();
    assert!(said.status.success() && !is_attached(lab), "{said:?}");
    assert_eq!(out(&said), "the dispatcher's program is detached from lan0\n");
    let dispatcher = Dispatcher::start(lab, &[]);
    let said = detach();
    let process = dispatcher.child().id();
    assert_eq!(
        out(&said),
        format!("oneip, process {process}, is at work on lan0: the dispatcher's program is detached when that ends\n"),
        "{said:?}"
    );
    assert!(is_attached(lab));
    dispatcher.kill();
    eventually("it goes with its process", || !is_attached(lab));
    let said = String::from_utf8(detach().stderr).unwrap();
    assert!(said.contains("error: there is no dispatcher's program on lan0; nothing was changed\n"), "{said}");
}

/// Sends one at a time, until told to stop: how many there were. Every one must come back.
fn datagrams(socket: &UdpSocket, stop: &AtomicBool) -> usize {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        assert!(round_trip(socket, 18).is_some(), "datagram {sent} is lost");
        sent += 1;
    }
    sent
}

#[test]
fn no_frame_is_lost_when_another_process_takes_over() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let _echo = Echo::serve(lab);
    let stop = &AtomicBool::new(false);
    let first = Dispatcher::start(lab, &[]);
    let sockets: Vec<UdpSocket> = clients(0)[..3].iter().map(|client| lab.datagrams(0, client)).collect();
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let senders: Vec<_> = sockets.iter().map(|socket| scope.spawn(|| datagrams(socket, stop))).collect();
        lab.ctl(&["drain", "web1"]);
        let second = Dispatcher::start(lab, &["--takeover"]);
        assert!(second.said().contains(TAKEN_OVER), "{}", second.said());
        let account = first.ended();
        assert!(account.number("forwarded") > 0, "the first one ended by itself: {}", account.json);
        assert_eq!(lab.server("web", "web1")["state"], "draining", "orders are taken over too");
        second.kill();
        let third = Dispatcher::start(lab, &[]);
        drop(when_done);
        for sender in senders {
            assert!(sender.join().unwrap() > 10);
        }
        third.stop();
    });
    let said = run(lab, &lab.config()).arg("--takeover").output().unwrap();
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("error: --takeover: no oneip to take over from at "), "{said}");
}

/// As the package's scripts do it at an upgrade, over a service manager that knows nothing of takeovers.
#[test]
fn no_frame_is_lost_when_it_hands_over_and_is_started_again() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let _echo = Echo::serve(lab);
    let stop = &AtomicBool::new(false);
    let first = Dispatcher::start(lab, &[]);
    let sockets: Vec<UdpSocket> = clients(0)[..3].iter().map(|client| lab.datagrams(0, client)).collect();
    thread::scope(|scope| {
        let when_done = Stop(stop);
        let senders: Vec<_> = sockets.iter().map(|socket| scope.spawn(|| datagrams(socket, stop))).collect();
        assert_eq!(lab.ctl(&["hand-over"]), "it ends, and leaves what dispatches\n");
        assert!(first.ended().number("forwarded") > 0);
        let second = Dispatcher::start(lab, &[]);
        assert!(second.said().contains(TAKEN_OVER), "{}", second.said());
        drop(when_done);
        for sender in senders {
            assert!(sender.join().unwrap() > 10);
        }
        second.stop();
    });
}

/// Datagrams a second of `stream`.
const RATE: f64 = 2000.0;

/// Sends in turns, so many a second however the machine falls behind, until told to stop: how many.
fn stream(sockets: &[UdpSocket], stop: &AtomicBool) -> u64 {
    let (start, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        while (sent as f64) < start.elapsed().as_secs_f64() * RATE {
            sockets[sent as usize % sockets.len()].send(&[7; 18]).unwrap();
            sent += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    sent
}

/// Datagrams that have come to the servers, those included that a server had no room for.
fn arrived(lab: &Lab) -> u64 {
    // Of "InDatagrams NoPorts InErrors ...".
    let count = "awk '/^Udp: [0-9]/ { print $2 + $4 }' /proc/net/snmp";
    SERVERS.iter().map(|server| lab.sh(server, count).trim().parse::<u64>().unwrap()).sum()
}

/// What is in the rings of a process that ends, it dispatches before; what comes then, the net.
#[test]
fn over_af_xdp_no_more_is_lost_than_is_in_the_rings_when_another_process_takes_over() {
    let Some(lab) = &Lab::up(&AF_XDP) else { return };
    let _echo = Echo::serve(lab);
    let stop = &AtomicBool::new(false);
    let first = Dispatcher::start(lab, &[]);
    let sockets: Vec<UdpSocket> = clients(0)[..20].iter().map(|client| lab.datagrams(0, client)).collect();
    let before = arrived(lab);
    let sent = thread::scope(|scope| {
        let when_done = Stop(stop);
        let sender = scope.spawn(|| stream(&sockets, stop));
        let goes_on = |when: &str| {
            let now = arrived(lab);
            eventually(when, || arrived(lab) > now + RATE as u64 / 2);
        };
        goes_on("the first dispatches");
        let second = Dispatcher::start(lab, &["--takeover"]);
        assert!(second.said().contains(TAKEN_OVER), "{}", second.said());
        assert!(first.ended().number("forwarded") > 0);
        goes_on("the second dispatches");
        lab.ctl(&["hand-over"]);
        assert!(second.ended().number("forwarded") > 0);
        goes_on("the net dispatches");
        let third = Dispatcher::start(lab, &[]);
        assert!(third.said().contains(TAKEN_OVER), "{}", third.said());
        goes_on("the third dispatches");
        drop(when_done);
        let sent = sender.join().unwrap();
        third.stop();
        sent
    });
    let mut lost = sent;
    let give_up = Instant::now() + Duration::from_secs(20);
    while lost > 0 && Instant::now() < give_up {
        lost = sent - (arrived(lab) - before);
    }
    say(&format!("AF_XDP, a takeover, a hand-over and a start: of {sent} datagrams {lost} were lost"));
    // A gap while a process starts would be longer.
    const { assert!(RATE as usize / 10 < RING, "so many fit in a ring") };
    assert!(lost <= RATE as u64 / 10, "{lost} of {sent} are lost");
}

/// 64 services more, each with slots of its own, do not fit in the maps that the program was loaded with.
#[test]
fn a_table_that_has_outgrown_the_maps_gets_a_larger_program() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let config = lab.config();
    let all = &clients(0)[..30];
    let before = std::fs::read_to_string(&config).unwrap();
    let dispatcher = Dispatcher::start(lab, &[]);
    let number = program(lab);
    let expected = lookup(&config, WEB[0], all, &[]);
    assert_eq!(lab.fetch(0, all), expected);
    let mut more = before.clone();
    for n in 1..=64 {
        let _ = write!(
            more,
            "\n[[service]]\nname = \"more{n}\"\naddress = \"203.0.113.{}\"\n\n[[service.server]]\nname = \"a{n}\"\naddress = \
             \"192.0.2.11\"\n\n[[service.server]]\nname = \"b{n}\"\naddress = \"192.0.2.12\"\n",
            100 + n
        );
    }
    write_config(&config, &more);
    lab.ctl(&["reload"]);
    assert_ne!(program(lab), number, "a larger one is there");
    assert_eq!(lab.fetch(0, all), expected);
    write_config(&config, &before);
    lab.ctl(&["reload"]);
    assert_eq!(lab.fetch(0, all), expected);
    let account = dispatcher.stop();
    let of_web: u64 = ["web1", "web2", "web3"].map(|server| account.server(server, "frames")).iter().sum();
    assert_eq!(account.number("forwarded"), of_web, "all are counted on the servers' accounts: {}", account.json);
    assert!(of_web >= 3 * 30 * 5, "those of all three programs: {}", account.json);
}

/// The number of the XDP program on the dispatcher's interface.
fn program(lab: &Lab) -> String {
    let said = succeed(lab.command("dispatcher", "ip").args(["-d", "link", "show", "dev", "lan0"]));
    let at = said.find("prog/xdp id ").unwrap_or_else(|| panic!("no program: {said}"));
    said[at..].split_whitespace().nth(2).unwrap().to_owned()
}

/// `ip netns exec` has a /sys of its own, without a BPF file system.
fn ends_with_its_process_where_there_is_no_bpf_file_system(options: &[&str]) {
    let Some(lab) = &Lab::up(options) else { return };
    let text = fs::read_to_string(lab.config()).unwrap();
    let kept = lab.file("bpf").display().to_string();
    assert!(text.contains(&kept));
    write_config(&lab.config(), &text.replace(&kept, "/sys/fs/bpf/oneip"));
    let warning = "bpf_fs: /sys/fs/bpf/oneip is not on a BPF file system: if the process is killed, nothing is dispatched any more; mount -t bpf \
                   bpf /sys/fs/bpf";
    let all = &clients(0)[..24];
    let expected = lookup(&lab.config(), WEB[0], all, &[]);
    let dispatcher = Dispatcher::start(lab, &[]);
    assert!(dispatcher.said().contains(warning), "{}", dispatcher.said());
    assert_eq!(lab.fetch(0, all), expected);
    dispatcher.kill();
    eventually("it goes with its process", || !is_attached(lab));

    // The command that it tells, in the same namespace.
    let run = run(lab, &lab.config());
    let arguments: Vec<_> = run.get_args().skip_while(|argument| *argument != env!("CARGO_BIN_EXE_oneip")).collect();
    let mut mounted = lab.command("dispatcher", "sh");
    mounted.args(["-c", "mount -t bpf bpf /sys/fs/bpf && exec \"$@\"", "sh"]).args(arguments);
    let dispatcher = Dispatcher::start_by(lab, mounted, &[]);
    assert!(!dispatcher.said().contains("bpf_fs"), "{}", dispatcher.said());
    assert_eq!(lab.fetch(0, all), expected);
    dispatcher.stop();
}

#[test]
fn without_a_bpf_file_system_it_says_that_it_ends_with_its_process() {
    ends_with_its_process_where_there_is_no_bpf_file_system(&XDP);
}

#[test]
fn without_a_bpf_file_system_workers_have_no_net() {
    ends_with_its_process_where_there_is_no_bpf_file_system(&AF_XDP);
}

fn says_that_it_was_detached(options: &[&str]) {
    let Some(lab) = &Lab::up(options) else { return };
    let all = &clients(0)[..24];
    let expected = lookup(&lab.config(), WEB[0], all, &[]);
    let health = || {
        let mut curl = lab.command("dispatcher", "curl");
        succeed(curl.args(["-sS", "http://oneip/healthz", "--unix-socket"]).arg(lab.file("oneip.sock")))
    };
    let dispatcher = Dispatcher::start(lab, &[]);
    assert_eq!((lab.fetch(0, all), health().as_str()), (expected.clone(), "ok\n"));
    lab.detach_program("dispatcher");
    eventually("it is noticed", || health() != "ok\n");
    let trouble =
        "somebody has detached the dispatcher's program from lan0: nothing is dispatched; restart `oneip run`";
    assert_eq!(health().trim_end(), trouble);
    assert_eq!(dispatcher.said().matches(trouble).count(), 1, "{}", dispatcher.said());

    dispatcher.stop();
    let dispatcher = Dispatcher::start(lab, &[]);
    assert_eq!((lab.fetch(0, all), health().as_str()), (expected, "ok\n"));
    dispatcher.stop();
}

#[test]
fn a_program_that_was_detached_is_missed() {
    says_that_it_was_detached(&XDP);
}

#[test]
fn a_program_that_was_detached_is_missed_where_workers_dispatch() {
    says_that_it_was_detached(&AF_XDP);
}
