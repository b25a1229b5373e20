//! `/status`: hooks, passes, namespaces and the last events, as JSON for people and scripts.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{port_rows, zeros};
use crate::{
    kernel::hooks::Report,
    log_lines,
    obstacles::{Met, Obstacles},
    pipeline::{counters::Closing, journal::Journal},
    view::{Namespace, View},
};

/// Events shown; the live view has the rest.
const EVENTS_SHOWN: usize = 50;

/// The agent's state. Times are in seconds.
#[must_use]
pub fn status(report: &Report, view: &View, obstacles: &Obstacles, journal: &Journal, up: Duration) -> Value {
    let now = Instant::now();
    let passes = view.passes.iter().map(|pass| {
        json!({
            "pass": pass.name,
            "duration_seconds": pass.duration.as_secs_f64(),
            "age_seconds": now.saturating_duration_since(pass.ended).as_secs_f64(),
            "interval_seconds": pass.interval.as_secs_f64(),
        })
    });
    // Thousands of them, which anybody can make, would be tens of megabytes on the way to text.
    let left_out = zeros::namespaces_without(view);
    let shown = view.namespaces.iter().filter(|namespace| !left_out.contains(namespace.label.as_str()));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "revision": env!("TRACER_REVISION"),
        "up_seconds": up.as_secs_f64(),
        "verdict": report.verdict(),
        "signals": report.ladders,
        "passes": passes.collect::<Vec<_>>(),
        "obstacles": obstacles.iter().map(obstacle).collect::<Vec<_>>(),
        "log_lines_lost": log_lines::lost(),
        "listeners": view.listeners.len(),
        "largest_difference": view.largest_difference(),
        "namespaces": shown.map(namespace).collect::<Vec<_>>(),
        "namespaces_left_out": left_out.len(),
        "ports": port_rows::status(view, now),
        "namespaces_denied": view.namespaces_denied,
        "events": journal.newest(EVENTS_SHOWN).collect::<Vec<_>>(),
        "peers_hidden": false,
    })
}

/// Takes the addresses of peers out of a state, for clients elsewhere: who talks to whom is not everybody's business.
pub fn hide_peers(status: &mut Value) {
    let each = |status: &mut Value, list: &str, field: &str, nothing: Value| {
        for of in status[list].as_array_mut().into_iter().flatten() {
            of[field] = nothing.clone();
        }
    };
    each(status, "ports", "destinations", json!([]));
    each(status, "events", "remote", Value::Null);
    status["peers_hidden"] = json!(true);
}

/// What the last pass could not do, in the words of the log and of `tracer doctor`.
#[must_use]
pub fn obstacle(met: Met<'_>) -> Value {
    json!({
        "reason": met.obstacle.name(),
        "count": met.count,
        "what": met.obstacle.what(),
        "cause": met.cause,
        "remedy": met.obstacle.remedy(),
    })
}

fn namespace(namespace: &Namespace) -> Value {
    let signals = Closing::ALL.into_iter().filter_map(|signal| {
        let kernel = namespace.books.kernel(signal)?;
        let books = json!({
            "kernel": kernel,
            "difference": namespace.books.difference(signal),
            "unknown": namespace.books.unknown(signal),
        });
        Some((signal.name().to_owned(), books))
    });
    json!({
        "netns": namespace.label,
        "inode": namespace.inum,
        "name": namespace.name,
        "pod_namespace": namespace.owner.namespace,
        "pod": namespace.owner.pod,
        "alive": namespace.alive,
        "signals": signals.collect::<serde_json::Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_of_a_peer_is_left() {
        let mut status = json!({
            "ports": [{ "netns": "7", "destinations": [{ "source": "192.0.2.9", "destination": "192.0.2.1:80" }] }],
            "events": [{ "local": "192.0.2.9:1", "remote": "192.0.2.1:80", "kind": "reset" }],
            "peers_hidden": false,
        });
        hide_peers(&mut status);
        let expected = json!({
            "ports": [{ "netns": "7", "destinations": [] }],
            "events": [{ "local": "192.0.2.9:1", "remote": null, "kind": "reset" }],
            "peers_hidden": true,
        });
        assert_eq!(status, expected);
    }
}
