//! The table of metrics: one row each, in the order of the exposition and of docs/metrics.md.
//!
//! Adding a metric is adding a row. Names, types and labels are a contract with dashboards and
//! alerts; a row that is renamed breaks them silently.

use super::label::{
    ABORT_REASON, CACHE, CAUSE, COOKIE_RESULT, COUNTER, CPU, DIRECTION, ERROR, EVENT, FROM, HOLDER, HOOK, INDEX,
    LISTENER, Label, MAP, MEMORY_LEVEL, METRIC, NAME, NAMESPACE, NETNS, OBSTACLE, OWNER, PASS, POD, POD_NAMESPACE,
    PORT, PROGRAM, REASON, REFUSAL, RESET_REASON, RESULT, REVISION, ROLE, SETTING, SIGNAL, STAGE, STATE, TIMEOUT_CAUSE,
    TO, VERSION, ZERO_WINDOW,
};
use super::{Kind, Metric, Origin};

/// Labels of a metric of the node or of the agent as a whole.
const NODE: &[Label] = &[];

/// Declares [`MetricId`] and [`METRICS`] from the same rows, so that one cannot lack what the other
/// has. A row reads: id, type, name, `[group + own labels]`, unit, origin, help.
macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal [$group:ident $(+ $own:ident)*] $unit:literal $origin:ident $help:literal;)+) => {
        /// Every metric, as code names it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum MetricId { $(#[doc = concat!("`", $name, "`: ", $help)] $id,)+ }

        impl MetricId {
            /// How many metrics there are.
            pub const COUNT: usize = [$(Self::$id),+].len();
        }

        /// Every metric, in the order of [`MetricId`].
        pub const METRICS: &[Metric] = &[$(Metric {
            id: MetricId::$id,
            name: $name,
            kind: Kind::$kind,
            group: $group,
            own: &[$($own),*],
            unit: $unit,
            origin: Origin::$origin,
            help: $help,
        },)+];
    };
}

