//! The interface that frames come to: whether its link is up, and whether it still is as it was when the data path was made for
//! it.

use crate::limits::INTERFACE_LOOK;
use crate::model::Mac;
use crate::netlink::links::{self, Link};
use crate::netlink::{self, is};
use rtnetlink::Handle;
use rustix::io::Errno;
use std::fs;
use std::io;
use tokio::time::{Interval, MissedTickBehavior, interval};

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

    async fn ask(&self) -> io::Result<(Link, Option<u32>)> {
        links::one(&self.requests, self.index).await
    }

    /// Whether its link has come or gone, or it has another XDP program, or nothing was known of that yet.
    fn note(&mut self, answer: io::Result<(Link, Option<u32>)>) -> Result<bool, InterfaceError> {
        let interface = self.seen.name.clone();
        let (link, program) = match answer {
            Ok(link) => link,
            Err(error) if is(&error, Errno::NODEV) && self.mac.is_some() => {
                return Err(InterfaceError::Gone { interface });
            }
            Err(error) if is(&error, Errno::NODEV) => (Link { up: false, ..self.seen.clone() }, None),
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
        (self.seen, self.program, self.has_looked) = (link, program, true);
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
