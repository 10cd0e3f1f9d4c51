//! What a member writes to the store, one thing after the other, and the sign that it lives.
//!
//! Everything that is written may be written twice: an edit is made only if nobody has made another one, and the rest is written whole. So what
//! the store does not answer soon is asked for again. A leader that dies takes with it what it was asked for, and the others say nothing
//! of that for 7 s (etcd, `ServerConfig.ReqTimeout`).

use super::book::{Edit, Merged};
use super::record::{self, Member, MemberView, Progress};
use super::shared::Entry;
use super::store::Told;
use crate::config::published::Published;
use crate::limits::{GROUP_AGAIN, GROUP_ANSWER, GROUP_ANSWERS, GROUP_CONFLICTS, GROUP_TRY};
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, KeyValue, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// Why a session ended.
pub enum End {
    /// Nobody wants it any more.
    Closed,
    Broken(String),
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Broken(said(&error))
    }
}

pub enum Write {
    Tell {
        id: u64,
        edit: Edit,
        is_new: bool,
    },
    Member(Member),
    Progress(Progress),
    View(Box<MemberView>),
    Publish {
        published: Box<Published>,
        to: oneshot::Sender<Result<u64, String>>,
    },
    /// Reads how far all are.
    Members(oneshot::Sender<Option<BTreeMap<String, Progress>>>),
}

/// What came of it.
pub enum Written {
    Told(Told),
    Progress(Progress),
    View(Box<MemberView>),
    Done,
}

impl Write {
    /// Of what is told.
    pub fn id(&self) -> Option<u64> {
        match self {
            Write::Tell { id, .. } => Some(*id),
            _ => None,
        }
    }
}

#[derive(Clone)]
pub struct Writer {
    pub client: Client,
    /// What every key of the group begins with.
    pub root: String,
    pub member: String,
    pub lease: i64,
}

impl Writer {
    pub async fn write(self, write: Write) -> Result<Written, End> {
        match write {
            Write::Tell { edit, is_new, .. } => self.tell(&edit, is_new).await.map(Written::Told),
            Write::Member(member) => self.say_member(&member).await.map(|()| Written::Done),
            Write::Progress(progress) => {
                let value = serde_json::to_vec(&progress).expect("JSON");
                self.put(format!("{}progress/{}", self.root, self.member), value).await?;
                Ok(Written::Progress(progress))
            }
            // Whole: whoever comes later needs nothing else.
            Write::View(view) => {
                let value = serde_json::to_vec(&view).expect("JSON");
                self.put(self.key(&record::Place::View(self.member.clone())), value).await?;
                Ok(Written::View(view))
            }
            Write::Publish { published, to } => {
                let generation = match self.publish(*published).await {
                    Ok(generation) => generation,
                    Err(End::Broken(why)) => {
                        let _ = to.send(Err(why.clone()));
                        return Err(End::Broken(why));
                    }
                    Err(End::Closed) => return Err(End::Closed),
                };
                let _ = to.send(generation);
                Ok(Written::Done)
            }
            Write::Members(to) => {
                let _ = to.send(Some(self.members().await?));
                Ok(Written::Done)
            }
        }
    }

    pub async fn revoke(mut self) {
        let _ = self.client.lease_revoke(self.lease).await;
    }

