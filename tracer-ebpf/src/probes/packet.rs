//! Rung 3 of the listener drops: what can be told from packets where no function can be hooked.
//!
//! Ingress sees every packet that the stack hands to a listener, before the listener judges it, and
//! leaves it pending on this CPU. The answer follows within the same softirq: a SYN-ACK at egress,
//! or a child (set_state LISTEN→SYN_RECV). Whatever is still pending when the next packet for a
//! listener comes to this CPU was dropped. (The agent adds what is pending while it reads.)
//!
//! A SYN-ACK with a cookie carries no socket, so with cookies in play the SYN is judged by the
//! queues instead, as it is for a family whose SYN-ACKs were never seen at egress.

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock,
    helpers::generated::{bpf_jiffies64, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use tracer_ebpf::{
    counter::{DropReason, ListenerKey, PendingHandshake},
    settings::switch,
    state,
};

use crate::{
    constants::{offset, present},
    final_ack,
    listener::{Client, RACING_AFTER_PACKET, Seen, count_drop, emit_drop},
    maps::{EGRESS_SEEN, LAST_PACKET, LastPacket, PENDING, switched_on},
    packet::{ACK, FIN, Packet, RST, SYN, Tuple},
    reader::{Direct, Reader},
    sock::{self, Queues},
};

/// Let the packet pass; this program only looks.
const PASS: i32 = 1;
/// `BPF_F_CURRENT_NETNS`
const CURRENT_NETNS: u64 = u64::MAX;
/// Two minutes, in jiffies of the fastest clock (HZ = 1000): a cookie is not valid for longer.
const COOKIE_VALID_JIFFIES_MAX: u32 = 120_000;

// match-proto: 4.10- BPF_CGROUP_INET_INGRESS, struct __sk_buff with `sk` = the receiving socket
/// Context: softirq. Frequency: every packet for a local socket; two loads and out for all but a
/// listener's. Cost for a listener's: 1 h to 5 h, 2 m.
#[cgroup_skb(ingress)]
pub fn listener_ingress(ctx: SkBuffContext) -> i32 {
    let sk = listening_socket(&ctx);
    if !sk.is_null() {
        let tcp = Direct.tcp_sock(sk);
        if !tcp.is_null() {
            received(&ctx, tcp);
        }
    }
    PASS
}

// match-proto: 4.10- BPF_CGROUP_INET_EGRESS, struct __sk_buff with `sk` = the sending full socket
/// Context: softirq. Frequency: every packet of a local socket, two loads; a listener sends nothing
/// but SYN-ACKs. Cost for those: 1 h to 3 h, 2 m.
#[cgroup_skb(egress)]
pub fn listener_egress(ctx: SkBuffContext) -> i32 {
    if !listening_socket(&ctx).is_null() {
        answered(&ctx);
    }
    PASS
}

/// The packet's socket if it is a listener, else null.
#[inline(always)]
fn listening_socket(ctx: &SkBuffContext) -> *const u8 {
    // SAFETY: the context is valid for the program's run.
    let skb = unsafe { &*ctx.skb.skb };
    // SAFETY: every member of this union has the bits of a pointer.
    let sk = unsafe { skb.__bindgen_anon_2.sk };
    if !sk.is_null() && socket_state(sk) == u32::from(state::LISTEN) {
        sk.cast_const().cast()
    } else {
        core::ptr::null()
    }
}

/// State of a socket that is not null.
#[inline(always)]
fn socket_state(sk: *const bpf_sock) -> u32 {
    // SAFETY: the verifier admits the fields of `struct bpf_sock` behind a pointer that was checked.
    let sk = unsafe { &*sk };
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::read_volatile(&raw const sk.state) }
}

#[inline(always)]
fn received(ctx: &SkBuffContext, tcp: *const u8) {
    let Some(packet) = Packet::parse(ctx) else { return };
    let Some(pending) = PENDING.get_ptr_mut(0) else { return };
    resolve_as_dropped(pending);
    note_listener(tcp, &packet);
    final_ack::close();
    match packet.flags & (SYN | ACK | RST | FIN) {
        SYN => syn(ctx, tcp, &packet, pending),
        flags if flags & (ACK | SYN | RST) == ACK => ack(ctx, tcp, &packet, pending),
        _ => {}
    }
}

