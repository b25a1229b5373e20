//! The only place that reads `struct sock`, `struct net`, `struct cgroup` and `struct task_struct`.
//!
//! Every function takes a [`Reader`] and a pointer that the verifier, or the hooked function's
//! contract, says is such an object.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_get_current_task_btf};
use tracer_ebpf::{
    counter::ListenerKey,
    event::{Connection, Header, Kind},
};

use crate::{
    constants::{offset, present, setting},
    reader::{Direct, Reader},
};

/// `AF_INET`
pub const AF_INET: u16 = 2;
/// `AF_INET6`
pub const AF_INET6: u16 = 10;
/// `IPPROTO_TCP`
pub const IPPROTO_TCP: u16 = 6;
/// `IPPROTO_MPTCP`
pub const IPPROTO_MPTCP: u16 = 262;
/// Third word of `::ffff:a.b.c.d`, in memory order.
const V4_MAPPED: u32 = 0xffff_0000;

/// Identity of a network namespace.
#[derive(Clone, Copy)]
pub struct Netns {
    /// `net_cookie`; where there is none the kernel's random number for hashes (upper half) with the inode number,
    /// or the inode number alone.
    pub id: u64,
    /// Inode number.
    pub inum: u32,
}

/// Whether the socket speaks plain TCP (MPTCP has a number of its own).
#[inline(always)]
pub fn is_tcp<R: Reader>(r: R, sk: *const u8) -> bool {
    r.load::<u16>(sk, offset!(sk_protocol)) == IPPROTO_TCP
}

/// The socket's `struct net *`.
#[inline(always)]
pub fn net<R: Reader>(r: R, sk: *const u8) -> *const u8 {
    r.load(sk, offset!(skc_net))
}

/// The namespace's identity.
#[inline(always)]
pub fn netns<R: Reader>(r: R, sk: *const u8) -> Netns {
    identity(r, net(r, sk))
}

/// The identity of the namespace `net`; all zero where that is NULL.
#[inline(always)]
pub fn identity<R: Reader>(r: R, net: *const u8) -> Netns {
    let inum: u32 = r.load(net, offset!(net_inum));
    let id = if present(offset!(net_cookie)) {
        r.load(net, offset!(net_cookie))
    } else if present(offset!(net_hash_mix)) {
        u64::from(r.load::<u32>(net, offset!(net_hash_mix))) << 32 | u64::from(inum)
    } else {
        u64::from(inum)
    };
    Netns { id, inum }
}

/// cgroup v2 id of the socket.
#[inline(always)]
pub fn cgroup_id<R: Reader>(r: R, sk: *const u8) -> u64 {
    if present(offset!(sk_cgroup)) { cgroup_kn_id(r, r.load(sk, offset!(sk_cgroup))) } else { 0 }
}

#[inline(always)]
fn cgroup_kn_id<R: Reader>(r: R, cgroup: *const u8) -> u64 {
    let kn: *const u8 = r.load(cgroup, offset!(cgroup_kn));
    r.load(kn, offset!(kn_id))
}

/// Address family of the socket.
#[inline(always)]
pub fn family<R: Reader>(r: R, sk: *const u8) -> u16 {
    r.load(sk, offset!(skc_family))
}

/// Local port, host order.
#[inline(always)]
pub fn local_port<R: Reader>(r: R, sk: *const u8) -> u16 {
    r.load(sk, offset!(skc_num))
}

/// The port that a socket given as `struct tcp_sock *` is bound to, host order. It outlives the local
/// port where the kernel chose that: at close it is given back before the state changes.
#[inline(always)]
pub fn bound_port<R: Reader>(r: R, tcp: *const u8) -> u16 {
    u16::from_be(r.load(tcp, offset!(inet_sport)))
}

/// Whether the socket's owner bound it to its port (`SOCK_BINDPORT_LOCK`). A child of a listener is cloned without that.
#[inline(always)]
pub fn bound_its_port<R: Reader>(r: R, sk: *const u8) -> bool {
    u32::from(r.load::<u8>(sk, offset!(sk_userlocks))) & setting!(bound_port_mask) != 0
}

/// Whether a socket given as `struct tcp_sock *` may have any local address (`IP_TRANSPARENT`), as those of TPROXY have.
#[inline(always)]
pub fn is_transparent<R: Reader>(r: R, tcp: *const u8) -> bool {
    u32::from(r.load::<u8>(tcp, offset!(inet_transparent))) & setting!(transparent_mask) != 0
}

