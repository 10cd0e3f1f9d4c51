//! `oneip run` with servers behind a router, in namespaces:
//!
//! ```text
//! client 198.51.100.10 -- router -- dispatcher 192.0.2.2 (by the same link to and from the router)
//!                           |
//!                         server 10.9.0.11
//! ```
//!
//! The server's kernel judges what comes: sockets for the tunnels' protocols get what it found whole, with fragments put together.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const CLUSTER: [&str; 2] = ["203.0.113.80", "2001:db8:80::80"];
const CLIENT: [&str; 2] = ["198.51.100.10", "2001:db8:1::10"];
const SERVER: [&str; 2] = ["10.9.0.11", "2001:db8:9::11"];

const PATIENCE: Duration = Duration::from_secs(60);

struct Lab {
    name: String,
    folder: tempfile::TempDir,
}

const HOSTS: [&str; 4] = ["c", "r", "d", "s"];

/// The cables: both ends, and their addresses.
const CABLES: [[&str; 6]; 3] = [
    ["c", "c0", "198.51.100.10/24 2001:db8:1::10/64", "r", "rc", "198.51.100.1/24 2001:db8:1::1/64"],
    ["d", "d0", "192.0.2.2/24 2001:db8:2::2/64", "r", "rd", "192.0.2.1/24 2001:db8:2::1/64"],
    ["s", "s0", "10.9.0.11/24 2001:db8:9::11/64", "r", "rs", "10.9.0.1/24 2001:db8:9::1/64"],
];

