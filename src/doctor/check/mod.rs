//! From facts to findings: a pure function for each thing that is looked at. What is not known is not judged.
//!
//! - `host`: kernel, privileges, clocks; `cores`: which cores, and how they run
//! - `interface`: the NIC; `network`: addresses, routes, rules, neighbours, and what was heard
//! - `running`: a process that dispatches

mod cores;
mod host;
mod interface;
mod network;
mod running;
#[cfg(test)]
mod tests;

use super::facts::Facts;
use crate::admin::finding::Finding;

type Check = fn(&Facts) -> Vec<Finding>;

const HOST: [Check; 15] = [
    host::kernel,
    host::af_xdp,
    host::jit,
    host::capabilities,
    host::memory_lock,
    host::bpf_fs,
    host::huge_pages,
    host::clock_source,
    host::wall_clock,
    host::bpf_stats,
    host::state_dir,
    host::irqbalance,
    cores::governor,
    cores::idle,
    cores::siblings,
];

const DISPATCHER: [Check; 33] = [
    interface::exists,
    interface::link,
    interface::master,
    interface::mtu,
    interface::queues,
    cores::isolated,
    cores::numa,
    cores::interrupts,
    interface::native,
    interface::zero_copy,
    interface::transmits,
    interface::program,
    interface::ring,
    interface::rss,
    interface::flow_rules,
    interface::gro,
    interface::lro,
    interface::vlan_stripping,
    network::heard_unfinished,
    network::heard_redirects,
    network::cluster_address,
    network::forwarding,
    network::ipv6_disabled,
    network::send_redirects,
    network::rp_filter,
    network::proxy_arp,
    network::routes,
    network::vlans,
    network::neighbours,
    network::shared_macs,
    network::neighbour_table,
    network::port_range,
    network::probe_rules,
];

const RUNNING: [Check; 8] = [
    running::process,
    running::reload,
    running::workers,
    running::drops,
    running::servers,
    running::unchecked,
    running::silent,
    running::unwatched,
];

/// Of a filter, or of what unwraps tunnels.
const ON_SERVER: [Check; 6] =
    [running::process, running::filter, running::peers, running::reload, running::drops, running::servers];

/// What runs on a server.
pub fn on_server(facts: &Facts) -> Vec<Finding> {
    ON_SERVER.into_iter().flat_map(|check| check(facts)).collect()
}

/// Everything, in the order in which it is read.
pub fn all(facts: &Facts) -> Vec<Finding> {
    let has_dispatcher = facts.plan.as_ref().is_some_and(|plan| plan.dispatcher.is_some());
    let mut checks = HOST.to_vec();
    if has_dispatcher {
        checks.extend(DISPATCHER);
    }
    checks.extend(RUNNING);
    checks.into_iter().flat_map(|check| check(facts)).collect()
}
