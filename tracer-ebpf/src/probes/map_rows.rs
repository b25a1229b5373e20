//! Reading a map of counts: the key and the value of each entry, written to the iterator's file.
//!
//! Looking entries up by `bpf()` keeps kprobes off that processor for as long as it takes (both raise
//! `bpf_prog_active`), and a kernel that preempts the reader in the middle keeps them off until it runs
//! again: what they would have counted is lost. An iterator keeps nothing off.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_seq_write;
use tracer_ebpf::counter::{
    CounterKey, ListenerKey, ListenerStats, NetnsSeen, PortKey, SocketsKey, SocketsRow, WorkloadKey,
};

use super::snapshot::context_pointer;
use crate::reader::{Direct, Reader};

/// Writes the entry, a `K` and then a `V`. An entry for which the file had no room is shown again.
/// The kernel refuses to attach a program to a map whose keys or values are shorter than what is read here.
#[inline(always)]
fn write_row<K, V>(ctx: *mut c_void) -> i32 {
    let meta = context_pointer(ctx, 0);
    let key = context_pointer(ctx, 2);
    let value = context_pointer(ctx, 3);
    if key.is_null() || value.is_null() {
        return 0;
    }
    let seq: *mut u8 = Direct.load::<*const u8>(meta, 0).cast_mut();
    // SAFETY: `seq` is the iterator's file; the verifier holds the size against that of the map's keys.
    let _ = unsafe { bpf_seq_write(seq.cast(), key.cast(), size_of::<K>() as u32) };
    // SAFETY: as above, of its values.
    let _ = unsafe { bpf_seq_write(seq.cast(), value.cast(), size_of::<V>() as u32) };
    0
}

// match-proto: 5.8- int bpf_iter_bpf_map_elem(struct bpf_iter_meta *meta, struct bpf_map *map, void *key, void *value)
/// Context: process, whoever reads the counts. Frequency: each listener's row once a reading. Cost: 2 h.
#[unsafe(link_section = "iter/bpf_map_elem")]
#[unsafe(no_mangle)]
pub extern "C" fn rows_of_listeners(ctx: *mut c_void) -> i32 {
    write_row::<ListenerKey, ListenerStats>(ctx)
}

// match-proto: 5.8- int bpf_iter_bpf_map_elem(struct bpf_iter_meta *meta, struct bpf_map *map, void *key, void *value)
/// Context: process, whoever reads the counts. Frequency: each counter once a reading. Cost: 2 h.
#[unsafe(link_section = "iter/bpf_map_elem")]
#[unsafe(no_mangle)]
pub extern "C" fn rows_of_counters(ctx: *mut c_void) -> i32 {
    write_row::<CounterKey, u64>(ctx)
}

// match-proto: 5.8- int bpf_iter_bpf_map_elem(struct bpf_iter_meta *meta, struct bpf_map *map, void *key, void *value)
/// Context: process, whoever reads the counts. Frequency: each namespace once a reading. Cost: 2 h.
#[unsafe(link_section = "iter/bpf_map_elem")]
#[unsafe(no_mangle)]
pub extern "C" fn rows_of_netns(ctx: *mut c_void) -> i32 {
    write_row::<u64, NetnsSeen>(ctx)
}

// match-proto: 5.8- int bpf_iter_bpf_map_elem(struct bpf_iter_meta *meta, struct bpf_map *map, void *key, void *value)
/// Context: process, whoever reads how full the maps are. Frequency: each workload once a reading. Cost: 2 h.
#[unsafe(link_section = "iter/bpf_map_elem")]
#[unsafe(no_mangle)]
pub extern "C" fn rows_of_workloads(ctx: *mut c_void) -> i32 {
    write_row::<WorkloadKey, u64>(ctx)
}

// match-proto: 5.8- int bpf_iter_bpf_map_elem(struct bpf_iter_meta *meta, struct bpf_map *map, void *key, void *value)
/// Context: process, whoever reads how full the maps are. Frequency: each port once a reading. Cost: 2 h.
#[unsafe(link_section = "iter/bpf_map_elem")]
#[unsafe(no_mangle)]
pub extern "C" fn rows_of_ports(ctx: *mut c_void) -> i32 {
    write_row::<PortKey, u64>(ctx)
}

// match-proto: 5.8- int bpf_iter_bpf_map_elem(struct bpf_iter_meta *meta, struct bpf_map *map, void *key, void *value)
/// Context: process, the agent's worker. Frequency: each owner of sockets once a socket pass. Cost: 2 h.
#[unsafe(link_section = "iter/bpf_map_elem")]
#[unsafe(no_mangle)]
pub extern "C" fn rows_of_sockets(ctx: *mut c_void) -> i32 {
    write_row::<SocketsKey, SocketsRow>(ctx)
}
