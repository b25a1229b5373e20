//! One scrape: reads the maps, joins them with the last pass's view, and makes rows of the METRICS
//! table. Counts are fresh; queue lengths, limits and the kernel's own counters are the last pass's.

use std::{collections::HashMap, io, ops::Deref, time::Instant};

use bytes::Bytes;
use tracer_ebpf::{
    counter::{
        CONNECT_RETRY_BUCKETS, ConnectResult, Counter, CounterKey, DropReason, ROLE_PORT_OTHER, RetransmitCause, Role,
    },
    state,
};

use super::{
    agent_rows,
    encode::encode,
    listener_rows,
    metrics::MetricId,
    namespace_rows, node_rows, other_rows,
    own::Own,
    port_rows, reset_rows,
    rows::{ROWS_MAX, Rows, Suppressed},
    socket_rows, timeout_rows, value, zeros,
};
use crate::{
    kernel::{
        hooks::{Report, Signal},
        maps::Maps,
    },
    labels::{Labels, ListenerLabels, OTHER},
    obstacles::Obstacles,
    pipeline::{
        attribute::Owner,
        counters::{Closing, Counts},
        journal::Losses,
    },
    view::{Namespace, View},
};

/// Everything a scrape reads.
pub struct Sources<'a> {
    /// The last pass's result.
    pub view: &'a View,
    /// The maps.
    pub maps: &'a Maps,
    /// What became of the hooks.
    pub report: &'a Report,
    /// Labels of listeners and workloads.
    pub labels: &'a mut Labels,
    /// Records that could not be decoded.
    pub losses: &'a Losses,
    /// What the last pass could not do.
    pub obstacles: &'a Obstacles,
    /// Rows refused over all scrapes.
    pub suppressed: &'a Suppressed,
    /// The agent's own instruments.
    pub own: &'a Own,
    /// The time.
    pub now: Instant,
}

/// Makes the exposition, of all rows or none: a scrape that lacked some would look like counters that ended.
pub fn collect(sources: &mut Sources<'_>) -> io::Result<Bytes> {
    let mut rows = Rows::new(ROWS_MAX, sources.suppressed);
    let mut counts = sources.maps.read()?;
    sources.labels.show_at_once(&mut counts, sources.view, sources.now);
    sources.view.legacy.add_to(&mut counts);
    rows.leave_out_zeros_of(zeros::namespaces_without(sources.view));
    counted(&mut rows, sources, &counts);
    agent_rows::add(&mut rows, sources, &counts)?;
    sources.own.add(&mut rows);
    rows.add_suppressed();
    let text = encode(&rows);
    sources.own.observe_scrape(sources.now.elapsed());
    Ok(text)
}

fn counted(rows: &mut Rows<'_>, sources: &mut Sources<'_>, counts: &Counts) {
    let namespaces: HashMap<u64, &Namespace> =
        sources.view.namespaces.iter().map(|namespace| (namespace.id, namespace)).collect();
    listener_rows::add(rows, sources, counts, &namespaces);
    for (key, n) in counts.counters.iter().chain(&counts.other) {
        if let Some(namespace) = namespaces.get(&key.netns) {
            counter(rows, sources.labels, namespace, key, *n, sources.now);
        }
    }
    connect_retries(rows, sources.labels, counts, &namespaces, sources.now);
    socket_rows::add(rows, sources, &namespaces);
    for namespace in &sources.view.namespaces {
        namespace_rows::add(rows, namespace);
        unknown(rows, sources, namespace);
    }
    port_rows::add(rows, sources.view);
    namespace_rows::add_settings(rows, sources.view);
    listener_rows::add_listening(rows, sources.view);
    node_rows::add(rows, sources.view);
    for signal in Closing::ALL {
        rows.add(MetricId::Retired, &[signal.name()], number(sources.view.retired.get(signal)));
        rows.add(MetricId::Unverified, &["", "", "", signal.name()], number(sources.view.unverified.get(signal)));
    }
    // Last: where a metric has reached its limit, no count must give way to a zero.
    other_rows::add_workloads(rows, sources.report, sources.view);
}

/// Whether hooks tell the signal apart at all.
pub(super) fn is_told(report: &Report, signal: Signal) -> bool {
    report.of(signal).is_some_and(|ladder| ladder.rung.is_some())
}

/// Which drop reasons the rung in force can tell. A row that cannot be told is absent, never zero.
pub(super) fn reasons(report: &Report) -> &'static [DropReason] {
    if is_told(report, Signal::ListenDrops) {
        &[DropReason::AcceptQueueFullSyn, DropReason::AcceptQueueFullAck, DropReason::SynQueueFull, DropReason::Other]
    } else {
        &[]
    }
}

pub(super) type ListenerValues<'a> = [&'a str; 8];

