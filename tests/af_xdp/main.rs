//! The AF_XDP port on a real interface: frames through it, the accounts of them, and what can be in the way of setting it up.

mod carrier;
mod net;
#[path = "../stop/mod.rs"]
mod stop;
#[path = "../veth/mod.rs"]
mod veth;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use oneip::limits::{BURST, RING};
use oneip::model::Prefix;
use oneip::port::af_xdp::{self, AfXdp, Attached, Transfer};
use oneip::port::{Burst, Port};
use oneip::xdp::{Action, Mode, SteerCounters, SteerCounts, XdpError};
use stop::Stop;
use veth::{CLIENT_MAC, CLUSTER_V4, CLUSTER_V6, Cable, DEVICE, DEVICE_MAC, DEVICE_V4};

const PATIENCE: Duration = Duration::from_secs(10);
const ECHO: u16 = 7;

fn attach(interface: &str) -> Result<Attached, XdpError> {
    let addresses = [CLUSTER_V4, CLUSTER_V6].map(|address| Prefix::host(address.parse().unwrap()));
    af_xdp::open(interface)?.attach(&addresses)
}

/// Sends every frame back where it came from, until told to stop; how many it received, and how many it sent.
fn reflect(port: &mut AfXdp, stop: &AtomicBool) -> (u64, u64) {
    let (mut received, mut sent, mut last, mut burst) = (0, 0, 0, Burst::new());
    while !stop.load(Ordering::Relaxed) {
        port.service();
        port.rx(&mut burst);
        received += burst.len() as u64;
        for frame in &mut burst {
            let (arrival, now) = (port.arrival(frame), port.now());
            assert!(arrival > 0 && arrival >= last && arrival <= now, "stamps rise, up to now: {last} {arrival} {now}");
            assert!(now - arrival < 5_000_000_000, "a stamp is recent: {arrival} {now}");
            assert_eq!(port.arrival(frame), 0, "no stamp is read twice");
            last = arrival;
            turn_back(port.bytes_mut(frame));
        }
        let fits = port.room(0).min(burst.len());
        let mut excess: Burst<_> = burst.drain(fits..).collect();
        port.tx(0, &mut burst);
        sent += fits as u64;
        port.free(&mut excess);
        assert!(port.ledger().balanced(), "{:?}", port.ledger());
    }
    (received, sent)
}

/// Swaps the addresses and ports of a UDP datagram, which leaves its checksums right: an echo service.
fn turn_back(frame: &mut [u8]) {
    const V4: [(usize, usize, usize); 3] = [(0, 6, 6), (26, 30, 4), (34, 36, 2)];
    const V6: [(usize, usize, usize); 3] = [(0, 6, 6), (22, 38, 16), (54, 56, 2)];
    for (first, second, length) in if frame[12..14] == [0x08, 0x00] { V4 } else { V6 } {
        let (front, back) = frame.split_at_mut(second);
        front[first..first + length].swap_with_slice(&mut back[..length]);
    }
    assert_eq!((&frame[..6], &frame[6..12]), (&CLIENT_MAC.0[..], &DEVICE_MAC.0[..]));
}

/// Empties the port's ring without sending anything; how many frames that were.
fn drain(port: &mut AfXdp) -> u64 {
    let (mut count, mut burst) = (0, Burst::new());
    loop {
        port.rx(&mut burst);
        if burst.is_empty() {
            return count;
        }
        count += burst.len() as u64;
        port.free(&mut burst);
        port.service();
        assert!(port.ledger().balanced(), "{:?}", port.ledger());
    }
}

/// Waits until no frame has come for a while.
fn settled(counters: &SteerCounters) -> SteerCounts {
    let mut last = counters.read().unwrap();
    loop {
        thread::sleep(Duration::from_millis(100));
        let counts = counters.read().unwrap();
        if counts == last {
            return counts;
        }
        last = counts;
    }
}

struct Outcome {
    mode: Mode,
    transfer: Transfer,
    in_huge_pages: bool,
    counts: SteerCounts,
    received: Vec<u64>,
    sent: u64,
    lost: u64,
}

