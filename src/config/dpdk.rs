//! The section of the DPDK engine.

use super::interfaces::InterfacesDraft;
use super::report::Report;
use super::section::{At, Section, text_element};
use super::value::{self, quoted};
use crate::limits::{DESCRIPTORS, MAX_DESCRIPTORS, MAX_MBUFS, MAX_QUEUES};
use crate::model::{Dpdk, Engine, Exception};
use std::collections::HashMap;
use toml::Spanned;
use toml::de::DeValue;

/// RFC 791 asks for 68 and IPv6 for 1,280; a frame's length is 16 bits, with room to round up.
pub const MTUS: std::ops::RangeInclusive<u32> = 1280..=16_000;
const DEFAULT_MTU: u16 = 1500;

/// The arguments by which DPDK is told its cores.
const CORES: [&str; 5] = ["-l", "-c", "-s", "-S", "--lcores"];

pub struct DpdkDraft {
    /// Absent where there is none, which was reported.
    ports: Vec<At<String>>,
    eal: Vec<String>,
    queues: u16,
    descriptors: u16,
    mbufs: Option<u32>,
    mtu: u16,
    exception: Option<Exception>,
}

impl DpdkDraft {
    /// `interfaces` say how many cores are listed, and how many queues; `engine` is the one that is asked for.
    pub fn read(section: &Section, interfaces: &InterfacesDraft, engine: Engine, report: &mut Report) -> DpdkDraft {
        let cores = interfaces.cores.as_deref();
        let choices = [("tap", Exception::Tap), ("kernel", Exception::Kernel), ("none", Exception::None)];
        let empty = "`eal` is empty; leave the key out, or write eal = [\"--no-huge\", \"-m\", \"256\"]";
        let eal = section.list("eal", report, empty, |element, report| {
            text_element(element, report, "an argument of DPDK's, like \"--no-huge\"", argument)
        });
        let queues = section.integer("queues", 1..=MAX_QUEUES, report);
        if let (Some(queues), Some(cores)) = (queues, cores)
            && (queues.value as usize) < cores.len()
        {
            let (queues_, listed) = (queues.value, cores.len());
            report.error(queues.at, format!(
                "`queues` is {queues_}, but `cores` in [dispatcher] lists {listed}, and a queue is served by one core; leave `queues` \
                 out, or list at most {queues_}"
            ));
        }
        let of_interface = interfaces.queues.first().and_then(|queues| queues.count);
        if let (Some(queues), Some(count)) = (&queues, of_interface) {
            report.error(queues.at, format!("[[dispatcher.interface]] has `queues`, {count}; keep one of the two"));
        }
        let few = cores.map_or(1, |cores| cores.len().min(MAX_QUEUES as usize) as u16);
        let few = of_interface.map_or(few, |count| count as u16);
        let number = |name, range, report: &mut Report| section.integer(name, range, report).map(|number| number.value);
        let ports = read_ports(section, report);
        let exception = section.text("exception", report, value::choice("exception", choices));
        if engine == Engine::Dpdk {
            check_several(section, interfaces, (&ports, &exception), report);
        }
        DpdkDraft {
            ports,
            eal: eal.unwrap_or_default().into_iter().map(|argument| argument.value).collect(),
            queues: queues.map_or(few, |queues| queues.value as u16),
            descriptors: number("descriptors", 64..=MAX_DESCRIPTORS, report).map_or(DESCRIPTORS, |n| n as u16),
            mbufs: number("mbufs", 1..=MAX_MBUFS, report),
            mtu: number("mtu", MTUS, report).map_or(DEFAULT_MTU, |mtu| mtu as u16),
            exception: exception.map(|exception| exception.value),
        }
    }

    /// `None` where something is absent, which was reported.
    pub fn into_dpdk(self) -> Option<Dpdk> {
        let ports: Vec<String> = self.ports.into_iter().map(|port| port.value).collect();
        let seen = ports.iter().all(|port| is_seen(port));
        let exception = self.exception.unwrap_or(if seen { Exception::Kernel } else { Exception::Tap });
        let DpdkDraft { eal, queues, descriptors, mbufs, mtu, .. } = self;
        (!ports.is_empty()).then_some(Dpdk { ports, eal, queues, descriptors, mbufs, mtu, exception })
    }
}