impl Lab {
    fn up() -> Option<Lab> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let name = format!("tun{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Lab { name, folder: tempfile::tempdir().expect("a folder") };
        for host in HOSTS {
            run("ip", &format!("netns add {}", lab.host(host)));
            lab.sh(
                host,
                "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0; ip link set lo up",
            );
        }
        lab.sh("r", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let one = "numrxqueues 1 numtxqueues 1";
        for [host, device, own, other, to, theirs] in CABLES {
            let (this, that) = (lab.host(host), lab.host(other));
            run("ip", &format!("link add {device} netns {this} {one} type veth peer name {to} netns {that} {one}"));
            for (host, device, addresses) in [(host, device, own), (other, to, theirs)] {
                lab.sh(host, &format!("ethtool -K {device} tx off tso off gso off gro off; ip link set {device} up"));
                for address in addresses.split(' ') {
                    let nodad = if address.contains(':') { "nodad" } else { "" };
                    lab.sh(host, &format!("ip addr add {address} dev {device} {nodad}"));
                }
            }
        }
        for (host, gateways) in [
            ("c", ["198.51.100.1", "2001:db8:1::1"]),
            ("d", ["192.0.2.1", "2001:db8:2::1"]),
            ("s", ["10.9.0.1", "2001:db8:9::1"]),
        ] {
            gateways.iter().for_each(|gateway| _ = lab.sh(host, &format!("ip route add default via {gateway}")));
        }
        lab.sh(
            "r",
            &format!("ip route add {} via 192.0.2.2; ip route add {} via 2001:db8:2::2", CLUSTER[0], CLUSTER[1]),
        );
        Some(lab)
    }

    fn host(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    fn sh(&self, host: &str, commands: &str) -> String {
        run("ip", &format!("netns exec {} sh -ec", self.host(host)).as_str().with(commands))
    }

    /// A dispatcher of two services, one a family.
    fn dispatch(&self, deliver: &str, engine: &str, is_v6: bool) -> Dispatcher {
        let file = self.folder.path().join("oneip.toml");
        let server = SERVER[usize::from(is_v6)];
        let service = |at: usize| {
            // L3DSR is for servers of the same family.
            let server = if deliver.contains("l3dsr") { SERVER[at] } else { server };
            format!(
                "[[service]]\nname = \"s{at}\"\naddress = \"{}\"\n{deliver}\n[[service.server]]\nname = \"one{at}\"\naddress = \
                 \"{server}\"\n",
                CLUSTER[at]
            )
        };
        let folder = self.folder.path().display();
        let text = format!(
            "[cluster]\nhash_key = \"00112233445566778899aabbccddeeff\"\n[dispatcher]\ninterface = \"d0\"\nengine = \"{engine}\"\n\
             pins = \"{folder}/pins\"\n[admin]\nsocket = \"{folder}/oneip.sock\"\nstate = \"{folder}/oneip.json\"\n{}{}",
            service(0),
            service(1)
        );
        std::fs::write(&file, text).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        Dispatcher::start(self, &file)
    }

    /// Runs `work` on a thread in a host's network. Sockets that it makes stay there.
    fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(self.host(host))).expect("it is there");
        std::thread::scope(|scope| {
            let inside = move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
                work()
            };
            scope.spawn(inside).join().expect("it does not panic")
        })
    }

    fn client(&self, family: usize) -> UdpSocket {
        self.inside("c", || {
            let socket = UdpSocket::bind((CLIENT[family], 4000)).expect("its address is there");
            socket.connect((CLUSTER[family], 9000)).expect("there is a route");
            socket
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in HOSTS {
            let _ = Command::new("ip").args(["netns", "del", &self.host(host)]).status();
        }
    }
}

/// A program's arguments, with a last one that has spaces in it.
trait With {
    fn with(&self, last: &str) -> Vec<String>;
}

impl With for str {
    fn with(&self, last: &str) -> Vec<String> {
        self.split_whitespace().map(str::to_owned).chain([last.to_owned()]).collect()
    }
}

trait Arguments {
    fn list(&self) -> Vec<String>;
}

impl Arguments for String {
    fn list(&self) -> Vec<String> {
        self.split_whitespace().map(str::to_owned).collect()
    }
}

impl Arguments for Vec<String> {
    fn list(&self) -> Vec<String> {
        self.clone()
    }
}

fn run(program: &str, arguments: &impl Arguments) -> String {
    let arguments = arguments.list();
    let output = Command::new(program).args(&arguments).output().expect("it is installed");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

struct Dispatcher {
    child: Child,
    config: std::path::PathBuf,
    namespace: String,
}

impl Dispatcher {
    fn start(lab: &Lab, config: &Path) -> Dispatcher {
        let namespace = lab.host("d");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace, env!("CARGO_BIN_EXE_oneip"), "run", "-c"]).arg(config);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut said = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
        while !said.ends_with("ready\n") {
            assert!(lines.read_line(&mut said).expect("text") > 0, "it does not start: {said}");
        }
        std::thread::spawn(move || lines.lines().for_each(drop));
        Dispatcher { child, config: config.to_owned(), namespace }
    }

    fn status(&self) -> serde_json::Value {
        let socket = self.config.with_file_name("oneip.sock");
        let arguments = format!(
            "netns exec {} {} ctl --socket {} status --json",
            self.namespace,
            env!("CARGO_BIN_EXE_oneip"),
            socket.display()
        );
        serde_json::from_str(&run("ip", &arguments)).expect("JSON")
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// What the server's kernel hands to whoever has the tunnels' protocol: what stands behind its IP header.
struct Tunnel {
    socket: rustix::fd::OwnedFd,
    /// Bytes in front of the packet.
    skipped: usize,
}

impl Tunnel {
    fn open(lab: &Lab, way: &str, is_v6: bool, inner_is_v6: bool) -> Tunnel {
        let family = if is_v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let of = |number: u32| Protocol::from_raw(number.try_into().expect("not 0"));
        // A raw socket of IPv4 gets the IP header as well.
        let ip = if is_v6 { 0 } else { 20 };
        let (kind, protocol, skipped) = match way {
            "ipip" => (SocketType::RAW, of(if inner_is_v6 { 41 } else { 4 }), ip),
            "gre" => (SocketType::RAW, of(47), ip + 4),
            "gue" => (SocketType::DGRAM, of(17), 0),
            other => panic!("no tunnel is {other}"),
        };
        let socket = lab.inside("s", || {
            // Not for programs that other tests start meanwhile.
            let flags = rustix::net::SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(family, kind, flags, Some(protocol)).expect("root may");
            if way == "gue" {
                let any: IpAddr = if is_v6 { "::" } else { "0.0.0.0" }.parse().expect("an address");
                let port = std::net::SocketAddr::new(any, 6080);
                // A process that another test starts has the socket before until it runs its program.
                let start = Instant::now();
                while let Err(error) = rustix::net::bind(&socket, &port) {
                    assert!(start.elapsed() < PATIENCE, "the port is taken: {error}");
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            socket
        });
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(Duration::from_millis(500)),
        )
        .expect("it is a time");
        Tunnel { socket, skipped }
    }

    /// The packet that has come. `None`: none has for a while.
    fn packet(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 3000];
        let (_, len) = rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()).ok()?;
        Some(buffer[self.skipped..len].to_vec())
    }

    /// Sends until it comes: the first frames are for neighbours that are being resolved.
    fn datagram(&self, client: &UdpSocket, data: &[u8]) -> Vec<u8> {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "nothing of {} bytes has come", data.len());
            let _ = client.send(data);
            if let Some(packet) = self.packet().filter(|packet| packet.ends_with(data)) {
                return packet;
            }
        }
    }
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + len) as u8).collect()
}

