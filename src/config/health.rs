//! `[service.health]`: its keys, and the rules between them and the service's own.
//!
//! | key             | default                | |
//! |-----------------|------------------------|-|
//! | `type`          |                        | `tcp` (connects), `http` and `https` (GET), `icmp` (echo) |
//! | `port`          | the service's tcp port | needed where the service has not exactly one; none with `icmp` |
//! | `path`          | `/`                    | for http and https, like the next two |
//! | `host`          | the cluster address    | in the `Host` header, and the name asked for in the TLS handshake |
//! | `expect_status` | 200 to 399             | one, or a list of them and of ranges like `"200-299"` |
//! | `interval_ms`   | 1000                   | 50 to 600000 |
//! | `timeout_ms`    | 500, or the interval   | 10 to 60000, at most the interval |
//! | `rise`, `fall`  | 2, 3                   | 1 to 100 |
//! | `via`           | `service`              | to the cluster address, as clients' packets come; or `primary` |
//! | `probe_address` | the first address      | which of the service's addresses is asked for; of a prefix, by default, the first that a host may have |
//! | `all_down`      | `drop`                 | what becomes of clients when no server is up; or `serve`: all serve |
//!
//! The certificate of an https server is not verified (see `control::health`).

use super::draft::ServiceDraft;
use super::report::Report;
use super::schema::HEALTH;
use super::section::{At, Section, integer_element, text_element};
use super::value;
use crate::model::{AllDown, Health, Http, Probe, Transport, Via};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Spanned;
use toml::de::DeValue;

/// In milliseconds.
const INTERVALS: RangeInclusive<u32> = 50..=600_000;
const TIMEOUTS: RangeInclusive<u32> = 10..=60_000;
const STREAKS: RangeInclusive<u32> = 1..=100;

const DEFAULT_INTERVAL_MS: u32 = 1000;
const DEFAULT_TIMEOUT_MS: u32 = 500;
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;

/// A redirection is an answer of a server that works.
const DEFAULT_STATUSES: RangeInclusive<u16> = 200..=399;

pub struct HealthDraft {
    /// Where the section begins.
    at: usize,
    kind: Option<At<Kind>>,
    /// The key is there, legal or not.
    port_given: bool,
    port: Option<At<u32>>,
    /// The keys that only a check over HTTP has, and where they are.
    http_keys: Vec<(&'static str, usize)>,
    path: Option<At<String>>,
    host: Option<At<String>>,
    expect: Option<Vec<At<RangeInclusive<u16>>>>,
    interval: Option<At<u32>>,
    timeout: Option<At<u32>>,
    rise: Option<At<u32>>,
    fall: Option<At<u32>>,
    via: Via,
    /// `probe_address`
    pub address: Option<At<IpAddr>>,
    all_down: AllDown,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Tcp,
    Http,
    Https,
    Icmp,
}

impl HealthDraft {
    pub fn read(section: &Section, report: &mut Report) -> HealthDraft {
        let kinds = [("tcp", Kind::Tcp), ("http", Kind::Http), ("https", Kind::Https), ("icmp", Kind::Icmp)];
        let vias = [("service", Via::Service), ("primary", Via::Primary)];
        let ends = [("drop", AllDown::Drop), ("serve", AllDown::Serve)];
        let via = section.text("via", report, value::choice("via", vias));
        let all_down = section.text("all_down", report, value::choice("all_down", ends));
        let no_status = "`expect_status` is empty; leave the key out to take 200 to 399";
        let http_keys = ["path", "host", "expect_status"];
        HealthDraft {
            at: section.at,
            kind: section.text("type", report, value::choice("type", kinds)),
            port_given: section.key_at("port").is_some(),
            port: section.integer("port", 1..=u16::MAX.into(), report),
            http_keys: http_keys.into_iter().filter_map(|key| Some((key, section.key_at(key)?))).collect(),
            path: section.text("path", report, value::path),
            host: section.text("host", report, value::host),
            expect: section.one_or_list("expect_status", report, no_status, read_status),
            interval: section.integer("interval_ms", INTERVALS, report),
            timeout: section.integer("timeout_ms", TIMEOUTS, report),
            rise: section.integer("rise", STREAKS, report),
            fall: section.integer("fall", STREAKS, report),
            via: via.map_or(Via::Service, |via| via.value),
            address: section.text("probe_address", report, value::cluster_address),
            all_down: all_down.map_or(AllDown::Drop, |all_down| all_down.value),
        }
    }

