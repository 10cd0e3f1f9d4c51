//! What is done to the network, one thing after the other, as the seed draws it.

use crate::clock::Clock;
use crate::deck::Deck;
use crate::dispatcher::{Dispatcher, run};
use crate::filters::{Filter, publish};
use crate::forge::Stranger;
use crate::growth::Held;
use crate::model::{Live, Model};
use crate::network::{CLUSTER, Lab, SERVERS, WEB, eventually, lookup, succeed};
use etherparse::TcpHeader;
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// A server that flaps is held down for up to 160 s.
const LONG: Duration = Duration::from_secs(240);

/// The router's addresses in the LAN.
const ROUTER: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];

/// The folder of the state file, in the lab's: a disk of its own.
pub const DISK: &str = "disk";

pub trait Trouble {
    /// One event, from its beginning to when all is as before.
    fn strike(&mut self, draw: &mut Rng, model: &Model);

    /// Whether each kind of event has been.
    fn is_complete(&self) -> bool;

    /// What the processes hold, and the kernel for them.
    fn held(&self) -> Held;

    /// What the processes have said.
    fn said(&self) -> String;
}

impl Lab {
    fn sockets(&self) -> Vec<PathBuf> {
        let all = SERVERS.iter().map(|server| format!("{server}.sock")).chain(["oneip.sock".to_owned()]);
        all.map(|name| self.file(&name)).filter(|socket| socket.exists()).collect()
    }

    /// What each process answers that there is, as JSON.
    pub fn ask_all(&self, arguments: &[&str]) -> Vec<Value> {
        let ask = |socket: PathBuf| {
            let mut ctl = self.command("lan", env!("CARGO_BIN_EXE_oneip"));
            let answer = ctl.args(["ctl", "--socket"]).arg(socket).args(arguments).output().unwrap();
            serde_json::from_slice(&answer.stdout).ok()
        };
        self.sockets().into_iter().filter_map(ask).collect()
    }

    fn order_all(&self, arguments: &[&str]) {
        for socket in self.sockets() {
            let mut ctl = self.command("lan", env!("CARGO_BIN_EXE_oneip"));
            succeed(ctl.args(["ctl", "--socket"]).arg(socket).args(arguments));
        }
    }

    /// Every process takes every server to be up, by checks that come to something.
    fn all_up(&self) -> bool {
        let statuses = self.ask_all(&["status", "--json"]);
        let good = |server: &Value| server["state"] == "up" && server["check"]["unchecked"].is_null();
        let services = |status: &Value| status["services"].as_array().cloned().unwrap_or_default();
        let servers = |service: &Value| service["servers"].as_array().cloned().unwrap_or_default();
        statuses.len() == self.sockets().len()
            && statuses.iter().all(|status| services(status).iter().flat_map(servers).all(|server| good(&server)))
    }

    /// What the kernel holds in a host's network by our name, and the files of the lab.
    fn held(&self, host: &str) -> Held {
        let lines = |arguments: &str| self.ip(host, arguments).lines().count() as u64;
        let ours = |family: &str, what: &str| {
            let said = self.ip(host, &format!("{family} {what}"));
            said.lines().filter(|line| line.contains("proto 111")).count() as u64
        };
        let files = |folder: PathBuf| fs::read_dir(folder).map_or(0, |entries| entries.count() as u64);
        Held {
            rules: ours("-4", "rule") + ours("-6", "rule"),
            routes: ours("-4", "route show table all") + ours("-6", "route show table all"),
            interfaces: lines("-o link"),
            files: files(self.file("")) + files(self.file("bpf")),
            ..Held::default()
        }
    }

