//! When a command that goes on until it is ended has to end by itself: nobody reads it, its terminal is gone, or there
//! never was one and the time is up.
//!
//! Runtimes of containers keep commands alive whose caller is gone: no signal comes, and no pipe breaks. So one without a
//! terminal ends after a time of its own unless it was given one.

use std::{
    fs,
    io::{self, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, getppid},
};

use crate::kernel::sys::exit_at_once;

/// How long a command goes on that has no terminal and was given no time.
pub const WITHOUT_TERMINAL: Duration = Duration::from_mins(10);

/// How long nobody may take anything of what there is to be read, where the terminal or pipe stays open.
pub const UNREAD_MAX: Duration = Duration::from_mins(10);

/// How often one looks.
const TICK: Duration = Duration::from_millis(250);

/// Whoever started the command.
#[derive(Debug)]
pub struct Caller {
    parent: Option<Pid>,
    is_awaited: bool,
}

impl Caller {
    /// As it is now. One that was told how long to go on, or to ignore hang-ups, outlives its caller.
    #[must_use]
    pub fn new(has_time: bool) -> Self {
        Self { parent: getppid(), is_awaited: !has_time && !ignores_hangup() }
    }

    /// Whether nobody is left to see what the command writes.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.is_awaited && getppid() != self.parent || nobody_reads()
    }
}

/// Whether standard output leads nowhere any more: the reader of the pipe has closed it, or the terminal has hung up.
fn nobody_reads() -> bool {
    let out = io::stdout();
    let mut ready = [PollFd::new(&out, PollFlags::empty())];
    let polled = poll(&mut ready, Some(&Timespec::default()));
    polled.is_ok() && ready[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Whether SIGHUP is ignored, as `nohup` has it.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// Whether a person may be there: one of the three standard descriptors is a terminal.
#[must_use]
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// Ends the process once nobody is left to see what it will write; the kernel detaches what is attached.
pub fn with_the_caller() {
    let caller = Caller::new(false);
    let watch = move || {
        while !caller.has_left() {
            thread::sleep(TICK);
        }
        exit_at_once(0);
    };
    // Without the thread it ends in its own time.
    let _ = thread::Builder::new().name("caller".into()).spawn(watch);
}

/// Ends the process once a write to a terminal has waited for too long: whoever holds it open reads nothing any more.
/// Nothing else can end a write that waits. The flag says that one is under way.
#[must_use]
pub fn end_stuck_writes() -> Arc<AtomicBool> {
    const STEP: Duration = Duration::from_secs(1);
    let writes = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&writes);
    let watch = move || {
        let mut waited = Duration::ZERO;
        while waited < UNREAD_MAX {
            thread::sleep(STEP);
            waited = if watched.load(Ordering::Relaxed) { waited + STEP } else { Duration::ZERO };
        }
        exit_at_once(1);
    };
    // Without the thread such a screen stays.
    let _ = thread::Builder::new().name("writes".into()).spawn(watch);
    writes
}
