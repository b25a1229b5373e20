//! Rows of listeners that are gone: when they are removed, and what is remembered of them. Also the
//! evidence of the lowest rung, since both compare a pass's listeners with the last pass's.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use tracer_ebpf::counter::{CounterKey, ListenerKey, ListenerStats};

use crate::pipeline::{
    counters::{Counts, Totals},
    snapshot::Listener,
};

/// Keeps track of listeners between passes.
pub struct Reaper {
    /// How long a row is kept after its listener.
    pub retain: Duration,
    /// Value of series that were removed.
    pub retired: Totals,
    /// Counts of dead namespaces that no reading of the kernel confirms.
    pub unverified: Totals,
    missing: HashMap<ListenerKey, (Instant, ListenerStats)>,
    idle: HashMap<(u64, u64), (Instant, u64)>,
    sk_drops: HashMap<ListenerKey, (u32, u64)>,
}

/// Rows of a workload that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadWorkload {
    /// Its namespace.
    pub netns: u64,
    /// Its cgroup.
    pub cgroup: u64,
    /// The rows.
    pub rows: Vec<(CounterKey, u64)>,
}

impl DeadWorkload {
    /// The part of its rows that was shown for its namespace, as `shown` says, and the workload without that.
    pub fn split(&self, mut shown: impl FnMut(&CounterKey) -> u64) -> (Vec<(CounterKey, u64)>, Self) {
        let parts: Vec<_> = self.rows.iter().map(|(key, n)| (*key, shown(key).min(*n), *n)).collect();
        let of_namespace =
            parts.iter().filter(|(_, shown, _)| *shown > 0).map(|(key, shown, _)| (*key, *shown)).collect();
        let rows = parts.iter().map(|(key, shown, n)| (*key, n - shown)).collect();
        (of_namespace, Self { rows, ..*self })
    }

    /// What the rows add up to.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (key, n) in &self.rows {
            totals.add_all(&Totals::of_counter(key, *n));
        }
        totals
    }
}

impl Reaper {
    /// With nothing remembered.
    #[must_use]
    pub fn new(retain: Duration) -> Self {
        Self {
            retain,
            retired: Totals::default(),
            unverified: Totals::default(),
            missing: HashMap::new(),
            idle: HashMap::new(),
            sk_drops: HashMap::new(),
        }
    }

    /// Listeners whose rows are to be removed: not seen and not changed for `retain`, hence over at
    /// least two readings.
    pub fn dead_listeners(
        &mut self,
        counts: &Counts,
        listeners: &BTreeMap<ListenerKey, Listener>,
        now: Instant,
    ) -> Vec<(ListenerKey, ListenerStats)> {
        let mut dead = Vec::new();
        let mut missing = HashMap::new();
        for (key, stats) in counts.listeners.iter().filter(|(key, _)| !listeners.contains_key(key)) {
            let since = match self.missing.get(key) {
                Some((since, then)) if then == stats => *since,
                _ => now,
            };
            let waiting = counts.pending.iter().any(|pending| pending.listener == *key);
            if since != now && now.saturating_duration_since(since) >= self.retain && !waiting {
                dead.push((*key, *stats));
            } else {
                missing.insert(*key, (since, *stats));
            }
        }
        self.missing = missing;
        dead
    }

    /// Workloads (namespace, cgroup) whose rows are to be removed: the cgroup is gone and nothing was
    /// counted for `retain`.
    pub fn dead_workloads(
        &mut self,
        counts: &Counts,
        has_gone: impl Fn(u64) -> bool,
        now: Instant,
    ) -> Vec<DeadWorkload> {
        let mut rows: HashMap<(u64, u64), Vec<(CounterKey, u64)>> = HashMap::new();
        for (key, n) in counts.counters.iter().filter(|(key, _)| key.cgroup > 1) {
            rows.entry((key.netns, key.cgroup)).or_default().push((*key, *n));
        }
        let mut dead = Vec::new();
        let mut idle = HashMap::new();
        for ((netns, cgroup), rows) in rows {
            let workload = (netns, cgroup);
            let sum = rows.iter().map(|(_, n)| n).sum();
            let since = match self.idle.get(&workload) {
                Some((since, then)) if *then == sum => *since,
                _ => now,
            };
            if since != now && now.saturating_duration_since(since) >= self.retain && has_gone(cgroup) {
                dead.push(DeadWorkload { netns, cgroup, rows });
            } else {
                idle.insert(workload, (since, sum));
            }
        }
        self.idle = idle;
        dead
    }

