//! `inet_sock_set_state`: transitions, listener lifetimes and accepted connections; candidates for TIME_WAIT
//! overflows, where no function tells of those; and every transition as a record where that is asked for. How `connect()` ended is `connect`'s business, and what a connection that timed
//! out had waited for `timeout`'s.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::debug;
use tracer_ebpf::{
    counter::{Counter, ListenerKey},
    event::{Kind, Listen, State, TimeWaitOverflow},
    settings::switch,
    state,
};

use crate::{
    constants::offset,
    emit::{emit, wanted},
    listener,
    maps::{LISTENERS, switched_on},
    probes::{child, connect, packet, timeout},
    reader::{Direct, Reader},
    sock::{self, Netns},
    workload::{self, add},
};

// match-proto: 5.10- void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)
/// Context: softirq or process; the caller of listen() or connect() only at CLOSE→LISTEN and
/// CLOSE→SYN_SENT. Frequency: 5 to 8 a connection. Cost: 1 m; at listen(), connect()'s end and a
/// child's birth 1 to 4 m and 1 to 5 h more. With a record of each transition 1 m and 4 h more.
#[btf_tracepoint(function = "inet_sock_set_state")]
#[inline(always)]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let old = ctx.arg::<i32>(1) as u8;
    let new = ctx.arg::<i32>(2) as u8;
    if !sock::is_tcp(Direct, sk) {
        return 0;
    }
    let netns = sock::netns(Direct, sk);
    workload::count(netns, &workload::key(netns, 0, Counter::Transition, old, new), 1);
    if wanted(Kind::State) {
        emit_transition(sk, netns, old, new);
    }
    match (old, new) {
        (state::CLOSE, state::LISTEN) => opened(&ctx, sk, netns),
        (state::LISTEN, state::CLOSE) => closed(&ctx, sk, netns),
        (state::LISTEN, state::SYN_RECV) => child::born(sk, netns),
        (state::SYN_RECV, state::ESTABLISHED | state::CLOSE | state::FIN_WAIT1) => left_syn_recv(sk, netns, new),
        (state::SYN_SENT, state::ESTABLISHED | state::CLOSE) => connect_ended(sk, netns, new),
        (state::FIN_WAIT2 | state::CLOSING, state::CLOSE) => maybe_time_wait_overflow(sk, netns, old),
        _ => {}
    }
    if new == state::CLOSE && old != state::LISTEN {
        timeout::closed(sk, netns, old);
    }
    0
}

/// The socket as a helper gives it, a `struct tcp_sock *`. Of each pointer that is read through the tracepoint's own
/// argument, on each path, newer verifiers look up by name among all types of the kernel whether it can be trusted,
/// half a millisecond a search. The call costs 14 ns: for what is rare.
#[inline(always)]
fn by_helper(sk: *const u8) -> Option<*const u8> {
    let tcp = Direct.tcp_sock(sk);
    if tcp.is_null() { None } else { Some(tcp) }
}

#[inline(always)]
fn emit_transition(sk: *const u8, netns: Netns, old: u8, new: u8) {
    let Some(sk) = by_helper(sk) else { return };
    let record = State {
        header: sock::header(Direct, sk, netns, sock::cgroup_id(Direct, sk), Kind::State, new),
        connection: sock::connection_at_close(sk),
        old,
        new,
        zero: [0; 6],
    };
    emit(Kind::State, record.header.time_ns, &record);
}

