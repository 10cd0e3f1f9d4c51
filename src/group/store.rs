//! The thread that speaks to etcd. It reads everything below `/oneip/NAME/shared/`, watches it from there on, says that this member
//! lives, and has changes made by transactions. It starts anew from reading whenever anything breaks: a connection, a watch whose
//! revision is compacted, a lease that is lost, a quorum that is gone.

use super::book::Edit;
use super::memory::{self, Remembered};
use super::record::{Member, MemberView, Progress};
use super::shared::Entry;
use super::writing::{End, Lifeline, Write, Writer, Written, entry, retried};
use crate::config::published::Published;
use crate::host::{document, privileges};
use crate::limits::{
    GROUP_ALIVE, GROUP_ANSWER, GROUP_ANSWERS, GROUP_CLOSE, GROUP_EVENTS, GROUP_LEASE_S, GROUP_PROGRESS,
    GROUP_RETRY_FIRST, GROUP_RETRY_LAST, GROUP_VIEW_EVERY,
};
use crate::model::{Group, Secret};
use etcd_client::{
    Certificate, Client, ConnectOptions, Error, GetOptions, Identity, TlsOptions, WatchOptions, WatchResponse,
    WatchStream,
};
use futures::future::BoxFuture;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use std::{io, thread};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

/// What the thread is asked for.
#[derive(Debug)]
pub enum Ask {
    /// Have the store make a change; what comes of it is an event.
    Tell {
        id: u64,
        edit: Edit,
        is_new: bool,
    },
    /// Who this is.
    Member(Member),
    /// How far it is.
    Progress(Progress),
    /// What it finds of the servers.
    View(Box<MemberView>),
    /// How far all are; `None`: the store cannot be asked.
    Members(oneshot::Sender<Option<BTreeMap<String, Progress>>>),
    Remember(Box<Remembered>),
    /// Have the store publish services for all; the generation that they get, or why they were not published.
    Publish {
        published: Box<Published>,
        to: oneshot::Sender<Result<u64, String>>,
    },
    /// What was published counts here: a start without the store goes by it.
    Keep(Box<Published>, PathBuf),
}

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// Everything that the store has.
    Loaded { cluster: u64, revision: i64, entries: Vec<Entry> },
    /// Keys that were changed, in their order.
    Changed { revision: i64, entries: Vec<Entry> },
    /// The store cannot be asked, and why.
    Lost(String),
    /// What came of a change: who has ordered otherwise, if anybody has; or why it was not made.
    Told { id: u64, made: Result<Told, String> },
}

#[derive(Debug)]
pub struct Told {
    /// The store has what was ordered.
    pub counts: bool,
    /// Who has ordered otherwise before, or since.
    pub other: Option<String>,
}

/// The thread, from outside. Dropping it gives the lease back, so that the others know at once that this member has gone.
pub struct Store {
    asks: Option<mpsc::UnboundedSender<Ask>>,
    events: mpsc::Receiver<Event>,
    done: Receiver<()>,
}

impl Store {
    /// Begins to follow it. `file`: where what is known is kept.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(group: Group, member: Member, file: Option<PathBuf>) -> io::Result<Store> {
        let (asks, inbox) = mpsc::unbounded_channel();
        let (events, outbox) = mpsc::channel(GROUP_EVENTS);
        let (end, done) = channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("oneip-group".into()).spawn(move || {
            privileges::drop_all();
            let thread = Thread {
                root: format!("/oneip/{}/", group.name),
                group,
                member,
                progress: None,
                view: None,
                inbox,
                outbox: events,
                file,
                node: 0,
            };
            runtime.block_on(thread.run());
            drop(end);
        })?;
        Ok(Store { asks: Some(asks), events: outbox, done })
    }

    pub fn ask(&self, ask: Ask) {
        if let Some(asks) = &self.asks {
            let _ = asks.send(ask);
        }
    }

    /// Waits for what happens. Cancel-safe.
    pub async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.asks = None;
        self.events.close();
        let _ = self.done.recv_timeout(GROUP_CLOSE);
    }
}

