//! Rungs 1 and 2 of the listener drops, ACK stage (`*_syn_recv_sock` returning NULL, for a reason that `final_ack` tells)
//! and ICMP (`tcp_req_err`); and the exact part of the packet rung on Linux ≥ 6.15 (`kfree_skb`).

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe},
    programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use tracer_ebpf::counter::DropReason;

use crate::{
    constants::{offset, setting},
    final_ack,
    listener::{Client, RACING_AFTER_PACKET, RACING_IN_FUNCTION, drop_at},
    maps::{SAVED, Saved},
    probes::child,
    reader::{Direct, Probe, Reader},
    sock,
};

/// `htons(ETH_P_IP)`
const ETH_P_IP_BE: u16 = 0x0800_u16.to_be();

/// Whether an IPv4 client comes to an IPv6 listener: the IPv6 function hands it to the IPv4 one.
#[inline(always)]
fn is_mapped<R: Reader>(r: R, skb: *const u8) -> bool {
    r.load::<u16>(skb, offset!(skb_protocol)) == ETH_P_IP_BE
}

/// The kernel is about to look at the accept queue of `sk`.
#[inline(always)]
fn ack_came<R: Reader>(r: R, sk: *const u8) {
    final_ack::open(sk as u64, sock::accept_queue(r, sk).accept_has_room(RACING_IN_FUNCTION), false);
}

/// A handshake's last ACK was dropped at `sk`. `racing`: how many children other CPUs may have added to its queue or taken
/// from it between this look and the kernel's.
#[inline(always)]
fn ack_dropped<R: Reader>(r: R, sk: *const u8, client: Client, racing: u32) {
    let tcp = r.tcp_sock(sk);
    if !tcp.is_null() {
        let has_room = sock::accept_queue(r, tcp).accept_has_room(racing);
        drop_at(r, tcp, final_ack::reason(tcp, has_room), client);
    }
}

#[inline(always)]
fn client_of(req: *const u8) -> Client {
    Client { address: sock::remote_address(Direct, req), port: sock::remote_port(Direct, req) }
}

#[inline(always)]
fn v4_exit(ctx: &FExitContext, child: *const u8) {
    if child.is_null() {
        ack_dropped(Direct, ctx.arg(0), client_of(ctx.arg(2)), RACING_IN_FUNCTION);
    } else {
        child::made(Direct, ctx.arg(0), child);
    }
}

#[inline(always)]
fn v6_exit(ctx: &FExitContext, child: *const u8) {
    if !child.is_null() {
        child::made(Direct, ctx.arg(0), child);
    } else if !is_mapped(Direct, ctx.arg(1)) {
        ack_dropped(Direct, ctx.arg(0), client_of(ctx.arg(2)), RACING_IN_FUNCTION);
    }
}

// match-proto: 5.10-5.14,5.16-6.1.187,6.2-6.5,6.7-6.12.109,6.13-6.18.15 struct sock *tcp_v4_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req)
// match-proto: 6.1.188-6.1,6.12.110-6.12,6.18.44-6.18,7.0- struct sock *tcp_v4_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req, void (*opt_child_init)(struct sock *newsk, const struct sock *sk))
/// Context: softirq. Frequency: each handshake's last ACK. Cost: 1 m.
#[fentry(function = "tcp_v4_syn_recv_sock")]
pub fn tcp_v4_syn_recv_sock_entry(ctx: FEntryContext) -> i32 {
    ack_came(Direct, ctx.arg(0));
    0
}

// match-proto: 5.10-5.14,5.16-6.1.187,6.2-6.5,6.7-6.12.109,6.13-6.18.15 struct sock *tcp_v6_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req)
// match-proto: 6.1.188-6.1,6.12.110-6.12,6.18.44-6.18,7.0- struct sock *tcp_v6_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req, void (*opt_child_init)(struct sock *newsk, const struct sock *sk))
/// As for IPv4, without mapped clients.
#[fentry(function = "tcp_v6_syn_recv_sock")]
pub fn tcp_v6_syn_recv_sock_entry(ctx: FEntryContext) -> i32 {
    if !is_mapped(Direct, ctx.arg(1)) {
        ack_came(Direct, ctx.arg(0));
    }
    0
}

// match-proto: 5.10-5.14,5.16-6.1.187,6.2-6.5,6.7-6.12.109,6.13-6.18.15 struct sock *tcp_v4_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req)
/// Context: softirq. Frequency: each handshake's last ACK. Cost: 1 m, from 6.14 on 1 h more; on a drop 2 m, 3 h, one
/// record.
#[fexit(function = "tcp_v4_syn_recv_sock")]
pub fn tcp_v4_syn_recv_sock_exit6(ctx: FExitContext) -> i32 {
    v4_exit(&ctx, ctx.arg(6));
    0
}

