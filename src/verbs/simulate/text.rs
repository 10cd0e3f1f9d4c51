//! A report for people.

use super::census::{Form, Origin, Stray};
use super::clients::Load;
use super::dispatchers::{Disagreement, Dispatchers};
use super::report::{Compared, Effect, Extent, Peak, Report, Summary};
use crate::ctl::table;
use crate::ctl::units::percent;
use comfy_table::Table;
use std::fmt::{self, Display, Formatter};

/// What the last table means.
const NOTES: &str = "
moved: the share of all clients that move, on average. others': of the clients of servers that stay, the share that moves to another of
these servers, at worst. peak: the highest ratio of a server's requests to the mean by weight after the change, at worst.
oneip: this configuration; modulo: address modulo the number of servers, without weights; maglev: a new Maglev table for each change;
rendezvous: the server with the highest hash of the client.";

/// What the table of dispatchers means.
const DISAGREED: &str = "
down for one: one dispatcher finds the server down; the share of all flows that get another server there. A connection that moves to
another dispatcher meanwhile breaks.
draining: the share of all flows that are new, and that only their own dispatcher remembers until the drain ends. A connection that
moves to another dispatcher meanwhile breaks.";

/// Rows of a table; of more servers only so many are shown.
const ROWS: usize = 24;

/// Receivers that are named with their clients.
const RECEIVERS: usize = 3;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "service {}: {}", self.service, origin(&self.source, self.total))?;
        if self.foreign.clients > 0 {
            let Load { clients, requests } = self.foreign;
            writeln!(f, "ignored: {requests} requests of {clients} clients of the other address family")?;
        }
        writeln!(f)?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "- {finding}"))?;
        section(f, "Clients per server", &servers(self), self.servers.len())?;
        let Peak { clients, requests } = self.peak_to_mean;
        writeln!(f, "\npeak to mean, by weight: {clients:.3} of clients, {requests:.3} of requests")?;
        // Where each makes one request, no client is heavy.
        if self.total.requests > self.total.clients {
            section(f, "The heaviest clients", &heaviest(self), 0)?;
            writeln!(f, "\ntogether {} of the requests", percent(self.heaviest_share))?;
        }
        section(f, "When a server fails", &effects(&self.failures), self.failures.len())?;
        writeln!(f, "\nA drain moves {}.", drains(self))?;
        if let Some(pair) = &self.schemes[0].pair {
            writeln!(f, "\nWhen two servers fail ({}): {}.", pairs(self), summarised(pair))?;
        }
        if let Some(added) = &self.added {
            section(f, "When a server is added", &effects(std::slice::from_ref(added)), 1)?;
        }
        if let Some(dispatchers) = &self.dispatchers {
            several(f, dispatchers)?;
        }
        section(f, "Comparison", &compared(&self.schemes), 0)?;
        write!(f, "{NOTES}")
    }
}

fn section(f: &mut Formatter<'_>, title: &str, table: &Table, of: usize) -> fmt::Result {
    write!(f, "\n{title}\n\n{}", table.trim_fmt())?;
    if of > ROWS {
        write!(f, "\n... {ROWS} of {of}, those with most clients; --json shows all")?;
    }
    writeln!(f)
}

fn origin(origin: &Origin, total: Load) -> String {
    let Origin { file, form, records, without_client, first_without_client } = origin;
    let Load { clients, requests } = total;
    let (form, unit, what) = match form {
        Form::Log => ("access log", "lines", "requests"),
        Form::List => ("list of addresses", "lines", "requests"),
        Form::Capture => ("capture", "frames", "frames"),
    };
    let lost = match (without_client, first_without_client) {
        (0, _) => String::new(),
        (count, Some(Stray { line, text })) => {
            format!("; {count} without a client's address, first line {line}: `{text}`")
        }
        (count, None) => format!("; {count} not for the service"),
    };
    format!("{requests} {what} of {clients} clients, from {file}, {form} of {records} {unit}{lost}")
}

fn servers(report: &Report) -> Table {
    let titles = ["server", "weight", "ideal", "clients", "share", "requests", "share", "x ideal"];
    let mut table = table::new(titles, 1..8);
    for server in most(&report.servers, |server| server.clients) {
        let times = match server.ideal_share {
            0.0 => String::new(),
            ideal => format!("{:.3}", server.requests_share / ideal),
        };
        table.add_row([
            server.server.clone(),
            server.weight.to_string(),
            percent(server.ideal_share),
            server.clients.to_string(),
            percent(server.clients_share),
            server.requests.to_string(),
            percent(server.requests_share),
            times,
        ]);
    }
    table
}

/// Those that are shown: all, or the first by that measure.
fn most<T>(rows: &[T], measure: impl Fn(&T) -> u64) -> Vec<&T> {
    let mut rows: Vec<&T> = rows.iter().collect();
    if rows.len() > ROWS {
        rows.sort_by_key(|row| std::cmp::Reverse(measure(row)));
        rows.truncate(ROWS);
    }
    rows
}

fn heaviest(report: &Report) -> Table {
    let mut table = table::new(["client", "requests", "share", "server"], 1..3);
    for heavy in &report.heaviest {
        let (client, requests) = (heavy.client.to_string(), heavy.requests.to_string());
        table.add_row([client, requests, percent(heavy.share), heavy.server.clone()]);
    }
    table
}

