//! How `connect()` ended, and after how many SYN retries, told at the transition that ends it.
//!
//! No hook of its own: called by `state`. Pointers are what a helper gave, `struct tcp_sock *`.

use aya_ebpf::bindings::BPF_ANY;
use tracer_ebpf::{
    counter::{CONNECT_RETRY_BUCKETS, ConnectResult, Counter, CounterKey, Role},
    event::{Connect, Kind},
    state,
};

use crate::{
    constants::offset,
    emit::emit,
    maps::{CONNECT_ERRORS, ConnectError},
    probes::child,
    reader::{Direct, Reader},
    sock::{self, Netns},
    workload,
};

/// Whether a socket that leaves SYN_RECV called `connect()` and met another SYN there: a simultaneous open, or a
/// socket that connected to itself. A child of a listener has no descriptor in that state, but for one of TCP Fast Open
/// that was accepted before its handshake's end. Such a child never bound its port, and its listener is open.
#[inline(always)]
pub fn is_crossed(sk: *const u8, netns: Netns) -> bool {
    !Direct.load::<*const u8>(sk, offset!(sk_socket)).is_null()
        && (sock::bound_its_port(Direct, sk) || child::of(sk, netns, sock::bound_port(Direct, sk)).is_none())
}

/// Keeps an error that does not end the connect of `sk` at once: its owner may read it, and the kernel forgets it then.
#[inline(always)]
pub fn remember<R: Reader>(r: R, sk: *const u8, error: u32) {
    let tcp = r.tcp_sock(sk);
    if !tcp.is_null() {
        let value = ConnectError { first_sequence: r.load(tcp, offset!(snd_una)), error };
        let _ = CONNECT_ERRORS.insert(&(sk as u64), &value, u64::from(BPF_ANY));
    }
}

/// Takes the last error that was kept for this connect; 0 if there was none. Nothing of it is acknowledged yet.
#[inline(always)]
fn take_remembered(sk: *const u8) -> u32 {
    let key = sk as u64;
    // SAFETY: both numbers of the value were written at once, and a later error of the same connect is as good.
    let error = match unsafe { CONNECT_ERRORS.get(&key) } {
        Some(kept) if kept.first_sequence == Direct.load::<u32>(sk, offset!(snd_una)) => kept.error,
        _ => return 0,
    };
    let _ = CONNECT_ERRORS.remove(&key);
    error
}

/// Counts the end of a `connect()` whose socket becomes `new`.
#[inline(always)]
pub fn ended(sk: *const u8, netns: Netns, new: u8) {
    let hard: u32 = Direct.load(sk, offset!(sk_err));
    let mut error = if hard == 0 { Direct.load(sk, offset!(sk_err_soft)) } else { hard };
    let retries: u32 = Direct.load(sk, offset!(total_retrans));
    let has_port = sock::bound_port(Direct, sk) != 0;
    if error == 0 && new != state::ESTABLISHED {
        error = take_remembered(sk);
    }
    let result = connect_result(new, error, has_port);
    let cgroup = sock::cgroup_id(Direct, sk);
    count_connect(sk, netns, cgroup, result, retries);
    if retries == 0 && new == state::ESTABLISHED {
        // Nothing ran short: as a record it would only push those out for which the ring is there.
        return;
    }
    let record = Connect {
        header: sock::header(Direct, sk, netns, cgroup, Kind::Connect, new),
        connection: sock::connection_at_close(sk),
        retries,
        error: error as u16,
        result: result as u8,
        zero: 0,
    };
    emit(Kind::Connect, record.header.time_ns, &record);
}

#[inline(always)]
fn count_connect(sk: *const u8, netns: Netns, cgroup: u64, result: ConnectResult, retries: u32) {
    let bucket = retry_bucket(retries);
    workload::count(netns, &workload::key(netns, cgroup, Counter::ConnectRetries, result as u8, bucket), 1);
    if retries > 0 {
        let sum = workload::key(netns, cgroup, Counter::ConnectRetriesSum, result as u8, 0);
        workload::count(netns, &sum, u64::from(retries));
    }
    if result as u8 != ConnectResult::Established as u8 {
        let failure = CounterKey {
            port: sock::remote_port(Direct, sk),
            role: Role::Client as u8,
            ..workload::key(netns, cgroup, Counter::ConnectFailure, result as u8, 0)
        };
        workload::count(netns, &failure, 1);
    }
}

/// `sk_err` is set before the socket is closed. `sk_err_soft` holds an error that came while the socket was locked, for
/// which its owner closed it. An error that the owner has read (SO_ERROR) is in neither, and so is remembered. Without any
/// of the three, a socket that never got a port failed with EADDRNOTAVAIL, and any other was closed by its owner.
#[inline(always)]
fn connect_result(new: u8, error: u32, has_port: bool) -> ConnectResult {
    const ENETUNREACH: u32 = 101;
    const ECONNRESET: u32 = 104;
    const ETIMEDOUT: u32 = 110;
    const ECONNREFUSED: u32 = 111;
    const EHOSTUNREACH: u32 = 113;
    if new == state::ESTABLISHED {
        return ConnectResult::Established;
    }
    if !has_port {
        return ConnectResult::NoPort;
    }
    match error {
        0 => ConnectResult::Abandoned,
        ECONNREFUSED => ConnectResult::Refused,
        ETIMEDOUT => ConnectResult::TimedOut,
        ECONNRESET => ConnectResult::Reset,
        ENETUNREACH | EHOSTUNREACH => ConnectResult::Unreachable,
        _ => ConnectResult::Other,
    }
}

#[inline(always)]
fn retry_bucket(retries: u32) -> u8 {
    let mut index = 0;
    while index < CONNECT_RETRY_BUCKETS.len() && retries > u32::from(CONNECT_RETRY_BUCKETS[index]) {
        index += 1;
    }
    index as u8
}
