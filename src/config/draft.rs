//! Every key of the file, read: what is legal by itself. What is not is reported and absent.

use super::deliver::{self, DeliverDraft};
use super::dpdk::{DpdkDraft, MTUS};
use super::health::HealthDraft;
use super::interfaces::InterfacesDraft;
use super::limit;
use super::lists::ListDraft;
use super::quic::{self, QuicDraft};
use super::report::Report;
use super::schema;
use super::section::{At, Section, text_element};
use super::{group, key, value};
use crate::limits::{
    DEFAULT_DRAIN_S, DEFAULT_FLOWS, DEFAULT_HEARTBEAT_MS, DEFAULT_LIMIT_SOURCES, DEFAULT_SLOTS, HEARTBEAT_MS,
    LIMIT_SOURCES, MAX_ANNOUNCE_HOLD_S, MAX_ANNOUNCE_TABLE, MAX_DRAIN_S, MAX_FLOWS, MAX_HOLD_DOWN_MS, MAX_HOLD_MS,
    MAX_SERVERS, MAX_SERVICES, MAX_SLOTS, MAX_VLAN, MAX_WEIGHT, TUNNEL_SOURCES,
};
use crate::model::{
    Admin, Announce, Decap, Dispatcher, Engine, Filter, Group, HashInput, HashKey, Idle, Limit, Mac, OddLimit, PINS,
    Plan, Port, Prefix, Selection, Server, ServerId, Service, Tags, Xdp,
};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeTable;

pub struct Draft {
    hash_key: Option<HashKey>,
    pub dispatcher: Option<DispatcherDraft>,
    pub filter: Option<FilterDraft>,
    decap: Decap,
    admin: Admin,
    announce: Option<Announce>,
    /// `Some(None)`: it lacks something.
    group: Option<Option<Group>>,
    pub lists: Vec<ListDraft>,
    odd_limit: Option<OddLimit>,
    pub services: Vec<ServiceDraft>,
}

pub struct DispatcherDraft {
    interfaces: InterfacesDraft,
    /// `None` where none is given: `AfXdp`.
    pub engine: Option<At<Engine>>,
    idle: Idle,
    flows: u32,
    heartbeat: Duration,
    xdp: Option<Xdp>,
    pins: PathBuf,
    dpdk: Option<DpdkDraft>,
    /// `None` where the key is absent.
    pub source: Option<Vec<At<IpAddr>>>,
    mtu: Option<u32>,
    gateway_mac: Option<Mac>,
    limit_sources: u32,
}

pub struct FilterDraft {
    interface: Option<String>,
    hold: Option<Duration>,
    xdp: Option<Xdp>,
    pins: PathBuf,
    port: u16,
}

pub struct ServiceDraft {
    /// Where the section begins.
    pub at: usize,
    pub name: Option<At<String>>,
    /// Of the first of `addresses`: the one that a host may have.
    pub address: Option<At<IpAddr>>,
    /// What was readable of them.
    pub addresses: Vec<At<Prefix>>,
    /// `None` where the key is absent: every protocol and port.
    pub ports: Option<Vec<At<Port>>>,
    pub hash: Option<At<HashInput>>,
    pub deliver: DeliverDraft,
    pub selection: Selection,
    pub slots: Option<At<u32>>,
    drain_s: u32,
    until_closed: bool,
    pub second_chance: Option<At<bool>>,
    withdrawn: bool,
    pub servers: Vec<ServerDraft>,
    pub health: Option<HealthDraft>,
    limit: Option<Limit>,
    pub quic: Vec<QuicDraft>,
}

pub struct ServerDraft {
    pub name: Option<At<String>>,
    pub address: Option<At<IpAddr>>,
    pub mac: Option<At<Mac>>,
    pub weight: Option<At<u32>>,
    pub vlan: Option<At<u32>>,
    pub quic_ids: Vec<At<ServerId>>,
}

