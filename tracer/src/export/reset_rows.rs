//! Rows about resets, from counts of the maps and from the books of a namespace. Reads nothing itself:
//! the collector hands over what it has read.

use tracer_ebpf::{
    counter::CounterKey,
    reset::{Direction, Reason},
};

use super::{
    collector::{nobody_values, number, with},
    metrics::MetricId,
    rows::Rows,
};
use crate::{pipeline::counters::Closing, view::Namespace};

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
