//! Map keys and values: what is counted in the kernel, and under which identity.
//!
//! A key holds exactly what a metric's labels are made from, so that a count can be exported
//! without the ring. All integers are in host order, addresses are 16 bytes in network order with
//! IPv4 written as `::ffff:a.b.c.d`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{rows::Rows, wire_enum};

wire_enum! {
    /// Why a listener dropped a handshake.
    DropReason {
        /// The accept queue was full when a SYN came (`ListenOverflows`).
        AcceptQueueFullSyn = 0, "accept_queue_full_syn";
        /// The accept queue was full when the handshake's last ACK came (`ListenOverflows`).
        AcceptQueueFullAck = 1, "accept_queue_full_ack";
        /// The SYN queue was full and SYN cookies were off (`TCPReqQFullDrop`).
        SynQueueFull = 2, "syn_queue_full";
        /// `ListenDrops` without an overflow: prune, memory, route, ICMP.
        Other = 3, "other";
        /// The kernel counted it and no hook could tell why.
        Unknown = 4, "unknown";
    }
}

wire_enum! {
    /// What made the kernel send a segment again.
    RetransmitCause {
        /// A segment that carries SYN. (SYN-ACKs count at their listener.)
        Syn = 0, "syn";
        /// The retransmission timer.
        Rto = 1, "rto";
        /// Fast retransmit in Recovery.
        Fast = 2, "fast";
        /// A tail-loss probe (RFC 8985).
        TailLossProbe = 3, "tail_loss_probe";
        /// Further segments after an RTO, in Loss.
        SlowStart = 4, "slow_start";
        /// A segment that carries FIN only.
        Fin = 5, "fin";
        /// The kernel counted it and no hook saw it.
        Unknown = 6, "unknown";
    }
}

wire_enum! {
    /// Which end of the connection this socket is.
    Role {
        /// Neither could be told; the port stays empty.
        Unknown = 0, "unknown";
        /// The socket called `connect()`.
        Client = 1, "client";
        /// The socket came from a listener.
        Server = 2, "server";
    }
}

wire_enum! {
    /// How a `connect()` ended.
    ConnectResult {
        /// The handshake completed.
        Established = 0, "established";
        /// The peer answered with RST (ECONNREFUSED).
        Refused = 1, "refused";
        /// No answer within the retries (ETIMEDOUT).
        TimedOut = 2, "timed_out";
        /// ECONNRESET.
        Reset = 3, "reset";
        /// ICMP said so, or there is no route (EHOSTUNREACH, ENETUNREACH).
        Unreachable = 4, "unreachable";
        /// No ephemeral port was free (EADDRNOTAVAIL).
        NoPort = 5, "no_port";
        /// The application closed the socket before an answer came.
        Abandoned = 6, "abandoned";
        /// Any other error.
        Other = 7, "other";
    }
}

wire_enum! {
    /// What waited in vain for an answer when the kernel gave a connection up.
    TimeoutCause {
        /// The kernel counted it and no hook saw it.
        Unknown = 0, "unknown";
        /// The SYN of `connect()`, or the SYN-ACK of a child of TCP Fast Open.
        Syn = 1, "syn";
        /// Data that was sent.
        Retransmit = 2, "retransmit";
        /// A keepalive probe: nothing was under way.
        Keepalive = 3, "keepalive";
        /// Data that the peer's window has no room for.
        ZeroWindow = 4, "zero_window";
        /// A FIN, or data before it: this end had closed its side.
        Fin = 5, "fin";
    }
}

wire_enum! {
    /// What a row of the counters map counts; `a` and `b` of [`CounterKey`] depend on it.
    Counter {
        /// State changes; `a` = old state, `b` = new state; cgroup 0.
        Transition = 0, "transition";
        /// Retransmitted segments; `a` = [`RetransmitCause`]; role and port set.
        Retransmit = 1, "retransmit";
        /// The retransmitted segments that did not leave the host (`TCPRetransFail`); `a` = [`RetransmitCause`].
        RetransmitFailed = 2, "retransmit_failed";
        /// `connect()` calls by SYN retries; `a` = [`ConnectResult`], `b` = bucket of [`CONNECT_RETRY_BUCKETS`].
        ConnectRetries = 3, "connect_retries";
        /// Sum of SYN retries; `a` = [`ConnectResult`].
        ConnectRetriesSum = 4, "connect_retries_sum";
        /// Failed `connect()` calls; `a` = [`ConnectResult`]; port set.
        ConnectFailure = 5, "connect_failure";
        /// TIME_WAIT sockets that the kernel refused to make (exact rungs).
        TimeWaitOverflow = 6, "time_wait_overflow";
        /// Closes that may have overflowed; confirmed against `TCPTimeWaitOverflow` (set_state rung).
        TimeWaitCandidate = 7, "time_wait_candidate";
        /// Listener drops that found no room in the listeners map; `a` = [`DropReason`].
        ListenDrop = 8, "listen_drop";
        /// Accepted connections that found no room in the listeners map.
        Accepted = 9, "accepted";
        /// SYN-ACK retransmits that found no room in the listeners map.
        SynackRetransmit = 10, "synack_retransmit";
        /// Resets; `a` = [`Direction`](crate::reset::Direction),
        /// `b` = [`Reason`](crate::reset::Reason). One without a full socket has cgroup 0.
        Reset = 11, "reset";
        /// Connections that the kernel gave up; `a` = [`TimeoutCause`]; role and port set.
        ConnectionTimeout = 12, "connection_timeout";
        /// Calls of `bind()` or `listen()` that asked for any port and were given none.
        BindFailure = 13, "bind_failure";
    }
}