    fn settle(&self) {
        let begin = Instant::now();
        while !self.all_up() {
            assert!(begin.elapsed() < LONG, "not all are up: {:#?}", self.ask_all(&["status", "--json"]));
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The server that a client has by the configuration.
    pub fn home(&self, client: &str) -> String {
        let family = usize::from(client.contains(':'));
        lookup(&self.config(), WEB[family], &[client.to_owned()], &[]).remove(0).1
    }

    /// A host's link goes, and comes again.
    fn cut(&self, port: &str, by: Cut, time: Duration) {
        let (off, on) = match by {
            Cut::Own => {
                self.sh(port, "sysctl -qw net.ipv6.conf.lan0.keep_addr_on_down=1; ip link set lan0 down");
                thread::sleep(time);
                // Its routes went with it.
                let routes = "ip route replace default via 192.0.2.1; ip -6 route replace default via 2001:db8:2::1";
                self.sh(port, &format!("ip link set lan0 up; {routes}"));
                return;
            }
            Cut::Link => (format!("link set {port} down"), format!("link set {port} up")),
            Cut::Switch => (format!("link set {port} nomaster"), format!("link set {port} master br0")),
        };
        self.ip("lan", &off);
        thread::sleep(time);
        self.ip("lan", &on);
    }

    /// A server is cut off. What is there may break, and nothing else.
    fn cut_server(&self, server: &'static str, by: Cut, time: Duration, model: &Model) {
        model.note(&format!("{server} loses its {by:?} for {time:?}"));
        model.out(server);
        self.cut(server, by, time);
        self.settle();
        model.back(server);
    }

    /// Weight 0 too: it takes no clients then, and keeps those that it has.
    fn weigh(&self, draw: &mut Rng, model: &Model) {
        let (server, weight) = (server(draw), draw.u8(..4).to_string());
        model.note(&format!("{server} has weight {weight} for a while"));
        self.order_all(&["weight", server, &weight]);
        thread::sleep(while_(draw));
        self.order_all(&["weight", server, "default"]);
    }

    /// Gives a server another MAC. Which one.
    fn readdress(&self, server: &str, draw: &mut Rng, model: &Model) -> String {
        let mac = format!("02:00:00:00:{:02x}:1{}", draw.u8(1..), &server[3..]);
        model.note(&format!("{server} has {mac}"));
        self.ip(server, &format!("link set lan0 address {mac}"));
        mac
    }

    fn kill_nginx(&self, server: &'static str, time: Duration, model: &Model) {
        model.note(&format!("nginx of {server} is killed for {time:?}"));
        model.out(server);
        let at = self.file(server);
        let nginx = fs::read_to_string(at.join("nginx.pid")).unwrap();
        let nginx = nginx.trim();
        self.sh(server, &format!("kill -9 {nginx} $(pgrep -P {nginx})"));
        thread::sleep(time);
        self.sh(server, &format!("nginx -e {0}/error.log -p {0} -c {0}/nginx.conf", at.display()));
        self.settle();
        model.back(server);
    }

    /// Segments of connections that live, as a stranger makes them who knows addresses and ports, and no sequence number. Not of those that
    /// were silent since a clean restart: a SYN and what follows it pass for a new connection then (docs/limits.md).
    /// How much is drawn depends on how many there are, so `draw` is not the schedule's.
    fn spoof(&self, lives: &[Live], mut draw: Rng, model: &Model) {
        model.note(&format!("800 forged segments of {} connections", lives.len()));
        if lives.is_empty() {
            return;
        }
        let stranger = self.inside("client", Stranger::new);
        for _ in 0..200 {
            let live = &lives[draw.usize(..lives.len())];
            let from: IpAddr = live.client.parse().unwrap();
            let to: IpAddr = CLUSTER[usize::from(from.is_ipv6())].parse().unwrap();
            let (sequence, acknowledged) = (draw.u32(..), draw.u32(..));
            let tcp = TcpHeader::new(live.port, 80, sequence, 1000);
            let answer = TcpHeader { ack: true, acknowledgment_number: acknowledged, ..tcp.clone() };
            let (syn, reset) = (TcpHeader { syn: true, ..tcp.clone() }, TcpHeader { rst: true, ..tcp });
            for segment in [syn, reset, TcpHeader { fin: true, ..answer.clone() }, answer] {
                // While its link is away the host may refuse one.
                let _ = stranger.send(from, to, segment);
            }
        }
    }
}

/// How a port goes.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The other side sees it.
    Link,
    /// It does not.
    Switch,
    /// The host takes its interface down.
    Own,
}

fn cut(draw: &mut Rng) -> Cut {
    if draw.bool() { Cut::Link } else { Cut::Switch }
}

fn cut_of_server(draw: &mut Rng) -> Cut {
    if draw.u8(..3) == 0 { Cut::Own } else { cut(draw) }
}

fn server(draw: &mut Rng) -> &'static str {
    SERVERS[draw.usize(..SERVERS.len())]
}

