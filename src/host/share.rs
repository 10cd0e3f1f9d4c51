//! Which worker serves which queues of which interfaces.

use super::cores::{self, CoresError};
use crate::limits::MAX_PORT_QUEUES;
use crate::model::Dispatcher;

/// Why queues cannot be shared out as the configuration says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShareError {
    #[error(
        "`queues` of {interface} is {asked}, and it has {has}; write at most that, or leave `queues` out, or: ethtool -L {interface} combined \
         {asked}"
    )]
    Few { interface: String, asked: u32, has: u32 },
    #[error(transparent)]
    Cores(#[from] CoresError),
    #[error(
        "a worker would serve {count} queues; at most {MAX_PORT_QUEUES} are possible: write `queues` in each [[dispatcher.interface]]"
    )]
    Many { count: usize },
}

/// Queues of a worker, each of the interface at a position.
pub type QueuesOf = Vec<(usize, u32)>;

/// What each worker serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// By worker.
    pub workers: Vec<QueuesOf>,
    /// The core of each, where the configuration says it by interface.
    pub cores: Option<Vec<usize>>,
    /// Queues that workers serve, by interface.
    pub queues: Vec<u32>,
    /// The interface with the fewest.
    pub fewest: String,
}

impl Share {
    /// To send by each interface, a worker needs a queue of each. So there are as many workers as the interface with the fewest has queues,
    /// and queues of the same number are the same worker's; or as many as cores are listed for the interfaces. `has` is how many queues
    /// there are, by interface.
    ///
    /// # Errors
    /// An interface has too few.
    pub fn new(dispatcher: &Dispatcher, has: &[u32]) -> Result<Share, ShareError> {
        let mut queues = Vec::with_capacity(has.len());
        for ((interface, settings), has) in dispatcher.interfaces().zip(&dispatcher.queues).zip(has) {
            if let Some(asked) = settings.count.filter(|asked| asked > has) {
                return Err(ShareError::Few { interface: interface.to_owned(), asked, has: *has });
            }
            let count = settings.count.unwrap_or(*has);
            if let Some(listed) = settings.cores.as_ref().map(Vec::len).filter(|listed| *listed > count as usize) {
                let (interface, queues) = (interface.to_owned(), count as usize);
                return Err(CoresError::Count { interface, queues, listed }.into());
            }
            queues.push(count);
        }
        let few = dispatcher.interfaces().zip(&queues).min_by_key(|(_, count)| **count);
        let fewest = few.map_or_else(|| dispatcher.interface.clone(), |(interface, _)| interface.to_owned());
        let share = match by_cores(dispatcher, &queues) {
            Some((cores, workers)) => Share { workers, cores: Some(cores), queues, fewest },
            None => Share { workers: by_number(&queues), cores: None, queues, fewest },
        };
        match share.workers.iter().map(Vec::len).max().filter(|count| *count > MAX_PORT_QUEUES) {
            Some(count) => Err(ShareError::Many { count }),
            None => Ok(share),
        }
    }

    /// Of interfaces that have so many queues each: a worker has that of its number of each.
    pub fn alike(interfaces: &[&str], queues: u32) -> Share {
        let queues = vec![queues; interfaces.len()];
        Share { workers: by_number(&queues), cores: None, queues, fewest: interfaces[0].to_owned() }
    }

    /// The core of each worker, of those that this process may use.
    ///
    /// # Errors
    /// There are more of them in the configuration than workers, or such as may not be used.
    pub fn assign(
        &self,
        listed: Option<&[usize]>,
        near: &[usize],
        available: &[usize],
    ) -> Result<Vec<usize>, CoresError> {
        let listed = self.cores.as_deref().or(listed);
        cores::assign(&self.fewest, self.workers.len(), listed, near, available)
    }
}

fn by_number(queues: &[u32]) -> Vec<QueuesOf> {
    let workers = queues.iter().copied().min().unwrap_or(0);
    let of = |worker: u32| {
        let of_interface = |(at, count): (usize, &u32)| {
            (worker..*count).step_by(workers as usize).map(move |queue| (at, queue)).collect::<Vec<_>>()
        };
        queues.iter().enumerate().flat_map(of_interface).collect()
    };
    (0..workers).map(of).collect()
}

