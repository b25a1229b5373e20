//! ICMP errors that reach a socket while its owner runs `connect()`: the kernel keeps them as soft errors, which end
//! nothing and which the program makes it forget by reading them (SO_ERROR). Remembers them until the connect ends, when
//! `connect` asks.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use tracer_ebpf::state;

use crate::{
    constants::offset,
    probes::connect,
    reader::{Direct, Probe, Reader},
    sock,
};

/// `SO_EE_ORIGIN_ICMP` and `SO_EE_ORIGIN_ICMP6` of `struct sock_extended_err`, and where that has its origin.
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;
const ORIGIN: u32 = 4;

// match-proto: 5.10- void ip_icmp_error(struct sock *sk, struct sk_buff *skb, int err, __be16 port, u32 info, u8 *payload)
/// Context: softirq. Frequency: each ICMP error for a connect that is under way, and for UDP and raw sockets that ask for
/// them. Cost: none; for a connect 1 h, 1 m.
#[fentry(function = "ip_icmp_error")]
pub fn ip_icmp_error_entry(ctx: FEntryContext) -> i32 {
    arrived(Direct, ctx.arg(0), ctx.arg(2));
    0
}

// match-proto: 5.10- void ip_icmp_error(struct sock *sk, struct sk_buff *skb, int err, __be16 port, u32 info, u8 *payload)
/// The kprobe twin. Cost: 2 h; for a connect 3 h, 1 m more.
#[kprobe(function = "ip_icmp_error")]
pub fn ip_icmp_error_kprobe(ctx: ProbeContext) -> u32 {
    arrived(Probe, ctx.arg(0).unwrap_or_default(), ctx.arg(2).unwrap_or(0));
    0
}

// match-proto: 5.10- void ipv6_icmp_error(struct sock *sk, struct sk_buff *skb, int err, __be16 port, u32 info, u8 *payload)
/// The same over IPv6.
#[fentry(function = "ipv6_icmp_error")]
pub fn ipv6_icmp_error_entry(ctx: FEntryContext) -> i32 {
    arrived(Direct, ctx.arg(0), ctx.arg(2));
    0
}

// match-proto: 5.10- void ipv6_icmp_error(struct sock *sk, struct sk_buff *skb, int err, __be16 port, u32 info, u8 *payload)
/// The kprobe twin over IPv6.
#[kprobe(function = "ipv6_icmp_error")]
pub fn ipv6_icmp_error_kprobe(ctx: ProbeContext) -> u32 {
    arrived(Probe, ctx.arg(0).unwrap_or_default(), ctx.arg(2).unwrap_or(0));
    0
}

// match-proto: 5.14- void inet_sk_error_report(const struct sock *sk)
/// The rung below: over IPv4 the kernel queues such an error for the socket, and says so. Context: any. Frequency: each
/// error of a socket, also each completion of a send without copying. Cost: none; for a connect 1 h, 1 m.
#[btf_tracepoint(function = "inet_sk_error_report")]
pub fn inet_sk_error_report(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    if !is_connecting(Direct, sk) {
        return 0;
    }
    let newest: *const u8 = Direct.load(sk, offset!(sk_error_queue_prev));
    let error = offset!(skb_cb) + offset!(cb_extended_error);
    let origin: u8 = Direct.load(newest, error + ORIGIN);
    if origin == ORIGIN_ICMP || origin == ORIGIN_ICMP6 {
        connect::remember(Direct, sk, Direct.load(newest, error));
    }
    0
}

#[inline(always)]
fn arrived<R: Reader>(r: R, sk: *const u8, error: u32) {
    if is_connecting(r, sk) {
        connect::remember(r, sk, error);
    }
}

/// Whether the socket is a TCP one on its way that its owner holds. One that nobody holds ends by the error.
#[inline(always)]
fn is_connecting<R: Reader>(r: R, sk: *const u8) -> bool {
    let state: u8 = r.load(sk, offset!(skc_state));
    matches!(state, state::SYN_SENT | state::SYN_RECV)
        && sock::is_tcp(r, sk)
        && r.load::<i32>(sk, offset!(sk_lock_owned)) != 0
}
