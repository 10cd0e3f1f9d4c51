//! A change of the cluster, and whom it moves.

use super::clients::Load;

/// Servers are positions in the service.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// These fail.
    Fail(&'a [u16]),
    /// These take no new clients; the connections that they have stay.
    Drain(&'a [u16]),
    /// One joins, behind the others.
    Add,
}

impl Change<'_> {
    /// Who takes no clients any more.
    pub fn out(&self) -> &[u16] {
        match self {
            Change::Fail(out) | Change::Drain(out) => out,
            Change::Add => &[],
        }
    }
}

/// What a change moves.
pub struct Moves {
    added: Option<u16>,
    out: Vec<u16>,
    pub moved: Load,
    /// What of that moved between servers of which neither left nor came.
    pub healthy: Load,
    /// What servers have received.
    pub to: Vec<Load>,
    /// What nobody has any more.
    pub nobody: Load,
    /// What servers have afterwards.
    pub after: Vec<Load>,
}

impl Moves {
    /// Nothing yet, from what the servers had before. An added server stands behind them.
    pub fn new(change: &Change, before: &[Load]) -> Moves {
        let added = matches!(change, Change::Add).then_some(before.len() as u16);
        let mut after = before.to_vec();
        after.resize(before.len() + added.iter().len(), Load::default());
        let (to, none) = (vec![Load::default(); after.len()], Load::default());
        Moves { added, out: change.out().to_vec(), moved: none, healthy: none, to, nobody: none, after }
    }

    /// Notes who had some clients, and who has them now.
    pub fn note(&mut self, from: u16, to: Option<u16>, load: Load) {
        if to == Some(from) {
            return;
        }
        self.moved += load;
        let before = &mut self.after[from as usize];
        *before = *before - load;
        match to {
            Some(to) => {
                self.to[to as usize] += load;
                self.after[to as usize] += load;
            }
            None => self.nobody += load,
        }
        if to.is_some() && to != self.added && !self.out.contains(&from) {
            self.healthy += load;
        }
    }
}

/// A way to give clients to servers.
pub trait Scheme: Send {
    fn name(&self) -> &'static str;

    /// What each server has.
    fn loads(&self) -> Vec<Load>;

    /// Tells who has clients before and after a change: at least of those that move.
    fn tell(&mut self, change: &Change, moves: &mut Moves);
}

/// What servers have, of who has what.
pub fn loads(servers: usize, owned: impl Iterator<Item = (u16, Load)>) -> Vec<Load> {
    let mut loads = vec![Load::default(); servers];
    owned.for_each(|(server, load)| loads[server as usize] += load);
    loads
}
