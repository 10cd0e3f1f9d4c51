//! `oneip filter`: the filter of one server, its table kept up with the cluster until a signal ends the process. The program
//! stays on the interface after that, and goes on by its last table; the next process takes it over without a gap.

use super::follow::{DataPath, Desk, Followed, HostCheck, Signals};
use super::peers::{Speaker, Turn};
use super::tell;
use crate::control::admin::status::Status;
use crate::control::admin::{self, Watched};
use crate::control::clock;
use crate::control::interface::InterfaceWatch;
use crate::control::lock::InterfaceLock;
use crate::control::membership::{Membership, News, Side};
use crate::control::privileges::{self, FILTER};
use crate::control::state_file::StateFile;
use crate::filter::succession::{self, Succession};
use crate::filter::{Attachment, Filter, FilterError, Interface};
use crate::limits::{FILTER_ACCOUNTS, FILTER_LEASE, FILTER_RETRY};
use crate::plan::{self, Plan};
use crate::server::{self, Dispatch, Grade, Held};
use crate::stats::collect::say;
use crate::stats::figures::Figures;
use crate::stats::latest::Latest;
use crate::stats::summary::{ServerSummary, Summary};
use crate::verbs::{self, Failure};
use crate::verdict::Reason;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// What the command line adds to the configuration.
pub struct Options {
    /// The configuration file, to be read again at a reload.
    pub config: PathBuf,
    /// Which server this is; `None`: the one whose primary address this host has.
    pub server: Option<String>,
    /// Servers to take as down.
    pub down: Vec<String>,
    /// Print the final figures as JSON, and everything else to standard error.
    pub json: bool,
}

/// Keeps this server's clients until SIGINT or SIGTERM, and leaves the program on the interface.
///
/// # Errors
/// Whatever keeps it from starting. What can be known beforehand is found before the program is attached; once it is, it stays.
pub fn run(plan: Plan, options: Options) -> Result<(), Failure> {
    let Options { config, server, down, json } = options;
    let started = Instant::now();
    let (interface, plan::Filter { xdp, pins, .. }) = settings(&plan)?;
    let _alone = InterfaceLock::take(&interface.name)?;
    let server = server::name(&plan, server.as_deref())?;
    verbs::cluster(&plan, &down)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    let watch = runtime.block_on(InterfaceWatch::open(&interface.name, interface.mac, None))?;
    let listeners = admin::bind(&plan.admin)?;
    let state = listeners.socket().map(|_| StateFile::new(&plan.admin.state, &config));
    warn_of_settings(&plan, &server);
    let side = (Side::Server, interface.name.as_str());
    let left = Filter::is_left(&interface, &pins)?;
    let speaker = runtime.block_on(async { Speaker::open(&plan, &server, &interface.name, left) })?;
    let membership = runtime.block_on(Membership::open(plan, side, &down, state))?;
    let mut followed = Followed { runtime, membership, signals };
    let inside = followed.runtime.enter();
    let (mut path, attachment) =
        Keeping::begin(&mut followed.membership, (&server, started), &interface, (xdp, &pins, left), speaker)?;
    drop(inside);
    let kept: Vec<String> = privileges::keep(&FILTER)?.iter().map(ToString::to_string).collect();
    let mut text = greeting(followed.membership.plan(), &server, &interface, attachment);
    let _ = write!(text, "  keeps      {} (to make tables)", kept.join(", "));
    say(&text, json);
    let counting = path.counting.clone();
    let (now, overview) = (path.counting.clone(), Latest::default());
    // The kernel counts: it is read on the spot.
    let figures = Box::new(move || Some((Arc::new(now.figures()), Duration::ZERO)));
    let watched = Watched { overview: overview.clone(), figures };
    let (backend, orders) = admin::channel(watched, move |to| drop(to.send(counting.figures())));
    let admin = listeners.start(backend)?;
    say("ready", json);
    let mut desk = Desk {
        config: config.clone(),
        orders,
        started: started.into_std(),
        watch: Some(watch),
        overview,
        path: &mut path,
    };
    let ended = followed.until_signal(&mut desk);
    drop(admin);
    if ended.is_ok() && Filter::is_left(&interface, &pins)? {
        let (name, file) = (&interface.name, config.display());
        let stays = format!(
            "the filter stays on {name} and goes on by its last table; what it has for other servers it lets go after {} s; \
             `oneip filter -c {file} --detach` takes it off",
            FILTER_LEASE.as_secs()
        );
        say(&stays, json);
    }
    tell(&path.counting.figures().summary, json)?;
    ended
}

/// Takes off the interface what a filter has left there.
///
/// # Errors
/// There is none, or the kernel refuses.
pub fn detach(plan: &Plan) -> Result<(), Failure> {
    let (interface, plan::Filter { pins, .. }) = settings(plan)?;
    let name = &interface.name;
    if !Filter::forget(&interface, &pins)? {
        return Err(format!("there is no filter on {name}; nothing was changed").into());
    }
    say(&format!("the filter is off {name}; where an `oneip filter` runs, as soon as that ends"), false);
    Ok(())
}

