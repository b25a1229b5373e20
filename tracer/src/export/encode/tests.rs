//! The exposition against the encoder of the crate `prometheus`, byte for byte, and in examples.

use prometheus::proto;
use proptest::prelude::*;

use super::super::metrics::{Kind, METRICS, MetricId};
use super::super::rows::{ROWS_MAX, Suppressed};
use super::super::value;
use super::*;

fn text_of(fill: impl FnOnce(&mut Rows<'_>)) -> String {
    let suppressed = Suppressed::default();
    let mut rows = Rows::new(ROWS_MAX, &suppressed);
    fill(&mut rows);
    String::from_utf8(encode(&rows).to_vec()).unwrap()
}

#[test]
fn families_in_the_order_of_the_table_rows_in_that_of_labels() {
    let text = text_of(|rows| {
        rows.add(MetricId::ProcessOpenFds, &[], 7.0);
        for (unit, reason) in [("b", "unknown"), ("a", "other"), ("b", "other")] {
            rows.add(MetricId::TcpListenDrops, &["host", "", "", "", unit, "p", "::", "80", reason], 1.0);
        }
    });
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
    let drops = |unit, reason| {
        format!(
            "tracer_tcp_listen_drops_total{{netns=\"host\",namespace=\"\",pod=\"\",container=\"\",unit=\"{unit}\",\
             process=\"p\",address=\"::\",port=\"80\",reason=\"{reason}\"}} 1"
        )
    };
    let expected = [
        "# TYPE tracer_tcp_listen_drops_total counter".to_owned(),
        drops("a", "other"),
        drops("b", "other"),
        drops("b", "unknown"),
        "# TYPE process_open_fds gauge".to_owned(),
        "process_open_fds 7".to_owned(),
    ];
    assert_eq!(lines, expected);
    assert!(text.starts_with("# HELP tracer_tcp_listen_drops_total SYNs and "));
}

#[test]
fn quotes_backslashes_and_newlines_are_escaped() {
    let text = text_of(|rows| rows.add(MetricId::MapEntries, &["a\"b\\c\nd\\n"], 1.0));
    assert!(text.ends_with("tracer_map_entries{map=\"a\\\"b\\\\c\\nd\\\\n\"} 1\n"), "{text}");
}

#[test]
fn a_histogram_has_its_buckets_its_sum_and_its_count() {
    let labels = ["host", "", "", "", "", "refused"];
    let text = text_of(|rows| {
        rows.add_histogram(MetricId::TcpConnectSynRetries, &labels, &[(0.0, 3), (1.0, 5)], 12.5, 7);
    });
    let lines: Vec<_> = text.lines().skip(2).map(|line| line.replace(LABELS_OF_REFUSED, "")).collect();
    let name = "tracer_tcp_connect_syn_retries";
    assert_eq!(lines[0], format!("{name}_bucket{{,le=\"0\"}} 3"));
    assert_eq!(lines[1], format!("{name}_bucket{{,le=\"1\"}} 5"));
    assert_eq!(lines[2], format!("{name}_bucket{{,le=\"+Inf\"}} 7"));
    assert_eq!(lines[3..], [format!("{name}_sum{{}} 12.5"), format!("{name}_count{{}} 7")]);
}

const LABELS_OF_REFUSED: &str = "netns=\"host\",namespace=\"\",pod=\"\",container=\"\",unit=\"\",result=\"refused\"";

#[test]
fn no_rows_give_no_text() {
    assert_eq!(text_of(|_| {}), "");
}

/// A row as the collector would add it.
type Added = (usize, Vec<String>, f64, Vec<u32>);

/// Few values, so that rows meet under the same labels and groups.
fn label_value() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[ab]", "[a\"\\\\\n\0é]{0,3}"]
}

/// Whole numbers, so that sums do not depend on their order.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![(0..1_000_000_u32).prop_map(f64::from), (-1000..1000_i32).prop_map(f64::from)]
}

