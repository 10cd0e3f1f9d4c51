//! `ctl stats`: rates, as a table.

use super::rates::{Rates, Sent};
use super::table;
use super::units::si;
use std::fmt::Write;

/// A line of all together, and one for each server.
pub fn text(rates: &Rates) -> String {
    let Rates { frames, forwarded, passed, .. } = rates;
    let mut text = format!(
        "in {}/s  forwarded {}/s  dropped {}/s  passed {}/s\n",
        si(*frames),
        si(*forwarded),
        si(rates.dropped_total()),
        si(*passed)
    );
    for (reason, rate) in &rates.dropped {
        let _ = writeln!(text, "  dropped {reason} {}/s", si(*rate));
    }
    let mut table = table::new(["  service", "server", "frames/s", "bytes/s", "new flows/s"], 2..5);
    for service in &rates.services {
        for server in &service.servers {
            table.add_row(row(&service.name, &server.name, server.sent));
        }
        if service.servers.len() > 1 {
            table.add_row(row(&service.name, "all", service.sum()));
        }
    }
    text + &table.trim_fmt() + "\n"
}

fn row(service: &str, server: &str, Sent { frames, bytes, flows }: Sent) -> [String; 5] {
    [format!("  {service}"), server.to_owned(), si(frames), si(bytes), si(flows)]
}
