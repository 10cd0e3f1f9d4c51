//! A lab, its hosts, and what the clients do.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub const CLUSTER: [&str; 2] = ["203.0.113.80", "2001:db8:80::80"];
pub const SERVERS: [&str; 3] = ["web1", "web2", "web3"];

/// The services of a lab for each family, over the same servers: web pages, and an echo of datagrams (`echo`).
pub const WEB: [&str; 2] = ["web", "web6"];
pub const ECHO: [&str; 2] = ["echo", "echo6"];
pub const ECHO_PORT: u16 = 9000;

/// Health checks as fast as suits a test: a server that refuses or is silent is down after 6 x 500 ms. One that this machine, busy with
/// other things, keeps from running for a while is not: with timeouts of 150 ms, and of 4 x 400 ms beside two busy loops, such servers were
/// found down, rightly, and their connections moved.
pub const HEALTH: &str =
    "[service.health]\ntype = \"http\"\nport = 80\npath = \"/\"\ninterval_ms = 500\ntimeout_ms = 500\nfall = 6\n\n";

/// However slow the machine: what takes longer does not happen any more.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// That of all labs, if the environment says so (`LAB_ENGINE`).
fn engine() -> Option<String> {
    std::env::var("LAB_ENGINE").ok().filter(|engine| !engine.is_empty())
}

/// A network of its own name, taken down when dropped, or when this process ends in whichever way.
pub struct Lab {
    name: String,
    remover: Child,
    _turn: Turn,
}

/// The engine in the kernel: for what has nothing to do with engines, since its labs need no turn of their own.
pub const XDP: [&str; 2] = ["--engine", "xdp"];

/// Workers over AF_XDP.
pub const AF_XDP: [&str; 2] = ["--engine", "af_xdp"];

/// So many labs at a time: servers, clients and programs of one take a core at times.
struct Turn;

impl Turn {
    const LABS: usize = 3;

    /// Behind those who wait already.
    fn take() -> Turn {
        static QUEUE: Mutex<()> = Mutex::new(());
        let _first = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, changed) = Turn::taken();
        let taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |taken: &mut usize| *taken == Turn::LABS;
        *changed.wait_while(taken, is_full).unwrap_or_else(PoisonError::into_inner) += 1;
        Turn
    }

    fn taken() -> (&'static Mutex<usize>, &'static Condvar) {
        static TAKEN: Mutex<usize> = Mutex::new(0);
        static CHANGED: Condvar = Condvar::new();
        (&TAKEN, &CHANGED)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (taken, changed) = Turn::taken();
        *taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        changed.notify_all();
    }
}

