//! Health that dispatchers share. Each checks a server at a port of its own, so that a server can be up for one and down for another.

use super::net::{Net, Process, eventually};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

const SHARED: &str = "health = \"shared\"\n";
/// As long as a member is `waiting` and `alone` at least, with what it takes to notice.
const LEASE: Duration = Duration::from_secs(10);

/// The servers, as each dispatcher finds them.
pub struct Servers<'n> {
    net: &'n Net,
    open: HashMap<(usize, usize), super::net::Listener>,
}

impl<'n> Servers<'n> {
    pub fn new(net: &'n Net, dispatchers: usize) -> Servers<'n> {
        let mut servers = Servers { net, open: HashMap::new() };
        for server in 1..=3 {
            net.ip_everywhere(&format!("addr add 192.0.2.1{server}/32 dev lo"));
            (1..=dispatchers).for_each(|at| servers.serve(at, server));
        }
        servers
    }

    pub fn serve(&mut self, at: usize, server: usize) {
        let listener = self.net.listen(at, &format!("192.0.2.1{server}:{}", 8000 + at));
        self.open.insert((at, server), listener);
    }

    /// A server is down for a dispatcher from now on.
    pub fn refuse(&mut self, at: usize, server: usize) {
        self.open.remove(&(at, server)).expect("it serves");
    }
}

impl Net {
    /// The file of a dispatcher that shares health, by so many nodes of etcd.
    pub fn sharing(&self, at: usize, nodes: usize, group: &str) {
        let health = format!(
            "[service.health]\ntype = \"tcp\"\nport = {}\nvia = \"primary\"\ninterval_ms = 200\ntimeout_ms = 100\n[[service.server]]\n\
             name = \"web1\"",
            8000 + at
        );
        self.config(
            at,
            &format!("{}\n{SHARED}{group}", self.store(nodes)),
            ("[[service.server]]\nname = \"web1\"", &health),
        );
    }

    pub fn health(&self, at: usize) -> Value {
        self.document(at, "status")["group"]["health"].clone()
    }

    pub fn stands(&self, at: usize, stance: &str, views: u64) {
        eventually(&format!("d{at} is {stance} with {views} views"), || {
            let health = self.health(at);
            health["stance"] == stance && health["views"] == views
        });
    }

    fn why(&self, at: usize, server: &str) -> String {
        let status = self.document(at, "status");
        let servers = status["services"][0]["servers"].as_array().expect("servers").clone();
        let found = servers.into_iter().find(|it| it["name"] == server).expect("a server");
        found["why"].as_str().expect("words").to_owned()
    }

    pub fn is(&self, server: &str, state: &str, members: &[usize]) {
        members.iter().for_each(|at| self.becomes(*at, server, state, 1));
    }

