//! The filter as an engine: its table is kept up with the cluster, and with what the other filters say.

use super::Filter;
use super::speaker::{Speaker, Turn};
use super::takeover::{self, Takeover};
use crate::admin::status::Status;
use crate::control::interface::InterfaceWatch;
use crate::control::membership::{Membership, Update};
use crate::engine::on_server::{self, Accounts, Counting};
use crate::engine::{Engine, HostCheck};
use crate::error::Failure;
use crate::host::clock;
use crate::limits::{FILTER_LEASE, FILTER_RETRY};
use crate::model;
use crate::model::Prefix;
use crate::xdp::interface::Interface;
use crate::xdp::link::{self, Attachment, Kept};
use crate::xdp::program::ProgramError;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The data path of a server.
pub struct Keeping {
    takeover: Takeover,
    pub counting: Counting<Filter>,
    speaker: Speaker,
    /// The number of the program.
    number: u32,
    /// The last table could not be published; when to try again.
    retry: Option<Instant>,
}

impl Keeping {
    /// Attaches the program, with a table. Where none was attached before (`left`), the server has no clients at first, since
    /// others have them yet.
    pub fn begin(
        membership: &mut Membership,
        (server, started): (&str, Instant),
        interface: &Interface,
        (xdp, pins, left): (Option<model::Xdp>, &Path, bool),
        mut speaker: Speaker,
    ) -> Result<(Keeping, Attachment), ProgramError> {
        let place = interface.place(Kept::Filter, pins);
        let mut filter = Filter::load(interface.mac, Some(&place))?;
        let accounts = Accounts::new(server);
        let mut takeover = Takeover::new(server, started);
        let plan = Arc::clone(membership.plan());
        speaker.turn(membership, server);
        let hold = if left { Duration::ZERO } else { takeover::hold(&plan) };
        let account = |service: &str| accounts.of(service);
        let others = speaker.others(membership);
        filter.publish(&takeover.next((&plan, membership.state()), Instant::now(), hold, others, &account))?;
        filter.lease(clock::now_ns() + FILTER_LEASE.as_nanos() as u64)?;
        let attachment = filter.attach(interface, (xdp, pins)).inspect_err(|_| {
            // What was kept before this start stays as it was.
            if !left {
                let _ = link::unpin(&place);
            }
        })?;
        speaker.renew();
        let number = filter.number()?;
        let counting = Counting::new(filter, accounts);
        speaker.is_due = true;
        Ok((Keeping { takeover, counting, speaker, number, retry: None }, attachment))
    }

    fn renew(&mut self) {
        let until = self.speaker.renew() - Instant::now();
        if let Err(error) = self.counting.program.lease(clock::now_ns() + until.as_nanos() as u64) {
            tracing::error!("this server is about to stop serving the clients of other servers: {error}");
        }
    }
}

impl Engine for Keeping {
    fn publish(&mut self, membership: &mut Membership, _news: Update) {
        let Keeping { takeover, counting, retry, speaker, .. } = self;
        let plan = Arc::clone(membership.plan());
        let accounts = counting.accounts();
        let account = |service: &str| accounts.of(service);
        let now = Instant::now();
        let others = speaker.others(membership);
        let generation = takeover.next((&plan, membership.state()), now, takeover::hold(&plan), others, &account);
        *retry = counting.program.publish(&generation).err().map(|error| {
            tracing::error!("the filter continues with its current table: {error}");
            now + FILTER_RETRY
        });
        // The others are told.
        speaker.is_due = true;
    }

    fn poll_work(&mut self, context: &mut Context) -> Poll<()> {
        self.speaker.poll(context)
    }

    fn work(&mut self, membership: &mut Membership) {
        let server = self.takeover.server().to_owned();
        let Turn { comes_again, update, lease } = self.speaker.turn(membership, &server);
        if comes_again {
            self.takeover.come_again(Instant::now());
        }
        let is_answered = self.takeover.is_answered(self.speaker.others(membership));
        if comes_again || is_answered || update.is_some() {
            self.publish(membership, update.unwrap_or(Update::Table));
        }
        // Not before a table of which it may be renewed.
        if lease {
            self.renew();
        }
        // Others take then what this server had.
        if self.retry.is_none() && self.takeover.gave_up() {
            self.speaker.has_given_up();
        }
        let fails = self.counting.trouble().is_some();
        self.speaker.speak(membership, &server, fails);
    }

    fn seen(&self) -> Option<u64> {
        self.counting.seen()
    }

    fn see(&mut self, interface: &InterfaceWatch) {
        self.speaker.is_due |= self.counting.see(interface, self.number, Kept::Filter);
    }

    fn due(&self) -> Option<Instant> {
        self.takeover.due().into_iter().chain(self.retry).min()
    }

    /// Which addresses those are stands in the table.
    fn take_addresses(&mut self, _addresses: &[Prefix]) -> Result<(), Failure> {
        Ok(())
    }

    fn host_check(&self) -> HostCheck {
        on_server::host_check()
    }

    fn describe(&self, status: &mut Status) {
        status.mode = "filter".to_owned();
        status.server = Some(self.takeover.server().to_owned());
        status.peers = self.speaker.status();
    }

    fn can_watch(&self) -> Result<(), String> {
        Err("a filter works in the kernel and cannot record a client's frames; use `oneip ctl trace ADDRESS --for 0`, \
             which shows the client's server"
            .to_owned())
    }

    fn can_hand_over(&self) -> Result<(), String> {
        Err("a filter continues without its process: stop this process, and start the next".to_owned())
    }

    fn remark(&self) -> Option<String> {
        let server = self.takeover.server();
        Some(format!(
            "this is known to the filter of {server} alone; give the same order to the filters of the other servers"
        ))
    }
}
