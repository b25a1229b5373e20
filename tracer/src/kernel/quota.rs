//! How many rows of a table one network namespace may have: the same rule as the programs' `quota`, for rows that the
//! agent makes itself, and the numbers by which both agree.
//!
//! The hooks count each row that they make, the agent each that it makes or removes, at once: no number is worked out
//! from readings of different instants, so nobody gains rows by making them while a pass reads.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use tracer_ebpf::rows::{AllRows, Rows, RowsBeside, rows_for_any, rows_of_few};

use super::{
    load::LoadError,
    sys::{Map, Update},
};

/// The maps by which programs and agent agree on the number of rows.
#[derive(Debug)]
pub struct Quotas {
    beside: OwnedFd,
    all: OwnedFd,
    own: Mutex<OwnRows>,
}

/// Rows that the agent made less those that it removed; numbers wrap below zero.
#[derive(Debug, Default)]
struct OwnRows {
    all: RowsBeside,
    by_netns: HashMap<u64, RowsBeside>,
}

/// A table whose rows a namespace shares with others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shared {
    Listeners,
    Workloads,
}

impl Shared {
    const fn of(self, rows: &mut Rows) -> &mut u64 {
        match self {
            Self::Listeners => &mut rows.listeners,
            Self::Workloads => &mut rows.workloads,
        }
    }
}

/// What the agent did to a row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Made,
    Removed,
}

impl OwnRows {
    fn note(&mut self, netns: u64, table: Shared, change: Change) -> (RowsBeside, RowsBeside) {
        let by_netns = self.by_netns.entry(netns).or_default();
        for rows in [&mut self.all, by_netns] {
            let number = table.of(rows);
            *number = match change {
                Change::Made => number.wrapping_add(1),
                Change::Removed => number.wrapping_sub(1),
            };
        }
        (self.all, *by_netns)
    }
}

impl Quotas {
    pub(super) fn open(mut fd: impl FnMut(&'static str) -> Result<OwnedFd, LoadError>) -> Result<Self, LoadError> {
        Ok(Self { beside: fd("ROWS_BESIDE")?, all: fd("ALL_ROWS")?, own: Mutex::default() })
    }

    /// Tells the programs of one row that the agent made or removed.
    pub(super) fn note(&self, netns: u64, table: Shared, change: Change) -> io::Result<()> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_netns) = own.note(netns, table, change);
        self.all()?.update(&(AllRows::Beside as u32), &all, Update::Any)?;
        match Map::<u64, RowsBeside>::new(self.beside.as_fd())?.update(&netns, &by_netns, Update::Any) {
            // E2BIG: more namespaces than the hooks have room to know. Those beyond have no share of their own.
            Err(error) if error.raw_os_error() != Some(libc::E2BIG) => Err(error),
            _ => Ok(()),
        }
    }

    /// Forgets a namespace all of whose rows were removed.
    pub(super) fn forget(&self, netns: u64) -> io::Result<()> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.by_netns.remove(&netns);
        Map::<u64, RowsBeside>::new(self.beside.as_fd())?.delete(&netns).map(drop)
    }

    /// Whether a namespace may have one more row of a listener in a table of `max`; `admitted` is what the hooks
    /// admitted of its rows, `None` if they do not know the namespace.
    pub(super) fn has_room_for_listener(&self, netns: u64, admitted: Option<Rows>, max: u32) -> io::Result<bool> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.all()?.lookup(&(AllRows::Admitted as u32))?.unwrap_or_default();
        let beside = own.by_netns.get(&netns).copied().unwrap_or_default();
        let held = admitted.map(|admitted| admitted.listeners.wrapping_add(beside.listeners));
        Ok(has_room(all.listeners.wrapping_add(own.all.listeners), held, max))
    }

    /// Look-ups by hooks that found no row and made none because the namespace had its share, by table.
    pub fn refused(&self) -> io::Result<Rows> {
        Ok(self.all()?.lookup(&(AllRows::Refused as u32))?.unwrap_or_default())
    }

    fn all(&self) -> io::Result<Map<'_, u32, Rows>> {
        Map::new(self.all.as_fd())
    }
}

/// The rule, for a table of `max` rows of which `all` are taken, `held` of them by the namespace that wants one. One that
/// is not known may hold any number.
fn has_room(all: u64, held: Option<u64>, max: u32) -> bool {
    all < rows_for_any(max) || held.is_some_and(|held| held < rows_of_few(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_namespace_takes_no_more_than_three_quarters_and_newcomers_find_room() {
        let (mut all, mut held) = (0, HashMap::new());
        let mut fill = |netns, wanted: u32| {
            let mut made = 0;
            while made < wanted && has_room(all, Some(*held.entry(netns).or_default()), 640) {
                (all, made) = (all + 1, made + 1);
                *held.entry(netns).or_default() += 1;
            }
            made
        };
        assert_eq!(fill(1, 1000), 480);
        assert_eq!([fill(2, 1000), fill(3, 4), fill(1, 1)], [10, 4, 0]);
        assert!(!has_room(480, None, 640));
    }

    #[test]
    fn a_small_table_has_no_reserve() {
        assert!(has_room(2, Some(2), 3) && !has_room(3, Some(3), 3));
    }

    #[test]
    fn what_the_agent_removes_is_taken_from_what_was_admitted() {
        let mut own = OwnRows::default();
        own.note(1, Shared::Listeners, Change::Made);
        let (all, first) = own.note(1, Shared::Workloads, Change::Removed);
        assert_eq!((all, first), (Rows { listeners: 1, workloads: u64::MAX }, all));
        let (all, second) = own.note(2, Shared::Workloads, Change::Removed);
        assert_eq!((5_u64.wrapping_add(all.workloads), 2_u64.wrapping_add(second.workloads)), (3, 1));
    }
}