impl Lab {
    /// `None` without root, and it says so.
    pub fn up(options: &[&str]) -> Option<Lab> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            say("SKIPPED: needs root");
            return None;
        }
        let mut options = options.to_vec();
        let engine = engine();
        if let Some(engine) = &engine
            && !options.contains(&"--engine")
        {
            options.extend(["--engine", engine]);
        }
        let turn = Turn::take();
        let name = format!("test{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Waits for the end of its input, which comes with the end of this process at the latest.
        let remover = script(&name, "sh")
            .args(["-c", "cat; exec scripts/lab.sh down"])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let lab = Lab { name, remover, _turn: turn };
        lab.script("up", &options);
        let config = fs::read_to_string(lab.file("oneip.toml")).unwrap();
        write_config(&lab.config(), &with_echo_services(&config));
        Some(lab)
    }

    /// `scripts/lab.sh VERB OPTIONS`
    pub fn script(&self, verb: &str, options: &[&str]) {
        succeed(script(&self.name, "scripts/lab.sh").arg(verb).args(options));
    }

    pub fn file(&self, name: &str) -> PathBuf {
        Path::new("/run").join(format!("{}-lab", self.name)).join(name)
    }

    /// The lab's configuration, with the services of `ECHO`.
    pub fn config(&self) -> PathBuf {
        self.file("test.toml")
    }

    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// A program to run in a host.
    pub fn command(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]).arg(program);
        command
    }

    /// `ip ARGUMENTS` in a host.
    pub fn ip(&self, host: &str, arguments: &str) -> String {
        succeed(Command::new("ip").args(["-n", &self.namespace(host)]).args(arguments.split_whitespace()))
    }

    /// A shell script in a host, every command of which succeeds.
    pub fn sh(&self, host: &str, commands: &str) -> String {
        succeed(self.command(host, "sh").args(["-ec", commands]))
    }

    /// What the router knows of the dispatchers: for a message that says why it does not send clients where it should.
    pub fn routing(&self) -> String {
        let control = self.file("router.birdctl");
        let looks = [
            "ip route show",
            "ip -6 route show",
            "birdc -s CONTROL show protocols",
            "birdc -s CONTROL show bfd sessions",
            "tail -n 50 LOG",
        ];
        let log = self.file("router.bird.log");
        let paths = |look: &str| {
            look.replace("CONTROL", &control.display().to_string()).replace("LOG", &log.display().to_string())
        };
        let said = |look: String| {
            let output = self.command("router", "sh").args(["-c", &look]).output();
            let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            format!("router: {look}\n{}", said.unwrap_or_default())
        };
        looks.map(paths).map(said).concat()
    }

    /// As `bpftool link detach` does, which any root may: the XDP program of a host goes, and whoever has its link has one that leads nowhere.
    pub fn detach_program(&self, host: &str) {
        let namespace = fs::metadata(Path::new("/run/netns").join(self.namespace(host))).unwrap().ino();
        let is_of = |path: &PathBuf| path.display().to_string().contains(&format!("-{namespace}-"));
        let mut links = fs::read_dir(self.file("bpf/lan0")).unwrap().map(|entry| entry.unwrap().path());
        let link = links.find(is_of).unwrap();
        // include/uapi/linux/bpf.h: BPF_OBJ_GET is 7, BPF_LINK_DETACH is 34; bpf(2) takes the size of what it is given.
        let script = "my ($bpf, $path) = ($ARGV[0] + 0, \"$ARGV[1]\\0\"); \
                      my $get = pack('p x8', $path); my $link = syscall($bpf, 7, $get, length $get); \
                      $link >= 0 or die \"open: $!\"; my $detach = pack('L', $link); \
                      syscall($bpf, 34, $detach, length $detach) == 0 or die \"detach: $!\"";
        succeed(Command::new("perl").args(["-e", script, &libc::SYS_bpf.to_string()]).arg(link));
    }

    /// Runs `work` on a thread in a host's network. Sockets that it makes stay there.
    pub fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(self.namespace(host))).unwrap();
        let inside = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }
}

fn script(lab: &str, program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env("ONEIP_LAB", lab).env("ONEIP", env!("CARGO_BIN_EXE_oneip"));
    command
}

/// Each service once more, over the same servers, for datagrams.
fn with_echo_services(config: &str) -> String {
    let (head, services) = config.split_once("[[service]]").unwrap();
    let services = format!("[[service]]{services}");
    let echo = services.replace("tcp/80", "udp/9000").replace("\"web\"", "\"echo\"").replace("\"web6\"", "\"echo6\"");
    format!("{head}{services}\n{echo}")
}

/// Writes a configuration. There is a key in it, which is nobody else's to read.
pub fn write_config(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A configuration with this in each service.
pub fn with_health(config: &str, health: &str) -> String {
    let first = "[[service.server]]";
    let services = config.split("[[service]]").map(|text| text.replacen(first, &format!("{health}{first}"), 1));
    services.collect::<Vec<_>>().join("[[service]]")
}

/// Runs a program to its end and returns what it says.
pub fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Not `eprintln`, which is captured with a test's output and not shown when it passes.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Tries until it comes true. What takes long is tried half of the time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    loop {
        let tried = Instant::now();
        if holds() {
            return start.elapsed();
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(tried.elapsed().max(Duration::from_millis(10)));
    }
}

/// The client host's addresses: of IPv4 (family 0) or IPv6 (family 1).
pub fn clients(family: usize) -> Vec<String> {
    (10..=219).map(|n| format!("{}{n}", ["198.51.100.", "2001:db8:1::"][family])).collect()
}

/// `203.0.113.80`, `[2001:db8:80::80]`
pub fn url(family: usize, path: &str) -> String {
    format!("http://{}{path}", [CLUSTER[0].to_owned(), format!("[{}]", CLUSTER[1])][family])
}

/// A client and the server it has.
pub type Pairs = Vec<(String, String)>;

/// The first client of each server.
pub fn one_each(pairs: &Pairs) -> Pairs {
    SERVERS.iter().map(|server| pairs.iter().find(|(_, has)| has == server).unwrap().clone()).collect()
}