/// What `client` does while every port of the interface reflects. The accounts are checked when it is done.
fn while_reflecting(cable: &Cable, interface: &str, client: impl FnOnce() + Send) -> Outcome {
    let stop = &AtomicBool::new(false);
    let (ready, when_ready) = mpsc::channel();
    thread::scope(|scope| {
        let device = cable.device_thread(scope, move || {
            let Attached { steer, mode, mut ports } = attach(interface).unwrap();
            ready.send(()).unwrap();
            let work: Vec<(u64, u64)> = thread::scope(|scope| {
                let workers: Vec<_> = ports.iter_mut().map(|port| scope.spawn(|| reflect(port, stop))).collect();
                workers.into_iter().map(|worker| worker.join().unwrap()).collect()
            });
            let counts = settled(&steer.counters());
            drop(steer);
            let left: u64 = ports.iter_mut().map(drain).sum();
            let lost = ports.iter().map(|port| port.losses().total()).sum();
            let received: Vec<u64> = work.iter().map(|(received, _)| *received).collect();
            assert_eq!(counts.seen, counts.passed + counts.redirected + counts.no_socket);
            assert_eq!(counts.redirected, received.iter().sum::<u64>() + left + lost);
            let sent = work.iter().map(|(_, sent)| sent).sum();
            let (transfer, in_huge_pages) = (ports[0].transfer(), ports[0].in_huge_pages());
            Outcome { mode, transfer, in_huge_pages, counts, received, sent, lost }
        });
        let client = cable.client_thread(scope, move || {
            let _stop = Stop(stop);
            when_ready.recv().expect("the device comes into service");
            client();
        });
        let client = client.join();
        let outcome = device.join().expect("the reflector holds");
        client.expect("the client is content");
        outcome
    })
}

fn client_socket(cluster: &str) -> UdpSocket {
    let any = if cluster.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect((cluster, ECHO)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// One datagram at a time, each back before the next.
fn echo(socket: &UdpSocket, length: usize) {
    let sent: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
    let mut received = vec![0; length + 1];
    socket.send(&sent).unwrap();
    let count = socket.recv(&mut received).unwrap();
    assert_eq!(received[..count], sent, "{length} bytes come back as they were");
}

fn flood(count: usize) {
    let socket = client_socket(CLUSTER_V4);
    for _ in 0..count {
        socket.send(&[0x5a; 18]).unwrap();
    }
}

#[test]
fn frames_come_back_byte_for_byte() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    let lengths = (0..200).chain([511, 512, 1000, 1400, 1451, 1452]);
    let outcome = while_reflecting(&cable, DEVICE, || {
        let (v4, v6) = (client_socket(CLUSTER_V4), client_socket(CLUSTER_V6));
        for length in lengths.clone() {
            echo(&v4, length);
            echo(&v6, length);
        }
        echo(&v4, 1472);
    });
    assert_eq!(
        (outcome.mode, outcome.transfer),
        (Mode::Native, Transfer::Copy),
        "veth has native XDP, but no zero copy"
    );
    let frames = 2 * lengths.count() as u64 + 1;
    assert_eq!((outcome.counts.redirected, outcome.sent, outcome.lost), (frames, frames, 0));
    assert_eq!((outcome.counts.no_socket, outcome.counts.unstamped), (0, 0));
}

#[test]
fn frames_larger_than_half_a_page_come_back_too() {
    let Some(cable) = Cable::lay(3000, 1) else { return };
    while_reflecting(&cable, DEVICE, || {
        for length in [18, 1472, 1800, 2048, 2972] {
            echo(&client_socket(CLUSTER_V4), length);
        }
    });
}

/// Huge pages for whoever asks, until this is dropped.
struct HugePages(String);

const NR_HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    /// `None`, said aloud: there is no such memory.
    fn reserve(count: u64) -> Option<HugePages> {
        let now = || fs::read_to_string(NR_HUGE_PAGES).unwrap_or_else(|_| "0".to_owned());
        let pages = HugePages(now());
        let wanted = (pages.0.trim().parse::<u64>().unwrap() + count).to_string();
        let reserved = fs::write(NR_HUGE_PAGES, &wanted).is_ok() && now().trim() == wanted;
        if !reserved {
            eprintln!("SKIPPED: {count} huge pages cannot be reserved");
        }
        reserved.then_some(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(NR_HUGE_PAGES, &self.0);
    }
}

#[test]
fn where_the_host_has_huge_pages_frames_are_in_them() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    // Dispatchers of tests beside this one take eight for each queue.
    let Some(_pages) = HugePages::reserve(256) else { return };
    let outcome = while_reflecting(&cable, DEVICE, || {
        let socket = client_socket(CLUSTER_V4);
        (18..=1472).step_by(7).for_each(|length| echo(&socket, length));
    });
    assert!(outcome.in_huge_pages);
    assert_eq!(outcome.lost, 0);
}

