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
    agent::Shared,
    kernel::hooks::{Report, Verdict},
    view::Pass,
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

/// Tells the watchdog, if there is one, that passes go on. Runs on the agent's own runtime, so that one which
/// hangs is silent as well.
pub(super) fn keep_alive(shared: Arc<Shared>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(limit / KEEPALIVES);
        loop {
            tick.tick().await;
            if is_alive(&shared.view().passes, Instant::now(), limit) {
                send(&[NotifyState::Watchdog]);
            }
        }
    });
}

/// Whether the last pass over namespaces is no older than it may be. Passes that would cost too much come less
/// often, so what is due is counted from their interval; half of the limit is left for a slow one.
fn is_alive(passes: &[Pass], now: Instant, limit: Duration) -> bool {
    passes.first().is_some_and(|pass| now.saturating_duration_since(pass.ended) <= pass.interval + limit / 2)
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

    const LIMIT: Duration = Duration::from_mins(1);

    fn pass(ended: Instant, interval: Duration) -> Pass {
        Pass { name: "namespaces", duration: Duration::from_millis(3), ended, interval }
    }

    #[test]
    fn passes_that_go_on_are_alive_and_those_that_stopped_are_not() {
        let ended = Instant::now();
        let passes = [pass(ended, Duration::from_secs(5))];
        assert!(is_alive(&passes, ended, LIMIT));
        assert!(is_alive(&passes, ended + Duration::from_secs(35), LIMIT));
        assert!(!is_alive(&passes, ended + Duration::from_secs(36), LIMIT));
        assert!(!is_alive(&[], ended, LIMIT));
    }

    #[test]
    fn passes_that_come_less_often_are_alive() {
        let ended = Instant::now();
        let passes = [pass(ended, Duration::from_mins(5))];
        assert!(is_alive(&passes, ended + Duration::from_secs(330), LIMIT));
        assert!(!is_alive(&passes, ended + Duration::from_secs(331), LIMIT));
    }

    #[test]
    fn the_status_is_one_line_with_the_address() {
        let line = status("[::]:9795".parse().unwrap(), &Report { ladders: Vec::new() });
        assert_eq!(line, "http://[::]:9795/metrics; 0 of 0 signals by their best hook");
    }
}