pub(super) fn listener_values<'a>(
    namespace: &'a Namespace,
    labels: &'a ListenerLabels,
    process: &'a str,
) -> ListenerValues<'a> {
    let [netns, pod_namespace, pod, container, unit] = owner_values(namespace, &labels.owner);
    [netns, pod_namespace, pod, container, unit, process, &labels.address, &labels.port]
}

/// Label values of what is counted for a network namespace: the pod's whose it is.
pub(super) fn namespace_values(namespace: &Namespace) -> [&str; 3] {
    [&namespace.label, &namespace.owner.namespace, &namespace.owner.pod]
}

/// Label values of what is known to be of a namespace and of none of its workloads.
pub(super) fn nobody_values(namespace: &Namespace) -> [&str; 5] {
    let [netns, pod_namespace, pod] = namespace_values(namespace);
    [netns, pod_namespace, pod, "", ""]
}

pub(super) fn owner_values<'a>(namespace: &'a Namespace, owner: &'a Owner) -> [&'a str; 5] {
    [&namespace.label, &owner.namespace, &owner.pod, &owner.container, &owner.unit]
}

/// More labels than any metric has: the eight of a listener and one of its own.
const LABELS_MAX: usize = 12;

/// Label values of a row, in place: a scrape makes thousands of rows.
pub(super) struct LabelValues<'a> {
    values: [&'a str; LABELS_MAX],
    len: usize,
}

impl<'a> Deref for LabelValues<'a> {
    type Target = [&'a str];

    fn deref(&self) -> &[&'a str] {
        &self.values[..self.len]
    }
}

/// Label values of a row: those of a group, then the metric's own.
pub(super) fn with<'a>(group: &[&'a str], own: &[&'a str]) -> LabelValues<'a> {
    let mut row = LabelValues { values: [""; LABELS_MAX], len: 0 };
    for (slot, value) in row.values.iter_mut().zip(group.iter().chain(own)) {
        *slot = value;
        row.len += 1;
    }
    row
}

pub(super) fn counter(
    rows: &mut Rows<'_>,
    labels: &mut Labels,
    namespace: &Namespace,
    key: &CounterKey,
    n: u64,
    now: Instant,
) {
    let Some(kind) = Counter::from_u8(key.counter) else { return };
    if kind == Counter::Transition {
        let own = [state::name(key.a), state::name(key.b)];
        rows.add(MetricId::TcpStateTransitions, &with(&namespace_values(namespace), &own), number(n));
        return;
    }
    let Some(owner) = labels.workload(key.cgroup, namespace, now) else { return };
    let values = owner_values(namespace, &owner);
    let port = port_label(key);
    match kind {
        Counter::Retransmit => {
            let role = Role::from_u8(key.role & !ROLE_PORT_OTHER).unwrap_or(Role::Unknown).name();
            rows.add(MetricId::TcpRetransmittedSegments, &with(&values, &[role, &port, cause(key)]), number(n));
        }
        Counter::RetransmitFailed => {
            rows.add(MetricId::TcpRetransmitsFailed, &with(&values, &[cause(key)]), number(n));
        }
        Counter::ConnectFailure => {
            let error = ConnectResult::from_u8(key.a).unwrap_or(ConnectResult::Other).name();
            rows.add(MetricId::TcpConnectFailures, &with(&values, &[&port, error]), number(n));
        }
        Counter::BindFailure => rows.add(MetricId::TcpBindFailures, &with(&values, &[]), number(n)),
        Counter::TimeWaitOverflow => rows.add(MetricId::TcpTimeWaitOverflows, &with(&values, &[]), number(n)),
        Counter::ListenDrop => {
            let reason = DropReason::from_u8(key.a).unwrap_or(DropReason::Unknown).name();
            rows.add(MetricId::TcpListenDrops, &other_rows::listener(namespace, &[reason]), number(n));
        }
        Counter::Accepted => {
            rows.add(MetricId::TcpAcceptedConnections, &other_rows::listener(namespace, &[]), number(n));
        }
        Counter::SynackRetransmit => {
            rows.add(MetricId::TcpSynackRetransmits, &other_rows::listener(namespace, &[]), number(n));
            let own = [Role::Server.name(), OTHER, RetransmitCause::Syn.name()];
            rows.add(MetricId::TcpRetransmittedSegments, &with(&values, &own), number(n));
        }
        Counter::ConnectionTimeout => timeout_rows::add(rows, &values, &port, key, n),
        Counter::Reset => reset_rows::add(rows, &values, key, n),
        // Histograms are made from several rows; candidates count once they are confirmed.
        Counter::ConnectRetries | Counter::ConnectRetriesSum | Counter::TimeWaitCandidate | Counter::Transition => {}
    }
}

/// The cause of retransmits, sent or refused.
fn cause(key: &CounterKey) -> &'static str {
    RetransmitCause::from_u8(key.a).unwrap_or(RetransmitCause::Unknown).name()
}