#[test]
fn every_queue_has_a_port() {
    let Some(cable) = Cable::lay(1500, 2) else { return };
    let outcome = while_reflecting(&cable, DEVICE, || {
        for _ in 0..64 {
            echo(&client_socket(CLUSTER_V4), 18);
        }
    });
    assert_eq!(outcome.received.iter().sum::<u64>(), 64);
    assert!(outcome.received.iter().all(|count| *count > 0), "flows spread over the queues: {:?}", outcome.received);
}

#[test]
fn without_native_xdp_the_kernel_runs_the_program() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    // A bridge has no XDP of its own. It takes the interface's place.
    cable.at_device("link add br0 type bridge");
    cable.at_device(&format!("link set br0 address {DEVICE_MAC} up"));
    cable.at_device(&format!("addr flush dev {DEVICE}"));
    cable.at_device(&format!("link set {DEVICE} master br0"));
    cable.at_device(&format!("addr add {DEVICE_V4}/24 dev br0"));
    let outcome = while_reflecting(&cable, "br0", || {
        let socket = client_socket(CLUSTER_V4);
        (0..100).for_each(|length| echo(&socket, length));
    });
    assert_eq!((outcome.mode, outcome.transfer), (Mode::Generic, Transfer::Copy));
    assert_eq!((outcome.counts.redirected, outcome.counts.unstamped), (100, 0));
}

#[test]
fn a_full_burst_is_sent_at_once() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    let (ready, when_ready) = mpsc::channel();
    thread::scope(|scope| {
        cable.device_thread(scope, move || {
            let mut attached = attach(DEVICE).unwrap();
            ready.send(()).unwrap();
            let counters = attached.steer.counters();
            let give_up = Instant::now() + PATIENCE;
            while counters.read().unwrap().redirected < BURST as u64 {
                assert!(Instant::now() < give_up, "{:?}", counters.read());
                thread::sleep(Duration::from_millis(1));
            }
            let port = &mut attached.ports[0];
            let mut burst = Burst::new();
            port.rx(&mut burst);
            assert!(burst.is_full());
            burst.iter_mut().for_each(|frame| turn_back(port.bytes_mut(frame)));
            assert!(port.room(0) >= BURST);
            port.tx(0, &mut burst);
            assert!(burst.is_empty());
            port.service();
            let ledger = port.ledger();
            assert!(ledger.balanced() && ledger.lent == 0, "{ledger:?}");
            assert_eq!(ledger.left + ledger.sending as u64, BURST as u64, "{ledger:?}");
        });
        let client = cable.client_thread(scope, move || {
            when_ready.recv().unwrap();
            let socket = client_socket(CLUSTER_V4);
            (0..BURST as u8).for_each(|number| assert_eq!(socket.send(&[number]).unwrap(), 1));
            for number in 0..BURST as u8 {
                let mut received = [0; 2];
                assert_eq!((socket.recv(&mut received).unwrap(), received[0]), (1, number));
            }
        });
        client.join().expect("all come back, in order");
    });
}

/// What a worker does in a turn, and how many frames it takes.
type Turn = fn(&mut AfXdp) -> u64;

fn sleeps(_: &mut AfXdp) -> u64 {
    thread::sleep(Duration::from_millis(1));
    0
}

fn refills_only(port: &mut AfXdp) -> u64 {
    port.service();
    0
}

fn is_slow(port: &mut AfXdp) -> u64 {
    let mut burst = Burst::new();
    port.service();
    port.rx(&mut burst);
    let count = burst.len() as u64;
    thread::sleep(Duration::from_millis(1));
    port.free(&mut burst);
    count
}

