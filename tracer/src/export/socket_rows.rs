//! Rows of the socket pass: open sockets by owner and state, and the age of the oldest CLOSE_WAIT. All
//! are the last walk's; whose they are is asked for at the scrape.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tracer_ebpf::state;

use super::{
    collector::{Sources, number, owner_values},
    metrics::MetricId,
    rows::Rows,
};
use crate::{
    pipeline::{attribute::Owner, sockets::States},
    view::Namespace,
};

/// Adds the rows; none while no walk has ended, or where no hook counts sockets.
pub(super) fn add(rows: &mut Rows<'_>, sources: &mut Sources<'_>, namespaces: &HashMap<u64, &Namespace>) {
    let Some(sockets) = &sources.view.sockets else { return };
    let mut labelled: Vec<(&Namespace, Arc<Owner>, &States)> = Vec::with_capacity(sockets.owners.len());
    for found in &sockets.owners {
        let Some(&namespace) = namespaces.get(&found.netns) else { continue };
        let owner = sources.labels.workload_of_holder(found.cgroup, found.holder, namespace, sources.now);
        let Some(owner) = owner else { continue };
        labelled.push((namespace, owner, &found.states));
    }
    // Ages must not be summed.
    let mut by_labels: BTreeMap<[&str; 5], States> = BTreeMap::new();
    for (namespace, owner, states) in &labelled {
        by_labels.entry(owner_values(namespace, owner)).or_default().merge(states);
    }
    for (values, states) in &by_labels {
        of_owner(rows, values, states);
    }
    rows.add(MetricId::SocketsUncounted, &[], f64::from(sockets.uncounted));
}

fn of_owner(rows: &mut Rows<'_>, values: &[&str; 5], states: &States) {
    let [netns, namespace, pod, container, unit] = values;
    for (state, count) in states.shown() {
        rows.add(MetricId::TcpSockets, &[netns, namespace, pod, container, unit, state::name(state)], number(count));
    }
    rows.add(MetricId::TcpCloseWaitOldest, values, states.oldest_close_wait.as_secs_f64());
}