/// The owner is captured here, in process context: a listener may be gone before any pass sees it.
#[inline(always)]
fn opened(ctx: &BtfTracePointContext, sk: *const u8, netns: Netns) {
    let Some(sk) = by_helper(sk) else { return };
    let key = sock::listener_key(Direct, sk, netns);
    if key.port == 0 {
        // `listen()` without `bind()`: the port is chosen after this, and the next pass finds it.
        return;
    }
    let (tgid, comm) = sock::current_process();
    let is_new = LISTENERS.get_ptr(&key).is_none();
    if let Some(stats) = listener::stats(&key, netns.inum) {
        // SAFETY: the look-up did not fail. Two processes that listen on one key at once leave
        // either's name.
        let stats = unsafe { &mut *stats };
        stats.owner_tgid = tgid;
        stats.owner_comm = comm;
        stats.owner_comm_is_of_thread = sock::names_the_thread().into();
        if is_new && switched_on(switch::LISTED) {
            stats.opened_before = 0;
        }
        add(&raw mut stats.opened, 1);
    }
    debug!(ctx, "listen: port {} tgid {}", key.port, tgid);
    emit_listen(sk, netns, &key, 1, tgid, comm);
}

#[inline(always)]
fn closed(ctx: &BtfTracePointContext, sk: *const u8, netns: Netns) {
    let Some(sk) = by_helper(sk) else { return };
    let key = ListenerKey { port: sock::bound_port(Direct, sk), ..sock::listener_key(Direct, sk, netns) };
    if let Some(stats) = LISTENERS.get_ptr_mut(&key) {
        // SAFETY: the look-up did not fail.
        let stats = unsafe { &mut *stats };
        add(&raw mut stats.closed_sk_drops, u64::from(Direct.load::<u32>(sk, offset!(sk_drops))));
        add(&raw mut stats.closed, 1);
    }
    debug!(ctx, "close listener: port {}", key.port);
    emit_listen(sk, netns, &key, 0, 0, [0; 16]);
}

#[inline(always)]
fn emit_listen(sk: *const u8, netns: Netns, key: &ListenerKey, opened: u8, tgid: u32, comm: [u8; 16]) {
    let mut connection = sock::connection(Direct, sk);
    connection.local_port = key.port;
    connection.remote = [0; 4];
    connection.remote_port = 0;
    let record = Listen {
        header: sock::header(Direct, sk, netns, key.cgroup, Kind::Listen, state::LISTEN),
        connection,
        opened,
        zero: [0; 3],
        tgid,
        comm,
    };
    emit(Kind::Listen, record.header.time_ns, &record);
}

/// A child of a listener has the backlog of that, so that only those of `listen(fd, 0)` are looked at twice.
#[inline(always)]
fn left_syn_recv(sk: *const u8, netns: Netns, new: u8) {
    if Direct.load::<u32>(sk, offset!(sk_max_ack_backlog)) == 0
        && let Some(tcp) = by_helper(sk)
        && connect::is_crossed(tcp, netns)
    {
        connect::ended(tcp, netns, new);
    } else if new == state::ESTABLISHED {
        child::established(sk, netns);
    } else if new == state::CLOSE {
        packet::child_given_up(sk);
    }
}

#[inline(always)]
fn connect_ended(sk: *const u8, netns: Netns, new: u8) {
    if let Some(tcp) = by_helper(sk) {
        connect::ended(tcp, netns, new);
    }
}

/// The table is at its limit at this close, so the close may have overflowed. The allocation that
/// reached the limit, and resets at the limit, look the same: the agent confirms the number.
#[inline(always)]
fn maybe_time_wait_overflow(sk: *const u8, netns: Netns, old: u8) {
    if !switched_on(switch::TIME_WAIT_CANDIDATES) || !sock::time_wait_full(Direct, sk) {
        return;
    }
    let Some(sk) = by_helper(sk) else { return };
    let cgroup = sock::cgroup_id(Direct, sk);
    workload::count(netns, &workload::key(netns, cgroup, Counter::TimeWaitCandidate, 0, 0), 1);
    let record = TimeWaitOverflow {
        header: sock::header(Direct, sk, netns, cgroup, Kind::TimeWaitOverflow, old),
        connection: sock::connection_at_close(sk),
        confirmed: 0,
        zero: [0; 7],
    };
    emit(Kind::TimeWaitOverflow, record.header.time_ns, &record);
}
