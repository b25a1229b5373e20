//! One text of `/metrics` as the rows of the tables.
//!
//! Takes from the text what the tables show and passes over the rest, line by line and without a copy of
//! what is known already: a node with ten thousand listeners writes tens of megabytes. Names of metrics come
//! from the table of metrics, so that none can be misspelt.

use std::{cell::Cell, collections::HashMap, time::Duration};

use thiserror::Error;

use super::rows::{Listener, Namespace, Node, Owner, Rows, Workload, add};
use crate::{
    advise::exposition::{BEYOND_DEFAULTS, Line, Lines, ParseError, read_line},
    export::metrics::{LISTENER, Label, MetricId, OWNER},
    legible::legible,
};

/// What the tables are made from.
const WANTED: &[MetricId] = &[
    MetricId::TcpListenDrops,
    MetricId::TcpAcceptQueueLength,
    MetricId::TcpAcceptQueueLimit,
    MetricId::TcpAcceptQueuePeak,
    MetricId::TcpSynQueueLength,
    MetricId::TcpSynQueueLimit,
    MetricId::TcpAcceptedConnections,
    MetricId::TcpRetransmittedSegments,
    MetricId::TcpSegmentsSent,
    MetricId::TcpSegmentsReceived,
    MetricId::TcpTimeWaitOverflows,
    MetricId::TcpTimeWaitSockets,
    MetricId::TcpTimeWaitLimit,
    MetricId::TcpSockets,
    MetricId::TcpEphemeralPortsUsed,
    MetricId::TcpEphemeralPortsAvailable,
    MetricId::TcpOrphanSockets,
    MetricId::TcpOrphanLimit,
    MetricId::TcpMemory,
    MetricId::TcpMemoryLimit,
    MetricId::TcpConnectFailures,
    MetricId::TcpConnectionTimeouts,
    MetricId::NetnsInfo,
    MetricId::CountDifference,
    MetricId::Retired,
    MetricId::EventsLost,
    MetricId::CountsLost,
    MetricId::SeriesSuppressed,
    MetricId::PassAge,
    MetricId::BuildInfo,
    MetricId::ProcessStartTime,
];

/// Rows of all tables together: twice those of an agent with full tables at its default limits. Some 700 bytes each, of
/// this reading and of the one before.
const ROWS_MAX: usize = 32_768;

/// Between the parts of a key: a character that no label of an agent has.
const BETWEEN: char = '\0';

/// Why a text is no reading.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReadingError {
    /// Not in the format, or too much.
    #[error("no exposition that can be read: {0}")]
    Format(#[from] ParseError),
    /// Somebody else's metrics.
    #[error("no exposition of an agent: it has no {name}", name = MetricId::BuildInfo.metric().name)]
    NoAgent,
}

/// What one text says.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// When it was read, on a clock of the reader's.
    pub at: Duration,
    /// The node and the agent.
    pub node: Node,
    /// Listeners.
    pub listeners: Rows<Listener>,
    /// Workloads.
    pub workloads: Rows<Workload>,
    /// Network namespaces.
    pub namespaces: Rows<Namespace>,
}

impl Reading {
    /// Reads a text that was written at `at`.
    pub fn parse(text: &str, at: Duration) -> Result<Self, ReadingError> {
        let mut building = Building::default();
        building.feed(text.as_bytes())?;
        building.end(at)
    }

    /// How long ago the pass over the namespaces ended, on the clock of `at`.
    #[must_use]
    pub fn pass_at(&self) -> Option<f64> {
        let age = self.node.passes.iter().find(|(name, _)| name == "namespaces").map(|(_, age)| *age);
        age.map(|age| self.at.as_secs_f64() - age)
    }

    /// Gives every row the name of its namespace, which one metric alone carries.
    fn name_namespaces(&mut self) {
        let names = &self.namespaces;
        let name = |owner: &mut Owner| {
            let named = names.get(&owner.netns).map(|row| row.owner.netns_name.as_str());
            owner.netns_name = named.filter(|name| !name.is_empty()).unwrap_or(&owner.netns).to_owned();
        };
        self.listeners.all_mut().iter_mut().for_each(|row| name(&mut row.owner));
        self.workloads.all_mut().iter_mut().for_each(|row| name(&mut row.owner));
        for row in self.namespaces.all_mut().iter_mut().filter(|row| row.owner.netns_name.is_empty()) {
            row.owner.netns_name.clone_from(&row.owner.netns);
        }
    }
}

/// A reading as its text comes in.
#[derive(Debug)]
pub struct Building {
    lines: Lines,
    ids: HashMap<&'static str, MetricId>,
    reader: Reader,
}

