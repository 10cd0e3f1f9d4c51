//! A dispatcher, a router that is also the client, and two servers on one link, each a network namespace.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const ONEIP: &str = env!("CARGO_BIN_EXE_oneip");
pub const CLUSTER4: &str = "203.0.113.80";
pub const CLUSTER6: &str = "2001:db8:80::80";

const HOSTS: [&str; 5] = ["lan", "d", "r", "s1", "s2"];

/// `None` without root: it says so.
pub struct Net {
    name: String,
    pub folder: TempDir,
    children: Vec<Child>,
}

impl Net {
    pub fn up() -> Option<Net> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"SKIPPED: needs root\n");
            return None;
        }
        let name = format!("doc{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut net = Net { name, folder: tempfile::tempdir().expect("a folder"), children: Vec::new() };
        for host in HOSTS {
            shell(&format!("ip netns add {}", net.namespace(host)));
            // Before there are interfaces, which inherit it.
            net.sh(host, "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0 net.ipv4.conf.all.send_redirects=0 \
                          net.ipv4.conf.default.send_redirects=0 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 \
                          net.ipv6.conf.default.accept_ra=0; ip link set lo up");
        }
        net.sh("lan", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; ip link add br0 type bridge forward_delay 0 mcast_snooping 0; ip link set br0 up");
        for (host, last, queues) in [("d", 2, 2), ("r", 1, 1), ("s1", 11, 1), ("s2", 12, 1)] {
            // Native XDP wants no more transmit queues at the other end than receive queues here (veth_xdp_set).
            let (own, other) =
                (format!("numrxqueues {queues} numtxqueues {queues}"), format!("numrxqueues {queues} numtxqueues 1"));
            shell(&format!(
                "ip link add lan0 netns {} address 02:00:00:00:00:{last:02x} {own} type veth peer name {host} netns {} {other}",
                net.namespace(host),
                net.namespace("lan")
            ));
            net.sh(host, &format!(
                "ethtool -K lan0 tx off tso off gso off gro off rxvlan off txvlan off
                 ip address add 192.0.2.{last}/24 dev lan0; ip address add 2001:db8:2::{last}/64 dev lan0 nodad; ip link set lan0 up"
            ));
            net.sh(
                "lan",
                &format!("ethtool -K {host} tx off tso off gso off gro on; ip link set dev {host} master br0 up"),
            );
        }
        net.sh("d", "ethtool -L lan0 rx 1 tx 1");
        for host in ["d", "s1", "s2"] {
            net.sh(host, "ip route add default via 192.0.2.1; ip route add default via 2001:db8:2::1");
        }
        net.sh(
            "r",
            &format!(
                "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             for n in 7 8 9; do ip address add 198.51.100.$n/32 dev lo; done; ip address add 2001:db8:1::7/128 dev lo
             ip route add {CLUSTER4} via 192.0.2.2; ip route add {CLUSTER6} via 2001:db8:2::2"
            ),
        );
        shell(&format!("mkdir -p {0}/bpf {0}/state && mount -t bpf bpf {0}/bpf", net.dir()));
        net.write("cluster.toml", &net.config("", HEALTH));
        for server in ["s1", "s2"] {
            net.serve(server);
            net.sh(server, &format!("{ONEIP} server add -c {}/cluster.toml", net.dir()));
        }
        Some(net)
    }

    pub fn dir(&self) -> String {
        self.folder.path().display().to_string()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// A configuration with these lines in [dispatcher] and in each service.
    pub fn config(&self, dispatcher: &str, service: &str) -> String {
        let dir = self.dir();
        let services: String = [("web", CLUSTER4, "192.0.2."), ("web6", CLUSTER6, "2001:db8:2::")]
            .map(|(name, address, net)| {
                let servers: String = [("s1", 11), ("s2", 12)]
                    .map(|(server, last)| {
                        format!("[[service.server]]\nname = \"{server}\"\naddress = \"{net}{last}\"\n")
                    })
                    .concat();
                format!(
                    "[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nports = [\"tcp/80\"]\n{service}{servers}"
                )
            })
            .concat();
        let engine = if dispatcher.contains("engine") { "" } else { "engine = \"xdp\"\n" };
        format!(
            "[cluster]\nhash_key = \"5b2f9d0c71e84a6d93f05ce2187ab46d\"\n[dispatcher]\ninterface = \"lan0\"\npins = \"{dir}/bpf\"\n\
             {engine}{dispatcher}\n[admin]\nsocket = \"{dir}/oneip.sock\"\nstate = \"{dir}/state/state.json\"\n{services}"
        )
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).expect("it is ours");
    }

    fn serve(&mut self, host: &str) {
        self.start(host, "exec python3 -m http.server --bind :: 80 --directory /var/empty 2>/dev/null || exec python3 -m http.server --bind :: 80");
        let url = "curl -s -o /dev/null --max-time 1 http://127.0.0.1/";
        eventually("the server serves", || self.try_sh(host, url).status.success());
    }

    /// Goes on until this is dropped. Its number is its place among those that were started.
    pub fn start(&mut self, host: &str, script: &str) -> usize {
        let child = self.command(host, script).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        self.children.push(child);
        self.children.len() - 1
    }

    pub fn end(&mut self, number: usize) {
        let _ = self.children[number].kill();
        let _ = self.children[number].wait();
    }

    pub fn signal(&self, number: usize, signal: &str) {
        shell(&format!("kill -{signal} {}", self.children[number].id()));
    }

    pub fn command(&self, host: &str, script: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host), "bash", "-ec", script]).stdin(Stdio::null());
        command
    }

    pub fn try_sh(&self, host: &str, script: &str) -> Output {
        self.command(host, script).output().expect("a shell")
    }

    pub fn sh(&self, host: &str, script: &str) -> String {
        succeed(&mut self.command(host, script))
    }

    /// Starts `oneip run`; returns when it dispatches.
    pub fn run(&mut self) -> usize {
        let _ = fs::remove_file(self.path("run.log"));
        let number = self
            .start("d", &format!("exec {ONEIP} run -c {0}/cluster.toml --json >{0}/run.out 2>{0}/run.log", self.dir()));
        eventually("it is ready", || fs::read_to_string(self.path("run.log")).is_ok_and(|said| said.contains("ready")));
        number
    }

    /// What doctor says of a host: (name, state, why, fix). `around` runs it, as in `setpriv ... --`.
    pub fn doctor(&self, host: &str, around: &str, options: &str) -> Findings {
        let config = format!("{}/cluster.toml", self.dir());
        let script = match options.contains("-c ") {
            true => format!("{around} {ONEIP} doctor --json {options}"),
            false => format!("{around} {ONEIP} doctor --json -c {config} {options}"),
        };
        let output = self.try_sh(host, &script);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let document: Value = serde_json::from_str(&said)
            .unwrap_or_else(|error| panic!("{script}: {error}: {said}{}", String::from_utf8_lossy(&output.stderr)));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = document["checks"].as_array().expect("a list");
        let findings = Findings(
            all.iter().map(|f| (text(&f["name"]), text(&f["state"]), text(&f["why"]), text(&f["fix"]))).collect(),
        );
        let fails = findings.0.iter().any(|(_, state, ..)| state == "fail");
        assert_eq!(output.status.code(), Some(i32::from(fails)), "the exit code is that of the worst");
        findings
    }
}

