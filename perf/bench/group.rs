//! A group at its size, by the code that runs: 100 members, 1,008 servers in 16 services, of which three members check each; ten changes
//! a second, orders and servers that fail by turns; an etcd of three nodes in a network namespace, of which one that follows is killed meanwhile, and then
//! the one that leads.
//!
//! `cargo bench --bench group` takes a minute, and needs etcd and root (`-- election_ms=1000`: with etcd's own times). Prints messages and bytes a second at etcd, and how long a change takes from
//! where it is made until the last member goes by it. One of the members builds the table of each change, as all do where each has a machine.

#[path = "common/plans.rs"]
mod plans;

use hdrhistogram::Histogram;
use nix::sched::{CloneFlags, unshare};
use oneip::control::agreement::{Agreement, Finding, Stance, View};
use oneip::control::denials::Denials;
use oneip::control::health::Verdict;
use oneip::control::overrides::Overrides;
use oneip::group::book::{Book, Edit};
use oneip::group::record::{Member, MemberView, ServerOrders, Stamped, now_ms};
use oneip::group::stance::StanceClock;
use oneip::group::store::{Ask, Event, Store};
use oneip::model::{AllDown, Group, GroupHealth, Health, Plan, Probe, Via};
use oneip::table::build::{Cluster, State};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until};

const MEMBERS: usize = 100;
const SERVICES: usize = 16;
const SERVERS: usize = 63;
const CHECK_BY: usize = 3;
const EVERY: Duration = Duration::from_millis(100);
const MEASURED: Duration = Duration::from_secs(10);
/// Longer than it takes a member to be together with the others.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server's connections are kept when others get its slots, in nanoseconds.
const DRAIN: u64 = 600_000_000_000;
/// Of the nodes, for clients; peers have the next hundred.
const PORT: usize = 23_790;

/// Killed when dropped.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In milliseconds: for nodes that are near each other. `election_ms=1000` is etcd's own; docs/group.md has the figures.
const ELECTION: usize = 250;

fn election() -> usize {
    let asked = std::env::args().find_map(|argument| argument.strip_prefix("election_ms=").map(str::to_owned));
    asked.map_or(ELECTION, |asked| asked.parse().expect("election_ms=NUMBER"))
}

fn node(at: usize, folder: &TempDir) -> Node {
    let peer = |at: usize| format!("http://127.0.0.1:{}", PORT + 100 + at);
    let cluster: Vec<String> = (0..3).map(|at| format!("n{at}={}", peer(at))).collect();
    let client = format!("http://127.0.0.1:{}", PORT + at);
    let options = format!(
        "--name n{at} --data-dir n{at} --listen-client-urls {client} --advertise-client-urls {client} --listen-peer-urls {0} \
         --initial-advertise-peer-urls {0} --initial-cluster {1} --heartbeat-interval={2} --election-timeout={3}",
        peer(at),
        cluster.join(","),
        election() / 10,
        election()
    );
    let mut etcd = Command::new("etcd");
    etcd.args(options.split_whitespace()).current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    Node(etcd.spawn().expect("etcd starts: scripts/setup.sh"))
}

/// What the nodes have counted: messages and bytes, from and to clients.
fn counted(nodes: std::ops::Range<usize>) -> [f64; 4] {
    let names = [
        "grpc_server_msg_received_total",
        "grpc_server_msg_sent_total",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
    ];
    let mut sums = [0.0; 4];
    for at in nodes {
        for line in page(at).lines() {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let of = names.iter().position(|known| name == *known || name.starts_with(&format!("{known}{{")));
            of.into_iter().for_each(|of| sums[of] += value.parse::<f64>().unwrap_or(0.0));
        }
    }
    sums
}

/// What a node says of itself.
fn page(at: usize) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", (PORT + at) as u16)).expect("it answers");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it takes it");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("text");
    page
}

fn leader(mut nodes: std::ops::Range<usize>) -> usize {
    nodes.find(|at| page(*at).contains("\netcd_server_is_leader 1\n")).expect("one leads")
}

fn plan() -> Plan {
    let mut plan = plans::plan(SERVICES, SERVERS, false);
    let millis = Duration::from_millis;
    let health = Health {
        probe: Probe::Icmp,
        via: Via::Primary,
        interval: millis(1000),
        timeout: millis(500),
        rise: 2,
        fall: 3,
        all_down: AllDown::Drop,
    };
    plan.services.iter_mut().for_each(|service| service.health = Some(health.clone()));
    plan
}

