//! The interface that frames come to: whether its link is up, and whether it still is as it was when the data path was made for
//! it.

use crate::limits::INTERFACE_LOOK;
use crate::model::Mac;
use crate::netlink::links::{self, Link, Look};
use crate::netlink::{self, is};
use rtnetlink::Handle;
use rustix::io::Errno;
use std::fs;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

/// Why the data path serves nobody any more.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    #[error("{interface} was removed, so no frames arrive; restart oneip when it is back")]
    Gone { interface: String },
    #[error(
        "{interface} has another MAC address than at the start, {is} instead of {was}: frames to the new address are \
         not dispatched; restart oneip"
    )]
    Readdressed { interface: String, was: Mac, is: Mac },
    #[error("{interface}: cannot read its state from the kernel: {source}")]
    Kernel { interface: String, source: io::Error },
}

/// So many frames, over so long, of which its program sees none, have not gone by it by accident.
const UNSEEN: u64 = 64;
const UNSEEN_FOR: Duration = Duration::from_secs(5);

/// Whether a program is given what its interfaces receive.
struct Reach {
    is_run: bool,
    /// When the program saw its last frame, and the counts then.
    last: Option<(Instant, Counts)>,
}

/// Frames received, on all interfaces, and frames that their program has seen.
#[derive(Clone, Copy)]
struct Counts {
    received: u64,
    seen: u64,
}

impl Reach {
    const UNKNOWN: Reach = Reach { is_run: true, last: None };

    /// Whether `is_run` has changed by these.
    fn compare(&mut self, now: Instant, counts: Counts) -> bool {
        let (since, before) = *self.last.get_or_insert((now, counts));
        let was_run = self.is_run;
        if counts.seen != before.seen || counts.received < before.received {
            *self = Reach { is_run: true, last: Some((now, counts)) };
        } else if counts.received - before.received >= UNSEEN && now - since >= UNSEEN_FOR {
            self.is_run = false;
        }
        was_run != self.is_run
    }
}

/// An interface of this network namespace.
pub struct InterfaceWatch {
    requests: Handle,
    index: u32,
    /// What the data path was made for. `None`: the frames do not come over the interface, which is a way to the kernel only.
    mac: Option<Mac>,
    /// Receive queues that have a worker; `None` where no worker is needed.
    queues: Option<usize>,
    /// Whether there were more when it was looked last.
    has_more_queues: bool,
    /// As it was seen last.
    seen: Link,
    program: Option<u32>,
    received: u64,
    reach: Reach,
    /// The other interfaces of a dispatcher.
    others: Vec<InterfaceWatch>,
    looks: Interval,
    /// It is time for a look, and all have yet to answer.
    is_due: bool,
    has_looked: bool,
}

