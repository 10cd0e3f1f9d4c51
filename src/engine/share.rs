//! Which worker serves which queues of which interfaces.

use crate::host::cores::{self, CoresError};
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
        "a worker would serve {count} queues; at most {most} are possible: write `queues` in each [[dispatcher.interface]]"
    )]
    Many { count: usize, most: usize },
}

/// What each worker serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// By worker: its queues, each of the interface at a position.
    pub workers: Vec<Vec<(usize, u32)>>,
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
    /// there are, by interface; each worker's are at most `most`.
    ///
    /// # Errors
    /// An interface has too few.
    pub fn new(dispatcher: &Dispatcher, has: &[u32], most: usize) -> Result<Share, ShareError> {
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
        match share.workers.iter().map(Vec::len).max().filter(|count| *count > most) {
            Some(count) => Err(ShareError::Many { count, most }),
            None => Ok(share),
        }
    }

    /// Of the one interface that there is: a worker a queue.
    pub fn of_one(interface: &str, queues: u32) -> Share {
        Share { workers: by_number(&[queues]), cores: None, queues: vec![queues], fewest: interface.to_owned() }
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

fn by_number(queues: &[u32]) -> Vec<Vec<(usize, u32)>> {
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
fn by_cores(dispatcher: &Dispatcher, queues: &[u32]) -> Option<(Vec<usize>, Vec<Vec<(usize, u32)>>)> {
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
    use crate::config;

    /// `interfaces`: what stands in the section of each.
    fn dispatcher(interfaces: &[&str]) -> Dispatcher {
        let sections = interfaces.iter().enumerate();
        let sections: String = sections
            .map(|(at, keys)| format!("[[dispatcher.interface]]\nname = \"eth{}\"\n{keys}\n", at + 1))
            .collect();
        let text = format!(
            "[cluster]\nhash_key = \"000102030405060708090a0b0c0d0e0f\"\n{sections}[[service]]\nname = \"web\"\naddress = \
             \"203.0.113.80\"\n[[service.server]]\nname = \"web1\"\naddress = \"192.0.2.11\"\n"
        );
        config::parse(&text, "share.toml").expect("a configuration").plan.dispatcher.expect("it is one of a dispatcher")
    }

    fn share(interfaces: &[&str], has: &[u32]) -> Result<Share, ShareError> {
        Share::new(&dispatcher(interfaces), has, 16)
    }

    #[test]
    fn each_worker_has_a_queue_of_each_interface_and_each_queue_one_worker() {
        let workers = |interfaces: &[&str], has: &[u32]| share(interfaces, has).expect("it can be shared").workers;
        assert_eq!(workers(&[""], &[2]), [[(0, 0)], [(0, 1)]], "of one interface, a worker a queue");
        assert_eq!(workers(&["", ""], &[2, 2]), [[(0, 0), (1, 0)], [(0, 1), (1, 1)]]);
        assert_eq!(workers(&["", ""], &[1, 3]), [[(0, 0), (1, 0), (1, 1), (1, 2)]]);
        let five = [vec![(0, 0), (0, 2), (0, 4), (1, 0)], vec![(0, 1), (0, 3), (1, 1)]];
        assert_eq!(workers(&["", ""], &[5, 2]), five);
        assert_eq!(workers(&["queues = 1", ""], &[4, 2]), [[(0, 0), (1, 0), (1, 1)]], "the others are the program's");
    }

    #[test]
    fn cores_by_interface_have_its_queues_in_turn() {
        let found = share(&["cores = [2, 3]", "cores = [3, 2]"], &[3, 2]).expect("it can be shared");
        assert_eq!(found.cores, Some(vec![2, 3]));
        assert_eq!(found.workers, [vec![(0, 0), (0, 2), (1, 1)], vec![(0, 1), (1, 0)]]);
        assert_eq!(found.assign(None, &[], &[0, 1, 2, 3]), Ok(vec![2, 3]));
        assert!(found.assign(None, &[], &[0, 1]).is_err());
    }

    #[test]
    fn what_does_not_fit_says_which_interface_has_too_few() {
        let said = |interfaces: &[&str], has: &[u32]| share(interfaces, has).unwrap_err().to_string();
        assert!(said(&["queues = 4"], &[2]).starts_with("`queues` of eth1 is 4, and it has 2; write at most that"));
        let cores = "cores = [1, 2]";
        assert!(said(&[cores, cores], &[2, 1]).starts_with("`cores` lists 2 cores, but eth2 has 1 receive queue"));
        assert_eq!(
            said(&["", ""], &[1, 16]),
            "a worker would serve 17 queues; at most 16 are possible: write `queues` in each [[dispatcher.interface]]"
        );
    }
}
