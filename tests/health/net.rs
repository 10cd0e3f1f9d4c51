//! A LAN in network namespaces: a dispatcher and servers on one bridge, `lan0` in each of them. The dispatcher checks reverse
//! paths strictly, and has a default route into the LAN, as one has whose router is there.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use oneip::config;
use oneip::control::health::{Change, Health, What};
use oneip::model::{Mac, Plan};
use oneip::table::TunnelEnd;
use rustix::process::{Pid, Signal, kill_process};

/// Where tunnels to servers begin.
pub const END: TunnelEnd =
    TunnelEnd { v4: Some(Ipv4Addr::new(10, 9, 0, 1)), v6: Some(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1)), mtu: 1500 };

pub const V4: &str = "203.0.113.80";
pub const V6: &str = "2001:db8:80::80";

/// The dispatcher is 10.9.0.1 and fd09::1, server N is 10.9.1.N and fd09::1:N; both have the cluster addresses on `lo`.
pub struct Net {
    pub dispatcher: String,
    lan: String,
    pub servers: Vec<String>,
}

impl Net {
    /// The dispatcher and one server, without a bridge between. What arrives on an interface is the work of a thread of the
    /// kernel, `napi/lan0-N`, and not of whoever sent it. `None`, said aloud, where there is no root.
    pub fn pair() -> Option<Net> {
        let net = Net::hosts(1)?;
        run("ip", &format!("link add lan0 netns {} type veth peer name lan0 netns {}", net.dispatcher, net.servers[0]));
        net.set_up(&net.dispatcher, "10.9.0.1", "fd09::1");
        net.set_up(&net.servers[0], "10.9.1.1", "fd09::1:1");
        net.finish();
        for namespace in [&net.dispatcher, &net.servers[0]] {
            // Only without segmentation offload does veth hand its packets to NAPI (`veth_skb_is_eligible_for_gro`).
            run("ip", &format!("netns exec {namespace} ethtool -K lan0 gro on tso off"));
            let threaded = ["netns", "exec", namespace, "sh", "-c", "echo 1 > /sys/class/net/lan0/threaded"];
            assert!(Command::new("ip").args(threaded).status().unwrap().success());
        }
        Some(net)
    }

    /// The thread that receives for the dispatcher of a pair: the first of the two that were begun last.
    pub fn receiver(&self) -> u32 {
        let found = run("pgrep", "napi/lan0-");
        let mut pids: Vec<u32> = found.lines().map(|pid| pid.parse().unwrap()).collect();
        pids.sort_unstable();
        pids[pids.len() - 2]
    }

    /// `None`, said aloud, where there is no root.
    pub fn new(servers: usize) -> Option<Net> {
        let net = Net::hosts(servers)?;
        ip(&net.lan, "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0");
        ip(&net.lan, "link set br0 up");
        net.join(&net.dispatcher, "dispatcher", "10.9.0.1", "fd09::1");
        for (i, server) in net.servers.iter().enumerate() {
            let n = i + 1;
            net.join(server, &format!("web{n}"), &format!("10.9.1.{n}"), &format!("fd09::1:{n}"));
        }
        net.finish();
        Some(net)
    }

    fn hosts(servers: usize) -> Option<Net> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let id = format!("hc{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let names = (1..=servers).map(|i| format!("{id}-web{i}")).collect();
        let net = Net { dispatcher: format!("{id}-d"), lan: format!("{id}-l"), servers: names };
        for namespace in net.namespaces() {
            run("ip", &format!("netns add {namespace}"));
            // Without it a link-local address takes two seconds to be usable, and nothing is solicited until then.
            let settings = "net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 \
                            net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2";
            run("ip", &format!("netns exec {namespace} sysctl -qw {settings}"));
            run("ip", &format!("-n {namespace} link set lo up"));
        }
        Some(net)
    }

    fn finish(&self) {
        for server in 0..self.servers.len() {
            self.add_alias(server, V4);
            self.add_alias(server, V6);
        }
        self.here("route add default via 10.9.255.254 dev lan0");
        self.here("-6 route add default via fd09::ffff dev lan0");
    }

    fn join(&self, namespace: &str, port: &str, v4: &str, v6: &str) {
        let lan = &self.lan;
        run("ip", &format!("link add {port} netns {lan} type veth peer name lan0 netns {namespace}"));
        ip(lan, &format!("link set {port} master br0 up"));
        self.set_up(namespace, v4, v6);
    }

