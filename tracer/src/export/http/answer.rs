//! Answers on their way: one text for many clients, in pieces, with what it holds for as long as it is not sent.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::connections::{Connection, Doing};

/// What goes to the socket at once. A client that takes less than this in a second counts as one that reads nothing,
/// where others need the room.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// A text, with the room that it takes among all that are not sent yet. Given back once nobody holds any part of it.
pub(super) struct Text {
    bytes: Bytes,
    read: Instant,
    _room: OwnedSemaphorePermit,
}

impl Text {
    /// One that was read just now.
    pub(super) fn new(bytes: Bytes, room: OwnedSemaphorePermit) -> Self {
        Self { bytes, read: Instant::now(), _room: room }
    }

    /// How long ago it was read.
    pub(super) fn age(&self) -> Duration {
        self.read.elapsed()
    }
}

/// What one request holds: until the last byte of its answer is with the kernel, or the connection ends.
pub(super) struct Held {
    pub(super) connection: Arc<Connection>,
    pub(super) _place: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.connection.begins(Doing::Idle);
    }
}

/// The text for one client.
struct Own {
    text: Arc<Text>,
    _held: Held,
}

impl AsRef<[u8]> for Own {
    fn as_ref(&self) -> &[u8] {
        &self.text.bytes
    }
}

/// The body of one answer.
pub(super) struct Answer {
    rest: Bytes,
    connection: Arc<Connection>,
}

impl Answer {
    pub(super) fn new(text: Arc<Text>, held: Held) -> Self {
        let connection = Arc::clone(&held.connection);
        connection.sends(text.read);
        Self { rest: Bytes::from_owner(Own { text, _held: held }), connection }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.connection.moves();
        let piece = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
