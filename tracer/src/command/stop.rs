//! The wish to end, from SIGINT or SIGTERM: for commands that look at it from time to time, and for the agent, which
//! ends in any case.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{
    failure::Failure,
    kernel::{shortage, sys::exit_at_once},
    log_lines,
};

/// How long the reader of standard error may take for the last line.
const LAST_LINE_LIMIT: Duration = Duration::from_millis(100);

/// Whether somebody wants the command to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Waits for the signals.
    pub fn on_signals() -> Result<Self, Failure> {
        let stop = Self::default();
        let wish = stop.clone();
        at_signal(move || wish.0.store(true, Ordering::Relaxed))?;
        Ok(stop)
    }

    /// Whether to end.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A future that is done once the process is to end. Should it not have ended `limit` later, whatever holds it up, it
/// ends all the same; the kernel detaches what is attached.
pub fn within(limit: Duration) -> Result<impl Future<Output = ()>, Failure> {
    let (wish, wanted) = oneshot::channel();
    at_signal(move || {
        // Nobody waits for it any more if the process is about to end by itself.
        let _ = wish.send(());
        thread::sleep(limit);
        tracing::warn!("something holds the agent up; it ends without waiting any longer");
        log_lines::flush(LAST_LINE_LIMIT);
        exit_at_once(1);
    })?;
    Ok(async move {
        // Gone without a word only with the process.
        let _ = wanted.await;
    })
}

/// Waits for the signals on a thread of its own, since any other may be held up, and then does `then` there.
fn at_signal(then: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let failed = |error: &io::Error| Failure::other(format!("cannot catch signals: {}", shortage::explain(error)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(|error| failed(&error))?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let catch = |kind| signal(kind).map_err(|error| failed(&error));
        (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?)
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        then();
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(|error| failed(&error))?;
    Ok(())
}
