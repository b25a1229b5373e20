//! The server as a client sees it: a real listener on port 0, a plain TCP client, a fake source.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::serve::{LIMITS, Limits, serve_within};
use super::*;

/// Longer than anything here takes, shorter than the patience of whoever waits for the tests.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Fake {
    ready: AtomicBool,
    fails: AtomicBool,
    /// Held by a test that wants a collection to take its time.
    slow: Mutex<()>,
    running: AtomicUsize,
    running_max: AtomicUsize,
    collected: AtomicUsize,
    refused: [AtomicUsize; Refused::ALL.len()],
}

impl Source for Fake {
    fn metrics(&self) -> Result<Bytes, String> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.running_max.fetch_max(running, Ordering::SeqCst);
        drop(self.slow.blocking_lock());
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.collected.fetch_add(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) { Err("no descriptor; allow more".to_owned()) } else { Ok(exposition()) }
    }

    fn status(&self, shows_peers: bool) -> serde_json::Value {
        serde_json::json!({ "hooks": ["a \"hook\""], "peers": shows_peers })
    }

    fn refused(&self, what: Refused, n: usize) {
        self.refused[what as usize].fetch_add(n, Ordering::SeqCst);
    }

    fn ready(&self) -> Result<(), String> {
        if self.ready.load(Ordering::SeqCst) { Ok(()) } else { Err("no pass yet".to_owned()) }
    }
}

/// Larger than any buffer on the way, so that it leaves in many pieces.
fn exposition() -> Bytes {
    format!("# TYPE up gauge\n{}up 1\n", "# padding\n".repeat(400_000)).into()
}

struct Server {
    fake: Arc<Fake>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

fn start() -> Server {
    start_within(LIMITS)
}

fn start_within(limits: Limits) -> Server {
    let fake = Arc::new(Fake::default());
    let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let source = Arc::clone(&fake) as Arc<dyn Source>;
    let serving = tokio::spawn(serve_within(limits, listener, source, async move {
        drop(stopped.await);
    }));
    Server { fake, address, stop, serving }
}

impl Server {
    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    fn refused(&self, what: Refused) -> usize {
        self.fake.refused[what as usize].load(Ordering::SeqCst)
    }

    /// Head and body of the response to `METHOD path`.
    async fn ask(&self, line: &str) -> (String, String) {
        let stream = self.send(&format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let response = rest_of(stream).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }
}

/// What comes until the server closes.
async fn rest_of(mut stream: TcpStream) -> String {
    let mut response = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut response)).await.unwrap().unwrap();
    response
}

/// The same of a connection that the server may also cut.
async fn rest_or_reset(mut stream: TcpStream) -> String {
    let mut response = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut response)).await.unwrap();
    String::from_utf8(response).unwrap()
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test]
async fn metrics_come_in_the_text_format() {
    let server = start();
    let (head, body) = server.ask("GET /metrics").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(body.as_bytes() == exposition(), "{} bytes of {}", body.len(), exposition().len());
}

/// Small buffers wait for delayed acknowledgements, forty milliseconds each.
#[tokio::test]
async fn a_long_answer_does_not_wait_for_acknowledgements() {
    let server = start();
    let took = time_of(&server, "/metrics", "up 1\n").await;
    assert!(took < Duration::from_millis(500), "{} bytes took {took:?}", exposition().len());
}

#[tokio::test]
async fn status_is_json() {
    let server = start();
    let (head, body) = server.ask("GET /status").await;
    assert!(head.contains("content-type: application/json"), "{head}");
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(value["hooks"][0], "a \"hook\"");
}

