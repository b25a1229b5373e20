//! Rungs 1 and 2 of the listener drops, SYN stage: outcomes of `tcp_conn_request`.
//!
//! The entry hook opens a per-CPU slot, marks are set in it on the way, the exit hook closes it: no
//! mark of an answer means that the SYN was dropped. The reason follows by elimination from how far
//! the SYN came and from two looks at the queues. fentry and kprobe twins share the slot, so they can be mixed hook by hook.

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use tracer_ebpf::{counter::DropReason, settings::switch, state};

use crate::{
    constants::offset,
    listener::{Client, RACING_IN_FUNCTION, drop_at},
    maps::{CONN_REQUEST, ConnRequest, switched_on},
    reader::{Direct, Probe, Reader},
    sock,
};

const ETH_P_IPV6: u16 = 0x86dd;

/// The SYN was answered, or a request or child made for it.
const ANSWERED: u32 = 1;
/// The SYN came past the checks of both queues.
const ROUTED: u32 = 2;
/// At entry the SYN queue was full and cookies were off.
const SYN_QUEUE_FULL: u32 = 4;
/// At entry the accept queue clearly had room.
const ACCEPT_HAD_ROOM: u32 = 8;
/// A Fast Open child was made.
const FAST_OPEN: u32 = 16;
/// A TIME_WAIT socket gave way on this CPU since the last SYN, perhaps to this one.
const MET_TIME_WAIT: u32 = 32;

#[inline(always)]
fn enter<R: Reader>(r: R, sk: *const u8, skb: *const u8) {
    let tcp = r.tcp_sock(sk);
    if tcp.is_null() {
        return;
    }
    let Some(slot) = CONN_REQUEST.get_ptr_mut(0) else { return };
    // SAFETY: the look-up did not fail; the value is this CPU's own and BH is off.
    let slot = unsafe { &mut *slot };
    let queues = sock::queues(r, tcp);
    let mut marks = 0;
    if sock::syncookies(r, sk) == 0 && queues.syn_full() {
        marks |= SYN_QUEUE_FULL;
    }
    if slot.met_time_wait != 0 {
        marks |= MET_TIME_WAIT;
    }
    if queues.accept_has_room(RACING_IN_FUNCTION) {
        marks |= ACCEPT_HAD_ROOM;
    }
    *slot = ConnRequest { sk: sk as u64, skb: skb as u64, open: 1, marks, met_time_wait: 0, zero: 0 };
}

/// Sets a mark, if the caller is inside `tcp_conn_request`: timers call these functions too.
#[inline(always)]
fn mark(mark: u32) {
    if let Some(slot) = CONN_REQUEST.get_ptr_mut(0) {
        // SAFETY: as in `enter`.
        let slot = unsafe { &mut *slot };
        if slot.open == 1 {
            slot.marks |= mark;
        }
    }
}

/// A call of `tcp_conn_request` that may have answered nothing.
struct Unanswered {
    /// The listener, `struct sock *`.
    sk: u64,
    /// The SYN, `struct sk_buff *`, which the caller frees later.
    skb: u64,
    marks: u32,
}

/// Whether the outcome of this SYN can be told: without the functions of IPv6 an answer over IPv6 looks like none.
#[inline(always)]
fn is_told<R: Reader>(r: R, skb: *const u8) -> bool {
    let is_v6 = || r.load::<u16>(skb, offset!(skb_protocol)) == ETH_P_IPV6.to_be();
    !(switched_on(switch::OUTCOMES_OF_IPV4_ALONE) && is_v6())
}

/// Closes the slot; what is known, unless the SYN was answered for certain.
#[inline(always)]
fn leave() -> Option<Unanswered> {
    let slot = CONN_REQUEST.get_ptr_mut(0)?;
    // SAFETY: as in `enter`.
    let slot = unsafe { &mut *slot };
    if slot.open == 0 {
        return None;
    }
    slot.open = 0;
    let is_answered = slot.marks & (ANSWERED | FAST_OPEN) == ANSWERED;
    (!is_answered).then_some(Unanswered { sk: slot.sk, skb: slot.skb, marks: slot.marks })
}

/// Counts the SYN if it was dropped at the listener `tcp`.
#[inline(always)]
fn left<R: Reader>(r: R, tcp: *const u8, marks: u32) {
    if let Some(reason) = reason(r, tcp, marks) {
        drop_at(r, tcp, reason, Client::UNSEEN);
    }
}

