//! A service for datagrams on the web hosts: each comes back with the server's name in front.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::network::{CLUSTER, ECHO_PORT, Lab, SERVERS};

const MOST: usize = 65_535;

/// Served until dropped.
pub struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// On every server, at both cluster addresses.
    pub fn serve(lab: &Lab) -> Echo {
        let stop = Arc::new(AtomicBool::new(false));
        let serve = |(server, cluster): (&'static str, &str)| {
            let socket = lab.inside(server, || UdpSocket::bind((cluster, ECHO_PORT)).unwrap());
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let stop = Arc::clone(&stop);
            thread::spawn(move || answer(server, &socket, &stop))
        };
        let threads = SERVERS.iter().flat_map(|server| CLUSTER.map(|cluster| (*server, cluster))).map(serve).collect();
        Echo { stop, threads }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn answer(server: &str, socket: &UdpSocket, stop: &AtomicBool) {
    let mut datagram = vec![0; MOST];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, client)) = socket.recv_from(&mut datagram) {
            // A client that has gone is no reason to stop.
            let _ = socket.send_to(&[server.as_bytes(), &datagram[..length]].concat(), client);
        }
    }
}

/// Sends a datagram and waits for it to come back; the server it was at.
pub fn round_trip(socket: &UdpSocket, length: usize) -> Option<String> {
    let sent: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
    socket.send(&sent).unwrap();
    let mut datagram = vec![0; MOST];
    let received = socket.recv(&mut datagram).ok()?;
    let (server, payload) = datagram[..received].split_at(SERVERS[0].len());
    assert!(payload == sent, "it comes back as it was sent");
    Some(String::from_utf8(server.to_vec()).unwrap())
}