    fn set_up(&self, namespace: &str, v4: &str, v6: &str) {
        ip(namespace, &format!("addr add {v4}/16 dev lan0"));
        ip(namespace, &format!("addr add {v6}/64 dev lan0 nodad"));
        ip(namespace, "link set lan0 up");
    }

    fn namespaces(&self) -> impl Iterator<Item = &String> {
        [&self.dispatcher, &self.lan].into_iter().chain(&self.servers)
    }

    /// `ip ARGUMENTS` on the dispatcher.
    pub fn here(&self, arguments: &str) -> String {
        ip(&self.dispatcher, arguments)
    }

    /// Sets `rp_filter` of the dispatcher's `all` and `lan0`.
    pub fn set_rp_filter(&self, value: u32) {
        let settings = ["all", "lan0"].map(|interface| format!("net.ipv4.conf.{interface}.rp_filter={value}"));
        run("ip", &format!("netns exec {} sysctl -qw {}", self.dispatcher, settings.join(" ")));
    }

    /// The ports of the switch go down, or up: of `dispatcher`, `web1` ...
    pub fn set_ports(&self, ports: &[&str], state: &str) {
        for port in ports {
            ip(&self.lan, &format!("link set {port} {state}"));
        }
    }

    /// `ip ARGUMENTS` on a server.
    pub fn at(&self, server: usize, arguments: &str) -> String {
        ip(&self.servers[server], arguments)
    }

    pub fn add_alias(&self, server: usize, cluster: &str) {
        let form = if cluster.contains(':') { "/128 dev lo nodad" } else { "/32 dev lo" };
        self.at(server, &format!("addr add {cluster}{form}"));
    }

    pub fn remove_alias(&self, server: usize, cluster: &str) {
        let form = if cluster.contains(':') { "/128 dev lo" } else { "/32 dev lo" };
        self.at(server, &format!("addr del {cluster}{form}"));
    }

    pub fn mac(&self, server: usize) -> Mac {
        let shown = self.at(server, "-o link show lan0");
        shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    }

