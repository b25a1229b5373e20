//! One GET over loopback, for the agent's and Prometheus' answers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// A machine that has other things to do may take long.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The body of the answer. HTTP/1.0, so that it ends with the connection and is in one piece.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let asked = || format!("asking http://{address}{path}");
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(asked)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").with_context(asked)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(asked)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(asked)?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("http://{address}{path} answers {status}: {}", body.trim());
    }
    Ok(body.to_owned())
}