/// Upper bounds (inclusive) of the SYN-retry histogram; one more bucket takes the rest.
/// 4 ends the linear retries of Linux ≥ 6.5, 6 is the documents' `tcp_syn_retries`, 10 is where
/// the ladder of Linux ≥ 6.5 ends.
pub const CONNECT_RETRY_BUCKETS: [u8; 9] = [0, 1, 2, 3, 4, 6, 8, 10, 15];

/// The cgroup id of rows that found no room under their own key: the `_other` row.
pub const CGROUP_OTHER: u64 = u64::MAX;
/// The port of rows of a workload that already has its share of ports.
pub const PORT_OTHER: u16 = 0;
/// `role` of a [`CounterKey`] whose port found no room ([`Role`] in the low bits).
pub const ROLE_PORT_OTHER: u8 = 0x80;

/// A listener as metrics name it. All sockets of a `SO_REUSEPORT` group in one cgroup share a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListenerKey {
    /// Network namespace: `net_cookie`. Where it cannot be asked for, the namespace's random number for hashes (upper
    /// half) with the inode number; where that is not to be had either, the inode number alone.
    pub netns: u64,
    /// cgroup v2 id of the socket (the inode of its directory); 1 is the root.
    pub cgroup: u64,
    /// Bound address, network order.
    pub address: [u32; 4],
    /// Bound port, host order.
    pub port: u16,
    /// Always zero: padding would be part of the key.
    pub zero: [u16; 3],
}

impl ListenerKey {
    /// No listener: none has port 0.
    pub const NONE: Self = Self { netns: 0, cgroup: 0, address: [0; 4], port: 0, zero: [0; 3] };
}

/// Slots in which peaks are kept. A power of two, so that the verifier sees the index's bound.
pub const PEAK_SLOTS: usize = 8;
/// A slot lasts 2^35 ns (34 s); a shift is cheaper than a division.
pub const PEAK_SLOT_SHIFT: u32 = 35;
/// Slots that count, the running one included: at least the last 2 minutes.
pub const PEAK_SLOTS_RECENT: u32 = 5;

/// Whether an accept queue of this length and limit has more of its room taken than another. A queue holds one connection
/// more than its limit.
#[must_use]
pub const fn is_fuller(length: u32, limit: u32, than_length: u32, than_limit: u32) -> bool {
    // Cross-multiplied: length / (limit + 1) > than_length / (than_limit + 1).
    length as u64 * (than_limit as u64 + 1) > than_length as u64 * (limit as u64 + 1)
}

/// The fullest accept queue seen during one slot of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Peak {
    /// Number of the slot: `ktime_ns >> PEAK_SLOT_SHIFT`.
    pub slot: u32,
    /// Length of the fullest accept queue seen in it, in connections.
    pub length: u32,
    /// Limit of that queue (`sk_max_ack_backlog`): sockets of one listener may have different ones.
    pub limit: u32,
}

/// What is counted for one [`ListenerKey`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListenerStats {
    /// Drops by [`DropReason`].
    pub drops: [u64; DropReason::COUNT],
    /// Connections that completed the handshake (LISTEN → SYN_RECV → ESTABLISHED).
    pub accepted: u64,
    /// SYN-ACKs sent again.
    pub synack_retransmits: u64,
    /// `listen()` calls seen that opened a listener.
    pub opened: u64,
    /// Listeners seen closing.
    pub closed: u64,
    /// Sum of `sk_drops` at close: evidence for the lowest rung, never a count of drops.
    pub closed_sk_drops: u64,
    /// Thread-group id of the last caller of `listen()`; 0 when none was seen.
    pub owner_tgid: u32,
    /// 1 where `owner_comm` is the name of the calling thread (kernel < 5.11), else 0.
    pub owner_comm_is_of_thread: u16,
    /// 1 if sockets may have opened that `opened` does not have: the row was made by a hook that met a listener, and
    /// not by the listing of all of them or a `listen()` after that.
    pub opened_before: u16,
    /// `comm` of that thread group's leader.
    pub owner_comm: [u8; 16],
    /// Fullest accept queues, by slot number modulo [`PEAK_SLOTS`].
    pub peaks: [Peak; PEAK_SLOTS],
}

