//! A network of its own with real etcd nodes on its loopback, and dispatchers that share them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tempfile::TempDir;

/// What the two halves of a network have.
const HALVES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// The hash key of all dispatchers.
pub const KEY: &str = "8f3a1c5e7b9d2046a1b3c5d7e9f00112";

/// However slow the machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn run(program: &str, arguments: &str, folder: &Path) {
    let done = Command::new(program).args(arguments.split_whitespace()).current_dir(folder).output().expect("it runs");
    assert!(done.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Taken down with all that runs in it when dropped.
pub struct Net {
    /// What is here is a part: one, or two that can be cut from each other.
    parts: Vec<String>,
    /// Dispatchers up to this one are in the first part, as are the first two nodes of etcd.
    first: usize,
    pub folder: TempDir,
}

/// In memory, if there is room for what nodes of etcd write: members and nodes here do not wait for this machine's disk, which others use.
fn folder() -> TempDir {
    const ROOM: u64 = 2 << 30;
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |shm| shm.f_bavail * shm.f_frsize);
    let folder = if free >= ROOM { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a folder")
}

impl Net {
    /// `None` without root, and it says so.
    pub fn up(dispatchers: usize) -> Option<Net> {
        Net::of(&[dispatchers])
    }

    /// With so many dispatchers in each half; two of three nodes of etcd are in the first.
    pub fn halves(dispatchers: [usize; 2]) -> Option<Net> {
        let net = Net::of(&dispatchers)?;
        let [one, other] = &net.parts[..] else { unreachable!("two parts") };
        run("ip", &format!("-n {one} link add x type veth peer name x netns {other}"), Path::new("/"));
        for (part, address) in HALVES.iter().enumerate() {
            net.ip_in(part, &format!("addr add {address}/24 dev x"));
            net.ip_in(part, "link set x up");
        }
        Some(net)
    }

    fn of(dispatchers: &[usize]) -> Option<Net> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            let _ = writeln!(io::stderr(), "SKIPPED: needs root");
            return None;
        }
        let name = format!("oneip-group-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let parts = (0..dispatchers.len()).map(|part| format!("{name}-{part}")).collect();
        let net = Net { parts, first: dispatchers[0], folder: folder() };
        for part in 0..dispatchers.len() {
            run("ip", &format!("netns add {}", net.parts[part]), Path::new("/"));
            net.ip_in(part, "link set lo up");
        }
        for at in 1..=dispatchers.iter().sum() {
            net.ip_of(at, &format!("link add d{at} type veth peer name p{at}"));
            net.ip_of(at, &format!("link set d{at} up"));
            net.ip_of(at, &format!("link set p{at} up"));
        }
        Some(net)
    }

    /// The part with that dispatcher.
    fn part(&self, at: usize) -> usize {
        usize::from(at > self.first)
    }

    /// Nothing passes between the halves from now on, and nobody is told.
    pub fn cut(&self) {
        for part in 0..2 {
            let mut nft = self.command_in(part, "nft");
            let rules = "add table ip cut; add chain ip cut in { type filter hook input priority 0; }; add rule ip cut in iifname x drop";
            assert!(nft.arg(rules).status().expect("nft: scripts/setup.sh").success());
        }
    }

    pub fn mend(&self) {
        for part in 0..2 {
            assert!(self.command_in(part, "nft").arg("delete table ip cut").status().expect("nft").success());
        }
    }

    fn ip_in(&self, part: usize, arguments: &str) {
        run("ip", &format!("-n {} {arguments}", self.parts[part]), Path::new("/"));
    }

    pub fn ip_everywhere(&self, arguments: &str) {
        (0..self.parts.len()).for_each(|part| self.ip_in(part, arguments));
    }

    /// `ip` where that dispatcher is.
    pub fn ip_of(&self, at: usize, arguments: &str) {
        self.ip_in(self.part(at), arguments);
    }

    /// Writes there so many times, with so many bytes each.
    pub fn flood(&self, times: usize, bytes: usize, key: impl Fn(usize) -> String + Sync) {
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let client = etcd_client::Client::connect(["http://127.0.0.1:2379"], None).await.expect("etcd");
                let put = |at| {
                    let (mut client, key) = (client.clone(), key(at));
                    async move { client.put(key, vec![b'x'; bytes], None).await.map(drop) }
                };
                let done: Vec<_> = futures::stream::iter(0..times).map(put).buffer_unordered(64).collect().await;
                assert!(done.into_iter().all(|done| done.is_ok()));
            });
        };
        self.inside(0, work);
    }

    fn inside(&self, part: usize, work: impl FnOnce() + Send) {
        let work = || {
            let namespace = File::open(Path::new("/run/netns").join(&self.parts[part])).expect("it is there");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
            work();
        };
        thread::scope(|scope| scope.spawn(work).join().expect("it does not panic"));
    }

    /// What `ip` shows where that dispatcher is.
    pub fn ip_said(&self, at: usize, arguments: &str) -> String {
        let mut ip = self.command_in(self.part(at), "ip");
        let done = ip.args(arguments.split_whitespace()).output().expect("it runs");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// What a web server in the first part says.
    pub fn get(&self, address: &str, path: &str) -> String {
        let mut said = None;
        self.inside(0, || said = Some(ask(&mut TcpStream::connect(address).expect("it listens"), path)));
        said.expect("it was asked")
    }

    /// The same by a socket of a dispatcher.
    pub fn get_unix(&self, socket: &str, path: &str) -> String {
        ask(&mut UnixStream::connect(self.path(socket)).expect("it listens"), path)
    }

    /// Listens where that dispatcher is, and takes every connection, until that is dropped.
    pub fn listen(&self, at: usize, address: &str) -> Listener {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut bound = None;
        self.inside(self.part(at), || bound = Some(TcpListener::bind(address).expect("it is free")));
        let listener = bound.expect("it was bound");
        listener.set_nonblocking(true).expect("it may");
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let _ = listener.accept();
                thread::sleep(Duration::from_millis(5));
            }
        });
        Listener { stop, thread: Some(thread) }
    }

    pub fn command(&self, program: &str) -> Command {
        self.command_in(0, program)
    }

    fn command_in(&self, part: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.parts[part], program]).current_dir(self.folder.path());
        command
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The file of a dispatcher: three servers, and the group. `group` is more of the section, `change` what is other than in the rest.
    pub fn config(&self, at: usize, group: &str, change: (&str, &str)) -> PathBuf {
        let servers: String = (1..=3)
            .map(|n| {
                format!("[[service.server]]\nname = \"web{n}\"\naddress = \"192.0.2.1{n}\"\nmac = \"02:00:00:00:00:1{n}\"\nweight = 1\n")
            })
            .collect();
        let text = format!(
            "[cluster]\nhash_key = \"{KEY}\"\n[dispatcher]\ninterface = \"d{at}\"\nengine = \"xdp\"\n\
             pins = \"/sys/fs/bpf/{name}-{at}\"\n[admin]\nsocket = \"d{at}.sock\"\nstate = \"state{at}/d{at}.json\"\n[group]\nname = \"edge\"\n\
             member = \"d{at}\"\n{group}\n[[service]]\nname = \"web\"\naddress = \"203.0.113.80\"\n{servers}",
            name = self.parts[0]
        );
        let file = self.path(&format!("d{at}.toml"));
        fs::write(&file, text.replace(change.0, change.1)).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
        file
    }

    /// Starts a dispatcher by the file that [`Net::config`] has written.
    pub fn dispatcher(&self, at: usize) -> Process {
        self.dispatcher_by(at, |_| {})
    }

    /// As `dispatcher`, with something more for its process.
    pub fn dispatcher_by(&self, at: usize, more: impl FnOnce(&mut Command)) -> Process {
        let mut command = self.command_in(self.part(at), env!("CARGO_BIN_EXE_oneip"));
        more(&mut command);
        command.arg("run");
        self.start(at, command)
    }

    /// The filter of a server in the place of a dispatcher. It wants a BPF file system, which `ip netns exec` hides.
    pub fn filter(&self, at: usize, server: &str) -> Process {
        let script = format!("mount -t bpf bpf /sys/fs/bpf && exec {} \"$@\"", env!("CARGO_BIN_EXE_oneip"));
        let mut command = self.command_in(self.part(at), "sh");
        command.args(["-c", &script, "sh", "filter", "--server", server]);
        self.start(at, command)
    }

    /// `command` lacks the configuration.
    fn start(&self, at: usize, mut command: Command) -> Process {
        let log = self.path(&format!("d{at}.log"));
        let out = File::create(&log).expect("a log");
        command.args(["-c", &format!("d{at}.toml")]).stdout(out.try_clone().expect("a log")).stderr(out);
        let process = Process { child: command.spawn().expect("it starts"), log };
        eventually("it is ready", || process.said().lines().any(|line| line == "ready"));
        process
    }

    /// `oneip ctl` to a dispatcher: what it says, or its error. A machine whose disk stands still for seconds, as while packages are
    /// installed, stops its threads too: then it is asked again.
    pub fn ctl(&self, at: usize, arguments: &str) -> Result<String, String> {
        let start = Instant::now();
        loop {
            let said = self.ask(at, arguments);
            let hangs = said.as_ref().is_err_and(|error| error.contains("thread hangs: it has not reported"));
            if !hangs || start.elapsed() > PATIENCE {
                return said;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn ask(&self, at: usize, arguments: &str) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oneip"));
        command.args(["ctl", "--socket", &format!("d{at}.sock")]).args(arguments.split_whitespace());
        let Output { status, stdout, stderr } = command.current_dir(self.folder.path()).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if status.success() { Ok(text(&stdout)) } else { Err(text(&stderr)) }
    }

    pub fn done(&self, at: usize, arguments: &str) -> String {
        self.ctl(at, arguments).unwrap_or_else(|error| panic!("d{at}: {arguments}: {error}"))
    }

    pub fn document(&self, at: usize, verb: &str) -> Value {
        serde_json::from_str(&self.done(at, &format!("{verb} --json"))).expect("JSON")
    }

    /// Of a server of the service: `up`, `draining` ..., and its weight.
    pub fn state(&self, at: usize, server: &str) -> (String, u64) {
        let status = self.document(at, "status");
        let servers = status["services"][0]["servers"].as_array().expect("servers").clone();
        let found = servers.into_iter().find(|it| it["name"] == server).expect("a server");
        (found["state"].as_str().expect("a state").to_owned(), found["weight"].as_u64().expect("a weight"))
    }

    pub fn becomes(&self, at: usize, server: &str, state: &str, weight: u64) {
        eventually(&format!("d{at} has {server} {state} with weight {weight}"), || {
            self.state(at, server) == (state.to_owned(), weight)
        });
    }

    /// Waits until so many members are one group that can ask its store.
    pub fn joined(&self, at: usize, members: u64) {
        eventually(&format!("d{at} is one of {members} members"), || {
            let group = &self.document(at, "status")["group"];
            group["connected"] == true && group["alive"] == members && group.get("outside").is_none()
        });
    }

    /// Where a node of etcd is, and the address that it has.
    fn place_of_node(&self, node: usize) -> (usize, &'static str) {
        match self.parts.len() {
            1 => (0, "127.0.0.1"),
            _ => (usize::from(node > 1), HALVES[usize::from(node > 1)]),
        }
    }

    /// The line of `[group]` for so many nodes.
    pub fn store(&self, count: usize) -> String {
        let node = |node: usize| format!("\"http://{}:{}\"", self.place_of_node(node).1, 2379 + node);
        format!("etcd = [{}]", (0..count).map(node).collect::<Vec<_>>().join(", "))
    }

    /// One of `count` nodes; the first listens on port 2379 and the others above.
    pub fn etcd(&self, node: usize, count: usize, options: &str) -> Process {
        let scheme = if options.contains("--cert-file") { "https" } else { "http" };
        let peer = |node: usize| format!("http://{}:{}", self.place_of_node(node).1, 2480 + node);
        let cluster = (0..count).map(|node| format!("n{node}={}", peer(node))).collect::<Vec<_>>().join(",");
        let (part, host) = self.place_of_node(node);
        let (client, peer) = (format!("{scheme}://{host}:{}", 2379 + node), peer(node));
        let log = self.path(&format!("etcd{node}.log"));
        let out = File::create(&log).expect("a log");
        let mut command = self.command_in(part, "etcd");
        command.args(
            format!(
                "--name n{node} --data-dir etcd{node} --listen-client-urls {client} --advertise-client-urls {client} --listen-peer-urls {peer} \
                 --initial-advertise-peer-urls {peer} --initial-cluster {cluster} {options}"
            )
            .split_whitespace(),
        );
        let child =
            command.stdout(out.try_clone().expect("a log")).stderr(out).spawn().expect("etcd starts: scripts/setup.sh");
        Process { child, log }
    }

    /// The only node of etcd, which has ended, is started as it was when a snapshot was saved.
    pub fn restored(&self, snapshot: &str) -> Process {
        fs::rename(self.path("etcd0"), self.path("etcd0.old")).expect("moved");
        run(
            "env",
            &format!(
                "ETCDCTL_API=3 etcdctl snapshot restore {snapshot} --data-dir etcd0 --name n0 \
                 --initial-cluster n0=http://127.0.0.1:2480 --initial-advertise-peer-urls http://127.0.0.1:2480"
            ),
            self.folder.path(),
        );
        self.etcd(0, 1, "")
    }

    /// `etcdctl`, until it works.
    pub fn etcdctl(&self, arguments: &str) -> String {
        let mut said = String::new();
        eventually(&format!("etcdctl {arguments}"), || {
            let mut command = self.command("etcdctl");
            let done = command
                .env("ETCDCTL_API", "3")
                .arg("--command-timeout=2s")
                .args(words(arguments))
                .output()
                .expect("it runs");
            said = String::from_utf8_lossy(&done.stdout).trim_end().to_owned();
            done.status.success()
        });
        said
    }
}

fn ask(stream: &mut (impl Read + Write), path: &str) -> String {
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: there\r\nConnection: close\r\n\r\n").as_bytes())
        .expect("written");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("text");
    said
}

/// Dropped, it refuses.
pub struct Listener {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().into_iter().for_each(|thread| _ = thread.join());
    }
}

/// Divided by spaces; what is between single quotes is one.
fn words(text: &str) -> Vec<String> {
    let parts = text.split('\'').enumerate();
    parts
        .flat_map(|(at, part)| match at % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

impl Drop for Net {
    fn drop(&mut self) {
        for part in &self.parts {
            let _ = Command::new("ip").args(["netns", "del", part]).output();
        }
        if thread::panicking() {
            for entry in fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|end| end == "log") {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    let shown = text.lines().count().saturating_sub(25);
                    eprintln!("== {:?}", entry.path());
                    text.lines().skip(shown).for_each(|line| eprintln!("{line}"));
                }
            }
        }
    }
}

/// Killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&mut self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
        let _ = self.child.wait();
    }

    /// It stands still from now on.
    pub fn pause(&self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::STOP);
    }

    pub fn go_on(&self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::CONT);
    }

    /// Ends it as an operator does.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
