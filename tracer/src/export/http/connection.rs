//! Connections: accepting, bounding and draining them.
//!
//! Takes a bound listener, a router and a shutdown future; gives back once every connection is done.
//! `axum::serve` is not used because it bounds none of this: no number of connections, no time for a
//! request's head, no size.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

/// The most that clients may take. A value, so that tests need not wait for minutes.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Connections served at once; further ones wait in the kernel's accept queue.
    pub(super) connections: u32,
    /// Time for a request's head, counted from when the last response went out, so it also ends
    /// idle connections.
    pub(super) head_time: Duration,
    /// Age at which a connection takes no further request, so that none is held for ever byte by byte.
    pub(super) age: Duration,
}

/// Scrapers and probes need a handful of connections. 75 s is longer than the usual scrape interval
/// of a minute, so theirs are reused.
pub(super) const LIMITS: Limits =
    Limits { connections: 32, head_time: Duration::from_secs(75), age: Duration::from_mins(10) };

/// Bytes of a request's head, and of what is read ahead. Requests here are a line and a few headers;
/// with all connections full of it this is half a megabyte.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Time for the response at hand once a connection is to end: by age, or because the agent stops.
const LAST_RESPONSE_TIME_MAX: Duration = Duration::from_secs(10);

/// Pause after `accept()` failed, for want of descriptors as a rule: trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves `router` on `listener` until `shutdown` is done, then ends idle connections, lets running
/// requests finish within ten seconds, and returns.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    serve_within(LIMITS, listener, router, shutdown).await;
}

pub(super) async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(limits.connections as usize));
    let (stop, stopped) = watch::channel(());
    let accepting = async {
        loop {
            let (stream, place) = accept(&listener, &places).await;
            let (router, stopped) = (router.clone(), stopped.clone());
            tokio::spawn(async move {
                connection(limits, stream, router, stopped).await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = shutdown => {}
        () = accepting => {}
    }
    drop(listener);
    drop(stop);
    // A connection gives its place back when it ends, so holding all of them means none is left.
    // Fails only for a semaphore that was closed, which this one never is.
    let _ = places.acquire_many(limits.connections).await;
}

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until it ends, is too old or the server stops.
async fn connection(limits: Limits, stream: TcpStream, router: Router, mut stopped: watch::Receiver<()>) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut serving = pin!(serving);
    // The channel carries nothing: it ends when the server stops.
    let ended = tokio::select! {
        result = serving.as_mut() => Some(result),
        _ = timeout(limits.age, stopped.changed()) => None,
    };
    let result = if let Some(result) = ended {
        result
    } else {
        serving.as_mut().graceful_shutdown();
        timeout(LAST_RESPONSE_TIME_MAX, serving).await.unwrap_or(Ok(()))
    };
    if let Err(error) = result {
        // What a client does wrong is its own affair.
        tracing::debug!(%error, "HTTP connection ended early");
    }
}
