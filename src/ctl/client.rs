//! Asks over the admin socket. A connection is one request and its answer.

use crate::admin::order::{Answer, Order};
use crate::limits::{ADMIN_PATIENCE, FIGURES_MOST, ORDER_MOST};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// The process says itself when one of its threads does not answer; more time means that it hangs as a whole.
const PATIENCE: Duration =
    ORDER_MOST.checked_add(FIGURES_MOST).expect("seconds").checked_add(ADMIN_PATIENCE).expect("seconds");

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "there is no socket {}; is a dispatcher running? Where its configuration names another, as `socket` in [admin], \
         say so by --socket PATH",
        .0.display()
    )]
    Absent(PathBuf),
    #[error("permission denied on the socket {}; only root, its owner and its group may give orders", .0.display())]
    Forbidden(PathBuf),
    #[error(
        "nobody answers on the socket {}; the dispatcher that made it has ended, and the next one will replace it",
        .0.display()
    )]
    Dead(PathBuf),
    #[error("the process on {} has more clients than it serves at once, and others wait already; try again", .0.display())]
    Crowded(PathBuf),
    #[error("the socket {} cannot be used: {error}", path.display())]
    Connection { path: PathBuf, error: io::Error },
    #[error("the process on {} hangs: there is no answer after {after:?}", path.display())]
    Silent { path: PathBuf, after: Duration },
    #[error("the process on {} ended before it answered: {error}", path.display())]
    Broken { path: PathBuf, error: hyper::Error },
    /// In the words of whom was asked.
    #[error("{0}")]
    Refused(String),
    #[error("{asked} is nothing that the process on {} knows; it answers: {status} {text}", path.display())]
    Unknown { path: PathBuf, asked: String, status: StatusCode, text: String },
    #[error("{0}")]
    Unreadable(String),
    /// What came cannot be put where it should be.
    #[error("{0}")]
    Written(io::Error),
}

pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// # Errors
    /// The kernel gives no event queue.
    pub fn new(socket: PathBuf) -> io::Result<Client> {
        Ok(Client { socket, runtime: Builder::new_current_thread().enable_all().build()? })
    }

    /// The document of `GET /status`.
    ///
    /// # Errors
    /// There is no answer, or none of use.
    pub fn status(&self) -> Result<Value, Error> {
        parsed(&self.ask(Method::GET, "/status", Bytes::new(), PATIENCE)?)
    }

    /// What `GET /healthz` finds wrong; `None`: nothing.
    ///
    /// # Errors
    /// There is no answer, or none of use.
    pub fn trouble(&self) -> Result<Option<String>, Error> {
        match self.ask(Method::GET, "/healthz", Bytes::new(), PATIENCE) {
            Ok(_) => Ok(None),
            Err(Error::Refused(trouble)) => Ok(Some(trouble)),
            Err(error) => Err(error),
        }
    }

    /// The document of `GET /talkers`.
    ///
    /// # Errors
    /// There is no answer, or none of use.
    pub fn talkers(&self) -> Result<Value, Error> {
        parsed(&self.ask(Method::GET, "/talkers", Bytes::new(), PATIENCE)?)
    }

    /// Has an order carried out.
    ///
    /// # Errors
    /// There is no answer, or it was refused.
    pub fn order(&self, order: &Order) -> Result<Value, Error> {
        let body = serde_json::to_vec(order).expect("an order has text keys");
        parsed(&self.ask(Method::POST, "/order", body.into(), PATIENCE + order.takes())?)
    }

    /// Has an order carried out whose answer comes piece by piece, until it ends or this process is interrupted.
    ///
    /// # Errors
    /// There is no answer, or it was refused; or `write` fails.
    pub fn stream(&self, order: &Order, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Error> {
        let body = serde_json::to_vec(order).expect("an order has text keys");
        let path = || self.socket.clone();
        self.runtime.block_on(async {
            let broken = |error| Error::Broken { path: path(), error };
            let (mut requests, connection) = connect(&self.socket).await?;
            let request = request(Method::POST, "/order", body.into());
            let pieces = async {
                let silent = |_| Error::Silent { path: path(), after: PATIENCE };
                let answer =
                    timeout(PATIENCE, requests.send_request(request)).await.map_err(silent)?.map_err(broken)?;
                let (head, mut body) = answer.into_parts();
                if !head.status.is_success() {
                    let body = body.collect().await.map_err(broken)?.to_bytes();
                    return Err(self.refusal("POST /order".to_owned(), head.status, &body));
                }
                while let Some(frame) = body.frame().await {
                    if let Ok(piece) = frame.map_err(broken)?.into_data() {
                        write(&piece).map_err(Error::Written)?;
                    }
                }
                Ok(())
            };
            let (mut pieces, mut connection) = (pin!(pieces), pin!(connection));
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => Ok(()),
                ended = &mut pieces => ended,
                ended = &mut connection => match ended {
                    Ok(()) => pieces.await,
                    Err(error) => Err(broken(error)),
                },
            }
        })
    }

    /// What a reload would change, or why it would be refused. `None`: the process does not say.
    pub fn rehearse_reload(&self) -> Option<Result<Vec<String>, String>> {
        match self.order(&Order::Reload { force: false, dry_run: true }).map(read) {
            Ok(Ok(Answer::Done { changes })) => Some(Ok(changes)),
            Ok(_) => None,
            Err(error) => Some(Err(error.to_string())),
        }
    }

    /// The text of `GET /metrics`.
    ///
    /// # Errors
    /// There is no answer, or none of use.
    pub fn metrics(&self) -> Result<String, Error> {
        let text = self.ask(Method::GET, "/metrics", Bytes::new(), PATIENCE)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn ask(&self, method: Method, path: &str, body: Bytes, most: Duration) -> Result<Bytes, Error> {
        let asked = format!("{method} {path}");
        let exchange = async { timeout(most, exchange(&self.socket, method, path, body)).await };
        let (status, body) = self
            .runtime
            .block_on(exchange)
            .unwrap_or_else(|_| Err(Error::Silent { path: self.socket.clone(), after: most }))?;
        if status.is_success() {
            return Ok(body);
        }
        Err(self.refusal(asked, status, &body))
    }

    fn refusal(&self, asked: String, status: StatusCode, body: &[u8]) -> Error {
        let text = String::from_utf8_lossy(body).trim_end().to_owned();
        match (serde_json::from_slice(body), status) {
            (Ok(Answer::Refused { error }), _) => Error::Refused(error),
            (_, StatusCode::SERVICE_UNAVAILABLE) => Error::Refused(text),
            _ => Error::Unknown { path: self.socket.clone(), asked, status, text },
        }
    }
}

