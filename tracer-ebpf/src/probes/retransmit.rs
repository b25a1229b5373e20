//! Retransmitted segments and SYN-ACKs.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_ebpf::{
    counter::{Counter, CounterKey, RetransmitCause, Role},
    event::{Connection, Kind, Retransmit, SynackRetransmit},
    state,
};

use crate::{
    constants::offset,
    emit::emit,
    listener::{self, count_without_row},
    probes::{child, connect},
    reader::{Direct, Reader},
    sock::{self, Netns},
    workload::{self, add},
};

const TCPHDR_FIN: u8 = 0x01;
const TCPHDR_SYN: u8 = 0x02;
const ICSK_TIME_LOSS_PROBE: u8 = 5;
const TCP_CA_RECOVERY: u8 = 3;
const TCP_CA_LOSS: u8 = 4;

// match-proto: 5.10-6.16 void tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb)
/// Fires on success only. Context: softirq or process. Frequency: each retransmit. Cost: 1 m, 2 h,
/// one ring record.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    retransmitted(ctx.arg(0), ctx.arg(1), 0);
    0
}

// match-proto: 6.17- void tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb, int err)
/// Fires on every attempt. Context, frequency and cost as above.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb_err(ctx: BtfTracePointContext) -> i32 {
    retransmitted(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

// match-proto: 5.10- void tcp_retransmit_synack(const struct sock *sk, const struct request_sock *req)
/// Context: softirq (SYN-ACK timer, or a repeated SYN). Cost: 1 m, 2 h, one ring record.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn tcp_retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    let sk = Direct.tcp_sock(ctx.arg(0));
    let req: *const u8 = ctx.arg(1);
    if sk.is_null() {
        return 0;
    }
    let netns = sock::netns(Direct, sk);
    let mut key = sock::listener_key(Direct, sk, netns);
    // With TCP Fast Open the child is there already, and sends.
    if Direct.load::<u8>(sk, offset!(skc_state)) != state::LISTEN
        && let Some(listener) = child::of(sk, netns, sock::local_port(Direct, sk))
    {
        key = listener;
    }
    if let Some(stats) = listener::stats(&key, netns.inum) {
        // SAFETY: the look-up did not fail.
        add(unsafe { &raw mut (*stats).synack_retransmits }, 1);
    } else {
        count_without_row(&key, Counter::SynackRetransmit, 0);
    }
    let record = SynackRetransmit {
        header: sock::header(Direct, sk, netns, key.cgroup, Kind::SynackRetransmit, state::NEW_SYN_RECV),
        connection: Connection {
            local: sock::local_address(Direct, req),
            remote: sock::remote_address(Direct, req),
            local_port: key.port,
            remote_port: sock::remote_port(Direct, req),
            zero: 0,
        },
    };
    emit(Kind::SynackRetransmit, record.header.time_ns, &record);
    0
}

const EHOSTUNREACH: i32 = -113;

/// An attempt that gave up before the kernel counted it in `RetransSegs`: the packet is still in a
/// local queue, the window is closed, memory or a route is missing.
#[inline(always)]
fn not_attempted(err: i32) -> bool {
    const ENOMEM: i32 = -12;
    const EAGAIN: i32 = -11;
    const EBUSY: i32 = -16;
    const EINVAL: i32 = -22;
    matches!(err, ENOMEM | EAGAIN | EBUSY | EINVAL | EHOSTUNREACH)
}

#[inline(always)]
fn retransmitted(sk: *const u8, skb: *const u8, err: i32) {
    let sk = Direct.tcp_sock(sk);
    if sk.is_null() {
        return;
    }
    if not_attempted(err) {
        keep_error_of_route(sk, err);
        return;
    }
    let netns = sock::netns(Direct, sk);
    let cgroup = sock::cgroup_id(Direct, sk);
    let state: u8 = Direct.load(sk, offset!(skc_state));
    let segments = segments(skb);
    let cause = cause(sk, skb);
    let (role, port) = role_and_port(sk, netns, state, sock::local_port(Direct, sk));
    let key =
        CounterKey { port, role: role as u8, ..workload::key(netns, cgroup, Counter::Retransmit, cause as u8, 0) };
    workload::count(netns, &key, u64::from(segments));
    if err != 0 {
        let failed = workload::key(netns, cgroup, Counter::RetransmitFailed, cause as u8, 0);
        workload::count(netns, &failed, u64::from(segments));
    }
    let record = Retransmit {
        header: sock::header(Direct, sk, netns, cgroup, Kind::Retransmit, state),
        connection: sock::connection(Direct, sk),
        segments,
        error: err.unsigned_abs() as u16,
        cause: cause as u8,
        role: role as u8,
    };
    emit(Kind::Retransmit, record.header.time_ns, &record);
}

