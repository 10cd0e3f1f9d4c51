//! What must hold on the dispatcher's own host.

use futures::stream::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;

/// What is wrong with the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error(
        "the cluster address {address} is an address of this host's, which would then answer clients itself; remove it: \
         ip address del {address}/{} dev DEVICE (`ip address show to {address}` names the device)",
        if address.is_ipv4() { 32 } else { 128 }
    )]
    ClusterAddress { address: IpAddr },
    #[error("this host's addresses cannot be listed: {0}")]
    Netlink(String),
}

/// Refuses a host that holds a cluster address, and warns of one that would forward or redirect what oneip leaves to the
/// kernel while it starts or stops.
pub async fn check(cluster_addresses: &[IpAddr]) -> Result<(), HostError> {
    let own = addresses().await?;
    if let Some(address) = cluster_addresses.iter().find(|address| own.contains(address)) {
        return Err(HostError::ClusterAddress { address: *address });
    }
    for (family, key) in [("IPv4", "ipv4/ip_forward"), ("IPv6", "ipv6/conf/all/forwarding")] {
        let on = fs::read_to_string(format!("/proc/sys/net/{key}")).is_ok_and(|value| value.trim() != "0");
        if on {
            let sysctl = format!("net.{}", key.replace('/', "."));
            tracing::warn!(
                "this host forwards {family}: while oneip is not running it sends clients' packets back to the router; \
                 unless it must be a router: sysctl -w {sysctl}=0"
            );
        }
    }
    Ok(())
}

/// All addresses of this host.
pub async fn addresses() -> Result<HashSet<IpAddr>, HostError> {
    let failed = |error: &dyn std::fmt::Display| HostError::Netlink(error.to_string());
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let messages: Vec<_> = handle.address().get().execute().try_collect().await.map_err(|error| failed(&error))?;
    let of = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) | AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    Ok(messages.iter().flat_map(|message| message.attributes.iter().filter_map(of)).collect())
}
