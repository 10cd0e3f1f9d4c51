//! What must hold on the dispatcher's own host.

pub mod clock;
pub mod cores;
pub mod lock;
pub mod privileges;
pub mod supervisor;

use crate::server::{self, Held};
use std::fs;
use std::net::IpAddr;

/// What is wrong with the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error(
        "this host has the cluster address {address} itself, so that its kernel would answer clients; remove it: \
         ip address del {address}/{prefix} dev {interface}"
    )]
    ClusterAddress { address: IpAddr, prefix: u8, interface: String },
    #[error(transparent)]
    Addresses(#[from] server::Error),
}

/// Refuses a host that holds a cluster address, and warns of one that would forward or redirect what oneip leaves to the
/// kernel while it starts or stops. Not to be called inside an async runtime.
pub fn check(cluster_addresses: &[IpAddr]) -> Result<(), HostError> {
    if let Some(held) = server::held()?.into_iter().find(|held| cluster_addresses.contains(&held.address)) {
        let Held { address, prefix, interface, .. } = held;
        return Err(HostError::ClusterAddress { address, prefix, interface });
    }
    for (family, key) in [("IPv4", "ipv4/ip_forward"), ("IPv6", "ipv6/conf/all/forwarding")] {
        if fs::read_to_string(format!("/proc/sys/net/{key}")).is_ok_and(|value| value.trim() != "0") {
            let sysctl = format!("net.{}", key.replace('/', "."));
            tracing::warn!(
                "this host forwards {family}: while oneip is not running it sends clients' packets back to the router; \
                 unless it must be a router: sysctl -w {sysctl}=0"
            );
        }
    }
    Ok(())
}
