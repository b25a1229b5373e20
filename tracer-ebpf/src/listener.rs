//! Counting by listener: drops, accepted connections, SYN-ACK retransmits, peaks and owners.

use aya_ebpf::bindings::BPF_NOEXIST;
use tracer_ebpf::{
    counter::{
        Counter, CounterKey, DropReason, ListenerKey, ListenerStats, PEAK_SLOT_SHIFT, PEAK_SLOTS, Peak, is_fuller,
    },
    event::{Connection, Header, Kind, ListenDrop},
    state,
};

use crate::{
    emit::emit,
    maps::LISTENERS,
    quota::{self, Table},
    reader::Reader,
    sock::{self, Netns, Queues},
    workload::{add, count_other, note_netns},
};

/// First value of a row; a static because the stack has room for 512 bytes in all.
#[unsafe(no_mangle)]
static NO_STATS: ListenerStats = ListenerStats {
    drops: [0; DropReason::COUNT],
    accepted: 0,
    synack_retransmits: 0,
    opened: 0,
    closed: 0,
    closed_sk_drops: 0,
    owner_tgid: 0,
    owner_comm_is_of_thread: 0,
    opened_before: 1,
    owner_comm: [0; 16],
    peaks: [Peak { slot: 0, length: 0, limit: 0 }; PEAK_SLOTS],
};

/// The row of a listener, made if there is room.
#[inline(always)]
pub fn stats(key: &ListenerKey, inum: u32) -> Option<*mut ListenerStats> {
    match LISTENERS.get_ptr_mut(key) {
        Some(stats) => Some(stats),
        None => admit(key, inum),
    }
}

#[inline(always)]
fn admit(key: &ListenerKey, inum: u32) -> Option<*mut ListenerStats> {
    note_netns(key.netns, inum);
    if quota::has_room(key.netns, Table::Listeners) && LISTENERS.insert(key, &NO_STATS, u64::from(BPF_NOEXIST)).is_ok()
    {
        quota::note(key.netns, Table::Listeners);
    }
    LISTENERS.get_ptr_mut(key)
}

/// The open listener that a child came from, by the child's own address, since that is all that is left: the address
/// itself and then the wildcards, as the kernel's own look-up does. `None`: the listener has no row.
#[inline(always)]
pub fn of_child<R: Reader>(r: R, sk: *const u8, netns: Netns) -> Option<ListenerKey> {
    of_child_on(r, sk, netns, sock::local_port(r, sk))
}

/// The same for a child whose port is known otherwise: at close it has been given back.
#[inline(always)]
pub fn of_child_on<R: Reader>(r: R, sk: *const u8, netns: Netns, port: u16) -> Option<ListenerKey> {
    find(r, sk, netns, port, is_open)
}

/// Whether the child's port is one of a listener that is or was there.
#[inline(always)]
pub fn has_port<R: Reader>(r: R, sk: *const u8, netns: Netns, port: u16) -> bool {
    find(r, sk, netns, port, |key| LISTENERS.get_ptr(key).is_some()).is_some()
}

#[inline(always)]
fn find<R: Reader>(
    r: R,
    sk: *const u8,
    netns: Netns,
    port: u16,
    fits: impl Fn(&ListenerKey) -> bool,
) -> Option<ListenerKey> {
    let mut key = ListenerKey { port, ..sock::listener_key(r, sk, netns) };
    if fits(&key) {
        return Some(key);
    }
    if sock::is_v4_mapped(&key.address) {
        key.address = sock::v4_mapped(0);
        if fits(&key) {
            return Some(key);
        }
    }
    key.address = [0; 4];
    if fits(&key) { Some(key) } else { None }
}

/// Whether a row exists and stands for a listener that is open: rows outlive their listeners. Where not all of its
/// sockets were counted when they opened, it is taken for open until the agent removes it.
#[inline(always)]
fn is_open(key: &ListenerKey) -> bool {
    let Some(stats) = LISTENERS.get_ptr(key) else { return false };
    // SAFETY: the look-up did not fail.
    let stats = unsafe { &*stats };
    stats.opened_before != 0 || stats.opened > stats.closed
}

/// Adds one to the namespace's `_other` row of a listener counter.
#[inline(always)]
pub fn count_without_row(key: &ListenerKey, counter: Counter, a: u8) {
    let row = CounterKey { netns: key.netns, cgroup: 0, port: 0, role: 0, counter: counter as u8, a, b: 0, zero: 0 };
    count_other(&row, 1);
}