/// Remote port, host order.
#[inline(always)]
pub fn remote_port<R: Reader>(r: R, sk: *const u8) -> u16 {
    u16::from_be(r.load(sk, offset!(skc_dport)))
}

/// An IPv4 address in the 16-byte form.
#[inline(always)]
pub fn v4_mapped(address: u32) -> [u32; 4] {
    [0, 0, V4_MAPPED, address]
}

/// Whether a 16-byte address is an IPv4 one.
#[inline(always)]
pub fn is_v4_mapped(address: &[u32; 4]) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == V4_MAPPED
}

/// Local address in the 16-byte form.
#[inline(always)]
pub fn local_address<R: Reader>(r: R, sk: *const u8) -> [u32; 4] {
    if present(offset!(skc_v6_rcv_saddr)) && family(r, sk) == AF_INET6 {
        v6_address(r, sk, offset!(skc_v6_rcv_saddr))
    } else {
        v4_mapped(r.load(sk, offset!(skc_rcv_saddr)))
    }
}

/// Remote address in the 16-byte form.
#[inline(always)]
pub fn remote_address<R: Reader>(r: R, sk: *const u8) -> [u32; 4] {
    if present(offset!(skc_v6_daddr)) && family(r, sk) == AF_INET6 {
        v6_address(r, sk, offset!(skc_v6_daddr))
    } else {
        v4_mapped(r.load(sk, offset!(skc_daddr)))
    }
}

/// Four word loads: the verifier takes no wider load of an array.
#[inline(always)]
fn v6_address<R: Reader>(r: R, sk: *const u8, offset: u32) -> [u32; 4] {
    [r.load(sk, offset), r.load(sk, offset + 4), r.load(sk, offset + 8), r.load(sk, offset + 12)]
}

/// The metric identity of a listening socket, or of a child that was cloned just now.
#[inline(always)]
pub fn listener_key<R: Reader>(r: R, sk: *const u8, netns: Netns) -> ListenerKey {
    ListenerKey {
        netns: netns.id,
        cgroup: cgroup_id(r, sk),
        address: local_address(r, sk),
        port: local_port(r, sk),
        zero: [0; 3],
    }
}

/// Lengths and limit of a listener's queues, in connections.
#[derive(Clone, Copy)]
pub struct Queues {
    /// `sk_ack_backlog`
    pub accept: u32,
    /// `sk_max_ack_backlog`
    pub limit: u32,
    /// `icsk_accept_queue.qlen`
    pub syn: u32,
}

impl Queues {
    /// `sk_acceptq_is_full()`
    #[inline(always)]
    pub fn accept_full(self) -> bool {
        self.accept > self.limit
    }

    /// Whether the accept queue has room for one connection more after so many that other CPUs may add between this look
    /// and the kernel's.
    #[inline(always)]
    pub fn accept_has_room(self, racing: u32) -> bool {
        self.accept.saturating_add(racing) <= self.limit
    }

    /// `inet_csk_reqsk_queue_is_full()`, whose comparison changed in January 2025.
    #[inline(always)]
    pub fn syn_full(self) -> bool {
        if setting!(syn_queue_full_at_limit) == 1 { self.syn >= self.limit } else { self.syn > self.limit }
    }

    /// Whether one request more, as another CPU may add it, makes a SYN queue full that holds some.
    #[inline(always)]
    pub fn syn_full_with_one_more(self) -> bool {
        self.syn > 0 && Self { syn: self.syn.saturating_add(1), ..self }.syn_full()
    }
}

/// The same of a listener given as `struct sock *`, without the SYN queue.
#[inline(always)]
pub fn accept_queue<R: Reader>(r: R, sk: *const u8) -> Queues {
    Queues { accept: r.load(sk, offset!(sk_ack_backlog)), limit: r.load(sk, offset!(sk_max_ack_backlog)), syn: 0 }
}

/// Reads the queues of a listener given as `struct tcp_sock *`.
#[inline(always)]
pub fn queues<R: Reader>(r: R, tcp: *const u8) -> Queues {
    Queues {
        accept: r.load(tcp, offset!(sk_ack_backlog)),
        limit: r.load(tcp, offset!(sk_max_ack_backlog)),
        syn: r.load(tcp, offset!(icsk_qlen)),
    }
}

