//! Events for scripts: one JSON object a line. The fields are a contract, written down in docs/events.md.
//! Pure. What is not known is absent.

use std::{
    fmt::Write as _,
    io::{self, Write},
    net::IpAddr,
};

use serde::Serialize;

use super::{clock::Clock, kind::EventKind, names::Origin};
use crate::pipeline::decode::{Detail, Event};

/// Writes lines.
#[derive(Debug)]
pub struct Json {
    clock: Clock,
    time: String,
    netns: String,
}

/// One line, in this order.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    kind: &'static str,
    #[serde(skip_serializing_if = "is_empty")]
    netns: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    netns_name: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    pod: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    container: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    unit: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_port: Option<u16>,
    #[serde(flatten)]
    detail: Fields,
}

/// What the kinds add.
#[derive(Default, Serialize)]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    syn_queue_length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opened: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tgid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_state: Option<&'static str>,
}

impl Fields {
    fn of(detail: &Detail) -> Self {
        let known = |number: u16| (number != 0).then_some(number);
        let fields = Self::default();
        match *detail {
            Detail::ListenDrop { reason, queue_length, queue_limit, syn_queue_length } => Self {
                reason: Some(reason),
                queue_length: Some(queue_length),
                queue_limit: Some(queue_limit),
                syn_queue_length: Some(syn_queue_length),
                ..fields
            },
            Detail::Retransmit { cause, role, segments, error } => {
                Self { cause: Some(cause), role: Some(role), segments: Some(segments), errno: known(error), ..fields }
            }
            Detail::SynackRetransmit => fields,
            Detail::Connect { result, retries, error } => {
                Self { result: Some(result), retries: Some(retries), errno: known(error), ..fields }
            }
            Detail::TimeWaitOverflow { confirmed } => Self { confirmed: Some(confirmed), ..fields },
            Detail::Listen { opened, tgid, .. } => {
                Self { opened: Some(opened), tgid: (tgid != 0).then_some(tgid), ..fields }
            }
            Detail::Reset { direction, reason } => Self { direction: Some(direction), reason: Some(reason), ..fields },
            Detail::State { old, .. } => Self { old_state: Some(old), ..fields },
        }
    }
}

impl Json {
    /// With times of this clock.
    #[must_use]
    pub const fn new(clock: Clock) -> Self {
        Self { clock, time: String::new(), netns: String::new() }
    }

    /// Writes one event.
    pub fn write(&mut self, out: &mut impl Write, event: &Event, origin: &Origin<'_>) -> io::Result<()> {
        let moment = self.clock.at(event.time_ns);
        self.time.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.time, "{}.{:09}Z", moment.seconds, moment.nanos);
        self.netns.clear();
        match origin.namespace {
            Some(namespace) if namespace.is_host => self.netns.push_str("host"),
            _ if origin.inode != 0 => _ = write!(self.netns, "{}", origin.inode),
            _ => {}
        }
        let owner = origin.owner;
        let line = Line {
            time: &self.time,
            kind: EventKind::of(event.detail.kind()).name(),
            netns: &self.netns,
            netns_name: origin.namespace.map_or("", |namespace| &namespace.name),
            namespace: owner.map_or("", |owner| &owner.namespace),
            pod: owner.map_or("", |owner| &owner.pod),
            container: owner.map_or("", |owner| &owner.container),
            unit: owner.map_or("", |owner| &owner.unit),
            process: origin.process,
            cgroup: (event.cgroup != 0).then_some(event.cgroup),
            state: (event.state != "UNKNOWN").then_some(event.state),
            local_address: event.local.map(|end| end.address),
            local_port: event.local.map(|end| end.port).filter(|port| *port != 0),
            remote_address: event.remote.map(|end| end.address),
            remote_port: event.remote.map(|end| end.port).filter(|port| *port != 0),
            detail: Fields::of(&event.detail),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    }
}