    /// Captures what comes to a server, a line a packet, until what this returns is called.
    pub fn capture(&self, server: usize, what: &str) -> impl FnOnce() -> String + use<> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.servers[server], "tcpdump", "-e", "-n", "-l", "-i", "lan0", what]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tcpdump");
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().starts_with("listening on")), "tcpdump listens");
        move || {
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
            String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
        }
    }

    /// RSTs that a server has sent: connections it has refused.
    pub fn resets(&self, server: usize) -> u64 {
        let counters = run("ip", &format!("netns exec {} cat /proc/net/snmp", self.servers[server]));
        let mut tcp = counters.lines().filter(|line| line.starts_with("Tcp: ")).map(str::split_whitespace);
        let mut columns = tcp.next().unwrap().zip(tcp.next().unwrap());
        columns.find(|(name, _)| *name == "OutRsts").unwrap().1.parse().unwrap()
    }

    /// A service of the servers, each with its MAC; `health` are the lines of `[service.health]`. It has a port of its own.
    pub fn service(&self, name: &str, cluster: &str, health: &str) -> String {
        static PORT: AtomicU32 = AtomicU32::new(1000);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let mut text = format!("[[service]]\nname = '{name}'\naddress = '{cluster}'\nports = ['tcp/{port}']\n");
        for i in 0..self.servers.len() {
            let (n, mac) = (i + 1, self.mac(i));
            let address = if cluster.contains(':') { format!("fd09::1:{n}") } else { format!("10.9.1.{n}") };
            text += &format!("[[service.server]]\nname = 'web{n}'\naddress = '{address}'\nmac = '{mac}'\n");
        }
        text + "[service.health]\n" + health + "\n"
    }

    /// Everything of ours in the dispatcher's tables.
    pub fn left(&self) -> String {
        let shown = [
            self.here("-4 rule show"),
            self.here("-6 rule show"),
            self.here("-4 route show table all"),
            self.here("-6 route show table all"),
            self.here("neigh show nud permanent"),
        ];
        let lines = shown.iter().flat_map(|text| text.lines());
        lines
            .filter(|line| line.contains("proto 111") || line.contains("18694799"))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// Runs `work` in the dispatcher's namespace, on a runtime of its own.
    pub fn inside(&self, work: impl AsyncFnOnce() + Send) {
        let dispatcher = &self.dispatcher;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter(dispatcher);
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work());
            });
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// A server that accepts connections and does `with` to each, until it is dropped.
    pub fn listen(&self, server: usize, at: &str, with: fn(&mut std::net::TcpStream)) -> Listening {
        let (namespace, at) = (self.servers[server].clone(), at.parse::<SocketAddr>().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, listens) = std::sync::mpsc::channel();
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let listener = TcpListener::bind(at).unwrap();
            listener.set_nonblocking(true).unwrap();
            ready.send(()).unwrap();
            while !stopping.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        _ = std::thread::spawn(move || with(&mut stream));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        listens.recv().unwrap();
        Listening { stop, thread: Some(thread) }
    }

    /// A real nginx on a server, with `servers` in its `http` section.
    pub fn nginx(&self, server: usize, directory: &Path, servers: &str) -> Nginx {
        let d = directory.display();
        let configuration = format!(
            "daemon off;\nmaster_process off;\npid {d}/pid;\nerror_log {d}/error.log;\nevents {{}}\nhttp {{\naccess_log {d}/access.log;\n\
             client_body_temp_path {d}/b;\nproxy_temp_path {d}/p;\nfastcgi_temp_path {d}/f;\nuwsgi_temp_path {d}/u;\n\
             scgi_temp_path {d}/s;\n{servers}}}\n"
        );
        let file = directory.join("nginx.conf");
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.servers[server], "nginx", "-p"]).arg(directory).arg("-c").arg(file);
        let nginx = Nginx(command.spawn().expect("nginx (Debian: nginx-light)"));
        let answers = "until (exec 3<>/dev/tcp/127.0.0.1/80) 2>/dev/null; do sleep 0.01; done";
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.servers[server], "timeout", "20", "bash", "-c", answers]);
        assert!(command.status().unwrap().success(), "nginx does not answer");
        nginx
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in self.namespaces() {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

pub struct Listening {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

pub struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Keeps the connection until the other side ends it.
pub fn accept(stream: &mut std::net::TcpStream) {
    _ = stream.read_to_end(&mut Vec::new());
}

/// Answers with something that is not HTTP.
pub fn babble(stream: &mut std::net::TcpStream) {
    _ = stream.write_all(b"220 mail.example.org ESMTP\r\n\r\n");
    accept(stream);
}

/// Reads what is asked, and closes.
pub fn hang_up(stream: &mut std::net::TcpStream) {
    _ = stream.read(&mut [0; 4096]);
}

fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
}

fn ip(namespace: &str, arguments: &str) -> String {
    run("ip", &format!("-n {namespace} {arguments}"))
}

pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

pub fn plan(services: &str) -> Plan {
    let text = format!("[cluster]\nhash_key = '8f3a1c5e7b9d2046a1b3c5d7e9f00112'\n{services}");
    config::parse(&text, "t.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}")).plan
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The changes until there are enough, or all else is as it should be.
pub async fn gather(health: &mut Health, enough: impl Fn(&Health, &[Change]) -> bool) -> Vec<Change> {
    const LIMIT: Duration = Duration::from_secs(60);
    let (give_up, mut all) = (Instant::now() + LIMIT, Vec::new());
    while !enough(health, &all) {
        assert!(Instant::now() < give_up, "not within {LIMIT:?}; changes until then: {all:#?}");
        all.extend(during(health, Duration::from_millis(10)).await);
    }
    all
}

/// Waits until there is a verdict of every server.
pub async fn known(health: &mut Health) {
    gather(health, |health, _| health.pending() == 0).await;
}

/// The changes until one is as wanted, that one last.
pub async fn until(health: &mut Health, wanted: impl Fn(&Change) -> bool) -> Vec<Change> {
    let mut all = gather(health, |_, all| all.iter().any(&wanted)).await;
    let last = all.iter().position(&wanted).unwrap();
    all.truncate(last + 1);
    all
}

/// Waits until a server is down, and says why.
pub async fn down(health: &mut Health, service: usize) -> String {
    let is_down = |change: &Change| change.service == service && matches!(change.what, What::Down { .. });
    match until(health, is_down).await.pop().unwrap().what {
        What::Down { reason, .. } => reason,
        other => unreachable!("{other:?}"),
    }
}

/// Waits until a server is up.
pub async fn up(health: &mut Health, service: usize) {
    until(health, |change| change.service == service && matches!(change.what, What::Up { .. })).await;
}

/// The changes that come within a time.
pub async fn during(health: &mut Health, time: Duration) -> Vec<Change> {
    let (deadline, mut all) = (Instant::now() + time, Vec::new());
    while let Ok(changes) = tokio::time::timeout_at(deadline.into(), health.next()).await {
        all.extend(changes);
    }
    all
}
