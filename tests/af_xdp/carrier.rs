//! A port of an interface that has no carrier.

use std::net::UdpSocket;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use oneip::limits::BURST;
use oneip::port::af_xdp::AfXdp;
use oneip::port::{Burst, Port};

use crate::attach;
use crate::veth::{CLIENT_MAC, CLUSTER_V4, Cable, DEVICE, DEVICE_MAC};

const PATIENCE: Duration = Duration::from_secs(10);
const CLIENT: &str = "192.0.2.1:4000";

/// A datagram to the client with a number in it.
fn frame(number: u8) -> Vec<u8> {
    let (from, to) = (CLUSTER_V4.parse::<std::net::Ipv4Addr>().unwrap(), [192, 0, 2, 1]);
    let packet = PacketBuilder::ethernet2(DEVICE_MAC.0, CLIENT_MAC.0).ipv4(from.octets(), to, 64).udp(7, 4000);
    let mut bytes = Vec::new();
    packet.write(&mut bytes, &[number]).unwrap();
    bytes
}

fn link(state: &str) {
    assert!(Command::new("ip").args(["link", "set", "c0", state]).status().unwrap().success());
}

/// What the device's side does. `link_is` says when the link is down, `done` that nothing more is sent without it.
fn send_without_carrier(cable: &Cable, link_is: &mpsc::Receiver<()>, done: &mpsc::Sender<()>) {
    let mut attached = attach(DEVICE).unwrap();
    let port: &mut AfXdp = &mut attached.ports[0];
    done.send(()).unwrap();
    link_is.recv().unwrap();
    assert!(cable.at_device(&format!("link show {DEVICE}")).contains("NO-CARRIER"));
    let mut burst = Burst::new();
    for number in 0..BURST as u8 {
        let bytes = frame(number);
        let mut blank = port.blank(bytes.len()).unwrap();
        port.bytes_mut(&mut blank).copy_from_slice(&bytes);
        burst.push(blank);
    }
    port.tx(0, &mut burst);
    for _ in 0..1000 {
        port.service();
    }
    let ledger = port.ledger();
    assert!(ledger.balanced() && ledger.left <= 1, "one frame tells that there is no carrier: {ledger:?}");
    assert_eq!((ledger.sending, port.room(0)), (0, 0), "nothing can leave");

    done.send(()).unwrap();
    let give_up = Instant::now() + PATIENCE;
    while port.ledger().left < BURST as u64 {
        assert!(Instant::now() < give_up, "the others leave: {:?}", port.ledger());
        port.service();
    }
    assert!(port.room(0) >= BURST);
}

#[test]
fn without_a_carrier_nothing_is_given_to_the_kernel_to_lose() {
    let Some(cable) = &Cable::lay(1500, 1) else { return };
    let (tell_device, device_hears) = mpsc::channel();
    let (tell_client, client_hears) = mpsc::channel();
    thread::scope(|scope| {
        cable.device_thread(scope, move || send_without_carrier(cable, &device_hears, &tell_client));
        let client = cable.client_thread(scope, move || {
            let socket = UdpSocket::bind(CLIENT).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            client_hears.recv().unwrap();
            link("down");
            tell_device.send(()).unwrap();
            client_hears.recv().unwrap();
            link("up");
            for number in 1..BURST as u8 {
                let mut received = [0; 2];
                assert_eq!((socket.recv(&mut received).unwrap(), received[0]), (1, number));
            }
        });
        client.join().expect("all but one come, in order");
    });
}
