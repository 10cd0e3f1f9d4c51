//! keepalived.conf: virtual servers, their servers and checks. What concerns VRRP stays with keepalived.

use super::check::{Check, FALLS, INTERVAL_MS, INTERVALS_MS, RETRIES, TIMEOUT_MS, TIMEOUTS_MS, within};
use super::found::{Deliver, Found, Remarks, Server, Service, Transport};
use super::ipvsadm::tunnel;
use super::tokens::{self, Statement};
use crate::limits::MAX_WEIGHT;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// What a path of [service.health] has as %XX.
const PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'`').add(b'{').add(b'}');

/// # Errors
/// The line, and what is wrong with its syntax.
pub fn read(text: &str, found: &mut Found, remarks: &mut Remarks) -> Result<(), (usize, String)> {
    for statement in tokens::parse(text)? {
        match statement.word(0) {
            "virtual_server" => virtual_server(&statement, found, remarks),
            "virtual_server_group" => group(&statement, found, remarks),
            "vrrp_instance" => vrrp_instance(&statement, found, remarks),
            "vrrp_script" | "vrrp_sync_group" | "vrrp_track_process" | "vrrp_track_file" | "track_file"
            | "track_process" => {
                remarks.say(statement.line, format!("{} stays with keepalived", statement.words.join(" ")));
            }
            "include" | "includer" | "includem" | "includew" | "includeb" | "includea" => remarks.say(
                statement.line,
                format!("{} is not followed: name those files as well, behind this one", statement.words.join(" ")),
            ),
            word => remarks.say(statement.line, format!("{word} was left out: it has no counterpart here")),
        }
    }
    Ok(())
}

/// Services of groups, one for each address and port.
pub fn resolve(found: &mut Found, remarks: &mut Remarks) {
    for (group, service) in std::mem::take(&mut found.of_groups) {
        match found.groups.get(&group) {
            Some(members) => found.services.extend(members.iter().map(|(address, port)| Service {
                address: *address,
                port: *port,
                ..service.clone()
            })),
            None => remarks.say_at(service.at, format!("left out: there is no virtual_server_group {group}")),
        }
    }
}

fn vrrp_instance(statement: &Statement, found: &mut Found, remarks: &mut Remarks) {
    remarks.say(
        statement.line,
        format!(
            "{} stays with keepalived; the addresses in it that are cluster addresses must go, as the dispatcher must not hold them: \
             see docs/several-dispatchers.md",
            statement.words.join(" ")
        ),
    );
    let interface = statement.block.iter().flatten().find(|inner| inner.word(0) == "interface");
    if let Some(interface) = interface.filter(|_| found.interface.is_none()) {
        found.interface = Some(interface.word(1).to_owned());
    }
}

fn group(statement: &Statement, found: &mut Found, remarks: &mut Remarks) {
    let mut members = Vec::new();
    for inner in statement.block.iter().flatten() {
        match (inner.word(0), member(inner.word(0), inner.word(1))) {
            ("fwmark", _) => remarks.say(inner.line, fwmark(inner.word(1))),
            (_, Ok(more)) => members.extend(more),
            (_, Err(error)) => remarks.say(inner.line, error),
        }
    }
    found.groups.insert(statement.word(1).to_owned(), members);
}

/// `192.0.2.1 80`, `192.0.2.1-5 80`, `2001:db8::1-a 80`
fn member(text: &str, port: &str) -> Result<Vec<(IpAddr, u16)>, String> {
    let port = port_of(port)?;
    let (first, last) = text.split_once('-').map_or((text, None), |(first, last)| (first, Some(last)));
    let first: IpAddr = first.parse().map_err(|_| format!("left out: {text:?} is not an address"))?;
    let Some(last) = last else { return Ok(vec![(first, port)]) };
    let wrong = || format!("left out: {text:?} is not a range of addresses");
    let all: Vec<IpAddr> = match first {
        IpAddr::V4(first) => {
            let (from, end) = (u32::from(first), last.parse::<u8>().map_err(|_| wrong())?);
            (from..=(from & !0xff | u32::from(end))).map(|bits| Ipv4Addr::from(bits).into()).collect()
        }
        IpAddr::V6(first) => {
            let (from, end) = (u128::from(first), u16::from_str_radix(last, 16).map_err(|_| wrong())?);
            (from..=(from & !0xffff | u128::from(end))).map(|bits| Ipv6Addr::from(bits).into()).collect()
        }
    };
    if all.is_empty() { Err(wrong()) } else { Ok(all.into_iter().map(|address| (address, port)).collect()) }
}