// match-proto: 6.1.188-6.1,6.12.110-6.12,6.18.44-6.18,7.0- struct sock *tcp_v4_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req, void (*opt_child_init)(struct sock *newsk, const struct sock *sk))
/// The same with seven arguments.
#[fexit(function = "tcp_v4_syn_recv_sock")]
pub fn tcp_v4_syn_recv_sock_exit7(ctx: FExitContext) -> i32 {
    v4_exit(&ctx, ctx.arg(7));
    0
}

// match-proto: 5.10-5.14,5.16-6.1.187,6.2-6.5,6.7-6.12.109,6.13-6.18.15 struct sock *tcp_v6_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req)
/// As for IPv4, without mapped clients.
#[fexit(function = "tcp_v6_syn_recv_sock")]
pub fn tcp_v6_syn_recv_sock_exit6(ctx: FExitContext) -> i32 {
    v6_exit(&ctx, ctx.arg(6));
    0
}

// match-proto: 6.1.188-6.1,6.12.110-6.12,6.18.44-6.18,7.0- struct sock *tcp_v6_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req, void (*opt_child_init)(struct sock *newsk, const struct sock *sk))
/// The same with seven arguments.
#[fexit(function = "tcp_v6_syn_recv_sock")]
pub fn tcp_v6_syn_recv_sock_exit7(ctx: FExitContext) -> i32 {
    v6_exit(&ctx, ctx.arg(7));
    0
}

#[inline(always)]
fn save(slot: Saved, value: u64) {
    if let Some(saved) = SAVED.get_ptr_mut(slot as u32) {
        // SAFETY: the look-up did not fail; the value is this CPU's own and BH is off.
        unsafe { *saved = value };
    }
}

#[inline(always)]
fn saved(slot: Saved) -> u64 {
    // SAFETY: as in `save`.
    SAVED.get_ptr(slot as u32).map_or(0, |saved| unsafe { *saved })
}

#[inline(always)]
fn kretprobe_exit(ctx: &RetProbeContext) {
    let (listener, child) = (final_ack::listener() as *const u8, ctx.ret::<u64>() as *const u8);
    if listener.is_null() {
        return;
    }
    if child.is_null() {
        ack_dropped(Probe, listener, Client::UNSEEN, RACING_IN_FUNCTION);
    } else {
        child::made(Probe, listener, child);
    }
    final_ack::close();
}

// match-proto: 5.10-5.14,5.16-6.1.187,6.2-6.5,6.7-6.12.109,6.13-6.18.15 struct sock *tcp_v4_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req)
// match-proto: 6.1.188-6.1,6.12.110-6.12,6.18.44-6.18,7.0- struct sock *tcp_v4_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req, void (*opt_child_init)(struct sock *newsk, const struct sock *sk))
/// Entry of the kprobe twin: a kretprobe no longer has the arguments. Cost: 1 m.
#[kprobe(function = "tcp_v4_syn_recv_sock")]
pub fn tcp_v4_syn_recv_sock_kprobe(ctx: ProbeContext) -> u32 {
    ack_came(Probe, ctx.arg(0).unwrap_or_default());
    0
}

// match-proto: 5.10-5.14,5.16-6.1.187,6.2-6.5,6.7-6.12.109,6.13-6.18.15 struct sock *tcp_v4_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req)
// match-proto: 6.1.188-6.1,6.12.110-6.12,6.18.44-6.18,7.0- struct sock *tcp_v4_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req, void (*opt_child_init)(struct sock *newsk, const struct sock *sk))
/// Exit of the kprobe twin. Cost: 1 m; on a drop as above.
#[kretprobe(function = "tcp_v4_syn_recv_sock")]
pub fn tcp_v4_syn_recv_sock_kretprobe(ctx: RetProbeContext) -> u32 {
    kretprobe_exit(&ctx);
    0
}

// match-proto: 5.10-5.14,5.16-6.1.187,6.2-6.5,6.7-6.12.109,6.13-6.18.15 struct sock *tcp_v6_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req)
// match-proto: 6.1.188-6.1,6.12.110-6.12,6.18.44-6.18,7.0- struct sock *tcp_v6_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req, void (*opt_child_init)(struct sock *newsk, const struct sock *sk))
/// Entry of the kprobe twin; mapped clients are left to the IPv4 one. Cost: 1 m, 1 h.
#[kprobe(function = "tcp_v6_syn_recv_sock")]
pub fn tcp_v6_syn_recv_sock_kprobe(ctx: ProbeContext) -> u32 {
    if !is_mapped(Probe, ctx.arg(1).unwrap_or_default()) {
        ack_came(Probe, ctx.arg(0).unwrap_or_default());
    }
    0
}

