//! What there is to ask for, and in which words a request is refused.

use super::backend::{Backend, Unanswered};
use super::order::{Answer, LookForTalkers, Order, Recording};
use super::server::Lease;
use super::{prometheus, ready};
use crate::limits::{ADMIN_BODY, ADMIN_PATIENCE, CAPTURE_MOST_S, CAPTURE_SNAP, TRACE_MOST};
use axum::body::Body;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures::stream;
use http_body_util::LengthLimitError;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::error::Error;
use std::fmt::Display;
use std::future::poll_fn;
use std::net::IpAddr;
use tokio::time::timeout;

/// What anybody may read.
pub fn public(backend: Backend) -> Router {
    let routes = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/openapi.json", get(description))
        .with_state(backend);
    refusing(routes, "there are GET /metrics, /healthz, /readyz and /openapi.json")
}

/// What an operator may besides.
pub fn all(backend: Backend) -> Router {
    let routes = Router::new()
        .route("/order", post(order))
        .route("/status", get(status))
        .route("/lookup", get(lookup))
        .route("/talkers", get(talkers))
        .with_state(backend.clone());
    let there_are =
        "there are POST /order, GET /status, /lookup, /talkers, /metrics, /healthz, /readyz and /openapi.json";
    refusing(public(backend).merge(routes), there_are)
}

/// The page, where nothing else is.
pub fn alone(page: Router) -> Router {
    refusing(page, "there is GET /, the page")
}

/// Says what there is to whoever asks for something else.
fn refusing(routes: Router, there_are: &'static str) -> Router {
    routes
        .fallback(move || async move { (StatusCode::NOT_FOUND, format!("not found; {there_are}\n")) })
        .method_not_allowed_fallback(move || async move {
            (StatusCode::METHOD_NOT_ALLOWED, format!("this method is not allowed; {there_are}\n"))
        })
}