/// Key of the counters map: one number per workload and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CounterKey {
    /// As in [`ListenerKey::netns`].
    pub netns: u64,
    /// cgroup v2 id of the socket, 0 where the counter is per namespace, or [`CGROUP_OTHER`].
    pub cgroup: u64,
    /// The server's port in host order, 0 where there is none.
    pub port: u16,
    /// [`Role`], or [`ROLE_PORT_OTHER`] set.
    pub role: u8,
    /// [`Counter`].
    pub counter: u8,
    /// First detail, see [`Counter`].
    pub a: u8,
    /// Second detail, see [`Counter`].
    pub b: u8,
    /// Always zero.
    pub zero: u16,
}

/// Key of the workloads map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WorkloadKey {
    /// As in [`ListenerKey::netns`].
    pub netns: u64,
    /// cgroup v2 id of the socket.
    pub cgroup: u64,
}

/// Key of the ports map: a port that a workload has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortKey {
    /// The workload's namespace.
    pub netns: u64,
    /// The workload's cgroup.
    pub cgroup: u64,
    /// The server's port, host order.
    pub port: u16,
    /// [`Role`].
    pub role: u8,
    /// Always zero.
    pub zero: [u8; 5],
}

/// What the hooks know of a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetnsSeen {
    /// When a hook first met it, ktime nanoseconds.
    pub first_ns: u64,
    /// Inode number, as `/proc/PID/ns/net` shows it.
    pub inum: u32,
    /// Always zero.
    pub zero: u32,
    /// Rows that the hooks made for it, of each table.
    pub admitted: Rows,
}

/// Counts that found no room in any map, by the number of their [`Counter`].
pub type LostCounts = [u64; LOST_COUNTS_LEN];

/// A power of two above the number of kinds, so that a mask keeps an index within.
pub const LOST_COUNTS_LEN: usize = 16;
const _: () = assert!(LOST_COUNTS_LEN.is_power_of_two() && Counter::ALL.len() < LOST_COUNTS_LEN);

/// Per-CPU tally of one event kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventTally {
    /// Records put on the ring.
    pub emitted: u64,
    /// Records lost because the ring was full.
    pub lost_ring: u64,
    /// Records withheld by the rate limit.
    pub lost_rate: u64,
    /// Second (ktime) that `window_count` belongs to.
    pub window_second: u64,
    /// Records emitted in that second.
    pub window_count: u64,
}

/// What a listener drop looked like while its outcome was still open (packet rung), per CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PendingHandshake {
    /// The listener that the packet came to.
    pub listener: ListenerKey,
    /// When it came, ktime nanoseconds; 0 = nothing is pending.
    pub since_ns: u64,
    /// Client's address, network order.
    pub remote: [u32; 4],
    /// Address the client called, network order.
    pub local: [u32; 4],
    /// Accept-queue length before the packet.
    pub queue_length: u32,
    /// Accept-queue limit.
    pub queue_limit: u32,
    /// SYN-queue length before the packet.
    pub syn_queue_length: u32,
    /// Network namespace inode number.
    pub netns_inum: u32,
    /// Client's port, host order.
    pub remote_port: u16,
    /// [`DropReason`] if no answer follows.
    pub reason: u8,
    /// AF_INET (2) or AF_INET6 (10) of the packet.
    pub family: u8,
    /// Sequence number that an answering SYN-ACK acknowledges; 0 if no SYN-ACK would be the answer.
    pub answer_ack: u32,
}

/// By which number a network namespace is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetnsIdentity {
    /// As in [`ListenerKey::netns`].
    pub netns: u64,
    /// Inode number.
    pub inum: u32,
    /// Always zero.
    pub zero: u32,
}

/// One socket that a process listens on, as the listener pass writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListenerSocket {
    /// Its metric identity.
    pub key: ListenerKey,
    /// Address of the kernel's `struct sock`: tells sockets of one key apart, nothing else. 0: the walk could not
    /// read the socket that listens, so the record tells of the key, the inode and the holder alone.
    pub sock: u64,
    /// Inode number of the open file (0 in a namespace-bound walk); an MPTCP socket and its subflows share one.
    pub inode: u64,
    /// cgroup v2 id of the process that holds it (0 in a namespace-bound walk).
    pub holder_cgroup: u64,
    /// Thread-group id of the holder (0 in a namespace-bound walk).
    pub holder_tgid: u32,
    /// Network namespace inode number.
    pub netns_inum: u32,
    /// `sk_ack_backlog`: connections that wait for `accept()`.
    pub accept_queue_length: u32,
    /// `sk_max_ack_backlog`: the queue holds one connection more than this.
    pub accept_queue_limit: u32,
    /// `icsk_accept_queue.qlen`: handshakes under way.
    pub syn_queue_length: u32,
    /// `sk_drops`, u32, wraps.
    pub sk_drops: u32,
    /// `comm` of the holder's thread-group leader.
    pub holder_comm: [u8; 16],
}

