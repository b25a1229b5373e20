//! How many rows of a table a namespace may have: any until three quarters of the table are taken, and few of the rest.
//!
//! So that no tenant can push the others' new rows to `_other`. The hooks count the rows that they make; what the agent makes or removes
//! itself it sets beside that at once. CPUs that race here may admit one row each too many.

use tracer_ebpf::{
    counter::NetnsSeen,
    rows::{AllRows, Rows, rows_for_any, rows_of_few},
};

use crate::{
    constants::setting,
    maps::{ALL_ROWS, NETNS, ROWS_BESIDE},
    workload::add,
};

/// A table whose rows a namespace shares with others.
#[derive(Clone, Copy)]
pub enum Table {
    /// Of listeners.
    Listeners,
    /// Of workloads.
    Workloads,
}

impl Table {
    #[inline(always)]
    fn max(self) -> u32 {
        match self {
            Self::Listeners => setting!(listeners_max),
            Self::Workloads => setting!(workloads_max),
        }
    }

    #[inline(always)]
    fn of(self, rows: *const Rows) -> u64 {
        // SAFETY: the pointer comes from a look-up that did not fail.
        let rows = unsafe { &*rows };
        match self {
            Self::Listeners => rows.listeners,
            Self::Workloads => rows.workloads,
        }
    }

    #[inline(always)]
    fn add_one(self, rows: *mut Rows) {
        let place = match self {
            // SAFETY: the pointer comes from a look-up that did not fail.
            Self::Listeners => unsafe { &raw mut (*rows).listeners },
            // SAFETY: the same.
            Self::Workloads => unsafe { &raw mut (*rows).workloads },
        };
        add(place, 1);
    }
}

/// Whether the namespace may have one more row. Counts the event if not.
#[inline(always)]
pub fn has_room(netns: u64, table: Table) -> bool {
    let all = |slot: AllRows| ALL_ROWS.get_ptr(slot as u32).map_or(0, |rows| table.of(rows));
    if all(AllRows::Admitted).wrapping_add(all(AllRows::Beside)) < rows_for_any(table.max()) {
        return true;
    }
    // A namespace that found no room itself may have any number of rows.
    let held = NETNS.get_ptr(&netns).map_or(u64::MAX, |seen| {
        let beside = ROWS_BESIDE.get_ptr(&netns).map_or(0, |rows| table.of(rows));
        table.of(admitted_of(seen)).wrapping_add(beside)
    });
    if held < rows_of_few(table.max()) {
        return true;
    }
    if let Some(refused) = ALL_ROWS.get_ptr_mut(AllRows::Refused as u32) {
        table.add_one(refused);
    }
    false
}

/// Counts a row that was made.
#[inline(always)]
pub fn note(netns: u64, table: Table) {
    if let Some(all) = ALL_ROWS.get_ptr_mut(AllRows::Admitted as u32) {
        table.add_one(all);
    }
    if let Some(seen) = NETNS.get_ptr_mut(&netns) {
        table.add_one(admitted_of(seen).cast_mut());
    }
}

#[inline(always)]
fn admitted_of(seen: *const NetnsSeen) -> *const Rows {
    // SAFETY: the pointer comes from a look-up that did not fail.
    unsafe { &raw const (*seen).admitted }
}
