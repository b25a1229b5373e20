//! Rows about connections that timed out, from counts of the maps and from the books of a namespace. Reads
//! nothing itself: the collector hands over what it has read.

use tracer_ebpf::counter::{CounterKey, ROLE_PORT_OTHER, Role, TimeoutCause};

use super::{
    collector::{nobody_values, number, with},
    metrics::MetricId,
    rows::Rows,
};
use crate::{pipeline::counters::Closing, view::Namespace};

/// Adds a count under its owner's label values.
pub(super) fn add(rows: &mut Rows<'_>, owner: &[&str], port: &str, key: &CounterKey, n: u64) {
    let role = Role::from_u8(key.role & !ROLE_PORT_OTHER).unwrap_or(Role::Unknown);
    let cause = TimeoutCause::from_u8(key.a).unwrap_or(TimeoutCause::Unknown);
    rows.add(MetricId::TcpConnectionTimeouts, &with(owner, &[role.name(), port, cause.name()]), number(n));
}

/// Adds those that the kernel counted and no hook saw. Always there where the kernel counts, so that a
/// rate works from the first one on.
pub(super) fn add_unknown(rows: &mut Rows<'_>, namespace: &Namespace) {
    if namespace.books.kernel(Closing::ConnectionTimeouts).is_some() {
        let unseen = number(namespace.books.unknown(Closing::ConnectionTimeouts));
        let own = [Role::Unknown.name(), "", TimeoutCause::Unknown.name()];
        rows.add(MetricId::TcpConnectionTimeouts, &with(&nobody_values(namespace), &own), unseen);
    }
}