/// Why the SYN was dropped; `None` if it was not.
#[inline(always)]
fn reason<R: Reader>(r: R, tcp: *const u8, marks: u32) -> Option<DropReason> {
    if marks & FAST_OPEN != 0 {
        // A listener that is closing takes no child any more.
        let is_closing = r.load::<u8>(tcp, offset!(skc_state)) != state::LISTEN;
        return if is_closing { Some(DropReason::Other) } else { None };
    }
    if marks & ROUTED != 0 {
        return Some(DropReason::Other);
    }
    let queues = sock::queues(r, tcp);
    // A SYN that meets a socket in TIME_WAIT is not held against the SYN queue.
    if marks & SYN_QUEUE_FULL != 0 && (marks & MET_TIME_WAIT == 0 || !queues.accept_full()) {
        return Some(DropReason::SynQueueFull);
    }
    if marks & ACCEPT_HAD_ROOM == 0 || !queues.accept_has_room(RACING_IN_FUNCTION) {
        return Some(DropReason::AcceptQueueFullSyn);
    }
    // Another CPU may have filled the SYN queue since the entry. Otherwise there was no memory, the listener is closing,
    // or (before 5.11) a security module said no.
    let is_syn_queue = sock::syncookies(r, tcp) == 0 && queues.syn_full_with_one_more();
    Some(if is_syn_queue { DropReason::SynQueueFull } else { DropReason::Other })
}

// match-proto: 5.10- int tcp_conn_request(struct request_sock_ops *rsk_ops, const struct tcp_request_sock_ops *af_ops, struct sock *sk, struct sk_buff *skb)
/// Context: softirq. Frequency: each SYN that reaches a listener. Cost: 1 m, 1 h.
#[fentry(function = "tcp_conn_request")]
pub fn tcp_conn_request_entry(ctx: FEntryContext) -> i32 {
    enter(Direct, ctx.arg(2), ctx.arg(3));
    0
}

// match-proto: 5.10- int tcp_conn_request(struct request_sock_ops *rsk_ops, const struct tcp_request_sock_ops *af_ops, struct sock *sk, struct sk_buff *skb)
/// Twin of the above.
#[kprobe(function = "tcp_conn_request")]
pub fn tcp_conn_request_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb)) = (ctx.arg(2), ctx.arg(3)) {
        enter(Probe, sk, skb);
    }
    0
}

// match-proto: 5.10- int tcp_conn_request(struct request_sock_ops *rsk_ops, const struct tcp_request_sock_ops *af_ops, struct sock *sk, struct sk_buff *skb)
/// Context and frequency as at entry. Cost: 1 m; on a drop 2 m, 3 h and one ring record more.
#[fexit(function = "tcp_conn_request")]
pub fn tcp_conn_request_exit(ctx: FExitContext) -> i32 {
    let sk: *const u8 = ctx.arg(2);
    if let Some(Unanswered { marks, .. }) = leave() {
        let tcp = Direct.tcp_sock(sk);
        if !tcp.is_null() && is_told(Direct, ctx.arg(3)) {
            left(Direct, tcp, marks);
        }
    }
    0
}

// match-proto: 5.10- int tcp_conn_request(struct request_sock_ops *rsk_ops, const struct tcp_request_sock_ops *af_ops, struct sock *sk, struct sk_buff *skb)
/// Twin of the above; takes the listener from the slot.
#[kretprobe(function = "tcp_conn_request")]
pub fn tcp_conn_request_kretprobe(_ctx: RetProbeContext) -> u32 {
    if let Some(Unanswered { sk, skb, marks }) = leave()
        && is_told(Probe, skb as *const u8)
    {
        left(Probe, sk as *const u8, marks);
    }
    0
}

/// A TIME_WAIT socket gives way. If it does so to a SYN, `tcp_conn_request` follows on this CPU, and asks no SYN queue.
#[inline(always)]
fn time_wait_ended() {
    if let Some(slot) = CONN_REQUEST.get_ptr_mut(0) {
        // SAFETY: as in `enter`.
        unsafe { (*slot).met_time_wait = 1 };
    }
}

// match-proto: 6.10- void inet_twsk_deschedule_put(struct inet_timewait_sock *tw)
/// Context: softirq or process. Frequency: each TIME_WAIT socket that ends before its time. Cost: 1 m.
#[fentry(function = "inet_twsk_deschedule_put")]
pub fn inet_twsk_deschedule_put_entry(_ctx: FEntryContext) -> i32 {
    time_wait_ended();
    0
}

// match-proto: 6.10- void inet_twsk_deschedule_put(struct inet_timewait_sock *tw)
/// Twin of the above.
#[kprobe(function = "inet_twsk_deschedule_put")]
pub fn inet_twsk_deschedule_put_kprobe(_ctx: ProbeContext) -> u32 {
    time_wait_ended();
    0
}

