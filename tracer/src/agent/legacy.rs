//! Values of rows that are gone, whose series live on under another row.
//!
//! A service that restarts gets a new cgroup, and so new rows, but keeps its labels. If the old
//! row's value left with it, the series would fall, which Prometheus takes for a reset. So an heir
//! with the same labels takes it over; what has no heir is retired.

use std::collections::HashMap;

use tracer_ebpf::counter::{CounterKey, ListenerKey, ListenerStats};

use crate::labels::provisional::{CGROUP_OF_NAMESPACE, of_namespace};
use crate::pipeline::counters::{Counts, Totals};

/// What heirs have taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Legacy {
    listeners: HashMap<ListenerKey, ListenerStats>,
    counters: HashMap<CounterKey, u64>,
    /// What workloads without a name left to their namespaces.
    of_namespaces: HashMap<CounterKey, u64>,
}

/// How many rows of namespaces may outlive their workloads: a tenant that makes cgroups and destinations without end
/// must not fill the agent's memory. What is beyond is retired.
const OF_NAMESPACES_MAX: usize = 8_192;

impl Legacy {
    /// `heir` takes over what the listener `from` counted, and what that had taken over itself.
    pub fn bequeath_listener(&mut self, from: &ListenerKey, stats: &ListenerStats, heir: ListenerKey) {
        let inherited = self.listeners.remove(from).unwrap_or_default();
        let legacy = self.listeners.entry(heir).or_default();
        add_counts(legacy, stats);
        add_counts(legacy, &inherited);
    }

    /// The workload `heir` (a cgroup of the same namespace, or [`CGROUP_OF_NAMESPACE`]) takes over rows. Returns what
    /// found no room.
    pub fn bequeath_counters(&mut self, rows: &[(CounterKey, u64)], heir: u64) -> Totals {
        let mut homeless = Totals::default();
        // What the workload had taken over of kinds that it counted none of itself goes on as well.
        let workload = rows.first().map(|(key, _)| (key.netns, key.cgroup));
        let is_its_own = |key: &CounterKey| workload == Some((key.netns, key.cgroup));
        let mut all: HashMap<CounterKey, u64> = self.counters.extract_if(|key, _| is_its_own(key)).collect();
        for (key, n) in rows {
            *all.entry(*key).or_default() += n;
        }
        for (key, all) in &all {
            if heir == CGROUP_OF_NAMESPACE {
                homeless.add_all(&self.leave_to_namespace(key, *all));
            } else {
                *self.counters.entry(CounterKey { cgroup: heir, ..*key }).or_default() += *all;
            }
        }
        homeless
    }

    /// A count stays with the namespace, for which it was shown. Returns it if it found no room.
    pub fn leave_to_namespace(&mut self, key: &CounterKey, n: u64) -> Totals {
        let key = of_namespace(key);
        let has_room = self.of_namespaces.len() < OF_NAMESPACES_MAX;
        match self.of_namespaces.get_mut(&key) {
            Some(kept) => *kept += n,
            None if n == 0 => {}
            None if has_room => _ = self.of_namespaces.insert(key, n),
            None => return Totals::of_counter(&key, n),
        }
        Totals::default()
    }

    /// Takes out what a listener without heir had taken over.
    pub fn end_listener(&mut self, key: &ListenerKey) -> Totals {
        self.listeners.remove(key).map_or_else(Totals::default, |stats| Totals::of_listener(&stats))
    }

    /// Takes out what a workload without heir had taken over.
    pub fn end_workload(&mut self, netns: u64, cgroup: u64) -> Totals {
        self.end(|key| key.netns == netns && key.cgroup == cgroup, |_| false)
    }

    /// Takes out everything of a namespace.
    pub fn end_namespace(&mut self, netns: u64) -> Totals {
        self.end(|key| key.netns == netns, |key| key.netns == netns)
    }

    fn end(&mut self, counter: impl Fn(&CounterKey) -> bool, listener: impl Fn(&ListenerKey) -> bool) -> Totals {
        let mut totals = Totals::default();
        for counters in [&mut self.counters, &mut self.of_namespaces] {
            counters.retain(|key, n| {
                let ends = counter(key);
                if ends {
                    totals.add_all(&Totals::of_counter(key, *n));
                }
                !ends
            });
        }
        self.listeners.retain(|key, stats| {
            let ends = listener(key);
            if ends {
                totals.add_all(&Totals::of_listener(stats));
            }
            !ends
        });
        totals
    }

    /// Adds what heirs have taken over to a reading, for the exporter. (The books know it as retired.)
    pub fn add_to(&self, counts: &mut Counts) {
        for (key, stats) in &mut counts.listeners {
            if let Some(inherited) = self.listeners.get(key) {
                add_counts(stats, inherited);
            }
        }
        counts.counters.extend(self.counters.iter().chain(&self.of_namespaces).map(|(key, n)| (*key, *n)));
    }
}

