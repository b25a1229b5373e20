//! Counting by workload: look up and add; on a miss admit the row, or use the `_other` row.
//!
//! Admission, never demotion: a key that finds no room counts in `_other` from its first event on;
//! a row that exists is never folded.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_NOEXIST;
use tracer_ebpf::counter::{
    CGROUP_OTHER, Counter, CounterKey, LOST_COUNTS_LEN, NetnsSeen, PORT_OTHER, PortKey, ROLE_PORT_OTHER, Role,
    WorkloadKey,
};
use tracer_ebpf::rows::Rows;

use crate::{
    constants::setting,
    maps::{COUNTERS, LOST_COUNTS, NETNS, OTHER, PORTS, WORKLOADS},
    quota::{self, Table},
    sock::{Netns, now_ns},
};

/// Adds to a map value. The result is discarded: Linux 5.10 has no fetching atomics.
#[inline(always)]
pub fn add(value: *mut u64, n: u64) {
    // SAFETY: the pointer comes from a map look-up that did not fail.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(value, n) };
}

/// A key of the counters map without port.
#[inline(always)]
pub fn key(netns: Netns, cgroup: u64, counter: Counter, a: u8, b: u8) -> CounterKey {
    CounterKey { netns: netns.id, cgroup, port: 0, role: 0, counter: counter as u8, a, b, zero: 0 }
}

/// Adds `n` to a counter.
#[inline(always)]
pub fn count(netns: Netns, key: &CounterKey, n: u64) {
    match COUNTERS.get_ptr_mut(key) {
        Some(value) => add(value, n),
        None => admit(netns.inum, key, n),
    }
}

/// The first count of a key: rare, so a function of its own.
#[inline(never)]
fn admit(inum: u32, key: &CounterKey, n: u64) {
    note_netns(key.netns, inum);
    let mut row = *key;
    // A count by namespace has neither. A socket has a port alone where its cgroup cannot be read.
    let is_of_workload = row.cgroup != 0 || row.port != PORT_OTHER;
    if is_of_workload && !has_workload(&row) {
        count_other(&row, n);
        return;
    }
    if row.port != PORT_OTHER && !has_port(&row) {
        row.port = PORT_OTHER;
        row.role |= ROLE_PORT_OTHER;
    }
    // A racing CPU may have inserted it meanwhile, so look again before giving up.
    let _ = COUNTERS.insert(&row, &0, u64::from(BPF_NOEXIST));
    match COUNTERS.get_ptr_mut(&row) {
        Some(value) => add(value, n),
        None => count_other(&row, n),
    }
}

/// Adds `n` to the namespace's `_other` row of this counter.
#[inline(always)]
pub fn count_other(key: &CounterKey, n: u64) {
    let row = CounterKey { cgroup: CGROUP_OTHER, port: 0, role: Role::Unknown as u8, ..*key };
    if OTHER.get_ptr_mut(&row).is_none() {
        let _ = OTHER.insert(&row, &0, u64::from(BPF_NOEXIST));
    }
    if let Some(value) = OTHER.get_ptr_mut(&row) {
        add(value, n);
    } else {
        lose(row.counter, n);
    }
}

/// Counts an event for which no map has room. Its namespace is lost.
#[inline(always)]
pub fn lose(counter: u8, n: u64) {
    if let Some(lost) = LOST_COUNTS.get_ptr_mut(0) {
        // SAFETY: the look-up did not fail, and the mask keeps the index within the array.
        add(unsafe { &raw mut (*lost)[usize::from(counter) & (LOST_COUNTS_LEN - 1)] }, n);
    }
}

/// Remembers a namespace, so that the agent can join its id with an inode number.
#[inline(always)]
pub fn note_netns(id: u64, inum: u32) {
    if NETNS.get_ptr(&id).is_none() {
        let none = Rows { listeners: 0, workloads: 0 };
        let seen = NetnsSeen { first_ns: now_ns(), inum, zero: 0, admitted: none };
        let _ = NETNS.insert(&id, &seen, u64::from(BPF_NOEXIST));
    }
}

#[inline(always)]
fn has_workload(row: &CounterKey) -> bool {
    let key = WorkloadKey { netns: row.netns, cgroup: row.cgroup };
    if WORKLOADS.get_ptr(&key).is_some() {
        return true;
    }
    if quota::has_room(row.netns, Table::Workloads) && WORKLOADS.insert(&key, &0, u64::from(BPF_NOEXIST)).is_ok() {
        quota::note(row.netns, Table::Workloads);
    }
    WORKLOADS.get_ptr(&key).is_some()
}

#[inline(always)]
fn has_port(row: &CounterKey) -> bool {
    let key = PortKey { netns: row.netns, cgroup: row.cgroup, port: row.port, role: row.role, zero: [0; 5] };
    if PORTS.get_ptr(&key).is_some() {
        return true;
    }
    let workload = WorkloadKey { netns: row.netns, cgroup: row.cgroup };
    let Some(ports) = WORKLOADS.get_ptr_mut(&workload) else { return false };
    // SAFETY: the look-up did not fail. CPUs that race here may admit one port each too many.
    if unsafe { *ports } >= setting!(ports_per_workload) {
        return false;
    }
    if PORTS.insert(&key, &1, u64::from(BPF_NOEXIST)).is_ok() {
        add(ports, 1);
    }
    PORTS.get_ptr(&key).is_some()
}
