//! One probe of one server: what is asked, what counts as an answer, and the words for what went wrong.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConnection;

use super::echo::Echo;
use super::observer::Evidence;
use super::tls;
use crate::limits::{HEALTH_LATE, HEALTH_PORT_TRIES, HEALTH_PORTS};
use crate::model::{Deliver, Health, Http, Via};

/// Bytes of a response among which the status must be, interim responses included.
const HEAD: usize = 4096;

/// Headers that an interim response may have.
const HEADERS: usize = 32;

/// Why there was no success.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server failed.
    Server(Failure),
    /// Nothing can be said of the server: it was this host that could not ask, and why.
    Here(String),
}

/// What the server did wrong.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("its MAC is not known: it does not answer ARP or neighbour discovery")]
    Unresolved,
    #[error("no answer from {address} within {} ms{}", limit.as_millis(), hint(*via, *deliver))]
    Silent { address: IpAddr, limit: Duration, via: Via, deliver: Deliver },
    #[error("{0} does not answer ARP or neighbour discovery")]
    Unreachable(IpAddr),
    #[error("{address} refuses the connection{}", listens(*via))]
    Refused { address: SocketAddr, via: Via },
    #[error("{address} accepts the connection, and then {what} within {} ms", limit.as_millis())]
    Slow { address: SocketAddr, what: &'static str, limit: Duration },
    #[error("{address} closes the connection before it has answered")]
    Closed { address: SocketAddr },
    #[error("the TLS handshake with {address} fails: {reason}")]
    Tls { address: SocketAddr, reason: String },
    #[error("{address} does not speak HTTP: {reason}")]
    Http { address: SocketAddr, reason: String },
    #[error("HTTP status {status}, not {}", statuses(expect))]
    Status { status: u16, expect: Vec<RangeInclusive<u16>> },
    #[error("the connection to {address} fails: {reason}")]
    Connection { address: SocketAddr, reason: io::Error },
}

impl Failure {
    /// What it says of this host.
    pub fn evidence(&self) -> Evidence {
        match self {
            Failure::Unresolved | Failure::Silent { .. } | Failure::Unreachable(_) => Evidence::Silence,
            Failure::Slow { .. } => Evidence::Stalls,
            Failure::Refused { .. }
            | Failure::Closed { .. }
            | Failure::Tls { .. }
            | Failure::Http { .. }
            | Failure::Status { .. }
            | Failure::Connection { .. } => Evidence::Answers,
        }
    }
}

fn hint(via: Via, deliver: Deliver) -> String {
    match via {
        Via::Service if deliver.is_routed() => format!(
            "; does the server accept packets by {deliver}, and does it have the cluster address? Run `oneip server \
             check` there"
        ),
        Via::Service => {
            "; is the server at its last known MAC, and does it have the cluster address? Run `oneip server check` \
             there"
                .to_owned()
        }
        Via::Primary => String::new(),
    }
}

fn listens(via: Via) -> &'static str {
    match via {
        Via::Service => ": nothing listens there on the cluster address",
        Via::Primary => "",
    }
}

fn statuses(expect: &[RangeInclusive<u16>]) -> String {
    let one = |range: &RangeInclusive<u16>| match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{} to {}", range.start(), range.end()),
    };
    expect.iter().map(one).collect::<Vec<_>>().join(" or ")
}

/// Whom a probe is for.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The cluster address or the primary one, by `via`.
    pub address: IpAddr,
    /// Of the interface, which a link-local address is on.
    pub scope: u32,
    /// What routes the packets to the server.
    pub mark: Option<u32>,
    /// In the `Host` header where the configuration names no other.
    pub cluster: IpAddr,
    pub deliver: Deliver,
    pub health: Arc<Health>,
}

impl Target {
    fn socket_address(&self, port: u16) -> SocketAddr {
        match self.address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => SocketAddrV6::new(v6, port, 0, self.scope).into(),
            address => SocketAddr::new(address, port),
        }
    }
}

/// Connects, and asks over HTTP if it is to. `Ok`: how long it took.
pub(super) async fn connection(target: &Target, port: u16, http: Option<&Http>) -> Result<Duration, Trouble> {
    let begin = Instant::now();
    let limit = target.health.timeout;
    let (address, via) = (target.socket_address(port), target.health.via);
    let silent = Failure::Silent { address: target.address, limit, via, deliver: target.deliver };
    let stream = by(begin + limit, silent, connect(address, target.mark)).await?;
    let stream = stream.map_err(|error| not_connected(error, address, via))?;
    if let Some(http) = http {
        let status = status(stream, http, target, address, begin + limit).await?;
        if !http.expect.iter().any(|range| range.contains(&status)) {
            return Err(Trouble::Server(Failure::Status { status, expect: http.expect.clone() }));
        }
    }
    Ok(begin.elapsed())
}