/// A change that members have to hear of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Change {
    /// A server counts as down.
    Fails(usize, usize),
    /// A server, of a service, has that weight.
    Weighs(usize, usize, u32),
}

/// Who has not heard of what yet.
#[derive(Default)]
struct Open {
    changes: RefCell<HashMap<Change, (Instant, HashSet<usize>)>>,
    lags: RefCell<Vec<Duration>>,
    together: Cell<usize>,
    /// How long the first member has built tables, and how many.
    built: Cell<(Duration, u32)>,
}

impl Open {
    fn begin(&self, change: Change) {
        self.changes.borrow_mut().insert(change, (Instant::now(), (0..MEMBERS).collect()));
    }

    /// Of those that are open, what a member goes by by now.
    fn heard(&self, member: usize, goes_by: impl Fn(Change) -> bool) {
        let is_heard = |change: &Change, (began, left): &mut (Instant, HashSet<usize>)| {
            if left.contains(&member) && goes_by(*change) {
                left.remove(&member);
                if left.is_empty() {
                    self.lags.borrow_mut().push(began.elapsed());
                }
            }
            left.is_empty()
        };
        self.changes.borrow_mut().extract_if(is_heard).for_each(drop);
    }
}

/// The tables of a member.
struct Tables {
    plan: Plan,
    cluster: Cluster,
    down: Vec<Vec<State>>,
    began: Instant,
    built: Duration,
    count: u32,
}

impl Tables {
    fn new(plan: &Plan) -> Tables {
        let states = plan.services.iter().map(|service| vec![State::Active; service.servers.len()]).collect();
        Tables {
            plan: plan.clone(),
            cluster: Cluster::new(plan),
            down: states,
            began: Instant::now(),
            built: Duration::ZERO,
            count: 0,
        }
    }

    /// Builds the table, if anything counts that did not.
    fn follow(&mut self, agreement: &Agreement, book: &Book) {
        let start = Instant::now();
        let now = start.duration_since(self.began).as_nanos() as u64;
        let mut weighed = false;
        for (subject, orders) in &book.shared.servers {
            let set = orders.weight.as_ref().and_then(|weight| weight.set);
            let mut servers = self.plan.services.iter_mut().flat_map(|service| &mut service.servers);
            if let (Some(set), Some(server)) = (set, servers.find(|server| *subject == server.name))
                && server.weight != set
            {
                (server.weight, weighed) = (set, true);
            }
        }
        if weighed {
            self.cluster.renew(&self.plan, now);
        }
        let mut changed = weighed;
        for (service, states) in self.down.iter_mut().enumerate() {
            let is_down = |at: usize| agreement.counts(service, at) == Some(Verdict::Down);
            let new: Vec<State> =
                (0..states.len()).map(|at| if is_down(at) { State::Down } else { State::Active }).collect();
            if *states != new {
                *states = new;
                changed |= self.cluster.set_states(service as u16, states, now, now + DRAIN);
            }
        }
        if changed {
            black_box(self.cluster.compile());
            self.built += start.elapsed();
            self.count += 1;
        }
    }
}

enum Do {
    Fail(usize, usize),
    Order(usize, usize, u32),
}

/// As `run::grouping` and `run::sharing` do, without what is ordered and shown.
struct Dispatcher {
    number: usize,
    name: String,
    book: Book,
    agreement: Agreement,
    clock: StanceClock,
    store: Store,
    connected: bool,
    heard: BTreeMap<String, i64>,
    told: Option<View>,
    found: Vec<Vec<Finding>>,
    /// Of the first member.
    tables: Option<Tables>,
}

fn server(service: usize, server: usize) -> String {
    format!("server{service}-{server}")
}

