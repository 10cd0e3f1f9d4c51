//! The filter as an engine: its table is kept up with the cluster, and with what the other filters say.

use super::speaker::{Speaker, Turn};
use super::takeover::{self, Takeover};
use super::{Attachment, Filter, FilterError, Interface};
use crate::admin::status::Status;
use crate::control::interface::InterfaceWatch;
use crate::control::membership::{Membership, Update};
use crate::engine::{Engine, HostCheck};
use crate::error::Failure;
use crate::host::clock;
use crate::limits::{FILTER_ACCOUNTS, FILTER_LEASE, FILTER_RETRY};
use crate::metrics::snapshot::Snapshot;
use crate::metrics::summary::{ServerSummary, Summary};
use crate::model;
use crate::server::{self, Held};
use crate::verdict::Reason;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The data path of a server.
pub struct Keeping {
    takeover: Takeover,
    pub counting: Counting,
    speaker: Speaker,
    /// The number of the program, and the interface that it is on.
    program: u32,
    interface: String,
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
    ) -> Result<(Keeping, Attachment), FilterError> {
        let mut filter = Filter::load(interface.mac)?;
        let book = Arc::new(Mutex::new(Book::new(server)));
        let mut takeover = Takeover::new(server, started);
        let plan = Arc::clone(membership.plan());
        speaker.turn(membership, server);
        let hold = if left { Duration::ZERO } else { takeover::hold(&plan) };
        let account = |service: &str| lock(&book).account(service);
        filter.publish(&takeover.next((&plan, membership.state()), Instant::now(), hold, &account))?;
        filter.lease(clock::now_ns() + FILTER_LEASE.as_nanos() as u64)?;
        let attachment = filter.attach(interface, (xdp, pins))?;
        speaker.renew();
        let program = filter.program()?;
        let (counting, interface) = (Counting { filter: Arc::new(filter), book }, interface.name.clone());
        speaker.is_due = true;
        Ok((Keeping { takeover, counting, speaker, program, interface, retry: None }, attachment))
    }

    fn renew(&mut self) {
        let until = self.speaker.renew() - Instant::now();
        if let Err(error) = self.counting.filter.lease(clock::now_ns() + until.as_nanos() as u64) {
            tracing::error!("clients that this server has for others are let go in a moment: {error}");
        }
    }
}

impl Engine for Keeping {
    fn publish(&mut self, membership: &mut Membership, _news: Update) {
        let Keeping { takeover, counting: Counting { filter, book }, retry, speaker, .. } = self;
        let plan = Arc::clone(membership.plan());
        let account = |service: &str| lock(book).account(service);
        let now = Instant::now();
        let generation = takeover.next((&plan, membership.state()), now, takeover::hold(&plan), &account);
        *retry = filter.publish(&generation).err().map(|error| {
            tracing::error!("the filter goes on by the table that it has: {error}");
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
        if comes_again || update.is_some() {
            self.publish(membership, update.unwrap_or(Update::Table));
        }
        // Not before a table of which it may be renewed.
        if lease {
            self.renew();
        }
        let fails = lock(&self.counting.book).trouble.is_some();
        self.speaker.speak(membership, &server, fails);
    }

    fn see(&mut self, interface: &InterfaceWatch) {
        let found = interface.program();
        let trouble = (found != Some(self.program)).then(|| {
            let name = &self.interface;
            let what = found.map_or("nothing is in its place".to_owned(), |found| format!("XDP program {found} is there"));
            format!(
                "somebody has taken the filter off {name}, and {what}: this server has no clients; start `oneip filter` again"
            )
        });
        let known = &mut lock(&self.counting.book).trouble;
        if *known != trouble {
            match &trouble {
                Some(trouble) => tracing::error!("{trouble}"),
                None => tracing::info!("the filter is on {} again", self.interface),
            }
            *known = trouble;
            self.speaker.is_due = true;
        }
    }

    fn due(&self) -> Option<Instant> {
        self.takeover.due().into_iter().chain(self.retry).min()
    }

    /// Which addresses those are stands in the table.
    fn take_addresses(&mut self, _addresses: &[IpAddr]) -> Result<(), Failure> {
        Ok(())
    }

    fn host_check(&self) -> HostCheck {
        |new| {
            let held = server::held()?;
            let has = |address: &IpAddr| held.iter().any(|Held { address: held, .. }| held == address);
            for address in new.iter().filter(|address| !has(address)) {
                tracing::warn!(
                    "this host does not have the cluster address {address}; `oneip server add` gives it one"
                );
            }
            Ok(())
        }
    }

    fn describe(&self, status: &mut Status) {
        status.mode = "filter".to_owned();
        status.server = Some(self.takeover.server().to_owned());
        status.peers = self.speaker.status();
    }

    fn can_watch(&self) -> Result<(), String> {
        Err("a filter decides in the kernel, and cannot note a client's frames; `oneip ctl trace ADDRESS --for 0` says where \
             the client belongs"
            .to_owned())
    }

    fn can_hand_over(&self) -> Result<(), String> {
        Err("a filter goes on without its process: end that, and start the next".to_owned())
    }

    fn remark(&self) -> Option<String> {
        let server = self.takeover.server();
        Some(format!("this is known to the filter of {server} alone; the other servers' must be told the same"))
    }
}

/// What the program counts, for any thread.
#[derive(Clone)]
pub struct Counting {
    filter: Arc<Filter>,
    book: Arc<Mutex<Book>>,
}

/// Under which number the frames of each service are counted, from the first table on that had it.
struct Book {
    server: String,
    accounts: HashMap<String, u32>,
    /// Why this server answers nobody.
    trouble: Option<String>,
}

fn lock(book: &Mutex<Book>) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    fn new(server: &str) -> Book {
        Book { server: server.to_owned(), accounts: HashMap::new(), trouble: None }
    }

    /// When all are given, further services share the last.
    fn account(&mut self, service: &str) -> u32 {
        let next = (self.accounts.len() as u32).min(FILTER_ACCOUNTS - 1);
        *self.accounts.entry(service.to_owned()).or_insert(next)
    }
}

impl Counting {
    /// Zeros where the kernel does not say.
    pub fn figures(&self) -> Snapshot {
        let summary = self.summary().unwrap_or_else(|error| {
            tracing::warn!("the filter's counters cannot be read: {error}");
            Summary::default()
        });
        let troubles = lock(&self.book).trouble.iter().cloned().collect();
        Snapshot { summary, workers: Vec::new(), latency: Vec::new(), rounds: 0, troubles }
    }

    fn summary(&self) -> Result<Summary, FilterError> {
        let counts = self.filter.counts()?;
        let dropped = Reason::ALL.map(|reason| counts.dropped(reason));
        let Book { server, accounts, .. } = &*lock(&self.book);
        let mut accounts: Vec<(&String, &u32)> = accounts.iter().collect();
        accounts.sort_unstable_by_key(|(_, account)| **account);
        let servers = accounts.into_iter().map(|(service, account)| {
            let kept = self.filter.kept(*account)?;
            Ok(ServerSummary {
                service: service.clone(),
                server: server.clone(),
                frames: kept.frames,
                bytes: kept.bytes,
                flows: kept.flows,
            })
        });
        Ok(Summary {
            frames: counts.passed + counts.kept + dropped.iter().sum::<u64>(),
            forwarded: counts.kept,
            passed: counts.passed,
            dropped,
            servers: servers.collect::<Result<_, FilterError>>()?,
            latency: None,
        })
    }
}