/// Mostly short, and now and then long enough for every check to fail.
fn while_(draw: &mut Rng) -> Duration {
    Duration::from_millis(if draw.bool() { draw.u64(100..1000) } else { draw.u64(1000..6000) })
}

pub struct Dispatched<'l> {
    lab: &'l Lab,
    dispatcher: Option<Dispatcher<'l>>,
    config: String,
    clock: Clock,
    deck: Deck,
}

impl<'l> Dispatched<'l> {
    pub fn start(lab: &'l Lab) -> Dispatched<'l> {
        let config = fs::read_to_string(lab.config()).unwrap();
        let mut dispatched =
            Dispatched { lab, dispatcher: None, config, clock: Clock::make(&lab.file("")), deck: Deck::of(17) };
        dispatched.run();
        dispatched
    }

    fn run(&mut self) {
        let mut command = run(self.lab, &self.lab.config());
        self.clock.give(&mut command);
        self.dispatcher = Some(Dispatcher::start_by(self.lab, command, &[]));
    }

    /// Ends the process, and starts another one. It does not know which connections were begun during a change that is open; which
    /// those are is found out while nobody begins one.
    fn restart(&mut self, kill: bool, pause: Duration, model: &Model) {
        model.note(&format!(
            "the dispatcher is {} and started after {pause:?}",
            if kill { "killed" } else { "stopped" }
        ));
        let nobody_begins = model.hold();
        // Who is killed leaves the kernel's flow tables, which the next one takes over.
        for live in model.all().into_iter().filter(|_| !kill) {
            let traces = self.lab.ask_all(&["trace", &live.client, "--for", "0", "--json"]);
            let service = &traces[0]["services"][0];
            let kept = service["keeps"].as_str().or(service["server"].as_str());
            if kept != Some(&live.server) {
                model.excuse("begun during a change, before a restart", |other| {
                    other.client == live.client && other.port == live.port
                });
            }
        }
        let (out, dispatcher) = (Instant::now(), self.dispatcher.take().unwrap());
        if kill {
            dispatcher.kill();
        } else {
            dispatcher.stop();
        }
        drop(nobody_begins);
        thread::sleep(pause);
        self.run();
        if !kill {
            model.forget();
        }
        // As long again for the retransmissions, as `READ` says: a development build goes through a long history for ten seconds.
        thread::sleep(out.elapsed());
    }

    /// The wall clock jumps, and jumps back. By what it says orders are remembered, and nothing else goes by it.
    fn jump_clock(&mut self, draw: &mut Rng, model: &Model) {
        const DAY: i64 = 86_400;
        let seconds = draw.choice([-400 * DAY, -DAY, -3600, -90, 90, 3600, DAY, 400 * DAY]).expect("one of them");
        model.note(&format!("the wall clock jumps by {seconds} s"));
        self.clock.set(seconds);
        if draw.bool() {
            self.restart(draw.bool(), Duration::ZERO, model);
        }
        thread::sleep(while_(draw));
        self.lab.settle();
        model.note("the wall clock jumps back");
        self.clock.set(0);
        thread::sleep(while_(draw));
    }

    /// Another program changes what the probes go by.
    fn meddle(&self, draw: &mut Rng, model: &Model) {
        let (family, at) = if draw.bool() { ("-4", 0) } else { ("-6", 1) };
        let all = [
            "rule del pref 1",
            "rule del pref 2",
            "rule del pref 40000",
            "rule del pref 40001",
            "rule del pref 40100",
            "rule del pref 40999",
            "rule flush; rule add pref 32766 lookup main; rule add pref 32767 lookup default",
            "route flush table 1869479936",
            "route flush table 1869479937",
            "route replace CLUSTER via ROUTER table 1869479937",
            "neigh flush dev lan0 nud permanent",
        ];
        let commands = all[draw.usize(..all.len())].replace("CLUSTER", CLUSTER[at]).replace("ROUTER", ROUTER[at]);
        model.note(&format!("somebody does `ip {family} {commands}`"));
        for command in commands.split("; ") {
            let (namespace, arguments) = (self.lab.namespace("dispatcher"), command.split_whitespace());
            // What is not there cannot be removed.
            let _ = std::process::Command::new("ip").args(["-n", &namespace, family]).args(arguments).output();
        }
    }

    fn reload(&self, text: &str) {
        fs::write(self.lab.config(), text).unwrap();
        self.lab.order_all(&["reload"]);
    }

    /// The disk of the state file is full for a while: an order is refused, and nothing of it counts.
    fn fill_disk(&self, draw: &mut Rng, model: &Model) {
        let server = server(draw);
        model.note(&format!("the disk is full, and {server} is to be drained"));
        let filler = self.lab.file(DISK).join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[7; 512]).is_ok() {}
        let mut ctl = self.lab.command("lan", env!("CARGO_BIN_EXE_oneip"));
        ctl.args(["ctl", "--socket"]).arg(self.lab.file("oneip.sock")).args(["drain", server]);
        let refused = ctl.output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("cannot be written: No space left"), "{said}");
        assert!(self.lab.all_up(), "an order that was refused counts");
        thread::sleep(while_(draw));
        fs::remove_file(&filler).unwrap();
    }

    /// A second process for the same interface, which is refused and touches nothing.
    fn start_a_second(&self, model: &Model) {
        model.note("a second dispatcher is started");
        let second = run(self.lab, &self.lab.config()).output().unwrap();
        assert_eq!(second.status.code(), Some(1), "{}", String::from_utf8_lossy(&second.stderr));
    }

    /// Somebody gives a server another MAC, and tells nobody. Its connections wait until that is followed, and none breaks: it is
    /// found by the first check that fails, and a server is down only after several.
    fn readdress(&self, draw: &mut Rng, model: &Model) {
        let server = server(draw);
        let mac = self.lab.readdress(server, draw, model);
        let services = || self.lab.ask_all(&["status", "--json"]).remove(0)["services"].as_array().unwrap().clone();
        let is_there = |known: &Value| known["name"] == server && known["mac"] == *mac;
        let knows = |service: &Value| service["servers"].as_array().unwrap().iter().any(is_there);
        eventually("the other MAC is followed", || services().iter().all(knows));
    }
}

