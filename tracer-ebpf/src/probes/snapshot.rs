//! The listener pass: one [`ListenerSocket`] for each listening socket and each process that holds it
//! ([`super::told`] has the bounds), written to the iterator's file. The task_file walk covers all namespaces and names the holder; the tcp walk serves kernels
//! without `bpf_sock_from_file` (5.10) and covers the namespace of the thread that opened it. Listeners that no
//! descriptor leads to are found in the namespace's own table (`kernel::listening` of the agent). The
//! socket pass ([`super::sockets`]) is the same walk with counts beside the records.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_seq_write, bpf_sock_from_file};
use tracer_ebpf::{
    counter::{ListenerKey, ListenerSocket},
    state,
};

use super::told::{self, Held};
use crate::{
    constants::{offset, present, setting},
    reader::{Direct, Probe, Reader},
    sock,
};

/// Pointer number `index` of an iterator's context.
#[inline(always)]
pub fn context_pointer(ctx: *mut c_void, index: usize) -> *const u8 {
    let field = ctx.cast::<*const u8>().wrapping_add(index);
    // SAFETY: the verifier knows the context's layout and refuses anything outside it.
    unsafe { *field }
}

/// The socket behind an open file, `struct sock *`; null if there is none.
#[inline(always)]
pub fn sock_of_file(file: *const u8) -> *const u8 {
    // SAFETY: the verifier checks that `file` is a `struct file *`.
    let socket: *const u8 = unsafe { bpf_sock_from_file(file.cast_mut().cast()) }.cast();
    if socket.is_null() { core::ptr::null() } else { Direct.load(socket, offset!(socket_sk)) }
}

/// Who holds a listener, and by which file; all null in a namespace-bound walk.
#[derive(Clone, Copy)]
pub struct Holder {
    /// `struct task_struct *`
    pub task: *const u8,
    /// `struct file *`
    pub file: *const u8,
}

impl Holder {
    /// A walk over sockets names no holder.
    pub const UNSEEN: Self = Self { task: core::ptr::null(), file: core::ptr::null() };
}

/// The socket that an open file leads to, with its holder. `None`: the file is no socket, or the walk is at its end.
#[inline(always)]
pub fn socket_of_task(ctx: *mut c_void) -> Option<(*const u8, Holder)> {
    let holder = Holder { task: context_pointer(ctx, 1), file: context_pointer(ctx, 3) };
    if holder.task.is_null() || holder.file.is_null() {
        return None;
    }
    let sk = sock_of_file(holder.file);
    if sk.is_null() { None } else { Some((sk, holder)) }
}

/// Writes a record if `tcp`, a `struct tcp_sock *`, is a listener. False if the iterator's file had no room for it:
/// then the kernel shows the same socket once more, at the next `read()`.
#[inline(always)]
#[must_use]
pub fn write_listener(ctx: *mut c_void, tcp: *const u8, holder: Holder) -> bool {
    if Direct.load::<u8>(tcp, offset!(skc_state)) != state::LISTEN {
        return true;
    }
    let netns = sock::netns(Direct, tcp);
    let key = sock::listener_key(Direct, tcp, netns);
    write_once(ctx, (&key, tcp), holder, || record(Direct, tcp, key, netns.inum))
}

/// Writes a record if `sk`, a `struct sock *`, is an MPTCP listener. What listens is its first subflow, a TCP socket
/// without a descriptor, to which no typed pointer leads.
#[inline(always)]
pub fn write_mptcp_listener(ctx: *mut c_void, sk: *const u8, holder: Holder) {
    if Direct.load::<u16>(sk, offset!(sk_protocol)) != sock::IPPROTO_MPTCP
        || Direct.load::<u8>(sk, offset!(skc_state)) != state::LISTEN
    {
        return;
    }
    let netns = sock::netns(Direct, sk);
    let key = sock::listener_key(Direct, sk, netns);
    let _ = write_once(ctx, (&key, sk), holder, || {
        if setting!(may_probe_read) == 1 && present(offset!(mptcp_first)) {
            let first: *const u8 = Probe.load(sk, offset!(mptcp_first));
            if !first.is_null() && Probe.load::<u8>(first, offset!(skc_state)) == state::LISTEN {
                return record(Probe, first, key, netns.inum);
            }
        }
        ListenerSocket { key, netns_inum: netns.inum, ..NO_LISTENER }
    });
}

