//! The NIC.

use super::cores::assigned_to;
use super::host::{dispatcher, engine};
use crate::admin::finding::Finding;
use crate::doctor::facts::{Facts, Interface};
use crate::model::{Engine, Xdp};
use crate::xdp::MEND_VETH;

/// The least that a LAN of Ethernet has.
const LAN_MTU: u32 = 1500;

/// A ring that holds a burst of this many.
const RING_GOOD: u32 = 1024;

/// Of each interface that is there. Where there are several, a finding says of which it is.
pub fn of<F: Into<Option<Finding>>>(facts: &Facts, check: impl Fn(&Interface, &str) -> F) -> Vec<Finding> {
    let several = facts.interfaces.len() > 1;
    let named = |interface: &Interface| {
        let name = &interface.device.interface;
        let mut finding = check(interface, name).into()?;
        if several && !finding.why.contains(name) {
            finding.why = format!("{name}: {}", finding.why);
        }
        Some(finding)
    };
    facts.interfaces.iter().filter_map(named).collect()
}

pub fn exists(facts: &Facts) -> Vec<Finding> {
    let missing = facts.no_interface.iter().map(|why| Finding::fail("interface", why.clone()));
    let there = of(facts, |Interface { device, .. }, name| {
        Finding::ok("interface", format!("{name} ({}), {}", device.driver, device.mac))
    });
    let all: Vec<Finding> = missing.chain(there).collect();
    if all.is_empty() { vec![Finding::ok("interface", "not checked")] } else { all }
}

pub fn link(facts: &Facts) -> Vec<Finding> {
    of(facts, |interface, name| match (interface.up, interface.carrier) {
        (false, _) => Finding::fail("link", format!("{name} is down")).mend(format!("ip link set {name} up")),
        (true, Some(false)) => {
            Finding::fail("link", format!("{name} has no carrier: check the cable, and whether the other end is up"))
        }
        (true, _) => Finding::ok("link", format!("{name} is up")),
    })
}

pub fn master(facts: &Facts) -> Vec<Finding> {
    of(facts, |interface, name| match &interface.master {
        None => Finding::ok("master", format!("{name} is not a port of a bridge or bond")),
        Some(master) => {
            let why = format!(
                "{name} is a port of {master}: the addresses and routes of this host are not on the interface where frames arrive"
            );
            Finding::fail("master", why).mend(format!("ip link set {name} nomaster"))
        }
    })
}

pub fn mtu(facts: &Facts) -> Vec<Finding> {
    let is_af_xdp = engine(facts) == Some(Engine::AfXdp);
    of(facts, |interface, name| {
        let most = if is_af_xdp { interface.device.largest_mtu() } else { u32::MAX };
        match interface.device.mtu {
            mtu if mtu > most => {
                Finding::fail("mtu", format!("a frame at {name}'s MTU of {mtu} does not fit in AF_XDP's memory"))
                    .mend(format!("ip link set {name} mtu {most}"))
            }
            mtu if mtu < LAN_MTU => {
                let why = format!(
                    "{name} has an MTU of {mtu}, less than that of the LAN: clients' packets of full size are lost"
                );
                Finding::warn("mtu", why).mend(format!("ip link set {name} mtu {LAN_MTU}"))
            }
            mtu => Finding::ok("mtu", mtu.to_string()),
        }
    })
}

/// `ethtool -L`, in the words that the driver takes.
fn set_queues(interface: &Interface, queues: usize) -> String {
    let name = &interface.device.interface;
    match interface.most_combined {
        Some(0) => format!("ethtool -L {name} rx {queues} tx {queues}"),
        _ => format!("ethtool -L {name} combined {queues}"),
    }
}