impl Draft {
    /// Reads the tree of a file; `base` is the directory that paths in it are relative to.
    pub fn read(tree: &DeTable, base: &Path, report: &mut Report) -> Draft {
        let root = Section::open(tree, 0, &schema::ROOT, report);
        let cluster = root.table("cluster", &schema::CLUSTER, report);
        let dispatcher = root.table("dispatcher", &schema::DISPATCHER, report);
        let filter = root.table("filter", &schema::FILTER, report);
        let decap = root.table("decap", &schema::DECAP, report);
        let admin = root.table("admin", &schema::ADMIN, report);
        let announce = root.table("announce", &schema::ANNOUNCE, report);
        let group = root.table("group", &schema::GROUP, report);
        let dpdk = root.table("dpdk", &schema::DPDK, report);
        let lists = ListDraft::read_all(&root, base, report);
        let limit = root.table("limit", &schema::CLUSTER_LIMIT, report);
        let services = root.tables("service", MAX_SERVICES, &schema::SERVICE, report);
        Draft {
            hash_key: cluster.and_then(|section| key::read(&section, base, report)),
            dispatcher: dispatcher.map(|section| DispatcherDraft::read(&section, dpdk.as_ref(), base, report)),
            filter: filter.map(|section| FilterDraft::read(&section, base, report)),
            decap: decap.map_or_else(Decap::default, |section| read_decap(&section, base, report)),
            admin: admin.map_or_else(Admin::default, |section| read_admin(&section, base, report)),
            announce: announce.map(|section| read_announce(&section, report)),
            group: group.map(|section| group::read(&section, base, report)),
            lists,
            odd_limit: limit.and_then(|section| read_odd_limit(&section, report)),
            services: services.iter().map(|section| ServiceDraft::read(section, base, report)).collect(),
        }
    }

    /// `None` where something is absent, which was reported.
    pub fn into_plan(self) -> Option<Plan> {
        Some(Plan {
            hash_key: self.hash_key?,
            dispatcher: match self.dispatcher {
                Some(draft) => Some(draft.into_dispatcher()?),
                None => None,
            },
            filter: match self.filter {
                Some(FilterDraft { interface, hold, xdp, pins, port }) => {
                    Some(Filter { interface: interface?, hold, xdp, pins, port })
                }
                None => None,
            },
            decap: self.decap,
            admin: self.admin,
            announce: self.announce,
            group: match self.group {
                Some(group) => Some(group?),
                None => None,
            },
            lists: self.lists.into_iter().map(|list| list.list).collect(),
            odd_limit: self.odd_limit,
            services: self.services.into_iter().map(ServiceDraft::into_service).collect::<Option<_>>()?,
        })
    }
}

fn read_odd_limit(section: &Section, report: &mut Report) -> Option<OddLimit> {
    let odd = section.table("odd", &schema::ODD, report);
    if odd.is_none() && section.key_at("odd").is_none() {
        let form = schema::CLUSTER_LIMIT.key("odd").form;
        report
            .missing(section.at, format!("[limit] is empty; write {form}, or [service.limit] for a service's limits"));
    }
    odd.map(|odd| limit::read_odd(&odd, report))
}

impl DispatcherDraft {
    fn read(section: &Section, dpdk: Option<&Section>, base: &Path, report: &mut Report) -> DispatcherDraft {
        let engine = section.text("engine", report, value::choice("engine", Engine::ALL));
        let asked = engine.map_or(Engine::AfXdp, |engine| engine.value);
        let interfaces = InterfacesDraft::read(section, asked, report);
        let dpdk = dpdk.map(|section| DpdkDraft::read(section, &interfaces, asked, report));
        if let Some(engine) = engine.filter(|engine| engine.value == Engine::Dpdk && dpdk.is_none()) {
            let form = schema::ROOT.key("dpdk").form;
            report.missing(engine.at, format!("engine = \"dpdk\" needs a device; write {form}"));
        }
        let idles = [("poll", Idle::Poll), ("sleep", Idle::Sleep)];
        let idle = section.text("idle", report, value::choice("idle", idles)).map(|idle| idle.value);
        let flows = section.integer("flows", 0..=MAX_FLOWS, report).map_or(DEFAULT_FLOWS, |flows| flows.value);
        let heartbeat_ms = section.integer("heartbeat_ms", HEARTBEAT_MS, report).map(|ms| ms.value);
        let heartbeat = Duration::from_millis(heartbeat_ms.unwrap_or(DEFAULT_HEARTBEAT_MS).into());
        let (xdp, pins) = (read_xdp(section, report), read_pins(section, base, report));
        let source = deliver::read_source(section, report);
        let mtu = section.integer("mtu", MTUS, report).map(|mtu| mtu.value);
        let gateway_mac = section.text("gateway_mac", report, value::mac).map(|mac| mac.value);
        let limit_sources = section.integer("limit_sources", LIMIT_SOURCES, report);
        let limit_sources = limit_sources.map_or(DEFAULT_LIMIT_SOURCES, |cells| cells.value);
        DispatcherDraft {
            interfaces,
            engine,
            idle: idle.unwrap_or_default(),
            flows,
            heartbeat,
            xdp,
            pins,
            dpdk,
            source,
            mtu,
            gateway_mac,
            limit_sources,
        }
    }

