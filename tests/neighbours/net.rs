//! Two network namespaces joined by a veth pair: `v0` here, the dispatcher's, and `v1` there, where the servers are.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oneip::control::neighbours::{Change, Neighbours};
use oneip::model::Mac;

/// The dispatcher's addresses are 10.9.0.1/16 and fd09::1/64; servers go anywhere else in there.
pub struct Net {
    pub here: String,
    pub there: String,
}

impl Net {
    /// `None`, said aloud, where there is no root.
    pub fn new() -> Option<Net> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = Net { here: format!("nb{id}h"), there: format!("nb{id}t") };
        for namespace in [&net.here, &net.there] {
            run("ip", &["netns", "add", namespace]);
            // Without it a link-local address takes two seconds to be usable, and nothing is solicited until then.
            run("ip", &["netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"]);
        }
        net.here("link set lo up");
        net.join();
        Some(net)
    }

    /// Makes the veth pair.
    pub fn join(&self) {
        self.here(&format!("link add v0 type veth peer name v1 netns {}", self.there));
        self.here("addr add 10.9.0.1/16 dev v0");
        self.here("addr add fd09::1/64 dev v0 nodad");
        self.there("addr add 10.9.255.254/16 dev v1");
        self.there("addr add fd09::ffff/64 dev v1 nodad");
        self.there("link set v1 up");
        self.here("link set v0 up");
    }

    /// `ip ARGUMENTS` on the dispatcher's side.
    pub fn here(&self, arguments: &str) -> String {
        ip(&self.here, arguments)
    }

    /// `ip ARGUMENTS` on the servers' side.
    pub fn there(&self, arguments: &str) -> String {
        ip(&self.there, arguments)
    }

    /// Many `ip` commands at once on the dispatcher's side.
    pub fn here_batch(&self, lines: &str) {
        batch(&self.here, lines);
    }

    pub fn there_batch(&self, lines: &str) {
        batch(&self.there, lines);
    }

    /// Whether the kernel has this type of device.
    pub fn knows(&self, device_type: &str) -> bool {
        let add = ["-n", &self.here, "link", "add", "link", "v0", "name", "probe", "type", device_type, "id", "4000"];
        let known = Command::new("ip").args(add).status().unwrap().success();
        if known {
            self.here("link del probe");
        }
        known
    }

    /// Gives the servers' side an address.
    pub fn serve(&self, address: &str) -> IpAddr {
        let rest = if address.contains(':') { "/64 dev v1 nodad" } else { "/16 dev v1" };
        self.there(&format!("addr add {address}{rest}"));
        address.parse().unwrap()
    }

    /// The servers' present MAC.
    pub fn mac(&self) -> Mac {
        let shown = self.there("-o link show v1");
        let at = shown.split("link/ether ").nth(1).unwrap();
        at.split(' ').next().unwrap().parse().unwrap()
    }

    /// What `ip -d neigh` shows of an address.
    pub fn entry(&self, address: &str) -> String {
        self.here(&format!("-d neigh show {address}"))
    }

    /// Runs `work` in the dispatcher's namespace, on a runtime of its own.
    pub fn inside(&self, work: impl AsyncFnOnce() + Send) {
        let namespace = File::open(format!("/run/netns/{}", self.here)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                rustix::thread::move_into_link_name_space(
                    namespace.as_fd(),
                    Some(rustix::thread::LinkNameSpaceType::Network),
                )
                .unwrap();
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work());
            });
        });
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.here, &self.there] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn ip(namespace: &str, arguments: &str) -> String {
    let mut all = vec!["-n", namespace];
    all.extend(arguments.split_whitespace());
    run("ip", &all)
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {error}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

fn batch(namespace: &str, lines: &str) {
    let mut child = Command::new("ip").args(["-n", namespace, "-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// `wanted` for `Neighbours::open`, with names web1, web2, ...
pub fn names(addresses: &[&str]) -> Vec<(String, IpAddr)> {
    let named = addresses.iter().enumerate();
    named.map(|(i, address)| (format!("web{}", i + 1), address.parse().unwrap())).collect()
}

/// How long to wait for what must come: asked for three times a second apart, and again after a pause, or on a slow machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The batches that arrive until `enough` holds.
pub async fn until(
    neighbours: &mut Neighbours,
    mut enough: impl FnMut(&Neighbours, &[Change]) -> bool,
) -> Vec<Vec<Change>> {
    let (deadline, mut batches, mut all) = (Instant::now() + LIMIT, Vec::new(), Vec::new());
    while !enough(neighbours, &all) {
        match tokio::time::timeout_at(deadline.into(), neighbours.next()).await {
            Ok(changes) => {
                let changes = changes.unwrap();
                assert!(!changes.is_empty());
                all.extend(changes.iter().cloned());
                batches.push(changes);
            }
            Err(_) => panic!("not within {LIMIT:?}; changes until then: {all:#?}"),
        }
    }
    batches
}

/// The changes that arrive within `time`.
pub async fn during(neighbours: &mut Neighbours, time: Duration) -> Vec<Change> {
    let (deadline, mut all) = (Instant::now() + time, Vec::new());
    while let Ok(changes) = tokio::time::timeout_at(deadline.into(), neighbours.next()).await {
        all.extend(changes.unwrap());
    }
    all
}
