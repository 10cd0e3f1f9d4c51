//! Decap as an engine: its table follows the configuration. Who is up is the dispatchers' business.

use super::Table;
use crate::admin::status::Status;
use crate::control::interface::InterfaceWatch;
use crate::control::membership::{Membership, Update};
use crate::engine::on_server::{self, Accounts, Counting};
use crate::engine::{Engine, HostCheck};
use crate::error::Failure;
use crate::limits::FILTER_RETRY;
use crate::model::{Plan, Prefix, Xdp};
use crate::xdp::interface::Interface;
use crate::xdp::link::{Attachment, Kept};
use crate::xdp::program::{Program, ProgramError};
use std::path::Path;
use tokio::time::Instant;

/// The data path of a server at the end of tunnels.
pub struct Unwrapping {
    server: String,
    pub counting: Counting<Program>,
    /// The number of the program.
    number: u32,
    /// The last table could not be published; when to try again.
    retry: Option<Instant>,
}

impl Unwrapping {
    /// Attaches the program, with the plan's table for the server of that name.
    ///
    /// # Errors
    ///
    /// The kernel refuses the program, or another one is attached.
    pub fn begin(
        plan: &Plan,
        server: &str,
        interface: &Interface,
        (xdp, pins): (Option<Xdp>, &Path),
    ) -> Result<(Unwrapping, Attachment), ProgramError> {
        let mut program = super::load(interface.mac)?;
        let accounts = Accounts::new(server);
        program.publish(Table::compile(plan, server, &|service| accounts.of(service)).cells())?;
        // Frames are to this host already, so the driver's XDP does, on veth too; but a veth sends none back to a peer without NAPI
        // (drivers/net/veth.c, veth_xdp_xmit).
        let sends_back = plan.services.iter().any(|service| service.second_chance);
        let attachment = program.attach(&interface.place(Kept::Decap, pins), (xdp, !sends_back))?;
        let number = program.number()?;
        let counting = Counting::new(program, accounts);
        Ok((Unwrapping { server: server.to_owned(), counting, number, retry: None }, attachment))
    }
}

impl Engine for Unwrapping {
    fn publish(&mut self, membership: &mut Membership, _update: Update) {
        let accounts = self.counting.accounts();
        let table = Table::compile(membership.plan(), &self.server, &|service| accounts.of(service));
        self.retry = self.counting.program.publish(table.cells()).err().map(|error| {
            tracing::error!("decap continues with its current table: {error}");
            Instant::now() + FILTER_RETRY
        });
    }

    fn seen(&self) -> Option<u64> {
        self.counting.seen()
    }

    fn see(&mut self, interface: &InterfaceWatch) {
        self.counting.see(interface, self.number, Kept::Decap);
    }

    fn due(&self) -> Option<Instant> {
        self.retry
    }

    /// Which addresses those are stands in the table.
    fn take_addresses(&mut self, _addresses: &[Prefix]) -> Result<(), Failure> {
        Ok(())
    }

    fn host_check(&self) -> HostCheck {
        on_server::host_check()
    }

    fn describe(&self, status: &mut Status) {
        status.mode = "decap".to_owned();
        status.server = Some(self.server.clone());
    }

    fn can_watch(&self) -> Result<(), String> {
        Err("decap works in the kernel and cannot record a client's frames; use `oneip ctl trace` on the dispatcher"
            .to_owned())
    }

    fn can_hand_over(&self) -> Result<(), String> {
        Err("decap continues without its process: stop this process, and start the next".to_owned())
    }

    fn remark(&self) -> Option<String> {
        Some("decap accepts everything that dispatchers send here: give the order to the dispatchers".to_owned())
    }
}