/// The path MTU that the client's kernel has learned.
fn learned(lab: &Lab, family: usize) -> Option<u32> {
    let said = lab.sh("c", &format!("ip route get {}", CLUSTER[family]));
    let (_, rest) = said.split_once("mtu ")?;
    rest.split_whitespace().next()?.parse().ok()
}

fn tunnel_to_a_server_behind_a_router(engine: &str) {
    for is_v6 in [false, true] {
        let Some(lab) = Lab::up() else { return };
        for (way, deliver, header) in
            [("ipip", "deliver = \"ipip\"", 0), ("gue", "deliver = \"gue\"", 8), ("gre", "deliver = \"gre\"", 4)]
        {
            lab.sh("c", "ip route flush cache; ip -6 route flush cache");
            let dispatcher = lab.dispatch(deliver, engine, is_v6);
            for family in [0, 1] {
                let (tunnel, client) = (Tunnel::open(&lab, way, is_v6, family == 1), lab.client(family));
                let what =
                    format!("{engine} {way}, {} in {}", ["IPv4", "IPv6"][family], if is_v6 { "IPv6" } else { "IPv4" });
                let headers = [28, 48][family];
                for len in [0, 1, 100, 1300] {
                    let packet = tunnel.datagram(&client, &data(len));
                    assert_eq!(packet.len(), headers + len, "{what}");
                    let addresses = if family == 0 { 12..20 } else { 8..40 };
                    let octets = |address: &str| match address.parse().expect("an address") {
                        IpAddr::V4(v4) => v4.octets().to_vec(),
                        IpAddr::V6(v6) => v6.octets().to_vec(),
                    };
                    assert_eq!(packet[addresses], [octets(CLIENT[family]), octets(CLUSTER[family])].concat(), "{what}");
                }
                // What does not fit is made smaller by the client's kernel, when it was told; and then it comes.
                let large = data(1500 - headers);
                let start = Instant::now();
                let most = 1500 - if is_v6 { 40 } else { 20 } - header;
                while learned(&lab, family) != Some(most) {
                    assert!(start.elapsed() < PATIENCE, "{what}: the client has learned {:?}", learned(&lab, family));
                    let _ = client.send(&large);
                    std::thread::sleep(Duration::from_millis(50));
                }
                let fits = data(most as usize - headers);
                assert_eq!(tunnel.datagram(&client, &fits).len(), most as usize, "{what}");
            }
            let status = dispatcher.status();
            assert!(status["dropped"]["too_big"].as_u64().is_some_and(|dropped| dropped >= 2), "{status}");
        }
    }
}

#[test]
fn servers_behind_a_router_get_what_clients_send_over_af_xdp() {
    tunnel_to_a_server_behind_a_router("af_xdp");
}

