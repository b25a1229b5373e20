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
        "bound": found.bound,
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use tracer_ebpf::destination::{DestinationKey, DestinationUse};

    use super::*;
    use crate::{
        advise::destinations::Destinations, export::namespace_rows::tests::namespace, pipeline::ports::Busiest,
    };

    /// 192.0.2 and this byte, as the map has it.
    fn address(last: u8) -> [u32; 4] {
        [0, 0, u32::from_be(0xffff), u32::from_ne_bytes([192, 0, 2, last])]
    }

    /// Namespace 7, in which one destination uses 90 ports and another, without room, 91 at most.
    fn view(now: Instant) -> View {
        let mut busiest = Busiest::default();
        let key = DestinationKey { source: address(1), destination: address(2), port: 80, zero: 0 };
        busiest.add(&key, DestinationUse { used: 90, time_wait: 80, bound: 0 });
        let namespace = namespace("7");
        let ports = BTreeMap::from([(namespace.id, PortUse::new(now, (40_000, 40_099), busiest, 3, [600, 91]))]);
        View { namespaces: vec![namespace], ports, ..View::default() }
    }

    #[test]
    fn destinations_are_shown_with_what_is_missing() {
        let now = Instant::now();
        let expected = json!([{
            "netns": "7",
            "range": [40_000, 40_099],
            "ports": 100,
            "bound": 3,
            "used": null,
            "age_seconds": 2.0,
            "incomplete": { "sockets": 600, "used_at_most": 91 },
            "destinations": [
                { "source": "192.0.2.1", "destination": "192.0.2.2:80", "used": 90, "time_wait": 80 },
            ],
        }]);
        assert_eq!(status(&view(now), now + Duration::from_secs(2)), expected);
    }

    /// The two ends of `/status` are of one mind.
    #[test]
    fn what_is_shown_is_what_advice_reads() {
        let now = Instant::now();
        let known = Destinations::parse(&json!({ "ports": status(&view(now), now) }).to_string());
        let found = known.of("7").unwrap();
        assert_eq!(found.destinations[0].destination, ([192, 0, 2, 2], 80).into());
        assert_eq!((found.destinations[0].used, found.destinations[0].time_wait), (90, 80));
        assert_eq!(found.uncounted_at_most(), Some(91));
    }
}