async fn show_metrics(State(backend): State<Backend>) -> Response {
    match backend.page().await {
        Ok(page) => ([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], page).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn healthz(State(backend): State<Backend>) -> Response {
    let said = |error| format!("{error}\n");
    let lives = backend.overview().await.map(drop).map_err(said);
    let counted = backend.counted().await.map_err(said);
    judged(lives.and(counted).and_then(|(figures, _)| ready::healthy(&figures)))
}

async fn readyz(State(backend): State<Backend>) -> Response {
    let overview = backend.overview().await;
    judged(overview.map_err(|error| format!("{error}\n")).and_then(|overview| ready::ready(&overview)))
}

fn judged(verdict: Result<(), String>) -> Response {
    match verdict {
        Ok(()) => "ok\n".into_response(),
        Err(reasons) => (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response(),
    }
}

async fn status(State(backend): State<Backend>) -> Response {
    match backend.status().await {
        Ok(snapshot) => json(StatusCode::OK, &snapshot.status),
        Err(error) => unanswered(&error),
    }
}

async fn talkers(State(backend): State<Backend>) -> Response {
    json(StatusCode::OK, &backend.heaviest())
}

/// What is here, as OpenAPI 3.1.
const DESCRIPTION: &str = include_str!("openapi.json");

async fn description() -> Response {
    let text = DESCRIPTION.replace("@VERSION@", env!("CARGO_PKG_VERSION"));
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

async fn lookup(State(backend): State<Backend>, RawQuery(query): RawQuery) -> Response {
    let (client, service) = match lookup_query(&query.unwrap_or_default()) {
        Ok(asked) => asked,
        Err(error) => return refused(StatusCode::BAD_REQUEST, error),
    };
    match backend.order(Order::Trace { client, watch_ms: 0 }).await {
        Ok(Answer::Trace(trace)) => match trace.of_service(service.as_deref()) {
            Ok(found) => json(StatusCode::OK, &found.lookup()),
            Err(error) => refused(StatusCode::NOT_FOUND, error),
        },
        Ok(answer @ Answer::Refused { .. }) => json(StatusCode::CONFLICT, &answer),
        Ok(answer) => unreachable!("a trace is not answered by {answer:?}"),
        Err(error) => unanswered(&error),
    }
}

/// The client, and the service if it is to be one.
fn lookup_query(query: &str) -> Result<(IpAddr, Option<String>), String> {
    let (mut client, mut service) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
        match key {
            "client" => {
                let address = value.parse();
                client = Some(address.map_err(|_| format!("`client` is an IPv4 or IPv6 address, not {value:?}"))?);
            }
            "service" => service = Some(value),
            _ => return Err(format!("unknown parameter `{key}`; there are client, service")),
        }
    }
    let client = client.ok_or("name a client, as /lookup?client=198.51.100.7")?;
    Ok((client, service))
}

async fn order(State(backend): State<Backend>, Extension(lease): Extension<Lease>, body: Body) -> Response {
    let order = match read(body).await {
        Ok(order) => order,
        Err((status, error)) => return refused(status, error),
    };
    match backend.order(order).await {
        Ok(Answer::Capture(recording)) => {
            lease.extend();
            streamed(recording)
        }
        Ok(answer @ Answer::Refused { .. }) => json(StatusCode::CONFLICT, &answer),
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(error) => unanswered(&error),
    }
}

/// The order that a request holds, or what is wrong with it.
async fn read(body: Body) -> Result<Order, (StatusCode, String)> {
    let body = timeout(ADMIN_PATIENCE, axum::body::to_bytes(body, ADMIN_BODY)).await.map_err(|_| {
        (StatusCode::REQUEST_TIMEOUT, format!("the order did not arrive within {ADMIN_PATIENCE:?}; nothing was done"))
    })?;
    let body = body.map_err(|error| match error.source() {
        Some(source) if source.is::<LengthLimitError>() => {
            (StatusCode::PAYLOAD_TOO_LARGE, format!("an order has at most {ADMIN_BODY} bytes; nothing was done"))
        }
        _ => (StatusCode::BAD_REQUEST, format!("the order cannot be read: {error}; nothing was done")),
    })?;
    let no_order = |error: &dyn Display| {
        let example = r#"{"order":"drain","server":"web1"}"#;
        (StatusCode::BAD_REQUEST, format!("this is not an order: {error}; write one like {example}"))
    };
    let order: Order = serde_json::from_slice(&body).map_err(|error| no_order(&error))?;
    // A list would be taken as well.
    let given: Map<String, Value> = serde_json::from_slice(&body).map_err(|error| no_order(&error))?;
    // Where an order has no fields, serde looks for none.
    let has_none = matches!(order, Order::Status | Order::Denied | Order::Group | Order::HandOver);
    if let Some(key) = given.keys().find(|key| has_none && *key != "order") {
        return Err(no_order(&format!("unknown field `{key}`, there are no fields but `order`")));
    }
    match order {
        Order::Trace { watch_ms, .. } if u128::from(watch_ms) > TRACE_MOST.as_millis() => {
            Err((StatusCode::BAD_REQUEST, format!("a trace watches for at most {TRACE_MOST:?}, not for {watch_ms} ms")))
        }
        Order::Talkers(LookForTalkers { for_ms, .. }) if u128::from(for_ms) > TRACE_MOST.as_millis() => Err((
            StatusCode::BAD_REQUEST,
            format!("talkers are counted for at most {TRACE_MOST:?}, not for {for_ms} ms"),
        )),
        Order::Capture(capture) if !(1..=CAPTURE_SNAP).contains(&capture.snap) => Err((
            StatusCode::BAD_REQUEST,
            format!("a capture keeps 1 to {CAPTURE_SNAP} bytes of a frame, not {}", capture.snap),
        )),
        Order::Capture(capture) if capture.seconds.is_some_and(|seconds| seconds > CAPTURE_MOST_S) => {
            Err((StatusCode::BAD_REQUEST, format!("a capture takes at most {CAPTURE_MOST_S} seconds")))
        }
        order => Ok(order),
    }
}

/// A pcapng, as long as it comes.
fn streamed(recording: Recording) -> Response {
    let pieces = stream::unfold(recording, |recording| async move {
        let piece = poll_fn(|context| recording.poll_next(context)).await?;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), recording))
    });
    ([(header::CONTENT_TYPE, "application/x-pcapng")], Body::from_stream(pieces)).into_response()
}

pub(super) fn unanswered(error: &Unanswered) -> Response {
    refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

pub(super) fn refused(status: StatusCode, error: String) -> Response {
    json(status, &Answer::Refused { error })
}

pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    let mut text = serde_json::to_string(document).expect("the documents have text keys and finite numbers");
    text.push('\n');
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}