/// Keeps the listener for the child that may come of the packet.
#[inline(always)]
fn note_listener(tcp: *const u8, packet: &Packet) {
    if let Some(last) = LAST_PACKET.get_ptr_mut(0) {
        let listener = sock::listener_key(Direct, tcp, sock::netns(Direct, tcp));
        // SAFETY: a map value of this CPU's own.
        unsafe { *last = LastPacket { listener, remote_port: packet.source_port } };
    }
}

/// Nothing answered the pending handshake: count it. A function of its own, for its stack.
#[inline(never)]
fn resolve_as_dropped(pending: *mut PendingHandshake) {
    // SAFETY: a map value of this CPU's own.
    let pending = unsafe { &mut *pending };
    if pending.since_ns == 0 {
        return;
    }
    let reason = match pending.reason {
        0 => DropReason::AcceptQueueFullSyn,
        1 => DropReason::AcceptQueueFullAck,
        2 => DropReason::SynQueueFull,
        _ => DropReason::Other,
    };
    let queues = Queues { accept: pending.queue_length, limit: pending.queue_limit, syn: pending.syn_queue_length };
    let client = Client { address: pending.remote, port: pending.remote_port };
    let seen = Seen {
        netns_inum: pending.netns_inum,
        family: pending.family,
        local: pending.local,
        client,
        time_ns: pending.since_ns,
    };
    pending.since_ns = 0;
    count_drop(&pending.listener, pending.netns_inum, reason, queues);
    emit_drop(&pending.listener, seen, queues, reason);
}

/// A SYN without ACK, RST or FIN: `tcp_conn_request` follows, unless it repeats a known request.
#[inline(always)]
fn syn(ctx: &SkBuffContext, tcp: *const u8, packet: &Packet, pending: *mut PendingHandshake) {
    if request_of(ctx, tcp, packet).is_known() {
        return;
    }
    let queues = sock::queues(Direct, tcp);
    let cookies = sock::syncookies(Direct, tcp);
    let reason = if cookies == 0 && queues.syn_full() {
        DropReason::SynQueueFull
    } else if queues.accept_full() {
        DropReason::AcceptQueueFullSyn
    } else {
        DropReason::Other
    };
    let cookie_sent = cookies == 2 || (cookies == 1 && queues.syn_full());
    if cookie_sent || !egress_seen(packet.is_v6()) {
        // The answer cannot be seen: let the queues decide at once.
        if !matches!(reason, DropReason::Other) {
            leave_pending(tcp, packet, pending, reason, queues);
            resolve_as_dropped(pending);
        }
        return;
    }
    // If no answer comes the SYN was dropped, and the reason is told from this look at the queue:
    // another CPU may fill the last places before the kernel looks.
    let reason = match reason {
        // The kernel looks at the SYN queue first.
        DropReason::Other if cookies == 0 && queues.syn_full_with_one_more() => DropReason::SynQueueFull,
        DropReason::Other if queues.accept > 0 && !queues.accept_has_room(RACING_AFTER_PACKET) => {
            DropReason::AcceptQueueFullSyn
        }
        reason => reason,
    };
    leave_pending(tcp, packet, pending, reason, queues);
}

/// An ACK: with a request it may make a child; without, it may carry a cookie.
#[inline(always)]
fn ack(ctx: &SkBuffContext, tcp: *const u8, packet: &Packet, pending: *mut PendingHandshake) {
    let request = request_of(ctx, tcp, packet);
    let queues = sock::queues(Direct, tcp);
    match request {
        Request::Completes => {
            let kernel_tells = switched_on(switch::ACK_DROPS_BY_KFREE_SKB);
            final_ack::open(tcp as u64, queues.accept_has_room(RACING_AFTER_PACKET), !kernel_tells);
            if !kernel_tells {
                // A child makes this forgotten; if the child is given up, its end tells.
                let has_room = queues.accept_has_room(RACING_AFTER_PACKET);
                let reason = if has_room { DropReason::Other } else { DropReason::AcceptQueueFullAck };
                leave_pending(tcp, packet, pending, reason, queues);
            }
        }
        Request::None if queues.accept_full() && cookies_were_sent(tcp) => {
            leave_pending(tcp, packet, pending, DropReason::AcceptQueueFullAck, queues);
        }
        _ => {}
    }
}

