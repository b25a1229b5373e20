//! The HTTP server: /metrics, /status, /healthz, /readyz.
//!
//! Owns the paths, content types and what keeps a slow or greedy client from costing the agent
//! anything ([`serve`]). Listener, shutdown and [`Source`] are handed in; it binds nothing, knows no
//! metric and reads no request body.

mod connection;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use tokio::sync::{Mutex, Semaphore};

pub use connection::serve;

/// Text format 0.0.4, the one that every Prometheus reads.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const INDEX: &str = "\
tracer: where Linux TCP runs out of room

/metrics  Prometheus metrics
/status   hooks in force, passes and namespaces, as JSON
/readyz   200 once the first pass is done
/healthz  200 while the agent lives
";

/// How many requests may wait for the collection at hand. Two Prometheus servers, a person and a
/// retry of each; who comes later is told to try again rather than kept.
const WAITING_MAX: usize = 8;

/// What the server shows. Implemented by the agent.
pub trait Source: Send + Sync + 'static {
    /// The exposition. Takes milliseconds; called on a thread that may block, one call at a time.
    fn metrics(&self) -> Bytes;
    /// The agent's state. Called as [`Self::metrics`] is, never beside it.
    fn status(&self) -> serde_json::Value;
    /// Whether the first pass is done, else what is missing. Called on the server's own thread:
    /// returns at once.
    fn ready(&self) -> Result<(), String>;
}

/// The paths over `source`, for [`serve`].
pub fn router(source: Arc<dyn Source>) -> Router {
    let desk = Desk { source, places: Arc::new(Semaphore::new(WAITING_MAX)), turn: Arc::default() };
    Router::new()
        .route("/", get(|| async { ([(CONTENT_TYPE, PLAIN)], INDEX) }))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/healthz", get(|| async { ([(CONTENT_TYPE, PLAIN)], "ok\n") }))
        .route("/readyz", get(ready))
        .with_state(desk)
}

/// Where requests queue for the source.
#[derive(Clone)]
struct Desk {
    source: Arc<dyn Source>,
    /// Bounds who waits or is served.
    places: Arc<Semaphore>,
    /// Held by the one collection that runs.
    turn: Arc<Mutex<()>>,
}

impl Desk {
    /// Runs `read` on the source off the server's thread, after those who came before.
    async fn read<T: Send + 'static>(&self, read: fn(&dyn Source) -> T) -> Result<T, Response> {
        let Ok(_place) = self.places.try_acquire() else {
            return Err(
                (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], "too many scrapes at once\n").into_response()
            );
        };
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let source = Arc::clone(&self.source);
        let reading = tokio::task::spawn_blocking(move || {
            // Given back when the collection ends, also if its client has left meanwhile.
            let _turn = turn;
            read(source.as_ref())
        });
        reading.await.map_err(|error| {
            tracing::error!(%error, "collection failed");
            (StatusCode::INTERNAL_SERVER_ERROR, "collection failed, see the agent's log\n").into_response()
        })
    }
}

async fn metrics(State(desk): State<Desk>) -> Result<impl IntoResponse, Response> {
    let text = desk.read(<dyn Source>::metrics).await?;
    Ok(([(CONTENT_TYPE, EXPOSITION)], text))
}

async fn status(State(desk): State<Desk>) -> Result<impl IntoResponse, Response> {
    let json = desk.read(|source| format!("{:#}\n", source.status())).await?;
    Ok(([(CONTENT_TYPE, JSON)], json))
}

async fn ready(State(desk): State<Desk>) -> impl IntoResponse {
    let (code, text) = match desk.source.ready() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
    };
    (code, [(CONTENT_TYPE, PLAIN)], text)
}

#[cfg(test)]
mod tests;
