//! A process of its own that takes the routes of cluster addresses back when the dispatcher cannot: it was killed, or it hangs.
//!
//! The program in the kernel goes on without the dispatcher, and the routes stay, so that a start anew within `hold_s` is seen by no
//! router. But a program that nobody tells of servers is not to be trusted for ever. The kernel has no expiry for IPv4 routes; so this
//! process listens to the dispatcher's beats, and withdraws what is announced when none has come for `hold_s`.

use crate::error::Failure;
use crate::host::lock::InterfaceLock;
use crate::host::privileges;
use crate::limits::{GUARD_HAND_OVER, GUARD_LOOK, GUARD_SILENCE};
use crate::model::Announce;
use crate::netlink::address_routes::AddressRoutes;
use std::env;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

/// What the dispatcher says to it.
const BEAT: u8 = b'.';
const LEAVE: u8 = b'q';
const HAND_OVER: u8 = b'h';

/// The dispatcher's end.
pub struct Guard {
    process: Child,
    beats: UnixStream,
    is_lost: bool,
}

impl Guard {
    /// Before sockets are opened that a process of ours must not have, and before privileges are given up.
    ///
    /// # Errors
    /// There is no process to be had.
    pub fn start(interface: &str, Announce { table, hold, .. }: &Announce) -> io::Result<Guard> {
        let (beats, its) = UnixStream::pair()?;
        beats.set_nonblocking(true)?;
        let mut command = Command::new(env::current_exe()?);
        command.args(["guard", "--interface", interface]);
        command.args(["--table", &table.to_string(), "--hold-s", &hold.as_secs().to_string()]);
        // What is typed at the terminal is for the dispatcher alone.
        // Nor is what the service manager wants to hear.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        let process = command.process_group(0).stdin(OwnedFd::from(its)).stdout(Stdio::null()).spawn()?;
        Ok(Guard { process, beats, is_lost: false })
    }

    /// Says that the dispatcher lives. Waits for nobody.
    pub fn beat(&mut self) {
        match self.beats.write(&[BEAT]) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock && !self.is_lost => {
                self.is_lost = true;
                tracing::warn!(
                    "the process that withdraws the routes if this one is killed has ended: they would stay; start oneip again"
                );
            }
            _ => {}
        }
    }

    /// The routes are the next dispatcher's from now on; without one they are withdrawn after a while.
    pub fn hand_over(mut self) {
        let _ = self.beats.write(&[HAND_OVER]);
    }

    /// Ends it. The routes stay as they are.
    pub fn dismiss(mut self) {
        if self.beats.set_nonblocking(false).is_ok() && self.beats.write_all(&[LEAVE]).is_ok() {
            // Until it has closed its end.
            let _ = self.beats.read(&mut [0]);
        }
        let _ = self.process.wait();
    }
}

/// The name under which a dispatcher shows that it answers for the routes of an interface. No interface is called so.
fn announcing(interface: &str) -> String {
    format!("{interface}/announce")
}

/// Shows that this process answers for the routes from now on, so that the guard of one before it goes.
///
/// # Errors
/// Another process does, or the kernel refuses.
pub fn answer_for(interface: &str) -> Result<InterfaceLock, Failure> {
    Ok(InterfaceLock::take(&announcing(interface))?)
}

/// What the process does: until the dispatcher sends it away, or is gone for so long.
///
/// # Errors
/// The kernel refuses.
pub fn run(interface: &str, table: u8, hold: Duration) -> Result<(), Failure> {
    privileges::keep(&privileges::CONTROL)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(interface, table, hold))
}

async fn watch(interface: &str, table: u8, hold: Duration) -> Result<(), Failure> {
    let beats = UnixStream::from(rustix::io::dup(io::stdin())?);
    beats.set_nonblocking(true)?;
    let mut beats = tokio::net::UnixStream::from_std(beats)?;
    // A service manager signals every process of a service at once: this one goes when the dispatcher has gone.
    let mut terminate = signal(SignalKind::terminate())?;
    let _interrupt = signal(SignalKind::interrupt())?;
    let (mut has_begun, mut is_withdrawn, mut is_handed_over) = (false, false, false);
    let mut buffer = [0; 64];
    loop {
        match timeout(hold.max(GUARD_SILENCE), beats.read(&mut buffer)).await {
            Ok(Ok(count @ 1..)) => {
                if buffer[..count].contains(&LEAVE) {
                    return Ok(());
                }
                is_handed_over |= buffer[..count].contains(&HAND_OVER);
                (has_begun, is_withdrawn) = (true, false);
            }
            Ok(_) => break,
            Err(_) if has_begun && !is_withdrawn => {
                withdraw(interface, table, "the dispatcher hangs").await?;
                is_withdrawn = true;
            }
            Err(_) => {}
        }
    }
    if !has_begun {
        // It has not begun to dispatch. Whose routes there are, another one's guard knows.
        return Ok(());
    }
    let hold = if is_handed_over { hold.max(GUARD_HAND_OVER) } else { hold };
    let until = Instant::now() + hold;
    while Instant::now() < until {
        if is_answered_for(interface) {
            return Ok(());
        }
        // A service manager that ends what is left of the dispatcher's service does not let us wait.
        tokio::select! {
            () = sleep(GUARD_LOOK) => {}
            _ = terminate.recv() => match is_handed_over {
                true => return Ok(()),
                false => break,
            },
        }
    }
    if is_answered_for(interface) {
        return Ok(());
    }
    withdraw(interface, table, "the dispatcher is gone").await
}

fn is_answered_for(interface: &str) -> bool {
    InterfaceLock::is_taken(&announcing(interface))
}

async fn withdraw(interface: &str, table: u8, why: &str) -> Result<(), Failure> {
    let routes = match AddressRoutes::open(interface, table).await {
        Ok(routes) => routes,
        // Its routes have gone with it.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for address in routes.present().await? {
        routes.remove(address).await?;
        tracing::warn!("{address} is withdrawn: {why}");
    }
    Ok(())
}
