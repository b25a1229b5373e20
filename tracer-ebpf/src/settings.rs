//! Constants handed to the programs in `.rodata` before they are loaded.
//!
//! The verifier knows their values, so a field offset becomes part of a direct load, and a branch
//! on a switch costs nothing: the dead side is removed.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::event::Kind;

/// Marks a field that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Declares [`Offsets`] together with the BTF path that each field is resolved from.
macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident = $($path:literal)|+;)+) => {
        /// Byte offsets of kernel fields, from the running kernel's BTF; [`ABSENT`] where it has none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct Offsets { $($(#[$doc])* pub $name: u32,)+ }

        impl Offsets {
            /// Every field absent.
            pub const NONE: Self = Self { $($name: ABSENT,)+ };

            /// Field name and BTF paths (`struct.member.member`), the first that exists is used.
            pub const PATHS: &'static [(&'static str, &'static [&'static str])] =
                &[$((stringify!($name), &[$($path),+]),)+];

            /// Builds the table by asking `resolve` for each row of [`Self::PATHS`].
            pub fn resolve_with(mut resolve: impl FnMut(&'static str, &'static [&'static str]) -> Option<u32>) -> Self {
                Self { $($name: resolve(stringify!($name), &[$($path),+]).unwrap_or(ABSENT),)+ }
            }
        }
    };
}