/// This driver alone leaves the frames to the kernel too.
fn is_seen(port: &str) -> bool {
    port.starts_with("net_af_packet") || port.starts_with("eth_af_packet")
}

fn read_ports(section: &Section, report: &mut Report) -> Vec<At<String>> {
    let empty = "`port` is empty; write port = \"0000:03:00.0\", or a device for each interface of [dispatcher]";
    let form = "a PCI address like \"0000:03:00.0\", or a virtual device";
    let read = |element: &Spanned<DeValue>, report: &mut Report| text_element(element, report, form, port);
    let ports = section.one_or_list("port", report, empty, read).unwrap_or_default();
    let mut seen = HashMap::new();
    for port in &ports {
        let name = port.value.split(',').next().unwrap_or_default();
        if let Some(other) = seen.insert(name.to_lowercase(), port.at) {
            let line = report.line(other);
            report.error(port.at, format!("device {name} is already given on line {line}; each interface has its own"));
        }
    }
    ports
}

/// Of several interfaces, each has a device, and the kernel's end of it.
fn check_several(
    section: &Section,
    interfaces: &InterfacesDraft,
    (ports, exception): (&[At<String>], &Option<At<Exception>>),
    report: &mut Report,
) {
    let (devices, names) = (ports.len(), interfaces.names.len());
    if let Some(at) = section.key_at("port").filter(|_| devices > 0 && names > 0 && devices != names) {
        let s = |count: usize| if count == 1 { "" } else { "s" };
        report.error(at, format!(
            "`port` has {devices} device{}, and [dispatcher] has {names} interface{}; write a device for each interface, in their order",
            s(devices),
            s(names)
        ));
    }
    let seen = |at: usize| ports.get(at).is_some_and(|port| is_seen(&port.value));
    if let Some(port) = ports.iter().enumerate().find(|(at, _)| seen(*at) != seen(0)).map(|(_, port)| port) {
        report.error(port.at, "net_af_packet leaves its frames to the kernel, and other devices do not, so one `exception` does not fit both; use net_af_xdp in its place, or net_af_packet for all");
    }
    let nowhere = |exception: &&At<Exception>| exception.value == Exception::None && names > 1;
    if let Some(exception) = exception.as_ref().filter(nowhere) {
        report.error(exception.at, "exception = \"none\" leaves the kernel no interface, and its routes say which server is reached by which; with several interfaces write \"tap\" or \"kernel\"");
    }
}

/// A PCI address or the name of a virtual device, and what its driver takes.
fn port(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_:.-".contains(c);
    let name = text.split(',').next().unwrap_or_default();
    if !name.is_empty() && name.chars().all(is_name) && !text.contains(['\0', '\n']) {
        let mut parts = name.split(':');
        let is_short = |part: Option<&str>| part.is_some_and(|part| part.len() == 2);
        if name.split(':').count() == 2 && is_short(parts.next()) {
            return Err(format!("{} lacks the PCI domain; write \"0000:{text}\"", quoted(text, '"')));
        }
        return Ok(text.to_owned());
    }
    let found = quoted(text, '"');
    Err(format!(
        "{found} is not a device; write a PCI address like \"0000:03:00.0\", or a virtual device like \"net_af_packet0,iface=eth1\""
    ))
}

fn argument(text: &str) -> Result<String, String> {
    let found = quoted(text, '"');
    let name = text.split('=').next().unwrap_or_default();
    if CORES.contains(&name) {
        return Err(format!("{found} chooses cores; write `cores` in [dispatcher] instead"));
    }
    if text.is_empty() || text.contains('\0') || text.contains(' ') {
        return Err(format!("{found} is not one argument; write each by itself, as in [\"-m\", \"256\"]"));
    }
    Ok(text.to_owned())
}