/// The interface, and how the program is there.
fn settings(plan: &Plan) -> Result<(Interface, plan::Filter), Failure> {
    let settings = plan.filter.clone().ok_or(
        "the configuration has no [filter]; `oneip filter` needs one:\n  [filter]\n  interface = \"eth1\"  # where the \
         router's frames arrive",
    )?;
    Ok((Interface::read(&settings.interface)?, settings))
}

/// What loses clients, or lets two servers answer one. It starts all the same: without its filter a server has no clients at
/// all, or everybody's.
fn warn_of_settings(plan: &Plan, server: &str) {
    match server::check(plan, Some(server), Dispatch::Broadcast { group: None }) {
        Ok(report) => report.lines.iter().filter(|line| line.grade == Grade::Wrong).for_each(|line| match &line.mend {
            Some(mend) => tracing::warn!("{}; mend it: {mend}", line.text),
            None => tracing::warn!("{}", line.text),
        }),
        Err(error) => tracing::warn!("the settings of this host cannot be checked: {error}"),
    }
}

/// What a person wants to see at the start.
fn greeting(plan: &Plan, server: &str, interface: &Interface, attachment: Attachment) -> String {
    let Interface { name, mac, .. } = interface;
    let Attachment { mode, taken_over } = attachment;
    let how = if taken_over { ", taken over from the process before" } else { "" };
    let mut text = format!("oneip {}\n  interface  {name}, {mac}, {mode}{how}\n", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "  filter     keeps the clients of server {server}");
    let port = plan.filter.as_ref().map_or(plan::Filter::PORT, |filter| filter.port);
    let _ = writeln!(text, "  filters    speak to each other on UDP port {port} of the servers' primary addresses");
    text += &super::services(plan);
    let hold = succession::hold(plan).as_millis();
    let _ = writeln!(text, "  table      generation 1; takes over what others give up {hold} ms later");
    text
}

/// The data path of a server.
struct Keeping {
    succession: Succession,
    counting: Counting,
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
    fn begin(
        membership: &mut Membership,
        (server, started): (&str, Instant),
        interface: &Interface,
        (xdp, pins, left): (Option<plan::Xdp>, &Path, bool),
        mut speaker: Speaker,
    ) -> Result<(Keeping, Attachment), FilterError> {
        let mut filter = Filter::load(interface.mac)?;
        let book = Arc::new(Mutex::new(Book::new(server)));
        let mut succession = Succession::new(server, started);
        let plan = Arc::clone(membership.plan());
        speaker.turn(membership, server);
        let hold = if left { Duration::ZERO } else { succession::hold(&plan) };
        let account = |service: &str| lock(&book).account(service);
        filter.publish(&succession.next((&plan, membership.state()), Instant::now(), hold, &account))?;
        filter.lease(clock::now_ns() + FILTER_LEASE.as_nanos() as u64)?;
        let attachment = filter.attach(interface, (xdp, pins))?;
        speaker.renew();
        let program = filter.program()?;
        let (counting, interface) = (Counting { filter: Arc::new(filter), book }, interface.name.clone());
        speaker.is_due = true;
        Ok((Keeping { succession, counting, speaker, program, interface, retry: None }, attachment))
    }

    fn renew(&mut self) {
        let until = self.speaker.renew() - Instant::now();
        if let Err(error) = self.counting.filter.lease(clock::now_ns() + until.as_nanos() as u64) {
            tracing::error!("clients that this server has for others are let go in a moment: {error}");
        }
    }
}

impl DataPath for Keeping {
    fn publish(&mut self, membership: &mut Membership, _news: News) {
        let Keeping { succession, counting: Counting { filter, book }, retry, speaker, .. } = self;
        let plan = Arc::clone(membership.plan());
        let account = |service: &str| lock(book).account(service);
        let now = Instant::now();
        let generation = succession.next((&plan, membership.state()), now, succession::hold(&plan), &account);
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
        let server = self.succession.server().to_owned();
        let Turn { comes_again, news, lease } = self.speaker.turn(membership, &server);
        if comes_again {
            self.succession.come_again(Instant::now());
        }
        if comes_again || news.is_some() {
            self.publish(membership, news.unwrap_or(News::Table));
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
        self.succession.due().into_iter().chain(self.retry).min()
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
        status.server = Some(self.succession.server().to_owned());
        status.peers = self.speaker.status();
    }

    fn can_watch(&self) -> Result<(), String> {
        Err("a filter decides in the kernel, and cannot note a client's frames; `oneip ctl trace ADDRESS --for 0` says where \
             the client belongs"
            .to_owned())
    }

    fn remark(&self) -> Option<String> {
        let server = self.succession.server();
        Some(format!("this is known to the filter of {server} alone; the other servers' must be told the same"))
    }
}

/// What the program counts, for any thread.
#[derive(Clone)]
struct Counting {
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
    fn figures(&self) -> Figures {
        let summary = self.summary().unwrap_or_else(|error| {
            tracing::warn!("the filter's counters cannot be read: {error}");
            Summary::default()
        });
        let troubles = lock(&self.book).trouble.iter().cloned().collect();
        Figures { summary, workers: Vec::new(), latency: Vec::new(), troubles }
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