/// What the packet means to the request that it belongs to.
#[derive(Clone, Copy)]
enum Request {
    /// There is none.
    None,
    /// There is one, and the packet will not complete it.
    Waits,
    /// There is one, and the packet completes the handshake.
    Completes,
}

impl Request {
    #[inline(always)]
    fn is_known(self) -> bool {
        !matches!(self, Self::None)
    }
}

/// Finds the request that the packet belongs to, as the stack itself did.
#[inline(always)]
fn request_of(ctx: &SkBuffContext, tcp: *const u8, packet: &Packet) -> Request {
    let mut tuple = Tuple::of(packet);
    // SAFETY: tuple and size belong together; the reference is released below on every path.
    let sk = unsafe { bpf_skc_lookup_tcp(ctx.as_ptr(), tuple.as_mut_ptr(), packet.tuple_size(), CURRENT_NETNS, 0) };
    if sk.is_null() {
        return Request::None;
    }
    let request = if socket_state(sk) == u32::from(state::NEW_SYN_RECV) {
        let treq = Direct::tcp_request_sock(sk.cast_const().cast());
        // An MPTCP request has another type: its ACK is taken as completing.
        if treq.is_null() || completes(tcp, treq, packet) { Request::Completes } else { Request::Waits }
    } else {
        Request::None
    };
    // SAFETY: the reference taken by the look-up.
    unsafe { bpf_sk_release(sk.cast()) };
    request
}

/// The conditions of `tcp_check_req()` under which it goes on to make a child. PAWS is left out:
/// a handshake older than a clock's wrap does not occur.
#[inline(always)]
fn completes(tcp: *const u8, treq: *const u8, packet: &Packet) -> bool {
    if packet.flags & ACK == 0 {
        return false;
    }
    let isn: u32 = Direct.load(treq, offset!(treq_snt_isn));
    if packet.ack_sequence != isn.wrapping_add(1) {
        return false;
    }
    let start: u32 = Direct.load(treq, offset!(treq_rcv_nxt));
    let end = start.wrapping_add(Direct.load(treq, offset!(req_rcv_wnd)));
    if !in_window(packet.sequence, packet.end_sequence(), start, end) {
        return false;
    }
    let bare = packet.end_sequence() == start;
    let timeouts = Direct.load::<u8>(treq, offset!(req_num_timeout)) >> 1;
    !(bare && timeouts < Direct.load::<u8>(tcp, offset!(icsk_defer_accept)))
}

/// `tcp_in_window()`
#[inline(always)]
fn in_window(sequence: u32, end_sequence: u32, start: u32, end: u32) -> bool {
    let after = |a: u32, b: u32| b.wrapping_sub(a).cast_signed() < 0;
    sequence == start
        || (after(end_sequence, start) && after(end, sequence))
        || (sequence == end && sequence == end_sequence)
}

/// Whether the listener sent cookies lately, so that an ACK without request may carry one.
#[inline(always)]
fn cookies_were_sent(tcp: *const u8) -> bool {
    if sock::syncookies(Direct, tcp) == 0 {
        return false;
    }
    let mut stamp: u32 = Direct.load(tcp, offset!(ts_recent_stamp));
    if present(offset!(reuse_synq_overflow_ts)) {
        let group: *const u8 = Direct.load(tcp, offset!(sk_reuseport_cb));
        if !group.is_null() {
            stamp = Direct.load(group, offset!(reuse_synq_overflow_ts));
        }
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_jiffies64() } as u32;
    stamp != 0 && now.wrapping_sub(stamp) < COOKIE_VALID_JIFFIES_MAX
}