    fn into_dispatcher(self) -> Option<Dispatcher> {
        let dpdk = match self.dpdk {
            Some(draft) => Some(draft.into_dpdk()?),
            None => None,
        };
        let DispatcherDraft { interfaces, engine, idle, flows, heartbeat, .. } = self;
        let InterfacesDraft { names, queues, cores } = interfaces;
        let mut names = names.into_iter().map(|name| name.value);
        let DispatcherDraft { xdp, pins, source, mtu, gateway_mac, limit_sources, .. } = self;
        let source = source.into_iter().flatten().map(|source| source.value).collect();
        let engine = engine.map_or(Engine::AfXdp, |engine| engine.value);
        Some(Dispatcher {
            interface: names.next()?,
            others: names.collect(),
            queues,
            engine,
            cores,
            idle,
            flows,
            heartbeat,
            xdp,
            pins,
            dpdk,
            source,
            mtu,
            gateway_mac,
            limit_sources,
        })
    }
}

impl FilterDraft {
    fn read(section: &Section, base: &Path, report: &mut Report) -> FilterDraft {
        FilterDraft {
            xdp: read_xdp(section, report),
            pins: read_pins(section, base, report),
            port: section.integer("port", 1..=65_535, report).map_or(Filter::PORT, |port| port.value as u16),
            interface: section.text("interface", report, value::interface).map(|name| name.value),
            hold: section
                .integer("hold_ms", 0..=MAX_HOLD_MS, report)
                .map(|hold| Duration::from_millis(hold.value.into())),
        }
    }
}

fn read_decap(section: &Section, base: &Path, report: &mut Report) -> Decap {
    let form = "an address or a prefix, like \"192.0.2.2\" or \"2001:db8:2::/64\"";
    let empty = "`sources` is empty; leave the key out to accept tunnels from `source` of [dispatcher]";
    let sources =
        section.list("sources", report, empty, |source, report| text_element(source, report, form, value::prefix));
    let sources: Vec<At<Prefix>> = sources.unwrap_or_default();
    for is_v4 in [true, false] {
        if let Some(beyond) = sources.iter().filter(|source| source.address.is_ipv4() == is_v4).nth(TUNNEL_SOURCES) {
            report.error(
                beyond.at,
                format!(
                    "`sources` can have at most {TUNNEL_SOURCES} entries of one address family; write wider prefixes"
                ),
            );
        }
    }
    Decap {
        interface: section.text("interface", report, value::interface).map(|name| name.value),
        xdp: read_xdp(section, report),
        pins: read_pins(section, base, report),
        sources: sources.into_iter().map(|source| source.value).collect(),
    }
}

fn read_xdp(section: &Section, report: &mut Report) -> Option<Xdp> {
    let places = [("native", Xdp::Native), ("generic", Xdp::Generic)];
    section.text("xdp", report, value::choice("xdp", places)).map(|xdp| xdp.value)
}

fn read_pins(section: &Section, base: &Path, report: &mut Report) -> PathBuf {
    let pins = section.text("pins", report, |text| value::file(text.trim_end_matches('/'), PINS, base));
    pins.map_or_else(|| PINS.into(), |pins| pins.value)
}

/// What is not legal is reported and the default stands in its place.
fn read_admin(section: &Section, base: &Path, report: &mut Report) -> Admin {
    let socket = section.text("socket", report, |text| value::socket(text, base));
    let [metrics, web] = ["metrics", "web"].map(|key| section.text(key, report, value::listener));
    let state = section.text("state", report, |text| value::file(text, "/var/lib/oneip/oneip.json", base));
    let Admin { socket: default, .. } = Admin::default();
    let socket_given = socket.is_some();
    let socket = socket.map_or(default, |socket| socket.value);
    let state = state.map_or_else(|| Admin::state_of(&socket), |state| state.value);
    let [metrics, web] = [metrics, web].map(|listener| listener.map(|listener| listener.value));
    Admin { socket, socket_given, metrics, web, state }
}

fn read_announce(section: &Section, report: &mut Report) -> Announce {
    let mut read = |name, range, default| section.integer(name, range, report).map_or(default, |value| value.value);
    let table = read("table", 1..=MAX_ANNOUNCE_TABLE.into(), Announce::TABLE.into());
    Announce {
        table: u8::try_from(table).expect("at most MAX_ANNOUNCE_TABLE"),
        min_up: read("min_up", 0..=MAX_SERVERS as u32, Announce::MIN_UP),
        hold_down: Duration::from_millis(read("hold_down_ms", 0..=MAX_HOLD_DOWN_MS, Announce::HOLD_DOWN_MS).into()),
        linger: Duration::from_millis(read("linger_ms", 0..=MAX_HOLD_MS, Announce::LINGER_MS).into()),
        hold: Duration::from_secs(read("hold_s", 0..=MAX_ANNOUNCE_HOLD_S, Announce::HOLD_S).into()),
    }
}