fn virtual_server(statement: &Statement, found: &mut Found, remarks: &mut Remarks) {
    let mut service = Service {
        at: remarks.place(statement.line),
        address: Ipv4Addr::UNSPECIFIED.into(),
        port: 0,
        transport: Transport::Tcp,
        by_flow: false,
        servers: Vec::new(),
        check: None,
        deliver: Deliver::L2,
    };
    let place = match statement.word(1) {
        "fwmark" => Err(fwmark(statement.word(2))),
        "group" => Ok(Some(statement.word(2).to_owned())),
        address => {
            address.parse().map_err(|_| format!("left out: {address:?} is not an address")).and_then(|address| {
                (service.address, service.port) = (address, port_of(statement.word(2))?);
                Ok(None)
            })
        }
    };
    let group = match place {
        Ok(group) => group,
        Err(error) => return remarks.say(statement.line, error),
    };
    let checks = Checks { port: None, interval_ms: INTERVAL_MS, timeout_ms: None, retries: RETRIES, host: None };
    let mut settings = Settings { deliver: None, protocol: None, checks };
    let (inner, servers): (Vec<&Statement>, Vec<&Statement>) =
        statement.block.iter().flatten().partition(|inner| inner.word(0) != "real_server");
    let mut scheduler = ("wlc", statement.line);
    for inner in inner {
        match inner.word(0) {
            "lb_algo" | "lvs_sched" => scheduler = (inner.word(1), inner.line),
            _ => setting(inner, &mut service, &mut settings, remarks),
        }
    }
    tell_scheduler(scheduler.0, scheduler.1, remarks);
    service.transport = settings.protocol.unwrap_or_else(|| {
        remarks.say(statement.line, "no protocol is given: that means UDP; write protocol TCP where it is meant");
        Transport::Udp
    });
    if settings.deliver.is_none() && !servers.iter().any(|server| has_method(server)) {
        remarks.say(statement.line, "no lvs_method is given: that means NAT");
    }
    for server in servers {
        if let Err(error) = real_server(server, &mut service, &settings, remarks) {
            remarks.say(server.line, error);
        }
    }
    match group {
        Some(group) => found.of_groups.push((group, service)),
        None => found.services.push(service),
    }
}

fn has_method(server: &Statement) -> bool {
    server.block.iter().flatten().any(|inner| ["lb_kind", "lvs_method"].contains(&inner.word(0)))
}

/// What a virtual server says for all of its servers.
struct Settings {
    deliver: Option<Deliver>,
    protocol: Option<Transport>,
    checks: Checks,
}

/// What checks have of their server, and that of its virtual server.
#[derive(Clone)]
struct Checks {
    port: Option<u16>,
    interval_ms: u64,
    /// And the line.
    timeout_ms: Option<(usize, u64)>,
    retries: u64,
    host: Option<String>,
}

impl Checks {
    /// Takes a setting that may stand at each level; whether it is one.
    fn take(&mut self, inner: &Statement, remarks: &mut Remarks) -> bool {
        let (line, value) = (inner.line, inner.word(1));
        match inner.word(0) {
            "delay_loop" => {
                self.interval_ms = milliseconds(inner, &INTERVALS_MS, remarks).unwrap_or(self.interval_ms);
            }
            "connect_timeout" => {
                let given = milliseconds(inner, &TIMEOUTS_MS, remarks);
                self.timeout_ms = given.map(|given| (line, given)).or(self.timeout_ms);
            }
            "retry" | "nb_get_retry" => {
                self.retries = value.parse().ok().or_else(|| wrong(inner, remarks)).unwrap_or(self.retries);
            }
            "virtualhost" => self.host = Some(value.to_owned()),
            _ => return false,
        }
        true
    }
}