pub fn queues(facts: &Facts) -> Vec<Finding> {
    let (listed, available) =
        (dispatcher(facts).and_then(|dispatcher| dispatcher.cores.as_ref()), &facts.cores.available);
    of(facts, |interface, name| {
        // A virtio_net keeps spare ones for what programs send.
        let spares = interface.device.driver == "virtio_net";
        let (transmit, all) = (interface.device.queues, interface.device.receive_queues);
        let queues = if spares { transmit } else { all };
        let workers = facts.running.as_ref().filter(|_| facts.dispatches()).map(|running| running.status.workers.len());
        // Of several interfaces a worker serves more than one queue, and `queues` leaves some to the program on purpose.
        let is_plain =
            dispatcher(facts).is_none_or(|it| it.others.is_empty() && it.queues.iter().all(|of| of.count.is_none()));
        let assigned = assigned_to(facts, interface);
        if let (Some(workers), Some(Ok(_))) = (workers.filter(|_| is_plain), &assigned)
            && (queues as usize) > workers
        {
            let why = format!(
                "{name} has {queues} receive queues, but only {workers} have a worker: packets of the others are lost"
            );
            return Finding::fail("queues", why).mend(set_queues(interface, workers));
        }
        match assigned {
            Some(_) if transmit < queues => {
                let why = format!(
                    "{name} has {queues} receive queues and {transmit} transmit queues: a worker needs one of each"
                );
                Finding::fail("queues", why).mend(set_queues(interface, transmit as usize))
            }
            Some(Err(error)) => {
                let why = error.to_string();
                let fits = listed.map_or(available.len(), Vec::len);
                let why = why.split_once("; ").map_or(why.as_str(), |(why, _)| why).to_owned();
                match listed.is_some_and(|listed| listed.iter().any(|core| !available.contains(core))) {
                    true => Finding::fail("queues", format!("{why}: list other cores in `cores`")),
                    false => Finding::fail("queues", why).mend(set_queues(interface, fits)),
                }
            }
            Some(Ok(cores)) => Finding::ok(
                "queues",
                format!("{queues}, with workers on cores {}", crate::host::cores::list_distinct(&cores)),
            ),
            None => Finding::ok("queues", queues.to_string()),
        }
    })
}

pub fn native(facts: &Facts) -> Vec<Finding> {
    if engine(facts) == Some(Engine::Dpdk) {
        return Vec::new();
    }
    let xdp = dispatcher(facts).and_then(|dispatcher| dispatcher.xdp);
    of(facts, |interface, name| {
        let driver = &interface.device.driver;
        match (interface.features.is_known(), interface.features.is_native(), xdp) {
            (_, true, Some(Xdp::Generic)) => Finding::warn(
                "xdp",
                format!(
                    "[dispatcher] has xdp = \"generic\", but {driver} supports native XDP, which is much faster: remove the key"
                ),
            ),
            (true, false, Some(Xdp::Native)) => Finding::fail(
                "xdp",
                format!(
                    "[dispatcher] has xdp = \"native\", but {driver} does not support XDP with the current settings of {name}"
                ),
            ),
            (true, false, _) => Finding::warn(
                "xdp",
                format!(
                    "{driver} does not support XDP with the current settings of {name}: the kernel uses generic XDP, which is slow"
                ),
            ),
            (true, true, _) => Finding::ok("xdp", format!("{driver} runs XDP programs")),
            (false, ..) => Finding::ok("xdp", "this kernel does not report it (it is older than 6.3)"),
        }
    })
}

pub fn zero_copy(facts: &Facts) -> Vec<Finding> {
    if engine(facts) != Some(Engine::AfXdp) {
        return Vec::new();
    }
    of(facts, |interface, _| {
        let driver = &interface.device.driver;
        match (interface.features.is_known(), interface.features.zero_copies()) {
            (true, false) => Finding::warn(
                "zero_copy",
                format!(
                    "{driver} has no AF_XDP zero copy: each frame is copied twice; engine = \"xdp\" is faster here"
                ),
            ),
            (true, true) => Finding::ok("zero_copy", format!("{driver} has it")),
            (false, _) => Finding::ok("zero_copy", "this kernel does not report it (it is older than 6.3)"),
        }
    })
}

pub fn transmits(facts: &Facts) -> Vec<Finding> {
    let generic = dispatcher(facts).and_then(|dispatcher| dispatcher.xdp) == Some(Xdp::Generic);
    if engine(facts) != Some(Engine::Xdp) || generic {
        return Vec::new();
    }
    of(facts, |interface, name| {
        match interface.device.driver == "veth" && !interface.features.transmits() {
        true => Finding::warn(
            "xdp_transmit",
            format!(
                "{name} is a veth whose other end has no GRO, or got it before it was up: native XDP may send nothing there; PEER \
                 is the other end"
            ),
        )
        .mend(MEND_VETH),
        false => Finding::ok("xdp_transmit", "frames that the program forwards are sent"),
    }
    })
}