/// A pair of twins that set a mark when the function is entered.
macro_rules! mark_at_entry {
    ($(#[$doc:meta])* $function:literal, $fentry:ident, $kprobe:ident, $mark:expr) => {
        $(#[$doc])*
        #[fentry(function = $function)]
        pub fn $fentry(_ctx: FEntryContext) -> i32 {
            mark($mark);
            0
        }

        /// Twin of the above.
        #[kprobe(function = $function)]
        pub fn $kprobe(_ctx: ProbeContext) -> u32 {
            mark($mark);
            0
        }
    };
}

// match-proto: 5.10-5.14,5.16-6.1.96,6.2-6.5,6.7-6.9.7 void inet_csk_reqsk_queue_hash_add(struct sock *sk, struct request_sock *req, unsigned long timeout)
// match-proto: 6.1.97-6.1,6.9.8-6.18 bool inet_csk_reqsk_queue_hash_add(struct sock *sk, struct request_sock *req, unsigned long timeout)
// match-proto: 6.19- bool inet_csk_reqsk_queue_hash_add(struct sock *sk, struct request_sock *req)
mark_at_entry!(
    /// A request was made. Softirq, each answered SYN, 1 m.
    "inet_csk_reqsk_queue_hash_add", reqsk_queue_hash_add_entry, reqsk_queue_hash_add_kprobe, ANSWERED
);
// match-proto: 5.10- __u32 cookie_v4_init_sequence(const struct sk_buff *skb, __u16 *mssp)
mark_at_entry!(
    /// An IPv4 cookie was made, so a SYN-ACK follows. Softirq, 1 m.
    "cookie_v4_init_sequence", cookie_v4_init_sequence_entry, cookie_v4_init_sequence_kprobe, ANSWERED
);
// match-proto: 5.10- __u32 cookie_v6_init_sequence(const struct sk_buff *skb, __u16 *mssp)
mark_at_entry!(
    /// An IPv6 cookie was made, so a SYN-ACK follows. Softirq, 1 m.
    "cookie_v6_init_sequence", cookie_v6_init_sequence_entry, cookie_v6_init_sequence_kprobe, ANSWERED
);
// match-proto: 5.10 struct dst_entry *tcp_v4_route_req(const struct sock *sk, struct flowi *fl, const struct request_sock *req)
// match-proto: 5.11-6.9 struct dst_entry *tcp_v4_route_req(const struct sock *sk, struct sk_buff *skb, struct flowi *fl, struct request_sock *req)
// match-proto: 6.10- struct dst_entry *tcp_v4_route_req(const struct sock *sk, struct sk_buff *skb, struct flowi *fl, struct request_sock *req, u32 tw_isn)
mark_at_entry!(
    /// Called by pointer once both queues had room. Softirq, each SYN, 1 m.
    "tcp_v4_route_req", tcp_v4_route_req_entry, tcp_v4_route_req_kprobe, ROUTED
);
// match-proto: 5.10 struct dst_entry *tcp_v6_route_req(const struct sock *sk, struct flowi *fl, const struct request_sock *req)
// match-proto: 5.11-6.9 struct dst_entry *tcp_v6_route_req(const struct sock *sk, struct sk_buff *skb, struct flowi *fl, struct request_sock *req)
// match-proto: 6.10- struct dst_entry *tcp_v6_route_req(const struct sock *sk, struct sk_buff *skb, struct flowi *fl, struct request_sock *req, u32 tw_isn)
mark_at_entry!(
    /// As for IPv4.
    "tcp_v6_route_req", tcp_v6_route_req_entry, tcp_v6_route_req_kprobe, ROUTED
);

// match-proto: 5.10- struct sock *tcp_try_fastopen(struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct tcp_fastopen_cookie *foc, const struct dst_entry *dst)
/// A Fast Open child was made instead of a request. Softirq, each SYN past the queues, 1 m.
#[fexit(function = "tcp_try_fastopen")]
pub fn tcp_try_fastopen_exit(ctx: FExitContext) -> i32 {
    // Five arguments, then the return value.
    if ctx.arg::<u64>(5) != 0 {
        mark(ANSWERED | FAST_OPEN);
    }
    0
}

// match-proto: 5.10- struct sock *tcp_try_fastopen(struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct tcp_fastopen_cookie *foc, const struct dst_entry *dst)
/// Twin of the above.
#[kretprobe(function = "tcp_try_fastopen")]
pub fn tcp_try_fastopen_kretprobe(ctx: RetProbeContext) -> u32 {
    if ctx.ret::<u64>() != 0 {
        mark(ANSWERED | FAST_OPEN);
    }
    0
}