impl Dispatcher {
    fn start(number: usize, plan: &Plan) -> Dispatcher {
        let name = format!("d{number}");
        let group = Group {
            name: "bench".into(),
            member: name.clone(),
            etcd: (0..3).map(|at| format!("http://127.0.0.1:{}", PORT + at)).collect(),
            ca: None,
            identity: None,
            user: None,
            health: GroupHealth::Shared { check_by: Some(CHECK_BY) },
            takes_published: false,
        };
        let digest = oneip::group::digest(plan);
        let orders = (&Overrides::default(), &Denials::default());
        let book = Book::open(("bench", &name), digest.clone(), None, orders);
        let member = Member { version: "0".into(), mode: "dispatcher".into(), place: name.clone(), digest };
        let store = Store::start(group, member, None).expect("a thread");
        let agreement = Agreement::new(plan, &name, Some(CHECK_BY));
        let found = vec![vec![Finding::Up; SERVERS]; SERVICES];
        let (clock, heard) = (StanceClock::new(Instant::now()), BTreeMap::new());
        let tables = (number == 0).then(|| Tables::new(plan));
        Dispatcher { number, name, book, agreement, clock, store, connected: false, heard, told: None, found, tables }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Loaded { cluster, revision, entries } => {
                self.book.load(cluster, revision, &entries);
                self.connected = true;
                for queued in self.book.queue() {
                    let (id, edit, is_new) = (queued.id, queued.edit.clone(), queued.is_new);
                    self.store.ask(Ask::Tell { id, edit, is_new });
                }
            }
            Event::Changed { revision, entries } => self.book.change(revision, &entries),
            Event::Lost(_) => {
                self.book.lose();
                self.connected = false;
            }
            Event::Told { id, made } => made.into_iter().for_each(|told| self.book.told(id, told.counts)),
        }
    }

    fn order(&mut self, subject: String, weight: u32) {
        let weight = Some(Stamped { set: Some(weight), by: self.name.clone(), at_ms: now_ms() });
        let edit = Edit::Server { server: subject, orders: ServerOrders { weight, ..ServerOrders::default() } };
        let id = self.book.enqueue(edit, true);
        let queued = self.book.queue().iter().find(|queued| queued.id == id).expect("it waits").edit.clone();
        self.store.ask(Ask::Tell { id, edit: queued, is_new: self.connected });
    }

    fn fail(&mut self, service: usize, server: usize) {
        self.found[service][server] = Finding::Down;
        if self.agreement.is_mine(service, server) {
            self.agreement.find((service, server), Some(Finding::Down));
        }
    }

    fn share(&mut self) {
        self.clock.see(self.connected && self.book.stranger().is_none(), self.book.continues, Instant::now());
        let counted: BTreeMap<String, (View, i64)> = self
            .book
            .views()
            .filter(|(name, _, at)| **name != self.name && self.heard.get(*name) != Some(at))
            .map(|(name, of, at)| (name.clone(), (of.view.clone(), at)))
            .collect();
        let there: HashSet<&String> = self.book.views().map(|(name, ..)| name).collect();
        let gone: Vec<String> = self.heard.keys().filter(|name| !there.contains(name)).cloned().collect();
        for name in gone {
            self.heard.remove(&name);
            self.agreement.hear(&name, None).expect("nothing has to fit");
        }
        for (name, (view, at)) in counted {
            self.agreement.hear(&name, Some(view)).expect("it fits");
            self.heard.insert(name, at);
        }
        self.agreement.set_stance(self.clock.stance());
        if self.agreement.assign() {
            for (service, found) in self.found.iter().enumerate() {
                for (server, found) in found.iter().enumerate() {
                    let is_mine = self.agreement.is_mine(service, server);
                    self.agreement.find((service, server), is_mine.then_some(*found));
                }
            }
        }
        self.agreement.settle();
        let finds = self.agreement.finds();
        if self.told.as_ref().is_none_or(|told| told.finds != finds) {
            let view = View { finds, ..View::default() };
            self.store.ask(Ask::View(Box::new(MemberView { digest: self.book.digest().clone(), view: view.clone() })));
            self.told = Some(view);
        }
    }

    fn goes_by(&self, change: Change) -> bool {
        match change {
            Change::Fails(service, server) => self.agreement.counts(service, server) == Some(Verdict::Down),
            Change::Weighs(service, at, weight) => {
                let orders = self.book.shared.servers.get(&server(service, at));
                orders.and_then(|orders| orders.weight.as_ref()).is_some_and(|it| it.set == Some(weight))
            }
        }
    }

    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Do>, open: Rc<Open>) {
        loop {
            let before = self.clock.stance();
            self.share();
            if let Some(tables) = &mut self.tables {
                tables.follow(&self.agreement, &self.book);
                open.built.set((tables.built, tables.count));
            }
            match (before, self.clock.stance()) {
                (Stance::Together, after) if after != Stance::Together => open.together.set(open.together.get() - 1),
                (before, Stance::Together) if before != Stance::Together => open.together.set(open.together.get() + 1),
                _ => {}
            }
            open.heard(self.number, |change| self.goes_by(change));
            let due = self.clock.due();
            tokio::select! {
                event = self.store.next() => self.take(event),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                Some(done) = inbox.recv() => match done {
                    Do::Fail(service, server) => self.fail(service, server),
                    Do::Order(service, at, weight) => self.order(server(service, at), weight),
                },
            }
        }
    }
}

