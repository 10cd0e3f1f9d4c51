//! `oneip check`: the plan that a configuration comes to.

use crate::plan::{HashInput, Plan, Selection, Service};
use crate::table::ServiceId;
use crate::table::cluster::Cluster;
use comfy_table::presets;
use comfy_table::{CellAlignment, Table};
use std::fmt::Write;

/// Services, servers, shares, and which queue goes to which core.
pub fn plan(plan: &Plan, cluster: &Cluster, cores: &str) -> String {
    let mut text = String::new();
    for (id, service) in plan.services.iter().enumerate() {
        let _ = writeln!(text, "{}\n{}\n", heading(service), servers(service, &cluster.shares(id as ServiceId)));
        if let Some(health) = &service.health {
            let _ = writeln!(text, "  health: {health}\n");
        }
    }
    text + cores
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
    format!("service {}: {} {ports}; {rule}", service.name, service.address)
}

fn servers(service: &Service, shares: &[u32]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["  server", "address", "mac", "weight", "slots", "share"]);
    for at in 3..6 {
        table.column_mut(at).expect("six columns").set_cell_alignment(CellAlignment::Right);
    }
    for (server, slots) in service.servers.iter().zip(shares) {
        table.add_row([
            format!("  {}", server.name),
            server.address.to_string(),
            server.mac.map_or("from the neighbour table".to_owned(), |mac| mac.to_string()),
            server.weight.to_string(),
            slots.to_string(),
            format!("{:.3} %", 100.0 * *slots as f64 / service.slots as f64),
        ]);
    }
    table.trim_fmt()
}
