//! Rows of listeners: what was counted for each, and the queues and open files of all that share labels.

use std::collections::HashMap;

use tracer_ebpf::counter::{
    DropReason, ListenerKey, ListenerStats, PEAK_SLOT_SHIFT, PEAK_SLOTS_RECENT, PendingHandshake, RetransmitCause, Role,
};

use super::{
    collector::{
        ListenerValues, Sources, is_told, listener_values, namespace_values, number, owner_values, reasons, with,
    },
    metrics::{HOLDERS, MetricId},
    open_file_rows::Nearest,
    other_rows,
    rows::Rows,
    value,
};
use crate::{
    kernel::{
        hooks::{Report, Signal},
        viewpoint::monotonic_ns,
    },
    labels::ListenerLabels,
    pipeline::{
        counters::Counts,
        snapshot::{Listener, Queue},
    },
    view::{Namespace, View},
};

/// Adds the rows of all listeners.
pub(super) fn add(
    rows: &mut Rows<'_>,
    sources: &mut Sources<'_>,
    counts: &Counts,
    namespaces: &HashMap<u64, &Namespace>,
) {
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

/// How many sockets listen, by namespace.
pub(super) fn add_listening(rows: &mut Rows<'_>, view: &View) {
    let mut sockets: HashMap<u64, [u32; HOLDERS.len()]> = HashMap::new();
    for (key, listener) in &view.listeners {
        let [known, unknown] = sockets.entry(key.netns).or_default();
        *known += listener.sockets - listener.without_holder;
        *unknown += listener.without_holder;
    }
    for namespace in &view.namespaces {
        let counts = sockets.get(&namespace.id).into_iter().flatten();
        for (holder, count) in HOLDERS.into_iter().zip(counts) {
            rows.add(MetricId::TcpListeningSockets, &with(&namespace_values(namespace), &[holder]), f64::from(*count));
        }
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
    /// Length and limit of the fullest accept queue of two minutes.
    peak: Option<Queue>,
    open: Option<Listener>,
    files: Nearest,
}

impl Queues {
    fn add(&mut self, namespace: &Namespace, stats: &ListenerStats, seen: Option<&Listener>) {
        recent_peaks(stats).for_each(|peak| self.add_peak(peak));
        let Some(seen) = seen else { return };
        self.add_peak(seen.accept_queue);
        let mut listener = seen.clone();
        listener.syn_queue =
            seen.syn_queue.map(|queue| Queue { limit: syn_queue_limit(namespace, queue.limit), ..queue });
        match &mut self.open {
            Some(open) => open.merge_queues(&listener),
            None => self.open = Some(listener),
        }
    }

    fn add_peak(&mut self, peak: Queue) {
        self.peak = Some(self.peak.map_or(peak, |other| other.or_fuller(peak)));
    }

    fn show(&self, rows: &mut Rows<'_>, values: &ListenerValues<'_>) {
        let peak = self.peak.unwrap_or_default();
        rows.add(MetricId::TcpAcceptQueuePeak, &with(values, &[]), f64::from(peak.length));
        // Where it is the limit that is shown below, that one says as much, and a scrape has a row less for each listener.
        if peak.length > 0 && self.open.as_ref().is_none_or(|open| open.accept_queue.limit != peak.limit) {
            rows.add(MetricId::TcpAcceptQueuePeakLimit, &with(values, &[]), f64::from(peak.limit));
        }
        let Some(listener) = &self.open else { return };
        let gauges = [
            (MetricId::TcpAcceptQueueLength, Some(listener.accept_queue.length)),
            (MetricId::TcpAcceptQueueLimit, Some(listener.accept_queue.limit)),
            (MetricId::TcpSynQueueLength, listener.syn_queue.map(|queue| queue.length)),
            (MetricId::TcpSynQueueLimit, listener.syn_queue.map(|queue| queue.limit)),
            (MetricId::TcpListenerSockets, Some(listener.sockets)),
        ];
        for (metric, value) in gauges {
            if let Some(value) = value {
                rows.add(metric, &with(values, &[]), f64::from(value));
            }
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

/// The fullest accept queues of the last two minutes.
fn recent_peaks(stats: &ListenerStats) -> impl Iterator<Item = Queue> {
    let slot = u32::try_from((monotonic_ns() >> PEAK_SLOT_SHIFT) & u64::from(u32::MAX)).unwrap_or(0);
    let recent =
        stats.peaks.iter().filter(move |peak| peak.length > 0 && slot.wrapping_sub(peak.slot) < PEAK_SLOTS_RECENT);
    recent.map(|peak| Queue { length: peak.length, limit: peak.limit })
}
