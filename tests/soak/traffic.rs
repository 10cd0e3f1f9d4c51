//! Clients that download slowly, and clients that fetch a page again and again.

use crate::model::Model;
use crate::network::{CLUSTER, Lab, clients};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// In which a connection is made: a SYN is repeated after 1, 3, 7 and 15 s.
const CONNECT: Duration = Duration::from_secs(20);

/// In which something must come: an outage of the dispatcher's link, and as long again for the retransmission.
const READ: Duration = Duration::from_secs(40);

/// A download takes some minutes.
const PIECE: usize = 8 << 10;
const PAUSE: Duration = Duration::from_millis(80);

pub struct Traffic<'a> {
    pub lab: &'a Lab,
    pub model: &'a Model,
    pub stop: &'a AtomicBool,
}

/// The answer to a request: the server, and what of the body came with it.
struct Answer {
    server: String,
    body: Vec<u8>,
}

impl Traffic<'_> {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The client's address, and whether of IPv6: every fourth.
    fn client(&self, n: usize) -> (String, usize) {
        let family = usize::from(n.is_multiple_of(4));
        (clients(family)[n].clone(), family)
    }

    /// Downloads the lab's file again and again, each byte compared.
    pub fn download(&self, n: usize) {
        let (client, family) = self.client(n);
        let big = fs::read(self.lab.file("big")).unwrap();
        while !self.is_over() {
            let Some((mut stream, id, mut body)) = self.ask(&client, family, "/big") else { continue };
            let mut at = 0;
            loop {
                if self.is_over() {
                    break self.model.leave(id);
                }
                if big.get(at..at + body.len()) != Some(&body[..]) {
                    break self.model.break_(id, &format!("another byte than was sent, after {at}"));
                }
                at += body.len();
                self.model.moved(id);
                if at == big.len() {
                    break self.model.end(id);
                }
                body.resize(PIECE, 0);
                match stream.read(&mut body) {
                    Ok(0) => break self.model.break_(id, &format!("closed after {at} bytes; {}", self.place(&client))),
                    Ok(length) => body.truncate(length),
                    Err(error) => {
                        break self.model.break_(id, &format!("{error} after {at} bytes; {}", self.place(&client)));
                    }
                }
                thread::sleep(PAUSE);
            }
        }
    }

    /// Fetches the page again and again, each time over a connection of its own.
    pub fn browse(&self, n: usize) {
        let (client, family) = self.client(n);
        while !self.is_over() {
            if let Some((_, id, _)) = self.ask(&client, family, "/") {
                self.model.end(id);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn ask(&self, client: &str, family: usize, path: &str) -> Option<(TcpStream, usize, Vec<u8>)> {
        let _beginning = self.model.beginning();
        let begun = Instant::now();
        let mut port = 0;
        match self.try_ask(client, family, path, &mut port) {
            Ok((stream, Answer { server, body })) => {
                let id = self.model.begin(client, port, &server);
                Some((stream, id, body))
            }
            Err(_) if self.is_over() => None,
            Err(error) => {
                // A connection from the same port may be remembered: its SYN goes where that one was.
                let meant = self.meant(client).into_iter().chain(self.model.last_of(client, port)).collect::<Vec<_>>();
                self.model.refuse(client, begun, &meant, &error.to_string());
                None
            }
        }
    }

    /// `port` is the client's, as soon as it is known.
    fn try_ask(&self, client: &str, family: usize, path: &str, port: &mut u16) -> io::Result<(TcpStream, Answer)> {
        let from: IpAddr = client.parse().unwrap();
        let to: IpAddr = CLUSTER[family].parse().unwrap();
        let socket =
            self.lab.inside("client", || Socket::new(Domain::for_address((from, 0).into()), Type::STREAM, None))?;
        socket.bind(&SockAddr::from(SocketAddr::from((from, 0))))?;
        *port = socket.local_addr()?.as_socket().map_or(0, |local| local.port());
        socket.connect_timeout(&SockAddr::from(SocketAddr::from((to, 80))), CONNECT)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(READ))?;
        stream.set_write_timeout(Some(READ))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: cluster\r\nConnection: close\r\n\r\n")?;
        let mut got = Vec::new();
        loop {
            let mut piece = [0; PIECE];
            let length = stream.read(&mut piece)?;
            got.extend_from_slice(&piece[..length]);
            if let Some(end) = got.windows(4).position(|part| part == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&got[..end]).into_owned();
                let server = head.lines().find_map(|line| line.strip_prefix("X-Server: "));
                let server = server.ok_or_else(|| io::Error::other(format!("no server in {head}")))?.to_owned();
                return Ok((stream, Answer { server, body: got.split_off(end + 4) }));
            }
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Where each process says that a client belongs.
    fn place(&self, client: &str) -> String {
        let traces = self.lab.ask_all(&["trace", client, "--for", "0", "--json"]);
        traces.iter().map(|trace| trace["services"].to_string()).collect()
    }

    /// Who may have been meant to answer a client: by the order of its slot the first, whoever has it now, and who keeps it.
    fn meant(&self, client: &str) -> Vec<String> {
        let traces = self.lab.ask_all(&["trace", client, "--for", "0", "--json"]);
        let mut meant: Vec<String> = vec![self.lab.home(client)];
        for service in traces.iter().filter_map(|trace| trace["services"].as_array()).flatten() {
            let names = [&service["order"][0], &service["server"], &service["keeps"]];
            meant.extend(names.into_iter().filter_map(|name| name.as_str().map(str::to_owned)));
        }
        meant.sort();
        meant.dedup();
        meant
    }
}
