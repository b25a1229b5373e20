//! One GET of an agent's `/metrics` or `/status`, with limits on time and size, and an error that says what to do.

use std::{ops::ControlFlow, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode, Uri, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::source::{Bound, Take};
use crate::{failure::Failure, legible::legible};

/// A node that does not answer a SYN in this time is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// An agent at its limits of series needs seconds, on a slow machine more.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The agent's port unless told otherwise.
const PORT_DEFAULT: u16 = 9795;

/// Where to go, as the URL says.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// What stands in the header `Host` and in messages.
    authority: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, String> {
        let example = "write it as http://127.0.0.1:9795";
        let uri: Uri = url.parse().map_err(|error| format!("{url} is no URL: {error}; {example}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!(
                "{url}: agents speak plain HTTP; {example}, or fetch it by other means and pipe it to --from -"
            ));
        }
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return Err(format!("{url} names no host; {example}"));
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(format!("{url}: agents know no users; {example}"));
        }
        let port = match uri.authority().and_then(|authority| authority.as_str().strip_prefix(host)) {
            None | Some("" | ":") => PORT_DEFAULT,
            Some(_) => uri.port_u16().ok_or_else(|| format!("{url} has no port that can be; {example}"))?,
        };
        let path = match uri.path_and_query().map_or("/", |path| path.as_str()) {
            "" | "/" => "/metrics",
            path => path,
        };
        let host_alone = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(Self { host: host_alone.to_owned(), port, authority: format!("{host}:{port}"), path: path.to_owned() })
    }

    /// The state of the agent whose metrics are here: beside them, also behind a proxy that puts a path of its
    /// own before both.
    fn status(self) -> Result<Self, String> {
        let path = self.path.split('?').next().unwrap_or_default();
        match path.strip_suffix("/metrics") {
            Some(before) => Ok(Self { path: format!("{before}/status"), ..self }),
            None => Err(format!("{}{path} does not end in /metrics, beside which it is looked for", self.authority)),
        }
    }
}

/// Fetches the text that an agent serves at `url`, `/metrics` unless it names another path, and hands it on piece by
/// piece.
pub(super) fn get(url: &str, bound: Bound, take: Take<'_>) -> Result<(), Failure> {
    let target = Target::parse(url).map_err(|message| Failure::usage(&message))?;
    fetch(&target, bound, take)
}

/// Fetches the `/status` of the agent whose metrics [`get`] finds at `url`.
pub(super) fn get_status(url: &str, bound: Bound) -> Result<String, Failure> {
    let target = Target::parse(url).and_then(Target::status).map_err(|message| Failure::usage(&message))?;
    let mut text = Vec::new();
    fetch(&target, bound, &mut |piece| {
        text.extend_from_slice(piece);
        ControlFlow::Continue(())
    })?;
    String::from_utf8(text)
        .map_err(|_| Failure::usage(&format_args!("what {} answered is no text: is that an agent?", target.authority)))
}

fn fetch(target: &Target, bound: Bound, take: Take<'_>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let stream = connect(target).await?;
        let asked = timeout(ANSWER_LIMIT, ask(stream, target, bound, take)).await;
        asked.unwrap_or_else(|_| Err(late(target, ANSWER_LIMIT)))
    })
}

async fn connect(target: &Target) -> Result<TcpStream, Failure> {
    let address = (target.host.as_str(), target.port);
    match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Failure::unusable(&format_args!(
            "no agent answers at {} ({error}): start it (tracer run), or look at this kernel with --own",
            target.authority
        ))),
        Err(_) => Err(late(target, CONNECT_LIMIT)),
    }
}

async fn ask(stream: TcpStream, target: &Target, bound: Bound, take: Take<'_>) -> Result<(), Failure> {
    let broken = |error: &dyn std::fmt::Display| {
        Failure::unusable(&format_args!("{} broke off: {error}; is that an agent?", target.authority))
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let request = Request::get(target.path.as_str())
        .header(header::HOST, target.authority.as_str())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::usage(&error))?;
    // The connection ends with the answer; its error shows in the answer.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        return Err(Failure::unusable(&format_args!(
            "{}{} refuses: {}",
            target.authority,
            target.path,
            cause(response.into_body()).await
        )));
    }
    if response.status() != StatusCode::OK {
        return Err(Failure::unusable(&format_args!(
            "{}{} answered {}: is that an agent's address?",
            target.authority,
            target.path,
            response.status()
        )));
    }
    let limit = usize::try_from(bound.bytes).unwrap_or(usize::MAX);
    let mut body = Limited::new(response.into_body(), limit);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => Failure::unusable(&format_args!(
                "{} answers with more than {} bytes: {}",
                target.authority, bound.bytes, bound.meaning
            )),
            None => broken(&error),
        })?;
        if frame.data_ref().is_some_and(|piece| take(piece).is_break()) {
            break;
        }
    }
    driver.abort();
    Ok(())
}