/// Children that other CPUs may add to an accept queue between a look at it by a hook inside the kernel's function and the
/// kernel's own, some ten nanoseconds apart. More would take drops by other causes for overflows.
pub const RACING_IN_FUNCTION: u32 = 1;
/// The same of a look by a hook at the packet, some hundred nanoseconds before.
pub const RACING_AFTER_PACKET: u32 = 2;

/// Counts one drop.
#[inline(always)]
pub fn count_drop(key: &ListenerKey, inum: u32, reason: DropReason, queues: Queues) {
    let Some(stats) = stats(key, inum) else {
        count_without_row(key, Counter::ListenDrop, reason as u8);
        return;
    };
    // The compiler knows the enum's range, so it would leave the bound out; the verifier of 6.1
    // forgets what it knew of a value that was kept on the stack meanwhile. So check it here.
    let index = core::hint::black_box(reason as usize);
    if index >= DropReason::COUNT {
        return;
    }
    // SAFETY: the look-up did not fail.
    let slot = unsafe { core::ptr::addr_of_mut!((*stats).drops[index]) };
    add(slot, 1);
    note_peak(stats, queues.accept, queues.limit);
}

/// Keeps the fullest accept queue of the running slot. Plain stores: a race between CPUs can lose
/// one of two queues seen in the same instant.
#[inline(always)]
pub fn note_peak(stats: *mut ListenerStats, length: u32, limit: u32) {
    let slot = (sock::now_ns() >> PEAK_SLOT_SHIFT) as u32;
    // SAFETY: the look-up did not fail; the index is below the array's length.
    let peak = unsafe { &mut (*stats).peaks[slot as usize & (PEAK_SLOTS - 1)] };
    if peak.slot != slot {
        *peak = Peak { slot, length, limit };
    } else if is_fuller(length, limit, peak.length, peak.limit) {
        peak.length = length;
        peak.limit = limit;
    }
}

/// The client's end of a dropped handshake, as far as the hook can see it.
#[derive(Clone, Copy)]
pub struct Client {
    /// Address, network order.
    pub address: [u32; 4],
    /// Port, host order.
    pub port: u16,
}

impl Client {
    /// The hook sees the packet only as an untyped buffer.
    pub const UNSEEN: Self = Self { address: [0; 4], port: 0 };
}

/// Counts a drop at the listener `sk` (a `struct tcp_sock *`) and puts it on the ring.
#[inline(always)]
pub fn drop_at<R: Reader>(r: R, sk: *const u8, reason: DropReason, client: Client) {
    let netns = sock::netns(r, sk);
    let key = sock::listener_key(r, sk, netns);
    let queues = sock::queues(r, sk);
    count_drop(&key, netns.inum, reason, queues);
    let seen = Seen {
        netns_inum: netns.inum,
        family: sock::family(r, sk) as u8,
        local: key.address,
        client,
        time_ns: sock::now_ns(),
    };
    emit_drop(&key, seen, queues, reason);
}

/// What the record of a drop says beyond its listener.
#[derive(Clone, Copy)]
pub struct Seen {
    /// Inode number of the namespace.
    pub netns_inum: u32,
    /// Address family.
    pub family: u8,
    /// The address that was called.
    pub local: [u32; 4],
    /// Who called.
    pub client: Client,
    /// When.
    pub time_ns: u64,
}

/// Puts a drop on the ring.
#[inline(always)]
pub fn emit_drop(key: &ListenerKey, seen: Seen, queues: Queues, reason: DropReason) {
    let record = ListenDrop {
        header: Header {
            time_ns: seen.time_ns,
            netns: key.netns,
            cgroup: key.cgroup,
            kind: Kind::ListenDrop as u8,
            family: seen.family,
            state: state::LISTEN,
            zero: 0,
            netns_inum: seen.netns_inum,
        },
        connection: Connection {
            local: seen.local,
            remote: seen.client.address,
            local_port: key.port,
            remote_port: seen.client.port,
            zero: 0,
        },
        queue_length: queues.accept,
        queue_limit: queues.limit,
        syn_queue_length: queues.syn,
        reason: reason as u8,
        zero: [0; 3],
    };
    emit(Kind::ListenDrop, seen.time_ns, &record);
}
