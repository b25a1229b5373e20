//! What the service manager is told: ready after the first pass, alive while passes go on, leaving.
//!
//! Speaks systemd's notification protocol over the socket that `NOTIFY_SOCKET` names; without it nothing
//! happens. Must not decide anything: readiness is what `/readyz` says, and the passes' age what `/status`
//! says. A message that cannot be sent is logged once for each kind and changes nothing else.

use std::{
    env,
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

use crate::{
    agent::{Shared, liveness},
    kernel::hooks::{Report, Verdict},
};

/// How many times within its limit the watchdog hears of the agent, so that one late message does no harm.
const KEEPALIVES: u32 = 4;

/// How often a start that goes on says so, and how much time it asks for each time.
const START_SAID: Duration = Duration::from_secs(20);
const START_MORE: Duration = Duration::from_mins(1);
/// After so many the start is late for good: ten minutes, as `/healthz` has it.
const START_SAID_MAX: usize = 30;

/// Asks the service manager for patience while this lives: a first pass may take longer than starts usually may.
pub(super) struct Starting {
    /// Dropped to end it.
    _end: mpsc::Sender<()>,
}

impl Starting {
    pub(super) fn new() -> Self {
        let (end, ended) = mpsc::channel::<()>();
        let ask = move || {
            for _ in 0..START_SAID_MAX {
                if ended.recv_timeout(START_SAID) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
                send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(START_MORE.as_micros()).unwrap_or(u32::MAX))]);
            }
        };
        if env::var_os("NOTIFY_SOCKET").is_some()
            && let Err(error) = thread::Builder::new().name("starting".into()).spawn(ask)
        {
            tracing::warn!(%error, "the service manager is not asked for patience");
        }
        Self { _end: end }
    }
}

/// The first pass is done.
pub(super) fn ready(address: SocketAddr, report: &Report) {
    send(&[NotifyState::Ready, NotifyState::Status(&status(address, report))]);
}

/// The agent was told to end.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("ending: open responses, then the hooks")]);
}

/// Tells the watchdog, if there is one, that passes go on, as `/healthz` does. Runs on the agent's own runtime, so that one which
/// hangs is silent as well.
pub(super) fn keep_alive(shared: Arc<Shared>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(limit / KEEPALIVES);
        loop {
            tick.tick().await;
            if liveness::alive(&shared.view(), shared.started, Instant::now()).is_ok() {
                send(&[NotifyState::Watchdog]);
            }
        }
    });
}

/// One line for `systemctl status`.
fn status(address: SocketAddr, report: &Report) -> String {
    let best = report.ladders.iter().filter(|ladder| ladder.verdict() == Verdict::Best).count();
    let all = report.ladders.len();
    let hint = if best == all { "" } else { ", see `tracer doctor`" };
    format!("http://{address}/metrics; {best} of {all} signals by their best hook{hint}")
}

fn send(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_one_line_with_the_address() {
        let line = status("[::]:9795".parse().unwrap(), &Report { ladders: Vec::new() });
        assert_eq!(line, "http://[::]:9795/metrics; 0 of 0 signals by their best hook");
    }
}