/// Sends an echo request and waits for the reply.
pub(super) async fn echo(target: &Target, echo: &Echo) -> Result<Duration, Trouble> {
    let begin = Instant::now();
    let limit = target.health.timeout;
    let answer = echo.send(target.socket_address(0), target.mark).map_err(|error| here(&error, target.address))?;
    let silent = Failure::Silent { address: target.address, limit, via: target.health.via, deliver: target.deliver };
    match by(begin + limit, silent, answer).await? {
        Ok(()) => Ok(begin.elapsed()),
        Err(_) => Err(Trouble::Here("the echo request was abandoned for later ones".to_owned())),
    }
}

/// The result of `work` if it has one by the deadline.
async fn by<T>(deadline: Instant, otherwise: Failure, work: impl Future<Output = T>) -> Result<T, Trouble> {
    timeout_at(deadline, work).await.map_err(|_| match deadline.elapsed() > HEALTH_LATE {
        true => Trouble::Here("this process stood still for a while".to_owned()),
        false => Trouble::Server(otherwise),
    })
}

/// The connection ends with a reset whenever it is dropped (`SO_LINGER` 0): a closed one would keep its port for a minute,
/// and all the servers of a service share the ports towards one address. The last acknowledgement of the handshake waits for
/// what comes next (`TCP_QUICKACK` off): it goes with the request, or gives way to the reset, and a daemon that is only
/// asked whether it listens is not woken up. With a mark it has a port of probes (`strays`).
async fn connect(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let Some(mark) = mark else { return socket(address)?.connect(address).await };
    let (first, last) = HEALTH_PORTS;
    for _ in 0..HEALTH_PORT_TRIES {
        let socket = socket(address)?;
        SockRef::from(&socket).set_mark(mark)?;
        // Others of ours may have it, to other servers: what must differ is the pair of both ends, of which `connect` sees to it.
        socket.set_reuseaddr(true)?;
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let tried = match socket.bind(SocketAddr::new(any, fastrand::u16(first..=last))) {
            Ok(()) => socket.connect(address).await,
            Err(error) => Err(error),
        };
        match tried {
            Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {}
            tried => return tried,
        }
    }
    Err(Errno::ADDRNOTAVAIL.into())
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_quickack(false)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

fn not_connected(error: io::Error, address: SocketAddr, via: Via) -> Trouble {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Trouble::Server(Failure::Refused { address, via }),
        io::ErrorKind::HostUnreachable => Trouble::Server(Failure::Unreachable(address.ip())),
        io::ErrorKind::ConnectionReset | io::ErrorKind::TimedOut => {
            Trouble::Server(Failure::Connection { address, reason: error })
        }
        _ => here(&error, address.ip()),
    }
}

/// An error that this host makes by itself, before anything was sent.
fn here(error: &io::Error, address: IpAddr) -> Trouble {
    let what = match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => " (raise the limit of open files, `ulimit -n`)",
        Some(Errno::NETUNREACH | Errno::NETDOWN | Errno::NODEV) => " (is the interface up, with an address?)",
        Some(Errno::NOBUFS) => {
            " (is the neighbour table full? raise the sysctl net/ipv4/neigh/default/gc_thresh3, or ipv6)"
        }
        Some(Errno::ADDRNOTAVAIL) => " (does this host have an address of that family, and free ports?)",
        Some(Errno::PERM | Errno::ACCESS) => " (does a firewall of this host forbid it, or is CAP_NET_ADMIN missing?)",
        _ => "",
    };
    Trouble::Here(format!("this host cannot reach {address}: {error}{what}"))
}