#[test]
fn servers_behind_a_router_get_what_clients_send_over_the_program_in_the_kernel() {
    tunnel_to_a_server_behind_a_router("xdp");
}

/// Without "don't fragment" a large packet comes whole, and nobody is told of any MTU.
#[test]
fn what_may_be_fragmented_comes_in_fragments() {
    let Some(lab) = Lab::up() else { return };
    lab.sh("c", "sysctl -qw net.ipv4.ip_no_pmtu_disc=1");
    for is_v6 in [false, true] {
        let _dispatcher = lab.dispatch("deliver = \"gue\"", "af_xdp", is_v6);
        let (tunnel, client) = (Tunnel::open(&lab, "gue", is_v6, false), lab.client(0));
        let large = data(1472);
        assert_eq!(tunnel.datagram(&client, &large).len(), 1500);
        assert_eq!(learned(&lab, 0), None);
    }
}

/// The server's own sockets get what was sent to the cluster address, with right checksums and the mark.
#[test]
fn l3dsr_comes_to_the_servers_own_address() {
    for engine in ["af_xdp", "xdp"] {
        let Some(lab) = Lab::up() else { return };
        let _dispatcher = lab.dispatch("deliver = \"l3dsr\"\ndscp = 12", engine, false);
        for family in [0, 1] {
            let server = lab.inside("s", || UdpSocket::bind((SERVER[family], 9000)).expect("the port is free"));
            server.set_read_timeout(Some(Duration::from_millis(500))).expect("it is a time");
            let client = lab.client(family);
            for len in [0, 3, 1400] {
                let (start, sent) = (Instant::now(), data(len));
                let mut buffer = vec![0; 2000];
                loop {
                    assert!(start.elapsed() < PATIENCE, "{engine}: nothing has come to {}", SERVER[family]);
                    let _ = client.send(&sent);
                    if let Ok((len, from)) = server.recv_from(&mut buffer)
                        && buffer[..len] == sent
                    {
                        assert_eq!(from.ip().to_string(), CLIENT[family]);
                        break;
                    }
                }
            }
        }
    }
}

/// What is wrong with the way to a server is said, and nothing starts.
#[test]
fn a_route_that_leads_elsewhere_is_refused() {
    let Some(lab) = Lab::up() else { return };
    lab.sh("d", "ip route del default; ip link add o0 type veth peer name o1; ip link set o0 up; ip addr add 172.16.0.1/24 dev o0");
    let refused = |why: &str| {
        let file = lab.folder.path().join("refused.toml");
        let mut text = std::fs::File::create(&file).expect("a file");
        write!(
            text,
            "[cluster]\nhash_key = \"00112233445566778899aabbccddeeff\"\n[dispatcher]\ninterface = \"d0\"\n[admin]\nsocket = \
             \"{0}/x.sock\"\nstate = \"{0}/x.json\"\n[[service]]\nname = \"a\"\naddress = \"{1}\"\ndeliver = \"ipip\"\n\
             [[service.server]]\nname = \"one\"\naddress = \"{2}\"\n",
            lab.folder.path().display(),
            CLUSTER[0],
            SERVER[0]
        )
        .expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        let mut command = Command::new("timeout");
        command
            .args(["20", "ip", "netns", "exec", &lab.host("d"), env!("CARGO_BIN_EXE_oneip"), "run", "-c"])
            .arg(&file);
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{said}");
    };
    refused(
        "server one 10.9.0.11 is not reached through d0: there is no route to it; add a route, as in ip route add \
         10.9.0.11 via",
    );
    lab.sh("d", "ip route add 10.9.0.0/24 dev o0");
    refused("server one 10.9.0.11 is not reached through d0: the route goes out of o0");
    lab.sh(
        "d",
        "ip route del 10.9.0.0/24; ip route add 203.0.113.80 dev d0; ip route add 10.9.0.0/24 via 203.0.113.80 dev d0",
    );
    refused("the route goes via 203.0.113.80, a cluster address, and so comes back here");
}