/// What `oneip lookup` says.
pub fn lookup(config: &Path, service: &str, clients: &[String], options: &[&str]) -> Pairs {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneip"));
    command.args(["lookup", "--json", "--service", service, "-c"]).arg(config).args(options).args(clients);
    let answers: serde_json::Value = serde_json::from_str(&succeed(&mut command)).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    answers.as_array().unwrap().iter().map(|answer| (text(&answer["client"]), text(&answer["server"]))).collect()
}

impl Lab {
    /// Every client fetches the page over a connection of its own; with the server that it came from, empty where it did not.
    pub fn fetch(&self, family: usize, clients: &[String]) -> Pairs {
        self.fetch_within(10, family, clients)
    }

    /// As `fetch`; a connection may take so many seconds to be made.
    pub fn fetch_within(&self, seconds: u32, family: usize, clients: &[String]) -> Pairs {
        let transfers: Vec<String> = clients
            .iter()
            .map(|client| {
                format!(
                    "url = \"{}\"\ninterface = \"{client}\"\nwrite-out = \"{client} %{{http_code}} %header{{x-server}}\\n\"\n\
                     output = \"/dev/null\"\nsilent\nconnect-timeout = {seconds}\nmax-time = {}\n",
                    url(family, "/"),
                    seconds + 3
                )
            })
            .collect();
        let mut curl = self.command("client", "curl");
        let mut curl = curl.args(["-K", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        curl.stdin.take().unwrap().write_all(transfers.join("next\n").as_bytes()).unwrap();
        let said = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
        let pair = |line: &str| {
            let (client, rest) = line.split_once(' ').unwrap();
            (client.to_owned(), rest.strip_prefix("200 ").unwrap_or_default().to_owned())
        };
        said.lines().map(pair).collect()
    }

    /// curl as one of the clients, quiet but for errors.
    pub fn curl(&self, client: &str, arguments: &[&str]) -> Command {
        let mut command = self.command("client", "curl");
        command.args(["-sSf", "--max-time", "180", "--interface", client]).args(arguments);
        command
    }

    /// Downloads and uploads the lab's file, of 20 MiB if nobody has put another one there, as a client, and compares what has come with what was sent.
    pub fn transfer(&self, family: usize, client: &str, server: &str) {
        let big = fs::read(self.file("big")).unwrap();
        assert!(big.len() >= 20 << 20);
        let down = self.curl(client, &[&url(family, "/big")]).output().unwrap();
        assert!(down.status.success(), "{client}: {}", String::from_utf8_lossy(&down.stderr));
        assert!(down.stdout == big, "{client}: what {server} sent arrives whole");
        let name = format!("upload/{}", client.replace(':', "-"));
        let put = &[&url(family, &format!("/{name}")), "-T"];
        succeed(self.curl(client, put).arg(self.file("big")));
        assert!(
            fs::read(self.file(&format!("{server}/{name}"))).unwrap() == big,
            "{client}: what it sent is at {server}"
        );
    }

    /// One echo request from each client at once; how many have been answered, within so many seconds.
    pub fn ping_within(&self, seconds: u32, family: usize, clients: &[String], payload: usize) -> usize {
        let one = |client| {
            format!(
                "ping -c1 -W{seconds} -q -s {payload} -I {client} {} >/dev/null && echo answered &",
                CLUSTER[family]
            )
        };
        let all: Vec<String> = clients.iter().map(one).collect();
        self.sh("client", &format!("{}\nwait", all.join("\n"))).lines().count()
    }

    pub fn ping(&self, family: usize, clients: &[String], payload: usize) -> usize {
        self.ping_within(10, family, clients, payload)
    }

    /// A datagram socket of a client, connected to the echo service.
    pub fn datagrams(&self, family: usize, client: &str) -> UdpSocket {
        self.inside("client", || {
            let socket = UdpSocket::bind((client, 0)).unwrap();
            socket.connect((CLUSTER[family], ECHO_PORT)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket
        })
    }

    /// A connection from a client's address.
    pub fn connect(&self, client: &str, to: SocketAddr) -> TcpStream {
        self.connect_from((client.parse::<IpAddr>().unwrap(), 0).into(), to)
    }

    pub fn connect_from(&self, from: SocketAddr, to: SocketAddr) -> TcpStream {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        // A program that is started meanwhile, and stays, would keep it open.
        let socket = || rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let socket = self.inside("client", || socket().unwrap());
        rustix::net::bind(&socket, &from).unwrap();
        rustix::net::connect(&socket, &to).unwrap();
        let connection = TcpStream::from(socket);
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.set_write_timeout(Some(PATIENCE)).unwrap();
        connection
    }
}
