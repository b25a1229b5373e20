//! The server as a client sees it: a real listener on port 0, a plain TCP client, a fake source.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connection::{LIMITS, Limits, serve_within};
use super::*;

/// Longer than anything here takes, shorter than the patience of whoever waits for the tests.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Fake {
    ready: std::sync::atomic::AtomicBool,
    /// Held by a test that wants a collection to take its time.
    slow: Mutex<()>,
    running: AtomicUsize,
    running_max: AtomicUsize,
    collected: AtomicUsize,
}

impl Source for Fake {
    fn metrics(&self) -> Bytes {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.running_max.fetch_max(running, Ordering::SeqCst);
        drop(self.slow.blocking_lock());
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.collected.fetch_add(1, Ordering::SeqCst);
        exposition()
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "hooks": ["a \"hook\""] })
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
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

async fn start() -> Server {
    start_within(LIMITS).await
}

async fn start_within(limits: Limits) -> Server {
    let fake = Arc::new(Fake::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let router = router(Arc::clone(&fake) as Arc<dyn Source>);
    let serving = tokio::spawn(serve_within(limits, listener, router, async move {
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
    let server = start().await;
    let (head, body) = server.ask("GET /metrics").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(body.as_bytes() == exposition(), "{} bytes of {}", body.len(), exposition().len());
}

#[tokio::test]
async fn status_is_json() {
    let server = start().await;
    let (head, body) = server.ask("GET /status").await;
    assert!(head.contains("content-type: application/json"), "{head}");
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(value["hooks"][0], "a \"hook\"");
}

#[tokio::test]
async fn ready_only_after_the_first_pass_but_healthy_before() {
    let server = start().await;
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
    let server = start().await;
    let (_, body) = server.ask("GET /").await;
    for path in ["/metrics", "/status", "/healthz", "/readyz"] {
        assert!(body.contains(path), "{body}");
        assert!(!server.ask(&format!("GET {path}")).await.0.starts_with("http/1.1 404"), "{path}");
    }
    assert!(server.ask("GET /nothing").await.0.starts_with("http/1.1 404"));
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let server = start().await;
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
    let server = start().await;
    let request = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    let response = rest_of(server.send(request).await).await;
    assert!(response.starts_with("HTTP/1.1 405"), "{response}");
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let server = start().await;
    let mut stream = server.send("GET /metrics HTTP/1.1\r\n").await;
    let header = format!("X-Padding: {}\r\n", "x".repeat(1000));
    let mut sent = 0;
    // The server closes; a write fails at the latest when its reset is back.
    while sent < 10_000_000 && stream.write_all(header.as_bytes()).await.is_ok() {
        sent += header.len();
    }
    assert!(sent < 10_000_000, "{sent} bytes of headers were taken");
}

#[tokio::test]
async fn collections_run_one_at_a_time_and_few_wait() {
    let server = start().await;
    let slow = server.fake.slow.lock().await;
    let mut waiting = Vec::new();
    for _ in 0..WAITING_MAX {
        waiting.push(server.send("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await);
    }
    until(|| server.fake.running.load(Ordering::SeqCst) == 1).await;
    // Probes are answered meanwhile, and by then the requests sent before have taken their places.
    assert!(server.ask("GET /healthz").await.0.starts_with("http/1.1 200"));
    let (head, _) = server.ask("GET /metrics").await;
    assert!(head.starts_with("http/1.1 503") && head.contains("retry-after: 1"), "{head}");
    drop(slow);
    for stream in waiting {
        assert!(rest_of(stream).await.ends_with("up 1\n"));
    }
    assert_eq!(server.fake.running_max.load(Ordering::SeqCst), 1);
    assert_eq!(server.fake.collected.load(Ordering::SeqCst), WAITING_MAX);
}

#[tokio::test]
async fn stopping_finishes_the_request_at_hand_and_ends_idle_connections() {
    let server = start().await;
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
    let server = start_within(Limits { head_time: SOON, ..LIMITS }).await;
    let response = rest_of(server.send("GET /metrics HTTP/1.1\r\nHost:").await).await;
    assert!(!response.contains("up 1"), "{response}");
    assert!(server.ask("GET /healthz").await.0.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn an_old_connection_ends_after_its_response() {
    let server = start_within(Limits { age: SOON, ..LIMITS }).await;
    let slow = server.fake.slow.lock().await;
    let old = server.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    tokio::time::sleep(SOON * 2).await;
    drop(slow);
    assert!(rest_of(old).await.ends_with("up 1\n"));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let server = start_within(Limits { connections: 1, ..LIMITS }).await;
    let first = server.send("").await;
    let mut second = server.send("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let mut byte = [0];
    assert!(timeout(SOON, second.read_exact(&mut byte)).await.is_err(), "served beside the first");
    drop(first);
    assert!(rest_of(second).await.ends_with("ok\n"));
}
