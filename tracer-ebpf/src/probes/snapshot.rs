//! The listener pass: one [`ListenerSocket`] for each listening socket, written to the iterator's
//! file. The task_file walk covers all namespaces and names the holder; the tcp walk serves kernels
//! without `bpf_sock_from_file` (5.10) and covers the namespace of the thread that opened it.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_seq_write, bpf_sock_from_file};
use tracer_ebpf::{counter::ListenerSocket, state};

use crate::{
    constants::offset,
    reader::{Direct, Reader},
    sock,
};

/// Pointer number `index` of an iterator's context.
#[inline(always)]
pub fn context_pointer(ctx: *mut c_void, index: usize) -> *const u8 {
    let field = ctx.cast::<*const u8>().wrapping_add(index);
    // SAFETY: the verifier knows the context's layout and refuses anything outside it.
    unsafe { *field }
}

/// Writes a record if `sk` is a TCP listener. `task` is null in a namespace-bound walk.
#[inline(always)]
fn write_listener(ctx: *mut c_void, sk: *const u8, task: *const u8) {
    let tcp = Direct.tcp_sock(sk);
    if tcp.is_null() || Direct.load::<u8>(tcp, offset!(skc_state)) != state::LISTEN {
        return;
    }
    let netns = sock::netns(Direct, tcp);
    let queues = sock::queues(Direct, tcp);
    let mut record = ListenerSocket {
        key: sock::listener_key(Direct, tcp, netns),
        sock: tcp as u64,
        holder_cgroup: 0,
        holder_tgid: 0,
        netns_inum: netns.inum,
        accept_queue_length: queues.accept,
        accept_queue_limit: queues.limit,
        syn_queue_length: queues.syn,
        sk_drops: Direct.load(tcp, offset!(sk_drops)),
        holder_comm: [0; 16],
    };
    if !task.is_null() {
        record.holder_cgroup = sock::task_cgroup_id(Direct, task);
        record.holder_tgid = sock::task_tgid(Direct, task);
        record.holder_comm = sock::leader_comm(Direct, task);
    }
    let meta = context_pointer(ctx, 0);
    let seq: *const u8 = Direct.load(meta, 0);
    // SAFETY: `seq` is the iterator's file; the record is initialised to its last byte.
    unsafe { bpf_seq_write(seq.cast_mut().cast(), (&raw const record).cast(), size_of::<ListenerSocket>() as u32) };
}

// match-proto: 5.8- int bpf_iter_task_file(struct bpf_iter_meta *meta, struct task_struct *task, u32 fd, struct file *file)
/// Context: process, the agent's worker. Frequency: each open file of the node once a pass.
/// Cost: 1 h; for a TCP socket 2 h; for a listener 3 h.
#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
pub extern "C" fn listeners_by_task(ctx: *mut c_void) -> i32 {
    let task = context_pointer(ctx, 1);
    let file = context_pointer(ctx, 3);
    if task.is_null() || file.is_null() {
        return 0;
    }
    // SAFETY: the verifier checks that `file` is a `struct file *`.
    let socket: *const u8 = unsafe { bpf_sock_from_file(file.cast_mut().cast()) }.cast();
    if socket.is_null() {
        return 0;
    }
    let sk: *const u8 = Direct.load(socket, offset!(socket_sk));
    if !sk.is_null() {
        write_listener(ctx, sk, task);
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
    if !sk.is_null() {
        write_listener(ctx, sk, core::ptr::null());
    }
    0
}
