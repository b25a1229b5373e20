//! The HTTP server: /metrics, /status, /healthz, /readyz.
//!
//! Owns the paths, content types and what keeps a slow or greedy client from costing the agent
//! anything ([`serve`]). Shutdown and [`Source`] are handed in; it knows no metric and reads no request body.

mod answer;
mod connections;
mod desk;
mod serve;

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{
        StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;

use self::{
    answer::Answer,
    connections::Connection,
    desk::{House, Queue, Refusal},
};

pub use serve::{bind, serve};

/// Text format 0.0.4, the one that every Prometheus reads.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const INDEX: &str = "\
tracer: where Linux TCP runs out of room

/metrics  Prometheus metrics
/status   hooks in force, passes and namespaces, as JSON
/readyz   200 once the first pass is done
/healthz  200 while passes go on
";

/// What the server ended or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Refused {
    /// Connections without a whole request, which gave way to new ones.
    Idle,
    /// Answers that their clients did not read.
    Unread,
    /// Answers that were read, but for so long that they gave way to other requests.
    Slow,
    /// Requests that found no room.
    Busy,
    /// Requests that the source could not answer.
    Failed,
}

impl Refused {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Idle, Self::Unread, Self::Slow, Self::Busy, Self::Failed];
    /// Their names as a metric label.
    pub const NAMES: [&str; 5] = ["idle", "unread", "slow", "busy", "failed"];
}

/// What the server shows. Implemented by the agent.
pub trait Source: Send + Sync + 'static {
    /// The exposition, whole, else cause and remedy. Takes milliseconds; called on a thread that may block, one
    /// call at a time.
    fn metrics(&self) -> Result<Bytes, String>;
    /// The agent's state, with the addresses of peers or without. Called as [`Self::metrics`] is, never beside it.
    fn status(&self, shows_peers: bool) -> serde_json::Value;
    /// Whether the first pass is done, else what is missing. Called on the server's own thread:
    /// returns at once.
    fn ready(&self) -> Result<(), String>;
    /// Counts what the server ended or refused. Called on the server's own thread.
    fn refused(&self, what: Refused, n: usize);
    /// Whether passes go on, else since when they do not. Called as [`Self::ready`] is.
    fn alive(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Who asks.
#[derive(Clone)]
struct Caller {
    connection: Arc<Connection>,
    /// Whether the request comes from this network namespace's loopback.
    is_local: bool,
}

/// The paths over `house`, for [`serve`]. Probes wait for nothing.
fn router(house: Arc<House>) -> Router {
    let queue = |read| Queue::start(Arc::clone(&house), read);
    let desk = Desk {
        metrics: queue(<dyn Source>::metrics),
        status: queue(|source| Ok(format!("{:#}\n", source.status(true)).into())),
        status_without_peers: queue(|source| Ok(format!("{:#}\n", source.status(false)).into())),
        house,
    };
    Router::new()
        .route("/", get(|| async { ([(CONTENT_TYPE, PLAIN)], INDEX) }))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(Arc::new(desk))
}

struct Desk {
    house: Arc<House>,
    metrics: Queue,
    status: Queue,
    status_without_peers: Queue,
}

impl Desk {
    async fn answer(&self, caller: Caller, queue: &Queue, content: &'static str) -> Response {
        let told = async {
            let held = self.house.hold(caller.connection).await?;
            Ok(Answer::new(queue.ask().await?, held))
        };
        match told.await {
            Ok(answer) => ([(CONTENT_TYPE, content)], Body::new(answer)).into_response(),
            Err(refusal) => self.refuse(refusal),
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response {
        let (what, text) = match refusal {
            Refusal::Busy => (Refused::Busy, "too many scrapes at once".to_owned()),
            Refusal::Late => (Refused::Failed, "the agent did not answer in time; see its log".to_owned()),
            Refusal::Source(cause) => (Refused::Failed, cause),
        };
        self.house.source.refused(what, 1);
        let head = [(RETRY_AFTER, "1"), (CONTENT_TYPE, PLAIN)];
        (StatusCode::SERVICE_UNAVAILABLE, head, format!("{text}\n")).into_response()
    }
}

async fn metrics(State(desk): State<Arc<Desk>>, Extension(caller): Extension<Caller>) -> Response {
    desk.answer(caller, &desk.metrics, EXPOSITION).await
}

async fn status(State(desk): State<Arc<Desk>>, Extension(caller): Extension<Caller>) -> Response {
    let queue = if caller.is_local { &desk.status } else { &desk.status_without_peers };
    desk.answer(caller, queue, JSON).await
}

async fn ready(State(desk): State<Arc<Desk>>) -> impl IntoResponse {
    let (code, text) = match desk.house.source.ready() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
    };
    (code, [(CONTENT_TYPE, PLAIN)], text)
}

async fn alive(State(desk): State<Arc<Desk>>) -> impl IntoResponse {
    let (code, text) = match desk.house.source.alive() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(since) => (StatusCode::SERVICE_UNAVAILABLE, format!("not alive: {since}\n")),
    };
    (code, [(CONTENT_TYPE, PLAIN)], text)
}

#[cfg(test)]
mod tests;
