//! The real server, in front of two threads that answer what the test wants.

use crate::sample;
use crossbeam::channel::{RecvTimeoutError, Sender};
use oneip::admin::order::{Answer, Denied, Order};
use oneip::admin::status::Status;
use oneip::admin::timeline::Timeline;
use oneip::admin::{self, Overview, Seen, Server, Watched};
use oneip::metrics::latest::Latest;
use oneip::metrics::snapshot::Snapshot;
use oneip::model::Admin;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A running server. Its threads end with it.
pub struct Fake {
    pub socket: PathBuf,
    pub metrics: SocketAddr,
    pub web: SocketAddr,
    pub timeline: Timeline,
    /// Every order that arrived, those for a status left out.
    pub orders: Arc<Mutex<Vec<Order>>>,
    pub server: Server,
    _stop: Sender<()>,
    _folder: TempDir,
}

/// What the threads behind the server do.
#[derive(Clone)]
pub struct Script {
    /// `None`: the control thread takes the order and never answers it, though it goes on to the next.
    pub answer: fn(&Order) -> Option<Answer>,
    /// Before each answer.
    pub pause: Duration,
    pub status: Arc<Mutex<Status>>,
    /// `None`: the stats thread takes the question and never answers.
    pub figures: Arc<Mutex<Option<Snapshot>>>,
    /// Where the page is asked to be.
    pub web: SocketAddr,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            answer: done,
            pause: Duration::ZERO,
            status: Arc::new(Mutex::new(sample::status())),
            figures: Arc::new(Mutex::new(Some(sample::figures()))),
            web: "127.0.0.2:0".parse().unwrap(),
        }
    }
}

/// How soon what the script says is put down.
pub const LOOK: Duration = Duration::from_millis(2);

pub fn overview_of(mut status: Status, at: Instant) -> Overview {
    let services = status.services.drain(..).map(|service| Arc::new(Seen { service, at })).collect();
    Overview { head: status, at, services, announcements: Vec::new() }
}

/// Does what it is told, except to a server called `nobody`.
fn done(order: &Order) -> Option<Answer> {
    Some(match order {
        Order::Status => unreachable!("answered from the script"),
        Order::Trace { watch_ms, .. } => Answer::Trace(sample::trace(*watch_ms > 0)),
        Order::Diff { config } => Answer::Diff(sample::diff(config.is_some())),
        Order::CheckClient { client, port, .. } => Answer::Client(sample::client(*client, *port)),
        Order::Talkers(_) => Answer::Talkers(sample::talkers()),
        Order::Capture(_) => Answer::Capture(sample::recording()),
        Order::HandOver => Answer::Done { changes: vec!["it ends".to_owned()] },
        Order::Reload { .. } | Order::Publish { .. } => {
            Answer::Done { changes: vec!["service web: server web4 is new".into(), "generation 18".into()] }
        }
        Order::Withdraw { service } | Order::Announce { service } => {
            Answer::Done { changes: vec![format!("{service:?}: {order:?}")] }
        }
        Order::Group => Answer::Group(Box::new(sample::group_of_two())),
        Order::Local { inner } => Answer::Done { changes: vec![format!("here: {inner:?}")] },
        Order::Denied => Answer::Denied(Denied { denied: Vec::new(), lists: Vec::new() }),
        Order::Deny { .. } | Order::Undeny { .. } => Answer::Done { changes: vec![format!("{order:?}")] },
        Order::Drain { server, .. }
        | Order::Undrain { server, .. }
        | Order::Weight { server, .. }
        | Order::Disable { server, .. }
        | Order::Enable { server, .. } => match server.as_str() {
            "nobody" => {
                Answer::Refused { error: "there is no server nobody; there are ns1, ns2, web1, web2, web3".into() }
            }
            "still" => Answer::Done { changes: Vec::new() },
            name => Answer::Done { changes: vec![format!("server {name}: {order:?}")] },
        },
    })
}

impl Fake {
    pub fn start() -> Fake {
        Fake::with(Script::default())
    }

    pub fn with(script: Script) -> Fake {
        let folder = tempfile::tempdir().unwrap();
        let admin = Admin {
            socket: folder.path().join("oneip.sock"),
            socket_given: true,
            metrics: Some("127.0.0.1:0".parse().unwrap()),
            web: Some(script.web),
            state: folder.path().join("state.json"),
        };
        let listeners = admin::bind(&admin).unwrap();
        let (metrics, web, timeline) = (listeners.metrics().unwrap(), listeners.web().unwrap(), Timeline::default());
        let (ask, wanted) = crossbeam::channel::unbounded();
        let overview = Latest::default();
        let counted = Arc::clone(&script.figures);
        let counted = move || Some((Arc::new(counted.lock().unwrap().clone()?), Duration::ZERO));
        let watched = Watched { overview: overview.clone(), figures: Box::new(counted), timeline: timeline.clone() };
        let (backend, mut asked) = admin::channel(watched, move |to| drop(ask.send(to)));
        // Until the server ends, which has the other end.
        let status = Arc::clone(&script.status);
        let (stop, stopped) = crossbeam::channel::bounded::<()>(0);
        thread::spawn(move || {
            // Since then everything has become older.
            let began = Instant::now();
            loop {
                overview.put(overview_of(status.lock().unwrap().clone(), began));
                if stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        });
        let orders = Arc::new(Mutex::new(Vec::new()));
        let (log, figures) = (Arc::clone(&orders), Arc::clone(&script.figures));
        thread::spawn(move || {
            let mut unanswered: Vec<oneshot::Sender<Answer>> = Vec::new();
            while let Some((order, to)) = asked.blocking_recv() {
                if to.is_closed() {
                    continue;
                }
                thread::sleep(script.pause);
                let answer = match &order {
                    Order::Status => Some(Answer::Status(Box::new(script.status.lock().unwrap().clone()))),
                    order => (script.answer)(order),
                };
                if order != Order::Status {
                    log.lock().unwrap().push(order);
                }
                match answer {
                    Some(answer) => _ = to.send(answer),
                    None => unanswered.push(to),
                }
            }
        });
        thread::spawn(move || {
            let mut unanswered: Vec<oneshot::Sender<Snapshot>> = Vec::new();
            for to in wanted {
                match figures.lock().unwrap().clone() {
                    Some(figures) => _ = to.send(figures),
                    None => unanswered.push(to),
                }
            }
        });
        let server = listeners.start(backend).unwrap();
        Fake { socket: admin.socket, metrics, web, timeline, orders, server, _stop: stop, _folder: folder }
    }

    pub fn orders(&self) -> Vec<Order> {
        self.orders.lock().unwrap().clone()
    }
}

/// Nobody has put anything down.
pub fn nothing() -> Watched {
    Watched { overview: Latest::default(), figures: Box::new(|| None), timeline: Timeline::default() }
}
