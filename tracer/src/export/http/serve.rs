//! Connections: accepting, bounding and draining them.
//!
//! Takes a bound listener, a source and a shutdown future; gives back once every connection is done.
//! `axum::serve` is not used because it bounds none of this: no number of connections, no time for a
//! request's head, no size, no time for an answer to be read.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustix::process::{Resource, getrlimit};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{interval, sleep, timeout},
};
use tower::ServiceExt;

use super::{
    Caller, Refused, Source,
    connections::{Connections, Doing},
    desk::House,
    router,
};
use crate::kernel::shortage;

/// The most that clients may take. A value, so that tests need not wait for minutes.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Open connections; the longest idle one gives way to a further one.
    pub(super) connections: usize,
    /// Time for a request's head, counted from when the last answer went out, so it also ends idle connections.
    pub(super) head_time: Duration,
    /// Time in which a client must have read an answer.
    pub(super) answer_time: Duration,
    /// Age at which a connection takes no further request, so that none is held for ever byte by byte.
    pub(super) age: Duration,
    /// Time for the responses at hand once the server stops.
    pub(super) last_response_time: Duration,
    /// How often these times are looked at.
    pub(super) tick: Duration,
}

/// Scrapers and probes need a handful of connections. 75 s is longer than the usual scrape interval
/// of a minute, so theirs are reused; ten seconds is the usual time-out of a scrape.
pub(super) const LIMITS: Limits = Limits {
    connections: 512,
    head_time: Duration::from_secs(75),
    answer_time: Duration::from_secs(30),
    age: Duration::from_mins(10),
    last_response_time: Duration::from_secs(3),
    tick: Duration::from_secs(1),
};

/// Bytes of a request's head, and of what is read ahead. Requests here are a line and a few headers;
/// with all connections full of it this is eight megabytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What the kernel holds for one connection, twice this in its own counting. Left alone it would hold megabytes of
/// what nobody reads. Smaller than a few segments of loopback a buffer would wait for delayed acknowledgements.
const SEND_BUFFER_BYTES: u32 = 256 << 10;
const RECEIVE_BUFFER_BYTES: u32 = 8 << 10;

/// What the kernel holds beyond what the client's window takes, so all that it holds of what nobody reads.
const UNSENT_BYTES: u32 = 32 << 10;

/// Connections that the kernel holds until they are accepted, which is at once.
const BACKLOG: u32 = 1024;

/// Descriptors that passes and scrapes need beside those that are open when the server starts.
const SPARE_DESCRIPTORS: u64 = 64;

/// Pause after `accept()` failed, for want of descriptors as a rule: trying again at once would spin. Without one the
/// kernel refuses even where nobody waits, so that only connections give way that have been idle for this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often that is said.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// Binds the address with buffers that bound what the kernel holds for clients.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Connections inherit them.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `source` on `listener` until `shutdown` is done, then ends idle connections, lets running
/// requests finish within three seconds, and returns.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>, shutdown: impl Future<Output = ()>) {
    serve_within(LIMITS, listener, source, shutdown).await;
}

pub(super) async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    source: Arc<dyn Source>,
    shutdown: impl Future<Output = ()>,
) {
    let connections = Arc::<Connections>::default();
    let router = router(House::new(Arc::clone(&source), Arc::clone(&connections)));
    let (stop, stopped) = watch::channel(());
    let own_descriptors = open_descriptors();
    let mut said = None;
    let (mut tasks, mut tick, mut shutdown) = (JoinSet::new(), interval(limits.tick), pin!(shutdown));
    loop {
        tokio::select! {
            () = shutdown.as_mut() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let most = limits.connections.min(room_for_connections(own_descriptors));
                    source.refused(Refused::Idle, connections.make_way(most.saturating_sub(1)));
                    let caller = Caller { connection: connections.open(), is_local: is_loopback(peer.ip()) };
                    tasks.spawn(connection(limits, stream, router.clone(), caller, stopped.clone()));
                }
                Err(error) => {
                    if said.is_none_or(|said: Instant| said.elapsed() > SAID_EVERY) {
                        tracing::warn!(cause = shortage::explain(&error), "cannot accept an HTTP connection");
                        said = Some(Instant::now());
                    }
                    source.refused(Refused::Idle, connections.end_overdue(Doing::Idle, ACCEPT_PAUSE));
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = tasks.join_next() => {}
            _ = tick.tick(), if !tasks.is_empty() => {
                source.refused(Refused::Unread, connections.end_overdue(Doing::Sending, limits.answer_time));
                connections.end_overdue(Doing::Idle, limits.head_time);
            }
        }
    }
    drop(listener);
    drop(stop);
    while tasks.join_next().await.is_some() {}
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn open_descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |descriptors| descriptors.count() as u64)
}

/// How many connections the limit on descriptors leaves room for. Not less than a few, for probes.
fn room_for_connections(own_descriptors: u64) -> usize {
    const LEAST: u64 = 4;
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let left = limit.saturating_sub(own_descriptors + SPARE_DESCRIPTORS).max(LEAST);
    usize::try_from(left).unwrap_or(usize::MAX)
}

/// Done when a response at hand must end because the server stops. An old connection's has the time of any other.
async fn too_late(limits: Limits, mut stopped: watch::Receiver<()>) {
    let _ = stopped.changed().await;
    sleep(limits.last_response_time).await;
}

/// Serves one connection until it ends, is cut or too old, or the server stops.
async fn connection(
    limits: Limits,
    stream: TcpStream,
    router: Router,
    caller: Caller,
    mut stopped: watch::Receiver<()>,
) {
    let connection = Arc::clone(&caller.connection);
    // Buffers come with the first byte: before that there is only a descriptor.
    tokio::select! {
        _ = stream.readable() => {}
        () = connection.is_cut() => return,
        _ = stopped.changed() => return,
    }
    let service = router.map_request(move |request: axum::http::Request<Incoming>| {
        // The head is whole: from here on the connection is not idle.
        caller.connection.begins(Doing::Idle);
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(caller.clone());
        request
    });
    let mut serving = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    // The channel carries nothing: it ends when the server stops.
    let ended = tokio::select! {
        result = &mut serving => Some(result),
        () = connection.is_cut() => None,
        _ = timeout(limits.age, stopped.changed()) => {
            std::pin::Pin::new(&mut serving).graceful_shutdown();
            tokio::select! {
                result = &mut serving => Some(result),
                () = connection.is_cut() => None,
                () = too_late(limits, stopped) => None,
            }
        }
    };
    match ended {
        Some(Ok(())) => {}
        // What a client does wrong is its own affair.
        Some(Err(error)) => tracing::debug!(%error, "HTTP connection ended early"),
        None => {
            // Else the kernel keeps what is not sent, for minutes.
            let _ = serving.into_parts().io.into_inner().set_zero_linger();
        }
    }
}
