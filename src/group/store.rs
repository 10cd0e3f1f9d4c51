//! The thread that speaks to etcd. It reads everything below `/oneip/NAME/shared/`, watches it from there on, says that this member
//! lives, and has changes made by transactions. It starts anew from reading whenever anything breaks: a connection, a watch whose
//! revision is compacted, a lease that is lost, a quorum that is gone.

use super::book::{Edit, Merged};
use super::memory::{self, Remembered};
use super::record::{self, Member, MemberView, Progress};
use super::shared::Entry;
use crate::host::privileges;
use crate::limits::{
    GROUP_ALIVE, GROUP_ANSWER, GROUP_ANSWERS, GROUP_CLOSE, GROUP_CONFLICTS, GROUP_EVENTS, GROUP_LEASE_S,
    GROUP_PROGRESS, GROUP_RETRY_FIRST, GROUP_RETRY_LAST, GROUP_VIEW_EVERY,
};
use crate::model::{Group, Secret};
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, Identity, KeyValue,
    LeaseKeepAliveStream, LeaseKeeper, PutOptions, TlsOptions, Txn, TxnOp, WatchOptions, WatchResponse, WatchStream,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use std::{io, thread};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

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

/// Why a session ended.
enum End {
    /// Nobody wants it any more.
    Closed,
    Broken(String),
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Broken(said(&error))
    }
}

/// What is there while the store can be asked.
struct Session {
    client: Client,
    watch: WatchStream,
    lease: i64,
    keeper: LeaseKeeper,
    alive: LeaseKeepAliveStream,
    /// When the last sign of the lease came.
    heard: Instant,
    /// What the store has of how far this member is, and when that was written.
    written: (Option<Progress>, Instant),
    /// The same of what it finds.
    viewed: (Option<Box<MemberView>>, Instant),
}

