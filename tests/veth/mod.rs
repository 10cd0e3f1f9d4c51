//! Two network namespaces joined by a cable: the dispatcher's, and that of a client who has the dispatcher for a router.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use oneip::model::Mac;

pub const DEVICE: &str = "d0";
pub const DEVICE_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0xd0]);
pub const CLIENT_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0xc1]);

pub const DEVICE_V4: &str = "192.0.2.254";
pub const CLUSTER_V4: &str = "203.0.113.80";
pub const CLUSTER_V6: &str = "2001:db8:1::80";

/// Removed with everything in it when dropped.
pub struct Cable {
    device: String,
    client: String,
}

impl Cable {
    /// Both ends with this MTU and this many queues. `None` without root, and it says so.
    pub fn lay(mtu: u32, queues: u32) -> Option<Cable> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let name = format!("afx-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let cable = Cable { device: format!("{name}-d"), client: format!("{name}-c") };
        let (d, c) = (&cable.device, &cable.client);
        for namespace in [d, c] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        ip(&format!(
            "link add {DEVICE} netns {d} address {DEVICE_MAC} mtu {mtu} numrxqueues {queues} numtxqueues {queues} type veth \
             peer name c0 netns {c} address {CLIENT_MAC} mtu {mtu} numrxqueues {queues} numtxqueues {queues}"
        ));
        for (namespace, interface, v4, v6) in
            [(d, DEVICE, DEVICE_V4, "2001:db8::254"), (c, "c0", "192.0.2.1", "2001:db8::1")]
        {
            let offloads = "tx off tso off gso off gro off rxvlan off txvlan off";
            run("ip", &format!("netns exec {namespace} ethtool -K {interface} {offloads}"));
            ip(&format!("-n {namespace} addr add {v4}/24 dev {interface}"));
            ip(&format!("-n {namespace} addr add {v6}/64 dev {interface} nodad"));
            ip(&format!("-n {namespace} link set {interface} up"));
        }
        ip(&format!("-n {c} route add {CLUSTER_V4} via {DEVICE_V4}"));
        ip(&format!("-n {c} route add {CLUSTER_V6} via 2001:db8::254"));
        Some(cable)
    }

    /// Runs `ip` in the dispatcher's namespace.
    pub fn at_device(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.device))
    }

    /// A program to run there, behind `prefix`.
    pub fn device_command(&self, prefix: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.device]).args(prefix.split_whitespace()).arg(program);
        command
    }

    /// A thread that lives in the dispatcher's namespace, and sees its devices in /sys.
    pub fn device_thread<'s, 'e, T: Send + 's>(
        &self,
        scope: &'s Scope<'s, 'e>,
        body: impl FnOnce() -> T + Send + 's,
    ) -> ScopedJoinHandle<'s, T> {
        thread_in(self.device.clone(), scope, body)
    }

    /// A thread that lives in the client's namespace.
    pub fn client_thread<'s, 'e, T: Send + 's>(
        &self,
        scope: &'s Scope<'s, 'e>,
        body: impl FnOnce() -> T + Send + 's,
    ) -> ScopedJoinHandle<'s, T> {
        thread_in(self.client.clone(), scope, body)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [&self.device, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn thread_in<'s, 'e, T: Send + 's>(
    namespace: String,
    scope: &'s Scope<'s, 'e>,
    body: impl FnOnce() -> T + Send + 's,
) -> ScopedJoinHandle<'s, T> {
    scope.spawn(move || {
        enter(&namespace);
        body()
    })
}

/// What `ip netns exec` does, for this thread alone.
fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
    setns(file, CloneFlags::CLONE_NEWNET).expect("root enters a namespace");
    unshare(CloneFlags::CLONE_NEWNS).expect("root has mounts of its own");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).expect("mounts stay here");
    umount2("/sys", MntFlags::MNT_DETACH).expect("the old /sys goes");
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("the namespace's /sys comes");
}

fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
