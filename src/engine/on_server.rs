//! What the engines of a server have in common, the filter's and decap's: a program that stays, what it counts, and what is said when
//! somebody takes it off.

use super::HostCheck;
use super::on_interfaces::not_run;
use crate::control::interface::InterfaceWatch;
use crate::limits::KEPT_ACCOUNTS;
use crate::metrics::snapshot::Snapshot;
use crate::metrics::summary::{ServerSummary, Summary};
use crate::server;
use crate::verdict::Reason;
use crate::xdp::link::Kept;
use crate::xdp::program::{Program, ProgramError, Sum};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What the program counts, for any thread.
pub struct Counting<P> {
    pub program: Arc<P>,
    book: Arc<Mutex<Book>>,
}

/// Under which number the frames of each service are counted, from the first table on that had it.
struct Book {
    server: String,
    accounts: HashMap<String, u32>,
    /// Why this server answers nobody.
    trouble: Option<String>,
}

impl<P> Clone for Counting<P> {
    fn clone(&self) -> Self {
        Counting { program: Arc::clone(&self.program), book: Arc::clone(&self.book) }
    }
}

impl<P> Counting<P> {
    pub fn new(program: P, accounts: Accounts) -> Counting<P> {
        Counting { program: Arc::new(program), book: accounts.0 }
    }

    pub fn accounts(&self) -> Accounts {
        Accounts(Arc::clone(&self.book))
    }

    pub fn trouble(&self) -> Option<String> {
        lock(&self.book).trouble.clone()
    }

    /// Notes whether the program is on the interface, and says so when that changes. Whether it has changed.
    pub fn see(&self, interface: &InterfaceWatch, number: u32, kept: Kept) -> bool {
        let (found, name) = (interface.program(), interface.name());
        let comes_of_it = match kept {
            Kept::Decap => "packets stay in their tunnels, and none is sent back",
            _ => "this server has no clients",
        };
        let trouble = (found != Some(number)).then(|| {
            let what = found
                .map_or("no program is attached instead".to_owned(), |found| format!("XDP program {found} is there"));
            format!("somebody has detached the {kept} from {name}, and {what}: {comes_of_it}; restart `oneip {kept}`")
        });
        let is_idle = || {
            let program = format!("the program of the {kept}");
            format!("{}: {comes_of_it}; restart `oneip {kept}`", not_run(interface, &program))
        };
        let trouble = trouble.or_else(|| (!interface.is_run()).then(is_idle));
        let known = &mut lock(&self.book).trouble;
        if *known == trouble {
            return false;
        }
        match &trouble {
            Some(trouble) => tracing::error!("{trouble}"),
            None => tracing::info!("the {kept} has the frames of {name} again"),
        }
        *known = trouble;
        true
    }
}

impl<P: AsRef<Program>> Counting<P> {
    /// Zeros where the kernel does not say.
    pub fn figures(&self) -> Snapshot {
        let summary = self.summary().unwrap_or_else(|error| {
            tracing::warn!("the program's counters cannot be read: {error}");
            Summary::default()
        });
        let troubles = self.trouble().into_iter().collect();
        Snapshot { summary, workers: Vec::new(), latency: Vec::new(), rounds: 0, troubles }
    }

    /// Frames that the program has seen; `None`: the kernel does not say.
    pub fn seen(&self) -> Option<u64> {
        self.program.as_ref().as_ref().counts().ok().map(|counts| counts.seen())
    }

    fn summary(&self) -> Result<Summary, ProgramError> {
        let program = self.program.as_ref().as_ref();
        let counts = program.counts()?;
        let dropped = Reason::ALL.map(|reason| counts.dropped(reason));
        let Book { server, accounts, .. } = &*lock(&self.book);
        let mut accounts: Vec<(&String, &u32)> = accounts.iter().collect();
        accounts.sort_unstable_by_key(|(_, account)| **account);
        let servers = accounts.into_iter().map(|(service, account)| {
            let Sum { frames, bytes, flows } = program.kept(*account)?;
            Ok(ServerSummary { service: service.as_str().into(), server: server.as_str().into(), frames, bytes, flows })
        });
        Ok(Summary {
            services: Vec::new(),
            frames: counts.seen(),
            forwarded: counts.kept,
            passed: counts.passed,
            dropped,
            servers: servers.collect::<Result<_, ProgramError>>()?,
            odd: Default::default(),
            latency: None,
        })
    }
}

/// Gives each service its account.
#[derive(Clone)]
pub struct Accounts(Arc<Mutex<Book>>);

impl Accounts {
    /// Of the server of that name; none has been given.
    pub fn new(server: &str) -> Accounts {
        Accounts(Arc::new(Mutex::new(Book { server: server.to_owned(), accounts: HashMap::new(), trouble: None })))
    }

    /// When all are given, further services share the last.
    pub fn of(&self, service: &str) -> u32 {
        let accounts = &mut lock(&self.0).accounts;
        let next = (accounts.len() as u32).min(KEPT_ACCOUNTS - 1);
        *accounts.entry(service.to_owned()).or_insert(next)
    }
}

fn lock(book: &Mutex<Book>) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server is to take what is sent to the cluster addresses.
pub fn host_check() -> HostCheck {
    |new| {
        for prefix in server::lacking(new)? {
            tracing::warn!("this host does not accept packets to the cluster address {prefix}; run `oneip server add`");
        }
        Ok(())
    }
}