offsets! {
    /// `u16`, AF_INET or AF_INET6.
    skc_family = "sock_common.skc_family";
    /// `u8`.
    skc_state = "sock_common.skc_state";
    /// Local port, host order.
    skc_num = "sock_common.skc_num";
    /// Remote port, network order.
    skc_dport = "sock_common.skc_dport";
    /// `u32` made from addresses and ports.
    skc_hash = "sock_common.skc_hash";
    /// Remote IPv4 address.
    skc_daddr = "sock_common.skc_daddr";
    /// Bound IPv4 address.
    skc_rcv_saddr = "sock_common.skc_rcv_saddr";
    /// Remote IPv6 address; absent without CONFIG_IPV6.
    skc_v6_daddr = "sock_common.skc_v6_daddr";
    /// Bound IPv6 address; absent without CONFIG_IPV6.
    skc_v6_rcv_saddr = "sock_common.skc_v6_rcv_saddr";
    /// `struct net *`.
    skc_net = "sock_common.skc_net.net" | "sock_common.skc_net";
    /// Accept-queue length.
    sk_ack_backlog = "sock.sk_ack_backlog";
    /// Accept-queue limit.
    sk_max_ack_backlog = "sock.sk_max_ack_backlog";
    /// Packets discarded at this socket.
    sk_drops = "sock.sk_drops.counter" | "sock.sk_drops";
    /// Pending error.
    sk_err = "sock.sk_err";
    /// Error that did not end the connection, for example ICMP that came while the socket was locked.
    sk_err_soft = "sock.sk_err_soft";
    /// Whether a process holds the socket.
    sk_lock_owned = "sock.sk_lock.owned";
    /// The newest packet in the queue of errors.
    sk_error_queue_prev = "sock.sk_error_queue.prev";
    /// `struct sock_extended_err` within the control block of such a packet.
    cb_extended_error = "sock_exterr_skb.ee";
    /// `u16`, 6 = TCP.
    sk_protocol = "sock.sk_protocol";
    /// `struct cgroup *` (≥ 5.15; before, a tagged integer, which no typed load can follow).
    sk_cgroup = "sock.sk_cgrp_data.cgroup";
    /// `struct socket *`; null while no process has accepted the socket, and after close.
    sk_socket = "sock.sk_socket";
    /// Byte with what the owner bound; which bits these are has moved.
    sk_userlocks = "sock.sk_userlocks";
    /// `u32`, as `/proc/PID/ns/net` shows it.
    net_inum = "net.ns.inum";
    /// `u64`; absent before 5.14: a lazily made atomic, or (5.12, 5.13) one that user space cannot ask for.
    net_cookie = "net.net_cookie";
    /// `u32`, random, made with the namespace.
    net_hash_mix = "net.hash_mix";
    /// `tcp_syncookies` of the namespace.
    net_syncookies = "net.ipv4.sysctl_tcp_syncookies";
    /// `ip_local_port_range`: two ints, or since 6.8 one word with the upper end in its upper half.
    net_local_ports = "net.ipv4.ip_local_ports.range";
    /// `struct inet_timewait_death_row`, embedded or by pointer.
    net_death_row = "net.ipv4.tcp_death_row";
    /// TIME_WAIT sockets plus one (≥ 6.1).
    tw_refcount = "inet_timewait_death_row.tw_refcount.refs.counter";
    /// TIME_WAIT sockets (5.10).
    tw_count = "inet_timewait_death_row.tw_count.counter";
    /// `tcp_max_tw_buckets`.
    tw_max_buckets = "inet_timewait_death_row.sysctl_max_tw_buckets";
    /// State of a socket in TIME_WAIT or, before that, FIN_WAIT2.
    tw_substate = "inet_timewait_sock.tw_substate";
    /// Bound port, network order; 0 = none could be had.
    inet_sport = "inet_sock.inet_sport";
    /// The byte that says whether the socket is transparent (`IP_TRANSPARENT`); a listener's children are as it is.
    inet_transparent = "inet_sock.inet_flags" | "inet_sock.transparent";
    /// SYN-queue length.
    icsk_qlen = "inet_connection_sock.icsk_accept_queue.qlen.counter";
    /// TCP_DEFER_ACCEPT retries.
    icsk_defer_accept = "inet_connection_sock.icsk_accept_queue.rskq_defer_accept";
    /// Which timer is armed.
    icsk_pending = "inet_connection_sock.icsk_pending";
    /// Byte whose low five bits are the congestion state.
    icsk_ca_state = "inet_connection_sock.icsk_ca_state";
    /// `struct inet_bind_bucket *` of the socket's port.
    icsk_bind_hash = "inet_connection_sock.icsk_bind_hash";
    /// The same of a socket in TIME_WAIT.
    tw_tb = "inet_timewait_sock.tw_tb";
    /// `s8`, below zero while connect() alone gave the port out.
    tb_fastreuse = "inet_bind_bucket.fastreuse";
    /// The same for SO_REUSEPORT.
    tb_fastreuseport = "inet_bind_bucket.fastreuseport";
    /// Segments sent again over the socket's life.
    total_retrans = "tcp_sock.total_retrans";
    /// Low half of the kernel's ticks when the last ACK came.
    rcv_tstamp = "tcp_sock.rcv_tstamp";
    /// On a listener: when its SYN queue last overflowed.
    ts_recent_stamp = "tcp_sock.rx_opt.ts_recent_stamp";
    /// `struct sock_reuseport *` of a group.
    sk_reuseport_cb = "sock.sk_reuseport_cb";
    /// When the SYN queue of a group last overflowed.
    reuse_synq_overflow_ts = "sock_reuseport.synq_overflow_ts";
    /// EtherType, network order.
    skb_protocol = "sk_buff.protocol";
    /// Control block; holds `struct tcp_skb_cb`.
    skb_cb = "sk_buff.cb";
    /// `tcp_gso_segs` within the control block.
    cb_gso_segs = "tcp_skb_cb.tcp_gso_segs";
    /// `tcp_flags` within the control block (low byte).
    cb_tcp_flags = "tcp_skb_cb.tcp_flags";
    /// First sequence number, within the control block.
    cb_seq = "tcp_skb_cb.seq";
    /// One past the last sequence number, within the control block.
    cb_end_seq = "tcp_skb_cb.end_seq";
    /// `struct sock *` of the request's listener.
    req_listener = "request_sock.__req_common.skc_listener";
    /// Byte whose upper seven bits count SYN-ACK timeouts.
    req_num_timeout = "request_sock.num_timeout";
    /// Receive window offered.
    req_rcv_wnd = "request_sock.__req_common.skc_rcv_wnd";
    /// Our initial sequence number.
    treq_snt_isn = "tcp_request_sock.snt_isn";
    /// Next sequence number expected.
    treq_rcv_nxt = "tcp_request_sock.rcv_nxt";
    /// `struct kernfs_node *`.
    cgroup_kn = "cgroup.kn";
    /// `u64` id of the directory.
    kn_id = "kernfs_node.id";
    /// `struct task_struct *` of the leader.
    task_group_leader = "task_struct.group_leader";
    /// Thread-group id.
    task_tgid = "task_struct.tgid";
    /// Id of the thread.
    task_pid = "task_struct.pid";
    /// When it was made, ktime nanoseconds.
    task_start_time = "task_struct.start_time";
    /// `struct files_struct *`.
    task_files = "task_struct.files";
    /// `struct signal_struct *`.
    task_signal = "task_struct.signal";
    /// Threads of a process.
    signal_nr_threads = "signal_struct.nr_threads";
    /// Threads that use a table of open files.
    files_count = "files_struct.count.counter";
    /// References to an open file, less one (≥ 6.13).
    file_ref = "file.f_ref.refcnt.counter";
    /// References to an open file (before).
    file_count = "file.f_count.counter";
    /// 16 bytes.
    task_comm = "task_struct.comm";
    /// `struct css_set *`.
    task_cgroups = "task_struct.cgroups";
    /// `struct cgroup *` of the default hierarchy.
    css_dfl_cgrp = "css_set.dfl_cgrp";
    /// `struct sock *`.
    socket_sk = "socket.sk";
    /// `struct file *`; null for the kernel's own sockets.
    socket_file = "socket.file";
    /// `struct inode *`.
    file_inode = "file.f_inode";
    /// Inode number, an unsigned long.
    inode_number = "inode.i_ino";
    /// First subflow of an MPTCP socket, `struct sock *`: the one that listens. Absent without CONFIG_MPTCP.
    mptcp_first = "mptcp_sock.first";
    /// First sequence number that is not acknowledged.
    snd_una = "tcp_sock.snd_una";
    /// First sequence number that was not sent.
    snd_nxt = "tcp_sock.snd_nxt";
    /// First sequence number that was not written.
    write_seq = "tcp_sock.write_seq";
    /// Window that the peer grants, in bytes.
    snd_wnd = "tcp_sock.snd_wnd";
    /// `struct net_device *` that the packet came by.
    skb_dev = "sk_buff.dev";
    /// Where the packet's buffer begins.
    skb_head = "sk_buff.head";
    /// Where in it the IP header begins.
    skb_network_header = "sk_buff.network_header";
    /// Where in it the TCP header begins.
    skb_transport_header = "sk_buff.transport_header";
    /// `struct net *`.
    dev_net = "net_device.nd_net.net" | "net_device.nd_net";
}

