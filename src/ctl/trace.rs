//! `ctl lookup` and `ctl trace`: where a client's frames go.

use super::table;
use super::units::{milliseconds, seconds};
use crate::admin::order::{Trace, TracedFrame, TracedService};
use std::fmt::Write;
use std::time::Duration;

/// A row a service.
pub fn lookup(trace: &Trace) -> String {
    if trace.services.is_empty() {
        return none(trace);
    }
    let mut table = table::new(["client", "service", "server", "slot", ""], 3..4);
    for TracedService { service, slot, server, keeps, .. } in &trace.services {
        let server = server.as_deref().unwrap_or("(no server is up)").to_owned();
        let keeps = keeps.as_ref().map_or(String::new(), |keeps| format!("connections begun before stay on {keeps}"));
        table.add_row([trace.client.to_string(), service.clone(), server, slot.to_string(), keeps]);
    }
    table.trim_fmt()
}

/// Everything that a trace says.
pub fn text(trace: &Trace, watched: Duration) -> String {
    if trace.services.is_empty() {
        return none(trace);
    }
    let mut text = format!("client {}\n", trace.client);
    for TracedService { service, hash, slot, server, keeps, order } in &trace.services {
        let server = server.as_deref().unwrap_or("nobody: no server is up");
        let _ = writeln!(text, "\nservice {service}: hash {hash}, slot {slot}");
        let _ = writeln!(text, "  new connections go to {server}");
        if let Some(keeps) = keeps {
            let _ = writeln!(text, "  connections begun before the change stay on {keeps}");
        }
        let _ = writeln!(text, "  failover order: {}", order.join(", "));
    }
    if watched.is_zero() {
        return text.trim_end().to_owned();
    }
    let watched = seconds(watched);
    match trace.frames.len() {
        0 => text + &format!("\nno frame of this client came within {watched}"),
        count => {
            let s = if count == 1 { "" } else { "s" };
            text + &format!("\n{count} frame{s} seen within {watched}\n") + &frames(&trace.frames)
        }
    }
}

fn none(trace: &Trace) -> String {
    let family = if trace.client.is_ipv4() { "IPv4" } else { "IPv6" };
    format!("{}: no service has an {family} address", trace.client)
}

fn frames(frames: &[TracedFrame]) -> String {
    let mut table = table::new(["  after", "worker", "bytes", "protocol", "verdict"], 0..3);
    for frame in frames {
        let TracedFrame { at_us, worker, bytes, protocol, verdict, service, server, reason } = frame;
        let to = match (service, server) {
            (Some(service), Some(server)) => format!(" to {server} ({service})"),
            (Some(service), None) => format!(" ({service})"),
            (None, _) => String::new(),
        };
        let why = reason.as_ref().map_or(String::new(), |reason| format!(", {reason}"));
        table.add_row([
            format!("  {}", milliseconds(*at_us as f64 / 1000.0)),
            worker.to_string(),
            bytes.to_string(),
            protocol.clone(),
            format!("{verdict}{to}{why}"),
        ]);
    }
    table.trim_fmt()
}
