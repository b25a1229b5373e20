//! Rows that come from a network namespace's own files in `/proc`, and what the books say of them.
//!
//! Reads the last pass's view alone; what the kernel does not tell has no row. The kernel's counters are shown as they
//! are: they count since the namespace was made. Segments alone count from the agent's baseline, for shares of
//! retransmits, which do so too.

use super::{
    collector::{namespace_values, number, with},
    metrics::{ABORT_REASONS, COOKIE_RESULTS, MetricId, ZERO_WINDOWS},
    rows::Rows,
};
use crate::{
    pipeline::{counters::Closing, kernel_counters::KernelCounters, sysctls::Value},
    view::{Namespace, View},
};

/// Rows of one namespace; of a dead one only what the books still hold.
pub fn add(rows: &mut Rows<'_>, namespace: &Namespace) {
    let group = namespace_values(namespace);
    for signal in Closing::ALL {
        if let Some(kernel) = namespace.books.kernel(signal) {
            rows.add(MetricId::KernelCount, &with(&group, &[signal.name()]), number(kernel));
        }
        // One of a while ago may have closed since, or not: nobody is to be alarmed by it.
        if let Some(difference) = namespace.books.difference(signal).filter(|_| !namespace.is_stale) {
            #[expect(clippy::cast_precision_loss, reason = "a difference beyond 2^53 has other worries")]
            let difference = difference as f64;
            rows.add(MetricId::CountDifference, &with(&group, &[signal.name()]), difference);
        }
    }
    if !namespace.alive {
        return;
    }
    let [netns, pod_namespace, pod] = group;
    rows.add(MetricId::NetnsInfo, &[netns, &namespace.name, pod_namespace, pod], 1.0);
    let (counters, sockstat) = (&namespace.counters, &namespace.sockstat);
    let settings = namespace.settings.as_ref().map(|reading| &reading.settings);
    let numbers = [
        (MetricId::TcpSegmentsSent, namespace.segments.sent.counted()),
        (MetricId::TcpSegmentsReceived, namespace.segments.received.counted()),
        (MetricId::TcpTimeWaitSockets, sockstat.tcp_tw),
        (MetricId::TcpMemoryPressure, counters.memory_pressures),
        (MetricId::TcpReceiveQueueDrops, counters.rcv_q_drop),
        (MetricId::TcpEphemeralPortsAvailable, settings.and_then(|settings| settings.ephemeral_ports).map(u64::from)),
    ];
    for (metric, value) in numbers {
        add_if_told(rows, metric, &group, &[], value);
    }
    add_by_kind(rows, &group, counters);
    if let Some(limit) = namespace.sysctls.tcp_max_tw_buckets {
        rows.add(MetricId::TcpTimeWaitLimit, &group, f64::from(limit));
    }
}

/// Counters that come in kinds: one metric each, with the kind as its label.
fn add_by_kind(rows: &mut Rows<'_>, group: &[&str; 3], counters: &KernelCounters) {
    let cookies = [counters.syncookies_sent, counters.syncookies_recv, counters.syncookies_failed];
    for (result, count) in COOKIE_RESULTS.into_iter().zip(cookies) {
        add_if_told(rows, MetricId::TcpSynCookies, group, &[result], count);
    }
    let aborts = [
        counters.abort_on_data,
        counters.abort_on_close,
        counters.abort_on_memory,
        counters.abort_on_timeout,
        counters.abort_on_linger,
        counters.abort_failed,
    ];
    for (reason, count) in ABORT_REASONS.into_iter().zip(aborts) {
        add_if_told(rows, MetricId::TcpAborts, group, &[reason], count);
    }
    let windows =
        [counters.to_zero_window_adv, counters.from_zero_window_adv, counters.want_zero_window_adv, counters.win_probe];
    for (direction, count) in ZERO_WINDOWS.into_iter().zip(windows) {
        add_if_told(rows, MetricId::TcpZeroWindow, group, &[direction], count);
    }
}

fn add_if_told(rows: &mut Rows<'_>, metric: MetricId, group: &[&str; 3], own: &[&str], value: Option<u64>) {
    if let Some(value) = value {
        rows.add(metric, &with(group, own), number(value));
    }
}

/// The settings of the host, and what other namespaces have otherwise. Without the host's, nothing tells which
/// of theirs are worth a row.
pub fn add_settings(rows: &mut Rows<'_>, view: &View) {
    let of = |namespace: &Namespace| namespace.settings.as_ref().map(|reading| reading.settings.clone());
    let Some(host) = view.host().and_then(of) else { return };
    for namespace in view.namespaces.iter().filter(|namespace| namespace.alive) {
        let Some(settings) = of(namespace) else { continue };
        if namespace.is_host {
            settings.iter().for_each(|(name, value)| add_setting(rows, namespace, name, value));
        } else {
            settings.differing(&host).for_each(|(name, value)| add_setting(rows, namespace, name, value));
        }
    }
}

fn add_setting(rows: &mut Rows<'_>, namespace: &Namespace, name: &str, value: Value) {
    #[expect(clippy::cast_precision_loss, reason = "settings beyond 2^53 mean no limit")]
    let mut add = |index: &str, number: i64| {
        rows.add(MetricId::SysctlValue, &[&namespace.label, name, index], number as f64);
    };
    match value.numbers() {
        [number] => add("", *number),
        numbers => {
            for (index, number) in ["0", "1", "2"].iter().zip(numbers) {
                add(index, *number);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