pub fn program(facts: &Facts) -> Vec<Finding> {
    let dispatches = facts.dispatches();
    of(facts, |interface, name| match interface.program {
        None if dispatches && engine(facts) != Some(Engine::Dpdk) => {
            let why =
                format!("a dispatcher runs, but its program is not on {name}: nothing is dispatched; restart oneip");
            Finding::fail("xdp_program", why)
        }
        None => Finding::ok("xdp_program", format!("no XDP program is on {name}")),
        Some(_) if dispatches => Finding::ok("xdp_program", "the dispatcher's"),
        Some(number) if interface.program_is_ours => Finding::ok(
            "xdp_program",
            format!("program {number}, which an earlier dispatcher left; the next one takes it over"),
        ),
        Some(number) => {
            let why = format!(
                "XDP program {number} is on {name}, but does not belong to a dispatcher: `oneip run` refuses to start"
            );
            Finding::fail("xdp_program", why).mend(format!("ip link set dev {name} xdp off"))
        }
    })
}

pub fn ring(facts: &Facts) -> Vec<Finding> {
    of(facts, |interface, name| match interface.ring {
        Some((now, most)) if now < RING_GOOD && now < most => {
            let why =
                format!("a receive ring of {name} holds {now} frames, but could hold {most}: short bursts are lost");
            Finding::warn("ring", why).mend(format!("ethtool -G {name} rx {}", most.min(4096)))
        }
        Some((now, _)) => Finding::ok("ring", format!("{now} frames")),
        None => Finding::ok("ring", "the driver has no ring size to set"),
    })
}

pub fn rss(facts: &Facts) -> Vec<Finding> {
    of(facts, |interface, name| match &interface.spread_over {
        Some(used) if used.len() < interface.device.queues as usize && interface.device.queues > 1 => {
            let why =
                format!("RSS spreads packets over only {} of {} queues of {name}", used.len(), interface.device.queues);
            Finding::warn("rss", why).mend(format!("ethtool -X {name} equal {}", interface.device.queues))
        }
        Some(used) => Finding::ok("rss", format!("over {} queues", used.len())),
        None => Finding::ok("rss", "the driver has no RSS"),
    })
}

pub fn flow_rules(facts: &Facts) -> Vec<Finding> {
    of(facts, |interface, name| match interface.flow_rules {
        Some(0) | None => Finding::ok("flow_rules", "none"),
        Some(count) => {
            let why = format!(
                "{count} rules of {name} override RSS for some flows (ethtool -n {name}): one queue may get too many clients"
            );
            Finding::warn("flow_rules", why).mend(format!("ethtool -K {name} ntuple off"))
        }
    })
}

pub fn gro(facts: &Facts) -> Vec<Finding> {
    // In the driver, XDP comes before GRO.
    let generic = dispatcher(facts).is_some_and(|dispatcher| dispatcher.xdp == Some(Xdp::Generic));
    of(facts, |interface, name| match interface.gro {
        Some(true) if generic || !interface.features.is_native() => {
            let why = format!(
                "the kernel merges packets on {name} before generic XDP sees them (GRO): packets longer than the MTU are lost"
            );
            Finding::warn("gro", why).mend(format!("ethtool -K {name} gro off"))
        }
        _ => Finding::ok("gro", "it causes no loss here"),
    })
}

pub fn lro(facts: &Facts) -> Vec<Finding> {
    of(facts, |interface, name| match interface.lro {
        Some(true) => {
            let why = format!(
                "{name} merges packets itself (LRO): packets longer than the MTU are lost, and XDP may be refused"
            );
            Finding::fail("lro", why).mend(format!("ethtool -K {name} lro off"))
        }
        _ => Finding::ok("lro", "off"),
    })
}

pub fn vlan_stripping(facts: &Facts) -> Vec<Finding> {
    of(facts, |interface, name| match interface.device.strips_vlan_tags {
        Some(true) => {
            let why = format!(
                "{name} removes VLAN tags from received frames: frames of a VLAN are forwarded without their tag"
            );
            Finding::warn("vlan_stripping", why).mend(format!("ethtool -K {name} rxvlan off"))
        }
        Some(false) => Finding::ok("vlan_stripping", "off"),
        None => Finding::ok("vlan_stripping", "the driver does not report it"),
    })
}