// match-proto: 5.10-5.14,5.16-6.1.187,6.2-6.5,6.7-6.12.109,6.13-6.18.15 struct sock *tcp_v6_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req)
// match-proto: 6.1.188-6.1,6.12.110-6.12,6.18.44-6.18,7.0- struct sock *tcp_v6_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct request_sock *req, struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req, void (*opt_child_init)(struct sock *newsk, const struct sock *sk))
/// Exit of the kprobe twin. Cost as for IPv4.
#[kretprobe(function = "tcp_v6_syn_recv_sock")]
pub fn tcp_v6_syn_recv_sock_kretprobe(ctx: RetProbeContext) -> u32 {
    kretprobe_exit(&ctx);
    0
}

// ICMP against a request drops it when it is hard and quotes our SYN-ACK.
//
// The request's listener shares a union with an integer, and as an integer the verifier takes it:
// direct loads end there. The kprobe reads it nevertheless. The trampolines take it from an argument
// of the function that `tcp_req_err` calls for a drop, and for nothing else.

// match-proto: 5.10- void tcp_req_err(struct sock *sk, u32 seq, bool abort)
/// Context: softirq. Frequency: each ICMP error against a request. Cost: 2 h; on a drop 2 m, 3 h more.
#[kprobe(function = "tcp_req_err")]
pub fn tcp_req_err_kprobe(ctx: ProbeContext) -> u32 {
    let (Some(request), Some(sequence), Some(hard)) = (ctx.arg(0), ctx.arg::<u32>(1), ctx.arg::<u8>(2)) else {
        return 0;
    };
    if hard != 0 && Probe.load::<u32>(request, offset!(treq_snt_isn)) == sequence {
        let listener: *const u8 = Probe.load(request, offset!(req_listener));
        drop_at(Probe, listener, DropReason::Other, Client::UNSEEN);
    }
    0
}

// match-proto: 5.10- void tcp_req_err(struct sock *sk, u32 seq, bool abort)
/// Context and frequency as above. Cost: 1 m.
#[fentry(function = "tcp_req_err")]
pub fn tcp_req_err_entry(ctx: FEntryContext) -> i32 {
    save(Saved::RequestError, ctx.arg(0));
    0
}

// match-proto: 5.10- bool inet_csk_reqsk_queue_drop(struct sock *sk, struct request_sock *req)
/// Context: softirq. Frequency: each accepted connection. Cost: 1 m; on a drop 2 m, 3 h more.
#[fentry(function = "inet_csk_reqsk_queue_drop")]
pub fn reqsk_queue_drop_entry(ctx: FEntryContext) -> i32 {
    let request: u64 = ctx.arg(1);
    if saved(Saved::RequestError) == request {
        let tcp = Direct.tcp_sock(ctx.arg(0));
        if !tcp.is_null() {
            drop_at(Direct, tcp, DropReason::Other, Client::UNSEEN);
        }
    }
    0
}

// match-proto: 5.10- void tcp_req_err(struct sock *sk, u32 seq, bool abort)
/// Context and frequency as at entry. Cost: 1 m.
#[fexit(function = "tcp_req_err")]
pub fn tcp_req_err_exit(_ctx: FExitContext) -> i32 {
    save(Saved::RequestError, 0);
    0
}

// match-proto: 6.15-6.18 void kfree_skb(struct sk_buff *skb, void *location, enum skb_drop_reason reason, struct sock *rx_sk)
// match-proto: 7.2- void kfree_skb(struct sk_buff *skb, void *location, enum skb_drop_reason reason, const struct sock *rx_sk)
/// Packet rung: a last ACK without cookie was dropped, which the kernel puts down to a full accept queue whatever the
/// reason was; `rx_sk` is the listener. Context: softirq. Frequency: every dropped packet of the host, one comparison;
/// 2 m, 3 h and one ring record for a match.
#[btf_tracepoint(function = "kfree_skb")]
pub fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<u32>(2) != setting!(reason_listen_overflow) {
        return 0;
    }
    let listener: *const u8 = ctx.arg(3);
    if !listener.is_null() {
        ack_dropped(Direct, listener, Client::UNSEEN, RACING_AFTER_PACKET);
    }
    0
}