/// How many numbers of `enum sk_rst_reason` are told apart, twice as many as Linux 6.18 has.
pub const RESET_REASONS_MAX: usize = 64;

/// Kinds of records that an agent has on its ring: changes of state come by the ten with each connection,
/// and what matters of them has kinds of its own.
pub const KINDS_OF_AGENT: u64 = {
    let mut kinds = 0;
    let mut index = 0;
    while index < Kind::COUNT {
        kinds |= Kind::ALL[index].bit();
        index += 1;
    }
    kinds & !Kind::State.bit()
};

/// Switches and limits, fixed at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settings {
    /// Records a second, kind and CPU; 0 = no limit.
    pub rate_limit: u64,
    /// Bytes in the ring at which the reader is woken.
    pub wakeup_bytes: u64,
    /// [`Kind::bit`] of each kind of record that is wanted.
    pub kinds: u64,
    /// Ports a workload may have before further ones share a row.
    pub ports_per_workload: u64,
    /// Number of `TCP_LISTEN_OVERFLOW` in `enum skb_drop_reason`; [`ABSENT`] before 6.15.
    pub reason_listen_overflow: u32,
    /// 1 = `tcp_death_row` is a pointer.
    pub death_row_is_pointer: u32,
    /// 1 = `ip_local_port_range` is one word.
    pub local_ports_packed: u32,
    /// 1 = `bpf_get_current_task_btf` exists (≥ 5.11).
    pub has_current_task_btf: u32,
    /// 1 = the SYN queue is full at its limit, not above it (before the January 2025 fix).
    pub syn_queue_full_at_limit: u32,
    /// Length of one of the kernel's ticks (jiffies), in nanoseconds.
    pub tick_ns: u32,
    /// 1 = programs may call `bpf_probe_read_kernel` (not under `lockdown=confidentiality`).
    pub may_probe_read: u32,
    /// Bit of `SOCK_BINDPORT_LOCK` in the byte that `sk_userlocks` is in.
    pub bound_port_mask: u32,
    /// Bit of `IP_TRANSPARENT` in the byte that it is in.
    pub transparent_mask: u32,
    /// Rows that the table of listeners has.
    pub listeners_max: u32,
    /// Rows that the table of workloads has.
    pub workloads_max: u32,
    /// Always zero.
    pub zero: u32,
    /// [`crate::reset::Reason`] of each number of `enum sk_rst_reason`.
    pub reset_reasons: [u8; RESET_REASONS_MAX],
}

impl Settings {
    /// What the object file holds until the agent overrides it.
    pub const NONE: Self = Self {
        rate_limit: 0,
        wakeup_bytes: 0,
        kinds: 0,
        ports_per_workload: 0,
        reason_listen_overflow: ABSENT,
        death_row_is_pointer: 0,
        local_ports_packed: 0,
        has_current_task_btf: 0,
        syn_queue_full_at_limit: 0,
        tick_ns: 0,
        may_probe_read: 0,
        bound_port_mask: 0,
        transparent_mask: 0,
        listeners_max: 0,
        workloads_max: 0,
        zero: 0,
        reset_reasons: [0; RESET_REASONS_MAX],
    };
}

/// Switches that follow from which hooks attached, and so are set after load: bits of the only
/// value in the switches map.
pub mod switch {
    /// kfree_skb counts ACK-stage drops, so the packet rung leaves them alone.
    pub const ACK_DROPS_BY_KFREE_SKB: u64 = 1;
    /// set_state marks candidates for TIME_WAIT overflows.
    pub const TIME_WAIT_CANDIDATES: u64 = 2;
    /// The functions that make children tell their listener when they return.
    pub const CHILDREN_BY_EXIT: u64 = 4;
    /// A pass has given a row to every listener that is older than the agent.
    pub const LISTED: u64 = 8;
    /// The outcome of a SYN over IPv6 cannot be told, since functions of IPv6 are not hooked.
    pub const OUTCOMES_OF_IPV4_ALONE: u64 = 16;
}

const _: () = assert!(size_of::<Settings>() == 144);