/// Cause and remedy, as an agent writes them; somebody else may write anything.
async fn cause(body: Incoming) -> String {
    const BYTES_MAX: usize = 4096;
    let text = Limited::new(body, BYTES_MAX).collect().await.map(Collected::to_bytes);
    text.map_or_else(
        |_| "no cause is given".to_owned(),
        |text| legible(String::from_utf8_lossy(&text).trim()).into_owned(),
    )
}

fn late(target: &Target, limit: Duration) -> Failure {
    let limit = humantime::format_duration(limit);
    Failure::unusable(&format_args!(
        "{} did not answer in {limit}: is the agent there, and the way to it open?",
        target.authority
    ))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn target(url: &str) -> (String, u16, String, String) {
        let target = Target::parse(url).unwrap();
        (target.host, target.port, target.authority, target.path)
    }

    #[test]
    fn urls_of_agents_are_understood() {
        let of = |host: &str, port, authority: &str, path: &str| {
            (host.to_owned(), port, authority.to_owned(), path.to_owned())
        };
        assert_eq!(target("http://127.0.0.1:9795"), of("127.0.0.1", 9795, "127.0.0.1:9795", "/metrics"));
        assert_eq!(target("http://[::1]:80/"), of("::1", 80, "[::1]:80", "/metrics"));
        assert_eq!(target("http://node-7"), of("node-7", 9795, "node-7:9795", "/metrics"));
        assert_eq!(target("http://p/api/v1?x=1"), of("p", 9795, "p:9795", "/api/v1?x=1"));
    }

    #[test]
    fn other_urls_are_refused_with_a_remedy() {
        for url in ["https://a", "ftp://a", "http://", "http://a b", "http://u:p@a", "http://a:99999"] {
            let message = Target::parse(url).unwrap_err();
            assert!(message.contains(url) && message.contains("http://127.0.0.1:9795"), "{message}");
        }
    }

    #[test]
    fn the_status_stands_beside_the_metrics() {
        let status = |url: &str| Target::parse(url).unwrap().status().map(|target| (target.authority, target.path));
        let of = |authority: &str, path: &str| Ok((authority.to_owned(), path.to_owned()));
        assert_eq!(status("http://127.0.0.1:9795"), of("127.0.0.1:9795", "/status"));
        assert_eq!(status("http://[::1]/metrics?x=/metrics"), of("[::1]:9795", "/status"));
        assert_eq!(status("http://p:1/pods/a:9795/proxy/metrics"), of("p:1", "/pods/a:9795/proxy/status"));
        for url in ["http://p/federate?match=1", "http://p/metrics/", "http://p/mymetrics"] {
            let why = status(url).unwrap_err();
            assert!(why.ends_with(" does not end in /metrics, beside which it is looked for"), "{why}");
        }
    }

    /// What `get` makes of an answer of these bytes.
    fn answered(answer: Vec<u8>, bytes: u64) -> Result<String, Failure> {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /metrics HTTP/1.1\r\n"));
            // The client may have had enough.
            let _ = stream.write_all(&answer);
        });
        let mut text = Vec::new();
        let got = get(&url, Bound { bytes, meaning: "too much" }, &mut |piece| {
            text.extend_from_slice(piece);
            ControlFlow::Continue(())
        });
        let got = got.map(|()| String::from_utf8(text).unwrap());
        server.join().unwrap();
        got
    }

    #[test]
    fn answers_of_all_forms_are_read() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n".to_vec();
        assert_eq!(answered(whole, 10), Ok("a 1\n".to_owned()));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na \
         \r\n2\r\n1\n\r\n0\r\n\r\n"
            .to_vec();
        assert_eq!(answered(chunked, 10), Ok("a 1\n".to_owned()));
        let until_closed = b"HTTP/1.1 200 OK\r\n\r\na 1\n".to_vec();
        assert_eq!(answered(until_closed, 10), Ok("a 1\n".to_owned()));
    }

    #[test]
    fn what_is_no_agent_is_said() {
        let failed = |answer: &[u8], bytes_max| {
            let failure = answered(answer.to_vec(), bytes_max).unwrap_err();
            (failure.code, failure.message)
        };
        let (code, message) = failed(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 10);
        assert!(
            code == 69 && message.ends_with("/metrics answered 404 Not Found: is that an agent's address?"),
            "{message}"
        );
        let (code, message) =
            failed(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 16\r\n\r\nno room; wait...", 10);
        assert!(code == 69 && message.ends_with("/metrics refuses: no room; wait..."), "{message}");
        for answer in [&b"SSH-2.0-OpenSSH\r\n"[..], b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na"] {
            let (code, message) = failed(answer, 10);
            assert!(code == 69 && message.contains(" broke off: "), "{message}");
        }
        let (code, message) = failed(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n", 3);
        assert!(code == 69 && message.ends_with(" answers with more than 3 bytes: too much"), "{message}");
    }

    #[test]
    fn nobody_there_is_said_with_a_remedy() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let bound = Bound { bytes: 10, meaning: "too much" };
        let failure = get(&format!("http://{free}"), bound, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(failure.code, 69);
        assert!(failure.message.starts_with(&format!("no agent answers at {free} (")), "{failure}");
        assert!(failure.message.contains("start it (tracer run), or look at this kernel with --own"), "{failure}");
    }
}