#[test]
fn every_frame_is_accounted_for_under_overload() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    thread::scope(|scope| {
        let device = cable.device_thread(scope, || {
            let Attached { steer, mut ports, .. } = attach(DEVICE).unwrap();
            let (counters, losses) = (steer.counters(), ports[0].losses());
            let port = &mut ports[0];
            let (mut received, mut lost) = (0, 0);
            let turns: [(&str, Turn); 3] =
                [("sleeps", sleeps), ("refills, but takes nothing", refills_only), ("is slow", is_slow)];
            for (what, turn) in turns {
                thread::scope(|scope| {
                    let client = cable.client_thread(scope, || flood(20 * RING));
                    while !client.is_finished() {
                        received += turn(port);
                        assert!(port.ledger().balanced(), "{:?}", port.ledger());
                    }
                });
                let counts = settled(&counters);
                received += drain(port);
                println!("a worker that {what}: {counts:?}, received {received}, lost {}", losses.total());
                assert_eq!(counts.seen, counts.passed + counts.redirected + counts.no_socket);
                assert_eq!(counts.redirected, received + losses.total(), "a worker that {what}");
                assert!(losses.total() > lost, "a worker that {what} loses frames");
                lost = losses.total();
            }
            drop(steer);
            drop(ports);
            assert_eq!(losses.total(), lost, "what was lost is known after the end");
        });
        device.join().unwrap();
    });
}

/// An echo service over TCP, one connection at a time.
fn serve_tcp(listener: TcpListener) -> ! {
    loop {
        let (mut connection, _) = listener.accept().unwrap();
        let mut writer = connection.try_clone().unwrap();
        std::io::copy(&mut connection, &mut writer).unwrap();
    }
}

fn tcp_round_trip(port: u16) {
    let mut connection = TcpStream::connect((DEVICE_V4, port)).unwrap();
    let mut reader = connection.try_clone().unwrap();
    reader.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent: Vec<u8> = (0..1_000_000u32).map(|at| (at.wrapping_mul(at) >> 8) as u8).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            connection.write_all(&sent).unwrap();
            connection.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        assert!(received == sent, "what comes back is what was sent");
    });
}

#[test]
fn the_dispatchers_own_traffic_is_left_alone() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    thread::scope(|scope| {
        let listener = cable.device_thread(scope, || TcpListener::bind((DEVICE_V4, 0)).unwrap()).join().unwrap();
        let port = listener.local_addr().unwrap().port();
        // Not of this scope: it ends with the process, however the test ends.
        thread::spawn(move || serve_tcp(listener));
        let round_trip = || cable.client_thread(scope, move || tcp_round_trip(port)).join().unwrap();
        round_trip();
        while_reflecting(&cable, DEVICE, || {
            thread::scope(|load| {
                let transfer = load.spawn(|| tcp_round_trip(port));
                while !transfer.is_finished() {
                    flood(1000);
                }
            });
        });
        round_trip();
    });
}

/// Whether the kernel says that an XDP program is attached.
fn is_attached(cable: &Cable) -> bool {
    cable.at_device(&format!("link show {DEVICE}")).contains("xdp")
}

/// A child that another test is just starting holds our descriptors until its exec, and so may put off the end a little.
fn is_gone(cable: &Cable) -> bool {
    let give_up = Instant::now() + PATIENCE;
    while is_attached(cable) && Instant::now() < give_up {
        thread::sleep(Duration::from_millis(1));
    }
    !is_attached(cable)
}

#[test]
fn dropping_detaches_and_a_queue_can_be_bound_again_at_once() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    thread::scope(|scope| {
        let device = cable.device_thread(scope, || {
            for _ in 0..5 {
                let mut attached = attach(DEVICE).unwrap();
                assert!(is_attached(&cable));
                assert_eq!(attached.steer.modes().collect::<Vec<_>>(), [Mode::Native]);
                attached.steer.detach();
                assert!(is_gone(&cable) && attached.steer.modes().next().is_none());
                drop(attached);
            }
            drop(attach(DEVICE).unwrap());
            assert!(is_gone(&cable));
        });
        device.join().unwrap();
    });
}

#[test]
fn a_child_process_does_not_keep_the_queue() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    thread::scope(|scope| {
        let device = cable.device_thread(scope, || {
            let attached = attach(DEVICE).unwrap();
            // It goes with its input.
            let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
            drop(attached);
            let again = attach(DEVICE).map(drop);
            drop(child.stdin.take());
            child.wait().unwrap();
            again.expect("the queue went with its owner");
        });
        device.join().unwrap();
    });
}