struct Thread {
    group: Group,
    /// What every key of the group begins with.
    root: String,
    member: Member,
    progress: Option<Progress>,
    view: Option<Box<MemberView>>,
    inbox: mpsc::UnboundedReceiver<Ask>,
    outbox: mpsc::Sender<Event>,
    file: Option<PathBuf>,
    /// Which of the addresses is asked. One at a time: what is known of a store is of one node, until that fails.
    node: usize,
}

type Writing = BoxFuture<'static, Result<Written, End>>;

/// What is there while the store can be asked.
struct Session {
    watch: WatchStream,
    lifeline: Lifeline,
    writer: Writer,
    /// When the last sign of the lease came.
    heard: Instant,
    queue: VecDeque<Write>,
    /// What is being written, with the number of what is told.
    writing: Option<(Option<u64>, Writing)>,
    /// What the store has of how far this member is, and when that was written.
    written: (Option<Progress>, Instant),
    /// The same of what it finds.
    viewed: (Option<Box<MemberView>>, Instant),
}

impl Thread {
    async fn run(mut self) {
        let mut pause = Duration::ZERO;
        // Members spread over the nodes.
        self.node = fastrand::usize(..self.group.etcd.len());
        loop {
            let began = Instant::now();
            let end = match timeout(2 * GROUP_ANSWERS, self.connect()).await {
                Ok(Ok(session)) => {
                    pause = GROUP_RETRY_FIRST;
                    self.follow(session).await
                }
                Ok(Err(end)) => end,
                Err(_) => End::Broken(format!("it has not answered within {:?}", 2 * GROUP_ANSWERS)),
            };
            let End::Broken(why) = end else { return };
            let why = format!("{}: {why}", self.group.etcd[self.node]);
            self.node = (self.node + 1) % self.group.etcd.len();
            if self.outbox.send(Event::Lost(why)).await.is_err() {
                return;
            }
            // It was well: so may be another node.
            if began.elapsed() > GROUP_RETRY_LAST {
                pause = Duration::ZERO;
            }
            if !self.wait(pause.mul_f64(1.0 - fastrand::f64() / 2.0)).await {
                return;
            }
            pause = (2 * pause).clamp(GROUP_RETRY_FIRST, GROUP_RETRY_LAST);
        }
    }

    /// Lets time pass without the store. `false`: nobody wants it any more.
    async fn wait(&mut self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        loop {
            tokio::select! {
                () = sleep_until(end) => return true,
                ask = self.inbox.recv() => match ask {
                    None => return false,
                    Some(Ask::Tell { id, .. }) => {
                        let made = Err("the store cannot be reached".to_owned());
                        let _ = self.outbox.send(Event::Told { id, made }).await;
                    }
                    Some(other) => self.note(other),
                },
            }
        }
    }

    /// What needs no store.
    fn note(&mut self, ask: Ask) {
        match ask {
            Ask::Member(member) => self.member = member,
            Ask::Progress(progress) => self.progress = Some(progress),
            Ask::View(view) => self.view = Some(view),
            Ask::Members(to) => drop(to.send(None)),
            Ask::Publish { to, .. } => drop(to.send(Err("the store cannot be reached".to_owned()))),
            Ask::Keep(published, file) => {
                if let Err(error) = document::write(&file, &published) {
                    let file = file.display();
                    tracing::warn!(
                        "{file} cannot be written: {error}: a start without the store will not know the group's services"
                    );
                }
            }
            Ask::Remember(remembered) => {
                if let Some(Err(error)) = self.file.as_ref().map(|file| memory::save(file, &remembered)) {
                    tracing::warn!("{error}: a start without the store will not know the group's orders");
                }
            }
            Ask::Tell { .. } => {}
        }
    }

