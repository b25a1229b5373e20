//! Signals of the screen: those that end it, and the stop and continuation of a job.

use std::{io, mem::MaybeUninit, ptr};

use rustix::process::{Signal as Sent, kill_current_process_group};
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};

/// What a signal asks for.
pub(super) enum Caught {
    /// SIGINT from elsewhere, SIGTERM, and the hang-up of a terminal that is closed.
    Leave,
    /// SIGTSTP, by which the terminal is to be given back.
    Suspend,
    /// SIGCONT, after which it is taken again: SIGSTOP tells nobody, so only its end is heard of.
    Continued,
}

/// The signals that are caught from now on.
pub(super) struct Signals {
    runtime: Runtime,
    leave: [Signal; 3],
    stop: Signal,
    resume: Signal,
}

impl Signals {
    pub(super) fn catch() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (leave, stop, resume) = {
            let _inside = runtime.enter();
            let [stop, resume] = [libc::SIGTSTP, libc::SIGCONT].map(SignalKind::from_raw);
            let leave =
                [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
            (leave, signal(stop)?, signal(resume)?)
        };
        Ok(Self { runtime, leave, stop, resume })
    }

    /// Waits for the next one.
    pub(super) fn next(&mut self) -> Caught {
        let Self { runtime, leave: [interrupt, terminate, hangup], stop, resume } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => Caught::Leave,
                _ = terminate.recv() => Caught::Leave,
                _ = hangup.recv() => Caught::Leave,
                _ = stop.recv() => Caught::Suspend,
                _ = resume.recv() => Caught::Continued,
            }
        })
    }
}

/// Stops the process group as the terminal does at Ctrl-Z, and returns once this process is continued.
///
/// It returns at once where no shell could continue it: the kernel takes no SIGTSTP for an orphaned process group
/// (`ssh -t host tracer top`), nor one for the first process of a container. SIGSTOP would be taken by the former.
pub(super) fn stop_group() -> io::Result<()> {
    // The others are told while this process ignores it: a signal for the process may reach any thread at any time,
    // but one for this thread is taken before `raise()` returns.
    let caught = set_action(&action(libc::SIG_IGN))?;
    let told = kill_current_process_group(Sent::TSTP);
    let stopped = set_action(&action(libc::SIG_DFL)).and_then(|_| raise_stop());
    set_action(&caught)?;
    told?;
    stopped
}

fn action(handler: libc::sighandler_t) -> libc::sigaction {
    // SAFETY: all zeros are a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action
}

/// Sets what SIGTSTP does, and gives what it did.
fn set_action(action: &libc::sigaction) -> io::Result<libc::sigaction> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: `action` is a default one or one that was in force, and `before` has room for another.
    if unsafe { libc::sigaction(libc::SIGTSTP, ptr::from_ref(action), before.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call filled it.
    Ok(unsafe { before.assume_init() })
}

fn raise_stop() -> io::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::raise(libc::SIGTSTP) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
