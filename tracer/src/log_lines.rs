//! Lines for standard error, written by a thread of their own: a reader that takes nothing holds up that thread and
//! nobody else. Lines that find no room meanwhile are lost, and counted.
//!
//! Owns the thread, the bound on what waits, and the count. Takes whole lines, one for each `write`. Must not know
//! what they say. (The crate `tracing-appender` does the same, and would bring a crate for dates along.)

use std::{
    io::{self, Write},
    panic,
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use crate::progress::Stderr;

/// What may wait for a reader: some thousand lines.
const WAITING_BYTES_MAX: usize = 256 << 10;

static WRITER: OnceLock<Sender<Message>> = OnceLock::new();
static QUEUE: Queue = Queue::new();

/// What the thread is sent.
enum Message {
    Line(Vec<u8>),
    /// Answered once every line before it is written.
    Flush(Sender<()>),
}

/// The bound, and what it kept out.
struct Queue {
    waiting_bytes: AtomicUsize,
    lost: AtomicU64,
    /// How many of these the log has said by now.
    told: AtomicU64,
}

impl Queue {
    const fn new() -> Self {
        Self { waiting_bytes: AtomicUsize::new(0), lost: AtomicU64::new(0), told: AtomicU64::new(0) }
    }

    /// Whether there is room for a line of this length; if not, it is lost.
    fn admits(&self, bytes: usize) -> bool {
        let admitted = self.waiting_bytes.fetch_add(bytes, Relaxed) + bytes <= WAITING_BYTES_MAX;
        if !admitted {
            self.waiting_bytes.fetch_sub(bytes, Relaxed);
            self.lost.fetch_add(1, Relaxed);
        }
        admitted
    }

    /// A line of this length does not wait any more.
    fn wrote(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Relaxed);
    }

    /// What is to be said of lines that were lost since this was last asked.
    fn loss(&self) -> Option<String> {
        let lost = self.lost.load(Relaxed);
        let new = lost - self.told.swap(lost, Relaxed);
        (new > 0).then(|| format!("{new} lines of the log are missing here, because nobody read standard error\n"))
    }
}

/// Starts the thread, unless it runs already. A panic is told through it as well, so that one ends the process whether
/// or not anybody reads.
pub fn start() -> io::Result<()> {
    if WRITER.get().is_some() {
        return Ok(());
    }
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().name("log".into()).spawn(move || write_all(&receiver, &mut Stderr, &QUEUE))?;
    // Whoever was quicker has the thread that serves.
    let _ = WRITER.set(sender);
    panic::set_hook(Box::new(|panic| {
        let _ = writeln!(LogLines, "{panic}");
        flush(Duration::from_secs(1));
    }));
    Ok(())
}

/// Writes what comes, for as long as there is anybody who may send. A reader that has left is no reason to end.
fn write_all(receiver: &Receiver<Message>, out: &mut impl Write, queue: &Queue) {
    for message in receiver {
        match message {
            Message::Line(line) => {
                let _ = out.write_all(&line);
                queue.wrote(line.len());
                if let Some(loss) = queue.loss() {
                    let _ = out.write_all(loss.as_bytes());
                }
            }
            // Whoever asked may have given up.
            Message::Flush(done) => _ = done.send(()),
        }
    }
}

/// Waits until all lines are written, for so long at most.
pub fn flush(limit: Duration) {
    let Some(writer) = WRITER.get() else { return };
    let (done, written) = mpsc::channel();
    if writer.send(Message::Flush(done)).is_ok() {
        // Nobody reads: the lines are lost with the process.
        let _ = written.recv_timeout(limit);
    }
}

/// How many lines found no room.
#[must_use]
pub fn lost() -> u64 {
    QUEUE.lost.load(Relaxed)
}

/// Standard error, which never makes its writer wait once the thread was started.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogLines;

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(writer) = WRITER.get() else { return Stderr.write(line) };
        if QUEUE.admits(line.len()) && writer.send(Message::Line(line.to_vec())).is_err() {
            return Stderr.write(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_lost_and_said_once_somebody_reads_again() {
        let queue = Queue::new();
        let (sender, receiver) = mpsc::channel();
        let line = |byte: u8| vec![byte; WAITING_BYTES_MAX / 2];
        for byte in b'a'..=b'd' {
            if queue.admits(WAITING_BYTES_MAX / 2) {
                sender.send(Message::Line(line(byte))).unwrap();
            }
        }
        drop(sender);
        let mut written = Vec::new();
        write_all(&receiver, &mut written, &queue);
        let text = String::from_utf8(written).unwrap();
        let said = "2 lines of the log are missing here, because nobody read standard error\n";
        assert_eq!(text.matches(said).count(), 1);
        assert_eq!(text.len(), WAITING_BYTES_MAX + said.len(), "the other two were written");
        assert!(queue.admits(WAITING_BYTES_MAX), "the room is free again");
        assert_eq!(queue.loss(), None);
    }

    #[test]
    fn a_flush_is_answered_after_the_lines_before_it() {
        let (sender, receiver) = mpsc::channel();
        let (done, written) = mpsc::channel();
        sender.send(Message::Line(b"line\n".to_vec())).unwrap();
        sender.send(Message::Flush(done)).unwrap();
        drop(sender);
        let mut out = Vec::new();
        let queue = Queue::new();
        assert!(queue.admits(5));
        write_all(&receiver, &mut out, &queue);
        assert_eq!((out.as_slice(), written.try_recv()), (b"line\n".as_slice(), Ok(())));
    }
}