fn setting(inner: &Statement, service: &mut Service, settings: &mut Settings, remarks: &mut Remarks) {
    if settings.checks.take(inner, remarks) {
        return;
    }
    let (line, word, value) = (inner.line, inner.word(0), inner.word(1));
    match word {
        "lb_kind" | "lvs_method" => match method(inner) {
            Ok(deliver) => settings.deliver = Some(deliver),
            Err(error) => remarks.say(line, error),
        },
        "protocol" => {
            let known = [("TCP", Transport::Tcp), ("UDP", Transport::Udp), ("SCTP", Transport::Sctp)];
            let named = known.into_iter().find(|(name, _)| *name == value).map(|(_, transport)| transport);
            settings.protocol = named.or_else(|| wrong(inner, remarks)).or(settings.protocol);
        }
        "sh-port" | "mh-port" => service.by_flow = true,
        "sh-fallback" | "mh-fallback" => tell_fallback([word].into_iter(), line, remarks),
        "flag-1" | "flag-2" | "flag-3" => remarks.say(line, format!("{word} was left out: write sh-port or sh-fallback by name")),
        "persistence_timeout" => tell_persistence(if value.is_empty() { "360" } else { value }, line, remarks),
        "persistence_granularity" => tell_granularity(value, line, remarks),
        "persistence_engine" => {
            remarks.say(line, format!("persistence_engine {value} has no counterpart: a client is known by its address"));
        }
        "ops" | "hashed" => remarks.say(line, format!("{word} is not needed: no connection is kept, each packet is looked up")),
        "sorry_server" => remarks.say(
            line,
            "sorry_server has no counterpart: when all servers are down, packets are dropped, or sent as if all were up (`all_down`)",
        ),
        "sorry_server_inhibit" | "sorry_server_lvs_method" => {}
        "quorum" | "hysteresis" => {
            remarks.say(line, format!("{word} {value} has no counterpart in a service; `min_up` of [announce] is near to it"));
        }
        "quorum_up" | "quorum_down" => remarks.say(line, format!("{word} has no counterpart: no script is run")),
        "alpha" => remarks.say(line, "alpha is not needed: a start waits for the first check of each server"),
        "omega" | "ha_suspend" | "smtp_alert" | "warmup" | "delay_before_retry" | "nat_mask"
        | "inhibit_on_failure" => remarks.say(line, without(word)),
        "ip_family" | "weight" | "snmp_name" => {}
        _ => remarks.say(line, format!("{word} was left out: it has no counterpart here")),
    }
}

fn without(word: &str) -> String {
    let why = match word {
        "delay_before_retry" => "a failed check is repeated after delay_loop",
        "inhibit_on_failure" => "a server that is down gets nothing, and its connections go to others",
        "smtp_alert" => "see the alerts in docs/metrics.md",
        "warmup" => "checks are spread by themselves",
        _ => "it was left out",
    };
    format!("{word} has no counterpart: {why}")
}

fn real_server(
    statement: &Statement,
    service: &mut Service,
    settings: &Settings,
    remarks: &mut Remarks,
) -> Result<(), String> {
    let text = statement.word(1);
    let address = text.parse().map_err(|_| format!("left out: {text:?} is not an address"))?;
    let port = if statement.word(2).is_empty() { 0 } else { port_of(statement.word(2))? };
    let (at, deliver) = (remarks.place(statement.line), settings.deliver.or(Some(Deliver::Nat)));
    let mut server = Server { at, address, port, weight: 1, deliver, check: None };
    let mut checks =
        Checks { port: [port, service.port].into_iter().find(|port| *port > 0), ..settings.checks.clone() };
    let inner = || statement.block.iter().flatten();
    let is_for_checks: Vec<bool> = inner().map(|inner| checks.take(inner, remarks)).collect();
    for (inner, _) in inner().zip(is_for_checks).filter(|(_, is_for_checks)| !is_for_checks) {
        let (line, word) = (inner.line, inner.word(0));
        match word {
            "weight" => server.weight = weight(inner.word(1))?,
            "lb_kind" | "lvs_method" => server.deliver = Some(method(inner)?),
            "uthreshold" | "lthreshold" => remarks.say(
                line,
                format!("{word} {} has no counterpart: connections are not counted against a bound", inner.word(1)),
            ),
            "notify_up" | "notify_down" => remarks.say(line, format!("{word} has no counterpart: no script is run")),
            "snmp_name" | "ip_family" => {}
            "delay_before_retry" | "inhibit_on_failure" | "smtp_alert" | "alpha" | "warmup" => {
                remarks.say(line, without(word))
            }
            check if check.ends_with("_CHECK") || check.ends_with("_GET") => {
                let checked = checked(inner, &checks, remarks);
                match (&server.check, checked) {
                    (Some(_), _) => remarks.say(line, format!("{check} was left out: a server has one check")),
                    (None, Some(check)) => server.check = Some((remarks.place(line), check)),
                    (None, None) => {}
                }
            }
            _ => remarks.say(line, format!("{word} was left out: it has no counterpart here")),
        }
    }
    service.servers.push(server);
    Ok(())
}

