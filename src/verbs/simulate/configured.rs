//! Our own selection, by the tables that the data path reads.

use super::change::{Change, Moves, Scheme, loads};
use super::clients::{Client, Clients, Group, Load};
use crate::hash;
use crate::model::{Plan, Selection, Server, Service};
use crate::table::build::{Cluster, State};
use crate::table::{ServiceId, ServiceTable};

/// The only service of the clusters here.
const SERVICE: ServiceId = 0;

pub struct Configured<'a> {
    clients: &'a Clients,
    /// Clients of one slot, and for `modulo` one remainder.
    groups: Vec<Group>,
    servers: usize,
    cluster: Cluster,
    now: ServiceTable,
    /// With one server more.
    grown: Option<ServiceTable>,
}

impl<'a> Configured<'a> {
    pub fn new(plan: &Plan, service: &Service, added: Option<&Server>, clients: &'a Clients) -> Configured<'a> {
        let cluster = cluster(plan, service.clone());
        let servers = service.servers.len();
        let grown = added.map(|added| {
            let mut grown = service.clone();
            grown.servers.push(added.clone());
            self::cluster(plan, grown).service(SERVICE)
        });
        let remainder = |client: &Client| match service.selection {
            Selection::Modulo => (client.number % servers as u128) as u32,
            Selection::Maglev => 0,
        };
        let groups = clients.groups(|client| (hash::slot(client.hash, service.slots), remainder(client)));
        let now = cluster.service(SERVICE);
        Configured { clients, groups, servers, cluster, now, grown }
    }

    /// Whose client it is.
    pub fn server(&self, client: &Client) -> u16 {
        self.owner(client.hash, client.number)
    }

    fn owner(&self, hash: u64, number: u128) -> u16 {
        self.now.select(hash, number).1.expect("a server takes clients")
    }

    fn without(&mut self, out: &[u16], state: State) -> ServiceTable {
        let mut states = vec![State::Active; self.servers];
        out.iter().for_each(|server| states[*server as usize] = state);
        self.cluster.set_states(SERVICE, &states, 0, 0);
        self.cluster.service(SERVICE)
    }
}

/// Who owns what depends on a service alone, not on those beside it.
pub fn cluster(plan: &Plan, service: Service) -> Cluster {
    Cluster::new(&Plan { services: vec![service], ..plan.clone() })
}

impl Scheme for Configured<'_> {
    fn name(&self) -> &'static str {
        "oneip"
    }

    fn loads(&self) -> Vec<Load> {
        loads(self.servers, self.groups.iter().map(|group| (self.owner(group.hash, group.number), group.load)))
    }

    fn tell(&mut self, change: &Change, moves: &mut Moves) {
        let after = match change {
            Change::Fail(out) => self.without(out, State::Down),
            Change::Drain(out) => self.without(out, State::Draining),
            Change::Add => {
                let grown = self.grown.as_ref().expect("a server is added where there is one to add");
                for client in &self.clients.all {
                    let (_, to) = grown.select(client.hash, client.number);
                    moves.note(self.server(client), to, client.load());
                }
                return;
            }
        };
        for Group { number, hash, load } in &self.groups {
            moves.note(self.owner(*hash, *number), after.select(*hash, *number).1, *load);
        }
    }
}
