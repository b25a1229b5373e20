//! Every map, with its size and the reason for it.
//!
//! Hash maps are preallocated: before Linux 6.1 a tracing program must not allocate. The sizes here
//! are the defaults; the agent overrides them from its configuration before load.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use tracer_ebpf::{
    counter::{
        CLOSE_WAIT_SEEN_MAX, CloseWaitSeen, CounterKey, EventTally, ListenerHolders, ListenerKey, ListenerStats,
        ListenerWalk, LostCounts, NetnsSeen, PendingHandshake, PortKey, SHARED_SOCKETS_MAX, SocketWalk, SocketsKey,
        SocketsRow, WorkloadKey,
    },
    destination::{DestinationKey, DestinationUse, PortWalk},
    event::Kind,
    rows::{AllRows, Rows, RowsBeside},
};

/// Counts and owners by listener. 10 000: the design's default; the documents speak of thousands of
/// services on a node, never more.
#[map]
pub static LISTENERS: HashMap<ListenerKey, ListenerStats> = HashMap::with_max_entries(10_000, 0);

/// Counts by workload. 13 rows for each of 5 000 workloads: just below a power of two, since a scrape
/// looks into every bucket.
#[map]
pub static COUNTERS: HashMap<CounterKey, u64> = HashMap::with_max_entries(65_000, 0);

/// Counts whose own key found no room, by namespace. A kind has few (a, b) pairs, so this holds
/// hundreds of namespaces.
#[map]
pub static OTHER: HashMap<CounterKey, u64> = HashMap::with_max_entries(16_384, 0);

/// Last resort when [`OTHER`] is full too: counts by `Counter`, nothing else. The agent shows it as
/// a difference, since the namespace is lost. One entry, so that the agent reads all kinds with one look-up:
/// `probes::map_rows` says why that matters.
#[map]
pub static LOST_COUNTS: Array<LostCounts> = Array::with_max_entries(1, 0);

/// Workloads admitted; the value is the number of ports admitted for them.
#[map]
pub static WORKLOADS: HashMap<WorkloadKey, u64> = HashMap::with_max_entries(5_000, 0);

/// Ports admitted. 4 a workload on average; a single one may have up to the configured limit.
#[map]
pub static PORTS: HashMap<PortKey, u64> = HashMap::with_max_entries(20_000, 0);

/// Destinations of one namespace, emptied after each walk. 16 384: of a default port range that is an
/// eighth full, nearly five for each port.
#[map]
pub static DESTINATIONS: HashMap<DestinationKey, DestinationUse> = HashMap::with_max_entries(16_384, 0);

/// The walk under way over one namespace's sockets.
#[map]
pub static PORT_WALK: Array<PortWalk> = Array::with_max_entries(1, 0);

/// Namespaces that a hook has met. A node has one per pod; 4 096 is eight times a busy node.
#[map]
pub static NETNS: HashMap<u64, NetnsSeen> = HashMap::with_max_entries(4_096, 0);

/// Rows that the agent made or removed itself, by namespace. As many as [`NETNS`].
#[map]
pub static ROWS_BESIDE: HashMap<u64, RowsBeside> = HashMap::with_max_entries(4_096, 0);

/// Rows of all namespaces, by [`AllRows`].
#[map]
pub static ALL_ROWS: Array<Rows> = Array::with_max_entries(AllRows::COUNT, 0);

/// Sockets by owner, as the last walk counted them. As many owners as [`WORKLOADS`] admits.
#[map]
pub static SOCKETS: HashMap<SocketsKey, SocketsRow> = HashMap::with_max_entries(5_000, 0);

/// Sockets whose owner found no room, by namespace. As many as [`NETNS`].
#[map]
pub static SOCKETS_OTHER: HashMap<SocketsKey, SocketsRow> = HashMap::with_max_entries(4_096, 0);

/// The walk over sockets that is under way, or the last one.
#[map]
pub static SOCKET_WALK: Array<SocketWalk> = Array::with_max_entries(1, 0);

/// Walks that last counted a socket which several descriptors may lead to. A third more than one walk
/// may use, so that it never throws out what it has put there itself.
#[map]
pub static SHARED_SOCKETS: LruHashMap<u64, u32> =
    LruHashMap::with_max_entries(SHARED_SOCKETS_MAX + SHARED_SOCKETS_MAX / 3, 0);

/// Sockets in CLOSE_WAIT that walks have seen. A leak of more has an oldest one all the same; the ages
/// of those that find no room start again with each ACK.
#[map]
pub static CLOSE_WAIT_SEEN: LruHashMap<u64, CloseWaitSeen> = LruHashMap::with_max_entries(CLOSE_WAIT_SEEN_MAX, 0);

/// The walk over open files that is under way, or the last one.
#[map]
pub static LISTENER_WALK: Array<ListenerWalk> = Array::with_max_entries(1, 0);

/// Walks that last wrote a listening socket to which several descriptors may lead. 32 768: five for each of a large web
/// server's 6 400 (100 ports, 64 workers); of one that is thrown out, more is written than need be.
#[map]
pub static TOLD_LISTENERS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(32_768, 0);

/// Processes that a walk told to hold such a listener. As many listeners as have rows, and half as many again.
#[map]
pub static LISTENER_HOLDERS: LruHashMap<ListenerKey, ListenerHolders> = LruHashMap::with_max_entries(15_000, 0);