/// `tcp_syncookies` of the socket's namespace: 0, 1 or 2. The low byte serves both widths it had.
#[inline(always)]
pub fn syncookies<R: Reader>(r: R, sk: *const u8) -> u8 {
    r.load(net(r, sk), offset!(net_syncookies))
}

/// Ends of `ip_local_port_range` of the socket's namespace, inclusive.
#[inline(always)]
pub fn local_port_range<R: Reader>(r: R, sk: *const u8) -> (u16, u16) {
    let net = net(r, sk);
    let range = offset!(net_local_ports);
    if setting!(local_ports_packed) == 1 {
        let packed: u32 = r.load(net, range);
        (packed as u16, (packed >> 16) as u16)
    } else {
        (r.load::<u32>(net, range) as u16, r.load::<u32>(net, range + 4) as u16)
    }
}

/// Whether the namespace holds as many TIME_WAIT sockets as it may.
#[inline(always)]
pub fn time_wait_full<R: Reader>(r: R, sk: *const u8) -> bool {
    let net = net(r, sk);
    let row: *const u8 = if setting!(death_row_is_pointer) == 1 {
        r.load(net, offset!(net_death_row))
    } else {
        net.wrapping_add(offset!(net_death_row) as usize)
    };
    let count = if present(offset!(tw_refcount)) {
        // The namespace itself holds one reference.
        r.load::<i32>(row, offset!(tw_refcount)) - 1
    } else {
        r.load::<i32>(row, offset!(tw_count))
    };
    count >= r.load::<i32>(row, offset!(tw_max_buckets))
}

/// The two ends of a full socket's connection.
#[inline(always)]
pub fn connection<R: Reader>(r: R, sk: *const u8) -> Connection {
    Connection {
        local: local_address(r, sk),
        remote: remote_address(r, sk),
        local_port: local_port(r, sk),
        remote_port: remote_port(r, sk),
        zero: 0,
    }
}

/// The same of a `struct tcp_sock *` that may be closing: the local port that the kernel chose is given back before
/// the state changes, but the socket still knows it.
#[inline(always)]
pub fn connection_at_close(tcp: *const u8) -> Connection {
    let mut connection = connection(Direct, tcp);
    if connection.local_port == 0 {
        connection.local_port = bound_port(Direct, tcp);
    }
    connection
}

/// The header of an event about this socket.
#[inline(always)]
pub fn header<R: Reader>(r: R, sk: *const u8, netns: Netns, cgroup: u64, kind: Kind, state: u8) -> Header {
    Header {
        time_ns: now_ns(),
        netns: netns.id,
        cgroup,
        kind: kind as u8,
        family: family(r, sk) as u8,
        state,
        zero: 0,
        netns_inum: netns.inum,
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { aya_ebpf::helpers::bpf_ktime_get_ns() }
}

/// Thread-group id and leader's name of the calling process. Right in process context only.
#[inline(always)]
pub fn current_process() -> (u32, [u8; 16]) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if setting!(has_current_task_btf) == 1 {
        // SAFETY: the helper has no preconditions; the branch is removed where it does not exist.
        let task: *const u8 = unsafe { bpf_get_current_task_btf() }.cast();
        (tgid, leader_comm(Direct, task))
    } else {
        (tgid, bpf_get_current_comm().unwrap_or_default())
    }
}

/// Whether [`current_process`] gives the calling thread's name: without the task nothing leads to
/// its leader.
#[inline(always)]
pub fn names_the_thread() -> bool {
    setting!(has_current_task_btf) != 1
}

/// `comm` of a task's thread-group leader.
#[inline(always)]
pub fn leader_comm<R: Reader>(r: R, task: *const u8) -> [u8; 16] {
    let leader: *const u8 = r.load(task, offset!(task_group_leader));
    let comm = offset!(task_comm);
    let mut name = [0u8; 16];
    let mut index = 0;
    while index < 16 {
        name[index] = r.load(leader, comm + index as u32);
        index += 1;
    }
    name
}

/// Thread-group id of a task.
#[inline(always)]
pub fn task_tgid<R: Reader>(r: R, task: *const u8) -> u32 {
    r.load(task, offset!(task_tgid))
}

/// cgroup v2 id of a task.
#[inline(always)]
pub fn task_cgroup_id<R: Reader>(r: R, task: *const u8) -> u64 {
    let css_set: *const u8 = r.load(task, offset!(task_cgroups));
    cgroup_kn_id(r, r.load(css_set, offset!(css_dfl_cgrp)))
}
