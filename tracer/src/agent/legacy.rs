//! Values of rows that are gone, whose series live on under another row.
//!
//! A service that restarts gets a new cgroup, and so new rows, but keeps its labels. If the old
//! row's value left with it, the series would fall, which Prometheus takes for a reset. So an heir
//! with the same labels takes it over; what has no heir is retired.

use std::collections::HashMap;

use tracer_ebpf::counter::{CounterKey, ListenerKey, ListenerStats};

use crate::pipeline::counters::{Counts, Totals};

/// What heirs have taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Legacy {
    listeners: HashMap<ListenerKey, ListenerStats>,
    counters: HashMap<CounterKey, u64>,
}

impl Legacy {
    /// `heir` takes over what the listener `from` counted, and what that had taken over itself.
    pub fn bequeath_listener(&mut self, from: &ListenerKey, stats: &ListenerStats, heir: ListenerKey) {
        let inherited = self.listeners.remove(from).unwrap_or_default();
        let legacy = self.listeners.entry(heir).or_default();
        add_counts(legacy, stats);
        add_counts(legacy, &inherited);
    }

    /// The workload `heir` (a cgroup of the same namespace) takes over rows.
    pub fn bequeath_counters(&mut self, rows: &[(CounterKey, u64)], heir: u64) {
        for (key, n) in rows {
            let inherited = self.counters.remove(key).unwrap_or(0);
            *self.counters.entry(CounterKey { cgroup: heir, ..*key }).or_default() += n + inherited;
        }
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
        self.counters.retain(|key, n| {
            let ends = counter(key);
            if ends {
                totals.add_all(&Totals::of_counter(key, *n));
            }
            !ends
        });
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
        counts.counters.extend(self.counters.iter().map(|(key, n)| (*key, *n)));
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