/// A worker a core, if cores are listed by interface: the queues of an interface go to its cores in turn.
fn by_cores(dispatcher: &Dispatcher, queues: &[u32]) -> Option<(Vec<usize>, Vec<QueuesOf>)> {
    let cores = dispatcher.queues.first()?.cores.clone()?;
    let mut workers = vec![Vec::new(); cores.len()];
    for (at, (settings, count)) in dispatcher.queues.iter().zip(queues).enumerate() {
        let of_interface = settings.cores.iter().flatten().cycle();
        for (queue, core) in (0..*count).zip(of_interface) {
            workers[cores.iter().position(|known| known == core)?].push((at, queue));
        }
    }
    Some((cores, workers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Engine, Idle, PINS, Queues};
    use std::time::Duration;

    /// With interfaces of which so much is said.
    fn dispatcher(queues: &[Queues]) -> Dispatcher {
        let mut names = (1..=queues.len()).map(|number| format!("eth{number}"));
        Dispatcher {
            interface: names.next().expect("there is one"),
            others: names.collect(),
            queues: queues.to_vec(),
            engine: Engine::AfXdp,
            cores: None,
            idle: Idle::Poll,
            flows: 0,
            heartbeat: Duration::ZERO,
            xdp: None,
            pins: PINS.into(),
            dpdk: None,
            source: Vec::new(),
            mtu: None,
            gateway_mac: None,
            limit_sources: 0,
        }
    }

    fn all() -> Queues {
        Queues::default()
    }

    fn only(count: u32) -> Queues {
        Queues { count: Some(count), cores: None }
    }

    fn on(cores: [usize; 2]) -> Queues {
        Queues { count: None, cores: Some(cores.into()) }
    }

    fn share(queues: &[Queues], has: &[u32]) -> Result<Share, ShareError> {
        Share::new(&dispatcher(queues), has)
    }

    #[test]
    fn each_worker_has_a_queue_of_each_interface_and_each_queue_one_worker() {
        let workers = |queues: &[Queues], has: &[u32]| share(queues, has).expect("it can be shared").workers;
        assert_eq!(workers(&[all()], &[2]), [[(0, 0)], [(0, 1)]], "of one interface, a worker a queue");
        assert_eq!(workers(&[all(), all()], &[2, 2]), [[(0, 0), (1, 0)], [(0, 1), (1, 1)]]);
        assert_eq!(workers(&[all(), all()], &[1, 3]), [[(0, 0), (1, 0), (1, 1), (1, 2)]]);
        let five = [vec![(0, 0), (0, 2), (0, 4), (1, 0)], vec![(0, 1), (0, 3), (1, 1)]];
        assert_eq!(workers(&[all(), all()], &[5, 2]), five);
        assert_eq!(workers(&[only(1), all()], &[4, 2]), [[(0, 0), (1, 0), (1, 1)]], "the others are the program's");
    }

    #[test]
    fn cores_by_interface_have_its_queues_in_turn() {
        let found = share(&[on([2, 3]), on([3, 2])], &[3, 2]).expect("it can be shared");
        assert_eq!(found.cores, Some(vec![2, 3]));
        assert_eq!(found.workers, [vec![(0, 0), (0, 2), (1, 1)], vec![(0, 1), (1, 0)]]);
        assert_eq!(found.assign(None, &[], &[0, 1, 2, 3]), Ok(vec![2, 3]));
        assert!(found.assign(None, &[], &[0, 1]).is_err());
    }

    #[test]
    fn what_does_not_fit_says_which_interface_has_too_few() {
        let said = |queues: &[Queues], has: &[u32]| share(queues, has).unwrap_err().to_string();
        assert!(said(&[only(4)], &[2]).starts_with("`queues` of eth1 is 4, and it has 2; write at most that"));
        let cores = on([1, 2]);
        assert!(
            said(&[cores.clone(), cores], &[2, 1]).starts_with("`cores` lists 2 cores, but eth2 has 1 receive queue")
        );
        assert_eq!(
            said(&[all(), all()], &[1, 256]),
            "a worker would serve 257 queues; at most 256 are possible: write `queues` in each [[dispatcher.interface]]"
        );
    }
}
