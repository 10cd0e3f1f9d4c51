//! Which core each queue's worker runs on.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use rustix::thread::{CpuSet, sched_setaffinity};
use thiserror::Error;

/// Why queues and cores do not fit together.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CoresError {
    #[error(
        "`cores` lists {listed} cores, but {interface} has {queues} receive queue{}, and a queue is served by one core; list at most \
         {queues}, or: ethtool -L {interface} combined {listed}",
        plural(*queues)
    )]
    Count { interface: String, queues: usize, listed: usize },
    #[error("`cores` lists core {core}, which this process may not use; it may use {available}")]
    Unavailable { core: usize, available: String },
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// A core for each queue, in the order of the queues: the listed ones, or else some of `near` (all of `available` where that is
/// empty). The first core is spared where there are more than enough: it serves most interrupts. Where there are fewer than queues, they
/// take turns, so that each has as many queues as the others, or one more.
pub fn assign(
    interface: &str,
    queues: usize,
    listed: Option<&[usize]>,
    near: &[usize],
    available: &[usize],
) -> Result<Vec<usize>, CoresError> {
    let interface = interface.to_owned();
    if let Some(listed) = listed {
        if let Some(core) = listed.iter().find(|core| !available.contains(core)) {
            return Err(CoresError::Unavailable { core: *core, available: list(available) });
        }
        if listed.len() > queues {
            return Err(CoresError::Count { interface, queues, listed: listed.len() });
        }
        return Ok(listed.iter().copied().cycle().take(queues).collect());
    }
    let mut cores: Vec<usize> =
        available.iter().copied().filter(|core| near.is_empty() || near.contains(core)).collect();
    if cores.is_empty() {
        cores = available.to_vec();
    }
    let spared = usize::from(cores.len() > queues);
    Ok(cores[spared..].iter().copied().cycle().take(queues).collect())
}

/// Keeps this thread, and those that it starts from now on, off the workers' cores, if there are others: a table that is
/// built must not take a worker's time. Returns whether it could.
pub fn leave(workers: &[usize], available: &[usize]) -> bool {
    let mut others = CpuSet::new();
    available.iter().filter(|core| !workers.contains(core)).for_each(|core| others.set(*core));
    others.count() > 0 && sched_setaffinity(None, &others).is_ok()
}

/// The cores that this process may use, as they were when this was asked first: before any thread is pinned, for a pinned thread sees only its
/// own.
pub fn available() -> Vec<usize> {
    static AVAILABLE: OnceLock<Vec<usize>> = OnceLock::new();
    let ask = || core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    AVAILABLE.get_or_init(ask).clone()
}

/// `0-3,8`
pub fn list(cores: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for core in cores {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *core => *last = *core,
            _ => ranges.push((*core, *core)),
        }
    }
    let range = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

/// As `list`, each once.
pub fn list_distinct(cores: &[usize]) -> String {
    list(&cores.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>())
}

/// What `list` writes, in any order. `None`: it is something else, nothing for one.
pub fn parse(list: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        // The kernel has far fewer.
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        if first > last {
            return None;
        }
        cores.extend((first..=last).map(usize::from));
    }
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_is_written() {
        for cores in [vec![7], vec![0, 1, 2, 3, 8], vec![5, 3, 4], vec![1, 1], vec![65_535]] {
            assert_eq!(parse(&list(&cores)), Some(cores));
        }
        for text in ["", ",", "1,", "a", "3-1", "1-2-3", "-1", "1 2", "65536", "0-99999999999"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn listed_cores_are_taken_in_their_order() {
        assert_eq!(assign("eth1", 2, Some(&[3, 1]), &[], &[0, 1, 2, 3]), Ok(vec![3, 1]));
        assert_eq!(assign("eth1", 5, Some(&[3, 1]), &[], &[0, 1, 2, 3]), Ok(vec![3, 1, 3, 1, 3]), "they take turns");
    }

    #[test]
    fn the_cores_near_the_nic_are_the_default_and_the_first_is_spared() {
        assert_eq!(assign("eth1", 2, None, &[4, 5, 6, 7], &[0, 1, 2, 3, 4, 5, 6, 7]), Ok(vec![5, 6]));
        assert_eq!(assign("eth1", 2, None, &[], &[0, 1]), Ok(vec![0, 1]));
        assert_eq!(assign("eth1", 1, None, &[], &[0, 1]), Ok(vec![1]));
        assert_eq!(assign("eth1", 8, None, &[], &[0, 1]), Ok(vec![0, 1, 0, 1, 0, 1, 0, 1]), "more queues than cores");
    }

    #[test]
    fn what_does_not_fit_says_what_to_do() {
        let message =
            |listed: Option<&[usize]>, queues| assign("eth1", queues, listed, &[], &[0, 1, 2]).unwrap_err().to_string();
        assert_eq!(
            message(Some(&[1, 2]), 1),
            "`cores` lists 2 cores, but eth1 has 1 receive queue, and a queue is served by one core; list at most 1, or: ethtool -L eth1 \
             combined 2"
        );
        assert_eq!(message(Some(&[7]), 1), "`cores` lists core 7, which this process may not use; it may use 0-2");
    }
}