fn added() -> impl Strategy<Value = Added> {
    let labels = prop::collection::vec(label_value(), 9);
    let buckets = prop::collection::vec(0..50_u32, 4);
    (0..METRICS.len(), labels, number(), buckets)
}

/// The same rows through the crate's model and encoder.
fn oracle(rows: &[Added]) -> String {
    let mut families = Vec::new();
    for (index, metric) in METRICS.iter().enumerate() {
        let mut merged: std::collections::BTreeMap<Vec<String>, (f64, Vec<u64>)> = std::collections::BTreeMap::new();
        for (_, labels, number, observed) in rows.iter().filter(|row| row.0 == index) {
            let key = labels[..metric.label_count()].iter().map(|label| clean(label)).collect();
            let sum = merged.entry(key).or_insert_with(|| (0.0, vec![0; 4]));
            sum.0 += number;
            sum.1.iter_mut().zip(cumulative(observed)).for_each(|(all, more)| *all += more);
        }
        if !merged.is_empty() {
            families.push(oracle_family(metric, &merged));
        }
    }
    prometheus::TextEncoder::new().encode_to_string(&families).unwrap()
}

fn oracle_family(
    metric: &Metric,
    merged: &std::collections::BTreeMap<Vec<String>, (f64, Vec<u64>)>,
) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
    });
    family.set_metric(
        merged.iter().map(|(labels, (number, counts))| oracle_row(metric, labels, *number, counts)).collect(),
    );
    family
}

fn oracle_row(metric: &Metric, labels: &[String], number: f64, counts: &[u64]) -> proto::Metric {
    let pairs = metric.labels().zip(labels).map(|(label, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name(label.name.to_owned());
        pair.set_value(value.clone());
        pair
    });
    let mut row = proto::Metric::from_label(pairs.collect());
    let (mut counter, mut gauge, mut histogram) =
        (proto::Counter::default(), proto::Gauge::default(), proto::Histogram::default());
    counter.set_value(number);
    gauge.set_value(number);
    histogram.set_sample_sum(number);
    histogram.set_sample_count(counts[3]);
    histogram.set_bucket(
        BOUNDS
            .iter()
            .zip(counts)
            .map(|(upper, count)| {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(*upper);
                bucket.set_cumulative_count(*count);
                bucket
            })
            .collect(),
    );
    row.set_counter(counter);
    row.set_gauge(gauge);
    row.set_histogram(histogram);
    row
}

const BOUNDS: [f64; 3] = [0.0, 1.5, 10.0];

fn cumulative(observed: &[u32]) -> Vec<u64> {
    let mut sum = 0;
    observed
        .iter()
        .map(|count| {
            sum += u64::from(*count);
            sum
        })
        .collect()
}

fn clean(label: &str) -> String {
    let mut clean = String::new();
    value::push(&mut clean, label);
    clean
}

proptest! {
    // Of two hundred rows each: more cases would be half of the time of all unit tests.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_bytes_are_those_of_the_crate_prometheus(rows in prop::collection::vec(added(), 0..200)) {
        let text = text_of(|out| {
            for (index, labels, number, observed) in &rows {
                let metric = &METRICS[*index];
                let labels: Vec<_> = labels[..metric.label_count()].iter().map(String::as_str).collect();
                let counts = cumulative(observed);
                if metric.kind == Kind::Histogram {
                    let buckets: Vec<_> = BOUNDS.into_iter().zip(counts.iter().copied()).collect();
                    out.add_histogram(metric.id, &labels, &buckets, *number, counts[3]);
                } else {
                    out.add(metric.id, &labels, *number);
                }
            }
        });
        prop_assert_eq!(text, oracle(&rows));
    }
}

proptest! {
    #[test]
    fn a_number_reads_back_as_itself(number: f64) {
        let mut text = Vec::new();
        push_number(&mut text, number);
        let text = String::from_utf8(text).unwrap();
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), number.to_bits());
    }
}
