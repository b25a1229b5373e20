//! The table of metrics: one row each, in the order of the exposition and of docs/metrics.md.
//!
//! Adding a metric is adding a row. Names, types and labels are a contract with dashboards and
//! alerts; a row that is renamed breaks them silently.

use super::label::{
    CAUSE, COUNTER, ERROR, EVENT, FROM, HOOK, LISTENER, Label, MAP, METRIC, NAME, NAMESPACE, NETNS, OWNER, PASS, POD,
    POD_NAMESPACE, PORT, PROGRAM, REASON, RESULT, REVISION, ROLE, SIGNAL, STAGE, STATE, TO, VERSION,
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
        "Longest accept queue that hooks or passes saw in the last two minutes, in connections.";
    TcpSynQueueLength Gauge "tracer_tcp_syn_queue_length" [LISTENER] "connections" ListenerPass
        "Handshakes under way at the last pass (icsk_accept_queue.qlen), in connections.";
    TcpSynQueueLimit Gauge "tracer_tcp_syn_queue_limit" [LISTENER] "connections" ListenerPass
        "Handshakes that the SYN queue may hold, in connections: the backlog, or with tcp_syncookies=0 the smaller of that and three quarters of tcp_max_syn_backlog.";
    TcpListenerSockets Gauge "tracer_tcp_listener_sockets" [LISTENER] "sockets" ListenerPass
        "Listening sockets that these labels stand for, more than one for a SO_REUSEPORT group.";
    TcpAcceptedConnections Counter "tracer_tcp_accepted_connections_total" [LISTENER] "connections" Transitions
        "Connections whose handshake completed at the listener (LISTEN to SYN_RECV to ESTABLISHED), in connections, whether or not the process has called accept().";
    TcpSynackRetransmits Counter "tracer_tcp_synack_retransmits_total" [LISTENER] "segments" Retransmits
        "SYN-ACKs that the listener sent again for want of the client's ACK, in segments, which tracer_tcp_retransmitted_segments_total counts too: a part of RetransSegs of /proc/net/snmp and of TCPSynRetrans of /proc/net/netstat.";
    TcpRetransmittedSegments Counter "tracer_tcp_retransmitted_segments_total" [OWNER + ROLE + PORT + CAUSE] "segments" Retransmits
        "Segments that the kernel sent again or tried to, SYN-ACKs among them (role server, cause syn): a namespace's sum equals RetransSegs of /proc/net/snmp, that of cause syn TCPSynRetrans of /proc/net/netstat.";
    TcpRetransmitsFailed Counter "tracer_tcp_retransmits_failed_total" [OWNER] "segments" Retransmits
        "The part of tracer_tcp_retransmitted_segments_total that the host itself refused to send (a rule, a queue, memory), in segments: equals TCPRetransFail of /proc/net/netstat.";
    TcpSegmentsSent Counter "tracer_tcp_segments_sent_total" [NAMESPACE] "segments" Proc
        "Segments the namespace sent, retransmits of data left out, as OutSegs of /proc/net/snmp counts them: the denominator of the retransmit rate.";
    TcpSegmentsReceived Counter "tracer_tcp_segments_received_total" [NAMESPACE] "segments" Proc
        "Segments that came to the namespace, bad ones among them, as InSegs of /proc/net/snmp counts them.";
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
    TcpStateTransitions Counter "tracer_tcp_state_transitions_total" [NAMESPACE + FROM + TO] "transitions" Transitions
        "State changes of full TCP sockets: LISTEN to SYN_RECV equals PassiveOpens of /proc/net/snmp, ESTABLISHED to CLOSE plus CLOSE_WAIT to CLOSE equals EstabResets; what the kernel counted there and no hook saw has from=unknown.";
    TcpConnectFailures Counter "tracer_tcp_connect_failures_total" [OWNER + PORT + ERROR] "connections" Transitions
        "Calls of connect() that ended without a connection, by what ended them; differs by nature from AttemptFails of /proc/net/snmp, which counts half-open scans and misses calls without a port.";
    TcpConnectSynRetries Histogram "tracer_tcp_connect_syn_retries" [OWNER + RESULT] "retries" Transitions
        "SYNs that connect() had to send again before it ended, in retries for each call.";
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
    HookAttached Gauge "tracer_hook_attached" [NODE + SIGNAL + HOOK] "1" Agent
        "1 if the hook is in force for the signal, 0 if the kernel refused it or a better one serves.";
    MapEntries Gauge "tracer_map_entries" [NODE + MAP] "entries" Agent
        "Rows in use of a bounded BPF map.";
    MapCapacity Gauge "tracer_map_capacity" [NODE + MAP] "entries" Agent
        "Rows that a BPF map has room for, beyond which counts go to the _other row.";
    SocketsUncounted Gauge "tracer_sockets_uncounted" [NODE] "sockets" SocketPass
        "Descriptors whose sockets the last socket pass left out of tracer_tcp_sockets because the maps sockets_other or shared_sockets were full.";
    CountsLost Counter "tracer_counts_lost_total" [NODE + COUNTER] "events" Agent
        "Counts that found room in no BPF map, not even in the _other row of their namespace, in the unit of what they count.";
    SeriesSuppressed Counter "tracer_series_suppressed_total" [NODE + METRIC] "series" Agent
        "Series that a scrape left out because the metric had reached its limit, summed over scrapes.";
    ProgramRunSeconds Counter "tracer_program_run_seconds_total" [NODE + PROGRAM] "seconds" Agent
        "Time that the BPF program ran, while the kernel's bpf_stats_enabled is on.";
    ProgramRuns Counter "tracer_program_runs_total" [NODE + PROGRAM] "runs" Agent
        "How often the BPF program ran, while the kernel's bpf_stats_enabled is on.";
    ProgramMissedRuns Counter "tracer_program_missed_runs_total" [NODE + PROGRAM] "runs" Agent
        "Events that the kernel did not show to the BPF program because an interrupt brought them in the middle of another one on that CPU (recursion_misses, from 5.12); what they would have counted is in the unknown rows.";
    PassDuration Gauge "tracer_pass_duration_seconds" [NODE + PASS] "seconds" Agent
        "Time that the last pass took.";
    PassAge Gauge "tracer_pass_age_seconds" [NODE + PASS] "seconds" Agent
        "Time since the last pass ended, which is the age of what it read.";
    PassInterval Gauge "tracer_pass_interval_seconds" [NODE + PASS] "seconds" Agent
        "Time between two passes now, stretched where passes would cost too much of a core.";
    ScrapeDuration Histogram "tracer_scrape_duration_seconds" [NODE] "seconds" Agent
        "Time that the agent took to answer a scrape, in seconds, for all scrapes before this one.";
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
