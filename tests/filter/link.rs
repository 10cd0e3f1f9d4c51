//! The program on an interface, and when its process is gone.

use super::model::plans::{CLUSTER_V4, One};
use super::model::turn::cluster;
use super::network::{self, ip};
use super::stop::Stop;
use aya::maps::{Array, MapData};
use oneip::control::interface::InterfaceWatch;
use oneip::engine::filter::{Filter, Generation};
use oneip::model;
use oneip::xdp::interface::Interface;
use oneip::xdp::link::{Kept, LinkError};
use oneip::xdp::program::ProgramError;
use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What is sent to the cluster address leaves f1 as a broadcast, and comes in on f0.
fn in_a_network(body: impl FnOnce() + Send + 'static) {
    let neighbour = format!("neigh add {CLUSTER_V4} lladdr ff:ff:ff:ff:ff:ff dev f1 nud permanent");
    let made =
        ["link add f0 type veth peer name f1", "addr add 203.0.113.1/24 dev f1", "link set f0 up", "link set f1 up"];
    network::in_a_network(made.map(str::to_owned).into_iter().chain([neighbour]), body);
}

/// A filter of a server that has no clients at all.
fn strict() -> Filter {
    let interface = Interface::read("f0").unwrap();
    let filter = Filter::load(interface.mac, None).unwrap();
    let plan = One::weights(&[1, 1], 211).plan();
    filter.publish(&Generation::compile(&cluster(&plan, &[]), "stranger")).unwrap();
    filter
}

fn is_attached() -> bool {
    ip("link show f0").contains("xdp")
}

/// Sends queries to the cluster address, at least so many, until it is told to stop; how many.
fn send(least: u64, stop: &AtomicBool) -> u64 {
    let socket = UdpSocket::bind("203.0.113.1:0").unwrap();
    let mut sent = 0;
    while sent < least || !stop.load(Ordering::Relaxed) {
        socket.send_to(&[7; 20], (CLUSTER_V4, 53)).unwrap();
        sent += 1;
        if sent.is_multiple_of(64) {
            // veth's ring holds 256.
            thread::sleep(Duration::from_micros(200));
        }
    }
    sent
}

#[test]
fn what_is_known_of_handshakes_is_handed_on_and_goes_with_the_program() {
    in_a_network(|| {
        let (interface, pins) = (Interface::read("f0").unwrap(), Path::new(model::PINS));
        let place = interface.place(Kept::Filter, pins);
        let load = || {
            let filter = Filter::load(interface.mac, Some(&place)).unwrap();
            let plan = One::weights(&[1, 1], 211).plan();
            filter.publish(&Generation::compile(&cluster(&plan, &[]), "stranger")).unwrap();
            filter
        };
        let memory = || {
            let mut files = fs::read_dir(pins.join("f0")).into_iter().flatten().map(|file| file.unwrap().path());
            files.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("memory"))
        };
        let info = || MapData::from_pin(memory().unwrap()).unwrap().info().unwrap();
        load().attach(&interface, (None, pins)).unwrap();
        let (first, path) = (info(), memory().unwrap());
        let mut next = load();
        assert!(next.attach(&interface, (None, pins)).unwrap().taken_over);
        assert_eq!(info().id(), first.id());
        // Of another version.
        fs::remove_file(&path).unwrap();
        Array::<MapData, u64>::create(1, 0).unwrap().pin(&path).unwrap();
        let mut next = load();
        assert_eq!((info().max_entries(), info().key_size()), (first.max_entries(), first.key_size()));
        assert!(next.attach(&interface, (None, pins)).unwrap().taken_over);
        next.detach(&interface, pins).unwrap();
        assert_eq!(memory(), None);
    });
}

