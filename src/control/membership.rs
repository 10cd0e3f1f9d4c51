//! Who the servers are at this moment: where each is (`neighbours`), and whether it serves (`health`). Turns what those two
//! tell into tables for the workers.

use super::clock;
use super::health::{self, Health, What};
use super::neighbours::{self, Neighbours, What as Whereabouts};
use crate::limits::QUIET;
use crate::plan::Plan;
use crate::table::cluster::{Cluster, Standing};
use crate::table::{ServiceId, Table};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::timeout;

/// Why the servers cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error(transparent)]
    Neighbours(#[from] neighbours::Error),
    /// Servers that are not next to the dispatcher, one a line.
    #[error("{0}")]
    OffLink(String),
    #[error(transparent)]
    Health(#[from] health::Error),
}

/// Follows the servers of a plan. Needs `CAP_NET_ADMIN` as long as it lives, and a tokio runtime with time and I/O.
pub struct Membership {
    plan: Arc<Plan>,
    cluster: Cluster,
    /// Servers that the command line takes as down.
    down: Vec<String>,
    /// `None`: every MAC is in the configuration.
    neighbours: Option<Neighbours>,
    /// `None`: no service is checked.
    health: Option<Health>,
}

impl Membership {
    /// Resolves the servers that have no `mac` in the configuration, begins to check those of services with health checks,
    /// and waits for answers as long as they keep coming: after a restart, one server that is dead shall not keep all clients
    /// waiting. `cluster` has the servers in `down` down already.
    ///
    /// # Errors
    /// A server is not on the interface's link, or the kernel refuses; the kernel has back then what was asked of it.
    pub async fn open(
        plan: &Arc<Plan>,
        interface: &str,
        cluster: Cluster,
        down: &[String],
    ) -> Result<Membership, MembershipError> {
        let (plan, down) = (Arc::clone(plan), down.to_vec());
        let mut membership = Membership { plan, cluster, down, neighbours: None, health: None };
        let opened = membership.start(interface).await;
        if let Err(error) = opened {
            membership.close().await;
            return Err(error);
        }
        Ok(membership)
    }

    async fn start(&mut self, interface: &str) -> Result<(), MembershipError> {
        let unresolved: BTreeMap<IpAddr, String> = self
            .plan
            .services
            .iter()
            .flat_map(|service| &service.servers)
            .filter(|server| server.mac.is_none())
            .map(|server| (server.address, server.name.clone()))
            .collect();
        let wanted: Vec<(String, IpAddr)> = unresolved.into_iter().map(|(address, name)| (name, address)).collect();
        if !wanted.is_empty() {
            self.resolve(interface, &wanted).await?;
        }
        if self.plan.services.iter().any(|service| service.health.is_some()) {
            let plan = Arc::clone(&self.plan);
            self.health = Some(Health::open(&plan, interface).await?);
            wanted.iter().for_each(|(_, address)| self.tell_mac(*address));
            self.first_verdicts().await;
        }
        Ok(())
    }

    async fn resolve(&mut self, interface: &str, wanted: &[(String, IpAddr)]) -> Result<(), MembershipError> {
        let neighbours = self.neighbours.insert(Neighbours::open(interface, wanted).await?);
        let off_link: Vec<String> = neighbours.off_link().iter().map(ToString::to_string).collect();
        if !off_link.is_empty() {
            return Err(MembershipError::OffLink(off_link.join("\n")));
        }
        while wanted.iter().any(|(_, address)| neighbours.mac(*address).is_none()) {
            let Ok(changes) = timeout(QUIET, neighbours.next()).await else { break };
            if changes?.iter().all(|change| matches!(change.what, Whereabouts::Unresolved(_))) {
                break;
            }
        }
        for (name, address) in wanted {
            if neighbours.mac(*address).is_none() {
                tracing::warn!(
                    "server {name} {address} is not resolved yet: its clients' frames are dropped until it is"
                );
            }
        }
        wanted.iter().for_each(|(_, address)| self.tell_mac(*address));
        Ok(())
    }

    /// Waits for verdicts of checked servers as long as they keep coming: those without one count as up.
    async fn first_verdicts(&mut self) {
        while let Some(health) = self.health.as_mut().filter(|health| health.pending() > 0) {
            let Ok(changes) = timeout(QUIET, health.next()).await else { break };
            self.judge(&changes);
        }
    }

    /// The table of the present state, one generation on.
    pub fn table(&mut self) -> Table {
        self.cluster.compile()
    }

    /// Waits for a change that concerns the data path, and returns its table. Cancel-safe.
    ///
    /// # Errors
    /// The neighbours cannot be followed any more.
    pub async fn next(&mut self) -> Result<Table, MembershipError> {
        loop {
            let moved = tokio::select! {
                changes = next_neighbours(&mut self.neighbours) => self.locate(&changes?),
                changes = next_verdicts(&mut self.health) => self.judge(&changes),
            };
            if moved {
                return Ok(self.table());
            }
        }
    }

    fn locate(&mut self, changes: &[neighbours::Change]) -> bool {
        for change in changes {
            tracing::info!("{change}");
            self.tell_mac(change.address);
        }
        !changes.is_empty()
    }

    /// Takes servers up and down as their checks say. Whether that changed anything.
    fn judge(&mut self, changes: &[health::Change]) -> bool {
        let Some(health) = &self.health else { return false };
        let mut changed = 0;
        for change in changes {
            match change.what {
                What::Up { .. } | What::NotAllDown => tracing::info!("{change}"),
                _ => tracing::warn!("{change}"),
            }
            let servers = &self.plan.services[change.service].servers;
            let may: Vec<bool> = servers.iter().map(|s| s.weight > 0 && !self.down.contains(&s.name)).collect();
            let serving = health.serving(change.service, &may);
            let standings: Vec<Standing> =
                serving.iter().map(|serves| if *serves { Standing::Taking } else { Standing::Out }).collect();
            let now = clock::now_ns();
            let until = now + 600_000_000_000;
            changed += usize::from(self.cluster.set_standings(change.service as ServiceId, &standings, now, until));
        }
        changed > 0
    }

    /// Passes on what the neighbour table says of an address.
    fn tell_mac(&mut self, address: IpAddr) {
        let mac = self.neighbours.as_ref().and_then(|neighbours| neighbours.mac(address));
        self.cluster.set_mac(address, mac);
        if let Some(health) = &mut self.health {
            health.set_mac(address, mac);
        }
    }

    /// Gives the kernel back what was asked of it: neighbour entries, rules and routes.
    pub async fn close(&mut self) {
        if let Some(health) = self.health.take()
            && let Err(error) = health.close().await
        {
            tracing::warn!(%error, "rules and routes of health checks stay behind; the next start removes them");
        }
        if let Some(neighbours) = self.neighbours.take()
            && let Err(error) = neighbours.close().await
        {
            tracing::warn!(%error, "entries for the servers stay in the kernel's neighbour table");
        }
    }
}

async fn next_neighbours(neighbours: &mut Option<Neighbours>) -> Result<Vec<neighbours::Change>, neighbours::Error> {
    match neighbours {
        Some(neighbours) => neighbours.next().await,
        None => std::future::pending().await,
    }
}

async fn next_verdicts(health: &mut Option<Health>) -> Vec<health::Change> {
    match health {
        Some(health) => health.next().await,
        None => std::future::pending().await,
    }
}
