//! What a run came to: the figures of all workers together, as a table for people and as JSON.

use super::source::{Counted, Counts, LimitedCounts, ListedCounts, OddCounts, SentCounts};
use crate::model::{Plan, Service};
use crate::verdict::Reason;
use comfy_table::presets;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::{Counter, Histogram};
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;

/// Frames in = forwarded + dropped + passed, exactly, once the workers have stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Frames in.
    pub frames: u64,
    pub forwarded: u64,
    pub passed: u64,
    /// By `Reason as usize`.
    pub dropped: [u64; Reason::COUNT],
    /// Frames beyond `[limit.odd]`.
    pub odd: OddCounts,
    /// In the order of the plan, then those that a reload removed; a server of several services once for each.
    pub servers: Vec<ServerSummary>,
    /// Likewise.
    pub services: Vec<ServiceSummary>,
    /// `None`: no frame had an arrival time.
    pub latency: Option<Percentiles>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSummary {
    /// Names are shared: of thousands of services, a snapshot is made several times a second.
    pub service: Arc<str>,
    pub server: Arc<str>,
    pub frames: u64,
    pub bytes: u64,
    /// TCP connections begun.
    pub flows: u64,
}

impl ServerSummary {
    /// Nothing yet.
    pub fn new(service: &Arc<str>, server: &str) -> ServerSummary {
        ServerSummary { service: Arc::clone(service), server: server.into(), frames: 0, bytes: 0, flows: 0 }
    }
}

/// Of one service, servers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSummary {
    pub service: Arc<str>,
    /// Frames dropped because a list has their source.
    pub denied: u64,
    /// Frames dispatched, though a list that only counts has their source.
    pub would_deny: u64,
    /// Frames beyond limits.
    pub limited: LimitedCounts,
}

impl ServiceSummary {
    /// Nothing yet.
    pub fn new(service: Arc<str>) -> ServiceSummary {
        ServiceSummary { service, denied: 0, would_deny: 0, limited: LimitedCounts::default() }
    }
}

/// Where the services and the destinations of a layout stand in a summary.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub services: Vec<usize>,
    pub servers: Vec<usize>,
}

impl Places {
    /// Of the layout that the summary was made for.
    pub fn of(summary: &Summary) -> Places {
        Places { services: (0..summary.services.len()).collect(), servers: (0..summary.servers.len()).collect() }
    }
}

/// Of a latency histogram, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Percentiles {
    /// `None`: the histogram is empty.
    pub fn of<C: Counter>(histogram: &Histogram<C>) -> Option<Percentiles> {
        (!histogram.is_empty()).then(|| Percentiles {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.50),
            p90: histogram.value_at_quantile(0.90),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        })
    }

    fn named(&self) -> [(&'static str, u64); 5] {
        [("p50", self.p50), ("p90", self.p90), ("p99", self.p99), ("p99.9", self.p999), ("max", self.max)]
    }
}

impl Summary {
    /// Nothing yet, for the servers of a plan.
    pub fn new(plan: &Plan) -> Summary {
        let services: Vec<Arc<str>> = plan.services.iter().map(|service| service.name.as_str().into()).collect();
        let of = |(service, name): (&Service, &Arc<str>)| -> Vec<ServerSummary> {
            service.servers.iter().map(|server| ServerSummary::new(name, &server.name)).collect()
        };
        Summary {
            servers: plan.services.iter().zip(&services).flat_map(of).collect(),
            services: services.into_iter().map(ServiceSummary::new).collect(),
            ..Summary::default()
        }
    }

    /// Adds counters.
    pub fn add(&mut self, counted: &(impl Counted + ?Sized), places: &Places) {
        assert_eq!(places.servers.len(), counted.destinations(), "the names are of another layout");
        for (service, at) in places.services.iter().enumerate() {
            let (ListedCounts { denied, would_deny }, sum) = (counted.listed(service), &mut self.services[*at]);
            sum.denied += denied;
            sum.would_deny += would_deny;
            sum.limited += counted.limited(service);
        }
        let Counts { received, forwarded, passed, dropped, odd } = counted.counts();
        self.odd += odd;
        self.frames += received;
        self.forwarded += forwarded;
        self.passed += passed;
        self.dropped.iter_mut().zip(dropped).for_each(|(sum, count)| *sum += count);
        for (destination, at) in places.servers.iter().enumerate() {
            let (SentCounts { frames, bytes, flows }, server) = (counted.sent(destination), &mut self.servers[*at]);
            server.frames += frames;
            server.bytes += bytes;
            server.flows += flows;
        }
    }

    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// The reasons that occurred, with their counts.
    pub fn reasons(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.dropped).filter(|(_, count)| *count > 0)
    }

    /// As the JSON of `replay --json` and `run --json`: servers by name, those of several services added up; reasons that
    /// did not occur left out; latencies in nanoseconds.
    pub fn json(&self) -> Value {
        let dropped: Map<String, Value> = self.reasons().map(|(reason, n)| (reason.name().into(), n.into())).collect();
        let mut servers: Map<String, Value> = Map::new();
        for server in &self.servers {
            let sum = servers.entry(&*server.server).or_insert(json!({"frames": 0, "bytes": 0, "flows": 0}));
            for (key, value) in [("frames", server.frames), ("bytes", server.bytes), ("flows", server.flows)] {
                sum[key] = json!(sum[key].as_u64().unwrap_or(0) + value);
            }
        }
        let mut document = json!({
            "frames": self.frames,
            "forwarded": self.forwarded,
            "dropped": dropped,
            "passed": self.passed,
            "servers": servers,
        });
        if let Some(latency) = &self.latency {
            let mut percentiles = json!({"count": latency.count});
            for (name, ns) in latency.named() {
                percentiles[name] = ns.into();
            }
            document["latency_ns"] = percentiles;
        }
        document
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["service", "server", "frames", "bytes", "flows"]);
        for at in 2..5 {
            table.column_mut(at).expect("five columns").set_cell_alignment(CellAlignment::Right);
        }
        for server in &self.servers {
            let ServerSummary { service, server, frames, bytes, flows } = server;
            let counts = [frames, bytes, flows].map(u64::to_string);
            table.add_row([service, server].map(|name| name.to_string()).into_iter().chain(counts));
        }
        writeln!(f, "{}", table.trim_fmt())?;
        let (dropped, balance) = (self.dropped_total(), self.frames as i128 - self.passed as i128);
        let balance = balance - self.forwarded as i128 - dropped as i128;
        write!(
            f,
            "frames in {} = forwarded {} + dropped {dropped} + passed {}",
            self.frames, self.forwarded, self.passed
        )?;
        if balance != 0 {
            write!(f, " ({balance} on the way)")?;
        }
        for (reason, count) in self.reasons() {
            write!(f, "\n  dropped {reason:<10} {count:>12}  {}", reason.help())?;
        }
        if let Some(latency) = &self.latency {
            let figures: Vec<String> =
                latency.named().iter().map(|(name, ns)| format!("{name} {}", microseconds(*ns))).collect();
            write!(f, "\nlatency, arrival to hand-over: {} ({} frames)", figures.join(", "), latency.count)?;
        }
        Ok(())
    }
}

/// Three significant places are all that a histogram of two digits has.
pub fn microseconds(ns: u64) -> String {
    let us = ns as f64 / 1000.0;
    match us {
        _ if us < 10.0 => format!("{us:.2} us"),
        _ if us < 100.0 => format!("{us:.1} us"),
        _ => format!("{us:.0} us"),
    }
}
