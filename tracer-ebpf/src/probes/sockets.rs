//! The socket pass: the listener pass that also counts each TCP socket a process owns, by owner and
//! state, and finds the oldest one in CLOSE_WAIT. One thread walks, so plain stores do.
//!
//! The agent starts a generation before each walk ([`SocketWalk`]); a row of an earlier one is cleared
//! when it is met, so figures of two walks never mix. Sockets without a descriptor are not counted:
//! those that wait for accept(), orphans, and descriptors in flight between processes.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_jiffies64;
use tracer_ebpf::{
    counter::{CGROUP_OTHER, CloseWaitSeen, SHARED_SOCKETS_MAX, STATE_SLOTS, SocketWalk, SocketsKey, SocketsRow},
    state,
};

use super::{
    snapshot::{Holder, context_pointer, socket_of_task, write_listener, write_mptcp_listener},
    told::may_repeat,
};
use crate::{
    constants::{offset, setting},
    maps::{CLOSE_WAIT_SEEN, SHARED_SOCKETS, SOCKET_WALK, SOCKETS, SOCKETS_OTHER},
    reader::{Direct, Reader},
    sock,
};

/// cgroup v2 id of the root, where all sockets of v1 and hybrid hosts are.
const CGROUP_ROOT: u64 = 1;

/// First value of a row.
#[unsafe(no_mangle)]
static NO_SOCKETS: SocketsRow =
    SocketsRow { close_wait_since_ns: 0, generation: 0, netns_inum: 0, counts: [0; STATE_SLOTS] };

// match-proto: 5.8- int bpf_iter_task_file(struct bpf_iter_meta *meta, struct task_struct *task, u32 fd, struct file *file)
/// Context: process, the agent's worker. Frequency: each open file of the node once a pass.
/// Cost: 1 h; for a TCP socket 2 h and 2 m, 2 m more if other descriptors may lead to it or it is in
/// CLOSE_WAIT; for a listener 3 h, and what `listeners_by_task` adds if other descriptors may lead to it.
#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
pub extern "C" fn sockets_by_task(ctx: *mut c_void) -> i32 {
    let Some((sk, holder)) = socket_of_task(ctx) else { return 0 };
    let tcp = Direct.tcp_sock(sk);
    if tcp.is_null() {
        write_mptcp_listener(ctx, sk, holder);
        return 0;
    }
    // A listener that is shown once more must not count twice.
    if !write_listener(ctx, tcp, holder) {
        return 0;
    }
    let Some(walk) = walk() else { return 0 };
    if is_younger(walk, holder.task) || (may_repeat(holder) && is_repeated(walk, tcp)) {
        return 0;
    }
    count(walk, tcp, owner(tcp, holder.task));
    0
}

// match-proto: 5.9- int bpf_iter_tcp(struct bpf_iter_meta *meta, struct sock_common *sk_common, uid_t uid)
/// Context: process, the agent's worker inside the namespace. Frequency: each TCP socket of it once
/// a pass. Cost: 1 h and 2 m; for a listener 2 h and 2 m; in CLOSE_WAIT 2 m more.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
pub extern "C" fn sockets_by_netns(ctx: *mut c_void) -> i32 {
    let sk = context_pointer(ctx, 1);
    if sk.is_null() {
        return 0;
    }
    let tcp = Direct.tcp_sock(sk);
    if tcp.is_null() || !write_listener(ctx, tcp, Holder::UNSEEN) || !is_owned(tcp) {
        return 0;
    }
    let Some(walk) = walk() else { return 0 };
    count(walk, tcp, owner(tcp, core::ptr::null()));
    0
}

/// The walk under way, with its start noted.
#[inline(always)]
fn walk() -> Option<&'static mut SocketWalk> {
    let walk = SOCKET_WALK.get_ptr_mut(0)?;
    // SAFETY: the look-up did not fail, and nobody else writes while the one thread walks.
    let walk = unsafe { &mut *walk };
    if walk.started_ns == 0 {
        walk.started_ns = sock::now_ns();
        // SAFETY: the helper has no preconditions.
        walk.started_jiffies = unsafe { bpf_jiffies64() };
    }
    Some(walk)
}

/// Whether a descriptor stands for the socket: not while it waits for accept(), not after close(), not
/// if it is the kernel's own.
#[inline(always)]
fn is_owned(tcp: *const u8) -> bool {
    let socket: *const u8 = Direct.load(tcp, offset!(sk_socket));
    if socket.is_null() {
        return false;
    }
    let file: *const u8 = Direct.load(socket, offset!(socket_file));
    !file.is_null()
}

/// A process that was forked during the walk holds what its parent held, which counts there.
#[inline(always)]
fn is_younger(walk: &SocketWalk, task: *const u8) -> bool {
    Direct.load::<u64>(task, offset!(task_start_time)) >= walk.started_ns
}

