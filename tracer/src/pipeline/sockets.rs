//! The socket pass's rows as counts by owner and state, with the age of the oldest CLOSE_WAIT. Pure.

use std::time::Duration;

use tracer_ebpf::{
    counter::{STATE_SLOTS, SocketWalk, SocketsKey, SocketsRow},
    state,
};

/// What one walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// By owner; who has no socket is not in it.
    pub owners: Vec<OwnerSockets>,
    /// Descriptors whose sockets found no room in the maps.
    pub uncounted: u32,
}

/// Sockets of one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerSockets {
    /// Network namespace.
    pub netns: u64,
    /// Its inode number.
    pub netns_inum: u32,
    /// cgroup v2 id; the root's, or 0, where it cannot tell owners apart.
    pub cgroup: u64,
    /// A process that holds them, where the cgroup does not tell.
    pub holder: Option<u32>,
    /// How many.
    pub states: States,
}

/// Sockets by state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct States {
    counts: [u64; STATE_SLOTS],
    /// How long the oldest one in CLOSE_WAIT is there, at least, seen from the walk; zero if none is.
    pub oldest_close_wait: Duration,
}

impl States {
    fn of_row(walk: &SocketWalk, row: &SocketsRow) -> Self {
        let oldest_ns = match row.close_wait_since_ns {
            0 => 0,
            since_ns => walk.started_ns.saturating_sub(since_ns),
        };
        Self { counts: row.counts.map(u64::from), oldest_close_wait: Duration::from_nanos(oldest_ns) }
    }

    /// Sockets in a state.
    #[must_use]
    pub fn count(&self, state: u8) -> u64 {
        self.counts.get(usize::from(state)).copied().unwrap_or(0)
    }

    /// Adds those of another row that gets the same labels.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.oldest_close_wait = self.oldest_close_wait.max(other.oldest_close_wait);
    }

    /// States to show, with their counts: those that there are, and two that every owner has a row of,
    /// so that a leak's series begins before the leak.
    pub fn shown(&self) -> impl Iterator<Item = (u8, u64)> {
        let always = |state| matches!(state, state::ESTABLISHED | state::CLOSE_WAIT);
        (0..).zip(self.counts).filter(move |&(state, count)| count > 0 || always(state))
    }
}

/// Takes the rows of one walk; rows of another are passed over.
#[must_use]
pub fn of_walk(walk: &SocketWalk, rows: &[(SocketsKey, SocketsRow)]) -> Sockets {
    let of_this = rows.iter().filter(|(_, row)| row.generation == walk.generation);
    let owners = of_this.map(|(key, row)| OwnerSockets {
        netns: key.netns,
        netns_inum: row.netns_inum,
        cgroup: key.cgroup,
        holder: (key.holder_tgid != 0).then_some(key.holder_tgid),
        states: States::of_row(walk, row),
    });
    Sockets { owners: owners.collect(), uncounted: walk.uncounted }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALK: SocketWalk =
        SocketWalk { started_ns: 10_000, started_jiffies: 0, generation: 7, shared: 0, uncounted: 3, zero: 0 };

    fn key(cgroup: u64, holder_tgid: u32) -> SocketsKey {
        SocketsKey { netns: 1, cgroup, holder_tgid, zero: 0 }
    }

    fn row(generation: u32, counts: &[(u8, u32)], close_wait_since_ns: u64) -> SocketsRow {
        let mut row = SocketsRow { close_wait_since_ns, generation, netns_inum: 42, ..SocketsRow::default() };
        for &(state, count) in counts {
            row.counts[usize::from(state)] = count;
        }
        row
    }

    #[test]
    fn rows_of_another_walk_are_passed_over() {
        let rows = [
            (key(5, 0), row(7, &[(state::ESTABLISHED, 2)], 0)),
            (key(6, 0), row(6, &[(state::ESTABLISHED, 9)], 0)),
            (key(1, 100), row(7, &[(state::CLOSE_WAIT, 1)], 4_000)),
        ];
        let sockets = of_walk(&WALK, &rows);
        assert_eq!(sockets.uncounted, 3);
        let found: Vec<_> = sockets.owners.iter().map(|owner| (owner.cgroup, owner.holder, owner.netns_inum)).collect();
        assert_eq!(found, vec![(5, None, 42), (1, Some(100), 42)]);
        assert_eq!(sockets.owners[1].states.oldest_close_wait, Duration::from_micros(6));
        assert_eq!(sockets.owners[1].states.count(state::CLOSE_WAIT), 1);
    }

    #[test]
    fn an_age_is_never_negative() {
        for (since_ns, expected) in [(0, 0), (10_001, 0), (10_000, 0), (1, 9_999)] {
            let states = States::of_row(&WALK, &row(7, &[], since_ns));
            assert_eq!(states.oldest_close_wait, Duration::from_nanos(expected), "{since_ns}");
        }
    }

    #[test]
    fn rows_under_one_label_add_up_and_show_the_older_age() {
        let mut states = States::of_row(&WALK, &row(7, &[(state::LISTEN, 1), (state::CLOSE_WAIT, 2)], 9_000));
        states.merge(&States::of_row(&WALK, &row(7, &[(state::CLOSE_WAIT, 3)], 2_000)));
        states.merge(&States::of_row(&WALK, &row(7, &[(state::ESTABLISHED, 0)], 0)));
        assert_eq!(states.shown().collect::<Vec<_>>(), vec![(1, 0), (8, 5), (10, 1)]);
        assert_eq!(states.oldest_close_wait, Duration::from_micros(8));
    }
}