/// `None`: it has no counterpart, and that was said.
fn checked(statement: &Statement, defaults: &Checks, remarks: &mut Remarks) -> Option<Check> {
    let kind = match statement.word(0) {
        "TCP_CHECK" => "tcp",
        "HTTP_GET" => "http",
        "SSL_GET" => "https",
        "PING_CHECK" => "icmp",
        other => {
            let instead = if other == "MISC_CHECK" { ": no script is run" } else { "" };
            remarks.say(
                statement.line,
                format!(
                    "{other} has no counterpart{instead}; there are tcp, http, https and icmp for [service.health]"
                ),
            );
            return None;
        }
    };
    let is_http = kind.starts_with("http");
    let mut settings = defaults.clone();
    let mut check = Check {
        kind,
        port: None,
        path: None,
        host: None,
        // What keepalived takes where nothing is said.
        expect_status: is_http.then(|| "\"200-299\"".to_owned()),
        interval_ms: 0,
        timeout_ms: 0,
        fall: 0,
    };
    let mut urls = 0;
    for inner in statement.block.iter().flatten() {
        let (line, word) = (inner.line, inner.word(0));
        match word {
            _ if settings.take(inner, remarks) => {}
            "connect_port" => {
                let given = port_of(inner.word(1)).ok().filter(|port| *port > 0);
                settings.port = given.or_else(|| wrong(inner, remarks)).or(settings.port);
            }
            "url" if urls > 0 => remarks.say(line, "this url was left out: a check has one"),
            "url" if is_http => {
                urls += 1;
                inner.block.iter().flatten().for_each(|part| url(part, &mut check, remarks));
            }
            "delay_before_retry" | "warmup" | "alpha" | "smtp_alert" => remarks.say(line, without(word)),
            "enable_sni" if kind == "https" => {}
            _ => remarks.say(line, format!("{word} was left out: a check has no such thing here")),
        }
    }
    let Checks { port, interval_ms, timeout_ms, retries, host } = settings;
    if let Some((line, _)) = timeout_ms.filter(|(_, timeout)| *timeout > interval_ms) {
        remarks.say(line, format!("connect_timeout becomes {interval_ms} ms: a check ends before the next begins"));
    }
    check.port = port.filter(|_| kind != "icmp");
    check.host = check.host.or(host).filter(|_| is_http);
    check.interval_ms = interval_ms;
    check.timeout_ms = timeout_ms.map_or(TIMEOUT_MS, |(_, timeout)| timeout).min(interval_ms);
    check.fall = within(retries.saturating_add(1), &FALLS);
    if kind != "icmp" && port.is_none() {
        remarks.say(statement.line, format!("{} was left out: it has no port", statement.word(0)));
        return None;
    }
    Some(check)
}

fn url(part: &Statement, check: &mut Check, remarks: &mut Remarks) {
    let (line, word, value) = (part.line, part.word(0), part.word(1));
    match word {
        "path" if value.starts_with('/') => check.path = Some(utf8_percent_encode(value, PATH).to_string()),
        "path" => _ = wrong::<String>(part, remarks),
        "virtualhost" => check.host = Some(value.to_owned()),
        "status_code" => match status(&part.words[1..]) {
            Some(status) => check.expect_status = Some(status),
            None => _ = wrong::<String>(part, remarks),
        },
        "digest" => remarks.say(line, "digest has no counterpart: the status counts, not the content"),
        word if word.starts_with("regex") => {
            remarks.say(line, format!("{word} has no counterpart: the status counts, not the content"));
        }
        _ => remarks.say(line, format!("{word} was left out: a check has no such thing here")),
    }
}

