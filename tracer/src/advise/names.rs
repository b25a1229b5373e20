//! The names that rules ask for: metrics of the exposition, and settings as the label `name` of
//! [`SYSCTL`] has them. Every rule takes them from here, so that one test can hold them all against
//! the table of metrics.

/// Declares constants and the list of them all.
macro_rules! names {
    ($all:ident: $what:literal; $($id:ident $name:literal;)+) => {
        $(#[doc = concat!("`", $name, "`")] pub const $id: &str = $name;)+

        #[doc = $what]
        pub const $all: &[&str] = &[$($id),+];
    };
}

names! { METRICS_USED: "Every metric that a rule or the head of the advice reads.";
    BUILD_INFO "tracer_build_info";
    START_TIME "process_start_time_seconds";
    NETNS_INFO "tracer_netns_info";
    SYSCTL "tracer_sysctl_value";
    LISTEN_DROPS "tracer_tcp_listen_drops_total";
    ACCEPT_LENGTH "tracer_tcp_accept_queue_length";
    ACCEPT_LIMIT "tracer_tcp_accept_queue_limit";
    ACCEPT_PEAK "tracer_tcp_accept_queue_peak";
    ACCEPT_PEAK_LIMIT "tracer_tcp_accept_queue_peak_limit";
    LISTENER_SOCKETS "tracer_tcp_listener_sockets";
    SYN_LENGTH "tracer_tcp_syn_queue_length";
    SYN_LIMIT "tracer_tcp_syn_queue_limit";
    SYN_COOKIES "tracer_tcp_syn_cookies_total";
    OPEN_FILES "tracer_tcp_listener_open_files";
    OPEN_FILES_LIMIT "tracer_tcp_listener_open_files_limit";
    FILE_HANDLES "tracer_file_handles";
    FILE_HANDLES_LIMIT "tracer_file_handles_limit";
    TIME_WAIT "tracer_tcp_time_wait_sockets";
    TIME_WAIT_LIMIT "tracer_tcp_time_wait_limit";
    TIME_WAIT_OVERFLOWS "tracer_tcp_time_wait_overflows_total";
    PORTS_USED "tracer_tcp_ephemeral_ports_used";
    PORTS_AVAILABLE "tracer_tcp_ephemeral_ports_available";
    CONNECT_FAILURES "tracer_tcp_connect_failures_total";
    BIND_FAILURES "tracer_tcp_bind_failures_total";
    MEMORY "tracer_tcp_memory_bytes";
    MEMORY_LIMIT "tracer_tcp_memory_limit_bytes";
    MEMORY_PRESSURE "tracer_tcp_memory_pressure_total";
    NODE_MEMORY "tracer_node_memory_bytes";
    RECEIVE_QUEUE_DROPS "tracer_tcp_receive_queue_drops_total";
    ZERO_WINDOW "tracer_tcp_zero_window_total";
    SOFTNET_DROPPED "tracer_softnet_dropped_packets_total";
    SOCKETS "tracer_tcp_sockets";
    CLOSE_WAIT_OLDEST "tracer_tcp_close_wait_oldest_seconds";
    ORPHANS "tracer_tcp_orphan_sockets";
    ORPHANS_LIMIT "tracer_tcp_orphan_limit";
    ABORTS "tracer_tcp_aborts_total";
    RETRANSMITS "tracer_tcp_retransmitted_segments_total";
    RETRANSMITS_FAILED "tracer_tcp_retransmits_failed_total";
    SEGMENTS_SENT "tracer_tcp_segments_sent_total";
    COUNT_DIFFERENCE "tracer_count_difference";
    COUNTS_LOST "tracer_counts_lost_total";
    SERIES_SUPPRESSED "tracer_series_suppressed_total";
    HOOK_ATTACHED "tracer_hook_attached";
    PASS_AGE "tracer_pass_age_seconds";
    PASS_INTERVAL "tracer_pass_interval_seconds";
}

names! { SETTINGS_USED: "Every setting that a rule reads.";
    SOMAXCONN "net.core.somaxconn";
    NETDEV_MAX_BACKLOG "net.core.netdev_max_backlog";
    PORT_RANGE "net.ipv4.ip_local_port_range";
    ABORT_ON_OVERFLOW "net.ipv4.tcp_abort_on_overflow";
    FIN_TIMEOUT "net.ipv4.tcp_fin_timeout";
    KEEPALIVE_INTVL "net.ipv4.tcp_keepalive_intvl";
    KEEPALIVE_PROBES "net.ipv4.tcp_keepalive_probes";
    KEEPALIVE_TIME "net.ipv4.tcp_keepalive_time";
    MAX_ORPHANS "net.ipv4.tcp_max_orphans";
    MAX_SYN_BACKLOG "net.ipv4.tcp_max_syn_backlog";
    MAX_TW_BUCKETS "net.ipv4.tcp_max_tw_buckets";
    ORPHAN_RETRIES "net.ipv4.tcp_orphan_retries";
    RETRIES2 "net.ipv4.tcp_retries2";
    RMEM "net.ipv4.tcp_rmem";
    SYN_LINEAR_TIMEOUTS "net.ipv4.tcp_syn_linear_timeouts";
    SYN_RETRIES "net.ipv4.tcp_syn_retries";
    SYNACK_RETRIES "net.ipv4.tcp_synack_retries";
    SYNCOOKIES "net.ipv4.tcp_syncookies";
    TIMESTAMPS "net.ipv4.tcp_timestamps";
    TW_REUSE "net.ipv4.tcp_tw_reuse";
    WINDOW_SCALING "net.ipv4.tcp_window_scaling";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::metrics::{METRICS, Metric, Values};

    fn metric(name: &str) -> &'static Metric {
        METRICS.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("no metric {name}"))
    }

    #[test]
    fn every_metric_is_in_the_table() {
        for name in METRICS_USED {
            metric(name);
        }
    }

    /// Rows that rules ask for by the value of a label: a value that no row has would silence them.
    #[test]
    fn every_value_that_is_asked_for_is_one_of_its_label() {
        for (name, label, values) in [
            (
                LISTEN_DROPS,
                "reason",
                &["accept_queue_full_syn", "accept_queue_full_ack", "syn_queue_full", "unknown"][..],
            ),
            (CONNECT_FAILURES, "error", &["no_port", "timed_out"]),
            (RETRANSMITS, "cause", &["syn", "rto", "fast", "tail_loss_probe", "unknown"]),
            (RETRANSMITS_FAILED, "cause", &["unknown"]),
            (SYN_COOKIES, "result", &["sent", "received", "failed"]),
            (ABORTS, "reason", &["data", "memory", "timeout"]),
            (ZERO_WINDOW, "direction", &["to_zero"]),
            (MEMORY_LIMIT, "level", &["pressure", "max"]),
            (SOCKETS, "state", &["CLOSE_WAIT"]),
            (SYSCTL, "name", SETTINGS_USED),
        ] {
            let label = metric(name).labels().find(|of| of.name == label);
            let label = label.unwrap_or_else(|| panic!("{name} has no such label"));
            let Values::OneOf(known) = label.values else { panic!("{name}: {} is any text", label.name) };
            assert!(values.iter().all(|value| known.contains(value)), "{name}: {} of {known:?}", label.name);
        }
    }

    #[test]
    fn every_label_of_a_subject_is_one_of_its_metric() {
        for (names, labels) in [
            (
                &[LISTEN_DROPS, ACCEPT_LIMIT, OPEN_FILES, OPEN_FILES_LIMIT, SYN_LENGTH, SYN_LIMIT][..],
                &["netns", "unit", "process", "port"][..],
            ),
            (&[CLOSE_WAIT_OLDEST, SOCKETS, TIME_WAIT_OVERFLOWS, CONNECT_FAILURES], &["netns", "container", "unit"]),
            (&[TIME_WAIT, TIME_WAIT_LIMIT, PORTS_USED, PORTS_AVAILABLE, SEGMENTS_SENT, NETNS_INFO], &["netns", "pod"]),
            (&[SYSCTL], &["netns", "name", "index"]),
            (&[SOFTNET_DROPPED], &["cpu"]),
            (&[HOOK_ATTACHED, COUNT_DIFFERENCE], &["signal"]),
            (&[PASS_AGE, PASS_INTERVAL], &["pass"]),
        ] {
            for (name, label) in names.iter().flat_map(|name| labels.iter().map(move |label| (*name, *label))) {
                assert!(metric(name).labels().any(|of| of.name == label), "{name} has no label {label}");
            }
        }
    }
}