    fn key(&self, place: &record::Place) -> String {
        format!("{}shared/{}", self.root, place.key())
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, End> {
        retried(|| {
            let (mut client, key) = (self.client.clone(), key.to_owned());
            async move { Ok(client.get(key, None).await?.take_kvs().into_iter().next()) }
        })
        .await
    }

    async fn put(&self, key: String, value: Vec<u8>) -> Result<(), End> {
        retried(|| {
            let (mut client, key, value) = (self.client.clone(), key.clone(), value.clone());
            let options = PutOptions::new().with_lease(self.lease);
            async move { client.put(key, value, Some(options)).await.map(drop) }
        })
        .await
    }

    /// `operation`, if the key was last written at that revision. Whether it was.
    async fn change(&self, key: &str, revision: i64, operation: TxnOp) -> Result<bool, End> {
        retried(|| {
            let mut client = self.client.clone();
            let compare = Compare::mod_revision(key.to_owned(), CompareOp::Equal, revision);
            let txn = Txn::new().when([compare]).and_then([operation.clone()]);
            async move { Ok(client.txn(txn).await?.succeeded()) }
        })
        .await
    }

    /// Has the store say that this member lives. Another process that has its name keeps it as long as that lives.
    async fn say_member(&self, member: &Member) -> Result<(), End> {
        let place = record::Place::Member(self.member.clone());
        let (key, value) = (self.key(&place), serde_json::to_vec(member).expect("JSON"));
        for _ in 0..GROUP_CONFLICTS {
            let there = self.get(&key).await?;
            if let Some(there) = &there
                && let Ok(record::Record::Member(name, other)) = record::Record::read(&place, there.value())
                && other.place != member.place
            {
                return Err(End::Broken(format!(
                    "another process in the group has the name {name}: give each process its own `member`"
                )));
            }
            let put = TxnOp::put(key.clone(), value.clone(), Some(PutOptions::new().with_lease(self.lease)));
            // What was made and not answered is found there at the next look.
            if self.change(&key, there.map_or(0, |there| there.mod_revision()), put).await? {
                return Ok(());
            }
        }
        Err(End::Broken(format!("another process had the name {} at the same time", self.member)))
    }

    /// Makes a change, if nobody makes another one at the same time; else what it has become is changed.
    async fn tell(&self, edit: &Edit, is_new: bool) -> Result<Told, End> {
        let key = self.key(&edit.place());
        for _ in 0..GROUP_CONFLICTS {
            let there = self.get(&key).await?;
            let (merged, other) = edit.merge(there.as_ref().map(KeyValue::value), is_new);
            let operation = match merged {
                Merged::Put(value) => TxnOp::put(key.clone(), value, None),
                Merged::Delete => TxnOp::delete(key.clone(), None),
                Merged::Stays => return Ok(Told { counts: other.is_none(), other }),
            };
            if self.change(&key, there.map_or(0, |there| there.mod_revision()), operation).await? {
                return Ok(Told { counts: true, other });
            }
            sleep(Duration::from_millis(fastrand::u64(0..20))).await;
        }
        Err(End::Broken(format!("others have changed it {GROUP_CONFLICTS} times meanwhile")))
    }

    /// Publishes it as the next generation, unless another one comes in between. What was made and not answered is found there as it is.
    async fn publish(&self, published: Published) -> Result<Result<u64, String>, End> {
        let key = self.key(&record::Place::Config);
        let read = |there: &Option<KeyValue>| -> Option<Published> {
            serde_json::from_slice(there.as_ref()?.value()).ok().filter(|there: &Published| there.check().is_ok())
        };
        let there = self.get(&key).await?;
        // Nobody who goes by a greater one takes it.
        let last = read(&there).map_or(0, |there| there.generation).max(published.generation);
        let next = Published { generation: last + 1, ..published };
        let put = TxnOp::put(key.clone(), serde_json::to_vec(&next).expect("JSON"), None);
        if self.change(&key, there.map_or(0, |there| there.mod_revision()), put).await? {
            return Ok(Ok(next.generation));
        }
        Ok(match read(&self.get(&key).await?) {
            Some(there) if there == next => Ok(next.generation),
            Some(there) => Err(format!(
                "{} published generation {} meanwhile: look at that, and publish again",
                there.by, there.generation
            )),
            None => Err("somebody has changed what is published meanwhile: publish again".to_owned()),
        })
    }

    async fn members(&self) -> Result<BTreeMap<String, Progress>, End> {
        let root = format!("{}progress/", self.root);
        let answer = retried(|| {
            let mut kv = self.client.kv_client().max_decoding_message_size(GROUP_ANSWER);
            let root = root.clone();
            async move { kv.get(root, Some(GetOptions::new().with_prefix())).await }
        })
        .await?;
        let read = |kv: &KeyValue| {
            let name = kv.key().strip_prefix(root.as_bytes()).and_then(|name| std::str::from_utf8(name).ok())?;
            Some((name.to_owned(), record::progress(kv.value())?))
        };
        Ok(answer.kvs().iter().filter_map(read).collect())
    }
}

/// Asks again what is not answered within `GROUP_TRY`, twice that, and so on, or is refused for the moment, up to `GROUP_ANSWERS`.
pub async fn retried<T, F: Future<Output = Result<T, Error>>>(ask: impl Fn() -> F) -> Result<T, End> {
    let end = Instant::now() + GROUP_ANSWERS;
    let mut patience = GROUP_TRY;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let why = match timeout(patience.min(left), ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if !passes(&error) => return Err(error.into()),
            Ok(Err(error)) => said(&error),
            Err(_) => {
                patience *= 2;
                format!("it has not answered within {GROUP_ANSWERS:?}")
            }
        };
        if Instant::now() + GROUP_AGAIN >= end {
            return Err(End::Broken(why));
        }
        sleep(GROUP_AGAIN.mul_f64(1.0 - fastrand::f64() / 2.0)).await;
    }
}