#[tokio::test]
async fn ready_only_after_the_first_pass_but_healthy_before() {
    let server = start();
    let (head, body) = server.ask("GET /readyz").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!(body.contains("no pass yet"), "{body}");
    let (head, body) = server.ask("GET /healthz").await;
    assert!(head.starts_with("http/1.1 200") && body.trim() == "ok", "{head}\n{body}");
    server.fake.ready.store(true, Ordering::SeqCst);
    assert!(server.ask("GET /readyz").await.0.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn the_index_names_every_path() {
    let server = start();
    let (_, body) = server.ask("GET /").await;
    for path in ["/metrics", "/status", "/healthz", "/readyz"] {
        assert!(body.contains(path), "{body}");
        assert!(!server.ask(&format!("GET {path}")).await.0.starts_with("http/1.1 404"), "{path}");
    }
    assert!(server.ask("GET /nothing").await.0.starts_with("http/1.1 404"));
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let server = start();
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        for path in ["/", "/metrics", "/status", "/healthz", "/readyz"] {
            let (head, _) = server.ask(&format!("{method} {path}")).await;
            assert!(head.starts_with("http/1.1 405"), "{method} {path}: {head}");
        }
    }
    assert_eq!(server.fake.collected.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_body_is_answered_without_being_read() {
    let server = start();
    let request = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    let response = rest_of(server.send(request).await).await;
    assert!(response.starts_with("HTTP/1.1 405"), "{response}");
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let server = start();
    let mut stream = server.send("GET /metrics HTTP/1.1\r\n").await;
    let header = format!("X-Padding: {}\r\n", "x".repeat(1000));
    let mut sent = 0;
    // The server closes; a write fails at the latest when its reset is back.
    while sent < 10_000_000 && stream.write_all(header.as_bytes()).await.is_ok() {
        sent += header.len();
    }
    assert!(sent < 10_000_000, "{sent} bytes of headers were taken");
}

const SCRAPE: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Whoever came before a reading began is served by it, and whoever came later by the next one.
#[tokio::test]
async fn one_reading_serves_all_who_wait() {
    let server = start();
    let slow = server.fake.slow.lock().await;
    let first = server.send(SCRAPE).await;
    until(|| server.fake.running.load(Ordering::SeqCst) == 1).await;
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting.push(server.send(SCRAPE).await);
    }
    // A probe is answered meanwhile, and by then the requests sent before are in the queue.
    assert!(server.ask("GET /healthz").await.0.starts_with("http/1.1 200"));
    drop(slow);
    for stream in waiting.into_iter().chain([first]) {
        assert!(rest_of(stream).await.ends_with("up 1\n"));
    }
    assert_eq!(server.fake.running_max.load(Ordering::SeqCst), 1);
    assert_eq!(server.fake.collected.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_scrape_that_cannot_be_whole_is_refused_with_its_cause() {
    let server = start();
    server.fake.fails.store(true, Ordering::SeqCst);
    let (head, body) = server.ask("GET /metrics").await;
    assert!(head.starts_with("http/1.1 503") && head.contains("retry-after: 1"), "{head}");
    assert_eq!(body, "no descriptor; allow more\n");
    assert_eq!(server.refused(Refused::Failed), 1);
    assert!(server.ask("GET /healthz").await.0.starts_with("http/1.1 200"));
    server.fake.fails.store(false, Ordering::SeqCst);
    assert!(server.ask("GET /metrics").await.0.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn stopping_finishes_the_request_at_hand_and_ends_idle_connections() {
    let server = start();
    let idle = server.send("").await;
    let slow = server.fake.slow.lock().await;
    let busy = server.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until(|| server.fake.running.load(Ordering::SeqCst) == 1).await;
    server.stop.send(()).unwrap();
    assert_eq!(rest_of(idle).await, "");
    assert!(TcpStream::connect(server.address).await.is_err(), "still listening");
    drop(slow);
    assert!(rest_of(busy).await.ends_with("up 1\n"));
    timeout(PATIENCE, server.serving).await.unwrap().unwrap();
}

const SOON: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_head_that_takes_too_long_ends_the_connection() {
    let server = start_within(Limits { head_time: SOON, tick: SOON / 5, ..LIMITS });
    let response = rest_or_reset(server.send("GET /metrics HTTP/1.1\r\nHost:").await).await;
    assert!(!response.contains("up 1"), "{response}");
    assert!(server.ask("GET /healthz").await.0.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn an_old_connection_ends_after_its_response() {
    let server = start_within(Limits { age: SOON, ..LIMITS });
    let slow = server.fake.slow.lock().await;
    let old = server.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    tokio::time::sleep(SOON * 2).await;
    drop(slow);
    assert!(rest_of(old).await.ends_with("up 1\n"));
}

#[tokio::test]
async fn the_longest_idle_connection_gives_way_to_a_further_one() {
    let server = start_within(Limits { connections: 2, ..LIMITS });
    let slow = server.fake.slow.lock().await;
    let busy = server.send(SCRAPE).await;
    until(|| server.fake.running.load(Ordering::SeqCst) == 1).await;
    let idle = server.send("GET /met").await;
    assert!(server.ask("GET /healthz").await.0.starts_with("http/1.1 200"));
    assert!(rest_or_reset(idle).await.is_empty());
    assert_eq!(server.refused(Refused::Idle), 1);
    drop(slow);
    assert!(rest_of(busy).await.ends_with("up 1\n"), "a request at hand keeps its place");
}

#[tokio::test]
async fn an_answer_that_is_not_read_ends() {
    let server =
        start_within(Limits { answer_time: Duration::from_millis(200), tick: Duration::from_millis(20), ..LIMITS });
    let unread = server.send(SCRAPE).await;
    until(|| server.refused(Refused::Unread) == 1).await;
    assert!(!rest_or_reset(unread).await.ends_with("up 1\n"));
}

/// Each reading makes a text of its own, and unread ones give way to what others ask for.
#[tokio::test]
async fn texts_that_nobody_reads_are_bounded() {
    let server = start();
    let mut unread = Vec::new();
    for n in 1..=40 {
        unread.push(server.send(SCRAPE).await);
        until(|| server.fake.collected.load(Ordering::SeqCst) == n).await;
    }
    // 32 MiB have room for eight of these.
    assert!(server.refused(Refused::Unread) >= 30, "{}", server.refused(Refused::Unread));
    assert!(server.ask("GET /metrics").await.1.ends_with("up 1\n"));
}

#[tokio::test]
async fn peers_are_shown_on_loopback_alone() {
    let server = start();
    let (_, body) = server.ask("GET /status").await;
    assert!(body.contains("\"peers\": true"), "{body}");
    // Any address of this machine but loopback's; without one there is nothing to be asked from.
    let route = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let Ok(own) = route else { return };
    let listener = bind((own.ip(), 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let source = Arc::clone(&server.fake) as Arc<dyn Source>;
    tokio::spawn(serve_within(LIMITS, listener, source, std::future::pending()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let body = rest_of(stream).await;
    assert!(body.contains("\"peers\": false"), "{body}");
}

/// Clients of one kind that stay as long as the value.
struct Crowd(Vec<TcpStream>);

impl Crowd {
    async fn connect(address: SocketAddr, size: usize, first: &str) -> Self {
        let mut crowd = Vec::with_capacity(size);
        for _ in 0..size {
            let mut stream = timeout(PATIENCE, TcpStream::connect(address)).await.expect("no room").unwrap();
            // A connection that had to give way takes no more.
            let _ = stream.write_all(first.as_bytes()).await;
            crowd.push(stream);
        }
        Self(crowd)
    }
}

/// How long one request takes with a crowd in the house; the answer is whole.
async fn time_of(server: &Server, path: &str, end: &str) -> Duration {
    let begin = Instant::now();
    let (head, body) = server.ask(&format!("GET {path}")).await;
    assert!(head.starts_with("http/1.1 200") && body.ends_with(end), "{path}: {head}");
    begin.elapsed()
}

/// Other tests use this machine at the same time.
async fn best_of_five(server: &Server) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        best = best.min(time_of(server, "/metrics", "up 1\n").await);
    }
    best
}

#[tokio::test]
async fn a_crowd_holds_up_neither_probes_nor_scrapes() {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limits.maximum, ..limits },
    )
    .unwrap();
    let server = start();
    let alone = best_of_five(&server).await;
    let _idle = Crowd::connect(server.address, 1000, "").await;
    let _unread = Crowd::connect(server.address, 200, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut slow = Crowd::connect(server.address, 1000, "G").await;
    let mut probes = Vec::new();
    for byte in "ET /metrics".bytes() {
        for stream in &mut slow.0 {
            let _ = stream.write_all(&[byte]).await;
        }
        probes.push(time_of(&server, "/healthz", "ok\n").await);
    }
    probes.sort_unstable();
    assert!(probes[probes.len() / 2] < Duration::from_millis(100), "/healthz took {probes:?}");
    let scrape = best_of_five(&server).await;
    assert!(scrape < alone * 2 + Duration::from_millis(100), "{scrape:?} in the crowd, {alone:?} alone");
}
