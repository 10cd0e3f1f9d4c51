//! What `ipvsadm -Sn` writes: a line for each virtual server (`-A`) and for each of its servers (`-a`).

use super::found::{Deliver, Found, Remarks, Server, Service, Transport};
use super::keepalived;
use std::net::{IpAddr, SocketAddr};

/// Whether a text is this, and not keepalived.conf.
pub fn is_one(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.next().is_some_and(|line| {
        ["-A ", "--add-service", "-a ", "--add-server", "ipvsadm "].iter().any(|head| line.starts_with(head))
    })
}

pub fn read(text: &str, found: &mut Found, remarks: &mut Remarks) {
    let first = found.services.len();
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().skip_while(|word| word.ends_with("ipvsadm")).collect();
        let (at, Some((verb, options))) = (at + 1, words.split_first()) else { continue };
        let done = match *verb {
            "-A" | "--add-service" => service(at, options, remarks).map(|service| found.services.push(service)),
            "-a" | "--add-server" => server(at, options, &mut found.services[first..], remarks),
            other => Err(format!("left out: `{other}` adds neither a virtual server nor a server")),
        };
        if let Err(error) = done {
            remarks.say(at, error);
        }
    }
}

fn service(at: usize, options: &[&str], remarks: &mut Remarks) -> Result<Service, String> {
    let (address, port, transport) = virtual_server(options)?;
    let mut service = Service {
        at: remarks.place(at),
        address,
        port,
        transport,
        by_flow: false,
        servers: Vec::new(),
        check: None,
        deliver: Deliver::L2,
    };
    let mut scheduler = "wlc";
    let mut words = options.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "-t" | "-u" | "--tcp-service" | "--udp-service" | "--sctp-service" => _ = words.next(),
            "-s" | "--scheduler" => scheduler = words.next().unwrap_or_default(),
            "-b" | "--sched-flags" => {
                let flags = words.next().unwrap_or_default();
                service.by_flow |= flags.split(',').any(|flag| ["sh-port", "mh-port"].contains(&flag));
                keepalived::tell_fallback(flags.split(','), at, remarks);
            }
            "-p" | "--persistent" => {
                let seconds = words.next().unwrap_or_default();
                keepalived::tell_persistence(seconds, at, remarks);
            }
            "-M" | "--netmask" => {
                let mask = words.next().unwrap_or_default();
                keepalived::tell_granularity(mask, at, remarks);
            }
            "--pe" => {
                let engine = words.next().unwrap_or_default();
                remarks.say(at, format!("--pe {engine} has no counterpart: a client is known by its address"));
            }
            "-o" | "--ops" => remarks.say(at, "--ops is not needed: no connection is kept, each packet is looked up"),
            "-6" | "--ipv6" => {}
            other => remarks.say(at, format!("`{other}` is not known, and was left out")),
        }
    }
    keepalived::tell_scheduler(scheduler, at, remarks);
    Ok(service)
}

fn server(at: usize, options: &[&str], services: &mut [Service], remarks: &mut Remarks) -> Result<(), String> {
    let (address, port, transport) = virtual_server(options)?;
    let is_its =
        |service: &&mut Service| (service.address, service.port, service.transport) == (address, port, transport);
    let service = services.iter_mut().find(is_its);
    let service = service.ok_or("left out: its virtual server is not above it, or was left out")?;
    let (mut real, mut weight, mut deliver) = (None, 1, Deliver::L2);
    let (mut kind, mut tunnel_port) = ("ipip", None);
    let mut words = options.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "-t" | "-u" | "--tcp-service" | "--udp-service" | "--sctp-service" => _ = words.next(),
            "-r" | "--real-server" => real = Some(endpoint(words.next().unwrap_or_default())?),
            "-g" | "--gatewaying" => deliver = Deliver::L2,
            "-i" | "--ipip" => deliver = Deliver::Ipip,
            "-m" | "--masquerading" => deliver = Deliver::Nat,
            "-w" | "--weight" => {
                let given = words.next().unwrap_or_default();
                weight = keepalived::weight(given)?;
            }
            "-x" | "--u-threshold" | "-y" | "--l-threshold" => {
                let value = words.next().unwrap_or_default();
                let said = format!("{word} {value} has no counterpart: connections are not counted against a bound");
                if value != "0" {
                    remarks.say(at, said);
                }
            }
            "--tun-type" => kind = words.next().unwrap_or_default(),
            "--tun-port" => tunnel_port = words.next().and_then(|port| port.parse().ok()),
            "--tun-nocsum" | "--tun-csum" | "--tun-remcsum" => {}
            other => remarks.say(at, format!("`{other}` is not known, and was left out")),
        }
    }
    if deliver == Deliver::Ipip {
        deliver = tunnel(kind, tunnel_port)?;
    }
    let (address, port) = real.ok_or("left out: it has no -r ADDRESS:PORT")?;
    let at = remarks.place(at);
    service.servers.push(Server { at, address, port, weight, deliver: Some(deliver), check: None });
    Ok(())
}

/// # Errors
/// There is no such tunnel.
pub fn tunnel(kind: &str, port: Option<u16>) -> Result<Deliver, String> {
    match kind {
        "ipip" => Ok(Deliver::Ipip),
        "gue" => Ok(Deliver::Gue(port)),
        "gre" => Ok(Deliver::Gre),
        other => Err(format!("left out: a tunnel of type `{other}` has no counterpart; there are ipip, gue and gre")),
    }
}

/// Address, port and transport of the virtual server that a line is about.
fn virtual_server(options: &[&str]) -> Result<(IpAddr, u16, Transport), String> {
    for pair in options.windows(2) {
        let transport = match pair[0] {
            "-t" | "--tcp-service" => Transport::Tcp,
            "-u" | "--udp-service" => Transport::Udp,
            "--sctp-service" => Transport::Sctp,
            "-f" | "--fwmark-service" => return Err(keepalived::fwmark(pair[1])),
            _ => continue,
        };
        let (address, port) = endpoint(pair[1])?;
        return Ok((address, port, transport));
    }
    Err("left out: it names no virtual server (-t, -u or --sctp-service ADDRESS:PORT)".to_owned())
}

fn endpoint(text: &str) -> Result<(IpAddr, u16), String> {
    if let Ok(endpoint) = text.parse::<SocketAddr>() {
        return Ok((endpoint.ip(), endpoint.port()));
    }
    let alone = text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let named = || format!("left out: {text:?} is not an address and port in numbers; save them with `ipvsadm -Sn`");
    alone.map(|address| (address, 0)).ok_or_else(named)
}