/// Whether a node that says so may be well in a moment: it has no leader, or another one, or has too much to do (etcd,
/// api/v3rpc/rpctypes). What lies on the way to it is not: another node is asked.
fn passes(error: &Error) -> bool {
    const MOMENTS: [&str; 5] = ["no leader", "leader changed", "timed out", "too many requests", "proposal dropped"];
    matches!(error, Error::GRpcStatus(status) if MOMENTS.iter().any(|moment| status.message().contains(moment)))
}

/// Keeps the lease of this member.
pub struct Lifeline {
    client: Client,
    lease: i64,
    /// `None`: the store has ended it, as when its leader dies.
    stream: Option<(LeaseKeeper, LeaseKeepAliveStream)>,
}

impl Lifeline {
    pub async fn new(mut client: Client, lease: i64) -> Result<Lifeline, End> {
        let stream = client.lease_keep_alive(lease).await?;
        Ok(Lifeline { client, lease, stream: Some(stream) })
    }

    /// Has the store keep the lease. It may not be there for that now: then the next time. Whether it has answered already.
    ///
    /// # Errors
    /// The lease has ended.
    pub async fn ask(&mut self) -> Result<bool, End> {
        if let Some((keeper, _)) = &mut self.stream
            && keeper.keep_alive().await.is_ok()
        {
            return Ok(false);
        }
        self.stream = None;
        match timeout(2 * GROUP_TRY, self.client.lease_keep_alive(self.lease)).await {
            Ok(Ok(stream)) => {
                self.stream = Some(stream);
                Ok(true)
            }
            Ok(Err(error @ Error::LeaseKeepAliveError(_))) => Err(error.into()),
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }

    /// Waits for a sign of the lease. Whether it is one. Cancel-safe.
    ///
    /// # Errors
    /// The lease has ended.
    pub async fn answer(&mut self) -> Result<bool, End> {
        let Some((_, stream)) = &mut self.stream else { return std::future::pending().await };
        match stream.message().await {
            Ok(Some(answer)) if answer.ttl() > 0 => Ok(true),
            Ok(Some(_)) => Err(End::Broken("the lease of this member has ended".to_owned())),
            Ok(None) | Err(_) => {
                self.stream = None;
                Ok(false)
            }
        }
    }
}

/// A key that was deleted has version 0 (api/mvccpb/kv.proto of etcd).
pub fn entry(root: &str, kv: &KeyValue) -> Option<Entry> {
    let key = kv.key().strip_prefix(root.as_bytes())?.to_vec();
    let value = (kv.version() != 0).then(|| kv.value().to_vec());
    Some(Entry { key, value, created: kv.create_revision(), revision: kv.mod_revision() })
}

/// In one line, and what lies below it: "transport error" alone helps nobody.
pub fn said(error: &Error) -> String {
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