impl InterfaceWatch {
    /// `mac` is the address that the data path takes frames to, if they come over this interface, `queues` how many it takes them from, if that
    /// is a question.
    /// Inside a runtime.
    ///
    /// # Errors
    /// There is none of that name, or the kernel refuses.
    pub async fn open(name: &str, mac: Option<Mac>, queues: Option<usize>) -> Result<InterfaceWatch, InterfaceError> {
        let failed = |source| InterfaceError::Kernel { interface: name.to_owned(), source };
        let requests = netlink::requests().map_err(failed)?;
        let all = links::all(&requests).await.map_err(failed)?;
        let found = all.into_iter().find(|(_, link)| link.name == name);
        let (index, seen) = found.ok_or_else(|| InterfaceError::Gone { interface: name.to_owned() })?;
        let mut looks = interval(INTERFACE_LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(InterfaceWatch {
            requests,
            index,
            mac,
            queues,
            has_more_queues: false,
            seen,
            program: None,
            received: 0,
            reach: Reach::UNKNOWN,
            others: Vec::new(),
            looks,
            is_due: false,
            has_looked: false,
        })
    }

    /// Has other interfaces watched as well.
    pub fn with_others(self, others: Vec<InterfaceWatch>) -> InterfaceWatch {
        InterfaceWatch { others, ..self }
    }

    /// This one, and the others.
    pub fn all(&self) -> impl Iterator<Item = &InterfaceWatch> {
        std::iter::once(self).chain(&self.others)
    }

    pub fn name(&self) -> &str {
        &self.seen.name
    }

    /// Administratively up, with carrier.
    pub fn is_up(&self) -> bool {
        self.seen.up
    }

    /// The number of the XDP program that was attached when it was looked last.
    pub fn program(&self) -> Option<u32> {
        self.program
    }

    /// Whether the program that is attached is given what the interfaces receive, as far as `compare` could tell.
    pub fn is_run(&self) -> bool {
        self.reach.is_run
    }

    /// Compares what all interfaces have received with how many frames the program has `seen` on them, which is any number that grows. Whether
    /// `is_run` has changed by that.
    pub fn compare(&mut self, seen: u64) -> bool {
        let received = self.all().map(|interface| interface.received).sum();
        self.reach.compare(Instant::now(), Counts { received, seen })
    }

    /// Waits until a link comes or goes, or another XDP program is attached, and for the first look. Looks once a second, and so misses nothing
    /// that lasts, whatever becomes of notifications. Cancel-safe: of a look that was broken off nothing is noted, and another begins at once.
    ///
    /// # Errors
    /// It is another one now.
    pub async fn next(&mut self) -> Result<(), InterfaceError> {
        loop {
            if !self.is_due {
                self.looks.tick().await;
                self.is_due = true;
            }
            let first = self.ask().await;
            let mut answers = Vec::with_capacity(self.others.len());
            for other in &self.others {
                answers.push(other.ask().await);
            }
            self.is_due = false;
            let mut has_changed = self.note(first)?;
            for (other, answer) in self.others.iter_mut().zip(answers) {
                has_changed |= other.note(answer)?;
            }
            if has_changed {
                return Ok(());
            }
        }
    }

    async fn ask(&self) -> io::Result<Look> {
        links::one(&self.requests, self.index).await
    }

    /// Whether its link has come or gone, or it has another XDP program, or nothing was known of that yet.
    fn note(&mut self, answer: io::Result<Look>) -> Result<bool, InterfaceError> {
        let interface = self.seen.name.clone();
        let Look { link, program, received } = match answer {
            Ok(look) => look,
            Err(error) if is(&error, Errno::NODEV) && self.mac.is_some() => {
                return Err(InterfaceError::Gone { interface });
            }
            Err(error) if is(&error, Errno::NODEV) => {
                Look { link: Link { up: false, ..self.seen.clone() }, program: None, received: 0 }
            }
            Err(error) => {
                tracing::warn!("{interface}: cannot read its state from the kernel, will try again: {error}");
                return Ok(false);
            }
        };
        if let (Some(was), Some(is)) = (self.mac, link.mac)
            && was != is
        {
            return Err(InterfaceError::Readdressed { interface, was, is });
        }
        let was = self.has_looked.then_some((self.seen.up, self.program));
        (self.seen, self.program, self.received, self.has_looked) = (link, program, received, true);
        self.count_queues();
        Ok(was != Some((self.seen.up, self.program)))
    }

    /// A queue that came later (`ethtool -L`, or see `xdp::Device::receive_queues`) has no socket.
    fn count_queues(&mut self) {
        let (Some(taken), interface) = (self.queues, &self.seen.name) else { return };
        let now = receive_queues(interface).unwrap_or(0);
        let has_more = now > taken;
        if has_more && !self.has_more_queues {
            tracing::warn!(
                "{interface} has {now} receive queues, and oneip has workers for {taken}: frames on the others are \
                 dispatched by the program in the kernel; if they were added just now, restart oneip, or remove them: \
                 ethtool -L {interface} combined {taken}"
            );
        }
        self.has_more_queues = has_more;
    }
}

fn receive_queues(interface: &str) -> io::Result<usize> {
    let queues = fs::read_dir(format!("/sys/class/net/{interface}/queues"))?;
    Ok(queues.flatten().filter(|queue| queue.file_name().as_encoded_bytes().starts_with(b"rx-")).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_sees_nothing_of_what_is_received_is_not_run() {
        let (begin, mut reach) = (Instant::now(), Reach::UNKNOWN);
        let mut at = |seconds: u64, received, seen| {
            let changed = reach.compare(begin + Duration::from_secs(seconds), Counts { received, seen });
            (reach.is_run, changed)
        };
        assert_eq!(at(0, 1000, 100), (true, false));
        assert_eq!(at(10, 1063, 100), (true, false), "too few");
        assert_eq!(at(20, 2000, 101), (true, false), "one has come");
        assert_eq!(at(24, 9000, 101), (true, false), "too soon");
        assert_eq!(at(25, 9000, 101), (false, true));
        assert_eq!(at(26, 9500, 101), (false, false), "it is told once");
        assert_eq!(at(27, 9600, 102), (true, true), "it is run again");
        assert_eq!(at(99, 9663, 102), (true, false));
        assert_eq!(at(100, 5, 102), (true, false), "another device, whose count begins again");
        assert_eq!(at(105, 69, 102), (false, true));
    }
}