fn add_counts(to: &mut ListenerStats, from: &ListenerStats) {
    for (to, from) in to.drops.iter_mut().zip(from.drops) {
        *to += from;
    }
    to.accepted += from.accepted;
    to.synack_retransmits += from.synack_retransmits;
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::counter::Counter;

    use super::*;
    use crate::pipeline::counters::Closing;

    fn listener(cgroup: u64) -> ListenerKey {
        ListenerKey { netns: 1, cgroup, address: [0; 4], port: 80, zero: [0; 3] }
    }

    fn stats(drops: u64) -> ListenerStats {
        ListenerStats { drops: [drops, 0, 0, 0, 0], accepted: drops, ..ListenerStats::default() }
    }

    fn counter(cgroup: u64) -> CounterKey {
        let counter = Counter::RetransmitFailed as u8;
        CounterKey { netns: 1, cgroup, port: 0, role: 0, counter, a: 0, b: 0, zero: 0 }
    }

    #[test]
    fn what_is_left_to_a_namespace_stays_as_long_as_that() {
        let mut legacy = Legacy::default();
        assert_eq!(legacy.leave_to_namespace(&counter(7), 2), Totals::default());
        legacy.bequeath_counters(&[(counter(6), 5)], 8);
        // With what it had taken over itself.
        assert_eq!(legacy.bequeath_counters(&[(counter(8), 1)], CGROUP_OF_NAMESPACE), Totals::default());
        let mut counts = Counts::default();
        legacy.add_to(&mut counts);
        assert_eq!(counts.counters, [(counter(0), 8)]);
        // Of a kind, or a port, of which the workload counted nothing itself.
        let of_port = |cgroup| CounterKey { port: 80, ..counter(cgroup) };
        legacy.bequeath_counters(&[(of_port(6), 4)], 9);
        legacy.bequeath_counters(&[(counter(9), 0)], 10);
        let mut counts = Counts::default();
        legacy.add_to(&mut counts);
        assert!(counts.counters.contains(&(of_port(10), 4)), "{:?}", counts.counters);
        assert_eq!(legacy.end_workload(1, 10).get(Closing::RetransmitsFailed), 4);
        assert_eq!(legacy.end_workload(1, 8), Totals::default());
        assert_eq!(legacy.end_namespace(1).get(Closing::RetransmitsFailed), 8);
    }

    #[test]
    fn rows_of_namespaces_have_a_bound_and_what_is_beyond_is_retired() {
        let mut legacy = Legacy::default();
        let of_port = |port: usize| CounterKey { port: u16::try_from(port).unwrap(), ..counter(7) };
        for port in 0..OF_NAMESPACES_MAX {
            assert_eq!(legacy.leave_to_namespace(&of_port(port), 1), Totals::default());
        }
        assert_eq!(legacy.leave_to_namespace(&of_port(0), 1), Totals::default(), "there already");
        let homeless = legacy.bequeath_counters(&[(of_port(OF_NAMESPACES_MAX), 3)], CGROUP_OF_NAMESPACE);
        assert_eq!(homeless.get(Closing::RetransmitsFailed), 3);
    }

    #[test]
    fn a_listeners_value_passes_from_heir_to_heir() {
        let mut legacy = Legacy::default();
        legacy.bequeath_listener(&listener(5), &stats(3), listener(6));
        legacy.bequeath_listener(&listener(6), &stats(4), listener(7));
        let mut counts = Counts { listeners: vec![(listener(7), stats(1))], ..Counts::default() };
        legacy.add_to(&mut counts);
        assert_eq!((counts.listeners[0].1.drops[0], counts.listeners[0].1.accepted), (8, 8));
        assert_eq!(legacy.end_listener(&listener(7)).get(Closing::ListenDrops), 7);
        assert_eq!(legacy, Legacy::default());
    }

    #[test]
    fn a_workloads_rows_pass_to_the_heirs_cgroup() {
        let mut legacy = Legacy::default();
        legacy.bequeath_counters(&[(counter(5), 3)], 6);
        legacy.bequeath_counters(&[(counter(6), 4)], 7);
        let mut counts = Counts::default();
        legacy.add_to(&mut counts);
        assert_eq!(counts.counters, vec![(counter(7), 7)]);
        assert_eq!(legacy.end_workload(1, 6), Totals::default(), "it has passed on");
        assert_eq!(legacy.end_workload(1, 7).get(Closing::RetransmitsFailed), 7);
    }

    #[test]
    fn a_namespace_takes_all_of_it_along() {
        let mut legacy = Legacy::default();
        legacy.bequeath_counters(&[(counter(5), 3)], 6);
        legacy.bequeath_listener(&listener(5), &stats(2), listener(6));
        let totals = legacy.end_namespace(1);
        assert_eq!((totals.get(Closing::RetransmitsFailed), totals.get(Closing::ListenDrops)), (3, 2));
        assert_eq!(legacy, Legacy::default());
    }
}
