//! QUIC connections whose clients change their addresses, by a QUIC stack (quinn). With connection IDs that say whose they are each goes on
//! where it was, whatever other servers do meanwhile; without, some break.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use oneip::model::{QuicConfig, QuicKey, ServerId};
use oneip::wire::connection_id::Codec;
use quinn::{ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, TokioRuntime};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::dispatcher::Dispatcher;
use crate::network::{CLUSTER, ECHO, ECHO_PORT, Lab, SERVERS, clients, lookup, succeed, write_config};

const PLAIN: QuicConfig = QuicConfig { id: 2, server_id_length: 2, nonce_length: 5, key: None };
const KEYED: QuicConfig = QuicConfig {
    id: 5,
    server_id_length: 3,
    nonce_length: 8,
    key: Some(QuicKey([
        0x9d, 0x4f, 0x0c, 0x6a, 0x1b, 0x7e, 0x35, 0x28, 0x8a, 0xc1, 0xf2, 0x60, 0x5d, 0xbe, 0x94, 0x73,
    ])),
};
const KEY: &str = "9d4f0c6a1b7e35288ac1f2605dbe9473";

const NAME: &str = "www.example.org";

/// So long an answer may take: enough for a path to be found anew, twice.
const PATIENCE: Duration = Duration::from_secs(6);

/// Bytes of an answer: the server, and how many questions the connection has had.
const ANSWER: usize = 12;

fn server_id(config: &QuicConfig, server: &str) -> ServerId {
    let number = server.as_bytes()[server.len() - 1];
    ServerId::new(&[0xc4, number, 0x5e][..config.server_id_length.into()]).unwrap()
}

