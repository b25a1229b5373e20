//! Reads recordings, whoever made them.

use std::io::{self, Read};

use thiserror::Error;

use super::{BYTE_ORDER, END, End, MAGIC, NAME, Preamble, RECORD, RECORD_BYTES_MAX, TEXT_BYTES_MAX, VERSION};
use crate::events::names::Name;

/// Why a recording cannot be read, or not further.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// It begins otherwise.
    #[error("this is no recording of tracer events --record")]
    Foreign,
    /// Another version of the format.
    #[error(
        "the recording has format {0}, and this tracer reads format {VERSION}: replay it with the tracer that wrote it"
    )]
    Version(u16),
    /// Records of a machine of the other byte order.
    #[error("the recording is of a machine with another byte order: replay it on one of its kind")]
    ByteOrder,
    /// Something that no tracer writes.
    #[error("the recording is damaged at byte {at}: {what}")]
    Damaged {
        /// Where, from the file's beginning.
        at: u64,
        /// What.
        what: &'static str,
    },
    /// The file could not be read.
    #[error("cannot read the recording: {0}")]
    Io(#[from] io::Error),
}

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// What the ring delivered.
    Record(&'a [u8]),
    /// A name.
    Name(Name),
    /// The end that the writer wrote.
    End(End),
    /// The end of the file where a frame, or the end, was still to come. The last whole frame ended at this byte.
    Cut(u64),
}

/// Reads a recording.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    at: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the preamble.
    pub fn new(mut input: R) -> Result<(Preamble, Self), RecordingError> {
        let mut head = [0; 16];
        let read = fill(&mut input, &mut head)?;
        let [version @ .., order, _, low, high, _, _] = &head[MAGIC.len()..] else {
            return Err(RecordingError::Foreign);
        };
        let version = u16::from_le_bytes([version[0], version[1]]);
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        if read < MAGIC.len() || head[..MAGIC.len()] != MAGIC {
            return Err(RecordingError::Foreign);
        }
        if read >= MAGIC.len() + 2 && version != VERSION {
            return Err(RecordingError::Version(version));
        }
        let damaged = |what| RecordingError::Damaged { at: 16, what };
        if read < head.len() {
            return Err(damaged("it ends within its preamble"));
        }
        if *order != BYTE_ORDER {
            return Err(RecordingError::ByteOrder);
        }
        if length > TEXT_BYTES_MAX {
            return Err(damaged("its preamble is longer than any"));
        }
        let mut text = vec![0; length];
        if fill(&mut input, &mut text)? < length {
            return Err(damaged("it ends within its preamble"));
        }
        let preamble = serde_json::from_slice(&text).map_err(|_| damaged("its preamble cannot be understood"))?;
        Ok((preamble, Self { input, at: 16 + length as u64, buffer: Vec::new() }))
    }

    /// The next frame. Nothing is to be read after [`Frame::End`] or [`Frame::Cut`].
    pub fn next_frame(&mut self) -> Result<Frame<'_>, RecordingError> {
        let at = self.at;
        let damaged = |what| RecordingError::Damaged { at, what };
        let mut head = [0; 4];
        if fill(&mut self.input, &mut head)? < head.len() {
            return Ok(Frame::Cut(at));
        }
        let [frame, zero, low, high] = head;
        let length = usize::from(u16::from_le_bytes([low, high]));
        let limit = if frame == RECORD { RECORD_BYTES_MAX } else { TEXT_BYTES_MAX };
        if ![RECORD, NAME, END].contains(&frame) || zero != 0 {
            return Err(damaged("no frame begins so"));
        }
        if length > limit {
            return Err(damaged("the frame is longer than any of its type"));
        }
        self.buffer.resize(length, 0);
        if fill(&mut self.input, &mut self.buffer)? < length {
            return Ok(Frame::Cut(at));
        }
        self.at += (head.len() + length) as u64;
        let unclear = |_| damaged("the frame's text cannot be understood");
        Ok(match frame {
            RECORD => Frame::Record(&self.buffer),
            NAME => Frame::Name(serde_json::from_slice(&self.buffer).map_err(unclear)?),
            _ => Frame::End(serde_json::from_slice(&self.buffer).map_err(unclear)?),
        })
    }
}

/// Reads until the buffer is full or the input ends; returns how much came.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