metrics! {
    TcpListenDrops Counter "tracer_tcp_listen_drops_total" [LISTENER + REASON] "packets" ListenDrops
        "SYNs and handshake-ending ACKs that the listener dropped, in packets: all reasons of a namespace add up to ListenDrops of /proc/net/netstat, the two of a full accept queue to ListenOverflows, syn_queue_full to TCPReqQFullDrop.";
    TcpAcceptQueueLength Gauge "tracer_tcp_accept_queue_length" [LISTENER] "connections" ListenerPass
        "Connections that waited for accept() at the last pass, on the fullest socket of the SO_REUSEPORT group.";
    TcpAcceptQueueLimit Gauge "tracer_tcp_accept_queue_limit" [LISTENER] "connections" ListenerPass
        "Backlog in force on that fullest socket (sk_max_ack_backlog), in connections, of which the kernel queues one more before it drops.";
    TcpAcceptQueuePeak Gauge "tracer_tcp_accept_queue_peak" [LISTENER] "connections" ListenerPass
        "Length of the fullest accept queue that hooks or passes saw in the last two minutes, in connections.";
    TcpAcceptQueuePeakLimit Gauge "tracer_tcp_accept_queue_peak_limit" [LISTENER] "connections" ListenerPass
        "Backlog in force on the socket that had that queue, in connections, of which the kernel queues one more before it drops; no row where tracer_tcp_accept_queue_limit is the same, or the peak 0.";
    TcpSynQueueLength Gauge "tracer_tcp_syn_queue_length" [LISTENER] "connections" ListenerPass
        "Handshakes under way at the last pass (icsk_accept_queue.qlen), in connections.";
    TcpSynQueueLimit Gauge "tracer_tcp_syn_queue_limit" [LISTENER] "connections" ListenerPass
        "Handshakes that the SYN queue may hold, in connections: the backlog, or with tcp_syncookies=0 the smaller of that and three quarters of tcp_max_syn_backlog.";
    TcpListenerSockets Gauge "tracer_tcp_listener_sockets" [LISTENER] "sockets" ListenerPass
        "Listening sockets that these labels stand for, more than one for a SO_REUSEPORT group.";
    TcpListeningSockets Gauge "tracer_tcp_listening_sockets" [NAMESPACE + HOLDER] "sockets" ListenerPass
        "Sockets of the namespace that listen at the last pass, by whether a process is known that holds them: unknown are services of the kernel, descriptors in flight or held by io_uring alone, and on Linux 5.10 all; no rows while none listens.";
    TcpListenerOpenFiles Gauge "tracer_tcp_listener_open_files" [LISTENER] "descriptors" Proc
        "Open file descriptors at the last pass of the process that holds the listener, and where several processes share these labels, of the one nearest to its limit: at the limit accept() fails with EMFILE and the accept queue fills.";
    TcpListenerOpenFilesLimit Gauge "tracer_tcp_listener_open_files_limit" [LISTENER] "descriptors" Proc
        "File descriptors that this process may have open (RLIMIT_NOFILE, soft, of /proc/PID/limits).";
    TcpAcceptedConnections Counter "tracer_tcp_accepted_connections_total" [LISTENER] "connections" Transitions
        "Connections whose handshake completed at the listener (LISTEN to SYN_RECV to ESTABLISHED), in connections, whether or not the process has called accept().";
    TcpSynackRetransmits Counter "tracer_tcp_synack_retransmits_total" [LISTENER] "segments" Retransmits
        "SYN-ACKs that the listener sent again for want of the client's ACK, in segments, which tracer_tcp_retransmitted_segments_total counts too: a part of RetransSegs of /proc/net/snmp and of TCPSynRetrans of /proc/net/netstat.";
    TcpRetransmittedSegments Counter "tracer_tcp_retransmitted_segments_total" [OWNER + ROLE + PORT + CAUSE] "segments" Retransmits
        "Segments that the kernel sent again or tried to, SYN-ACKs among them (role server, cause syn): a namespace's sum equals RetransSegs of /proc/net/snmp, that of cause syn TCPSynRetrans of /proc/net/netstat.";
    TcpRetransmitsFailed Counter "tracer_tcp_retransmits_failed_total" [OWNER + CAUSE] "segments" Retransmits
        "The part of tracer_tcp_retransmitted_segments_total that the host itself refused to send (a rule, a queue, memory), in segments: equals TCPRetransFail of /proc/net/netstat; before Linux 6.17 by network namespace alone and with cause unknown, as they are there.";
    TcpSegmentsSent Counter "tracer_tcp_segments_sent_total" [NAMESPACE] "segments" Proc
        "Segments the namespace sent since the agent's baseline, all retransmits but those of SYN-ACKs left out, as OutSegs of /proc/net/snmp counts them: with tracer_tcp_retransmitted_segments_total, all that a share of retransmits is of.";
    TcpSegmentsReceived Counter "tracer_tcp_segments_received_total" [NAMESPACE] "segments" Proc
        "Segments that came to the namespace since the agent's baseline, bad ones among them, as InSegs of /proc/net/snmp counts them.";
    TcpTimeWaitOverflows Counter "tracer_tcp_time_wait_overflows_total" [OWNER] "sockets" TimeWait
        "Closing sockets that got no TIME_WAIT bucket and vanished at once, by the workload that closed: equals TCPTimeWaitOverflow of /proc/net/netstat.";
    TcpTimeWaitSockets Gauge "tracer_tcp_time_wait_sockets" [NAMESPACE] "sockets" Proc
        "Sockets in TIME_WAIT at the last pass, as tw of /proc/net/sockstat counts them.";
    TcpTimeWaitLimit Gauge "tracer_tcp_time_wait_limit" [NAMESPACE] "sockets" Proc
        "Sockets that the namespace may hold in TIME_WAIT (net.ipv4.tcp_max_tw_buckets).";
    TcpSockets Gauge "tracer_tcp_sockets" [OWNER + STATE] "sockets" SocketPass
        "TCP sockets that processes held open at the last socket pass, each once however many hold it, with rows of ESTABLISHED and CLOSE_WAIT for every owner of one: TIME_WAIT and NEW_SYN_RECV never show, nor do sockets that wait for accept(), orphans and MPTCP's, and CLOSE (not yet connected, or ended by the peer) shows from Linux 5.11 on.";
    TcpCloseWaitOldest Gauge "tracer_tcp_close_wait_oldest_seconds" [OWNER] "seconds" SocketPass
        "How long the owner's oldest socket had been in CLOSE_WAIT at the last socket pass, 0 if none is: at least so long, counted from the last ACK before a pass first saw it there, which is the FIN unless data or keepalives followed.";
    TcpEphemeralPortsUsed Gauge "tracer_tcp_ephemeral_ports_used" [NAMESPACE] "ports" PortPass
        "Ephemeral ports that no connect() to the busiest destination (an address and port, from one source address) could have at the namespace's last walk (its own, TIME_WAIT among them though tcp_tw_reuse lets the kernel give such a port again, and those that bind() or listen() took from all): absent while all sockets of the namespace are fewer than an eighth of ip_local_port_range, and where destinations beyond the map's room may use more.";
    TcpEphemeralPortsAvailable Gauge "tracer_tcp_ephemeral_ports_available" [NAMESPACE] "ports" Proc
        "Ports that connect() may choose from for one destination: those of net.ipv4.ip_local_port_range that are not among net.ipv4.ip_local_reserved_ports.";
    TcpOrphanSockets Gauge "tracer_tcp_orphan_sockets" [NODE] "sockets" Proc
        "TCP sockets at the last pass that no process owns any more, as orphan of /proc/net/sockstat counts them for the node as a whole, whatever the namespace.";
    TcpOrphanLimit Gauge "tracer_tcp_orphan_limit" [NODE] "sockets" Proc
        "Orphans beyond which the kernel kills them with RST (net.ipv4.tcp_max_orphans, one for all namespaces), of which those that keep retransmitting may reach only a half or a quarter.";
    TcpMemory Gauge "tracer_tcp_memory_bytes" [NODE] "bytes" Proc
        "Memory that buffers of all TCP sockets of the node had at the last pass (mem of /proc/net/sockstat times the size of a page), of which each processor may hold some back from the account (1 MiB at most).";
    TcpMemoryLimit Gauge "tracer_tcp_memory_limit_bytes" [NODE + MEMORY_LEVEL] "bytes" Proc
        "Levels of net.ipv4.tcp_mem, which counts pages, in bytes: below min nobody is limited, above pressure sockets are held to their minimum until use is below min again, above max nothing is granted.";
    TcpMemoryPressure Counter "tracer_tcp_memory_pressure_total" [NAMESPACE] "events" Proc
        "How often TCP's memory went above the pressure level, which is the node's state, counted in the namespace of the socket that asked for memory then (TCPMemoryPressures of /proc/net/netstat, since the namespace was made).";
    TcpReceiveQueueDrops Counter "tracer_tcp_receive_queue_drops_total" [NAMESPACE] "segments" Proc
        "Segments that came in order and were dropped all the same, because data that the process has not read yet took what the socket's buffer (tcp_rmem) or the node (tcp_mem) grants (TCPRcvQDrop of /proc/net/netstat, since the namespace was made).";
    TcpZeroWindow Counter "tracer_tcp_zero_window_total" [NAMESPACE + ZERO_WINDOW] "events" Proc
        "Zero windows since the namespace was made, as /proc/net/netstat has them: to_zero = a socket here closed its receive window (TCPToZeroWindowAdv), from_zero = it opened it again (TCPFromZeroWindowAdv), want_zero = it was full but must not take back what it had offered (TCPWantZeroWindowAdv), peer_probe = it probed a window that the peer keeps closed (TCPWinProbe); these make no sum.";
    TcpSynCookies Counter "tracer_tcp_syn_cookies_total" [NAMESPACE + COOKIE_RESULT] "packets" Proc
        "SYN cookies since the namespace was made, as /proc/net/netstat has them: sent instead of queueing the SYN (SyncookiesSent), received in an ACK and valid (SyncookiesRecv), received and not valid (SyncookiesFailed).";
    TcpAborts Counter "tracer_tcp_aborts_total" [NAMESPACE + ABORT_REASON] "connections" Proc
        "Connections that this side ended at once since the namespace was made, as /proc/net/netstat has them: data = SO_LINGER with 0 seconds or data for a socket that was closed (TCPAbortOnData), close = closed with data unread (TCPAbortOnClose), memory = too many orphans or no memory (TCPAbortOnMemory), timeout = the peer stopped answering, also to keepalive and to SYNs (TCPAbortOnTimeout), linger = TCP_LINGER2 below 0 (TCPAbortOnLinger); failed = an RST for one of these that could not be sent (TCPAbortFailed), which is no further connection.";
    TcpStateTransitions Counter "tracer_tcp_state_transitions_total" [NAMESPACE + FROM + TO] "transitions" Transitions
        "State changes of full TCP sockets: LISTEN to SYN_RECV, plus CLOSE to SYN_RECV for listeners that close meanwhile, equals PassiveOpens of /proc/net/snmp, ESTABLISHED to CLOSE plus CLOSE_WAIT to CLOSE equals EstabResets; what the kernel counted there and no hook saw has from=unknown.";
    TcpConnectFailures Counter "tracer_tcp_connect_failures_total" [OWNER + PORT + ERROR] "connections" Transitions
        "Calls of connect() that ended without a connection, by what ended them; differs by nature from AttemptFails of /proc/net/snmp, which counts half-open scans and misses calls without a port.";
    TcpBindFailures Counter "tracer_tcp_bind_failures_total" [OWNER] "calls" Binds
        "Calls of bind() for any port (port 0), or of listen() without one, that failed with EADDRINUSE because every port of net.ipv4.ip_local_port_range was in use at the address: absent where functions cannot be hooked.";
    TcpConnectSynRetries Histogram "tracer_tcp_connect_syn_retries" [OWNER + RESULT] "retries" Transitions
        "SYNs that connect() had to send again before it ended, in retries for each call.";
    TcpConnectionTimeouts Counter "tracer_tcp_connection_timeouts_total" [OWNER + ROLE + PORT + TIMEOUT_CAUSE] "connections" Transitions
        "Connections that the kernel gave up because no answer came any more, by what waited for one (syn is connect() itself): equals TCPAbortOnTimeout of /proc/net/netstat.";
    TcpResets Counter "tracer_tcp_resets_total" [OWNER + DIRECTION + RESET_REASON] "segments" Resets
        "Resets by the workload of the socket, or by the namespace alone where there is none (a closed port): those sent, by the kernel's reason, add up to OutRsts of /proc/net/snmp, which those that a firewall sends are not in, and those received are told by what they put an end to.";
    SoftnetDropped Counter "tracer_softnet_dropped_packets_total" [NODE + CPU] "packets" Proc
        "Packets that the processor dropped before TCP saw them, because its backlog was full (net.core.netdev_max_backlog) or a flow had more than its share of it, as /proc/net/softnet_stat counts them in 32 bits since the node booted.";
    SoftnetSqueezed Counter "tracer_softnet_squeezed_total" [NODE + CPU] "events" Proc
        "Times that the processor had packets left when net.core.netdev_budget or its time was used up, as /proc/net/softnet_stat counts them in 32 bits since the node booted: packets wait, none is lost by that.";
    FileHandles Gauge "tracer_file_handles" [NODE] "handles" Proc
        "Open file handles of the node at the last pass (the first number of /proc/sys/fs/file-nr, of which each processor may hold some dozens back).";
    FileHandlesLimit Gauge "tracer_file_handles_limit" [NODE] "handles" Proc
        "File handles that the node may have open (fs.file-max), beyond which open() and accept() fail with ENFILE.";
    SysctlValue Gauge "tracer_sysctl_value" [NODE + NETNS + SETTING + INDEX] "1" Proc
        "Settings that limit TCP, in the unit of each: the host's, and another namespace's where they differ from the host's; read at first sight and then once in twelve passes, with an age of its own in tracer_pass_age_seconds.";
    NetnsInfo Gauge "tracer_netns_info" [NODE + NETNS + NAME + POD_NAMESPACE + POD] "1" Proc
        "Always 1: the network namespaces that the agent watches, with their names.";
    KernelCount Counter "tracer_kernel_count_total" [NAMESPACE + SIGNAL] "events" Reconcile
        "The kernel's own count of the signal since the agent's baseline, from /proc/net/netstat and /proc/net/snmp of the namespace, in the signal's unit.";
    CountDifference Gauge "tracer_count_difference" [NAMESPACE + SIGNAL] "events" Reconcile
        "What the kernel counted and the hooks did not, in the signal's unit, where two readings of the hooks bracket the kernel's: positive if the kernel saw more, 0 if the numbers close.";
    Unverified Counter "tracer_unverified_total" [NAMESPACE + SIGNAL] "events" Reconcile
        "What the hooks counted after the last reading of a namespace that died, in the signal's unit, which no kernel counter can confirm any more.";
    Retired Counter "tracer_retired_total" [NODE + SIGNAL] "events" Reconcile
        "The final counts of series that were removed because their namespace or listener died, in the signal's unit, so that sums over a node still close.";
    Events Counter "tracer_events_total" [NODE + EVENT] "events" Agent
        "Events that the BPF programs put on the ring, where they carry detail for people and feed no other metric.";
    EventsLost Counter "tracer_events_lost_total" [NODE + EVENT + STAGE] "events" Agent
        "Events whose detail was lost because the ring was full, the rate limit withheld them or the record could not be decoded; no other metric depends on them.";
    LogLinesLost Counter "tracer_log_lines_lost_total" [NODE] "lines" Agent
        "Lines of the agent's log that were lost because nobody read its standard error, which never makes it wait.";
    HookAttached Gauge "tracer_hook_attached" [NODE + SIGNAL + HOOK] "1" Agent
        "1 if the hook is in force for the signal, 0 if the kernel refused it or a better one serves; no row where the signal needs none on this kernel.";
    MapEntries Gauge "tracer_map_entries" [NODE + MAP] "entries" Agent
        "Rows in use of a bounded BPF map.";
    MapCapacity Gauge "tracer_map_capacity" [NODE + MAP] "entries" Agent
        "Rows that a BPF map has room for, beyond which counts go to the _other row.";
    RowsRefused Counter "tracer_rows_refused_total" [NODE + MAP] "events" Agent
        "Look-ups of a row by a hook that found none and made none because the namespace had as many rows of this map as one namespace may have: any until three quarters of the map are taken, then 1/64 of it.";
    SocketsUncounted Gauge "tracer_sockets_uncounted" [NODE] "sockets" SocketPass
        "Descriptors whose sockets the last socket pass left out of tracer_tcp_sockets because the maps sockets_other or shared_sockets were full.";
    ListenerNamespacesLeftOut Gauge "tracer_listener_namespaces_left_out" [NODE] "namespaces" ListenerPass
        "Network namespaces of whose listening sockets the last listener pass read a part only, because there was no room for more: one may fill three quarters of it and 1/64 of the rest; such a namespace keeps the rows of its listeners that are gone.";
    ListenerDescriptorsLeftOut Gauge "tracer_listener_descriptors_left_out" [NODE] "descriptors" ListenerPass
        "Descriptors of listening sockets that the last listener pass left out because there were more sockets than it tells apart; a listener that has a row is never left out.";
    ListenerProcessesLeftOut Gauge "tracer_listener_processes_left_out" [NODE] "processes" ListenerPass
        "Processes that the last listener pass left out of those that hold a listener, because it keeps eight of each and so many more of all: it keeps the lowest ids and the caller of listen(), and tracer_tcp_listener_open_files is about these alone.";
    OwnerCacheEntries Gauge "tracer_owner_cache_entries" [NODE + CACHE] "entries" Agent
        "Entries held by a bounded cache of what names the owners: cgroups of the node, owners by cgroup, owners by pod and container, names from container logs.";
    OwnerCacheCapacity Gauge "tracer_owner_cache_capacity" [NODE + CACHE] "entries" Agent
        "Entries that the cache has room for, beyond which cgroups and names are not found and owners are looked for at each scrape.";
    CountsLost Counter "tracer_counts_lost_total" [NODE + COUNTER] "events" Agent
        "Counts that found room in no BPF map, not even in the _other row of their namespace, or whose namespace could not be told, in the unit of what they count.";
    SeriesSuppressed Counter "tracer_series_suppressed_total" [NODE + METRIC] "series" Agent
        "Series that a scrape left out because the metric had reached its limit, summed over scrapes.";
    ProgramRunSeconds Counter "tracer_program_run_seconds_total" [NODE + PROGRAM] "seconds" Agent
        "Time that the BPF program ran, while the kernel's bpf_stats_enabled is on.";
    ProgramRuns Counter "tracer_program_runs_total" [NODE + PROGRAM] "runs" Agent
        "How often the BPF program ran, while the kernel's bpf_stats_enabled is on.";
    ProgramMissedRuns Counter "tracer_program_missed_runs_total" [NODE + PROGRAM] "runs" Agent
        "Events that the kernel did not show to the BPF program because an interrupt brought them in the middle of another one on that CPU (recursion_misses, from 5.12); what they would have counted is in the unknown rows, but for accepted connections, ends of connect(), peaks and resets received, which have none.";
    PassDuration Gauge "tracer_pass_duration_seconds" [NODE + PASS] "seconds" Agent
        "Time that the last pass took.";
    PassAge Gauge "tracer_pass_age_seconds" [NODE + PASS] "seconds" Agent
        "Time since the last pass ended, which is the age of what it read.";
    PassInterval Gauge "tracer_pass_interval_seconds" [NODE + PASS] "seconds" Agent
        "Time between two passes now, stretched where passes would cost too much of a core.";
    PassIntervalConfigured Gauge "tracer_pass_interval_configured_seconds" [NODE] "seconds" Agent
        "Time between two passes as configured (--pass-interval), beside which tracer_pass_interval_seconds shows how far they are stretched.";
    PassCpu Gauge "tracer_pass_cpu_ratio" [NODE] "1" Agent
        "Share of one processor that passes over namespaces, listeners and sockets take at their present intervals, the port pass left out.";
    PassCpuLimit Gauge "tracer_pass_cpu_limit_ratio" [NODE] "1" Agent
        "Share of one processor that all passes are to keep to (--pass-cpu-percent) by stretching their intervals, which they do up to 30 seconds and no further.";
    PassObstacles Gauge "tracer_pass_obstacles" [NODE + OBSTACLE] "1" Agent
        "What the last pass could not do, by why: namespaces that it could not find, enter or read, listeners that it could not list, directories of names that it could not read, and passes in a row that showed nothing new; /status has the first cause of each.";
    ScrapeDuration Histogram "tracer_scrape_duration_seconds" [NODE] "seconds" Agent
        "Time that the agent took to answer a scrape, in seconds, for all scrapes before this one.";
    HttpRefused Counter "tracer_http_refused_total" [NODE + REFUSAL] "connections and requests" Agent
        "What the HTTP server ended or refused: connections without a whole request that gave way to new ones (idle), answers that were not read (unread), answers that were read so slowly that they gave way to other requests (slow), requests without room (busy), and those that could not be answered whole (failed).";
    EventWatchers Gauge "tracer_event_watchers" [NODE] "1" Agent
        "Commands that watch the agent's events now (tracer events), of eight at most.";
    EventsUnwatched Counter "tracer_events_unwatched_total" [NODE] "events" Agent
        "Events that a command did not take from the agent as fast as they came, summed over commands; nothing else depends on them.";
    NodeMemory Gauge "tracer_node_memory_bytes" [NODE] "bytes" Proc
        "Memory of the node (MemTotal), beside which limits on TCP's memory can be judged.";
    BuildInfo Gauge "tracer_build_info" [NODE + VERSION + REVISION] "1" Agent
        "Always 1: which build of the agent this is.";
    ProcessCpuSeconds Counter "process_cpu_seconds_total" [NODE] "seconds" Agent
        "User and system CPU time that the agent spent, without its BPF programs.";
    ProcessResidentMemory Gauge "process_resident_memory_bytes" [NODE] "bytes" Agent
        "Resident memory of the agent, without its BPF maps.";
    ProcessStartTime Gauge "process_start_time_seconds" [NODE] "seconds" Agent
        "When the agent started, in seconds since the Unix epoch.";
    ProcessOpenFds Gauge "process_open_fds" [NODE] "descriptors" Agent
        "File descriptors that the agent holds, those of BPF maps and programs among them.";
    ProcessMaxFds Gauge "process_max_fds" [NODE] "descriptors" Agent
        "File descriptors that the agent may hold (RLIMIT_NOFILE, soft).";
}