#[test]
fn steer_redirects_to_a_ring() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    thread::scope(|scope| {
        let device = cable.device_thread(scope, || {
            let attached = attach(DEVICE).unwrap();
            let mut frame = [[0xd0; 60], [0; 60]].concat();
            frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 0xd0, 2, 0, 0, 0, 0, 0xc1, 8, 0]);
            frame[30..34].copy_from_slice(&[203, 0, 113, 80]);
            let (action, arrival, behind) = attached.steer.judge(&frame).unwrap();
            assert_eq!((action, behind), (Action::Redirect, frame));
            assert!((1..=attached.ports[0].now()).contains(&arrival));
            assert_eq!(attached.steer.counters().read().unwrap().redirected, 1);
        });
        device.join().unwrap();
    });
}

#[test]
fn what_is_in_the_way_is_said_with_what_to_do() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    thread::scope(|scope| {
        let device = cable.device_thread(scope, || {
            let refusal = |interface| attach(interface).err().expect("attaching is refused");
            let is = |error: &XdpError, text: &str| assert!(error.to_string().contains(text), "{error}");

            let error = refusal("nonesuch");
            assert!(matches!(error, XdpError::NoInterface { .. }));
            is(&error, "interface nonesuch does not exist; there are: d0, lo");

            cable.at_device(&format!("link set {DEVICE} down"));
            let error = refusal(DEVICE);
            assert!(matches!(error, XdpError::Down { .. }));
            is(&error, "ip link set d0 up");
            cable.at_device(&format!("link set {DEVICE} up mtu 9000"));
            let error = refusal(DEVICE);
            assert!(matches!(error, XdpError::MtuTooLarge { mtu: 9000, most: 3810, .. }));
            is(&error, "ip link set d0 mtu 3810");
            cable.at_device(&format!("link set {DEVICE} mtu 1500"));

            let Attached { steer, ports, .. } = attach(DEVICE).unwrap();
            let error = refusal(DEVICE);
            assert!(matches!(error, XdpError::QueueBusy { queue: 0, .. }), "{error}");
            is(&error, "queue 0 of d0 is busy");
            drop(ports);
            let error = refusal(DEVICE);
            assert!(matches!(error, XdpError::ProgramAttached { .. }));
            is(&error, "another XDP program is attached to d0");
            drop(steer);

            caps::clear(None, CapSet::Effective).unwrap();
            let error = refusal(DEVICE);
            assert!(matches!(error, XdpError::NotPermitted { .. }));
            is(&error, "needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF: run as root, or: setcap");
            let enough = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_BPF];
            caps::set(None, CapSet::Effective, &enough.into_iter().collect()).unwrap();
            attach(DEVICE).expect("these are all it takes");
        });
        device.join().unwrap();
    });
}

/// Runs `hold_the_device` as a process of its own, behind `prefix`; with the first line that it says about the outcome.
fn held(cable: &Cable, prefix: &str) -> (Child, String) {
    let program = std::env::current_exe().unwrap();
    let mut command = cable.device_command(prefix, &program);
    command.args(["--ignored", "--exact", "--nocapture", "hold_the_device"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let outcome = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("outcome: ").map(String::from));
    (child, outcome.expect("the process says what came of it"))
}

#[test]
#[ignore = "not a test: the process that others start, limit and kill"]
fn hold_the_device() {
    let outcome = attach(DEVICE);
    println!("\noutcome: {}", outcome.as_ref().map_or_else(XdpError::to_string, |_| "attached".into()));
    // Until the other end is closed, or SIGKILL comes.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn killing_the_process_detaches() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    let (mut child, outcome) = held(&cable, "");
    let was_attached = is_attached(&cable);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((outcome.as_str(), was_attached), ("attached", true));
    assert!(is_gone(&cable));
    while_reflecting(&cable, DEVICE, || echo(&client_socket(CLUSTER_V4), 18));
}

#[test]
fn memory_that_cannot_be_locked_is_told() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    let (mut child, outcome) =
        held(&cable, "prlimit --memlock=65536:65536 setpriv --bounding-set=-ipc_lock,-sys_resource");
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(outcome.starts_with("cannot lock 8192 KiB of memory for queue 0 of d0"), "{outcome}");
    assert!(outcome.contains("LimitMEMLOCK=infinity"), "{outcome}");
}
