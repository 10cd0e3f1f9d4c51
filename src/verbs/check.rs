//! `oneip check`: the plan that a configuration comes to.

use crate::admin::status::Status;
use crate::ctl::client::{self, Client};
use crate::engine::filter::takeover;
use crate::error::Failure;
use crate::host::cores;
use crate::host::share::Share;
use crate::model::{
    Admin, Announce, Deliver, Dispatcher, Engine, Group, GroupHealth, HashInput, Health, Plan, Selection, Service, Via,
};
use crate::table::ServiceId;
use crate::table::build::Cluster;
use crate::xdp::Device;
use comfy_table::presets;
use comfy_table::{CellAlignment, Table};
use std::fmt::Write;
use std::path::{self, Path};

/// Services, servers, shares, and which queue goes to which core.
pub fn plan(plan: &Plan, cluster: &Cluster) -> String {
    let mut text = String::new();
    for (id, service) in plan.services.iter().enumerate() {
        let _ = writeln!(text, "{}\n{}\n", heading(service), servers(service, &cluster.shares(id as ServiceId)));
        if let Some(health) = &service.health {
            // From a server the cluster address is this very host: a filter probes the primary ones.
            let from_server = plan.filter.is_some() && plan.dispatcher.is_none();
            let via = if from_server { Via::Primary } else { health.via };
            let asked = match service.addresses()[..] {
                [address] if address.is_host() => String::new(),
                _ if via == Via::Service => format!(", to {}", service.address),
                _ => String::new(),
            };
            let _ = writeln!(text, "  health: {}{asked}", Health { via, ..health.clone() });
        }
        if let Some(limit) = &service.limit {
            let _ = writeln!(text, "  limit: {limit}");
        }
        for config in &service.quic {
            let _ = writeln!(text, "  quic: {config}");
        }
        let _ = writeln!(text, "  a change keeps connections where they are for {} s\n", service.drain.as_secs());
    }
    if let Some(odd) = &plan.odd_limit {
        let _ = writeln!(text, "fragments, ICMP, options and extension headers\n  limit: {odd}\n");
    }
    if plan.dispatcher.is_none() && plan.filter.is_none() {
        return text
            + "no [dispatcher] and no [filter]: enough for lookup and replay; `oneip run` or `oneip filter` needs one\n";
    }
    text += &admin(&plan.admin);
    if let Some(filter) = &plan.filter {
        let (hold, first) = (takeover::hold(plan).as_millis(), takeover::first_hold(plan).as_millis());
        let _ = writeln!(
            text,
            "filter on interface {}: takes over clients {hold} ms after other servers give them up, and {first} ms \
             after it starts",
            filter.interface
        );
    }
    if let (Some(settings), true) = (&plan.announce, plan.dispatcher.is_some()) {
        text += &announce(settings);
    }
    plan.group.iter().for_each(|settings| text += &group(settings));
    text + &plan.dispatcher.as_ref().map_or(String::new(), queues)
}

/// What is legal, but not on this machine.
pub fn warnings(plan: &Plan) -> Vec<String> {
    let lists = plan.dispatcher.iter().flat_map(|dispatcher| {
        dispatcher.queues.first().and_then(|queues| queues.cores.as_ref()).or(dispatcher.cores.as_ref())
    });
    let listed = lists.flatten();
    let available = cores::available();
    let missing: Vec<usize> = listed.copied().filter(|core| !available.contains(core)).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let (missing, available) = (cores::list(&missing), cores::list(&available));
    vec![format!("`cores` lists {missing}; on this machine `run` would be refused: it may use {available}")]
}

/// What a reload would change in the process that runs by this file. `None`: there is none here that would tell us.
pub fn against_running(plan: &Plan, config: &Path) -> Option<String> {
    let client = Client::new(plan.admin.socket.clone()).ok()?;
    let status: Status = client::read(client.status().ok()?).ok()?;
    if path::absolute(config).ok()? != Path::new(&status.config) {
        return None;
    }
    let lines = client.rehearse_reload()?;
    let lines = lines.unwrap_or_else(|error| vec![format!("a reload would be refused: {error}")]);
    let lines: String = lines.iter().flat_map(|text| text.lines()).map(|line| format!("  {line}\n")).collect();
    Some(format!("compared with process {}, which runs with this file:\n{lines}", status.pid))
}

fn admin(Admin { socket, metrics, web, state, .. }: &Admin) -> String {
    let metrics = metrics.map_or("no metrics over TCP".to_owned(), |address| format!("http://{address}/metrics"));
    let page = web.map_or(String::new(), |address| format!(", page http://{address}/"));
    format!("admin: socket {}, {metrics}{page}, state in {}\n", socket.display(), state.display())
}

fn group(Group { name, member, etcd, user, identity, health, .. }: &Group) -> String {
    let by = match (identity, user) {
        (Some(_), Some((user, _))) => format!(", with a certificate and as user {user}"),
        (Some(_), None) => ", with a certificate".to_owned(),
        (None, Some((user, _))) => format!(", as user {user}"),
        (None, None) => String::new(),
    };
    let health = match health {
        GroupHealth::Own => "each member's own".to_owned(),
        GroupHealth::Shared { check_by: None } => "shared, and all members check all servers".to_owned(),
        GroupHealth::Shared { check_by: Some(count) } => format!("shared, and {count} members check a server"),
    };
    format!("group: {name}, this one is {member}; etcd at {}{by}; health is {health}\n", etcd.join(", "))
}

