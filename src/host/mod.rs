//! What must hold on the dispatcher's own host.

pub mod clock;
pub mod confine;
pub mod cores;
pub mod document;
pub mod lock;
pub mod privileges;
pub mod share;
pub mod supervisor;

use crate::model::Prefix;
use crate::server::{self, Held};
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

/// Refuses a host that holds a cluster address. Not to be called inside an async runtime.
pub fn check(cluster_addresses: &[Prefix]) -> Result<(), HostError> {
    let is_cluster = |address: IpAddr| cluster_addresses.iter().any(|prefix| prefix.contains(address));
    if let Some(held) = server::held()?.into_iter().find(|held| is_cluster(held.address)) {
        let Held { address, prefix, interface, .. } = held;
        return Err(HostError::ClusterAddress { address, prefix, interface });
    }
    Ok(())
}
