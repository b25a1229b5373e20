//! How many rows of a table one network namespace may have: what the programs are told of rows, once a pass, and the same
//! rule for rows that the agent makes itself. What the rule is stands in the programs' `quota`.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use tracer_ebpf::{
    counter::WorkloadKey,
    rows::{AllRows, Rows, RowsBeside, rows_for_any, rows_of_few},
};

use super::{
    load::LoadError,
    sys::{Map, Update},
};
use crate::pipeline::counters::Counts;

/// The maps by which programs and agent agree on the number of rows.
#[derive(Debug)]
pub struct Quotas {
    beside: OwnedFd,
    all: OwnedFd,
    /// What the programs were told, by namespace.
    told: Mutex<HashMap<u64, RowsBeside>>,
}

impl Quotas {
    pub(super) fn open(mut fd: impl FnMut(&'static str) -> Result<OwnedFd, LoadError>) -> Result<Self, LoadError> {
        Ok(Self { beside: fd("ROWS_BESIDE")?, all: fd("ALL_ROWS")?, told: Mutex::default() })
    }

    /// Tells the programs how many rows there are beyond those that they admitted, or how many fewer. A row that is made
    /// between the readings of rows and of admissions counts once too little or too much until the next pass.
    pub(super) fn settle(&self, counts: &Counts, workloads: &[(WorkloadKey, u64)]) -> io::Result<()> {
        let mut there: HashMap<u64, Rows> = HashMap::new();
        for (key, _) in &counts.listeners {
            there.entry(key.netns).or_default().listeners += 1;
        }
        for (key, _) in workloads {
            there.entry(key.netns).or_default().workloads += 1;
        }
        let sum = |one: Rows, other: &Rows| Rows {
            listeners: one.listeners + other.listeners,
            workloads: one.workloads + other.workloads,
        };
        let all = self.all()?;
        let admitted = all.lookup(&(AllRows::Admitted as u32))?.unwrap_or_default();
        let beside = beyond(there.values().fold(Rows::default(), sum), admitted);
        all.update(&(AllRows::Beside as u32), &beside, Update::Any)?;
        let map = Map::<u64, RowsBeside>::new(self.beside.as_fd())?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // The dead first: the map has room for as many namespaces as the hooks know.
        let alive: HashSet<u64> = counts.netns.iter().map(|(id, _)| *id).collect();
        for (id, _) in told.extract_if(|id, _| !alive.contains(id)) {
            map.delete(&id)?;
        }
        for (id, seen) in &counts.netns {
            let beside = beyond(there.get(id).copied().unwrap_or_default(), seen.admitted);
            if told.insert(*id, beside) != Some(beside) {
                map.update(id, &beside, Update::Any)?;
            }
        }
        Ok(())
    }

    /// Events that the rule sent to `_other`, by table.
    pub fn refused(&self) -> io::Result<Rows> {
        Ok(self.all()?.lookup(&(AllRows::Refused as u32))?.unwrap_or_default())
    }

    fn all(&self) -> io::Result<Map<'_, u32, Rows>> {
        Map::new(self.all.as_fd())
    }
}

/// What must be added to the admitted rows to have those that there are.
const fn beyond(there: Rows, admitted: Rows) -> RowsBeside {
    Rows {
        listeners: there.listeners.wrapping_sub(admitted.listeners),
        workloads: there.workloads.wrapping_sub(admitted.workloads),
    }
}

/// The rule for rows of listeners that a pass makes.
#[derive(Debug)]
pub struct ListenerRows {
    max: u32,
    all: u64,
    held: HashMap<u64, u64>,
}

impl ListenerRows {
    /// As many as there are, in a table of `max`.
    #[must_use]
    pub fn new(counts: &Counts, max: u32) -> Self {
        let mut held = HashMap::new();
        for (key, _) in &counts.listeners {
            *held.entry(key.netns).or_default() += 1;
        }
        Self { max, all: counts.listeners.len() as u64, held }
    }

    /// Whether the namespace may have one more.
    #[must_use]
    pub fn has_room(&self, netns: u64) -> bool {
        let held = self.held.get(&netns).copied().unwrap_or(0);
        self.all < rows_for_any(self.max) || held < rows_of_few(self.max)
    }

    /// Counts one that was made.
    pub fn note(&mut self, netns: u64) {
        self.all += 1;
        *self.held.entry(netns).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_namespace_takes_no_more_than_three_quarters_and_newcomers_find_room() {
        let mut rows = ListenerRows::new(&Counts::default(), 640);
        let mut fill = |netns, wanted: u32| {
            let made = (0..wanted).take_while(|_| rows.has_room(netns).then(|| rows.note(netns)).is_some());
            made.count()
        };
        assert_eq!(fill(1, 1000), 480);
        assert_eq!([fill(2, 1000), fill(3, 4), fill(1, 1)], [10, 4, 0]);
    }

    #[test]
    fn a_small_table_has_no_reserve() {
        let mut rows = ListenerRows::new(&Counts::default(), 3);
        for _ in 0..3 {
            assert!(rows.has_room(1));
            rows.note(1);
        }
        assert!(!rows.has_room(1));
    }

    #[test]
    fn what_the_agent_removed_is_taken_from_what_was_admitted() {
        let beside = beyond(Rows { listeners: 3, workloads: 9 }, Rows { listeners: 5, workloads: 2 });
        assert_eq!(5_u64.wrapping_add(beside.listeners), 3);
        assert_eq!(beside.workloads, 7);
    }
}
