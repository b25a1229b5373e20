//! One scrape: reads the maps, joins them with the last pass's view, and makes rows of the METRICS
//! table. Counts are fresh; queue lengths, limits and the kernel's own counters are the last pass's.

use std::{collections::HashMap, ops::Deref, time::Instant};

use bytes::Bytes;
use tracer_ebpf::{
    counter::{
        CONNECT_RETRY_BUCKETS, ConnectResult, Counter, CounterKey, DropReason, ListenerKey, ListenerStats,
        PEAK_SLOT_SHIFT, PEAK_SLOTS_RECENT, PendingHandshake, ROLE_PORT_OTHER, RetransmitCause, Role,
    },
    state,
};

use super::{
    agent_rows,
    encode::encode,
    metrics::MetricId,
    namespace_rows, node_rows,
    open_file_rows::Nearest,
    other_rows,
    own::Own,
    port_rows, reset_rows,
    rows::{ROWS_MAX, Rows, Suppressed},
    socket_rows, timeout_rows, value,
};
use crate::{
    kernel::{
        hooks::{Report, Signal},
        maps::{Maps, monotonic_ns},
    },
    labels::{Labels, ListenerLabels, OTHER},
    pipeline::{
        attribute::Owner,
        counters::{Closing, Counts},
        journal::Losses,
        snapshot::Listener,
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
    /// Rows refused over all scrapes.
    pub suppressed: &'a Suppressed,
    /// The agent's own instruments.
    pub own: &'a Own,
    /// The time.
    pub now: Instant,
}

/// Makes the exposition. A map that cannot be read leaves its rows out and is logged.
#[must_use]
pub fn collect(sources: &mut Sources<'_>) -> Bytes {
    let mut rows = Rows::new(ROWS_MAX, sources.suppressed);
    match sources.maps.read() {
        Ok(mut counts) => {
            sources.view.legacy.add_to(&mut counts);
            counted(&mut rows, sources, &counts);
            agent_rows::add(&mut rows, sources, Some(&counts));
        }
        Err(error) => {
            tracing::error!(%error, "cannot read the maps");
            agent_rows::add(&mut rows, sources, None);
        }
    }
    sources.own.add(&mut rows);
    rows.add_suppressed();
    let text = encode(&rows);
    sources.own.observe_scrape(sources.now.elapsed());
    text
}

fn counted(rows: &mut Rows<'_>, sources: &mut Sources<'_>, counts: &Counts) {
    let namespaces: HashMap<u64, &Namespace> =
        sources.view.namespaces.iter().map(|namespace| (namespace.id, namespace)).collect();
    listeners(rows, sources, counts, &namespaces);
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

fn listeners(rows: &mut Rows<'_>, sources: &mut Sources<'_>, counts: &Counts, namespaces: &HashMap<u64, &Namespace>) {
    let mut pending = pending_by_listener(&counts.pending);
    let view = sources.view;
    let mut labelled = Vec::with_capacity(counts.listeners.len());
    // A listener without a row found no room: it counts in the `_other` row, and has no queues.
    for (key, stats) in &counts.listeners {
        let drops = pending.remove(key).unwrap_or_default();
        let Some(&namespace) = namespaces.get(&key.netns) else { continue };
        let Some(labels) = sources.labels.listener(key, Some(stats), view, namespace, sources.now) else { continue };
        let process = value::label(&labels.process);
        labelled.push((key, stats, drops, namespace, labels, process));
    }
    let mut queues = QueuesByLabels::default();
    for (key, stats, drops, namespace, labels, process) in &labelled {
        let values = listener_values(namespace, labels, process);
        listener_counts(rows, sources.report, &values, stats, drops);
        synack_retransmits(rows, namespace, labels, stats);
        let queues = queues.of(values);
        queues.add(namespace, stats, view.listeners.get(key));
        queues.files.add(&view.open_files, stats, view.listeners.get(key), &labels.process);
    }
    for (values, queues) in &queues.queues {
        queues.show(rows, values);
        queues.files.show(rows, sources.suppressed, values);
    }
    let room = sources.maps.listeners_max().map_or(usize::MAX, |max| max as usize);
    if counts.listeners.len() >= room {
        pending_without_room(rows, &pending, namespaces);
    }
    if counts.listeners.len() >= room / 2 {
        other_rows::add_listeners(rows, sources.report, sources.view);
    }
}

/// What the kernel side will count in the `_other` row, because it has no room for another listener.
fn pending_without_room(
    rows: &mut Rows<'_>,
    pending: &HashMap<ListenerKey, Drops>,
    namespaces: &HashMap<u64, &Namespace>,
) {
    for (key, drops) in pending {
        let Some(namespace) = namespaces.get(&key.netns) else { continue };
        for (reason, n) in DropReason::ALL.iter().zip(drops).filter(|(_, n)| **n > 0) {
            rows.add(MetricId::TcpListenDrops, &other_rows::listener(namespace, &[reason.name()]), number(*n));
        }
    }
}

/// Queues and open files of all listeners that get the same labels: gauges, which must not be summed.
#[derive(Default)]
struct Queues {
    peak: u32,
    open: Option<Listener>,
    files: Nearest,
}

impl Queues {
    fn add(&mut self, namespace: &Namespace, stats: &ListenerStats, seen: Option<&Listener>) {
        self.peak = self.peak.max(recent_peak(stats));
        let Some(seen) = seen else { return };
        self.peak = self.peak.max(seen.accept_queue_length);
        let mut listener = seen.clone();
        listener.syn_queue_limit = syn_queue_limit(namespace, seen.syn_queue_limit);
        match &mut self.open {
            Some(open) => open.merge_queues(&listener),
            None => self.open = Some(listener),
        }
    }

    fn show(&self, rows: &mut Rows<'_>, values: &ListenerValues<'_>) {
        rows.add(MetricId::TcpAcceptQueuePeak, &with(values, &[]), f64::from(self.peak));
        let Some(listener) = &self.open else { return };
        let gauges = [
            (MetricId::TcpAcceptQueueLength, listener.accept_queue_length),
            (MetricId::TcpAcceptQueueLimit, listener.accept_queue_limit),
            (MetricId::TcpSynQueueLength, listener.syn_queue_length),
            (MetricId::TcpSynQueueLimit, listener.syn_queue_limit),
            (MetricId::TcpListenerSockets, listener.sockets),
        ];
        for (metric, value) in gauges {
            rows.add(metric, &with(values, &[]), f64::from(value));
        }
    }
}

/// Queues by labels, in the order in which the labels came: so their rows are added in the order of
/// the listeners' other rows, which is fastest.
#[derive(Default)]
struct QueuesByLabels<'a> {
    queues: Vec<(ListenerValues<'a>, Queues)>,
    places: HashMap<ListenerValues<'a>, usize>,
}

impl<'a> QueuesByLabels<'a> {
    fn of(&mut self, values: ListenerValues<'a>) -> &mut Queues {
        let place = *self.places.entry(values).or_insert(self.queues.len());
        if place == self.queues.len() {
            self.queues.push((values, Queues::default()));
        }
        &mut self.queues[place].1
    }
}

type Drops = [u64; DropReason::COUNT];

/// Handshakes that were dropped, but which the kernel side counts only with its next packet.
fn pending_by_listener(pending: &[PendingHandshake]) -> HashMap<ListenerKey, Drops> {
    let mut drops: HashMap<ListenerKey, Drops> = HashMap::new();
    for handshake in pending {
        let reason = DropReason::from_u8(handshake.reason).unwrap_or(DropReason::Other);
        drops.entry(handshake.listener).or_default()[reason as usize] += 1;
    }
    drops
}

pub(super) type ListenerValues<'a> = [&'a str; 8];

fn listener_values<'a>(namespace: &'a Namespace, labels: &'a ListenerLabels, process: &'a str) -> ListenerValues<'a> {
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

