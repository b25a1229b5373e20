//! Counts of workloads that have no name yet: shown at once, for the namespace that they are in. What was shown so
//! stays there, so that no series falls, and what is counted once the name is known goes to the workload.
//!
//! Owns the memory of what was shown. Bounded by the rows of the counters map: an entry leaves with its row.

use std::collections::HashMap;

use tracer_ebpf::counter::{CGROUP_OTHER, CounterKey};

/// The cgroup in the key of what is counted for a namespace, and for none of its workloads.
pub const CGROUP_OF_NAMESPACE: u64 = 0;

/// How much of a row was shown for the namespace.
#[derive(Default)]
pub(super) struct Provisional(HashMap<CounterKey, u64>);

impl Provisional {
    /// Splits rows into what is shown for the namespace and what is shown for the workload. `is_known` says, of a
    /// namespace and a cgroup, whether the workload's name is.
    pub(super) fn split(&mut self, counters: &mut Vec<(CounterKey, u64)>, mut is_known: impl FnMut(u64, u64) -> bool) {
        let mut known: HashMap<(u64, u64), bool> = HashMap::new();
        let mut of_namespaces = Vec::new();
        for (key, n) in counters.iter_mut().filter(|(key, _)| key.cgroup > 1 && key.cgroup != CGROUP_OTHER) {
            let workload = (key.netns, key.cgroup);
            let shown = if *known.entry(workload).or_insert_with(|| is_known(workload.0, workload.1)) {
                self.0.get(key).copied().unwrap_or(0)
            } else {
                self.0.insert(*key, *n);
                *n
            };
            if shown > 0 {
                of_namespaces.push((of_namespace(key), shown));
                *n = n.saturating_sub(shown);
            }
        }
        counters.append(&mut of_namespaces);
    }

    /// Forgets a row that is removed; returns how much of it was shown for the namespace.
    pub(super) fn take(&mut self, key: &CounterKey) -> u64 {
        self.0.remove(key).unwrap_or(0)
    }

    pub(super) fn forget_namespace(&mut self, id: u64) {
        self.0.retain(|key, _| key.netns != id);
    }
}

/// The same kind of count, of the namespace alone.
#[must_use]
pub fn of_namespace(key: &CounterKey) -> CounterKey {
    CounterKey { cgroup: CGROUP_OF_NAMESPACE, ..*key }
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::counter::Counter;

    use super::*;

    fn key(cgroup: u64) -> CounterKey {
        CounterKey { netns: 1, cgroup, port: 0, role: 0, counter: Counter::ConnectFailure as u8, a: 0, b: 0, zero: 0 }
    }

    fn split(provisional: &mut Provisional, rows: &[(u64, u64)], is_known: bool) -> Vec<(u64, u64)> {
        let mut counters: Vec<_> = rows.iter().map(|(cgroup, n)| (key(*cgroup), *n)).collect();
        provisional.split(&mut counters, |_, _| is_known);
        let mut rows: Vec<_> = counters.iter().map(|(key, n)| (key.cgroup, *n)).collect();
        rows.sort_unstable();
        rows
    }

    #[test]
    fn what_was_shown_stays_and_later_counts_take_the_name() {
        let mut provisional = Provisional::default();
        assert_eq!(split(&mut provisional, &[(7, 3)], false), [(0, 3), (7, 0)]);
        assert_eq!(split(&mut provisional, &[(7, 4)], false), [(0, 4), (7, 0)]);
        assert_eq!(split(&mut provisional, &[(7, 4)], true), [(0, 4), (7, 0)]);
        assert_eq!(split(&mut provisional, &[(7, 9)], true), [(0, 4), (7, 5)]);
        assert_eq!(provisional.take(&key(7)), 4);
        assert_eq!(provisional.take(&key(7)), 0);
    }

    #[test]
    fn a_name_that_is_known_at_once_has_all() {
        let mut provisional = Provisional::default();
        let rows = [(0, 1), (1, 2), (7, 3), (CGROUP_OTHER, 4)];
        assert_eq!(split(&mut provisional, &rows, true), rows);
        assert_eq!(split(&mut provisional, &rows, false), [(0, 1), (0, 3), (1, 2), (7, 0), (CGROUP_OTHER, 4)]);
    }

    #[test]
    fn a_namespace_is_forgotten_whole() {
        let mut provisional = Provisional::default();
        split(&mut provisional, &[(7, 3)], false);
        provisional.forget_namespace(2);
        assert_eq!(provisional.0.len(), 1);
        provisional.forget_namespace(1);
        assert!(provisional.0.is_empty());
    }
}
