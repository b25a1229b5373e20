//! What the agent and a command that watches its events say to each other, before the stream of events, which has the
//! form of a recording. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where agents make their sockets: a directory that is root's alone.
pub const DIRECTORY: &str = "/run/tracer";

/// The socket of the agent that serves HTTP on this port: one port has one agent.
#[must_use]
pub fn socket(port: u16) -> PathBuf {
    PathBuf::from(DIRECTORY).join(format!("{port}.sock"))
}

/// The agent's first line. (The command's is the bits of the kinds that it wants, eight bytes of a little-endian number.)
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Why there is nothing to be watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Kinds for which nothing is attached, and why.
    #[serde(default)]
    pub unseen: Vec<(String, Option<String>)>,
}
