//! A server and its router.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oneip::model::{Admin, Decap, Deliver, HashInput, HashKey, Plan, Selection, Server, Service, Tags};
use oneip::server::{self, Dispatch, Error, Report};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub const CLUSTER4: &str = "203.0.113.80";
pub const CLUSTER6: &str = "2001:db8:80::80";
pub const SERVER_MAC: &str = "02:00:00:00:00:11";

/// Ends the test where it cannot run, and says so: what goes to standard error itself is not captured with a test's output.
macro_rules! need_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("SKIPPED {}:{}: network namespaces need root\n", file!(), line!()),
            );
            return;
        }
    };
}

/// A server and a router on one link, and the plan of which the server is web1.
pub struct Lan {
    pub plan: Plan,
    server: String,
    router: String,
}

impl Lan {
    pub fn new() -> Lan {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let services = vec![
            service("web", CLUSTER4, &["192.0.2.11", "192.0.2.12"]),
            service("web6", CLUSTER6, &["2001:db8:2::11", "2001:db8:2::12"]),
        ];
        let plan = Plan {
            hash_key: HashKey([7; 16]),
            dispatcher: None,
            filter: None,
            decap: Decap::default(),
            admin: Admin::default(),
            announce: None,
            group: None,
            lists: Vec::new(),
            odd_limit: None,
            services,
        };
        let lan = Lan { plan, server: format!("oneip-server-{id}"), router: format!("oneip-router-{id}") };
        let Lan { server, router, .. } = &lan;
        run(Command::new("sh").args([
            "-ec",
            &format!(
                "ip netns add {server}; ip netns add {router}
                 ip link add lan0 netns {server} address {SERVER_MAC} type veth peer name lan0 netns {router}"
            ),
        ]));
        let quiet = "sysctl -qw net.ipv6.conf.lan0.accept_dad=0 net.ipv4.conf.all.arp_ignore=0 \
                     net.ipv4.conf.all.arp_announce=0; ip link set lo up";
        lan.server_sh(&format!(
            "{quiet}; ip address add 192.0.2.11/24 dev lan0; ip address add 2001:db8:2::11/64 dev lan0 nodad
             ip link set lan0 up"
        ));
        lan.router_sh(&format!(
            "{quiet}; ip address add 192.0.2.1/24 dev lan0; ip address add 2001:db8:2::1/64 dev lan0 nodad
             ip link set lan0 up; ip route add {CLUSTER4}/32 dev lan0; ip route add {CLUSTER6}/128 dev lan0"
        ));
        lan.server_sh("ip route add default via 192.0.2.1; ip route add default via 2001:db8:2::1");
        // It comes by itself, and later on a busy machine.
        lan.server_sh(
            "timeout 20 sh -c 'until ip -o address show dev lan0 scope link | grep -q fe80; do sleep 0.02; done'",
        );
        lan
    }

    pub fn server_sh(&self, script: &str) -> String {
        run(Command::new("ip").args(["netns", "exec", &self.server, "sh", "-ec", script]))
    }

    pub fn router_sh(&self, script: &str) -> String {
        run(Command::new("ip").args(["netns", "exec", &self.router, "sh", "-ec", script]))
    }

    /// Runs `work` on a thread in the server's namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_inside(&self.server, work)
    }

    pub fn inside_router<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_inside(&self.router, work)
    }

    pub fn add(&self, name: Option<&str>) -> Result<Report, Error> {
        self.inside(|| server::add(&self.plan, name, Dispatch::Routing))
    }

    pub fn remove(&self, name: Option<&str>) -> Result<Report, Error> {
        self.inside(|| server::remove(&self.plan, name))
    }

    pub fn check(&self) -> Report {
        self.inside(|| server::check(&self.plan, None, Dispatch::Routing)).expect("check")
    }

    /// All that the verbs may change.
    pub fn snapshot(&self) -> String {
        self.server_sh("ip -o address; sysctl -a -r '\\.arp_(ignore|announce)$'")
    }

    pub fn journal(&self) -> PathBuf {
        let inode = std::fs::metadata(format!("/run/netns/{}", self.server)).expect("the namespace").ino();
        PathBuf::from(format!("/run/oneip/server-{inode}.json"))
    }

    /// Whether the server answers when the router asks who has this address.
    pub fn claims(&self, address: &str) -> bool {
        self.router_sh("ip neigh flush dev lan0");
        let reached = self.router_reaches(address);
        assert_eq!(reached, self.router_knows(address), "a neighbour that answers is reached: {address}");
        reached
    }

    /// Whether the server, asking who has `router` for a packet from `source`, teaches the router its own MAC for `source`.
    pub fn router_learns(&self, source: &str, router: &str) -> bool {
        self.router_sh("ip neigh flush dev lan0");
        self.server_sh(&format!("ip neigh flush dev lan0; ping -c1 -W1 -q -I {source} {router} >/dev/null || true"));
        self.router_knows(source)
    }

    pub fn router_reaches(&self, address: &str) -> bool {
        self.router_sh(&format!("ping -c1 -W1 -q {address} >/dev/null && echo reached || true")).contains("reached")
    }

    fn router_knows(&self, address: &str) -> bool {
        self.router_sh(&format!("ip neigh show {address}")).contains("lladdr")
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // Nothing stands in the way of the test's own verdict here.
        let _ = std::fs::remove_file(self.journal());
        for namespace in [&self.server, &self.router] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

pub fn service(name: &str, cluster: &str, primaries: &[&str]) -> Service {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let servers = primaries.iter().enumerate().map(|(at, &primary)| Server {
        name: format!("web{}", at + 1),
        address: address(primary),
        mac: None,
        weight: 1,
        tags: Tags::AsReceived,
        quic_ids: Vec::new(),
    });
    Service {
        name: name.to_owned(),
        address: address(cluster),
        prefixes: Vec::new(),
        ports: Vec::new(),
        hash: HashInput::Source,
        deliver: Deliver::L2,
        selection: Selection::Maglev,
        slots: 65_537,
        drain: Duration::from_secs(600),
        servers: servers.collect(),
        until_closed: false,
        second_chance: false,
        limit: None,
        quic: Vec::new(),
        leaving: 0,
        withdrawn: false,
        health: None,
    }
}

fn run_inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(format!("/run/netns/{namespace}")).expect("the namespace");
    let inside = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
        work()
    };
    std::thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("a shell");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}