/// Processes that a walk tells to hold each listener, whatever else it has told: those with the lowest ids.
pub const HOLDERS_EACH: u32 = 8;
/// Processes beyond these that one walk tells in all. 32 768: 500 services with 64 workers each. 1 MiB for the agent.
pub const HOLDERS_MORE: u32 = 32_768;

/// One walk over open files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListenerWalk {
    /// The kernel's number of the iterator.
    pub session: u64,
    /// Processes told beyond [`HOLDERS_EACH`] of their listener.
    pub more: u32,
    /// Processes that were not told.
    pub left_out: u32,
}

/// What a walk told of a listener to which several descriptors may lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListenerHolders {
    /// [`ListenerWalk::session`] of the walk.
    pub session: u64,
    /// The last process told, or left out.
    pub tgid: u32,
    /// Processes told.
    pub count: u32,
}

/// Whose sockets a row of the socket pass counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketsKey {
    /// As in [`ListenerKey::netns`].
    pub netns: u64,
    /// cgroup v2 id of the sockets, or where that is the root of the process that holds them; or
    /// [`CGROUP_OTHER`].
    pub cgroup: u64,
    /// Thread-group id of that process where its cgroup is the root as well (v1 and hybrid hosts),
    /// else 0.
    pub holder_tgid: u32,
    /// Always zero.
    pub zero: u32,
}

/// Slots for counts by state: a power of two, so that the verifier sees the index's bound.
pub const STATE_SLOTS: usize = 16;

/// Sockets of one [`SocketsKey`], as one walk found them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketsRow {
    /// Since when (ktime nanoseconds) the oldest one in CLOSE_WAIT is there, at the latest; 0 = none is.
    pub close_wait_since_ns: u64,
    /// [`SocketWalk::generation`] of the walk that counted.
    pub generation: u32,
    /// Network namespace inode number.
    pub netns_inum: u32,
    /// Sockets by state, numbered as in [`crate::state`].
    pub counts: [u32; STATE_SLOTS],
}

/// One walk over open sockets. The agent clears it and sets the generation before the walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketWalk {
    /// When the walk came to its first socket, ktime nanoseconds; 0 = not yet.
    pub started_ns: u64,
    /// The kernel's ticks at that time.
    pub started_jiffies: u64,
    /// Number of the walk, from 1 on.
    pub generation: u32,
    /// Sockets that may come up again in this walk, and so are remembered.
    pub shared: u32,
    /// Descriptors whose sockets found no room in the maps.
    pub uncounted: u32,
    /// Always zero.
    pub zero: u32,
}

/// Sockets that one walk remembers because several descriptors may lead to them: workers that were
/// forked with open connections have hundreds each.
pub const SHARED_SOCKETS_MAX: u32 = 12_288;
/// Sockets in CLOSE_WAIT that walks remember: more than processes of the usual 1 024 descriptors leak.
pub const CLOSE_WAIT_SEEN_MAX: u32 = 16_384;

/// What walks remember of a socket in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CloseWaitSeen {
    /// Since when it is in CLOSE_WAIT, at the latest; ktime nanoseconds.
    pub since_ns: u64,
    /// The last walk that saw it there.
    pub generation: u32,
    /// `skc_hash`, made from its addresses and ports: the kernel gives a freed socket's address to
    /// another.
    pub hash: u32,
}

const _: () = assert!(size_of::<SocketsKey>() == 24);
const _: () = assert!(size_of::<SocketsRow>() == 80);
const _: () = assert!(size_of::<SocketWalk>() == 32);
const _: () = assert!(size_of::<CloseWaitSeen>() == 16);
const _: () = assert!(size_of::<ListenerKey>() == 40);
const _: () = assert!(size_of::<ListenerStats>() == 200);
const _: () = assert!(size_of::<CounterKey>() == 24);
const _: () = assert!(size_of::<PortKey>() == 24);
const _: () = assert!(size_of::<PendingHandshake>() == 104);
const _: () = assert!(size_of::<ListenerSocket>() == 104);
const _: () = assert!(size_of::<NetnsSeen>() == 32);
const _: () = assert!(size_of::<ListenerWalk>() == 16);
const _: () = assert!(size_of::<ListenerHolders>() == 16);
const _: () = assert!(size_of::<NetnsIdentity>() == 16);
