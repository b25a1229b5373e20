//! Rows about open files of the processes behind listeners.
//!
//! Owns the choice of the process: of those that share a listener's labels, the one nearest to its limit, since
//! it will be the first that cannot accept. Reads the last pass's view alone.

use tracer_ebpf::counter::ListenerStats;

use super::{
    collector::{ListenerValues, number},
    metrics::MetricId,
    rows::{Rows, Suppressed},
};
use crate::{
    agent::descriptors::{ByProcess, OpenFiles},
    pipeline::snapshot::Listener,
};

/// The process nearest to its limit, of those behind one set of labels.
#[derive(Debug, Default)]
pub(super) struct Nearest {
    /// Open files and how many there may be.
    found: Option<(u64, u64)>,
    /// Whether a bound left a process out.
    is_bounded: bool,
}

impl Nearest {
    /// Adds the processes that hold a listener under the name that its labels have; those that the pass found,
    /// else the caller of `listen()`. A listener that is gone has none.
    pub(super) fn add(
        &mut self,
        open_files: &ByProcess,
        stats: &ListenerStats,
        seen: Option<&Listener>,
        process: &[u8],
    ) {
        let Some(seen) = seen else { return };
        let caller = seen.holders.is_empty().then_some(stats.owner_tgid);
        for tgid in seen.holders.iter().map(|holder| holder.tgid).chain(caller) {
            match open_files.get(&tgid) {
                Some(Some(files)) if files.comm == process => self.take(files),
                Some(None) => self.is_bounded = true,
                // Ended, not to be looked at, or another process under a number that was used before.
                _ => {}
            }
        }
    }

    fn take(&mut self, files: &OpenFiles) {
        let (open, limit) = (files.open, files.limit);
        // Cross-multiplied: open / limit > nearest_open / nearest_limit.
        let is_nearer = |(nearest_open, nearest_limit): (u64, u64)| {
            u128::from(open) * u128::from(nearest_limit) > u128::from(nearest_open) * u128::from(limit)
        };
        if self.found.is_none_or(is_nearer) {
            self.found = Some((open, limit));
        }
    }

    /// Adds the rows; or, if a bound left out the only process, counts that they are missing.
    pub(super) fn show(&self, rows: &mut Rows<'_>, suppressed: &Suppressed, values: &ListenerValues<'_>) {
        match self.found {
            Some((open, limit)) => {
                rows.add(MetricId::TcpListenerOpenFiles, values, number(open));
                rows.add(MetricId::TcpListenerOpenFilesLimit, values, number(limit));
            }
            None if self.is_bounded => {
                suppressed.count(MetricId::TcpListenerOpenFiles);
                suppressed.count(MetricId::TcpListenerOpenFilesLimit);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::snapshot::Holder;

    fn listener(tgids: &[u32]) -> Listener {
        let holder = |tgid: &u32| Holder { tgid: *tgid, cgroup: 1, comm: [0; 16] };
        Listener { sockets: 1, holders: tgids.iter().map(holder).collect(), ..Listener::empty(1) }
    }

    fn files(comm: &[u8], open: u64, limit: u64) -> OpenFiles {
        OpenFiles { comm: comm.to_vec(), open, limit }
    }

    fn seen() -> ByProcess {
        ByProcess::from([
            (1, Some(files(b"nginx", 10, 1024))),
            (2, Some(files(b"nginx", 900, 1024))),
            (3, Some(files(b"nginx", 2000, 65_536))),
            (4, Some(files(b"other", 1024, 1024))),
            (5, None),
            (6, Some(files(b"nginx", 3, 0))),
        ])
    }

    fn nearest(holders: &[u32], caller: u32) -> Nearest {
        let mut nearest = Nearest::default();
        let stats = ListenerStats { owner_tgid: caller, ..ListenerStats::default() };
        nearest.add(&seen(), &stats, Some(&listener(holders)), b"nginx");
        nearest
    }

    #[test]
    fn of_several_processes_the_nearest_to_its_limit_is_shown() {
        for (holders, caller, expected, what) in [
            (&[1, 2, 3][..], 1, Some((900, 1024)), "shares, not numbers"),
            (&[1, 4], 1, Some((10, 1024)), "only those that the labels name"),
            (&[1, 9], 9, Some((10, 1024)), "one has ended"),
            (&[], 3, Some((2000, 65_536)), "no holder is known: the caller of listen()"),
            (&[], 4, None, "whose number another process has by now"),
            (&[], 0, None, "nobody is known"),
            (&[1, 2, 6], 1, Some((3, 0)), "none allowed"),
            (&[1, 5], 1, Some((10, 1024)), "one that the bounds left out"),
        ] {
            assert_eq!(nearest(holders, caller).found, expected, "{what}");
        }
        let mut gone = Nearest::default();
        gone.add(&seen(), &ListenerStats { owner_tgid: 1, ..ListenerStats::default() }, None, b"nginx");
        assert_eq!(gone.found, None, "the listener is gone");
    }

    #[test]
    fn what_a_bound_leaves_out_is_counted() {
        let values = ["host", "", "", "", "", "nginx", "0.0.0.0", "80"];
        for (holders, missing) in [(&[5][..], 1), (&[1, 5], 0), (&[9], 0)] {
            let suppressed = Suppressed::default();
            nearest(holders, 0).show(&mut Rows::new(10, &suppressed), &suppressed, &values);
            assert_eq!(suppressed.total(MetricId::TcpListenerOpenFiles), missing, "{holders:?}");
        }
    }
}