impl Thread {
    async fn run(mut self) {
        let mut pause = GROUP_RETRY_FIRST;
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
            if began.elapsed() > GROUP_RETRY_LAST {
                pause = GROUP_RETRY_FIRST;
            }
            if !self.wait(pause.mul_f64(1.0 - fastrand::f64() / 2.0)).await {
                return;
            }
            pause = (2 * pause).min(GROUP_RETRY_LAST);
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
                        let made = Err("the store cannot be asked".to_owned());
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
            Ask::Remember(remembered) => {
                if let Some(Err(error)) = self.file.as_ref().map(|file| memory::save(file, &remembered)) {
                    tracing::warn!("{error}: a start without the store will not know the group's orders");
                }
            }
            Ask::Tell { .. } => {}
        }
    }

    async fn connect(&mut self) -> Result<Session, End> {
        let mut client = Client::connect([&self.group.etcd[self.node]], Some(self.options())).await?;
        let now = Instant::now();
        let lease = client.lease_grant(GROUP_LEASE_S, None).await?.id();
        let (keeper, alive) = client.lease_keep_alive(lease).await?;
        // Before this member writes anything: a store that went back is known by its revision.
        let root = format!("{}shared/", self.root);
        let mut answer = client
            .kv_client()
            .max_decoding_message_size(GROUP_ANSWER)
            .get(root.clone(), Some(GetOptions::new().with_prefix()))
            .await?;
        let header = answer.take_header().ok_or_else(|| End::Broken("an answer without a header".to_owned()))?;
        let (cluster, revision) = (header.cluster_id(), header.revision());
        self.say_member(&mut client, lease).await?;
        let options =
            WatchOptions::new().with_prefix().with_start_revision(revision.saturating_add(1)).with_progress_notify();
        let watch =
            client.watch_client().max_decoding_message_size(GROUP_ANSWER).watch(root.clone(), Some(options)).await?;
        let entries = answer.kvs().iter().filter_map(|kv| entry(&root, kv)).collect();
        self.outbox.send(Event::Loaded { cluster, revision, entries }).await.map_err(|_| End::Closed)?;
        Ok(Session {
            client,
            watch,
            lease,
            keeper,
            alive,
            heard: now,
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

    /// Has the store say that this member lives. Another process that has its name keeps it as long as that lives.
    async fn say_member(&mut self, client: &mut Client, lease: i64) -> Result<(), End> {
        let key = format!("{}shared/members/{}", self.root, self.group.member);
        let there = client.get(key.clone(), None).await?;
        let there = there.kvs().first();
        if let Some(record::Record::Member(name, other)) = there
            .and_then(|kv| record::Record::read(&record::Place::Member(self.group.member.clone()), kv.value()).ok())
            && other.place != self.member.place
        {
            return Err(End::Broken(format!(
                "another process is called {name} in the group: give each a `member` of its own"
            )));
        }
        let value = serde_json::to_vec(&self.member).expect("JSON");
        let compare = Compare::mod_revision(key.clone(), CompareOp::Equal, there.map_or(0, KeyValue::mod_revision));
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        let done = client.txn(Txn::new().when([compare]).and_then([put])).await?;
        match done.succeeded() {
            true => Ok(()),
            false => Err(End::Broken(format!("another process was called {} at the same time", self.group.member))),
        }
    }

    async fn follow(&mut self, mut session: Session) -> End {
        let mut beat = Instant::now() + GROUP_ALIVE;
        loop {
            let (written, at) = &session.written;
            let write = (self.progress.is_some() && self.progress != *written).then_some(*at + GROUP_PROGRESS);
            let (viewed, at) = &session.viewed;
            let view = (self.view.is_some() && self.view != *viewed).then_some(*at + GROUP_VIEW_EVERY);
            let step = tokio::select! {
                message = session.watch.message() => self.take(message).await,
                message = session.alive.message() => match message {
                    Ok(Some(answer)) if answer.ttl() > 0 => { session.heard = Instant::now(); Ok(()) }
                    Ok(_) => Err(End::Broken("the lease of this member has ended".to_owned())),
                    Err(error) => Err(error.into()),
                },
                () = sleep_until(beat) => {
                    beat = Instant::now() + GROUP_ALIVE;
                    match session.heard.elapsed() > Duration::from_secs(GROUP_LEASE_S as u64) {
                        true => Err(End::Broken("it does not answer".to_owned())),
                        false => session.keeper.keep_alive().await.map_err(End::from),
                    }
                },
                () = sleep_until(write.unwrap_or(beat)), if write.is_some() => self.say_progress(&mut session).await,
                () = sleep_until(view.unwrap_or(beat)), if view.is_some() => self.say_view(&mut session).await,
                ask = self.inbox.recv() => match ask {
                    Some(ask) => self.carry_out(ask, &mut session).await,
                    None => {
                        let _ = timeout(GROUP_CLOSE, session.client.lease_revoke(session.lease)).await;
                        Err(End::Closed)
                    }
                },
            };
            if let Err(end) = step {
                return end;
            }
        }
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

    async fn carry_out(&mut self, ask: Ask, session: &mut Session) -> Result<(), End> {
        match ask {
            Ask::Tell { id, edit, is_new } => {
                let made = self.tell(&edit, is_new, &mut session.client).await;
                let broken = made.as_ref().err().cloned();
                let _ = self.outbox.send(Event::Told { id, made }).await;
                broken.map_or(Ok(()), |why| Err(End::Broken(why)))
            }
            Ask::Member(member) => {
                self.member = member;
                self.say_member(&mut session.client, session.lease).await
            }
            Ask::Members(to) => {
                let root = format!("{}progress/", self.root);
                let answer = session.client.get(root.clone(), Some(GetOptions::new().with_prefix())).await?;
                let read = |kv: &KeyValue| {
                    let name =
                        kv.key().strip_prefix(root.as_bytes()).and_then(|name| std::str::from_utf8(name).ok())?;
                    Some((name.to_owned(), record::progress(kv.value())?))
                };
                let _ = to.send(Some(answer.kvs().iter().filter_map(read).collect()));
                Ok(())
            }
            other => {
                self.note(other);
                Ok(())
            }
        }
    }

    async fn say_progress(&mut self, session: &mut Session) -> Result<(), End> {
        let key = format!("{}progress/{}", self.root, self.group.member);
        let value = serde_json::to_vec(&self.progress).expect("JSON");
        session.client.put(key, value, Some(PutOptions::new().with_lease(session.lease))).await?;
        session.written = (self.progress.clone(), Instant::now());
        Ok(())
    }

    /// Whole: whoever comes later needs nothing else.
    async fn say_view(&mut self, session: &mut Session) -> Result<(), End> {
        let key = format!("{}shared/{}", self.root, record::Place::View(self.group.member.clone()).key());
        let value = serde_json::to_vec(&self.view).expect("JSON");
        session.client.put(key, value, Some(PutOptions::new().with_lease(session.lease))).await?;
        session.viewed = (self.view.clone(), Instant::now());
        Ok(())
    }

    /// Makes a change, if nobody makes another one at the same time; else what it has become is changed.
    async fn tell(&self, edit: &Edit, is_new: bool, client: &mut Client) -> Result<Told, String> {
        let key = format!("{}shared/{}", self.root, edit.place().key());
        for _ in 0..GROUP_CONFLICTS {
            let there = client.get(key.clone(), None).await.map_err(|error| said(&error))?;
            let there = there.kvs().first();
            let (merged, other) = edit.merge(there.map(KeyValue::value), is_new);
            let operation = match merged {
                Merged::Put(value) => TxnOp::put(key.clone(), value, None),
                Merged::Delete => TxnOp::delete(key.clone(), None),
                Merged::Stays => return Ok(Told { counts: other.is_none(), other }),
            };
            let compare = Compare::mod_revision(key.clone(), CompareOp::Equal, there.map_or(0, KeyValue::mod_revision));
            let done =
                client.txn(Txn::new().when([compare]).and_then([operation])).await.map_err(|error| said(&error))?;
            if done.succeeded() {
                return Ok(Told { counts: true, other });
            }
            sleep(Duration::from_millis(fastrand::u64(0..20))).await;
        }
        Err(format!("others have changed it {GROUP_CONFLICTS} times meanwhile"))
    }
}

/// A key that was deleted has version 0 (api/mvccpb/kv.proto of etcd).
fn entry(root: &str, kv: &KeyValue) -> Option<Entry> {
    let key = kv.key().strip_prefix(root.as_bytes())?.to_vec();
    let value = (kv.version() != 0).then(|| kv.value().to_vec());
    Some(Entry { key, value, created: kv.create_revision(), revision: kv.mod_revision() })
}

/// In one line, and what lies below it: "transport error" alone helps nobody.
fn said(error: &Error) -> String {
    let mut text = match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_said = cause.to_string();
        if !text.contains(&cause_said) {
            text = format!("{text}: {cause_said}");
        }
        source = cause.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