/// The status of the answer to a GET request. Nothing behind the status is waited for.
async fn status(
    stream: TcpStream,
    http: &Http,
    target: &Target,
    address: SocketAddr,
    deadline: Instant,
) -> Result<u16, Trouble> {
    let slow = |what| Failure::Slow { address, what, limit: target.health.timeout };
    let request = request(http, target.cluster);
    let answer = match http.tls {
        false => {
            let get = async {
                let mut stream = stream;
                stream.write_all(request.as_bytes()).await?;
                answer(stream).await
            };
            by(deadline, slow("sends no HTTP response"), get).await?
        }
        true => {
            let name = tls::name(http.host.as_deref(), target.cluster);
            // The request goes in the segment that ends the handshake.
            let ask = |tls: &mut ClientConnection| {
                tls.set_buffer_limit(None);
                tls.writer().write_all(request.as_bytes()).expect("a buffer without a limit");
            };
            let handshake = TlsConnector::from(tls::client()).connect_with(name, stream, ask);
            let stream = by(deadline, slow("does not finish the TLS handshake"), handshake).await?;
            let stream = stream.map_err(|error| {
                Trouble::Server(match is_end(&error) {
                    true => Failure::Closed { address },
                    false => Failure::Tls { address, reason: error.to_string() },
                })
            })?;
            by(deadline, slow("sends no HTTP response"), answer(stream)).await?
        }
    };
    answer.map_err(|error| {
        Trouble::Server(match error.kind() {
            io::ErrorKind::InvalidData => Failure::Http { address, reason: error.to_string() },
            _ if is_end(&error) => Failure::Closed { address },
            _ => Failure::Connection { address, reason: error },
        })
    })
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

fn request(http: &Http, cluster: IpAddr) -> String {
    let (path, host) = (&http.path, host(http, cluster));
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: oneip/{version} (health check)\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    )
}

fn host(http: &Http, cluster: IpAddr) -> String {
    let name = http.host.clone().unwrap_or_else(|| match cluster {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    });
    let usual = if http.tls { 443 } else { 80 };
    if http.port == usual { name } else { format!("{name}:{}", http.port) }
}

async fn answer(mut stream: impl AsyncRead + Unpin) -> io::Result<u16> {
    let mut head = Vec::with_capacity(HEAD);
    loop {
        if head.len() == HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no status in its first {HEAD} bytes")));
        }
        if (&mut stream).take((HEAD - head.len()) as u64).read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(status) = final_status(&mut head)? {
            return Ok(status);
        }
    }
}

/// The status, as soon as it is there. Interim responses are removed (1xx, RFC 9110, section 15.2).
fn final_status(head: &mut Vec<u8>) -> io::Result<Option<u16>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(head);
        match (response.code, parsed) {
            (Some(status), _) if status >= 200 => return Ok(Some(status)),
            (Some(_), Ok(httparse::Status::Complete(length))) => _ = head.drain(..length),
            (_, Ok(_)) => return Ok(None),
            (_, Err(error)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_header_names_an_unusual_port() {
        let http = |tls, port, host: Option<&str>| Http {
            tls,
            port,
            host: host.map(str::to_owned),
            path: "/".into(),
            expect: vec![],
        };
        let (v4, v6) = ("203.0.113.80".parse().unwrap(), "2001:db8::80".parse().unwrap());
        assert_eq!(host(&http(false, 80, None), v4), "203.0.113.80");
        assert_eq!(host(&http(false, 8080, None), v6), "[2001:db8::80]:8080");
        assert_eq!(host(&http(true, 443, Some("www.example.org")), v4), "www.example.org");
        assert_eq!(host(&http(true, 80, Some("www.example.org")), v4), "www.example.org:80");
    }

    #[test]
    fn the_status_is_found_behind_interim_responses_and_as_soon_as_it_is_there() {
        let whole = &b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 204 No Content\r\nX: y\r\n\r\n"[..];
        let found = |length: usize| final_status(&mut whole[..length].to_vec()).unwrap();
        let digits = whole.len() - b"204 No Content\r\nX: y\r\n\r\n".len();
        assert_eq!((0..digits + 3).find_map(found), None);
        assert!((digits + 5..=whole.len()).all(|length| found(length) == Some(204)));
        assert_eq!(final_status(&mut b"HTTP/1.0 503 \r\n".to_vec()).unwrap(), Some(503));
        assert!(final_status(&mut b"220 mail.example.org ESMTP\r\n".to_vec()).is_err());
    }

    #[test]
    fn failures_are_said_in_words() {
        let expect = vec![200..=200, 300..=399];
        assert_eq!(Failure::Status { status: 503, expect }.to_string(), "HTTP status 503, not 200 or 300 to 399");
        let address = "203.0.113.80:80".parse().unwrap();
        assert_eq!(
            Failure::Refused { address, via: Via::Service }.to_string(),
            "203.0.113.80:80 refuses the connection: nothing listens there on the cluster address"
        );
    }
}
