//! One line on standard error that says what is waited for, where that is a terminal and the wait is longer than a
//! second. It is taken away at the end.
//!
//! Owns the line and the thread that keeps it. The log goes through [`Stderr`], which takes the line away first,
//! so that the two never share a line. Must not know what is waited for.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

/// What is over sooner needs no line; and how often the line is written anew.
const STEP: Duration = Duration::from_secs(1);
/// Back to the first column, and away with what stands there.
const ERASE: &str = "\r\x1b[K";

/// Whether the line stands on the terminal.
static IS_SHOWN: Mutex<bool> = Mutex::new(false);

/// How long the line's end is waited for: a terminal that was stopped takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// The thread that writes the line.
struct Keeper {
    /// Dropped to end it.
    stop: mpsc::Sender<()>,
    /// Gone once it has ended.
    ended: mpsc::Receiver<()>,
}

/// The line, while this lives.
pub struct Progress {
    keeper: Option<Keeper>,
}

impl Progress {
    /// Says `what` is waited for from the second second on; at once if it is known to last `expected`, and that is longer.
    #[must_use]
    pub fn new(what: &str, expected: Option<Duration>) -> Self {
        let is_short = expected.is_some_and(|expected| expected <= STEP);
        if !io::stderr().is_terminal() || is_short {
            return Self { keeper: None };
        }
        let what = what.to_owned();
        let (stop, stopped) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let keep = move || {
            keep(&what, expected, &stopped);
            drop(end);
        };
        // Without a thread there is no line, and the work goes on all the same.
        let thread = thread::Builder::new().name("progress".into()).spawn(keep);
        Self { keeper: thread.ok().map(|_| Keeper { stop, ended }) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(Keeper { stop, ended }) = self.keeper.take() {
            drop(stop);
            // Nothing is ever sent: either end is the end.
            let _ = ended.recv_timeout(PATIENCE);
        }
    }
}

/// Writes the line each second until the other end of `stopped` is gone, then takes it away.
fn keep(what: &str, expected: Option<Duration>, stopped: &mpsc::Receiver<()>) {
    let start = Instant::now();
    if expected.is_some() {
        show(&line(what, expected, Duration::ZERO));
    }
    while stopped.recv_timeout(STEP) == Err(mpsc::RecvTimeoutError::Timeout) {
        show(&line(what, expected, start.elapsed()));
    }
    erase();
}

fn line(what: &str, expected: Option<Duration>, elapsed: Duration) -> String {
    let left = expected.unwrap_or_default().saturating_sub(elapsed);
    if left.is_zero() {
        return format!("{what} … {} s", elapsed.as_secs());
    }
    // Half a second left reads as one.
    format!("{what} … {} s left", left.as_millis().div_ceil(1000))
}

fn show(line: &str) {
    let mut is_shown = IS_SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    // For people alone, who may have left.
    let _ = write!(io::stderr(), "{ERASE}{line}");
    *is_shown = true;
}

fn erase() {
    let mut is_shown = IS_SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if *is_shown {
        let _ = write!(io::stderr(), "{ERASE}");
        *is_shown = false;
    }
}

/// Standard error for whoever writes whole lines while a progress line may stand there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        erase();
        io::stderr().write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts_up_or_down() {
        let ms = Duration::from_millis;
        assert_eq!(line("loading", None, ms(2900)), "loading … 2 s");
        assert_eq!(line("looking", Some(ms(10_000)), Duration::ZERO), "looking … 10 s left");
        assert_eq!(line("looking", Some(ms(10_000)), ms(1001)), "looking … 9 s left");
        assert_eq!(line("looking", Some(ms(10_000)), ms(12_000)), "looking … 12 s", "longer than it should");
    }

    #[test]
    fn what_is_over_soon_has_no_line() {
        assert!(Progress::new("x", Some(STEP)).keeper.is_none());
    }
}