fn is_empty(text: &&str) -> bool {
    text.is_empty()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        events::names::Namespace,
        pipeline::{attribute::Owner, decode::Endpoint},
    };

    fn written(event: &Event, origin: &Origin<'_>) -> String {
        let mut out = Vec::new();
        Json::new(Clock::new(1_700_000_000_000_000_000)).write(&mut out, event, origin).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn event(detail: Detail) -> Event {
        let end = |port| Some(Endpoint { address: "10.0.0.1".parse().unwrap(), port });
        Event {
            time_ns: 5,
            netns: 1,
            netns_inum: 9,
            cgroup: 33,
            state: "LISTEN",
            local: end(80),
            remote: end(4711),
            detail,
        }
    }

    #[test]
    fn a_line_has_its_fields_in_order() {
        let drop = Detail::ListenDrop {
            reason: "accept_queue_full_syn",
            queue_length: 6,
            queue_limit: 5,
            syn_queue_length: 0,
        };
        let owner = Owner { namespace: "shop".into(), pod: "web-0".into(), ..Owner::default() };
        let namespace = Namespace { inode: 9, name: "blue".into(), ..Namespace::default() };
        let origin = Origin { inode: 9, namespace: Some(&namespace), owner: Some(&owner), process: Some("we\"b") };
        assert_eq!(
            written(&event(drop), &origin),
            "{\"time\":\"2023-11-14T22:13:20.000000005Z\",\"kind\":\"drop\",\"netns\":\"9\",\"netns_name\":\"blue\",\
             \"namespace\":\"shop\",\"pod\":\"web-0\",\"process\":\"we\\\"b\",\"cgroup\":33,\"state\":\"LISTEN\",\
             \"local_address\":\"10.0.0.1\",\"local_port\":80,\"remote_address\":\"10.0.0.1\",\"remote_port\":4711,\
             \"reason\":\"accept_queue_full_syn\",\"queue_length\":6,\"queue_limit\":5,\"syn_queue_length\":0}\n"
        );
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let reset = Detail::Reset { direction: "sent", reason: "no_socket" };
        let bare = Event { netns_inum: 0, cgroup: 0, state: "UNKNOWN", local: None, remote: None, ..event(reset) };
        let line: Value = serde_json::from_str(&written(&bare, &Origin::default())).unwrap();
        let expected = json!({
            "time": "2023-11-14T22:13:20.000000005Z",
            "kind": "reset",
            "direction": "sent",
            "reason": "no_socket",
        });
        assert_eq!(line, expected);
    }

    /// One row of the table of fields in docs/events.md.
    struct Row {
        names: Vec<String>,
        types: Vec<String>,
        kinds: String,
    }

    fn documented() -> Vec<Row> {
        let page = include_str!("../../../docs/events.md");
        let (_, section) = page.split_once("\n## JSON\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let words = |cell: &str| cell.split(", ").map(|word| word.trim().replace('`', "")).collect();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            Row { names: words(cells[1]), types: words(cells[2]), kinds: cells[3].to_owned() }
        })
        .collect()
    }

    /// Every field that there is: the compiler asks for new ones here.
    fn full() -> String {
        let address = Some("10.0.0.1".parse().unwrap());
        let (text, port) = ("x", Some(1));
        let detail = Fields {
            direction: Some(text),
            reason: Some(text),
            queue_length: Some(1),
            queue_limit: Some(1),
            syn_queue_length: Some(1),
            cause: Some(text),
            role: Some(text),
            segments: Some(1),
            result: Some(text),
            retries: Some(1),
            errno: Some(1),
            confirmed: Some(true),
            opened: Some(true),
            tgid: Some(1),
            old_state: Some(text),
        };
        let line = Line {
            time: text,
            kind: text,
            netns: text,
            netns_name: text,
            namespace: text,
            pod: text,
            container: text,
            unit: text,
            process: Some(text),
            cgroup: Some(1),
            state: Some(text),
            local_address: address,
            local_port: port,
            remote_address: address,
            remote_port: port,
            detail,
        };
        serde_json::to_string(&line).unwrap()
    }

    #[test]
    fn the_documented_fields_are_those_that_are_written() {
        let written = full();
        let mut fields: Vec<(String, Value)> =
            serde_json::from_str::<serde_json::Map<_, _>>(&written).unwrap().into_iter().collect();
        fields.sort_by_key(|(name, _)| written.find(&format!("\"{name}\":")));
        let written: Vec<(String, &str)> = fields
            .into_iter()
            .map(|(name, value)| {
                let of = if value.is_string() {
                    "string"
                } else if value.is_number() {
                    "number"
                } else {
                    "boolean"
                };
                (name, of)
            })
            .collect();
        let rows = documented();
        let documented: Vec<(String, &str)> = rows
            .iter()
            .flat_map(|row| row.names.iter().cloned().zip(row.types.iter().map(String::as_str).cycle()))
            .collect();
        assert_eq!(documented, written, "docs/events.md has other fields than this file, or in another order");
    }

    #[test]
    fn the_documented_kinds_of_a_field_are_those_that_have_it() {
        let details = [
            Detail::ListenDrop { reason: "x", queue_length: 1, queue_limit: 1, syn_queue_length: 1 },
            Detail::Retransmit { cause: "x", role: "x", segments: 1, error: 1 },
            Detail::SynackRetransmit,
            Detail::Connect { result: "x", retries: 1, error: 1 },
            Detail::TimeWaitOverflow { confirmed: true },
            Detail::Listen { opened: true, tgid: 1, process: String::new() },
            Detail::Reset { direction: "x", reason: "x" },
            Detail::State { old: "x", new: "x" },
        ];
        let kinds: Vec<&str> = details.iter().map(|detail| EventKind::of(detail.kind()).name()).collect();
        let every: Vec<&str> = EventKind::value_variants().iter().map(|kind| kind.name()).collect();
        assert_eq!(kinds, every);
        for (detail, kind) in details.iter().zip(kinds) {
            let fields = serde_json::to_value(Fields::of(detail)).unwrap();
            for row in documented().iter().filter(|row| !row.kinds.starts_with("all")) {
                let is_documented = row.kinds.split(", ").any(|named| named == format!("`{kind}`"));
                for name in &row.names {
                    assert_eq!(fields.get(name).is_some(), is_documented, "docs/events.md: {name} of {kind}");
                }
            }
        }
    }

    #[test]
    fn each_kind_has_its_own_fields() {
        for (detail, own) in [
            (
                Detail::Retransmit { cause: "rto", role: "client", segments: 2, error: 0 },
                json!({"cause": "rto", "role": "client", "segments": 2}),
            ),
            (
                Detail::Connect { result: "refused", retries: 3, error: 111 },
                json!({"result": "refused", "retries": 3, "errno": 111}),
            ),
            (Detail::TimeWaitOverflow { confirmed: false }, json!({"confirmed": false})),
            (Detail::Listen { opened: true, tgid: 12, process: String::new() }, json!({"opened": true, "tgid": 12})),
            (Detail::State { old: "SYN_SENT", new: "LISTEN" }, json!({"old_state": "SYN_SENT"})),
            (Detail::SynackRetransmit, json!({})),
        ] {
            let line: Value = serde_json::from_str(&written(&event(detail), &Origin::default())).unwrap();
            let common =
                ["time", "kind", "cgroup", "state", "local_address", "local_port", "remote_address", "remote_port"];
            let fields = line.as_object().unwrap().iter().filter(|(name, _)| !common.contains(&name.as_str()));
            let fields: serde_json::Map<_, _> = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
            assert_eq!(Value::from(fields), own);
        }
    }
}