/// The one ring. 1 MiB holds about 9 000 records; the reader is woken at an eighth of that. The reader
/// maps it twice over, so every MiB here is two of its resident memory.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// What became of the records, by kind. One entry, so that the agent reads all kinds with one look-up:
/// `probes::map_rows` says why that matters.
#[map]
pub static TALLIES: PerCpuArray<[EventTally; Kind::COUNT]> = PerCpuArray::with_max_entries(1, 0);

/// The handshake in `tcp_conn_request` on this CPU. BH is off there, so it cannot nest.
#[map]
pub static CONN_REQUEST: PerCpuArray<ConnRequest> = PerCpuArray::with_max_entries(1, 0);

/// Arguments that a later hook of the same call needs, by [`Saved`].
#[map]
pub static SAVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(3, 0);

/// The last ACK of a handshake that this CPU judges. BH is off there, so it cannot nest.
#[map]
pub static FINAL_ACK: PerCpuArray<FinalAck> = PerCpuArray::with_max_entries(1, 0);

/// The handshake whose outcome the packet rung still waits for on this CPU.
#[map]
pub static PENDING: PerCpuArray<PendingHandshake> = PerCpuArray::with_max_entries(1, 0);

/// The last child cloned from a listener on this CPU, to find its listener again when the child
/// becomes ESTABLISHED a moment later.
#[map]
pub static LAST_CHILD: PerCpuArray<LastChild> = PerCpuArray::with_max_entries(1, 0);

/// The last packet that a listener was given on this CPU, on the packet rung.
#[map]
pub static LAST_PACKET: PerCpuArray<LastPacket> = PerCpuArray::with_max_entries(1, 0);

/// Listeners of connections to another address than theirs (TPROXY, sk_lookup), the last ones that opened: removing each
/// at its end would cost every close a look-up. 8 192: some seconds of a busy mesh's proxy; what was thrown out has no
/// port when it is sent again.
#[map]
pub static REDIRECTED: LruHashMap<ConnectionKey, ListenerKey> = LruHashMap::with_max_entries(8_192, 0);

/// Errors that came while their socket's owner ran `connect()`, by socket. Programs close at once after such an error, or
/// go on; 4 096 is how many may come until the first of them closes. One that is thrown out counts as abandoned.
#[map]
pub static CONNECT_ERRORS: LruHashMap<u64, ConnectError> = LruHashMap::with_max_entries(4_096, 0);

/// Sockets for which a task asks for any port just now (kprobe twin), by task. A call lasts microseconds, or milliseconds
/// where nearly all ports are taken: 1 024 tasks at once are many more than processors.
#[map]
pub static BINDING: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1_024, 0);

/// Whether a SYN-ACK was ever seen at egress: 0 = IPv4, 1 = IPv6.
#[map]
pub static EGRESS_SEEN: Array<u64> = Array::with_max_entries(2, 0);

/// Which hooks are in force, as bits of `settings::switch`.
#[map]
pub static SWITCHES: Array<u64> = Array::with_max_entries(1, 0);

/// Whether a switch is on.
#[inline(always)]
pub fn switched_on(switch: u64) -> bool {
    SWITCHES.get(0).is_some_and(|switches| *switches & switch != 0)
}

/// Value of [`CONN_REQUEST`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ConnRequest {
    /// The listener, `struct sock *`.
    pub sk: u64,
    /// The SYN, `struct sk_buff *`.
    pub skb: u64,
    /// 1 while inside `tcp_conn_request`.
    pub open: u32,
    /// Marks set on the way, see `probes::conn_request`.
    pub marks: u32,
    /// 1 if a TIME_WAIT socket gave way on this CPU since the last SYN.
    pub met_time_wait: u32,
    /// Always zero.
    pub zero: u32,
}

/// Value of [`FINAL_ACK`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FinalAck {
    /// The listener, `struct sock *`; 0 = no ACK is judged.
    pub listener: u64,
    /// The child that was made for the ACK, `struct sock *`; 0 = none yet.
    pub child: u64,
    /// 1 if the accept queue clearly had room before the kernel looked.
    pub had_room: u32,
    /// 1 if the child's end is all that tells of a drop.
    pub end_tells: u32,
}

/// Value of [`LAST_CHILD`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LastChild {
    /// The child, `struct sock *`.
    pub sk: u64,
    /// Its listener, or [`ListenerKey::NONE`] until the function that makes the child returns.
    pub listener: ListenerKey,
}

/// Value of [`LAST_PACKET`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LastPacket {
    /// The listener.
    pub listener: ListenerKey,
    /// The client's port, host order.
    pub remote_port: u16,
}

/// Key of [`REDIRECTED`]: the connection by its ports and the kernel's hash of all four of its numbers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ConnectionKey {
    /// As in [`ListenerKey::netns`].
    pub netns: u64,
    /// `skc_hash`
    pub hash: u32,
    /// Host order.
    pub local_port: u16,
    /// Host order.
    pub remote_port: u16,
}

/// Value of [`CONNECT_ERRORS`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ConnectError {
    /// The connect's initial sequence number: the kernel gives a freed socket's address to another.
    pub first_sequence: u32,
    /// The error's number.
    pub error: u32,
}

/// Slots of [`SAVED`].
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum Saved {
    /// Socket of `inet_twsk_alloc`.
    TwskAlloc = 0,
    /// Request that `tcp_req_err` is about.
    RequestError = 1,
    /// Argument of `tcp_send_reset` that may be NULL.
    ResetArgument = 2,
}
