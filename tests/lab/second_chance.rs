//! Connections that routers move to another dispatcher in the middle of a change: servers send back what they do not have, and the one
//! that has it is found.

use crate::dispatcher::Dispatcher;
use crate::filters::{self, Filter};
use crate::group::{Etcd, are_together, becomes, join};
use crate::network::{CLUSTER, Lab, SERVERS, clients, say, write_config};
use crate::several::goes_on;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;

const HOSTS: [&str; 3] = ["dispatcher1", "dispatcher2", "dispatcher3"];

/// Sends in a connection that nobody has (TCP_REPAIR), and waits for the reset.
const STRANGER: &str = "
import socket, sys
client, cluster = sys.argv[1:]
s = socket.socket(socket.AF_INET6 if ':' in client else socket.AF_INET)
s.bind((client, 0))
s.setsockopt(socket.IPPROTO_TCP, 19, 1)
s.connect((cluster, 80))
s.setsockopt(socket.IPPROTO_TCP, 19, 0)
s.settimeout(5)
try:
    s.send(b'GET / HTTP/1.1\\r\\n\\r\\n')
    sys.exit('it was answered: %r' % s.recv(9))
except ConnectionResetError:
    pass
";

type Connection = (TcpStream, Option<String>);

/// What stands in the configuration for the fourth server of each family.
fn fourth() -> [String; 2] {
    ["192.0.2.", "2001:db8:2::"]
        .map(|network| format!("\n[[service.server]]\nname = \"web4\"\naddress = \"{network}14\"\n"))
}

fn with_second_chance(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let text = text.replace("\nports = [\"tcp/80\"]", "\nports = [\"tcp/80\"]\nsecond_chance = true");
    assert_eq!(text.matches("second_chance").count(), 2);
    text
}

/// A connection of each client, with an answer.
fn begin(lab: &Lab) -> Vec<Connection> {
    let all = [0, 1].map(|family| {
        let cluster: IpAddr = CLUSTER[family].parse().unwrap();
        clients(family).into_iter().map(move |client| (client, SocketAddr::new(cluster, 80)))
    });
    let begin = |(client, to): (String, SocketAddr)| {
        let (connection, mut server) = (lab.connect(&client, to), None);
        assert!(goes_on(&connection, &mut server), "{client}");
        (connection, server)
    };
    all.into_iter().flatten().map(begin).collect()
}

fn broken(connections: &mut [Connection]) -> usize {
    connections.iter_mut().filter_map(|(connection, server)| (!goes_on(connection, server)).then_some(())).count()
}

/// The services alone, as they are published for a group.
fn services(config: &str) -> String {
    let mut table: toml::Table = config.parse().unwrap();
    table.retain(|section, _| section == "service");
    table.to_string()
}

/// A drain and a server more, ordered once for the group, and a dispatcher that dies and comes back, while 1,260 connections are open that began
/// before, between and after. None breaks.
#[test]
fn a_drain_a_server_more_and_a_dispatcher_s_death_at_once_break_no_connection() {
    let Some(lab) = &Lab::up(&["--dispatchers", "3", "--engine", "xdp"]) else { return };
    let configs = HOSTS.map(|host| lab.several(host));
    let whole = configs.each_ref().map(|config| with_second_chance(config));
    for (config, text) in configs.iter().zip(&whole) {
        write_config(config, &fourth().iter().fold(text.clone(), |text, server| text.replace(server, "")));
    }
    for server in SERVERS {
        let own = whole[0].replace(&format!("{}.s", HOSTS[0]), &format!("{server}.s"));
        let decap = format!("\n[decap]\npins = \"{}\"\n", lab.file("bpf").display());
        write_config(&filters::config(lab, server), &(own + &decap));
    }
    let _etcd = Etcd::serve(lab);
    for (host, config) in HOSTS.iter().zip(&configs) {
        join(config, host, "health = \"shared\"\nconfig = \"etcd\"\n");
    }
    let decaps: Vec<Filter> = SERVERS.iter().map(|server| Filter::decap(lab, server)).collect();
    let _dispatchers: Vec<_> =
        HOSTS.iter().zip(&configs).map(|(host, config)| Dispatcher::start_on(lab, host, config, &[])).collect();
    lab.sends_to(&["2", "3", "4"]);
    are_together(lab, &HOSTS);

    let mut connections = begin(lab);
    lab.ctl_on(HOSTS[0], &["drain", "web1"]);
    becomes(lab, &HOSTS, "web1", "draining");
    connections.extend(begin(lab));
    let published = lab.file("services.toml");
    write_config(&published, &services(&whole[0]));
    lab.ctl_on(HOSTS[2], &["publish", published.to_str().unwrap()]);
    becomes(lab, &HOSTS, "web4", "up");
    connections.extend(begin(lab));
    let count = |server: &str| connections.iter().filter(|(_, has)| has.as_deref() == Some(server)).count();
    let (first, fourth) = (count("web1\n"), count("web4\n"));
    assert!(first > 50 && fourth > 50, "{first} {fourth}");

    // Requests go on meanwhile.
    let all = connections.len();
    let dead = thread::scope(|scope| {
        let asking = scope.spawn(|| broken(&mut connections));
        lab.ip("lan", "link set dispatcher2 down");
        lab.sends_to(&["2", "4"]);
        asking.join().unwrap()
    });
    assert_eq!((dead, broken(&mut connections)), (0, 0), "of {all}");
    lab.ip("lan", "link set dispatcher2 up");
    lab.sends_to(&["2", "3", "4"]);
    assert_eq!(broken(&mut connections), 0, "of {all}");
    lab.ctl_on(HOSTS[0], &["withdraw"]);
    lab.sends_to(&["3", "4"]);
    assert_eq!(broken(&mut connections), 0, "of {all}");

    // Who has no connection gets a reset all the same: from the server whose client it is.
    for (family, client) in [0, 1].map(|family| (family, clients(family).remove(200))) {
        let said = lab.command("client", "python3").args(["-c", STRANGER, &client, CLUSTER[family]]).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
    let sent_back = |decap: &Filter| decap.status()["dropped"]["other_server"].as_u64().unwrap_or(0);
    let back: Vec<u64> = decaps.iter().map(sent_back).collect();
    say(&format!(
        "a drain, a server more, a dispatcher that dies, comes back, and another that is withdrawn: of {all} connections none broke; servers \
         sent back {back:?} segments"
    ));
    assert!(back.iter().sum::<u64>() > 20, "{back:?}");
}