    /// For each namespace the one listener whose sockets discarded packets since the last pass, if
    /// it was one alone: `sk_drops` rose, or a socket closed that had some.
    pub fn sole_suspects(
        &mut self,
        listeners: &BTreeMap<ListenerKey, Listener>,
        counts: &Counts,
    ) -> HashMap<u64, ListenerKey> {
        let mut moved: HashMap<u64, Vec<ListenerKey>> = HashMap::new();
        let mut seen = HashMap::new();
        let closed: HashMap<ListenerKey, u64> =
            counts.listeners.iter().map(|(key, stats)| (*key, stats.closed_sk_drops)).collect();
        for key in listeners.keys().chain(closed.keys()) {
            let open = listeners.get(key).map_or(0, |listener| listener.sk_drops);
            let now = (open, closed.get(key).copied().unwrap_or(0));
            let then = self.sk_drops.get(key).copied().unwrap_or((0, 0));
            if now != then && now != (0, then.1) && !seen.contains_key(key) {
                moved.entry(key.netns).or_default().push(*key);
            }
            seen.insert(*key, now);
        }
        self.sk_drops = seen;
        let alone = |(netns, keys): (u64, Vec<ListenerKey>)| match keys.as_slice() {
            [key] => Some((netns, *key)),
            _ => None,
        };
        moved.into_iter().filter_map(alone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> ListenerKey {
        ListenerKey { netns: 1, cgroup: 1, address: [0; 4], port, zero: [0; 3] }
    }

    fn listener(sk_drops: u32) -> Listener {
        Listener { sockets: 1, sk_drops, ..Listener::empty(1) }
    }

    fn counts(rows: &[(u16, u64)]) -> Counts {
        let stats = |drops| ListenerStats { drops: [drops, 0, 0, 0, 0], ..ListenerStats::default() };
        Counts { listeners: rows.iter().map(|&(port, drops)| (key(port), stats(drops))).collect(), ..Counts::default() }
    }

    #[test]
    fn a_row_outlives_its_listener_by_the_time_to_retain() {
        let mut reaper = Reaper::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let none = BTreeMap::new();
        assert!(reaper.dead_listeners(&counts(&[(80, 3)]), &none, at(0)).is_empty());
        assert!(reaper.dead_listeners(&counts(&[(80, 4)]), &none, at(9)).is_empty(), "it changed");
        assert!(reaper.dead_listeners(&counts(&[(80, 4)]), &none, at(18)).is_empty());
        let dead = reaper.dead_listeners(&counts(&[(80, 4)]), &none, at(19));
        assert_eq!(dead.len(), 1);
        assert_eq!(dead[0].1.drops[0], 4);
    }

    #[test]
    fn a_listener_that_comes_back_keeps_its_row() {
        let mut reaper = Reaper::new(Duration::from_secs(1));
        let start = Instant::now();
        let live = BTreeMap::from([(key(80), listener(0))]);
        reaper.dead_listeners(&counts(&[(80, 3)]), &BTreeMap::new(), start);
        reaper.dead_listeners(&counts(&[(80, 3)]), &live, start + Duration::from_secs(5));
        assert!(
            reaper.dead_listeners(&counts(&[(80, 3)]), &BTreeMap::new(), start + Duration::from_secs(6)).is_empty()
        );
    }

    #[test]
    fn no_time_to_retain_still_takes_two_readings() {
        let mut reaper = Reaper::new(Duration::ZERO);
        let start = Instant::now();
        assert!(reaper.dead_listeners(&counts(&[(80, 3)]), &BTreeMap::new(), start).is_empty());
        let later = start + Duration::from_millis(1);
        assert_eq!(reaper.dead_listeners(&counts(&[(80, 3)]), &BTreeMap::new(), later).len(), 1);
    }

    #[test]
    fn a_workload_goes_with_its_cgroup_once_it_is_quiet() {
        use tracer_ebpf::counter::Counter;
        let row = |cgroup, n| {
            let counter = Counter::RetransmitFailed as u8;
            (CounterKey { netns: 1, cgroup, port: 0, role: 0, counter, a: 0, b: 0, zero: 0 }, n)
        };
        let counts = |n| Counts { counters: vec![row(7, n), row(8, 1), row(1, 1), row(0, 1)], ..Counts::default() };
        let mut reaper = Reaper::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let seven_has_gone = |cgroup| cgroup == 7;
        assert!(reaper.dead_workloads(&counts(1), seven_has_gone, at(0)).is_empty());
        assert!(reaper.dead_workloads(&counts(2), seven_has_gone, at(11)).is_empty(), "it still counted");
        let dead = reaper.dead_workloads(&counts(2), seven_has_gone, at(22));
        assert_eq!(dead.iter().map(|workload| workload.cgroup).collect::<Vec<_>>(), vec![7]);
        assert_eq!(dead[0].totals().get(crate::pipeline::counters::Closing::RetransmitsFailed), 2);
    }

    #[test]
    fn only_one_that_moved_alone_is_suspected() {
        let mut reaper = Reaper::new(Duration::ZERO);
        let pass = |a, b| BTreeMap::from([(key(80), listener(a)), (key(443), listener(b))]);
        reaper.sole_suspects(&pass(5, 7), &Counts::default());
        assert_eq!(reaper.sole_suspects(&pass(6, 7), &Counts::default()), HashMap::from([(1, key(80))]));
        assert!(reaper.sole_suspects(&pass(7, 8), &Counts::default()).is_empty(), "both moved");
        assert!(reaper.sole_suspects(&pass(7, 8), &Counts::default()).is_empty(), "none moved");
    }
}