#[test]
fn the_program_stays_and_is_taken_over_without_a_gap() {
    in_a_network(|| {
        let (interface, pins) = (Interface::read("f0").unwrap(), Path::new(model::PINS));
        let mut first = strict();
        let attachment = first.attach(&interface, (None, pins)).unwrap();
        assert!(!attachment.taken_over);
        let stop = &AtomicBool::new(false);
        let (filters, sent) = thread::scope(|scope| {
            // A thread of ours has our namespaces.
            let sender = scope.spawn(|| send(20_000, stop));
            // Whatever comes: else the sender would never be done.
            let when_done = Stop(stop);
            let mut filters = vec![first];
            for _ in 0..5 {
                let mut next = strict();
                let next_attachment = next.attach(&interface, (None, pins)).unwrap();
                assert!(next_attachment.taken_over && next_attachment.mode == attachment.mode);
                filters.push(next);
            }
            drop(when_done);
            (filters, sender.join().unwrap())
        });
        let dropped = || filters.iter().map(|filter| filter.counts().unwrap().anothers()).sum::<u64>();
        let end = Instant::now() + Duration::from_secs(5);
        while dropped() < sent && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(dropped(), sent, "every frame met one of {} filters", filters.len());
        let met = filters.iter().filter(|filter| filter.counts().unwrap().anothers() > 0).count();
        assert!(met > 2, "{met} of {} filters met a frame", filters.len());

        drop(filters);
        assert!(is_attached(), "it stays without a process");
        let mut last = strict();
        assert!(last.attach(&interface, (None, pins)).unwrap().taken_over);
        send(10, &AtomicBool::new(true));
        let end = Instant::now() + Duration::from_secs(5);
        while last.counts().unwrap().anothers() < 10 && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(last.counts().unwrap().anothers(), 10);
        last.detach(&interface, pins).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        while is_attached() && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(!is_attached());
    });
}

#[test]
fn an_interface_that_came_again_gets_a_new_link() {
    in_a_network(|| {
        let pins = Path::new(model::PINS);
        let mut filter = strict();
        filter.attach(&Interface::read("f0").unwrap(), (None, pins)).unwrap();
        drop(filter);
        let index = Interface::read("f0").unwrap().index;
        ip("link del f0");
        ip(&format!("link add f0 index {index} type veth peer name f1"));
        let mut filter = strict();
        assert!(!filter.attach(&Interface::read("f0").unwrap(), (None, pins)).unwrap().taken_over);
        assert!(is_attached());
    });
}

/// Before it was looked for the first time, or later.
#[test]
fn a_program_that_has_gone_is_missed() {
    in_a_network(|| {
        let (interface, pins) = (Interface::read("f0").unwrap(), Path::new(model::PINS));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watch = InterfaceWatch::open("f0", Some(interface.mac), None).await.unwrap();
            let other = InterfaceWatch::open("f1", None, None).await.unwrap();
            watch = watch.with_others(vec![other]);
            let first = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
            first.expect("it is told that there is none").unwrap();
            assert_eq!(watch.program(), None);
            let mut filter = strict();
            filter.attach(&interface, (None, pins)).unwrap();
            // Who waits is called away all the time.
            let called_away = async |watch: &mut InterfaceWatch| {
                for pause in (0..60).cycle() {
                    tokio::select! {
                        seen = watch.next() => return seen.unwrap(),
                        () = tokio::time::sleep(Duration::from_micros(100 * pause)) => {}
                    }
                }
            };
            called_away(&mut watch).await;
            assert_eq!(watch.program(), Some(filter.number().unwrap()));
            filter.detach(&interface, pins).unwrap();
            called_away(&mut watch).await;
            assert_eq!(watch.program(), None);
        });
    });
}

#[test]
fn what_is_in_the_way_is_said() {
    in_a_network(|| {
        let interface = Interface::read("f0").unwrap();
        let elsewhere = std::env::temp_dir().join(format!("oneip-pins-{}", std::process::id()));
        let error = strict().attach(&interface, (None, &elsewhere)).unwrap_err();
        assert!(matches!(error, ProgramError::Link(LinkError::NoBpfFileSystem { .. })), "{error}");
        assert!(!elsewhere.exists(), "nothing is left there");
        let mut filter = strict();
        filter.attach(&interface, (None, Path::new(model::PINS))).unwrap();
        let error = strict().attach(&interface, (None, Path::new("/sys/fs/bpf/others"))).unwrap_err();
        assert!(matches!(error, ProgramError::Link(LinkError::ProgramAttached { .. })), "{error}");
        assert!(matches!(Interface::read("f9"), Err(ProgramError::NoInterface { .. })));
        assert!(matches!(Interface::read("../f0"), Err(ProgramError::NoInterface { .. })));
        assert!(matches!(Interface::read("lo"), Err(ProgramError::NotEthernet { .. })));
    });
}

#[test]
fn two_capabilities_are_enough_to_load_it() {
    in_a_network(|| {
        network::keep_two_capabilities();
        let mut filter = strict();
        filter.attach(&Interface::read("f0").unwrap(), (None, Path::new(model::PINS))).unwrap();
    });
}