    async fn connect(&mut self) -> Result<Session, End> {
        let client = Client::connect([&self.group.etcd[self.node]], Some(self.options())).await?;
        let now = Instant::now();
        let lease = retried(|| {
            let mut client = client.clone();
            async move { Ok(client.lease_grant(GROUP_LEASE_S, None).await?.id()) }
        })
        .await?;
        let lifeline = Lifeline::new(client.clone(), lease).await?;
        // Before this member writes anything: a store that went back is known by its revision.
        let root = format!("{}shared/", self.root);
        let mut answer = retried(|| {
            let mut kv = client.kv_client().max_decoding_message_size(GROUP_ANSWER);
            let root = root.clone();
            async move { kv.get(root, Some(GetOptions::new().with_prefix())).await }
        })
        .await?;
        let header = answer.take_header().ok_or_else(|| End::Broken("an answer without a header".to_owned()))?;
        let (cluster, revision) = (header.cluster_id(), header.revision());
        let writer = Writer { client, root: self.root.clone(), member: self.group.member.clone(), lease };
        writer.clone().write(Write::Member(self.member.clone())).await?;
        let options =
            WatchOptions::new().with_prefix().with_start_revision(revision.saturating_add(1)).with_progress_notify();
        let mut watching = writer.client.watch_client().max_decoding_message_size(GROUP_ANSWER);
        let watch = watching.watch(root.clone(), Some(options)).await?;
        let entries = answer.kvs().iter().filter_map(|kv| entry(&root, kv)).collect();
        self.outbox.send(Event::Loaded { cluster, revision, entries }).await.map_err(|_| End::Closed)?;
        Ok(Session {
            watch,
            lifeline,
            writer,
            heard: now,
            queue: VecDeque::new(),
            writing: None,
            written: (None, now),
            viewed: (None, now - GROUP_VIEW_EVERY),
        })
    }

    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(GROUP_ANSWERS)
            .with_timeout(GROUP_ANSWERS)
            .with_keep_alive(GROUP_ALIVE, GROUP_ANSWERS)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(ca) = &self.group.ca {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(&ca.0));
            if let Some((certificate, Secret(key))) = &self.group.identity {
                tls = tls.identity(Identity::from_pem(&certificate.0, key));
            }
            options = options.with_tls(tls);
        }
        if let Some((user, Secret(password))) = &self.group.user {
            options = options.with_user(user, String::from_utf8_lossy(password));
        }
        options
    }

    async fn follow(&mut self, mut session: Session) -> End {
        let end = self.hold(&mut session).await;
        let untold = session.writing.take().and_then(|(id, _)| id);
        let waiting = session.queue.drain(..).filter_map(|write| write.id());
        for id in untold.into_iter().chain(waiting) {
            let made = Err("the store cannot be reached".to_owned());
            let _ = self.outbox.send(Event::Told { id, made }).await;
        }
        if matches!(end, End::Closed) {
            let _ = timeout(GROUP_CLOSE, session.writer.revoke()).await;
        }
        end
    }

    /// What is written never keeps what is read waiting: while the store elects a leader it writes nothing for a second or two.
    async fn hold(&mut self, session: &mut Session) -> End {
        let mut beat = Instant::now() + GROUP_ALIVE;
        loop {
            let due = self.begin_writing(session);
            let Session { watch, lifeline, writing, heard, .. } = &mut *session;
            let written = async {
                match writing {
                    Some((_, writing)) => writing.await,
                    None => std::future::pending().await,
                }
            };
            let step = tokio::select! {
                message = watch.message() => self.take(message).await,
                is_alive = lifeline.answer() => is_alive.map(|is_alive| if is_alive { *heard = Instant::now() }),
                () = sleep_until(beat) => {
                    beat = Instant::now() + GROUP_ALIVE;
                    match heard.elapsed() > Duration::from_secs(GROUP_LEASE_S as u64) {
                        true => Err(End::Broken("it does not answer".to_owned())),
                        false => lifeline.ask().await.map(|is_alive| if is_alive { *heard = Instant::now() }),
                    }
                },
                done = written => self.end_writing(done, session).await,
                () = sleep_until(due.unwrap_or(beat)), if due.is_some() => Ok(()),
                ask = self.inbox.recv() => match ask {
                    Some(ask) => {
                        self.enqueue(ask, session);
                        Ok(())
                    }
                    None => Err(End::Closed),
                },
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    fn enqueue(&mut self, ask: Ask, session: &mut Session) {
        match ask {
            Ask::Tell { id, edit, is_new } => session.queue.push_back(Write::Tell { id, edit, is_new }),
            Ask::Members(to) => session.queue.push_back(Write::Members(to)),
            Ask::Publish { published, to } => session.queue.push_back(Write::Publish { published, to }),
            Ask::Member(member) => {
                self.member = member.clone();
                session.queue.push_back(Write::Member(member));
            }
            other => self.note(other),
        }
    }

    /// Begins what is to be written next, if nothing is being written. When there will be something.
    fn begin_writing(&self, session: &mut Session) -> Option<Instant> {
        if session.writing.is_some() {
            return None;
        }
        let now = Instant::now();
        let (written, at) = &session.written;
        let progress = (self.progress.is_some() && self.progress != *written).then_some(*at + GROUP_PROGRESS);
        let (viewed, at) = &session.viewed;
        let view = (self.view.is_some() && self.view != *viewed).then_some(*at + GROUP_VIEW_EVERY);
        let is_due = |due: &Option<Instant>| due.is_some_and(|due| due <= now);
        let next = session.queue.pop_front().or_else(|| match (&self.view, &self.progress) {
            (Some(found), _) if is_due(&view) => Some(Write::View(found.clone())),
            (_, Some(far)) if is_due(&progress) => Some(Write::Progress(far.clone())),
            _ => None,
        });
        match next {
            Some(write) => {
                session.writing = Some((write.id(), Box::pin(session.writer.clone().write(write))));
                None
            }
            None => view.into_iter().chain(progress).min(),
        }
    }

    async fn end_writing(&mut self, done: Result<Written, End>, session: &mut Session) -> Result<(), End> {
        let (id, _) = session.writing.take().expect("it was being written");
        match done {
            Ok(Written::Told(told)) => {
                let id = id.expect("it has a number");
                let _ = self.outbox.send(Event::Told { id, made: Ok(told) }).await;
            }
            Ok(Written::Progress(progress)) => session.written = (Some(progress), Instant::now()),
            Ok(Written::View(view)) => session.viewed = (Some(view), Instant::now()),
            Ok(Written::Done) => {}
            Err(end) => {
                if let (Some(id), End::Broken(why)) = (id, &end) {
                    let _ = self.outbox.send(Event::Told { id, made: Err(why.clone()) }).await;
                }
                return Err(end);
            }
        }
        Ok(())
    }

    async fn take(&mut self, message: Result<Option<WatchResponse>, Error>) -> Result<(), End> {
        let response = message?.ok_or_else(|| End::Broken("it has ended the watch".to_owned()))?;
        if response.canceled() {
            let why = match response.compact_revision() {
                0 => response.cancel_reason().chars().filter(|c| !c.is_control()).take(200).collect(),
                revision => format!("it is compacted up to revision {revision}: everything is read anew"),
            };
            return Err(End::Broken(why));
        }
        let revision = response.header().map_or(0, |header| header.revision());
        let root = format!("{}shared/", self.root);
        // The kind of an event is not asked for: of one that it does not know, the library panics.
        let entries: Vec<Entry> = response.events().iter().filter_map(|event| entry(&root, event.kv()?)).collect();
        if entries.is_empty() {
            return Ok(());
        }
        self.outbox.send(Event::Changed { revision, entries }).await.map_err(|_| End::Closed)
    }
}