fn listener_counts(
    rows: &mut Rows<'_>,
    report: &Report,
    values: &ListenerValues<'_>,
    stats: &ListenerStats,
    pending: &Drops,
) {
    for &reason in reasons(report) {
        let counted = stats.drops[reason as usize] + pending[reason as usize];
        rows.add(MetricId::TcpListenDrops, &with(values, &[reason.name()]), number(counted));
    }
    rows.add(MetricId::TcpAcceptedConnections, &with(values, &[]), number(stats.accepted));
    if is_told(report, Signal::SynackRetransmits) {
        rows.add(MetricId::TcpSynackRetransmits, &with(values, &[]), number(stats.synack_retransmits));
    }
}

/// A listener's SYN-ACKs are retransmitted segments of its workload as well.
fn synack_retransmits(rows: &mut Rows<'_>, namespace: &Namespace, labels: &ListenerLabels, stats: &ListenerStats) {
    if stats.synack_retransmits > 0 {
        let owner = owner_values(namespace, &labels.owner);
        let own = [Role::Server.name(), labels.port.as_str(), RetransmitCause::Syn.name()];
        rows.add(MetricId::TcpRetransmittedSegments, &with(&owner, &own), number(stats.synack_retransmits));
    }
}

/// With cookies off the kernel also refuses unproven clients beyond three quarters of
/// `tcp_max_syn_backlog`.
fn syn_queue_limit(namespace: &Namespace, backlog: u32) -> u32 {
    match (namespace.sysctls.tcp_syncookies, namespace.sysctls.tcp_max_syn_backlog) {
        (Some(0), Some(max)) => u32::try_from(max).map_or(backlog, |max| backlog.min(max - max / 4)),
        _ => backlog,
    }
}

/// The highest of the peaks of the last two minutes.
fn recent_peak(stats: &ListenerStats) -> u32 {
    let slot = u32::try_from((monotonic_ns() >> PEAK_SLOT_SHIFT) & u64::from(u32::MAX)).unwrap_or(0);
    let recent = stats.peaks.iter().filter(|peak| slot.wrapping_sub(peak.slot) < PEAK_SLOTS_RECENT);
    recent.map(|peak| peak.length).max().unwrap_or(0)
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
            let cause = RetransmitCause::from_u8(key.a).unwrap_or(RetransmitCause::Unknown).name();
            rows.add(MetricId::TcpRetransmittedSegments, &with(&values, &[role, &port, cause]), number(n));
        }
        Counter::RetransmitFailed => rows.add(MetricId::TcpRetransmitsFailed, &with(&values, &[]), number(n)),
        Counter::ConnectFailure => {
            let error = ConnectResult::from_u8(key.a).unwrap_or(ConnectResult::Other).name();
            rows.add(MetricId::TcpConnectFailures, &with(&values, &[&port, error]), number(n));
        }
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
    rows.add(MetricId::TcpRetransmitsFailed, &nobody, number(books.unknown(Closing::RetransmitsFailed)));
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
