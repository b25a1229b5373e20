//! Recordings: what the ring delivered, as a file. The format is written down in docs/events.md.
//!
//! Owns the bytes: a preamble, then frames of a known length. Readers trust nothing: lengths are bounded, a file
//! that ends early is read up to its last whole frame, and whatever else is odd is an error that says where. Files
//! are opened elsewhere.

mod reader;

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use tracer_ebpf::event::SIZE_MAX;

pub use self::reader::{Frame, Reader, RecordingError};
use super::{names::Name, summary::Loss};

/// How every recording begins.
const MAGIC: [u8; 8] = *b"TRACEREC";

/// The format's number. Another layout of any record in `tracer_ebpf::event` is another version.
const VERSION: u16 = 1;

/// Byte order of records: that of the machine.
const BYTE_ORDER: u8 = if cfg!(target_endian = "big") { 2 } else { 1 };

/// The longest text that a preamble or a frame may hold.
const TEXT_BYTES_MAX: usize = 8192;
/// The longest record: room for kinds to grow.
const RECORD_BYTES_MAX: usize = SIZE_MAX * 4;

/// Types of frames.
const RECORD: u8 = 1;
const NAME: u8 = 2;
const END: u8 = 3;

/// What a recording says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preamble {
    /// Version of the tracer that wrote it.
    pub tracer: String,
    /// The kernel's release.
    pub kernel: String,
    /// The machine's architecture.
    pub architecture: String,
    /// What CLOCK_REALTIME is ahead of CLOCK_MONOTONIC, nanoseconds.
    pub clock_offset_ns: i64,
}

/// The last frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// What was lost on the way to the recording.
    pub losses: Vec<Loss>,
}

/// Writes a recording.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a recording.
    pub fn new(mut out: W, preamble: &Preamble) -> io::Result<Self> {
        let text = serde_json::to_vec(preamble)?;
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&[BYTE_ORDER, 0])?;
        out.write_all(&length(&text, TEXT_BYTES_MAX)?.to_le_bytes())?;
        out.write_all(&[0; 2])?;
        out.write_all(&text)?;
        Ok(Self { out, bytes: 16 + text.len() as u64 })
    }

    /// Adds what the ring delivered. What is too long for any record is cut, and cannot be decoded either way.
    pub fn record(&mut self, record: &[u8]) -> io::Result<()> {
        self.frame(RECORD, &record[..record.len().min(RECORD_BYTES_MAX)], RECORD_BYTES_MAX)
    }

    /// Adds a name; what follows may rest on it.
    pub fn name(&mut self, name: &Name) -> io::Result<()> {
        self.frame(NAME, &serde_json::to_vec(name)?, TEXT_BYTES_MAX)
    }

    /// Ends the recording.
    pub fn end(mut self, end: &End) -> io::Result<()> {
        self.frame(END, &serde_json::to_vec(end)?, TEXT_BYTES_MAX)?;
        self.out.flush()
    }

    /// Hands on what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Bytes written.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn frame(&mut self, frame: u8, payload: &[u8], limit: usize) -> io::Result<()> {
        let [low, high] = length(payload, limit)?.to_le_bytes();
        self.out.write_all(&[frame, 0, low, high])?;
        self.out.write_all(payload)?;
        self.bytes += 4 + payload.len() as u64;
        Ok(())
    }
}

fn length(bytes: &[u8], limit: usize) -> io::Result<u16> {
    let fits = u16::try_from(bytes.len()).ok().filter(|_| bytes.len() <= limit);
    fits.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a frame would be longer than the format allows"))
}

#[cfg(test)]
mod tests;