/// Makes the connection IDs of a server.
struct Ids(Codec, ServerId);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let nonce: Vec<u8> = (0..self.0.config().nonce_length).map(|_| fastrand::u8(..)).collect();
        ConnectionId::new(&self.0.connection_id(self.1, &nonce))
    }

    fn cid_len(&self) -> usize {
        usize::from(1 + self.0.config().server_id_length + self.0.config().nonce_length)
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A certificate of itself, and its key, in DER.
fn certificate(folder: &Path) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let (certificate, pem, key) = (folder.join("quic.crt"), folder.join("quic.pem"), folder.join("quic.key"));
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=quic -outform DER -addext \
               basicConstraints=critical,CA:FALSE -addext";
    let name = format!("subjectAltName=DNS:{NAME}");
    let mut openssl = Command::new("openssl");
    succeed(openssl.args(new.split_whitespace()).arg(name).arg("-keyout").arg(&pem).arg("-out").arg(&certificate));
    let mut openssl = Command::new("openssl");
    succeed(openssl.args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"]).arg(&pem).arg("-out").arg(&key));
    let key = PrivatePkcs8KeyDer::from(fs::read(key).unwrap());
    (fs::read(certificate).unwrap().into(), PrivateKeyDer::Pkcs8(key))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// QUIC on every server, at both cluster addresses. Served until dropped.
struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    certificate: CertificateDer<'static>,
}

impl Servers {
    fn serve(lab: &Lab, config: &QuicConfig) -> Servers {
        let (certificate, key) = certificate(&lab.file(""));
        let settings = quinn::ServerConfig::with_single_cert(vec![certificate.clone()], key).unwrap();
        let bind = |(server, cluster): (&'static str, &str)| {
            (server, lab.inside(server, || UdpSocket::bind((cluster, ECHO_PORT)).unwrap()))
        };
        let sockets: Vec<(&str, UdpSocket)> =
            SERVERS.iter().flat_map(|server| CLUSTER.map(|cluster| (*server, cluster))).map(bind).collect();
        let (stop, stopped) = oneshot::channel();
        let config = config.clone();
        let thread = thread::spawn(move || {
            runtime().block_on(async move {
                for (server, socket) in sockets {
                    let (config, mut endpoint) = (config.clone(), EndpointConfig::default());
                    endpoint.cid_generator(move || Box::new(Ids(Codec::new(&config), server_id(&config, server))));
                    let runtime = Arc::new(TokioRuntime);
                    tokio::spawn(answer_all(
                        Endpoint::new(endpoint, Some(settings.clone()), socket, runtime).unwrap(),
                        server,
                    ));
                }
                let _ = stopped.await;
            });
        });
        Servers { stop: Some(stop), thread: Some(thread), certificate }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn answer_all(endpoint: Endpoint, server: &'static str) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            let Ok((mut send, mut receive)) = connection.accept_bi().await else { return };
            let (mut question, mut count) = ([0], 0);
            while receive.read_exact(&mut question).await.is_ok() {
                count += 1;
                if send.write_all(format!("{server} {count:06}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A connection of a client, and what it has been told.
struct Client {
    endpoint: Endpoint,
    streams: (quinn::SendStream, quinn::RecvStream),
    server: String,
    told: usize,
}

fn bind(lab: &Lab, client: &str) -> UdpSocket {
    lab.inside("client", || UdpSocket::bind((client, 0)).unwrap())
}

impl Client {
    async fn connect(lab: &Lab, servers: &Servers, family: usize, client: &str) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(servers.certificate.clone()).unwrap();
        let settings = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
        let runtime = Arc::new(TokioRuntime);
        let mut endpoint = Endpoint::new(EndpointConfig::default(), None, bind(lab, client), runtime).unwrap();
        endpoint.set_default_client_config(settings);
        let to = SocketAddr::new(CLUSTER[family].parse().unwrap(), ECHO_PORT);
        let connection = timeout(PATIENCE, endpoint.connect(to, NAME).unwrap()).await.expect("in time").unwrap();
        let mut client =
            Client { endpoint, streams: connection.open_bi().await.unwrap(), server: String::new(), told: 0 };
        assert!(client.talk().await, "it is answered");
        client
    }

    /// Whether the same connection at the same server answers.
    async fn talk(&mut self) -> bool {
        let (send, receive) = &mut self.streams;
        let mut answer = [0; ANSWER];
        let asked = async { send.write_all(b"?").await.is_ok() && receive.read_exact(&mut answer).await.is_ok() };
        if !timeout(PATIENCE, asked).await.unwrap_or(false) {
            return false;
        }
        let answer = std::str::from_utf8(&answer).unwrap();
        let (server, count) = answer.trim_end().split_once(' ').unwrap();
        if self.server.is_empty() {
            self.server = server.to_owned();
        }
        self.told += 1;
        assert_eq!((server, count.parse()), (self.server.as_str(), Ok(self.told)), "one connection");
        true
    }

    async fn talk_often(&mut self) -> bool {
        for _ in 0..5 {
            if !self.talk().await {
                return false;
            }
        }
        true
    }

    /// It has another address from now on.
    fn go_to(&self, lab: &Lab, client: &str) {
        self.endpoint.rebind(bind(lab, client)).unwrap();
    }
}

/// The lab's configuration, with server IDs in the services that QUIC is on.
fn configure(lab: &Lab, config: &QuicConfig) {
    let key = if config.key.is_some() { format!("key = \"{KEY}\"\n") } else { String::new() };
    let section = format!(
        "[service.quic]\nconfig_id = {}\nserver_id_length = {}\nnonce_length = {}\n{key}\n",
        config.id, config.server_id_length, config.nonce_length
    );
    let text = fs::read_to_string(lab.config()).unwrap();
    let of_service = |service: &str| {
        let first = "[[service.server]]";
        let mut service = service.to_owned();
        if service.contains(&format!("udp/{ECHO_PORT}")) {
            service = service.replacen(first, &format!("{section}{first}"), 1);
            for server in SERVERS {
                let name = format!("name = \"{server}\"\n");
                service = service.replace(&name, &format!("{name}quic_id = \"{}\"\n", server_id(config, server)));
            }
        }
        service
    };
    write_config(&lab.config(), &text.split("[[service]]").map(of_service).collect::<Vec<_>>().join("[[service]]"));
}

/// Addresses for six clients, of which one after the other begins at another server: the one that they begin with, and such as the hash gives
/// to other servers.
fn journeys(lab: &Lab, family: usize) -> Vec<Vec<String>> {
    let pairs = lookup(&lab.config(), ECHO[family], &clients(family), &[]);
    let mut each =
        SERVERS.map(|server| pairs.iter().filter(move |(_, has)| has == server).map(|(client, _)| client.clone()));
    (0..6).map(|at| (0..3).map(|stop| each[(at + stop) % 3].next().expect("many clients")).collect()).collect()
}

/// The clients that begin at these servers connect, and go from address to address; before each time `meanwhile` happens. How many of their
/// connections break.
fn travel(lab: &Lab, servers: &Servers, at: &[&str], meanwhile: impl Fn(usize)) -> usize {
    runtime().block_on(async {
        let (mut travellers, mut broken) = (Vec::new(), 0);
        for family in [0, 1] {
            for (stops, first) in journeys(lab, family).into_iter().zip(SERVERS.into_iter().cycle()) {
                if at.contains(&first) {
                    let client = Client::connect(lab, servers, family, &stops[0]).await;
                    assert_eq!(client.server, first, "first packets go by the hash");
                    travellers.push((client, stops));
                }
            }
        }
        for stop in 1..3 {
            meanwhile(stop);
            for (client, stops) in &travellers {
                client.go_to(lab, &stops[stop]);
            }
            let mut going = Vec::new();
            for (mut client, stops) in travellers {
                if client.talk_often().await {
                    going.push((client, stops));
                } else {
                    broken += 1;
                }
            }
            travellers = going;
        }
        broken
    })
}

#[test]
fn connections_with_encrypted_ids_go_on_when_clients_move_and_other_servers_come_and_go() {
    let Some(lab) = Lab::up(&[]) else { return };
    configure(&lab, &KEYED);
    let servers = Servers::serve(&lab, &KEYED);
    let dispatcher = Dispatcher::start(&lab, &[]);
    assert_eq!(travel(&lab, &servers, &SERVERS, |_| ()), 0);
    // Who drains keeps its own.
    assert_eq!(travel(&lab, &servers, &SERVERS, |stop| drop(lab.ctl(&[["drain", "undrain"][stop - 1], "web2"]))), 0);
    let disable = |stop| drop(lab.ctl(&[["disable", "enable"][stop - 1], "web2"]));
    assert_eq!(travel(&lab, &servers, &["web1", "web3"], disable), 0);
    let account = dispatcher.stop();
    assert_eq!(account.dropped_total(), 0, "{}", account.json);
}

#[test]
fn connections_with_ids_in_plaintext_go_on_with_the_engine_xdp() {
    let Some(lab) = Lab::up(&["--engine", "xdp"]) else { return };
    configure(&lab, &PLAIN);
    let servers = Servers::serve(&lab, &PLAIN);
    let dispatcher = Dispatcher::start(&lab, &[]);
    let disable = |stop| drop(lab.ctl(&[["disable", "enable"][stop - 1], "web2"]));
    assert_eq!(travel(&lab, &servers, &["web1", "web3"], disable), 0);
    dispatcher.stop();
}

#[test]
fn without_reading_ids_connections_break() {
    let Some(lab) = Lab::up(&["--engine", "xdp"]) else { return };
    let servers = Servers::serve(&lab, &PLAIN);
    let dispatcher = Dispatcher::start(&lab, &[]);
    let broken = travel(&lab, &servers, &SERVERS, |_| ());
    assert!(broken > 6, "{broken} of 12 connections broke");
    dispatcher.stop();
}