impl Trouble for Dispatched<'_> {
    fn strike(&mut self, draw: &mut Rng, model: &Model) {
        let lab = self.lab;
        match self.deck.deal(draw) {
            0 | 1 => {
                let (by, time) = (cut(draw), while_(draw));
                model.note(&format!("the dispatcher loses its {by:?} for {time:?}"));
                lab.cut("dispatcher", by, time);
                lab.settle();
            }
            2 | 3 => lab.cut_server(server(draw), cut_of_server(draw), while_(draw), model),
            4 => lab.kill_nginx(server(draw), while_(draw), model),
            5 | 6 => {
                let (kill, pause) = (draw.bool(), Duration::from_millis(draw.u64(..500)));
                self.restart(kill, pause, model);
            }
            7 => self.readdress(draw, model),
            8 | 9 => self.meddle(draw, model),
            10 => lab.weigh(draw, model),
            11 => {
                let server = server(draw);
                model.note(&format!("{server} is drained for a while"));
                lab.order_all(&["drain", server]);
                thread::sleep(while_(draw));
                lab.order_all(&["undrain", server]);
            }
            12 => self.start_a_second(model),
            13 => {
                model.note("web3 is removed for a while, and reloads");
                let without = self
                    .config
                    .split("[[service.server]]")
                    .filter(|part| !part.contains("\"web3\"") || part.contains("[[service]]"));
                let without: Vec<String> = without
                    .map(|part| match part.split_once("[[service]]") {
                        Some((last, next)) if last.contains("\"web3\"") => format!("\u{1}[[service]]{next}"),
                        _ => part.to_owned(),
                    })
                    .collect();
                self.reload(&without.join("[[service.server]]").replace("[[service.server]]\u{1}", ""));
                thread::sleep(while_(draw));
                self.reload(&self.config);
            }
            14 => self.fill_disk(draw, model),
            15 => self.jump_clock(draw, model),
            _ => lab.spoof(&model.seen(), draw.fork(), model),
        }
        lab.settle();
    }

    fn is_complete(&self) -> bool {
        self.deck.is_through()
    }

    fn held(&self) -> Held {
        let pid = self.dispatcher.as_ref().expect("it runs").child().id();
        Held::by(pid) + self.lab.held("dispatcher")
    }

    fn said(&self) -> String {
        self.dispatcher.as_ref().map(Dispatcher::said).unwrap_or_default()
    }
}