impl ServiceDraft {
    fn read(section: &Section, base: &Path, report: &mut Report) -> ServiceDraft {
        let inputs = [("source", HashInput::Source), ("flow", HashInput::Flow)];
        let selections = [("maglev", Selection::Maglev), ("modulo", Selection::Modulo)];
        let announces = [("ready", false), ("drain", true)];
        let ends = [("time-limited", false), ("until-closed", true)];
        let selection = section.text("selection", report, value::choice("selection", selections));
        let no_ports = "`ports` is empty; leave the key out to take every protocol and port";
        let form = "a transport and port, like \"tcp/80\"";
        let no_address = "`address` is empty; write the cluster address, like \"203.0.113.80\"";
        let address_form = "an address or a prefix, like \"203.0.113.0/24\"";
        let addresses = match section.is_list("address") {
            true => section
                .list("address", report, no_address, |address, report| {
                    text_element(address, report, address_form, value::cluster_prefix)
                })
                .unwrap_or_default(),
            false => section.text("address", report, value::cluster_prefix).into_iter().collect(),
        };
        ServiceDraft {
            at: section.at,
            name: section.text("name", report, value::name),
            address: addresses.first().map(|first| At { at: first.at, value: first.first_host() }),
            addresses,
            ports: section
                .list("ports", report, no_ports, |port, report| text_element(port, report, form, value::port)),
            hash: section.text("hash", report, value::choice("hash", inputs)),
            deliver: DeliverDraft::read(section, report),
            selection: selection.map_or(Selection::Maglev, |selection| selection.value),
            slots: section.integer("slots", 1..=MAX_SLOTS, report),
            drain_s: section.integer("drain_s", 0..=MAX_DRAIN_S, report).map_or(DEFAULT_DRAIN_S, |s| s.value),
            until_closed: section.text("drain", report, value::choice("drain", ends)).is_some_and(|end| end.value),
            second_chance: section.boolean("second_chance", report),
            withdrawn: section
                .text("announce", report, value::choice("announce", announces))
                .is_some_and(|it| it.value),
            servers: section
                .tables("server", MAX_SERVERS, &schema::SERVER, report)
                .iter()
                .map(|server| ServerDraft::read(server, report))
                .collect(),
            health: section.table("health", &schema::HEALTH, report).map(|section| HealthDraft::read(&section, report)),
            limit: section.table("limit", &schema::LIMIT, report).map(|section| limit::read(&section, report)),
            quic: QuicDraft::read_all(section, base, report),
        }
    }

    /// How messages call the service.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("service \"{}\"", name.value),
            None => "a service".to_owned(),
        }
    }

    fn into_service(self) -> Option<Service> {
        let health = match &self.health {
            Some(health) => Some(health.to_health(&self)?),
            None => None,
        };
        let slots = self.slots.map_or(DEFAULT_SLOTS, |slots| slots.value);
        Some(Service {
            name: self.name?.value,
            address: self.health.as_ref().and_then(|health| health.address).or(self.address)?.value,
            prefixes: match &self.addresses[..] {
                [only] if only.is_host() => Vec::new(),
                addresses => addresses.iter().map(|address| address.value).collect(),
            },
            ports: self.ports.unwrap_or_default().into_iter().map(|port| port.value).collect(),
            hash: self.hash.map_or(HashInput::Source, |hash| hash.value),
            deliver: self.deliver.to_deliver(),
            selection: self.selection,
            slots,
            drain: Duration::from_secs(self.drain_s.into()),
            until_closed: self.until_closed,
            second_chance: self.second_chance.is_some_and(|it| it.value),
            servers: self.servers.into_iter().map(ServerDraft::into_server).collect::<Option<_>>()?,
            leaving: 0,
            health,
            withdrawn: self.withdrawn,
            limit: self.limit,
            quic: self.quic.into_iter().map(QuicDraft::into_config).collect::<Option<_>>()?,
        })
    }
}

impl ServerDraft {
    fn read(section: &Section, report: &mut Report) -> ServerDraft {
        ServerDraft {
            name: section.text("name", report, value::server_name),
            address: section.text("address", report, value::address),
            mac: section.text("mac", report, value::mac),
            weight: section.integer("weight", 0..=MAX_WEIGHT, report),
            vlan: section.integer("vlan", 0..=MAX_VLAN, report),
            quic_ids: quic::read_ids(section, report),
        }
    }

    /// 1 where none is given.
    pub fn weight(&self) -> u32 {
        self.weight.map_or(1, |weight| weight.value)
    }

    fn into_server(self) -> Option<Server> {
        let weight = self.weight();
        let mac = self.mac.map(|mac| mac.value);
        let tags = Tags::of_vlan(self.vlan.map(|vlan| vlan.value as u16));
        let quic_ids = self.quic_ids.into_iter().map(|id| id.value).collect();
        Some(Server { name: self.name?.value, address: self.address?.value, mac, weight, tags, quic_ids })
    }
}
