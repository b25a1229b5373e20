//! How many rows of a table one network namespace may have, and the numbers by which programs and agent agree on it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Numbers of rows, or of events about them, by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rows {
    /// Of listeners.
    pub listeners: u64,
    /// Of workloads.
    pub workloads: u64,
}

/// Slots of the numbers of all namespaces' rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AllRows {
    /// Rows that the hooks admitted.
    Admitted = 0,
    /// Rows that the agent made or removed itself, as in [`RowsBeside`].
    Beside = 1,
    /// Look-ups that made no row because the namespace had as many as one may have.
    Refused = 2,
}

impl AllRows {
    /// How many slots there are.
    pub const COUNT: u32 = 3;
}

/// What the agent knows of rows beyond what the hooks admitted: rows that it made or removed itself. Added to
/// [`NetnsSeen::admitted`] it is the number of rows that there are; wraps below zero.
pub type RowsBeside = Rows;

/// Rows of a table that any namespace may take: three quarters. The rest is for namespaces that have few
/// ([`rows_of_few`]), so that no tenant can push the others' new rows to `_other`.
#[must_use]
pub const fn rows_for_any(table: u32) -> u64 {
    (table - table / 4) as u64
}

/// Rows up to which a namespace has few: with a table of ten thousand, 156, so that sixteen newcomers find room.
#[must_use]
pub const fn rows_of_few(table: u32) -> u64 {
    if table < 64 { 1 } else { (table / 64) as u64 }
}