/// Health checks, fast, of servers that may stand still for a moment.
pub const HEALTH: &str = "[service.health]\ntype = \"tcp\"\nport = 80\ninterval_ms = 500\ntimeout_ms = 500\nfall = 6\n";

pub struct Findings(pub Vec<(String, String, String, String)>);

impl Findings {
    /// The names of those that are not ok.
    pub fn bad(&self) -> BTreeSet<String> {
        self.0.iter().filter(|(_, state, ..)| state != "ok").map(|(name, ..)| name.clone()).collect()
    }

    /// The commands of one that is not ok.
    pub fn fixes(&self, name: &str) -> Vec<String> {
        let of = self.0.iter().filter(|(found, state, ..)| found == name && state != "ok");
        of.map(|(.., fix)| fix.clone()).filter(|fix| !fix.is_empty()).collect()
    }

    pub fn text(&self) -> String {
        let bad = self.0.iter().filter(|(_, state, ..)| state != "ok");
        bad.map(|(name, state, why, fix)| format!("{state} {name}: {why} [{fix}]\n")).collect()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for host in HOSTS {
            let namespace = self.namespace(host);
            let file = Path::new("/run/netns").join(&namespace);
            if let Ok(facts) = fs::metadata(&file) {
                use std::os::unix::fs::MetadataExt;
                let _ = fs::remove_file(format!("/run/oneip/server-{}.json", facts.ino()));
            }
            // What a shell has started may be there still.
            let pids = Command::new("ip").args(["netns", "pids", &namespace]).output();
            for pid in pids
                .iter()
                .flat_map(|out| String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect::<Vec<_>>())
            {
                let _ = Command::new("kill").args(["-KILL", &pid]).status();
            }
            let _ = Command::new("ip").args(["netns", "del", &namespace]).status();
        }
        let _ = Command::new("umount").args(["-q", &format!("{}/bpf", self.dir())]).status();
    }
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: not within 60 s");
        thread::sleep(Duration::from_millis(50));
    }
}

pub fn shell(script: &str) -> String {
    succeed(Command::new("bash").args(["-ec", script]))
}

fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("a shell");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}