/// Makes changes for a while, of one server each, and waits until all have heard of each. Their lags.
async fn change(
    open: &Open,
    members: &[mpsc::UnboundedSender<Do>],
    servers: &mut Vec<(usize, usize)>,
    time: Duration,
) -> Histogram<u64> {
    let (began, mut made) = (Instant::now(), 0);
    let mut next = began;
    while began.elapsed() < time {
        let (service, server) = servers.pop().expect("there are more servers than changes");
        made += 1;
        if made % 2 == 0 {
            let weight = 1 + fastrand::u32(..60_000);
            open.begin(Change::Weighs(service, server, weight));
            let _ = members[fastrand::usize(..MEMBERS)].send(Do::Order(service, server, weight));
        } else {
            open.begin(Change::Fails(service, server));
            members.iter().for_each(|member| _ = member.send(Do::Fail(service, server)));
        }
        next += EVERY;
        sleep_until(next).await;
    }
    wait("all have heard of each change", || open.changes.borrow().is_empty()).await;
    let mut lags = Histogram::new(3).expect("three digits are possible");
    open.lags.take().into_iter().for_each(|lag| lags.record(lag.as_micros() as u64).expect("it grows"));
    assert_eq!(lags.len(), made);
    lags
}

async fn wait(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn say(what: &str, lags: &Histogram<u64>) {
    let ms = |micros: u64| micros as f64 / 1e3;
    let [p50, p99] = [0.5, 0.99].map(|quantile| ms(lags.value_at_quantile(quantile)));
    println!(
        "{what}: {} changes; until the last member goes by one: p50 {p50:.0} ms, p99 {p99:.0} ms, most {:.0} ms",
        lags.len(),
        ms(lags.max())
    );
}

fn main() {
    // Before there are threads.
    unshare(CloneFlags::CLONE_NEWNET).expect("root may");
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip").success());
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes: Vec<Option<Node>> = (0..3).map(|at| Some(node(at, &folder))).collect();
    let plan = plan();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let open = Rc::new(Open::default());
        let members: Vec<_> = (0..MEMBERS)
            .map(|number| {
                let (to, inbox) = mpsc::unbounded_channel();
                tokio::task::spawn_local(Dispatcher::start(number, &plan).run(inbox, Rc::clone(&open)));
                to
            })
            .collect();
        let began = Instant::now();
        wait("all are together", || open.together.get() == MEMBERS).await;
        println!("{MEMBERS} members are together after {:.1} s", began.elapsed().as_secs_f64());
        let mut servers: Vec<_> = (0..SERVICES).flat_map(|of| (0..SERVERS).map(move |at| (of, at))).collect();
        fastrand::shuffle(&mut servers);
        // What the start has left to be told.
        sleep(Duration::from_secs(2)).await;

        let (before, began) = (counted(0..3), Instant::now());
        let lags = change(&open, &members, &mut servers, MEASURED).await;
        let (after, seconds) = (counted(0..3), began.elapsed().as_secs_f64());
        let [received, sent, bytes_received, bytes_sent] =
            std::array::from_fn(|at| (after[at] - before[at]) / seconds);
        say("three nodes", &lags);
        println!(
            "etcd, all nodes: {received:.0} messages/s and {:.0} kB/s from members, {sent:.0} messages/s and {:.0} kB/s to them",
            bytes_received / 1e3,
            bytes_sent / 1e3
        );
        let first = leader(0..3);
        let follower = (first + 1) % 3;
        nodes[follower] = None;
        let lags = change(&open, &members, &mut servers, MEASURED).await;
        say("a node that follows is killed", &lags);
        nodes[follower] = Some(node(follower, &folder));
        wait("all are together again", || open.together.get() == MEMBERS).await;
        // It has caught up.
        sleep(Duration::from_secs(2)).await;
        nodes[first] = None;
        let lags = change(&open, &members, &mut servers, MEASURED).await;
        say("the node that leads is killed", &lags);
        wait("all are together again", || open.together.get() == MEMBERS).await;
        let (built, count) = open.built.get();
        println!("the first member has built {count} tables, of {:.1} ms each", (built / count).as_secs_f64() * 1e3);
    });
}
