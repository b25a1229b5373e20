//! Texts as an agent writes them, and as it never would.

use std::fmt::Write as _;

use super::*;
use crate::export::metrics::METRICS;

const HEAD: &str = "tracer_build_info{version=\"0.1.0\",revision=\"abc\"} 1\nprocess_start_time_seconds 1700000000\n";
const WEB: &str = "netns=\"42\",namespace=\"shop\",pod=\"web-1\",container=\"app\",unit=\"\"";

fn reading(text: &str) -> Reading {
    Reading::parse(&format!("{HEAD}{text}"), Duration::from_secs(100)).unwrap()
}

#[test]
fn a_listener_is_one_row_of_all_its_metrics() {
    let l = format!("{WEB},process=\"nginx\",address=\"::\",port=\"80\"");
    let reading = reading(&format!(
        "tracer_tcp_listen_drops_total{{{l},reason=\"accept_queue_full_syn\"}} 7\n\
         tracer_tcp_listen_drops_total{{{l},reason=\"accept_queue_full_ack\"}} 5\n\
         tracer_tcp_listen_drops_total{{{l},reason=\"other\"}} 0\n\
         tracer_tcp_accept_queue_length{{{l}}} 9\ntracer_tcp_accept_queue_limit{{{l}}} 8\n\
         tracer_tcp_accept_queue_peak{{{l}}} 9\ntracer_tcp_syn_queue_length{{{l}}} 2\n\
         tracer_tcp_syn_queue_limit{{{l}}} 8\ntracer_tcp_accepted_connections_total{{{l}}} 21\n\
         tracer_retired_total{{signal=\"listen_drops\"}} 100\n\
         tracer_netns_info{{netns=\"42\",name=\"blue\",namespace=\"shop\",pod=\"web-1\"}} 1\n"
    ));
    let [row] = reading.listeners.all() else { panic!("{:?}", reading.listeners) };
    assert_eq!((row.address.as_str(), row.process.as_str()), ("[::]:80", "nginx"));
    assert_eq!((row.owner.name.as_str(), row.owner.netns_name.as_str()), ("shop/web-1/app", "blue"));
    assert_eq!((row.drops.total, row.reason.as_str()), (Some(12.0), "accept_queue_full_syn"));
    assert_eq!((row.queue, row.queue_limit, row.peak, row.full()), (Some(9.0), Some(8.0), Some(9.0), Some(1.0)));
    assert_eq!((row.syn_queue, row.syn_full(), row.accepted.total), (Some(2.0), Some(0.25), Some(21.0)));
    assert_eq!(reading.node.drops.total, Some(112.0), "what is gone still counts for the node");
    let namespace = reading.namespaces.get("42").unwrap();
    assert_eq!((namespace.drops.total, namespace.owner.name.as_str()), (Some(12.0), "shop/web-1"));
}

#[test]
fn a_workload_adds_up_its_rows() {
    let reading = reading(&format!(
        "tracer_tcp_retransmitted_segments_total{{{WEB},role=\"server\",port=\"80\",cause=\"rto\"}} 3\n\
         tracer_tcp_retransmitted_segments_total{{{WEB},role=\"server\",port=\"80\",cause=\"fast\"}} 4\n\
         tracer_tcp_time_wait_overflows_total{{{WEB}}} 6\n\
         tracer_tcp_sockets{{{WEB},state=\"ESTABLISHED\"}} 5\ntracer_tcp_sockets{{{WEB},state=\"CLOSE_WAIT\"}} 1\n\
         tracer_tcp_sockets{{{WEB},state=\"LISTEN\"}} 1\n\
         tracer_tcp_connect_failures_total{{{WEB},port=\"5432\",error=\"refused\"}} 2\n"
    ));
    let [row] = reading.workloads.all() else { panic!("{:?}", reading.workloads) };
    assert_eq!((row.retransmits.total, row.cause.as_str()), (Some(7.0), "fast"));
    assert_eq!((row.established, row.close_wait, row.connect_failures.total), (Some(5.0), Some(1.0), Some(2.0)));
    assert_eq!(row.timeouts.total, None, "what is absent is not zero");
    let namespace = reading.namespaces.get("42").unwrap();
    assert_eq!((namespace.retransmits.total, namespace.overflows.total), (Some(7.0), Some(6.0)));
    assert_eq!(namespace.owner.netns_name, "42", "without a name the number serves");
}

