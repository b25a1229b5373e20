//! What `/readyz` and `/healthz` say: whether passes go on, by the age of the last one. Pure: time is passed in.

use std::time::{Duration, Instant};

use crate::{
    obstacles::{Obstacle, Obstacles},
    view::View,
};

/// How much older than its interval the last pass may be before figures are too old to be relied on.
const READY_FOR: Duration = Duration::from_mins(1);
/// The same before a restart is the better hope.
const ALIVE_FOR: Duration = Duration::from_mins(5);
/// How long the first pass may take until then.
const FIRST_PASS_FOR: Duration = Duration::from_mins(10);

/// Why nobody should rely on the agent now.
pub fn ready(view: &View, met: &Obstacles, now: Instant) -> Result<(), String> {
    let Some(pass) = view.passes.first() else { return Err("the first pass is under way".to_owned()) };
    let age = now.saturating_duration_since(pass.ended);
    if age > pass.interval + READY_FOR {
        return Err(format!("the last pass ended {} s ago", age.as_secs()));
    }
    let is_read = view.namespaces.iter().any(|namespace| namespace.alive && !namespace.is_stale);
    let why = |obstacle| matches!(obstacle, Obstacle::Refused | Obstacle::Hung | Obstacle::Unreadable);
    match met.iter().find(|met| why(met.obstacle)) {
        Some(met) if !is_read => Err(format!("no network namespace is read: {met}")),
        _ => Ok(()),
    }
}

/// Why a restart would serve the agent; `started` is when it did.
pub fn alive(view: &View, started: Instant, now: Instant) -> Result<(), String> {
    let (since, limit) = match view.passes.first() {
        Some(pass) => (pass.ended, pass.interval + ALIVE_FOR),
        None => (started, FIRST_PASS_FOR),
    };
    let age = now.saturating_duration_since(since);
    if age > limit { Err(format!("no pass has ended for {} s", age.as_secs())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Pass;

    const SECOND: Duration = Duration::from_secs(1);

    fn view(ended: Instant) -> View {
        let pass = Pass { name: "namespaces", duration: SECOND, ended, interval: 30 * SECOND };
        View { passes: vec![pass], ..View::default() }
    }

    #[test]
    fn both_follow_the_age_of_the_last_pass() {
        let ended = Instant::now();
        let view = view(ended);
        let none = Obstacles::default();
        let at = |seconds: u32| {
            let now = ended + seconds * SECOND;
            (ready(&view, &none, now).is_ok(), alive(&view, ended, now).is_ok())
        };
        assert_eq!([at(90), at(91), at(330), at(331)], [(true, true), (false, true), (false, true), (false, false)]);
    }

    #[test]
    fn a_long_first_pass_is_waited_for() {
        let started = Instant::now();
        let view = View::default();
        assert!(ready(&view, &Obstacles::default(), started).is_err());
        assert!(alive(&view, started, started + 600 * SECOND).is_ok());
        assert!(alive(&view, started, started + 601 * SECOND).is_err());
    }

    #[test]
    fn an_agent_that_reads_no_namespace_is_not_ready() {
        let now = Instant::now();
        let mut met = Obstacles::default();
        met.note(Obstacle::Refused, "EPERM");
        let why = ready(&view(now), &met, now).unwrap_err();
        assert!(
            why.starts_with("no network namespace is read: 1 network namespaces cannot be entered (EPERM)"),
            "{why}"
        );
    }
}
