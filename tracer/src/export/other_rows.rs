//! The `_other` rows: under which labels what found no room is shown, and that these rows are there before
//! anything counts in them. A series that begins with a value has no increase, so at zero they come first: once half
//! of the room is used, since most nodes never need them. Only what the hooks in force can tell has one.
//!
//! Reads no map: how full those are, the collector or the last pass says.

use tracer_ebpf::counter::{CONNECT_RETRY_BUCKETS, ConnectResult, RetransmitCause, Role, TimeoutCause};

use super::{
    collector::{is_told, namespace_values, nobody_values, reasons, with},
    metrics::MetricId,
    reset_rows,
    rows::Rows,
};
use crate::{
    kernel::{
        hooks::{Report, Signal},
        maps::Fill,
    },
    labels::OTHER,
    view::{Namespace, View},
};

/// The maps that send a workload's counts to `_other` when they are full.
const ROOMS_OF_WORKLOADS: [&str; 2] = ["workloads", "counters"];

/// Labels of the row of listeners that found no room.
pub(super) fn listener<'a>(namespace: &'a Namespace, own: &[&'a str]) -> Vec<&'a str> {
    [nobody_values(namespace).as_slice(), &[OTHER, "", ""], own].concat()
}

/// Label values of workloads that found no room.
fn workload(namespace: &Namespace) -> [&str; 5] {
    let [netns, pod_namespace, pod] = namespace_values(namespace);
    [netns, pod_namespace, pod, "", OTHER]
}

/// The rows of listeners at zero.
pub(super) fn add_listeners(rows: &mut Rows<'_>, report: &Report, view: &View) {
    for namespace in living(view) {
        for reason in reasons(report) {
            rows.add(MetricId::TcpListenDrops, &listener(namespace, &[reason.name()]), 0.0);
        }
        rows.add(MetricId::TcpAcceptedConnections, &listener(namespace, &[]), 0.0);
        if is_told(report, Signal::SynackRetransmits) {
            rows.add(MetricId::TcpSynackRetransmits, &listener(namespace, &[]), 0.0);
            let own = [Role::Server.name(), OTHER, RetransmitCause::Syn.name()];
            rows.add(MetricId::TcpRetransmittedSegments, &with(&workload(namespace), &own), 0.0);
        }
    }
}

/// The rows of workloads at zero, if the last pass found half of their room used.
pub(super) fn add_workloads(rows: &mut Rows<'_>, report: &Report, view: &View) {
    let is_half_used = |fill: &Fill| fill.entries >= fill.capacity as usize / 2;
    if !view.fills.iter().any(|fill| ROOMS_OF_WORKLOADS.contains(&fill.map) && is_half_used(fill)) {
        return;
    }
    for namespace in living(view) {
        let values = workload(namespace);
        if is_told(report, Signal::Retransmits) {
            add_retransmits(rows, &values, report.stands_on(Signal::Retransmits, "attempts"));
        }
        if is_told(report, Signal::Connections) {
            add_connections(rows, &values);
        }
        if is_told(report, Signal::BindFailures) {
            rows.add(MetricId::TcpBindFailures, &values, 0.0);
        }
        if is_told(report, Signal::TimeWaitOverflows) {
            rows.add(MetricId::TcpTimeWaitOverflows, &values, 0.0);
        }
        for (direction, reason) in reset_rows::told(report) {
            rows.add(MetricId::TcpResets, &with(&values, &[direction.name(), reason.name()]), 0.0);
        }
    }
}

fn living(view: &View) -> impl Iterator<Item = &Namespace> {
    view.namespaces.iter().filter(|namespace| namespace.alive)
}

fn add_retransmits(rows: &mut Rows<'_>, values: &[&str; 5], sees_refused: bool) {
    for cause in RetransmitCause::ALL.iter().filter(|cause| **cause != RetransmitCause::Unknown) {
        let own = [Role::Unknown.name(), "", cause.name()];
        rows.add(MetricId::TcpRetransmittedSegments, &with(values, &own), 0.0);
        if sees_refused {
            rows.add(MetricId::TcpRetransmitsFailed, &with(values, &[cause.name()]), 0.0);
        }
    }
}

fn add_connections(rows: &mut Rows<'_>, values: &[&str; 5]) {
    for result in ConnectResult::ALL {
        if *result != ConnectResult::Established {
            rows.add(MetricId::TcpConnectFailures, &with(values, &["", result.name()]), 0.0);
        }
        let buckets = CONNECT_RETRY_BUCKETS.map(|bound| (f64::from(bound), 0));
        rows.add_histogram(MetricId::TcpConnectSynRetries, &with(values, &[result.name()]), &buckets, 0.0, 0);
    }
    for cause in TimeoutCause::ALL.iter().filter(|cause| **cause != TimeoutCause::Unknown) {
        let own = [Role::Unknown.name(), "", cause.name()];
        rows.add(MetricId::TcpConnectionTimeouts, &with(values, &own), 0.0);
    }
}

#[cfg(test)]
mod tests;
