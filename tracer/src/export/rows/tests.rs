//! What becomes of rows that meet, that are too many, and that do not fit.

use super::*;

const OWNER: [&str; 5] = ["host", "", "", "", "a.service"];
const OTHER: [&str; 5] = ["host", "", "", "", "b.service"];

fn family<'r>(rows: &'r Rows<'_>, id: MetricId) -> &'r Family {
    &rows.families[id as usize]
}

fn numbers(rows: &Rows<'_>, id: MetricId) -> Vec<f64> {
    let number = |sample: &Sample| match sample {
        Sample::Number(number) => *number,
        Sample::Histogram(_) => f64::NAN,
    };
    family(rows, id).values().map(number).collect()
}

#[test]
fn rows_with_the_same_labels_are_one() {
    let suppressed = Suppressed::default();
    let mut rows = Rows::new(ROWS_MAX, &suppressed);
    for number in [1.0, 2.0] {
        rows.add(MetricId::TcpTimeWaitOverflows, &OWNER, number);
    }
    rows.add(MetricId::TcpTimeWaitOverflows, &OTHER, 5.0);
    assert_eq!(numbers(&rows, MetricId::TcpTimeWaitOverflows), [3.0, 5.0]);
}

#[test]
fn the_bound_refuses_new_rows_and_keeps_counting_in_old_ones() {
    let suppressed = Suppressed::default();
    let mut rows = Rows::new(1, &suppressed);
    for owner in [&OWNER, &OTHER, &OWNER] {
        rows.add(MetricId::TcpTimeWaitOverflows, owner, 1.0);
    }
    assert_eq!(numbers(&rows, MetricId::TcpTimeWaitOverflows), [2.0]);
    assert_eq!(suppressed.total(MetricId::TcpTimeWaitOverflows), 1);
    assert_eq!(suppressed.total(MetricId::TcpRetransmitsFailed), 0);
}

#[test]
fn a_later_scrape_shows_what_an_earlier_one_left_out() {
    let suppressed = Suppressed::default();
    suppressed.count(MetricId::TcpTimeWaitOverflows);
    suppressed.count(MetricId::BuildInfo);
    let mut rows = Rows::new(ROWS_MAX, &suppressed);
    rows.add_suppressed();
    let own = |key: &str| family(&rows, MetricId::SeriesSuppressed).get(&(0, key.into()));
    assert_eq!(own("tracer_tcp_time_wait_overflows_total\0"), Some(&Sample::Number(1.0)));
    assert_eq!(own("tracer_build_info\0"), Some(&Sample::Number(1.0)));
    assert_eq!(own("tracer_tcp_listen_drops_total\0"), Some(&Sample::Number(0.0)));
    assert_eq!(own("process_open_fds\0"), None);
}

#[test]
fn histograms_with_the_same_bounds_are_summed() {
    let labels = ["host", "", "", "", "", "refused"];
    let suppressed = Suppressed::default();
    let mut rows = Rows::new(ROWS_MAX, &suppressed);
    rows.add_histogram(MetricId::TcpConnectSynRetries, &labels, &[(0.0, 1), (1.0, 3)], 5.0, 4);
    rows.add_histogram(MetricId::TcpConnectSynRetries, &labels, &[(0.0, 2), (1.0, 2)], 7.0, 3);
    rows.add_histogram(MetricId::TcpConnectSynRetries, &labels, &[(0.0, 2)], 0.0, 2);
    let sum = Histogram { buckets: vec![(0.0, 3), (1.0, 5)], sum: 12.0, count: 7 };
    let shown: Vec<_> = family(&rows, MetricId::TcpConnectSynRetries).values().collect();
    assert_eq!(shown, [&Sample::Histogram(Box::new(sum))]);
    assert_eq!(suppressed.total(MetricId::TcpConnectSynRetries), 1);
}

#[test]
fn rows_that_do_not_fit_the_table_are_told_why() {
    let number = Sample::Number(1.0);
    let histogram = |buckets: &[(f64, u64)]| {
        Sample::Histogram(Box::new(Histogram { buckets: buckets.to_vec(), sum: 0.0, count: 2 }))
    };
    let (gauge, retries) = (MetricId::MapEntries.metric(), MetricId::TcpConnectSynRetries.metric());
    let six = ["", "", "", "", "", "reset"];
    assert_eq!(misfit(gauge, &["listeners"], &number), None);
    assert_eq!(misfit(retries, &six, &histogram(&[(0.0, 1), (1.0, 1)])), None);
    assert!(misfit(gauge, &[], &number).is_some());
    assert!(misfit(gauge, &["listeners", "more"], &number).is_some());
    assert!(misfit(gauge, &["listeners"], &histogram(&[])).is_some());
    assert!(misfit(retries, &six, &number).is_some());
    assert!(misfit(retries, &six, &histogram(&[(1.0, 1), (0.0, 1)])).is_some());
    assert!(misfit(retries, &six, &histogram(&[(0.0, 2), (1.0, 1)])).is_some());
    assert!(misfit(retries, &six, &histogram(&[(0.0, 3)])).is_some());
    assert!(misfit(retries, &six, &histogram(&[(f64::INFINITY, 2)])).is_some());
}

#[test]
fn a_separator_in_a_value_cannot_shift_labels() {
    let suppressed = Suppressed::default();
    let mut rows = Rows::new(ROWS_MAX, &suppressed);
    rows.add(MetricId::HookAttached, &["a\0b", "c"], 1.0);
    rows.add(MetricId::HookAttached, &["a", "b\0c"], 1.0);
    let keys: Vec<_> = family(&rows, MetricId::HookAttached).keys().map(|(_, own)| own.as_ref()).collect();
    assert_eq!(keys, ["a\0b\u{FFFD}c\0", "a\u{FFFD}b\0c\0"]);
}