fn port_label(key: &CounterKey) -> String {
    match key.port {
        _ if key.role & ROLE_PORT_OTHER != 0 => OTHER.to_owned(),
        0 => String::new(),
        port => port.to_string(),
    }
}

#[derive(Default)]
struct Retries {
    buckets: [u64; CONNECT_RETRY_BUCKETS.len() + 1],
    sum: u64,
}

pub(super) fn connect_retries(
    rows: &mut Rows<'_>,
    labels: &mut Labels,
    counts: &Counts,
    namespaces: &HashMap<u64, &Namespace>,
    now: Instant,
) {
    let mut retries: HashMap<(u64, u64, u8), Retries> = HashMap::new();
    for (key, n) in counts.counters.iter().chain(&counts.other) {
        let of = (key.netns, key.cgroup, key.a);
        if key.counter == Counter::ConnectRetriesSum as u8 {
            retries.entry(of).or_default().sum += n;
        } else if key.counter == Counter::ConnectRetries as u8
            && let Some(bucket) = retries.entry(of).or_default().buckets.get_mut(usize::from(key.b))
        {
            *bucket += n;
        }
    }
    for ((netns, cgroup, result), retries) in retries {
        let Some(namespace) = namespaces.get(&netns) else { continue };
        let Some(owner) = labels.workload(cgroup, namespace, now) else { continue };
        let result = ConnectResult::from_u8(result).unwrap_or(ConnectResult::Other).name();
        let values = owner_values(namespace, &owner);
        let mut count = 0;
        let cumulative: Vec<(f64, u64)> = CONNECT_RETRY_BUCKETS
            .iter()
            .zip(retries.buckets)
            .map(|(bound, n)| {
                count += n;
                (f64::from(*bound), count)
            })
            .collect();
        let count = retries.buckets.iter().sum();
        rows.add_histogram(
            MetricId::TcpConnectSynRetries,
            &with(&values, &[result]),
            &cumulative,
            number(retries.sum),
            count,
        );
    }
}

/// Where a transition came from that the kernel counted and no hook saw.
const UNKNOWN_STATE: &str = "unknown";

/// Rows of what no hook attributed, and of what evidence attributed instead.
fn unknown(rows: &mut Rows<'_>, sources: &mut Sources<'_>, namespace: &Namespace) {
    let nobody = nobody_values(namespace);
    let books = &namespace.books;
    // Always there where the kernel counts, so that a rate works from the first event on.
    if books.kernel(Closing::ListenDrops).is_some() {
        let drops = books.unknown(Closing::ListenDrops);
        let own = ["", "", "", DropReason::Unknown.name()];
        rows.add(MetricId::TcpListenDrops, &with(&nobody, &own), number(drops));
    }
    for (key, n) in books.suspected() {
        if let Some(labels) = sources.labels.listener(key, None, sources.view, namespace, sources.now) {
            let process = value::label(&labels.process);
            let values = listener_values(namespace, &labels, &process);
            rows.add(MetricId::TcpListenDrops, &with(&values, &[DropReason::Unknown.name()]), number(n));
        }
    }
    if books.kernel(Closing::RetransmittedSegments).is_some() {
        let segments = books.unknown(Closing::RetransmittedSegments);
        let own = [Role::Unknown.name(), "", RetransmitCause::Unknown.name()];
        rows.add(MetricId::TcpRetransmittedSegments, &with(&nobody, &own), number(segments));
    }
    for (signal, to) in [(Closing::PassiveOpens, state::SYN_RECV), (Closing::EstablishedResets, state::CLOSE)] {
        if books.kernel(signal).is_some() {
            let values = namespace_values(namespace);
            let own = [UNKNOWN_STATE, state::name(to)];
            rows.add(MetricId::TcpStateTransitions, &with(&values, &own), number(books.unknown(signal)));
        }
    }
    reset_rows::add_unknown(rows, namespace);
    timeout_rows::add_unknown(rows, namespace);
    let refused = with(&nobody, &[RetransmitCause::Unknown.name()]);
    rows.add(MetricId::TcpRetransmitsFailed, &refused, number(books.unknown(Closing::RetransmitsFailed)));
    rows.add(MetricId::TcpTimeWaitOverflows, &nobody, number(books.unknown(Closing::TimeWaitOverflows)));
    for (cgroup, n) in books.time_wait_confirmed() {
        if let Some(owner) = sources.labels.workload(cgroup, namespace, sources.now) {
            rows.add(MetricId::TcpTimeWaitOverflows, &with(&owner_values(namespace, &owner), &[]), number(n));
        }
    }
}

/// A count as a sample's value.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53, and Prometheus has nothing better")]
#[must_use]
pub fn number(n: u64) -> f64 {
    n as f64
}