pub struct Broadcast<'l> {
    lab: &'l Lab,
    filters: Vec<Filter<'l>>,
    config: String,
    deck: Deck,
}

impl<'l> Broadcast<'l> {
    pub fn new(lab: &'l Lab, filters: Vec<Filter<'l>>) -> Broadcast<'l> {
        let config = fs::read_to_string(lab.config()).unwrap();
        Broadcast { lab, filters, config, deck: Deck::of(12) }
    }

    /// The filter of a server ends with the address that it was made for, and is started again. Nobody else has its clients
    /// meanwhile, or only once it is known to be gone.
    fn readdress(&mut self, draw: &mut Rng, model: &Model) {
        let filter = self.filters.swap_remove(draw.usize(..self.filters.len()));
        let server = filter.server;
        model.out(server);
        self.lab.readdress(server, draw, model);
        let said = filter.fail();
        assert!(said.contains("lan0 has another MAC address than at the start"), "{said}");
        self.filters.push(Filter::start(self.lab, server));
        self.lab.settle();
        model.back(server);
    }

    fn reload(&self, text: &str) {
        publish(self.lab, text);
        self.lab.order_all(&["reload"]);
    }
}

impl Trouble for Broadcast<'_> {
    fn strike(&mut self, draw: &mut Rng, model: &Model) {
        let lab = self.lab;
        match self.deck.deal(draw) {
            0..=2 => lab.cut_server(server(draw), cut_of_server(draw), while_(draw), model),
            3 => lab.kill_nginx(server(draw), while_(draw), model),
            4 | 5 => {
                let at = draw.usize(..self.filters.len());
                let filter = self.filters.swap_remove(at);
                let server = filter.server;
                model.note(&format!("the filter of {server} is killed and started again"));
                filter.kill();
                thread::sleep(Duration::from_millis(draw.u64(..500)));
                self.filters.push(Filter::start(lab, server));
            }
            6 => {
                let filter = &self.filters[draw.usize(..self.filters.len())];
                let time = while_(draw);
                model.note(&format!("the filter of {} stands still for {time:?}", filter.server));
                let pid = filter.status()["pid"].as_i64().unwrap();
                let pid = Pid::from_raw(pid as i32).unwrap();
                kill_process(pid, Signal::STOP).unwrap();
                thread::sleep(time);
                kill_process(pid, Signal::CONT).unwrap();
            }
            7 => {
                let (server, weight) = (server(draw), draw.u8(2..4));
                model.note(&format!("all filters reload, and {server} has weight {weight} for a while"));
                let name = format!("name = \"{server}\"\n");
                self.reload(&self.config.replace(&name, &format!("{name}weight = {weight}\n")));
                thread::sleep(while_(draw));
                self.reload(&self.config);
            }
            8 => {
                let server = server(draw);
                model.note(&format!("{server} is drained for a while"));
                lab.order_all(&["drain", server]);
                thread::sleep(while_(draw));
                lab.order_all(&["undrain", server]);
            }
            9 => lab.weigh(draw, model),
            10 => self.readdress(draw, model),
            _ => lab.spoof(&model.seen(), draw.fork(), model),
        }
        lab.settle();
    }

    fn is_complete(&self) -> bool {
        self.deck.is_through()
    }

    fn held(&self) -> Held {
        let of = |filter: &Filter| {
            let pid = filter.status()["pid"].as_u64().expect("a process");
            Held::by(pid as u32) + self.lab.held(filter.server)
        };
        self.filters.iter().map(of).fold(Held::default(), |sum, held| sum + held)
    }

    fn said(&self) -> String {
        let said = self.filters.iter().map(|filter| format!("filter of {}:\n{}", filter.server, filter.said()));
        said.collect::<Vec<_>>().join("\n\n")
    }
}
