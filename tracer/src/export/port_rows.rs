//! Ephemeral ports: the row of each namespace that is near its range, and its destinations for
//! `/status`. A destination never becomes a label.

use std::time::Instant;

use serde_json::{Value, json};

use super::{collector::namespace_values, metrics::MetricId, rows::Rows};
use crate::{
    pipeline::ports::{Destination, PortUse},
    view::{Namespace, View},
};

/// Adds the rows; a namespace whose busiest destination is not known for certain has none.
pub fn add(rows: &mut Rows<'_>, view: &View) {
    for (namespace, found) in found(view) {
        if let Some(used) = found.largest() {
            rows.add(MetricId::TcpEphemeralPortsUsed, &namespace_values(namespace), f64::from(used));
        }
    }
}

/// The same with the destinations, for people.
#[must_use]
pub fn status(view: &View, now: Instant) -> Value {
    found(view).map(|(namespace, found)| of_namespace(namespace, found, now)).collect()
}

fn found(view: &View) -> impl Iterator<Item = (&Namespace, &PortUse)> {
    let living = view.namespaces.iter().filter(|namespace| namespace.alive);
    living.filter_map(|namespace| Some((namespace, view.ports.get(&namespace.id)?)))
}

fn of_namespace(namespace: &Namespace, found: &PortUse, now: Instant) -> Value {
    // Sockets of destinations beyond the map's room, and how many ports one of these may use.
    let incomplete =
        (found.refused > 0).then(|| json!({ "sockets": found.refused, "used_at_most": found.refused_most }));
    json!({
        "netns": namespace.label,
        "range": found.range,
        "ports": found.ports(),
        "used": found.largest(),
        "age_seconds": now.saturating_duration_since(found.read).as_secs_f64(),
        "incomplete": incomplete,
        "destinations": found.destinations.iter().map(destination).collect::<Vec<_>>(),
    })
}

fn destination(destination: &Destination) -> Value {
    json!({
        "source": destination.source,
        "destination": destination.destination,
        "used": destination.used,
        "time_wait": destination.time_wait,
    })
}
