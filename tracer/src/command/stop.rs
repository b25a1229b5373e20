//! The wish to end, from SIGINT or SIGTERM, for commands that look at it from time to time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// Whether somebody wants the command to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Waits for the signals on a thread of its own, since the one that writes may be held up by its reader.
    pub fn on_signals() -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::other(format!("cannot catch signals: {error}"));
        let stop = Self::default();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(|error| failed(&error))?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            let catch = |kind| signal(kind).map_err(|error| failed(&error));
            (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?)
        };
        let wish = stop.clone();
        let wait = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            wish.0.store(true, Ordering::Relaxed);
        };
        thread::Builder::new().name("signals".into()).spawn(wait).map_err(|error| failed(&error))?;
        Ok(stop)
    }

    /// Whether to end.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