#[test]
fn a_namespace_has_its_levels_and_the_largest_difference() {
    let reading = reading(
        "tracer_tcp_time_wait_sockets{netns=\"host\"} 30\ntracer_tcp_time_wait_limit{netns=\"host\"} 40\n\
         tracer_tcp_ephemeral_ports_used{netns=\"host\"} 7\ntracer_tcp_ephemeral_ports_available{netns=\"host\"} 28\n\
         tracer_count_difference{netns=\"host\",signal=\"listen_drops\"} 1\n\
         tracer_count_difference{netns=\"host\",signal=\"retransmitted_segments\"} -3\n\
         tracer_pass_age_seconds{pass=\"namespaces\"} 1.5\ntracer_tcp_memory_limit_bytes{level=\"max\"} 4096\n\
         tracer_tcp_memory_limit_bytes{level=\"min\"} 1024\ntracer_events_lost_total{kind=\"reset\",stage=\"ring\"} 4\n",
    );
    let [row] = reading.namespaces.all() else { panic!("{:?}", reading.namespaces) };
    assert_eq!((row.time_wait_full(), row.ports_full(), row.difference), (Some(0.75), Some(0.25), Some(-3.0)));
    let node = &reading.node;
    assert_eq!(node.difference, Some((-3.0, "retransmitted_segments".to_owned(), "host".to_owned())));
    assert_eq!((node.time_wait, node.memory_limit_bytes, node.events_lost), (Some(30.0), Some(4096.0), Some(4.0)));
    assert_eq!(reading.pass_at(), Some(98.5));
}

#[test]
fn names_cannot_reach_for_the_terminal() {
    let evil = "netns=\"1\",namespace=\"\",pod=\"\",container=\"\",unit=\"\u{202e}u\",process=\"a\x1b[2J\\nb\",address=\"\x07\",port=\"\"";
    let reading = reading(&format!("tracer_tcp_accept_queue_length{{{evil}}} 1\n"));
    let row = &reading.listeners.all()[0];
    for text in [&row.process, &row.address, &row.owner.name, &row.owner.netns_name] {
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    }
    assert_eq!(row.process, "a\u{FFFD}[2J\u{FFFD}b");
}

#[test]
fn what_is_no_agents_text_is_refused() {
    let error = |text| Reading::parse(text, Duration::ZERO).unwrap_err().to_string();
    assert_eq!(error("node_load1 0.5\n"), "no exposition of an agent: it has no tracer_build_info");
    assert_eq!(
        error("tracer_build_info{version=\"1\"} 1\ntracer_tcp_sockets{a 1\n"),
        "no exposition that can be read: line 2: a label has no value"
    );
}

#[test]
fn what_is_no_number_is_no_fact() {
    let reading = reading("tracer_tcp_orphan_sockets NaN\ntracer_tcp_orphan_limit +Inf\n");
    assert_eq!((reading.node.orphans, reading.node.orphans_limit), (None, None));
}

/// Labels that rows are asked for: one that no row has would leave a column empty.
#[test]
fn every_label_that_is_asked_for_is_one_of_its_metric() {
    for (id, label, values) in [
        (MetricId::TcpListenDrops, "reason", &[][..]),
        (MetricId::TcpRetransmittedSegments, "cause", &[]),
        (MetricId::TcpSockets, "state", &["ESTABLISHED", "CLOSE_WAIT"]),
        (MetricId::TcpMemoryLimit, "level", &["max"]),
        (MetricId::NetnsInfo, "name", &[]),
        (MetricId::CountDifference, "signal", &[]),
        (MetricId::Retired, "signal", &[]),
        (MetricId::PassAge, "pass", &[]),
        (MetricId::BuildInfo, "version", &[]),
    ] {
        let found = id.metric().labels().find(|of| of.name == label);
        let found = found.unwrap_or_else(|| panic!("{} has no {label}", id.metric().name));
        if let crate::export::metrics::Values::OneOf(known) = found.values {
            assert!(values.iter().all(|value| known.contains(value)), "{label}: {known:?}");
        }
    }
    // Whatever an agent writes, each of its rows is read or passed over.
    let mut text = String::new();
    for metric in METRICS {
        let labels: Vec<String> = metric.labels().map(|label| format!("{}=\"x\"", label.name)).collect();
        let _ = writeln!(text, "{}{{{}}} 1", metric.name, labels.join(","));
    }
    let reading = Reading::parse(&text, Duration::ZERO).unwrap();
    assert_eq!([reading.listeners.all().len(), reading.workloads.all().len(), reading.namespaces.all().len()], [1; 3]);
}
