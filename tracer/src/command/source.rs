//! What `--from` names, read once and piece by piece: the text of a running agent's `/metrics`, of a file, or of standard
//! input; and what an agent says beside its metrics.
//!
//! Owns the bound on the text and the errors for what cannot be read. What the text says is the caller's
//! business; how an agent is asked is in [`super::scrape`].

use std::{
    fs::File,
    io::{self, Read},
    net::TcpStream,
    ops::ControlFlow,
    os::unix::net::UnixStream,
    time::Duration,
};

use super::scrape;
use crate::{
    advise::{Origin, exposition::BEYOND_DEFAULTS},
    config::LISTEN_DEFAULT,
    events::attendance::socket,
    failure::Failure,
};

/// How much of a text is read at most, and what it means that there is more.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    pub(super) bytes: u64,
    pub(super) meaning: &'static str,
}

/// An agent with full tables at its default limits writes a third of it.
const METRICS: Bound = Bound { bytes: 64 << 20, meaning: BEYOND_DEFAULTS };

const STATUS: Bound = Bound { bytes: 8 << 20, meaning: "that of five thousand network namespaces is shorter" };

/// How much is read at once.
const PIECE_BYTES: usize = 64 << 10;

/// Where an agent serves unless told otherwise.
pub(super) const AGENT_DEFAULT: &str = "http://127.0.0.1:9795";

/// Whether an agent answers there. Anybody may bind a port that is free; only root makes the socket beside it.
pub(super) fn agent_answers() -> bool {
    const LIMIT: Duration = Duration::from_secs(2);
    UnixStream::connect(socket(LISTEN_DEFAULT.port())).is_ok()
        && TcpStream::connect_timeout(&LISTEN_DEFAULT, LIMIT).is_ok()
}

/// Takes the next piece of a text; breaks if it has enough, or cannot read on.
pub(super) type Take<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;

/// What `--from` names.
pub(super) fn origin(from: &str) -> Origin {
    match from {
        "-" => Origin::Stdin,
        url if url.contains("://") => Origin::Agent(url.to_owned()),
        path => Origin::File(path.to_owned()),
    }
}

/// Fetches or reads the text that `--from` names, and hands it on.
fn read(from: &str, take: Take<'_>) -> Result<(), Failure> {
    match origin(from) {
        Origin::Stdin => bounded(io::stdin().lock(), "standard input", take),
        Origin::Agent(url) => scrape::get(&url, METRICS, take),
        _ => bounded(open(from)?, from, take),
    }
}

fn open(path: &str) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        Failure::usage(&format_args!(
            "cannot read {path}: {error}; --from takes a file, - for standard input, or an agent as \
             http://127.0.0.1:9795"
        ))
    })
}

/// Hands the text on until it ends or a piece of it is refused; gives why, if so.
pub(super) fn feed<E>(from: &str, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<Result<(), E>, Failure> {
    let mut fed = Ok(());
    read(from, &mut |piece| {
        fed = take(piece);
        if fed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(fed)
}

/// Fetches the `/status` of the agent that was asked for its metrics. No other origin has one: `None`.
pub(super) fn status(origin: &Origin) -> Option<Result<String, Failure>> {
    match origin {
        Origin::Agent(url) => Some(scrape::get_status(url, STATUS)),
        Origin::File(_) | Origin::Stdin | Origin::Snapshot => None,
    }
}

/// Reads all, but not more than [`METRICS`] allows.
fn bounded(mut input: impl Read, name: &str, take: Take<'_>) -> Result<(), Failure> {
    let (mut piece, mut left) = (vec![0; PIECE_BYTES], METRICS.bytes);
    loop {
        let read = match input.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::usage(&format_args!("cannot read {name}: {error}"))),
        };
        left = left.checked_sub(read as u64).ok_or_else(|| {
            Failure::usage(&format_args!("{name} is longer than {} bytes: {}", METRICS.bytes, METRICS.meaning))
        })?;
        if take(&piece[..read]).is_break() {
            return Ok(());
        }
    }
}
