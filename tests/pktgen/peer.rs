//! The other end of the cable: sends back what comes, on the queue it came on, but for what it is told to do to it.

use super::stop::Stop;
use super::veth::{CLIENT_MAC, CLUSTER_V4, CLUSTER_V6, Cable};
use oneip::port::af_xdp::{AfXdp, Attached, Frame, open};
use oneip::port::{Burst, Port};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Back,
    Drop,
    Twice,
    /// With a bit changed in this byte, from the end if negative.
    Damage(isize),
    /// Behind the next one.
    Later,
}

/// What it got.
pub struct Account {
    pub received: u64,
    pub arrivals: Vec<Arrival>,
}

/// A frame, as its trailer has it.
pub struct Arrival {
    pub queue: u32,
    pub number: u64,
    pub stamp: u64,
}

/// Runs `body` while the peer does its deeds, by the number of the frame in the order of arrival.
pub fn during<T: Send>(
    cable: &Cable,
    deed: impl Fn(u64) -> Deed + Send,
    body: impl FnOnce() -> T + Send,
) -> (T, Account) {
    let stop = &AtomicBool::new(false);
    let (ready, when_ready) = mpsc::channel();
    thread::scope(|scope| {
        let peer = cable.client_thread(scope, move || {
            let addresses: [IpAddr; 2] = [CLUSTER_V4.parse().unwrap(), CLUSTER_V6.parse().unwrap()];
            let Attached { steer, mut ports, .. } =
                open("c0").unwrap().attach(&addresses.map(oneip::model::Prefix::host)).unwrap();
            ready.send(()).unwrap();
            let arrivals = serve(&mut ports, stop, deed);
            drop(steer);
            Account { received: arrivals.len() as u64, arrivals }
        });
        let body = cable.device_thread(scope, move || {
            let _stop = Stop(stop);
            when_ready.recv().expect("the peer is there");
            body()
        });
        let body = body.join();
        let account = peer.join().expect("the peer holds");
        (body.expect("the test holds"), account)
    })
}

fn serve(ports: &mut [AfXdp], stop: &AtomicBool, deed: impl Fn(u64) -> Deed) -> Vec<Arrival> {
    let (mut arrivals, mut burst) = (Vec::new(), Burst::new());
    let mut later: Vec<Option<Frame>> = ports.iter().map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        for (queue, (port, later)) in (0..).zip(ports.iter_mut().zip(&mut later)) {
            port.service();
            port.rx(&mut burst);
            for mut frame in burst.drain(..) {
                let deed = deed(arrivals.len() as u64);
                arrivals.push(arrival(queue, port.bytes(&frame)));
                turn_back(port.bytes_mut(&mut frame));
                carry_out(deed, port, frame, later);
            }
        }
    }
    arrivals
}

fn arrival(queue: u32, frame: &[u8]) -> Arrival {
    let (rest, stamp) = frame.split_last_chunk().expect("it has a trailer");
    let number: [u8; 6] = *rest.last_chunk().expect("it has a trailer");
    let number = number.into_iter().fold(0, |number, byte| number << 8 | u64::from(byte));
    Arrival { queue, number, stamp: u64::from_be_bytes(*stamp) }
}

fn carry_out(deed: Deed, port: &mut AfXdp, mut frame: Frame, later: &mut Option<Frame>) {
    match deed {
        Deed::Back => send(port, frame),
        Deed::Drop => port.free(&mut Burst::from_iter([frame])),
        Deed::Twice => {
            let copy = copy(port, &frame);
            send(port, frame);
            send(port, copy);
        }
        Deed::Damage(at) => {
            let bytes = port.bytes_mut(&mut frame);
            let at = if at < 0 { bytes.len().checked_add_signed(at).unwrap() } else { at as usize };
            bytes[at] ^= 0x10;
            send(port, frame);
        }
        Deed::Later => {
            assert!(later.replace(frame).is_none(), "one at a time");
            return;
        }
    }
    if let Some(frame) = later.take() {
        send(port, frame);
    }
}

fn copy(port: &mut AfXdp, frame: &Frame) -> Frame {
    let bytes = port.bytes(frame).to_vec();
    let mut copy = port.blank(bytes.len()).expect("not all frames are under way");
    port.bytes_mut(&mut copy).copy_from_slice(&bytes);
    copy
}

fn send(port: &mut AfXdp, frame: Frame) {
    while port.room(0) == 0 {
        port.service();
    }
    port.tx(0, &mut Burst::from_iter([frame]));
}

fn turn_back(frame: &mut [u8]) {
    let (to, from) = frame.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    assert_eq!(from[..6], CLIENT_MAC.0, "it was for us");
}