#[inline(always)]
fn leave_pending(tcp: *const u8, packet: &Packet, pending: *mut PendingHandshake, reason: DropReason, queues: Queues) {
    let netns = sock::netns(Direct, tcp);
    // SAFETY: a map value of this CPU's own.
    let pending = unsafe { &mut *pending };
    pending.listener = sock::listener_key(Direct, tcp, netns);
    pending.netns_inum = netns.inum;
    pending.remote = packet.source;
    pending.local = packet.destination;
    pending.queue_length = queues.accept;
    pending.queue_limit = queues.limit;
    pending.syn_queue_length = queues.syn;
    pending.remote_port = packet.source_port;
    pending.reason = reason as u8;
    pending.answer_ack = if packet.flags & ACK == 0 { packet.sequence.wrapping_add(1) } else { 0 };
    pending.family = if packet.is_v6() { sock::AF_INET6 as u8 } else { sock::AF_INET as u8 };
    // Last, since the agent reads it from another CPU.
    pending.since_ns = sock::now_ns();
}

#[inline(always)]
fn forget(pending: *mut PendingHandshake) {
    // SAFETY: a map value of this CPU's own.
    unsafe { (*pending).since_ns = 0 };
}

/// A SYN-ACK leaves: the SYN that it answers is not dropped. One that a timer repeats answers
/// another client. They are told apart by what is acknowledged: addresses and our port may have been
/// translated back by now (REDIRECT, DNAT).
#[inline(always)]
fn answered(ctx: &SkBuffContext) {
    let Some(packet) = Packet::parse(ctx) else { return };
    if packet.flags & (SYN | ACK) != SYN | ACK {
        return;
    }
    if let Some(seen) = EGRESS_SEEN.get_ptr_mut(u32::from(packet.is_v6())) {
        // SAFETY: the look-up did not fail; every writer writes 1.
        unsafe { *seen = 1 };
    }
    let Some(pending) = PENDING.get_ptr_mut(0) else { return };
    // SAFETY: a map value of this CPU's own.
    let waiting = unsafe { &*pending };
    if waiting.since_ns != 0
        && waiting.answer_ack == packet.ack_sequence
        && waiting.remote_port == packet.destination_port
    {
        forget(pending);
    }
}

#[inline(always)]
fn egress_seen(v6: bool) -> bool {
    EGRESS_SEEN.get(u32::from(v6)).is_some_and(|seen| *seen != 0)
}

/// Called by set_state: a child was cloned from a listener, on this CPU. It has its listener's port and no other end
/// yet, or (Linux 6.14 and later) its own two ends.
#[inline(always)]
pub fn child_born(port: u16, remote_port: u16) {
    let Some(pending) = PENDING.get_ptr_mut(0) else { return };
    // SAFETY: a map value of this CPU's own.
    let waiting = unsafe { &*pending };
    let is_answer = if remote_port == 0 { waiting.listener.port == port } else { waiting.remote_port == remote_port };
    if is_answer {
        forget(pending);
    }
}

/// The listener that this CPU gave a packet from this client's port just now.
#[inline(always)]
pub fn listener_of(remote_port: u16) -> Option<ListenerKey> {
    // SAFETY: a map value of this CPU's own.
    let last = unsafe { &*LAST_PACKET.get_ptr(0)? };
    (last.remote_port == remote_port && last.listener.port != 0).then_some(last.listener)
}

/// Called by set_state: a child was closed before its handshake ended. If the kernel did so because it had no use for
/// it, the ACK that the child was made for is dropped, and for no want of room.
#[inline(always)]
pub fn child_given_up(sk: *const u8) {
    if !final_ack::was_dropped_with(sk) {
        return;
    }
    let Some(pending) = PENDING.get_ptr_mut(0) else { return };
    // SAFETY: a map value of this CPU's own; no other packet for a listener came since it was left.
    let handshake = unsafe { &mut *pending };
    handshake.reason = DropReason::Other as u8;
    handshake.since_ns = sock::now_ns();
    resolve_as_dropped(pending);
}
