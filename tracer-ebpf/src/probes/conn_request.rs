//! Rungs 1 and 2 of the listener drops, SYN stage: outcomes of `tcp_conn_request`.
//!
//! The entry hook opens a per-CPU slot, marks are set in it on the way, the exit hook closes it: no
//! mark of an answer means that the SYN was dropped. The reason follows by elimination from how far
//! the SYN came. fentry and kprobe twins share the slot, so they can be mixed hook by hook.

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use tracer_ebpf::counter::DropReason;

use crate::{
    listener::{Client, drop_at},
    maps::{CONN_REQUEST, ConnRequest},
    reader::{Direct, Probe, Reader},
    sock,
};

/// The SYN was answered, or a request or child made for it.
const ANSWERED: u32 = 1;
/// The SYN came past the checks of both queues.
const ROUTED: u32 = 2;
/// At entry the SYN queue was full and cookies were off.
const SYN_QUEUE_FULL: u32 = 4;

#[inline(always)]
fn enter<R: Reader>(r: R, sk: *const u8) {
    let tcp = r.tcp_sock(sk);
    if tcp.is_null() {
        return;
    }
    let refused = sock::syncookies(r, sk) == 0 && sock::queues(r, tcp).syn_full();
    if let Some(slot) = CONN_REQUEST.get_ptr_mut(0) {
        let marks = if refused { SYN_QUEUE_FULL } else { 0 };
        // SAFETY: the look-up did not fail; the value is this CPU's own and BH is off.
        unsafe { *slot = ConnRequest { sk: sk as u64, open: 1, marks } };
    }
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

/// Closes the slot; the listener and the reason if the SYN was dropped.
#[inline(always)]
fn leave() -> Option<(u64, DropReason)> {
    let slot = CONN_REQUEST.get_ptr_mut(0)?;
    // SAFETY: as in `enter`.
    let slot = unsafe { &mut *slot };
    if slot.open == 0 {
        return None;
    }
    slot.open = 0;
    if slot.marks & ANSWERED != 0 {
        return None;
    }
    let reason = if slot.marks & ROUTED != 0 {
        DropReason::Other
    } else if slot.marks & SYN_QUEUE_FULL != 0 {
        DropReason::SynQueueFull
    } else {
        DropReason::AcceptQueueFullSyn
    };
    Some((slot.sk, reason))
}

// match-proto: 5.10- int tcp_conn_request(struct request_sock_ops *rsk_ops, const struct tcp_request_sock_ops *af_ops, struct sock *sk, struct sk_buff *skb)
/// Context: softirq. Frequency: each SYN that reaches a listener. Cost: 1 m, 1 h.
#[fentry(function = "tcp_conn_request")]
pub fn tcp_conn_request_entry(ctx: FEntryContext) -> i32 {
    enter(Direct, ctx.arg(2));
    0
}

// match-proto: 5.10- int tcp_conn_request(struct request_sock_ops *rsk_ops, const struct tcp_request_sock_ops *af_ops, struct sock *sk, struct sk_buff *skb)
/// Twin of the above.
#[kprobe(function = "tcp_conn_request")]
pub fn tcp_conn_request_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(2) {
        enter(Probe, sk);
    }
    0
}

// match-proto: 5.10- int tcp_conn_request(struct request_sock_ops *rsk_ops, const struct tcp_request_sock_ops *af_ops, struct sock *sk, struct sk_buff *skb)
/// Context and frequency as at entry. Cost: 1 m; on a drop 2 m, 3 h and one ring record more.
#[fexit(function = "tcp_conn_request")]
pub fn tcp_conn_request_exit(ctx: FExitContext) -> i32 {
    let sk: *const u8 = ctx.arg(2);
    if let Some((_, reason)) = leave() {
        let tcp = Direct.tcp_sock(sk);
        if !tcp.is_null() {
            drop_at(Direct, tcp, reason, Client::UNSEEN);
        }
    }
    0
}

// match-proto: 5.10- int tcp_conn_request(struct request_sock_ops *rsk_ops, const struct tcp_request_sock_ops *af_ops, struct sock *sk, struct sk_buff *skb)
/// Twin of the above; takes the listener from the slot.
#[kretprobe(function = "tcp_conn_request")]
pub fn tcp_conn_request_kretprobe(_ctx: RetProbeContext) -> u32 {
    if let Some((sk, reason)) = leave() {
        drop_at(Probe, sk as *const u8, reason, Client::UNSEEN);
    }
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
        mark(ANSWERED);
    }
    0
}

// match-proto: 5.10- struct sock *tcp_try_fastopen(struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct tcp_fastopen_cookie *foc, const struct dst_entry *dst)
/// Twin of the above.
#[kretprobe(function = "tcp_try_fastopen")]
pub fn tcp_try_fastopen_kretprobe(ctx: RetProbeContext) -> u32 {
    if ctx.ret::<u64>() != 0 {
        mark(ANSWERED);
    }
    0
}