fn effects(effects: &[Effect]) -> Table {
    let titles = ["server", "clients", "share", "requests", "share", "others'", "peak", "to"];
    let mut table = table::new(titles, 1..7);
    for effect in most(effects, |effect| effect.moved.clients) {
        table.add_row([
            effect.servers.join(" "),
            effect.moved.clients.to_string(),
            percent(effect.moved_share.clients),
            effect.moved.requests.to_string(),
            percent(effect.moved_share.requests),
            percent(effect.healthy_moved_share.clients),
            effect.peak_to_mean.map_or("-".to_owned(), |peak| format!("{:.3}", peak.requests)),
            receivers(effect),
        ]);
    }
    table
}

/// Who got the clients.
fn receivers(effect: &Effect) -> String {
    if effect.nobody.clients > 0 {
        return "no server".to_owned();
    }
    let named = effect.to.iter().take(RECEIVERS).map(|to| format!("{} {}", to.server, to.load.clients));
    let named: Vec<String> = named.collect();
    match effect.receivers - named.len() {
        0 => named.join(", "),
        more => format!("{}, and {more} more", named.join(", ")),
    }
}

fn drains(report: &Report) -> String {
    let same = report
        .failures
        .iter()
        .zip(&report.drains)
        .all(|(failure, drain)| (failure.moved, failure.healthy_moved) == (drain.moved, drain.healthy_moved));
    match same {
        true => "the same clients as a failure, but only their new connections".to_owned(),
        false => "different clients from a failure, see --json".to_owned(),
    }
}

fn pairs(report: &Report) -> String {
    match (report.pairs.each.len(), report.pairs.of) {
        (1, 1) => "one pair".to_owned(),
        (tried, of) if tried == of => format!("all {of} pairs"),
        (tried, of) => format!("{tried} of {of} pairs"),
    }
}

fn summarised(summary: &Summary) -> String {
    let Extent { mean, worst, worst_servers } = &summary.moved_share;
    let peak = match &summary.peak_to_mean {
        Some(peak) => format!(
            "; peak to mean of requests {:.3}, at worst {:.3} ({})",
            peak.mean,
            peak.worst,
            peak.worst_servers.join(" and ")
        ),
        None => "; then no server is left".to_owned(),
    };
    format!(
        "{} of the clients move, at worst {} ({}), and {} of the other servers' clients{peak}",
        percent(*mean),
        percent(*worst),
        worst_servers.join(" and "),
        percent(summary.healthy_moved_share.worst),
    )
}

fn compared(schemes: &[Compared]) -> Table {
    let titles = [
        "",
        "peak",
        "one fails: moved",
        "others'",
        "peak",
        "two fail: moved",
        "others'",
        "peak",
        "one added: moved",
        "others'",
    ];
    let mut table = table::new(titles, 1..10);
    for scheme in schemes {
        let mut row = vec![scheme.scheme.to_owned(), format!("{:.3}", scheme.peak_to_mean.requests)];
        for (summary, with_peak) in [(&scheme.failure, true), (&scheme.pair, true), (&scheme.added, false)] {
            row.extend(cells(summary.as_ref(), with_peak));
        }
        table.add_row(row);
    }
    table
}

fn cells(summary: Option<&Summary>, with_peak: bool) -> Vec<String> {
    let Some(summary) = summary else { return vec!["-".to_owned(); 2 + usize::from(with_peak)] };
    let mut cells = vec![percent(summary.moved_share.mean), percent(summary.healthy_moved_share.worst)];
    if with_peak {
        cells.push(summary.peak_to_mean.as_ref().map_or("-".to_owned(), |peak| format!("{:.3}", peak.worst)));
    }
    cells
}

fn several(f: &mut Formatter<'_>, dispatchers: &Dispatchers) -> fmt::Result {
    let Dispatchers { count, shares, deaths, another_key, servers } = dispatchers;
    let mut died = table::new(["router", "reach another dispatcher", "without need", "get another server"], 1..4);
    for death in deaths {
        let row = [death.moved, death.needlessly, death.another_server].map(percent);
        died.add_row([vec![death.ecmp.to_owned()], row.to_vec()].concat());
    }
    section(f, &format!("When one of {count} dispatchers fails"), &died, 0)?;
    let (least, most) = (shares.iter().copied().fold(1.0, f64::min), shares.iter().copied().fold(0.0, f64::max));
    writeln!(f, "\nShares are of all flows. Each dispatcher gets {} to {} of them.", percent(least), percent(most))?;
    let mut disagreed = table::new(["server", "down for one", "draining: to remember"], 1..3);
    for server in self::most(servers, |server: &Disagreement| (server.one_sees_it_down * 1e9) as u64) {
        let row = [server.one_sees_it_down, server.remembered_while_it_drains].map(percent);
        disagreed.add_row([vec![server.server.clone()], row.to_vec()].concat());
    }
    section(f, "When dispatchers disagree", &disagreed, servers.len())?;
    writeln!(
        f,
        "{DISAGREED}\none dispatcher has another hash_key: {} of the flows get another server",
        percent(*another_key)
    )
}
