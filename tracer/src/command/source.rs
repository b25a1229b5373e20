//! What `--from` names, read once: the text of a running agent's `/metrics`, of a file, or of standard
//! input; and what an agent says beside its metrics.
//!
//! Owns the bound on the text and the errors for what cannot be read. What the text says is the caller's
//! business; how an agent is asked is in [`super::scrape`].

use std::{
    fs::File,
    io::{self, Read},
};

use super::scrape;
use crate::{advise::Origin, failure::Failure};

/// The longest text that is read: far more than an agent at its limits of series writes.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// Fetches or reads the text that `--from` names.
pub(super) fn read(from: &str) -> Result<(Origin, String), Failure> {
    if from == "-" {
        let text = bounded(io::stdin().lock(), "standard input")?;
        return Ok((Origin::Stdin, text));
    }
    if from.contains("://") {
        return Ok((Origin::Agent(from.to_owned()), scrape::get(from, TEXT_BYTES_MAX)?));
    }
    let file = File::open(from).map_err(|error| {
        Failure::usage(&format_args!(
            "cannot read {from}: {error}; --from takes a file, - for standard input, or an agent as \
             http://127.0.0.1:9795"
        ))
    })?;
    Ok((Origin::File(from.to_owned()), bounded(file, from)?))
}

/// Fetches the `/status` of the agent that was asked for its metrics. No other origin has one: `None`.
pub(super) fn status(origin: &Origin) -> Option<Result<String, Failure>> {
    match origin {
        Origin::Agent(url) => Some(scrape::get_status(url, TEXT_BYTES_MAX)),
        Origin::File(_) | Origin::Stdin | Origin::Snapshot => None,
    }
}

/// Reads all text, but not more than [`TEXT_BYTES_MAX`].
fn bounded(input: impl Read, name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = input.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text);
    let read = read.map_err(|error| Failure::usage(&format_args!("cannot read {name}: {error}")))?;
    if read as u64 > TEXT_BYTES_MAX {
        return Err(Failure::usage(&format_args!(
            "{name} is longer than {TEXT_BYTES_MAX} bytes: no agent writes that much"
        )));
    }
    Ok(text)
}
