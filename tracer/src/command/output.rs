//! Standard output of commands that go on until somebody ends them: a reader that takes nothing, such as a
//! stopped terminal, holds them up, but does not keep them from ending.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{leave, stop::Stop};

/// What a pipe that is ready takes without making its writer wait (`PIPE_BUF`).
const PIECE_BYTES: usize = 4096;
/// How often is looked whether the command is to end.
const TICK: Duration = Duration::from_millis(100);
/// How long a reader may take once the command is to end, and otherwise.
const PATIENCE: Duration = Duration::from_secs(1);
const UNREAD_MAX: Duration = leave::UNREAD_MAX;

/// Standard output.
#[derive(Debug)]
pub struct Output {
    stop: Stop,
    asked: Option<Instant>,
}

impl Output {
    /// One that gives up once `stop` is wanted and nobody reads.
    #[must_use]
    pub const fn new(stop: Stop) -> Self {
        Self { stop, asked: None }
    }

    /// Waits until somebody takes something.
    fn await_reader(&mut self) -> io::Result<()> {
        let tick = Timespec::try_from(TICK).map_err(io::Error::other)?;
        let (out, begin) = (io::stdout(), Instant::now());
        loop {
            let mut ready = [PollFd::new(&out, PollFlags::OUT)];
            match poll(&mut ready, Some(&tick)) {
                Ok(0) | Err(Errno::INTR) => {}
                // Errors are the write's to tell.
                Ok(_) => {
                    self.asked = None;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            let is_over = self.stop.is_wanted() && self.asked.get_or_insert_with(Instant::now).elapsed() >= PATIENCE;
            if is_over || begin.elapsed() >= UNREAD_MAX {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it"));
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.await_reader()?;
        Ok(rustix::io::write(io::stdout(), &bytes[..bytes.len().min(PIECE_BYTES)])?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