/// Writes what `record` gives, unless this walk has written as much of the listener; false if there was no room.
#[inline(always)]
fn write_once(
    ctx: *mut c_void,
    (key, sk): (&ListenerKey, *const u8),
    holder: Holder,
    record: impl FnOnce() -> ListenerSocket,
) -> bool {
    if holder.task.is_null() || !told::may_repeat(holder) {
        return write(ctx, &record(), holder);
    }
    let Some(walk) = told::walk(ctx) else { return true };
    let held = Held { key, sock: sk as u64, tgid: sock::task_tgid(Direct, holder.task) };
    if !told::is_news(walk, &held) {
        return true;
    }
    let has_room = write(ctx, &record(), holder);
    if has_room {
        told::note(walk, &held);
    }
    has_room
}

/// First value of a record.
const NO_LISTENER: ListenerSocket = ListenerSocket {
    key: ListenerKey::NONE,
    sock: 0,
    inode: 0,
    holder_cgroup: 0,
    holder_tgid: 0,
    netns_inum: 0,
    accept_queue_length: 0,
    accept_queue_limit: 0,
    syn_queue_length: 0,
    sk_drops: 0,
    holder_comm: [0; 16],
};

/// What a listening `struct tcp_sock *` tells.
#[inline(always)]
fn record<R: Reader>(r: R, tcp: *const u8, key: ListenerKey, netns_inum: u32) -> ListenerSocket {
    let queues = sock::queues(r, tcp);
    ListenerSocket {
        key,
        sock: tcp as u64,
        netns_inum,
        accept_queue_length: queues.accept,
        accept_queue_limit: queues.limit,
        syn_queue_length: queues.syn,
        sk_drops: r.load(tcp, offset!(sk_drops)),
        ..NO_LISTENER
    }
}

/// Writes a record with its holder; false if the iterator's file had no room for it.
#[inline(always)]
fn write(ctx: *mut c_void, record: &ListenerSocket, holder: Holder) -> bool {
    let mut record = *record;
    if !holder.task.is_null() {
        record.holder_cgroup = sock::task_cgroup_id(Direct, holder.task);
        record.holder_tgid = sock::task_tgid(Direct, holder.task);
        record.holder_comm = sock::leader_comm(Direct, holder.task);
    }
    if !holder.file.is_null() {
        let inode: *const u8 = Direct.load(holder.file, offset!(file_inode));
        record.inode = Direct.load(inode, offset!(inode_number));
    }
    let meta = context_pointer(ctx, 0);
    let seq: *const u8 = Direct.load(meta, 0);
    // SAFETY: `seq` is the iterator's file; the record is initialised to its last byte.
    let failed =
        unsafe { bpf_seq_write(seq.cast_mut().cast(), (&raw const record).cast(), size_of::<ListenerSocket>() as u32) };
    failed == 0
}

// match-proto: 5.8- int bpf_iter_task_file(struct bpf_iter_meta *meta, struct task_struct *task, u32 fd, struct file *file)
/// Context: process, the agent's worker. Frequency: each open file of the node once a pass.
/// Cost: 1 h; for a TCP socket 2 h; for a listener 3 h, for an MPTCP listener 9 h; if other descriptors may lead to a
/// listener 5 m more the first time, and 3 m instead each further time.
#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
pub extern "C" fn listeners_by_task(ctx: *mut c_void) -> i32 {
    let Some((sk, holder)) = socket_of_task(ctx) else { return 0 };
    let tcp = Direct.tcp_sock(sk);
    if tcp.is_null() {
        write_mptcp_listener(ctx, sk, holder);
    } else {
        let _ = write_listener(ctx, tcp, holder);
    }
    0
}

// match-proto: 5.9- int bpf_iter_tcp(struct bpf_iter_meta *meta, struct sock_common *sk_common, uid_t uid)
/// Context: process, the agent's worker inside the namespace. Frequency: each TCP socket of it once
/// a pass. Cost: 1 h; for a listener 2 h.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
pub extern "C" fn listeners_by_netns(ctx: *mut c_void) -> i32 {
    let sk = context_pointer(ctx, 1);
    if sk.is_null() {
        return 0;
    }
    let tcp = Direct.tcp_sock(sk);
    if !tcp.is_null() {
        let _ = write_listener(ctx, tcp, Holder::UNSEEN);
    }
    0
}
