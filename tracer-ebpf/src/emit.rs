//! Ring records: reserve → fill → submit, or count the loss.
//!
//! Nothing here is needed for a metric. Wakeups are batched: the reader polls on a timer and is
//! woken early only when much data waits.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use tracer_ebpf::{counter::EventTally, event::Kind};

use crate::{
    constants::setting,
    maps::{EVENTS, TALLIES},
};

/// Whether records of this kind are wanted. The verifier knows, and removes what hangs on it where they are not.
#[inline(always)]
pub fn wanted(kind: Kind) -> bool {
    setting!(kinds) & kind.bit() != 0
}

/// Puts `record` on the ring if its kind is wanted and has not used up its share of this second.
/// Cost: one per-CPU look-up, one ring query, one reservation.
#[inline(always)]
pub fn emit<T: Copy + 'static>(kind: Kind, time_ns: u64, record: &T) {
    if !wanted(kind) {
        return;
    }
    let Some(tallies) = TALLIES.get_ptr_mut(0) else { return };
    // SAFETY: the look-up returned a value of this CPU's own; programs of one CPU may interleave,
    // which can at worst miscount one record's fate.
    let tally = unsafe { &mut (*tallies)[kind as usize] };
    if !within_rate(tally, time_ns) {
        tally.lost_rate += 1;
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        tally.lost_ring += 1;
        return;
    };
    entry.write(*record);
    entry.submit(wakeup());
    tally.emitted += 1;
}

#[inline(always)]
fn within_rate(tally: &mut EventTally, time_ns: u64) -> bool {
    let limit = setting!(rate_limit);
    if limit == 0 {
        return true;
    }
    let second = time_ns / 1_000_000_000;
    if tally.window_second != second {
        tally.window_second = second;
        tally.window_count = 0;
    }
    tally.window_count += 1;
    tally.window_count <= limit
}

#[inline(always)]
fn wakeup() -> u64 {
    if EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) >= setting!(wakeup_bytes) {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}