/// `lvs_method TUN type gue port 6080`
fn method(inner: &Statement) -> Result<Deliver, String> {
    let behind = |name: &str| {
        let at = inner.words.iter().position(|word| word == name)?;
        inner.words.get(at + 1).map(String::as_str)
    };
    match inner.word(1) {
        "DR" => Ok(Deliver::L2),
        "NAT" => Ok(Deliver::Nat),
        "TUN" => tunnel(behind("type").unwrap_or("ipip"), behind("port").and_then(|port| port.parse().ok())),
        other => Err(format!("{other:?} is not one of DR, TUN and NAT")),
    }
}

fn wrong<T>(inner: &Statement, remarks: &mut Remarks) -> Option<T> {
    remarks.say(inner.line, format!("{:?} is no value for {}; it was left out", inner.word(1), inner.word(0)));
    None
}

/// Codes and ranges of them, as the key has them.
fn status(codes: &[String]) -> Option<String> {
    let code = |text: &str| text.parse::<u16>().is_ok_and(|code| (100..600).contains(&code));
    let each = codes.iter().map(|text| match text.split_once('-') {
        None if code(text) => Some(text.clone()),
        Some((first, last)) if code(first) && code(last) && first <= last => Some(format!("\"{text}\"")),
        _ => None,
    });
    let each: Vec<String> = each.collect::<Option<_>>()?;
    (!each.is_empty()).then(|| format!("[{}]", each.join(", ")))
}

/// Seconds, which may have decimals; the nearest value in the range.
fn milliseconds(inner: &Statement, range: &RangeInclusive<u64>, remarks: &mut Remarks) -> Option<u64> {
    let seconds = inner.word(1).parse().ok().filter(|seconds: &f64| (0.0..=1e6).contains(seconds));
    let Some(seconds) = seconds else { return wrong(inner, remarks) };
    let given = (seconds * 1000.0).round() as u64;
    let nearest = within(given, range);
    if nearest != given {
        remarks.say(inner.line, format!("{} of {} s becomes {nearest} ms", inner.word(0), inner.word(1)));
    }
    Some(nearest)
}

fn port_of(text: &str) -> Result<u16, String> {
    match text {
        "" => Ok(0),
        text => text.parse().map_err(|_| format!("left out: {text:?} is not a port from 0 to 65535")),
    }
}

/// # Errors
/// It is none, or too great.
pub fn weight(text: &str) -> Result<u32, String> {
    let weight = text.parse().ok().filter(|weight| *weight <= MAX_WEIGHT);
    weight.ok_or_else(|| format!("left out: {text:?} is not a weight from 0 to {MAX_WEIGHT}"))
}

pub fn fwmark(mark: &str) -> String {
    format!(
        "left out: fwmark {mark} has no counterpart, a service is chosen by address, protocol and port; write a virtual server for each \
         of those that the mark stands for"
    )
}

/// What becomes of a scheduler: of those of IPVS, two choose by a hash of the client.
pub fn tell_scheduler(scheduler: &str, line: usize, remarks: &mut Remarks) {
    if !["sh", "mh"].contains(&scheduler) {
        let text = format!(
            "scheduler {scheduler} has no counterpart: a client's server follows from a hash of its address, and weights count; \
             hash = \"flow\" chooses for each connection"
        );
        remarks.say(line, text);
    }
}

pub fn tell_fallback<'f>(flags: impl Iterator<Item = &'f str>, line: usize, remarks: &mut Remarks) {
    for flag in flags.filter(|flag| flag.ends_with("-fallback")) {
        remarks.say(line, format!("{flag} is not needed: clients of a server that is down always have another"));
    }
}

pub fn tell_persistence(seconds: &str, line: usize, remarks: &mut Remarks) {
    remarks.say(
        line,
        format!("persistence of {seconds} s is not needed: a client has the same server as long as that is up, without a timeout"),
    );
}

pub fn tell_granularity(mask: &str, line: usize, remarks: &mut Remarks) {
    if mask != "255.255.255.255" && mask != "128" {
        remarks.say(line, format!("granularity {mask} has no counterpart: each address is a client of its own"));
    }
}
