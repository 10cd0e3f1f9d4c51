//! Each check with facts in which one thing is wrong.

use super::{all, on_server};
use crate::admin::finding::{Finding, Grade};
use crate::admin::status::{CheckStatus, ServerStatus, ServiceStatus, State, Status, WorkerStatus};
use crate::config;
use crate::control::neighbours::{Detour, OffLink};
use crate::doctor::facts::{Facts, Heard, Interface, Neighbour, Running, Settings};
use crate::model::{Engine, Mac, Tags, Xdp};
use crate::verdict::Reason;
use crate::xdp::{Device, Features};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const CONFIG: &str = r#"
[cluster]
hash_key = "5b2f9d0c71e84a6d93f05ce2187ab46d"
[dispatcher]
interface = "eth1"
cores = [2, 3]
[[service]]
name = "web"
address = "203.0.113.80"
[service.health]
type = "tcp"
port = 80
[[service.server]]
name = "web1"
address = "192.0.2.11"
[[service.server]]
name = "web2"
address = "192.0.2.12"
"#;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A NIC with zero copy and two queues, in a host of four cores, with a dispatcher that runs: all is well.
fn healthy() -> Facts {
    let plan = config::parse(CONFIG, "cluster.toml").expect("it is right").plan;
    let mut facts = Facts { plan: Some(plan), ..Facts::default() };
    let host = &mut facts.host;
    (host.kernel, host.has_af_xdp, host.jit) = (Some("6.18.1-amd64".into()), Some(true), Some(1));
    (host.missing, host.memory_lock) = (Some(Vec::new()), Some((64 << 10, true)));
    (host.has_bpf_fs, host.huge_pages, host.irqbalance) = (Some(true), Some(16), Some(false));
    (host.clock_source, host.clock_sources) = (Some("tsc".into()), Some("tsc hpet".into()));
    host.neighbours_most = [Some(1024); 2];
    facts.cores.available = vec![0, 1, 2, 3];
    facts.cores.isolated = vec![2, 3];
    for core in 0..4 {
        facts.cores.governor.insert(core, "performance".into());
        facts.cores.idle_us.insert(core, 1);
        facts.cores.siblings.insert(core, vec![core]);
    }
    let device = Device {
        interface: "eth1".into(),
        index: 3,
        driver: "ice".into(),
        mac: Mac([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
        queues: 2,
        numa_node: Some(0),
        near_cores: vec![0, 1, 2, 3],
        strips_vlan_tags: Some(false),
        receive_queues: 2,
        zero_copies: true,
    };
    facts.interfaces = vec![Interface {
        device,
        up: true,
        carrier: Some(true),
        master: None,
        features: Features::new(Some(0b1111)),
        program: Some(7),
        program_is_ours: true,
        gro: Some(true),
        lro: Some(false),
        ring: Some((4096, 8160)),
        most_combined: Some(64),
        spread_over: Some(vec![0, 1]),
        flow_rules: Some(0),
        interrupts: BTreeMap::from([(40, vec![0]), (41, vec![1])]),
        ipv6_disabled: Some(0),
        settings: Settings { send_redirects: Some(0), rp_filter: Some(1), proxy_arp: Some(0) },
        heard: Some(Heard { seconds: 1.0, frames: 100, ..Heard::default() }),
    }];
    let network = &mut facts.network;
    (network.ip_forward, network.ipv6_forwarding) = (Some(0), Some(0));
    network.settings = Settings { send_redirects: Some(0), rp_filter: Some(0), proxy_arp: Some(0) };
    network.port_range = Some((32_768, 60_999));
    network.cluster_routes = vec![(address("203.0.113.80"), Some("eth1".into()))];
    for (name, last) in [("web1", 11), ("web2", 12)] {
        network.neighbours.push(Neighbour {
            server: name.into(),
            address: IpAddr::from([192, 0, 2, last]),
            device: "eth1".into(),
            mac: Some(Mac([2, 0, 0, 0, 0, last])),
        });
    }
    network.gateways = vec![(address("192.0.2.1"), Mac([2, 0, 0, 0, 0, 1]))];
    (network.probe_rules, network.probe_routes) = ([8, 0], 2);
    facts.running = Some(Running {
        status: status(),
        drops: BTreeMap::new(),
        seconds: 1.0,
        reload: Some(Ok(vec!["dry run: nothing was changed".into()])),
        trouble: None,
    });
    facts
}

fn status() -> Status {
    let server = |name: &str, last| ServerStatus {
        name: name.into(),
        address: IpAddr::from([192, 0, 2, last]),
        mac: Some("02:00:00:00:00:11".into()),
        state: State::Up,
        why: String::new(),
        since_s: 9.0,
        weight: 1,
        configured_weight: None,
        slots: 5,
        share: 0.5,
        frames: 100,
        bytes: 6400,
        new_flows: 20,
        check: Some(CheckStatus {
            age_s: Some(0.1),
            latency_ms: Some(0.1),
            failing: false,
            failure: None,
            failure_age_s: None,
            unchecked: None,
            unchecked_s: None,
        }),
    };
    let service = ServiceStatus {
        name: "web".into(),
        address: "203.0.113.80".to_owned(),
        more_addresses: Vec::new(),
        ports: Vec::new(),
        hash: "source".into(),
        selection: "maglev".into(),
        slots: 10,
        moving: 0,
        servers: vec![server("web1", 11), server("web2", 12)],
        latency_ns: None,
        announce: None,
        limit: None,
    };
    let worker = |worker| WorkerStatus { worker, core: worker + 2, turns: true, ..WorkerStatus::default() };
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        mode: "dispatcher".into(),
        engine: Some("af_xdp".into()),
        program: None,
        server: None,
        pid: 1,
        uptime_s: 9.0,
        config: "/etc/oneip/cluster.toml".into(),
        interface: "eth1".into(),
        interface_up: Some(true),
        findings: Vec::new(),
        peers: Vec::new(),
        group: None,
        generation: 1,
        services: vec![service],
        odd_limit: None,
        workers: vec![worker(0), worker(1)],
        counted_s: None,
        frames: 0,
        forwarded: 0,
        passed: 0,
        dropped: BTreeMap::new(),
    }
}

/// Names and states of what is not ok.
fn bad(facts: &Facts) -> Vec<(String, Grade)> {
    let bad = all(facts).into_iter().filter(|finding| finding.state > Grade::Ok);
    bad.map(|finding| (finding.name, finding.state)).collect()
}

fn nic(facts: &mut Facts) -> &mut Interface {
    facts.interfaces.first_mut().expect("it is there")
}

fn heard(facts: &mut Facts) -> &mut Heard {
    nic(facts).heard.as_mut().expect("somebody listened")
}

fn run(facts: &mut Facts) -> &mut Running {
    facts.running.as_mut().expect("it runs")
}

fn server(facts: &mut Facts) -> &mut ServerStatus {
    &mut run(facts).status.services[0].servers[0]
}

fn settings(facts: &mut Facts) -> &mut crate::model::Dispatcher {
    facts.plan.as_mut().and_then(|plan| plan.dispatcher.as_mut()).expect("it is configured")
}

type Plant = fn(&mut Facts);

#[test]
fn one_thing_that_is_wrong_is_named_and_nothing_else() {
    assert_eq!(bad(&healthy()), []);
    let (warn, fail) = (Grade::Warn, Grade::Fail);
    let faults: [(&str, Grade, Plant); 66] = [
        ("kernel", fail, |f| f.host.kernel = Some("5.4.0".into())),
        ("kernel", warn, |f| f.host.kernel = Some("5.15.0-91-generic".into())),
        ("af_xdp", fail, |f| f.host.has_af_xdp = Some(false)),
        ("bpf_jit", warn, |f| f.host.jit = Some(0)),
        ("capabilities", fail, |f| f.host.missing = Some(vec!["CAP_BPF".into(), "CAP_PERFMON".into()])),
        ("capabilities", warn, |f| f.host.missing = Some(vec!["CAP_PERFMON".into()])),
        ("memlock", fail, |f| f.host.memory_lock = Some((64 << 10, false))),
        ("bpf_fs", warn, |f| f.host.has_bpf_fs = Some(false)),
        ("clock_source", warn, |f| f.host.clock_source = Some("hpet".into())),
        ("clock", warn, |f| f.host.behind_s = Some(60)),
        ("bpf_stats", warn, |f| f.host.bpf_stats = Some(1)),
        ("state_file", fail, |f| f.host.state_dir = Some("/x is no directory".into())),
        ("irqbalance", warn, |f| f.host.irqbalance = Some(true)),
        ("governor", warn, |f| _ = f.cores.governor.insert(2, "powersave".into())),
        ("c_states", warn, |f| _ = f.cores.idle_us.insert(0, 133)),
        ("smt", warn, |f| _ = f.cores.siblings.insert(3, vec![2, 3])),
        ("isolated_cores", warn, |f| f.cores.isolated.clear()),
        ("numa", warn, |f| nic(f).device.near_cores = vec![0, 1]),
        ("irq_affinity", warn, |f| _ = nic(f).interrupts.insert(41, vec![3])),
        ("interface", fail, |f| (f.interfaces, f.no_interface) = (Vec::new(), vec!["it does not exist".into()])),
        ("link", fail, |f| nic(f).up = false),
        ("link", fail, |f| nic(f).carrier = Some(false)),
        ("master", fail, |f| nic(f).master = Some("br0".into())),
        ("mtu", fail, |f| nic(f).device.mtu = 9000),
        ("mtu", warn, |f| nic(f).device.mtu = 1400),
        ("queues", fail, |f| {
            (nic(f).device.queues, nic(f).device.receive_queues) = (4, 4);
            nic(f).spread_over = Some(vec![0, 1, 2, 3]);
        }),
        ("queues", fail, |f| nic(f).device.queues = 1),
        ("xdp", warn, |f| (settings(f).xdp, nic(f).gro) = (Some(Xdp::Generic), Some(false))),
        ("zero_copy", warn, |f| nic(f).features = Features::new(Some(0b0111))),
        ("xdp_program", fail, |f| nic(f).program = None),
        ("ring", warn, |f| nic(f).ring = Some((512, 8160))),
        ("rss", warn, |f| nic(f).spread_over = Some(vec![0])),
        ("flow_rules", warn, |f| nic(f).flow_rules = Some(2)),
        ("lro", fail, |f| nic(f).lro = Some(true)),
        ("vlan_stripping", warn, |f| nic(f).device.strips_vlan_tags = Some(true)),
        ("checksums", fail, |f| _ = heard(f).unfinished.insert(Mac([2; 6]), 5)),
        ("checksums", fail, |f| _ = heard(f).long.insert(Mac([2; 6]), 1)),
        ("redirects_seen", warn, |f| _ = heard(f).redirects.insert(Mac([2; 6]), 1)),
        ("cluster_address", fail, |f| f.network.held.push((address("203.0.113.80"), 32, "lo".into()))),
        ("ip_forward", warn, |f| f.network.ip_forward = Some(1)),
        ("send_redirects", warn, |f| f.network.settings.send_redirects = Some(1)),
        ("send_redirects", warn, |f| nic(f).settings.send_redirects = Some(1)),
        ("rp_filter", fail, |f| f.network.cluster_routes[0].1 = Some("eth0".into())),
        ("rp_filter", fail, |f| f.network.cluster_routes[0].1 = None),
        ("proxy_arp", warn, |f| nic(f).settings.proxy_arp = Some(1)),
        ("routes", fail, |f| off_link(f, Detour::NoRoute)),
        ("same_link", fail, |f| off_link(f, Detour::Device { device: "eth0".into() })),
        ("vlans", warn, |f| f.network.vlans.push(("web1".into(), Tags::Vlan(100), "eth1".into(), Vec::new()))),
        ("vlans", warn, |f| f.network.vlans.push(("web1".into(), Tags::Untagged, "eth1.7".into(), vec![7]))),
        ("neighbours", fail, |f| f.network.neighbours[1].mac = None),
        ("server_macs", fail, |f| f.network.neighbours[1].mac = Some(Mac([2, 0, 0, 0, 0, 1]))),
        ("neighbour_table", warn, |f| f.host.neighbours_most[0] = Some(3)),
        ("port_range", warn, |f| f.network.port_range = Some((1024, 65_535))),
        ("probe_rules", fail, |f| f.network.rules_before.push("ip rule del pref 0".into())),
        ("probe_rules", fail, |f| f.network.probe_rules = [0, 0]),
        ("probe_rules", fail, |f| f.network.routeless = 1),
        ("process", fail, |f| (f.running, f.no_answer) = (None, Some("it hangs".into()))),
        ("process", warn, |f| run(f).status.version = "0.0.1".into()),
        ("reload", warn, |f| run(f).reload = Some(Ok(vec!["service web: server web3 is new".into()]))),
        ("reload", fail, |f| run(f).reload = Some(Err("line 3 is wrong".into()))),
        ("workers", fail, |f| run(f).status.workers[1].turns = false),
        ("drops_no_service", warn, |f| _ = run(f).drops.insert("no_service".into(), 3)),
        ("drops_loop", fail, |f| _ = run(f).drops.insert("loop".into(), 3)),
        ("servers", warn, |f| server(f).state = State::Down),
        ("unchecked", warn, |f| {
            _ = server(f).check.as_mut().map(|check| check.unchecked = Some("a route is missing".into()))
        }),
        ("silent_servers", fail, |f| server(f).frames = 20),
    ];
    for (name, state, plant) in faults {
        let mut facts = healthy();
        plant(&mut facts);
        // A name may be told of twice: a MAC that two share, for one.
        let mut found = bad(&facts);
        found.dedup();
        assert_eq!(found, [(name.to_owned(), state)]);
    }
}

#[test]
fn for_each_reason_to_drop_frames_there_is_advice_of_its_own() {
    let mut told = BTreeSet::new();
    for reason in Reason::ALL {
        let mut facts = healthy();
        run(&mut facts).drops.insert(reason.name().to_owned(), 3);
        let found: Vec<Finding> = all(&facts).into_iter().filter(|f| f.name.starts_with("drops")).collect();
        let [finding] = &found[..] else { panic!("{reason}: {found:?}") };
        // Each server but one drops each frame of a broadcast.
        if reason == Reason::OtherServer {
            assert_eq!((&*finding.name, finding.state), ("drops", Grade::Ok));
            continue;
        }
        assert_eq!((&*finding.name, finding.state > Grade::Ok), (&*format!("drops_{reason}"), true));
        let what = format!("3 frames dropped within 1.0 s: {}; ", reason.help());
        let advice = finding.why.strip_prefix(&what).unwrap_or_else(|| panic!("{finding:?}"));
        assert!(advice.len() > 20 && told.insert(advice.to_owned()), "{reason}: {advice}");
    }
}

fn off_link(facts: &mut Facts, detour: Detour) {
    facts.network.neighbours.pop();
    facts.network.off_link.push(OffLink {
        name: "web2".into(),
        address: address("192.0.2.12"),
        interface: "eth1".into(),
        detour,
    });
}

#[test]
fn the_other_engines_have_checks_of_their_own() {
    let of = |engine: Engine, plant: Plant| {
        let mut facts = healthy();
        settings(&mut facts).engine = engine;
        run(&mut facts).status.engine = Some("xdp".into());
        plant(&mut facts);
        bad(&facts).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(of(Engine::Xdp, |_| {}), [""; 0]);
    assert_eq!(
        of(Engine::Xdp, |f| nic(f).interrupts = BTreeMap::from([(40, vec![0]), (41, vec![0])])),
        ["irq_affinity"]
    );
    let veth = |f: &mut Facts| (nic(f).device.driver, nic(f).features) = ("veth".into(), Features::new(Some(0b0011)));
    assert_eq!(of(Engine::Xdp, veth), ["xdp_transmit"]);
    assert_eq!(of(Engine::Xdp, |f| nic(f).features = Features::new(Some(0))), ["xdp", "gro"]);
    assert_eq!(of(Engine::Dpdk, |f| f.host.huge_pages = Some(0)), ["huge_pages"]);
}

type PlantAt = fn(&mut Interface);

/// With a second interface, to which everything that can be wrong with one is done in turn.
#[test]
fn of_several_interfaces_the_one_that_is_wrong_is_named() {
    let two = || {
        let mut facts = healthy();
        settings(&mut facts).others = vec!["eth2".into()];
        let mut second = nic(&mut facts).clone();
        (second.device.interface, second.device.index, second.device.mac) = ("eth2".into(), 4, Mac([2, 0, 0, 0, 0, 3]));
        facts.interfaces.push(second);
        facts.network.neighbours[1].device = "eth2".into();
        facts.network.settings.rp_filter = Some(2);
        facts
    };
    assert_eq!(bad(&two()), []);
    let faults: [(&str, PlantAt); 13] = [
        ("link", |i| i.up = false),
        ("master", |i| i.master = Some("br0".into())),
        ("mtu", |i| i.device.mtu = 1400),
        ("queues", |i| i.device.queues = 1),
        ("zero_copy", |i| i.features = Features::new(Some(0b0111))),
        ("xdp_program", |i| i.program = None),
        ("ring", |i| i.ring = Some((512, 8160))),
        ("lro", |i| i.lro = Some(true)),
        ("vlan_stripping", |i| i.device.strips_vlan_tags = Some(true)),
        ("numa", |i| i.device.near_cores = vec![0, 1]),
        ("irq_affinity", |i| _ = i.interrupts.insert(41, vec![3])),
        ("send_redirects", |i| i.settings.send_redirects = Some(1)),
        ("checksums", |i| _ = i.heard.as_mut().expect("heard").long.insert(Mac([2; 6]), 1)),
    ];
    for (name, plant) in faults {
        let mut facts = two();
        plant(&mut facts.interfaces[1]);
        let found: Vec<_> = all(&facts).into_iter().filter(|finding| finding.state > Grade::Ok).collect();
        let [found] = &found[..] else { panic!("{name}: {found:?}") };
        assert!(found.name == name && found.why.contains("eth2") && !found.why.contains("eth1"), "{found:?}");
    }
    // Answers of the servers behind the second one come in there, and clients by the first one.
    let mut facts = two();
    facts.network.settings.rp_filter = Some(1);
    assert_eq!(bad(&facts), [("rp_filter".to_owned(), Grade::Fail)]);
    let mut facts = two();
    facts.network.neighbours[1].mac = Some(Mac([2, 0, 0, 0, 0, 3]));
    let found = all(&facts).into_iter().find(|finding| finding.name == "server_macs").expect("it is checked");
    assert_eq!(found.fix.as_deref(), Some("ip neigh del 192.0.2.12 dev eth2"));
    let mut facts = two();
    _ = facts.interfaces.pop();
    facts.no_interface.push("eth2 does not exist".into());
    assert_eq!(bad(&facts), [("interface".to_owned(), Grade::Fail)]);
}

/// A DPDK port need not be an interface of the kernel's.
#[test]
fn workers_that_run_are_looked_at_without_an_interface() {
    let mut facts = healthy();
    settings(&mut facts).engine = Engine::Dpdk;
    run(&mut facts).status.engine = Some("dpdk".into());
    facts.interfaces.clear();
    assert_eq!(bad(&facts), []);
    facts.cores.isolated.clear();
    assert_eq!(bad(&facts), [("isolated_cores".to_owned(), Grade::Warn)]);
}

#[test]
fn the_command_for_a_process_on_a_server_names_its_unit() {
    let fix = |mode: &str| {
        let mut facts = healthy();
        (run(&mut facts).status.mode, run(&mut facts).trouble) = (mode.into(), Some("it is off".into()));
        let found = on_server(&facts).into_iter().find(|finding| finding.name == "filter");
        found.map(|finding| finding.fix)
    };
    assert_eq!(fix("filter"), Some(Some("systemctl restart oneip-filter".into())));
    assert_eq!((fix("decap"), fix("dispatcher")), (Some(None), None));
}

#[test]
fn what_is_not_known_is_not_judged() {
    assert_eq!(bad(&Facts::default()), []);
    let plan = healthy().plan;
    assert_eq!(bad(&Facts { plan, ..Facts::default() }), []);
}

#[test]
fn of_a_dispatcher_that_was_killed_rules_are_left_and_a_foreign_program_is_in_the_way() {
    let mut facts = healthy();
    facts.running = None;
    assert_eq!(bad(&facts), [("probe_rules".to_owned(), Grade::Warn)]);
    facts.network.probe_rules = [0, 0];
    assert_eq!(bad(&facts), [("probe_rules".to_owned(), Grade::Warn)], "somebody removed the rules alone");
    facts.network.probe_routes = 0;
    assert_eq!(bad(&facts), []);
    nic(&mut facts).program_is_ours = false;
    assert_eq!(bad(&facts), [("xdp_program".to_owned(), Grade::Fail)]);
}

#[test]
fn of_thousands_of_services_that_nobody_checks_a_few_are_named() {
    let service = |at: usize| {
        format!(
            "[[service]]\nname = 's{at}'\naddress = '198.18.{}.{}'\n\
             [[service.server]]\nname = 'a{at}'\naddress = '10.1.{0}.{1}'\n[[service.server]]\nname = 'b{at}'\naddress = '10.2.{0}.{1}'\n",
            at >> 8,
            at & 255
        )
    };
    let text = CONFIG.split("[[service]]").take(1).map(str::to_owned).chain((0..2000).map(service)).collect::<String>();
    let facts = Facts { plan: Some(config::parse(&text, "cluster.toml").expect("it is right").plan), ..healthy() };
    let findings = all(&facts);
    let health = findings.iter().find(|finding| finding.name == "health").expect("nobody checks them");
    assert!(health.why.contains("s10, s11 and 1988 more: a server that fails"), "{}", health.why);
}
