//! Rows that come from a network namespace's own files in `/proc`, and what the books say of them.
//!
//! Reads the last pass's view alone; what the kernel does not tell has no row.

use super::{collector::number, metrics::MetricId, rows::Rows};
use crate::{pipeline::counters::Closing, view::Namespace};

/// Rows that come from the namespace's own files.
pub fn add(rows: &mut Rows<'_>, namespace: &Namespace) {
    let label = namespace.label.as_str();
    let group = [label, "", ""];
    for signal in Closing::ALL {
        if let Some(kernel) = namespace.books.kernel(signal) {
            rows.add(MetricId::KernelCount, &[label, "", "", signal.name()], number(kernel));
        }
        if let Some(difference) = namespace.books.difference(signal) {
            #[expect(clippy::cast_precision_loss, reason = "a difference beyond 2^53 has other worries")]
            let difference = difference as f64;
            rows.add(MetricId::CountDifference, &[label, "", "", signal.name()], difference);
        }
    }
    if !namespace.alive {
        return;
    }
    rows.add(MetricId::NetnsInfo, &[label, &namespace.name, "", ""], 1.0);
    let counters = [
        (MetricId::TcpSegmentsSent, namespace.counters.out_segs),
        (MetricId::TcpSegmentsReceived, namespace.counters.in_segs),
        (MetricId::TcpTimeWaitSockets, namespace.sockstat.tcp_tw),
    ];
    for (metric, value) in counters {
        if let Some(value) = value {
            rows.add(metric, &group, number(value));
        }
    }
    if let Some(limit) = namespace.sysctls.tcp_max_tw_buckets {
        rows.add(MetricId::TcpTimeWaitLimit, &group, f64::from(limit));
    }
}