/// Whether this walk has counted the socket; notes it if not. Without room to note it, it does not
/// count: rather too few than one twice.
#[inline(always)]
fn is_repeated(walk: &mut SocketWalk, tcp: *const u8) -> bool {
    let key = tcp as u64;
    if let Some(counted) = SHARED_SOCKETS.get_ptr(&key) {
        // SAFETY: the look-up did not fail.
        if unsafe { *counted } == walk.generation {
            return true;
        }
    }
    if walk.shared >= SHARED_SOCKETS_MAX || SHARED_SOCKETS.insert(&key, &walk.generation, 0).is_err() {
        walk.uncounted += 1;
        return true;
    }
    walk.shared += 1;
    false
}

/// cgroup and, where that tells nothing, process. On v1 and hybrid hosts, and before 5.15, the socket's
/// cgroup is not known; the task's may be.
#[inline(always)]
fn owner(tcp: *const u8, task: *const u8) -> (u64, u32) {
    let cgroup = sock::cgroup_id(Direct, tcp);
    if cgroup > CGROUP_ROOT || task.is_null() {
        return (cgroup, 0);
    }
    let cgroup = sock::task_cgroup_id(Direct, task);
    if cgroup > CGROUP_ROOT { (cgroup, 0) } else { (cgroup, sock::task_tgid(Direct, task)) }
}

#[inline(always)]
fn count(walk: &mut SocketWalk, tcp: *const u8, (cgroup, holder_tgid): (u64, u32)) {
    let netns = sock::netns(Direct, tcp);
    let Some(row) = row(&SocketsKey { netns: netns.id, cgroup, holder_tgid, zero: 0 }) else {
        walk.uncounted += 1;
        return;
    };
    // SAFETY: the look-up did not fail, and nobody else writes while the one thread walks.
    let row = unsafe { &mut *row };
    if row.generation != walk.generation {
        *row = SocketsRow { generation: walk.generation, netns_inum: netns.inum, ..NO_SOCKETS };
    }
    let state: u8 = Direct.load(tcp, offset!(skc_state));
    // Kept from the compiler, which would check the bound before the verifier of 6.1 forgets it.
    row.counts[core::hint::black_box(usize::from(state)) & (STATE_SLOTS - 1)] += 1;
    if state == state::CLOSE_WAIT {
        let since_ns = close_wait_since(walk, tcp);
        if row.close_wait_since_ns == 0 || since_ns < row.close_wait_since_ns {
            row.close_wait_since_ns = since_ns;
        }
    }
}

/// The owner's row, made if there is room; else the `_other` row of its namespace.
#[inline(always)]
fn row(key: &SocketsKey) -> Option<*mut SocketsRow> {
    if let Some(row) = SOCKETS.get_ptr_mut(key) {
        return Some(row);
    }
    let _ = SOCKETS.insert(key, &NO_SOCKETS, 0);
    if let Some(row) = SOCKETS.get_ptr_mut(key) {
        return Some(row);
    }
    let other = SocketsKey { netns: key.netns, cgroup: CGROUP_OTHER, holder_tgid: 0, zero: 0 };
    if SOCKETS_OTHER.get_ptr(&other).is_none() {
        let _ = SOCKETS_OTHER.insert(&other, &NO_SOCKETS, 0);
    }
    SOCKETS_OTHER.get_ptr_mut(&other)
}

/// Since when the socket is in CLOSE_WAIT, at the latest: since the last ACK came, which the FIN
/// carried unless more followed, or what the first walk that saw it there found.
#[inline(always)]
fn close_wait_since(walk: &SocketWalk, tcp: *const u8) -> u64 {
    let since_ns = last_ack(walk, tcp);
    let hash: u32 = Direct.load(tcp, offset!(skc_hash));
    let key = tcp as u64;
    let Some(seen) = CLOSE_WAIT_SEEN.get_ptr_mut(&key) else {
        let seen = CloseWaitSeen { since_ns, generation: walk.generation, hash };
        let _ = CLOSE_WAIT_SEEN.insert(&key, &seen, 0);
        return since_ns;
    };
    // SAFETY: the look-up did not fail, and nobody else writes while the one thread walks.
    let seen = unsafe { &mut *seen };
    let is_same = seen.hash == hash && seen.generation.wrapping_add(1) == walk.generation;
    if !is_same || since_ns < seen.since_ns {
        seen.since_ns = since_ns;
    }
    seen.hash = hash;
    seen.generation = walk.generation;
    seen.since_ns
}

/// When the last ACK came, at the earliest a tick too late; ktime nanoseconds.
#[inline(always)]
fn last_ack(walk: &SocketWalk, tcp: *const u8) -> u64 {
    let stamp: u32 = Direct.load(tcp, offset!(rcv_tstamp));
    // An ACK may have come since the walk began, and ticks wrap: either way the age is no less than 0.
    let ticks = (walk.started_jiffies as u32).wrapping_sub(stamp);
    if stamp == 0 || ticks.cast_signed() <= 0 {
        return walk.started_ns;
    }
    walk.started_ns.saturating_sub(u64::from(ticks - 1) * u64::from(setting!(tick_ns)))
}