/// A SYN that was to be sent again and found no route: the socket has the routing's own error until its owner reads it.
#[inline(always)]
fn keep_error_of_route(sk: *const u8, err: i32) {
    if err == EHOSTUNREACH && Direct.load::<u8>(sk, offset!(skc_state)) == state::SYN_SENT {
        connect::remember(Direct, sk, Direct.load(sk, offset!(sk_err_soft)));
    }
}

/// `tcp_skb_pcount()`: what the kernel adds to `RetransSegs`.
#[inline(always)]
fn segments(skb: *const u8) -> u32 {
    u32::from(Direct.load::<u16>(skb, offset!(skb_cb) + offset!(cb_gso_segs)))
}

#[inline(always)]
fn cause(tcp: *const u8, skb: *const u8) -> RetransmitCause {
    let cb = offset!(skb_cb);
    let flags: u8 = Direct.load(skb, cb + offset!(cb_tcp_flags));
    // The kernel goes by the flag too, whatever the socket's state: with TCP Fast Open a socket in SYN_SENT has data to
    // send again as well.
    if flags & TCPHDR_SYN != 0 {
        return RetransmitCause::Syn;
    }
    let sequence: u32 = Direct.load(skb, cb + offset!(cb_seq));
    let end_sequence: u32 = Direct.load(skb, cb + offset!(cb_end_seq));
    if flags & TCPHDR_FIN != 0 && end_sequence.wrapping_sub(sequence) == 1 {
        return RetransmitCause::Fin;
    }
    let pending: u8 = Direct.load(tcp, offset!(icsk_pending));
    let ca_state = Direct.load::<u8>(tcp, offset!(icsk_ca_state)) & 0x1f;
    match ca_state {
        TCP_CA_RECOVERY => RetransmitCause::Fast,
        TCP_CA_LOSS if pending == 0 => RetransmitCause::Rto,
        TCP_CA_LOSS => RetransmitCause::SlowStart,
        _ if pending == ICSK_TIME_LOSS_PROBE => RetransmitCause::TailLossProbe,
        _ => RetransmitCause::Rto,
    }
}

/// A child keeps the backlog of the listener that it was cloned from, and a socket that connected
/// never had one: so the role of any socket can be told, also of one older than the agent. Of the rest, one
/// that bound its port itself is no child. The children of `listen(fd, 0)` are told by their listener; if that is gone
/// too, by the ports.
#[inline(always)]
pub fn role_and_port(sk: *const u8, netns: Netns, state: u8, local: u16) -> (Role, u16) {
    let remote = sock::remote_port(Direct, sk);
    if state == state::SYN_SENT {
        return (Role::Client, remote);
    }
    let has_backlog = Direct.load::<u32>(sk, offset!(sk_max_ack_backlog)) != 0;
    let bound_its_port = sock::bound_its_port(Direct, sk);
    if (has_backlog || !bound_its_port)
        && let Some(listener) = child::of(sk, netns, local)
    {
        return (Role::Server, listener.port);
    }
    if has_backlog {
        // A connection that was redirected to its listener has a port of the client's choice.
        let is_chosen = sock::is_transparent(Direct, sk) && !listener::has_port(Direct, sk, netns, local);
        return (Role::Server, if is_chosen { 0 } else { local });
    }
    if bound_its_port {
        return (Role::Client, remote);
    }
    let (low, high) = sock::local_port_range(Direct, sk);
    let is_ephemeral = |port| low <= port && port <= high;
    if is_ephemeral(local) || !is_ephemeral(remote) { (Role::Client, remote) } else { (Role::Unknown, 0) }
}
