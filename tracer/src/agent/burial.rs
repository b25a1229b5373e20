//! Takes the rows of what is gone for good out of the maps, and their values into the totals of what was removed.
//!
//! A row is accounted for if and only if it was removed: where the kernel refuses that, the row stays and the next passes
//! try again. So nothing here returns early; what failed is remembered for the log.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    time::Instant,
};

use tracer_ebpf::counter::{ListenerKey, ListenerStats};

use super::{outage, reaper::DeadWorkload, worker::Worker};
use crate::{
    kernel::maps::Maps,
    labels::Labels,
    pipeline::{
        counters::{Closing, Counts, Totals},
        snapshot::Listener,
    },
};

/// What was removed before the kernel refused to remove more.
struct Partly {
    removed: Totals,
    error: io::Error,
}

impl Worker {
    /// Removes the rows of what is gone.
    pub(super) fn reap(
        &mut self,
        counts: &Counts,
        listeners: &BTreeMap<ListenerKey, Listener>,
        unlisted: &HashSet<u64>,
        labels: &mut Labels,
        now: Instant,
    ) {
        // Whole namespaces first: their rows must not be retired one by one as well.
        let closed_ids = self.bury_namespaces(counts, labels, now);
        if self.sees_listeners() {
            let dead = self.reaper.dead_listeners(counts, listeners, now);
            // Where listing failed, a listener is not known to be gone.
            let is_left = |netns: &u64| closed_ids.contains(netns) || unlisted.contains(netns);
            for (key, stats) in dead.into_iter().filter(|(key, _)| !is_left(&key.netns)) {
                match self.maps.remove_listener_if_still(&key, &stats) {
                    Ok(false) => {}
                    Ok(true) => self.account_for_listener(&key, &stats, listeners, labels),
                    Err(error) => self.failed = Some(removing(error)),
                }
            }
        }
        let dead = self.reaper.dead_workloads(counts, |cgroup| labels.cgroup_has_gone(cgroup), now);
        for workload in dead.into_iter().filter(|workload| !closed_ids.contains(&workload.netns)) {
            self.bury_workload(workload, counts, labels, now);
        }
    }

    /// Closes the books of namespaces that are gone; returns which were closed, or lost some of their rows.
    fn bury_namespaces(&mut self, counts: &Counts, labels: &mut Labels, now: Instant) -> HashSet<u64> {
        let maps = &self.maps;
        let mut partly: Vec<(u64, Partly)> = Vec::new();
        let is_removed = |id| match remove_rows(maps, counts, id) {
            Ok(()) => true,
            Err(some) => {
                partly.push((id, some));
                false
            }
        };
        let closed = self.registry.close_dead(counts, self.reaper.retain, now, is_removed);
        let mut ids = HashSet::new();
        for (id, closed) in closed {
            self.reaper.retired.add_all(&closed.exported);
            self.reaper.retired.add_all(&self.legacy.end_namespace(id));
            self.reaper.unverified.add_all(&closed.unverified);
            labels.forget_namespace(id);
            ids.insert(id);
        }
        for (id, Partly { removed, error }) in partly {
            self.registry.retire(id, &removed);
            self.reaper.retired.add_all(&removed);
            self.failed = Some(removing(error));
            ids.insert(id);
        }
        ids
    }

    /// Takes over the value of a listener's row.
    fn account_for_listener(
        &mut self,
        key: &ListenerKey,
        stats: &ListenerStats,
        listeners: &BTreeMap<ListenerKey, Listener>,
        labels: &mut Labels,
    ) {
        let totals = Totals::of_listener(stats);
        self.registry.retire(key.netns, &totals);
        let heir = labels.heir_of_listener(key, listeners.keys());
        self.reaper.retired.add(Closing::ListenDrops, self.registry.retire_suspect(key, heir));
        if let Some(heir) = heir {
            self.legacy.bequeath_listener(key, stats, heir);
        } else {
            self.reaper.retired.add_all(&totals);
            self.reaper.retired.add_all(&self.legacy.end_listener(key));
        }
        labels.forget_listener(key);
    }

    /// Removes a workload's rows; their value goes to a living one with the same labels, if any.
    fn bury_workload(&mut self, workload: DeadWorkload, counts: &Counts, labels: &mut Labels, now: Instant) {
        let (netns, cgroup) = (workload.netns, workload.cgroup);
        let all = workload.rows.len();
        let (rows, error) = removed(workload.rows, |(key, _)| self.maps.remove_counter(key));
        let is_whole = rows.len() == all;
        let workload = DeadWorkload { netns, cgroup, rows };
        if let Some(error) = error {
            self.failed = Some(removing(error));
        }
        self.registry.retire(netns, &workload.totals());
        let (shown, workload) = workload.split(|key| labels.forget_counter(key));
        for (key, n) in &shown {
            self.reaper.retired.add_all(&self.legacy.leave_to_namespace(key, *n));
        }
        let neighbours = counts.counters.iter().filter(|(key, _)| key.netns == netns && key.cgroup > 0);
        let living: BTreeSet<u64> =
            neighbours.map(|(key, _)| key.cgroup).filter(|cgroup| !labels.cgroup_has_gone(*cgroup)).collect();
        if let Some(heir) = labels.heir_of_cgroup(netns, cgroup, living, now) {
            self.reaper.retired.add_all(&self.legacy.bequeath_counters(&workload.rows, heir));
            if is_whole {
                self.registry.bequeath_cgroup(netns, cgroup, heir);
            }
        } else {
            self.reaper.retired.add_all(&workload.totals());
            self.reaper.retired.add_all(&self.legacy.end_workload(netns, cgroup));
            if is_whole {
                let confirmed = self.registry.retire_cgroup(netns, cgroup);
                self.reaper.retired.add(Closing::TimeWaitOverflows, confirmed);
            }
        }
    }
}

/// The rows that could be removed: those before the first that could not, whose error is given as well.
fn removed<T>(rows: Vec<T>, remove: impl Fn(&T) -> io::Result<bool>) -> (Vec<T>, Option<io::Error>) {
    let mut gone = Vec::with_capacity(rows.len());
    for row in rows {
        match remove(&row) {
            Ok(_) => gone.push(row),
            Err(error) => return (gone, Some(error)),
        }
    }
    (gone, None)
}

fn remove_rows(maps: &Maps, counts: &Counts, id: u64) -> Result<(), Partly> {
    let mut removed = Totals::default();
    let mut remove = || -> io::Result<()> {
        for (key, stats) in counts.listeners.iter().filter(|(key, _)| key.netns == id) {
            maps.remove_listener(key)?;
            removed.add_all(&Totals::of_listener(stats));
        }
        for (key, n) in counts.counters.iter().chain(&counts.other).filter(|(key, _)| key.netns == id) {
            maps.remove_counter(key)?;
            removed.add_all(&Totals::of_counter(key, *n));
        }
        maps.remove_netns(id)?;
        Ok(())
    };
    remove().map_err(|error| Partly { removed, error })
}

fn removing(error: io::Error) -> io::Error {
    outage::of("removing the rows of what is gone")(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_before_the_kernel_refused_is_known() {
        let busy = || io::Error::from_raw_os_error(libc::EBUSY);
        let (gone, error) = removed(vec![1, 2, 3, 4], |row| if *row < 3 { Ok(true) } else { Err(busy()) });
        assert_eq!((gone, error.unwrap().raw_os_error()), (vec![1, 2], Some(libc::EBUSY)));
        let (gone, error) = removed(vec![1, 2], |_| Ok(false));
        assert_eq!(gone, [1, 2], "it is gone, whoever removed it");
        assert!(error.is_none());
    }
}
