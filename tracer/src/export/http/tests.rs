//! The server as a client sees it: a real listener on port 0, a plain TCP client, a fake source.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;
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
    texts: Arc<Texts>,
    refused: [AtomicUsize; Refused::ALL.len()],
}

impl Source for Fake {
    fn metrics(&self) -> Result<Bytes, String> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.running_max.fetch_max(running, Ordering::SeqCst);
        drop(self.slow.blocking_lock());
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.collected.fetch_add(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            Err("no descriptor; allow more".to_owned())
        } else {
            Ok(self.texts.one())
        }
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

/// Texts that are not gone yet.
#[derive(Default)]
struct Texts {
    living: AtomicUsize,
    living_max: AtomicUsize,
}

impl Texts {
    fn one(self: &Arc<Self>) -> Bytes {
        let living = self.living.fetch_add(1, Ordering::SeqCst) + 1;
        self.living_max.fetch_max(living, Ordering::SeqCst);
        Bytes::from_owner(Counted { text: exposition(), texts: Arc::clone(self) })
    }
}

struct Counted {
    text: Bytes,
    texts: Arc<Texts>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.texts.living.fetch_sub(1, Ordering::SeqCst);
    }
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

/// Small buffers wait for delayed acknowledgements, many of them for one answer. A client that acknowledges at once shows
/// how long it takes without.
#[tokio::test]
async fn a_long_answer_does_not_wait_for_acknowledgements() {
    /// What the kernel lets one wait for (`TCP_DELACK_MIN`).
    const DELAY: Duration = Duration::from_millis(40);
    let server = start();
    let (mut usual, mut prompt) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        usual = usual.min(time_of_answer(&server, false).await);
        prompt = prompt.min(time_of_answer(&server, true).await);
    }
    assert!(usual < prompt * 3 + DELAY, "{} bytes took {usual:?}, and {prompt:?} without delay", exposition().len());
}

async fn time_of_answer(server: &Server, is_prompt: bool) -> Duration {
    let begin = Instant::now();
    let mut stream = server.send(SCRAPE).await;
    let (mut piece, mut got) = (vec![0; 64 << 10], 0);
    loop {
        if is_prompt {
            SockRef::from(&stream).set_tcp_quickack(true).unwrap();
        }
        match timeout(PATIENCE, stream.read(&mut piece)).await.unwrap().unwrap() {
            0 => break,
            n => got += n,
        }
    }
    assert!(got > exposition().len());
    begin.elapsed()
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

#[tokio::test]
async fn readings_run_one_at_a_time_and_probes_wait_for_none() {
    let server = start();
    let slow = server.fake.slow.lock().await;
    let first = server.send(SCRAPE).await;
    until(|| server.fake.running.load(Ordering::SeqCst) == 1).await;
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting.push(server.send(SCRAPE).await);
    }
    assert!(server.ask("GET /healthz").await.0.starts_with("http/1.1 200"));
    drop(slow);
    for stream in waiting.into_iter().chain([first]) {
        assert!(rest_of(stream).await.ends_with("up 1\n"));
    }
    assert_eq!(server.fake.running_max.load(Ordering::SeqCst), 1);
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
    let server = start_within(Limits { last_response_time: PATIENCE, ..LIMITS });
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
    assert_eq!(rest_or_reset(server.send("GET /metrics HTTP/1.1\r\nHost:").await).await, "");
}

/// An answer at hand has the time of any other, not that of the server's end.
#[tokio::test]
async fn an_old_connection_ends_after_its_response() {
    let server = start_within(Limits { age: SOON, last_response_time: Duration::ZERO, ..LIMITS });
    let slow = server.fake.slow.lock().await;
    let old = server.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until(|| server.fake.running.load(Ordering::SeqCst) == 1).await;
    // At least until the connection is old.
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

/// Unread texts are shared, or give way to what others ask for.
#[tokio::test]
async fn texts_that_nobody_reads_are_bounded() {
    let server = start();
    let mut unread = Vec::new();
    for _ in 0..40 {
        let stream = server.send(SCRAPE).await;
        timeout(PATIENCE, stream.readable()).await.expect("no answer begins").unwrap();
        unread.push(stream);
    }
    assert!(server.ask("GET /metrics").await.1.ends_with("up 1\n"));
    let living = server.fake.texts.living_max.load(Ordering::SeqCst);
    // 32 MiB have room for eight of these.
    assert!((2..=8).contains(&living), "{living} at once");
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

/// Whoever says nothing, says it byte by byte or reads no answer keeps neither a probe from its answer, while a reading
/// runs, nor a scrape from the reading after that. How long these take is the live test's to say.
#[tokio::test]
async fn a_crowd_holds_up_neither_probes_nor_scrapes() {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limits.maximum, ..limits },
    )
    .unwrap();
    let server = start();
    server.fake.ready.store(true, Ordering::SeqCst);
    let _idle = Crowd::connect(server.address, 1000, "").await;
    let _unread = Crowd::connect(server.address, 200, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut crawling = Crowd::connect(server.address, 1000, "G").await;
    for byte in "ET /me".bytes() {
        for stream in &mut crawling.0 {
            let _ = stream.write_all(&[byte]).await;
        }
        let slow = server.fake.slow.lock().await;
        for (path, end) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
            let (head, body) = server.ask(&format!("GET {path}")).await;
            assert!(head.starts_with("http/1.1 200") && body.ends_with(end), "{path}: {head}");
        }
        drop(slow);
        let (head, body) = server.ask("GET /metrics").await;
        assert!(head.starts_with("http/1.1 200") && body.ends_with("up 1\n"), "{head}");
    }
}
