//! A page for people: what `ctl status` and `ctl top` say, in a browser. It can be read, and nothing else.
//!
//! `documents` has what the page asks for, again and again; `minute` notes counters, so that there are rates. The page itself is
//! three files, which are in the program. They ask nobody but this process, and a browser is told to hold them to that.

mod documents;
mod minute;

pub use minute::Minute;

use self::documents::Wanted;
use super::backend::{Backend, Observed, Unanswered};
use super::routes::{json, refused, unanswered};
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::Response;
use axum::routing::get;
use percent_encoding::percent_decode_str;
use serde::Serialize;

/// Nothing from elsewhere, nothing written into the page, and no page around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What a browser is told with each answer.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The page's files: path, type, text.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("page.html")),
    ("/web/page.css", "text/css; charset=utf-8", include_str!("page.css")),
    ("/web/page.js", "text/javascript; charset=utf-8", include_str!("page.js")),
    ("/web/icon.svg", "image/svg+xml", include_str!("icon.svg")),
];

#[derive(Clone)]
struct Source {
    backend: Backend,
    minute: Minute,
}

/// The page and its documents.
pub fn routes(backend: Backend, minute: Minute) -> Router {
    let mut routes = Router::new()
        .route("/web/now", get(now))
        .route("/web/services", get(services))
        .route("/web/service", get(service))
        .route("/web/events", get(events))
        .route("/web/talkers", get(talkers))
        .with_state(Source { backend, minute });
    for (path, kind, text) in FILES {
        routes = routes.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], text) }));
    }
    routes.layer(middleware::map_response(with_headers))
}

async fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn now(State(source): State<Source>, RawQuery(query): RawQuery) -> Response {
    source
        .answer(query, &[], |seen, source, _| Ok(documents::now(seen, &source.minute, source.backend.timeline())))
        .await
}

async fn services(State(source): State<Source>, RawQuery(query): RawQuery) -> Response {
    let keys = ["find", "trouble", "page"];
    source.answer(query, &keys, |seen, source, asked| Ok(documents::services(seen, &source.minute, &asked.rows))).await
}

async fn service(State(source): State<Source>, RawQuery(query): RawQuery) -> Response {
    let keys = ["name", "find", "trouble", "page"];
    let found = |seen: &Observed, source: &Source, asked: &Asked| {
        let found = documents::service(seen, &source.minute, &asked.name, &asked.rows);
        found.ok_or_else(|| (StatusCode::NOT_FOUND, format!("there is no service {:?}", asked.name)))
    };
    source.answer(query, &keys, found).await
}

async fn events(State(source): State<Source>, RawQuery(query): RawQuery) -> Response {
    let new =
        |_: &Observed, source: &Source, asked: &Asked| Ok(documents::events(source.backend.timeline(), asked.after));
    source.answer(query, &["after"], new).await
}

async fn talkers(State(source): State<Source>, RawQuery(query): RawQuery) -> Response {
    match Asked::parse(&query.unwrap_or_default(), &[]) {
        Ok(_) => json(StatusCode::OK, &source.backend.heaviest()),
        Err(error) => refused(StatusCode::BAD_REQUEST, error),
    }
}

/// What is wrong with a request.
type Refused = (StatusCode, String);

impl Source {
    /// A document, made beside the thread that serves.
    async fn answer<D: Serialize>(
        self,
        query: Option<String>,
        keys: &[&str],
        make: impl FnOnce(&Observed, &Source, &Asked) -> Result<D, Refused> + Send + 'static,
    ) -> Response {
        let asked = match Asked::parse(&query.unwrap_or_default(), keys) {
            Ok(asked) => asked,
            Err(error) => return refused(StatusCode::BAD_REQUEST, error),
        };
        let seen = match self.backend.seen().await {
            Ok(seen) => seen,
            Err(error) => return unanswered(&error),
        };
        let made = tokio::task::spawn_blocking(move || match make(&seen, &self, &asked) {
            Ok(document) => json(StatusCode::OK, &document),
            Err((status, error)) => refused(status, error),
        });
        made.await.unwrap_or_else(|_| unanswered(&Unanswered::Ended))
    }
}

/// What a query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    name: String,
    rows: Wanted,
    /// The number of the last event that is known.
    after: u64,
}

impl Asked {
    /// # Errors
    /// It has other keys than these, or a value that is none.
    fn parse(query: &str, keys: &[&str]) -> Result<Asked, String> {
        let mut asked = Asked { rows: Wanted { page: 1, ..Wanted::default() }, ..Asked::default() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match key {
                _ if !keys.contains(&key) => {
                    let known = if keys.is_empty() { "none here".to_owned() } else { keys.join(", ") };
                    return Err(format!("unknown parameter `{key}`; there are {known}"));
                }
                "name" => asked.name = value,
                "find" => asked.rows.find = value,
                "trouble" => {
                    asked.rows.trouble = match value.as_str() {
                        "1" => true,
                        "0" => false,
                        _ => return Err(format!("`trouble` is 0 or 1, not {value:?}")),
                    }
                }
                "after" => {
                    let after = value.parse();
                    asked.after = after.map_err(|_| format!("`after` is the number of an event, not {value:?}"))?;
                }
                _ => {
                    let page = value.parse().ok().filter(|page| *page > 0);
                    asked.rows.page = page.ok_or_else(|| format!("`page` is a number from 1 on, not {value:?}"))?;
                }
            }
        }
        Ok(asked)
    }
}