    /// `None` where something is absent, which was reported.
    pub fn to_health(&self, service: &ServiceDraft) -> Option<Health> {
        let millis = |ms: u32| Duration::from_millis(ms.into());
        let or = |given: Option<At<u32>>, default| given.map_or(default, |given| given.value);
        let kind = self.kind?.value;
        let probe = match kind {
            Kind::Icmp => Probe::Icmp,
            Kind::Tcp => Probe::Tcp { port: self.port(service)? },
            Kind::Http | Kind::Https => Probe::Http(Http {
                tls: kind == Kind::Https,
                port: self.port(service)?,
                host: self.host.as_ref().map(|host| host.value.clone()),
                path: self.path.as_ref().map_or_else(|| "/".to_owned(), |path| path.value.clone()),
                expect: match &self.expect {
                    Some(expect) => expect.iter().map(|statuses| statuses.value.clone()).collect(),
                    None => vec![DEFAULT_STATUSES],
                },
            }),
        };
        Some(Health {
            probe,
            via: self.via,
            interval: millis(self.interval_ms()),
            timeout: millis(or(self.timeout, DEFAULT_TIMEOUT_MS.min(self.interval_ms()))),
            rise: or(self.rise, DEFAULT_RISE),
            fall: or(self.fall, DEFAULT_FALL),
            all_down: self.all_down,
        })
    }

    fn interval_ms(&self) -> u32 {
        self.interval.map_or(DEFAULT_INTERVAL_MS, |interval| interval.value)
    }

    /// The one given, or the service's only one.
    fn port(&self, service: &ServiceDraft) -> Option<u16> {
        match self.port {
            Some(port) => u16::try_from(port.value).ok(),
            None => match tcp_ports(service)[..] {
                [only] => Some(only),
                _ => None,
            },
        }
    }
}

/// Reports what the keys of the section break together, or with those of their service.
pub fn check(health: &HealthDraft, service: &ServiceDraft, report: &mut Report) {
    if let Some(timeout) = health.timeout.filter(|timeout| timeout.value > health.interval_ms()) {
        report.error(timeout.at, format!(
            "`timeout_ms` {} is longer than `interval_ms` {}; write at most that, so that one probe ends before the next begins",
            timeout.value, health.interval_ms(),
        ));
    }
    if let Some(address) = health.address.filter(|address| !has(service, address.value)) {
        let addresses: Vec<String> = service.addresses.iter().map(|address| address.to_string()).collect();
        let message = format!(
            "`probe_address` {} is not an address of the service; write one of {}",
            address.value,
            addresses.join(", ")
        );
        report.error(address.at, message);
    }
    let Some(At { value: kind, .. }) = health.kind else { return };
    if kind == Kind::Icmp
        && let Some(port) = health.port
    {
        report.error(port.at, "`port` is for type tcp, http and https; an icmp echo has none, leave it out");
    }
    if matches!(kind, Kind::Tcp | Kind::Icmp) {
        for (key, at) in &health.http_keys {
            report.error(*at, format!("`{key}` is for type http and https; leave it out, or write type = \"http\""));
        }
    }
    if kind != Kind::Icmp && !health.port_given && health.port(service).is_none() {
        let why = match (service.ports.as_deref(), tcp_ports(service).len()) {
            (None, _) => "the service takes every port".to_owned(),
            (Some([]), _) => return, // they were not readable
            (Some(_), 0) => "the service has no tcp port".to_owned(),
            (Some(_), count) => format!("the service has {count} tcp ports"),
        };
        let (title, form) = (HEALTH.title, HEALTH.key("port").form);
        report.missing(health.at, format!("{title} lacks `port`, and {why}; write {form}"));
    }
}

/// What was not readable may have it.
fn has(service: &ServiceDraft, address: IpAddr) -> bool {
    service.addresses.is_empty() || service.addresses.iter().any(|prefix| prefix.contains(address))
}

fn tcp_ports(service: &ServiceDraft) -> Vec<u16> {
    let ports = service.ports.iter().flatten();
    ports.filter(|port| port.transport == Transport::Tcp).map(|port| port.number).collect()
}

/// One status, or a range of them in a string.
fn read_status(element: &Spanned<DeValue>, report: &mut Report) -> Option<At<RangeInclusive<u16>>> {
    let wanted = "an HTTP status, 100 to 599, or a range like \"200-299\"";
    if element.get_ref().as_integer().is_none() {
        return text_element(element, report, wanted, value::statuses);
    }
    let number = integer_element(element, report, wanted)?;
    match u16::try_from(number.value).ok().filter(|status| value::STATUSES.contains(status)) {
        Some(status) => Some(At { at: number.at, value: status..=status }),
        None => {
            report.error(number.at, format!("this is not {wanted}"));
            None
        }
    }
}