type Requests = http1::SendRequest<Full<Bytes>>;
type Connection = http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

async fn connect(socket: &Path) -> Result<(Requests, Connection), Error> {
    let stream = UnixStream::connect(socket).await.map_err(|error| of_connecting(socket, error))?;
    http1::handshake(TokioIo::new(stream)).await.map_err(|error| Error::Broken { path: socket.to_owned(), error })
}

fn request(method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", "oneip").body(Full::new(body));
    request.expect("a legal request")
}

/// One request and its answer.
async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), Error> {
    let broken = |error| Error::Broken { path: socket.to_owned(), error };
    let (mut requests, connection) = connect(socket).await?;
    let answer = async {
        let answer = requests.send_request(request(method, path, body)).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    };
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    }
    .map_err(broken)
}

fn of_connecting(socket: &Path, error: io::Error) -> Error {
    let path = socket.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => Error::Absent(path),
        io::ErrorKind::PermissionDenied => Error::Forbidden(path),
        io::ErrorKind::ConnectionRefused => Error::Dead(path),
        // The queue in front of `accept` is full, see unix(7).
        io::ErrorKind::WouldBlock => Error::Crowded(path),
        _ => Error::Connection { path, error },
    }
}

fn parsed(body: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Unreadable(format!("the answer is no JSON document: {error}")))
}

/// What a document says, to this version's knowledge. Keys that it does not know do not matter.
///
/// # Errors
/// The document lacks what this version looks for.
pub fn read<T: DeserializeOwned>(document: Value) -> Result<T, Error> {
    let version = document.get("version").and_then(Value::as_str).map(str::to_owned);
    serde_json::from_value(document).map_err(|error| {
        let ours = env!("CARGO_PKG_VERSION");
        Error::Unreadable(match version {
            Some(theirs) if theirs != ours => format!(
                "the answer of oneip {theirs} cannot be read by oneip {ours}: {error}; use the binary of that version, \
                 or --json"
            ),
            _ => format!("the answer cannot be read: {error}"),
        })
    })
}
