//! The thread that serves the socket and the listener of the metrics. A connection is one request and its answer, so that
//! slow clients, whose number is bounded, are gone in bounded time.

use super::backend::Backend;
use super::routes;
use super::socket::{Listeners, SocketFile, Web};
use super::web::{self, Minute};
use crate::host::privileges;
use crate::limits::{ADMIN_CONNECTIONS, ADMIN_EXCHANGE, ADMIN_FAREWELL, ADMIN_HEAD, ADMIN_PATIENCE, METRICS_EXCHANGE};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

/// The running server. It ends when this is dropped: nobody is served any more, then the socket's file is removed.
#[derive(Debug)]
pub struct Server {
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    _socket: Option<SocketFile>,
}

impl Listeners {
    /// Serves from a thread of its own, which gives its privileges up. Whoever may remove the socket's file keeps the server.
    ///
    /// # Errors
    /// The thread or its runtime cannot be had.
    pub fn start(self, backend: Backend) -> io::Result<Server> {
        let Listeners { socket, metrics, web } = self;
        let (socket, file) = socket.unzip();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (is_web, is_beside) = (!matches!(web, Web::Nowhere), matches!(web, Web::Beside));
        let places = {
            let _inside = runtime.enter();
            let web = if let Web::Apart(listener) = web { Some(listener) } else { None };
            let tcp = |listener: Option<std::net::TcpListener>| listener.map(TcpListener::from_std).transpose();
            Places { socket: socket.map(UnixListener::from_std).transpose()?, metrics: tcp(metrics)?, web: tcp(web)? }
        };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("oneip-admin".into()).spawn(move || {
            if let Err(error) = privileges::keep(&[]) {
                tracing::warn!(%error, "the admin thread keeps privileges that it does not need");
            }
            let minute = is_web.then(Minute::default);
            serve(&runtime, places, (minute.as_ref(), is_beside), &backend, stopped);
        })?;
        Ok(Server { thread: Some((stop, thread)), _socket: file })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

/// Where clients come in.
struct Places {
    socket: Option<UnixListener>,
    metrics: Option<TcpListener>,
    /// The page's own.
    web: Option<TcpListener>,
}

/// `minute`: what the page shows of the last one, where there is a page; it may be beside the metrics.
fn serve(
    runtime: &Runtime,
    Places { socket, metrics, web }: Places,
    (minute, is_beside): (Option<&Minute>, bool),
    backend: &Backend,
    stopped: oneshot::Receiver<()>,
) {
    let page = minute.map(|minute| web::routes(backend.clone(), minute.clone()));
    let (all, mut public) = (routes::all(backend.clone()), routes::public(backend.clone()));
    if let Some(page) = page.clone().filter(|_| is_beside) {
        public = public.merge(page);
    }
    let alone = page.map(routes::alone);
    let places = || Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
    let exchanges = places();
    runtime.block_on(async {
        let operators = async {
            let Some(socket) = socket else { return pending().await };
            accept(async || socket.accept().await.map(|(stream, _)| stream), &all, ADMIN_EXCHANGE, &exchanges).await
        };
        let readers = async |listener: Option<TcpListener>, routes: Option<&Router>| {
            let (Some(listener), Some(routes)) = (listener, routes) else { return pending().await };
            accept(async || listener.accept().await.map(|(stream, _)| stream), routes, METRICS_EXCHANGE, &places())
                .await
        };
        let counts = async {
            let Some(minute) = minute else { return pending().await };
            minute.follow(backend).await
        };
        tokio::select! {
            () = operators => {}
            () = readers(metrics, Some(&public)) => {}
            () = readers(web, alone.as_ref()) => {}
            () = counts => {}
            _ = stopped => {}
        }
        // Whoever has had this process end is to hear that it does.
        let _ = timeout(ADMIN_FAREWELL, exchanges.acquire_many(ADMIN_CONNECTIONS as u32)).await;
    });
}

/// Serves whoever comes, a bounded number at once.
async fn accept<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut next: impl AsyncFnMut() -> io::Result<S>,
    routes: &Router,
    most: Duration,
    places: &Arc<Semaphore>,
) {
    loop {
        let place = Arc::clone(places).acquire_owned().await.expect("nobody closes it");
        match next().await {
            Ok(stream) => {
                let routes = routes.clone();
                tokio::spawn(async move {
                    exchange(stream, routes, most).await;
                    drop(place);
                });
            }
            // Most likely this process has no file descriptor left for now.
            Err(error) => {
                tracing::warn!(%error, "an admin connection cannot be accepted");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// How long a connection may live: until its time is over, or, once extended, as long as the client keeps it.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease(Arc<AtomicBool>);

impl Lease {
    pub fn extend(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    async fn over(&self, most: Duration) {
        sleep(most).await;
        if self.0.load(Ordering::Relaxed) {
            pending().await
        }
    }
}

/// One request and its answer.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, routes: Router, most: Duration) {
    let lease = Lease::default();
    let routes = routes.layer(Extension(lease.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_PATIENCE)
        .max_buf_size(ADMIN_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "an admin connection ended early");
        },
        () = lease.over(most) => tracing::debug!("an admin connection took more than {most:?} and was closed"),
    }
}
