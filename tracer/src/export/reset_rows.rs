//! Rows about resets, from counts of the maps and from the books of a namespace. Reads nothing itself:
//! the collector hands over what it has read.

use tracer_ebpf::{
    counter::CounterKey,
    reset::{Direction, Reason},
};

use super::{
    collector::{is_told, nobody_values, number, with},
    metrics::MetricId,
    rows::Rows,
};
use crate::{
    kernel::hooks::{Report, Signal},
    pipeline::counters::Closing,
    view::Namespace,
};

/// What the rung in force can tell of resets. Those that came are told on each; why one is sent, the best one alone
/// knows, and it knows of all.
pub(super) fn told(report: &Report) -> impl Iterator<Item = (Direction, Reason)> {
    let has_reasons = report.stands_on(Signal::Resets, "reasons");
    let is_told = is_told(report, Signal::Resets);
    Reason::ALL.iter().copied().filter(move |_| is_told).filter_map(move |reason| match reason {
        reason if reason >= Reason::Refused => Some((Direction::Received, reason)),
        reason => (has_reasons == (reason != Reason::Unknown)).then_some((Direction::Sent, reason)),
    })
}

/// Adds a count under its owner's label values.
pub(super) fn add(rows: &mut Rows<'_>, owner: &[&str], key: &CounterKey, n: u64) {
    let Some(direction) = Direction::from_u8(key.a) else { return };
    let reason = Reason::from_u8(key.b).unwrap_or(Reason::Other);
    rows.add(MetricId::TcpResets, &with(owner, &[direction.name(), reason.name()]), number(n));
}

/// Adds the resets that the kernel sent and no hook saw. Always there where the kernel counts, so that
/// a rate works from the first one on.
pub(super) fn add_unknown(rows: &mut Rows<'_>, namespace: &Namespace) {
    if namespace.books.kernel(Closing::ResetsSent).is_some() {
        let unseen = number(namespace.books.unknown(Closing::ResetsSent));
        let own = [Direction::Sent.name(), Reason::Unknown.name()];
        rows.add(MetricId::TcpResets, &with(&nobody_values(namespace), &own), unseen);
    }
}