fn announce(Announce { table, min_up, hold_down, linger, hold }: &Announce) -> String {
    format!(
        "announce: routes in table {table}; needs {min_up} up; announced again after {} ms; withdrawn {} ms before a \
         stop, and {} s after a crash\n",
        hold_down.as_millis(),
        linger.as_millis(),
        hold.as_secs()
    )
}

/// Which core each worker would run on, as far as this machine tells. The configuration may be for another one, so
/// nothing here is an error.
fn queues(dispatcher: &Dispatcher) -> String {
    let Dispatcher { interface, engine, flows, .. } = dispatcher;
    if *engine == Engine::Dpdk {
        return dpdk(dispatcher);
    }
    let names = dispatcher.interfaces().collect::<Vec<_>>();
    let is_one = names.len() == 1;
    if *engine == Engine::Xdp && !is_one {
        return format!(
            "interfaces {}, by the program in the kernel; {flows} flows are remembered a queue through a change\n",
            names.join(", ")
        );
    }
    let (share, cores) = match assigned(dispatcher) {
        Ok(assigned) => assigned,
        Err(reason) => return format!("queues and cores: not possible on this machine: {reason}\n"),
    };
    let mut text = match is_one {
        true => format!("interface {interface}, AF_XDP; a worker remembers {flows} flows through a change\n"),
        false => {
            format!("interfaces {}, AF_XDP; {flows} flows are remembered a queue through a change\n", names.join(", "))
        }
    };
    for (worker, (queues, core)) in share.workers.iter().zip(&cores).enumerate() {
        let named = |(at, queue): &(usize, u32)| format!("queue {queue} of {}", names[*at]);
        let _ = match &queues[..] {
            [(_, queue)] => writeln!(text, "  queue {queue} -> core {core}"),
            queues => {
                let queues: Vec<String> = queues.iter().map(named).collect();
                writeln!(text, "  worker {worker}: {} -> core {core}", queues.join(", "))
            }
        };
    }
    text
}

/// What workers of this machine's interfaces would serve, and on which cores.
fn assigned(dispatcher: &Dispatcher) -> Result<(Share, Vec<usize>), Failure> {
    let devices = dispatcher.interfaces().map(Device::read).collect::<Result<Vec<_>, _>>()?;
    let queues: Vec<u32> = devices.iter().map(|device| device.queues).collect();
    let share = Share::new(dispatcher, &queues)?;
    let cores = share.assign(dispatcher.cores.as_deref(), &devices[0].near_cores, &cores::available())?;
    Ok((share, cores))
}

#[cfg(not(feature = "dpdk"))]
fn dpdk(_dispatcher: &Dispatcher) -> String {
    format!("engine dpdk: {}\n", crate::port::NO_DPDK)
}

/// What can be told without starting DPDK, which takes a device from whoever has it.
#[cfg(feature = "dpdk")]
fn dpdk(dispatcher: &Dispatcher) -> String {
    use crate::port::dpdk;
    let Some(settings) = &dispatcher.dpdk else { return String::new() };
    let (queues, listed) = (usize::from(settings.queues), dispatcher.cores.as_deref());
    let interfaces: Vec<&str> = dispatcher.interfaces().collect();
    let mut text = format!("{}\n{}", dpdk::version(), dpdk::outlook(settings, &interfaces));
    let first = &settings.ports[0];
    match cores::assign(first, queues, listed, &dpdk::near_cores(first), &cores::available()) {
        Ok(cores) => cores.iter().enumerate().for_each(|(queue, core)| {
            let _ = writeln!(text, "  queue {queue} -> core {core}");
        }),
        Err(reason) => _ = writeln!(text, "queues and cores: not possible on this machine: {reason}"),
    }
    text
}

/// A service in a line.
pub fn heading(service: &Service) -> String {
    let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
    let ports = if ports.is_empty() { "every protocol and port".to_owned() } else { ports.join(" ") };
    let rule = match (service.selection, service.hash) {
        (Selection::Modulo, _) => "client address modulo the number of servers".to_owned(),
        (Selection::Maglev, HashInput::Source) => format!("maglev over the source, {} slots", service.slots),
        (Selection::Maglev, HashInput::Flow) => format!("maglev over the flow, {} slots", service.slots),
    };
    let deliver = if service.deliver == Deliver::L2 { String::new() } else { format!("; by {}", service.deliver) };
    format!("service {}: {} {ports}; {rule}{deliver}", service.name, service.addresses_text())
}

fn servers(service: &Service, shares: &[u32]) -> String {
    let mut table = Table::new();
    let quic = if service.quic.is_empty() { None } else { Some("quic id") };
    let vlan = service.servers.iter().any(|server| !server.tags.are_as_received()).then_some("vlan");
    let header = ["  server", "address", "mac", "weight", "slots", "share"].into_iter().chain(vlan).chain(quic);
    table.load_style(presets::NOTHING).set_header(header);
    for at in 3..6 {
        table.column_mut(at).expect("six columns").set_cell_alignment(CellAlignment::Right);
    }
    let from = if service.deliver.is_routed() { "by the route" } else { "from the neighbour table" };
    for (server, slots) in service.servers.iter().zip(shares) {
        let row = [
            format!("  {}", server.name),
            server.address.to_string(),
            server.mac.map_or_else(|| from.to_owned(), |mac| mac.to_string()),
            server.weight.to_string(),
            slots.to_string(),
            format!("{:.3} %", 100.0 * *slots as f64 / service.slots as f64),
        ];
        let vlan = vlan.map(|_| server.tags.to_string());
        table.add_row(row.into_iter().chain(vlan).chain(quic.map(|_| server.quic_ids_text())));
    }
    table.trim_fmt()
}