impl Default for Building {
    fn default() -> Self {
        let ids = WANTED.iter().map(|id| (id.metric().name, *id)).collect();
        Self { lines: Lines::default(), ids, reader: Reader::default() }
    }
}

impl Building {
    /// Takes the next bytes of the text.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), ReadingError> {
        let Self { lines, ids, reader } = self;
        Ok(lines.feed(chunk, |_, line| reader.line(ids, line))?)
    }

    /// The reading, once the text is at its end; it was written at `at`.
    pub fn end(mut self, at: Duration) -> Result<Reading, ReadingError> {
        let Self { lines, ids, reader } = &mut self;
        lines.end(|_, line| reader.line(ids, line))?;
        let mut reading = Reading { at, ..self.reader.reading };
        if reading.node.version.is_empty() {
            return Err(ReadingError::NoAgent);
        }
        reading.name_namespaces();
        Ok(reading)
    }
}

#[derive(Debug, Default)]
struct Reader {
    reading: Reading,
    /// Room for the key of a line.
    key: String,
}

impl Reader {
    fn line(&mut self, ids: &HashMap<&str, MetricId>, line: &str) -> Result<(), &'static str> {
        let id = Cell::new(None);
        let wants = |name: &str| {
            id.set(ids.get(name).copied());
            id.get().is_some()
        };
        read_line(line, wants, |line| {
            // What is no number is no fact.
            if let Some(id) = id.get().filter(|_| line.value.is_finite()) {
                self.take(id, line);
            }
            let Reading { listeners, workloads, namespaces, node, .. } = &self.reading;
            let rows = listeners.all().len() + workloads.all().len() + namespaces.all().len() + node.passes.len();
            if rows > ROWS_MAX { Err(BEYOND_DEFAULTS) } else { Ok(()) }
        })
    }

    fn take(&mut self, id: MetricId, line: &Line<'_>) {
        use MetricId as M;
        match id {
            M::TcpListenDrops | M::TcpAcceptedConnections => self.listener_count(id, line),
            M::TcpAcceptQueueLength => self.listener(line).queue = Some(line.value),
            M::TcpAcceptQueueLimit => self.listener(line).queue_limit = Some(line.value),
            M::TcpAcceptQueuePeak => self.listener(line).peak = Some(line.value),
            M::TcpSynQueueLength => self.listener(line).syn_queue = Some(line.value),
            M::TcpSynQueueLimit => self.listener(line).syn_queue_limit = Some(line.value),
            M::TcpRetransmittedSegments
            | M::TcpTimeWaitOverflows
            | M::TcpSockets
            | M::TcpConnectFailures
            | M::TcpConnectionTimeouts => self.workload_count(id, line),
            M::TcpSegmentsSent => self.namespace(line).sent.add(line.value),
            M::TcpSegmentsReceived => self.namespace(line).received.add(line.value),
            M::TcpTimeWaitSockets => {
                self.namespace(line).time_wait = Some(line.value);
                add(&mut self.reading.node.time_wait, line.value);
            }
            M::TcpTimeWaitLimit => self.namespace(line).time_wait_limit = Some(line.value),
            M::TcpEphemeralPortsUsed => self.namespace(line).ports = Some(line.value),
            M::TcpEphemeralPortsAvailable => self.namespace(line).ports_limit = Some(line.value),
            M::NetnsInfo => {
                let name = legible(line.label("name")).into_owned();
                self.namespace(line).owner.netns_name = name;
            }
            M::CountDifference => self.difference(line),
            _ => self.node(id, line),
        }
    }

    /// The listener of a line.
    fn listener(&mut self, line: &Line<'_>) -> &mut Listener {
        key(&mut self.key, line, LISTENER);
        self.reading.listeners.entry(&self.key, || Listener {
            owner: owner(line),
            process: legible(line.label("process")).into_owned(),
            address: socket_address(line.label("address"), line.label("port")),
            ..Listener::default()
        })
    }

    fn workload(&mut self, line: &Line<'_>) -> &mut Workload {
        key(&mut self.key, line, OWNER);
        self.reading.workloads.entry(&self.key, || Workload { owner: owner(line), ..Workload::default() })
    }

    /// The namespace of a line about it, which says whose it is.
    fn namespace(&mut self, line: &Line<'_>) -> &mut Namespace {
        let row = self.namespace_of(line);
        if row.owner.name.is_empty() {
            row.owner.name = owner(line).name;
        }
        row
    }

    fn listener_count(&mut self, id: MetricId, line: &Line<'_>) {
        let value = line.value;
        let row = self.listener(line);
        if id == MetricId::TcpAcceptedConnections {
            row.accepted.add(value);
            self.reading.node.accepted.add(value);
            return;
        }
        row.drops.add(value);
        most(&mut row.reason, &mut row.reason_count, line.label("reason"), value);
        self.reading.node.drops.add(value);
        self.namespace_of(line).drops.add(value);
    }

    fn workload_count(&mut self, id: MetricId, line: &Line<'_>) {
        let value = line.value;
        let row = self.workload(line);
        match id {
            MetricId::TcpSockets => match line.label("state") {
                "ESTABLISHED" => add(&mut row.established, value),
                "CLOSE_WAIT" => add(&mut row.close_wait, value),
                _ => {}
            },
            MetricId::TcpConnectFailures => row.connect_failures.add(value),
            MetricId::TcpConnectionTimeouts => row.timeouts.add(value),
            MetricId::TcpTimeWaitOverflows => {
                row.overflows.add(value);
                self.reading.node.overflows.add(value);
                self.namespace_of(line).overflows.add(value);
            }
            _ => {
                row.retransmits.add(value);
                most(&mut row.cause, &mut row.cause_count, line.label("cause"), value);
                self.reading.node.retransmits.add(value);
                self.namespace_of(line).retransmits.add(value);
            }
        }
    }

    /// The namespace of a line about somebody in it.
    fn namespace_of(&mut self, line: &Line<'_>) -> &mut Namespace {
        let netns = line.label("netns");
        self.reading.namespaces.entry(netns, || Namespace {
            owner: Owner { netns: legible(netns).into_owned(), ..Owner::default() },
            ..Namespace::default()
        })
    }

    fn difference(&mut self, line: &Line<'_>) {
        let value = line.value;
        let row = self.namespace(line);
        if row.difference.is_none_or(|largest| value.abs() > largest.abs()) {
            row.difference = Some(value);
        }
        let node = &mut self.reading.node;
        if node.difference.as_ref().is_none_or(|(largest, ..)| value.abs() > largest.abs()) {
            let [signal, netns] = ["signal", "netns"].map(|label| legible(line.label(label)).into_owned());
            node.difference = Some((value, signal, netns));
        }
    }

    fn node(&mut self, id: MetricId, line: &Line<'_>) {
        let node = &mut self.reading.node;
        let value = line.value;
        match id {
            MetricId::TcpOrphanSockets => node.orphans = Some(value),
            MetricId::TcpOrphanLimit => node.orphans_limit = Some(value),
            MetricId::TcpMemory => node.memory_bytes = Some(value),
            MetricId::TcpMemoryLimit if line.label("level") == "max" => node.memory_limit_bytes = Some(value),
            MetricId::Retired => match line.label("signal") {
                "listen_drops" => node.drops.add(value),
                "retransmitted_segments" => node.retransmits.add(value),
                "time_wait_overflows" => node.overflows.add(value),
                _ => {}
            },
            MetricId::EventsLost => add(&mut node.events_lost, value),
            MetricId::CountsLost => add(&mut node.counts_lost, value),
            MetricId::SeriesSuppressed => add(&mut node.series_suppressed, value),
            MetricId::PassAge => node.passes.push((legible(line.label("pass")).into_owned(), value)),
            MetricId::BuildInfo => node.version = legible(line.label("version")).into_owned(),
            MetricId::ProcessStartTime => node.started = Some(value),
            _ => {}
        }
    }
}