    /// For so long nothing becomes of it.
    pub fn stays(&self, server: &str, state: &str, members: &[usize], time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for at in members {
                assert_eq!(self.state(*at, server).0, state, "{server} on d{at}: {}", self.why(*at, server));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Long enough for every check to come to another verdict, were it to.
pub const CHECKED: Duration = Duration::from_millis(1500);

#[test]
fn what_most_find_counts_and_one_alone_or_a_store_that_is_gone_takes_no_server_down() {
    let Some(net) = Net::up(3) else { return };
    let mut servers = Servers::new(&net, 3);
    let etcd = net.etcd(0, 1, "");
    (1..=3).for_each(|at| net.sharing(at, 1, ""));
    let mut members = vec![Some(net.dispatcher(1))];
    assert_eq!(net.health(1)["stance"], "waiting");
    members.extend((2..=3).map(|at| Some(net.dispatcher(at))));
    (1..=3).for_each(|at| net.stands(at, "together", 3));
    let all = [1, 2, 3];
    all.into_iter().for_each(|at| net.is("web1", "up", &[at]));

    // One alone.
    servers.refuse(1, 1);
    eventually("d1 says so", || net.why(1, "web1").contains("2 of 3 members find it up; this one does not: "));
    net.stays("web1", "up", &all, CHECKED);
    assert_eq!(net.health(1)["differs"], 1);
    let metrics = net.done(1, "metrics");
    for line in [
        "oneip_group_servers_differ 1",
        "oneip_group_health_shared 1",
        "oneip_group_views 3",
        "oneip_group_servers_checked 3",
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line}: {metrics}");
    }
    let group = net.done(2, "group");
    assert!(group.contains("health: the majority of 3 members decides; this one checks 3 of 3 servers"), "{group}");
    // It starts again, and moves nobody.
    members[0] = None;
    members[0] = Some(net.dispatcher(1));
    assert_eq!(net.health(1)["stance"], "waiting");
    eventually("d1 keeps what the group had", || {
        assert_eq!(net.state(1, "web1").0, "up");
        net.why(1, "web1").starts_with("as the group had it; this one does not: ")
    });
    net.stays("web1", "up", &all, CHECKED);
    net.stands(1, "together", 3);

    // Most.
    servers.refuse(2, 1);
    net.is("web1", "down", &all);
    assert!(net.why(1, "web1").starts_with("2 of 3 members find it down: "), "{}", net.why(1, "web1"));
    let why = net.why(3, "web1");
    assert!(why.starts_with("2 of 3 members find it down; d1: ") && why.ends_with("; this one finds it up"), "{why}");
    servers.serve(2, 1);
    net.is("web1", "up", &all);

    // A member that is cut off judges nobody, and follows the others.
    net.ip_of(3, "link set d3 down");
    eventually("d3 is cut off", || net.done(1, "group").contains("CUT OFF"));
    ["web1", "web2", "web3"].iter().for_each(|server| net.stays(server, "up", &all, CHECKED));
    servers.refuse(2, 1);
    net.is("web1", "down", &all);
    servers.serve(2, 1);
    servers.serve(1, 1);
    net.is("web1", "up", &all);
    net.ip_of(3, "link set d3 up");
    eventually("d3 judges again", || !net.done(1, "group").contains("CUT OFF"));

    // A member dies: nothing moves. Of two, one alone moves nothing.
    servers.refuse(1, 2);
    members[2] = None;
    (1..=2).for_each(|at| net.stands(at, "together", 2));
    let two = [1, 2];
    net.stays("web2", "up", &two, CHECKED);
    assert!(
        net.why(1, "web2").starts_with("1 of 2 member finds it up, as before; this one does not: "),
        "{}",
        net.why(1, "web2")
    );
    servers.refuse(2, 2);
    net.is("web2", "down", &two);
    servers.serve(2, 2);
    net.stays("web2", "down", &two, CHECKED);
    servers.serve(1, 2);
    net.is("web2", "up", &two);

    // The store dies: nothing moves for it, and a server that dies meanwhile is found out.
    servers.refuse(1, 3);
    eventually("d1 says so", || net.health(1)["differs"] == 1);
    let lost = Instant::now();
    etcd.stop();
    two.into_iter().for_each(|at| net.stands(at, "waiting", 2));
    servers.refuse(1, 2);
    servers.refuse(2, 2);
    net.is("web2", "down", &two);
    let left = LEASE.saturating_sub(lost.elapsed() + Duration::from_secs(3));
    net.stays("web3", "up", &two, left);
    two.into_iter().for_each(|at| net.stands(at, "alone", 2));
    assert!(net.done(1, "status").contains("NOTE: health: for "), "{}", net.done(1, "status"));
    net.is("web3", "down", &[1]);
    net.is("web3", "up", &[2]);
    // It is back. Until both are together each goes on.
    servers.serve(1, 2);
    servers.serve(2, 2);
    servers.serve(1, 3);
    net.is("web3", "up", &two);
    let _etcd = net.etcd(0, 1, "");
    two.into_iter().for_each(|at| net.stands(at, "together", 2));
    two.into_iter().for_each(|at| net.is("web2", "up", &[at]));
}

#[test]
fn what_an_older_store_or_a_wrong_value_says_moves_nobody() {
    let Some(net) = Net::up(3) else { return };
    let mut servers = Servers::new(&net, 3);
    let etcd = net.etcd(0, 1, "");
    (1..=3).for_each(|at| net.sharing(at, 1, ""));
    let _members: Vec<Process> = (1..=3).map(|at| net.dispatcher(at)).collect();
    let all = [1, 2, 3];
    all.into_iter().for_each(|at| net.stands(at, "together", 3));
    all.into_iter().for_each(|at| servers.refuse(at, 1));
    net.is("web1", "down", &all);
    net.etcdctl("snapshot save then.db");
    all.into_iter().for_each(|at| servers.serve(at, 1));
    net.is("web1", "up", &all);
    // The store becomes what it was, at once: all find it down there.
    etcd.stop();
    let _etcd = net.restored("then.db");
    let end = Instant::now() + LEASE + Duration::from_secs(8);
    while Instant::now() < end {
        net.stays("web1", "up", &all, Duration::from_millis(100));
    }
    all.into_iter().for_each(|at| net.stands(at, "together", 3));

    // What is no view counts for nothing; what is one of somebody who does not live, neither. A clock in it counts for nothing.
    let key = net.document(1, "status");
    assert!(key["group"]["bad"].is_null());
    let digest = net.etcdctl("get --print-value-only /oneip/edge/shared/views/d1");
    let digest: Value = serde_json::from_str(&digest).expect("JSON");
    let put = |name: &str, view: &str| {
        net.etcdctl(&format!(
            "put /oneip/edge/shared/views/{name} '{{\"digest\":{},\"view\":{view}}}'",
            digest["digest"]
        ));
    };
    for name in ["x1", "x2", "x3", "x4"] {
        put(name, "{\"finds\":{\"web\":\"d3\"}}");
    }
    net.stays("web1", "up", &all, CHECKED);
    put("d2", "{\"finds\":{\"web\":\"d99999\"}}");
    put("d3", "{\"finds\":{\"web\":\"d2\"}}");
    eventually("both are named", || {
        let bad = net.document(1, "status")["group"]["bad"].to_string();
        bad.contains("a run of findings is of 1 to 1024 servers")
            && bad.contains("it is of 2 servers of service web, which has 3")
    });
    net.stays("web1", "up", &all, CHECKED);
    let reason = "{\"service\":\"web\",\"server\":\"web1\",\"since\":18446744073709551615,\"why\":\"of another time\"}";
    put("d2", &format!("{{\"finds\":{{\"web\":\"du2\"}},\"reasons\":[{reason}]}}"));
    put("d3", &format!("{{\"finds\":{{\"web\":\"du2\"}},\"reasons\":[{reason}]}}"));
    net.is("web1", "down", &[1]);
    assert!(net.why(1, "web1").contains("2 of 3 members find it down; d2: of another time; this one finds it up"));
}

#[test]
fn with_check_by_members_share_the_checks_and_take_over_those_of_one_that_is_gone() {
    let Some(net) = Net::up(3) else { return };
    let mut servers = Servers::new(&net, 3);
    let etcd = net.etcd(0, 1, "");
    (1..=3).for_each(|at| net.sharing(at, 1, "check_by = 1\n"));
    let mut members: Vec<Option<Process>> = (1..=3).map(|at| Some(net.dispatcher(at))).collect();
    let all = [1, 2, 3];
    all.into_iter().for_each(|at| net.stands(at, "together", 3));
    let checks = |at: usize| net.health(at)["checks"].as_u64().expect("a number");
    eventually("each server is checked once", || all.into_iter().map(checks).sum::<u64>() == 3);
    // Each server is known by the one that checks it.
    let checker = |server: usize| {
        let checked =
            |at: &usize| !net.document(*at, "status")["services"][0]["servers"][server - 1]["check"].is_null();
        all.into_iter().filter(checked).collect::<Vec<_>>()
    };
    let [first] = checker(1)[..] else { panic!("{:?}", checker(1)) };
    for at in all.into_iter().filter(|at| *at != first) {
        servers.refuse(at, 1);
    }
    net.stays("web1", "up", &all, CHECKED);
    servers.refuse(first, 1);
    net.is("web1", "down", &all);
    all.into_iter().for_each(|at| servers.serve(at, 1));
    net.is("web1", "up", &all);
    // It is gone: another one checks in its place.
    members[first - 1] = None;
    let left: Vec<usize> = all.into_iter().filter(|at| *at != first).collect();
    left.iter().for_each(|at| net.stands(*at, "together", 2));
    eventually("others check its servers", || left.iter().map(|at| checks(*at)).sum::<u64>() == 3);
    net.stays("web1", "up", &left, CHECKED);
    left.iter().for_each(|at| servers.refuse(*at, 1));
    net.is("web1", "down", &left);
    left.iter().for_each(|at| servers.serve(*at, 1));
    net.is("web1", "up", &left);
    // Without the store each checks all.
    etcd.stop();
    left.iter().for_each(|at| net.stands(*at, "alone", 2));
    assert!(left.iter().all(|at| checks(*at) == 3));
    left.iter().for_each(|at| servers.refuse(*at, 2));
    net.is("web2", "down", &left);
}

#[test]
fn a_filter_does_not_share_health() {
    let Some(net) = Net::up(1) else { return };
    net.sharing(1, 1, "");
    let file = net.path("d1.toml");
    let text = fs::read_to_string(&file).expect("it was written");
    fs::write(&file, text.replace("[dispatcher]", "[filter]").replace("engine = \"xdp\"\n", "")).expect("written");
    let done = net
        .command(env!("CARGO_BIN_EXE_oneip"))
        .args(["filter", "-c", "d1.toml", "--server", "web1"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success(), "{said}");
    assert!(
        said.contains("\nerror: health = \"shared\" in [group] is for dispatchers: filters tell each other"),
        "{said}"
    );
}