/// The values of the labels of a group, as one text.
fn key(key: &mut String, line: &Line<'_>, group: &[Label]) {
    key.clear();
    for label in group {
        key.push_str(line.label(label.name));
        key.push(BETWEEN);
    }
}

/// Keeps the name of what counts most. What never happened is no reason.
fn most(name: &mut String, largest: &mut f64, candidate: &str, value: f64) {
    if value > *largest {
        *largest = value;
        *name = legible(candidate).into_owned();
    }
}

fn owner(line: &Line<'_>) -> Owner {
    let [namespace, pod, container, unit] = ["namespace", "pod", "container", "unit"].map(|label| line.label(label));
    let pod: Vec<&str> = [namespace, pod, container].into_iter().filter(|part| !part.is_empty()).collect();
    let name = if pod.is_empty() { unit.to_owned() } else { pod.join("/") };
    Owner {
        netns: legible(line.label("netns")).into_owned(),
        netns_name: String::new(),
        name: legible(&name).into_owned(),
    }
}

/// Address and port as `ss` writes them.
fn socket_address(address: &str, port: &str) -> String {
    let text = match (address, port) {
        ("", "") => String::new(),
        (address, port) if address.contains(':') => format!("[{address}]:{port}"),
        (address, port) => format!("{address}:{port}"),
    };
    legible(&text).into_owned()
}

#[cfg(test)]
mod tests;
