//! What the format allows and forbids, and what no text may take.

use proptest::prelude::*;

use super::*;
use crate::export::encode::encode;
use crate::export::metrics::{METRICS, MetricId};
use crate::export::rows::{ROWS_MAX, Rows, Suppressed};
use crate::export::value;

#[test]
fn what_the_format_allows_is_read() {
    let text = "# HELP a b\n# TYPE a counter\n\na{x=\"1\\\"\\\\\\n\",y=\"\",} 3\n a { x = \"2\" } +Inf \
     1700000000000\nb -1.5e3\n";
    let exposition = Exposition::parse(text).unwrap();
    let rows = exposition.rows("a");
    assert_eq!((rows[0].label("x"), rows[0].label("y"), rows[0].label("z")), ("1\"\\\n", "", ""));
    assert_eq!((rows[0].value, rows[1].value), (3.0, f64::INFINITY));
    assert!(rows[1].has(&[("x", "2"), ("y", "")]) && !rows[1].has(&[("x", "1")]));
    assert_eq!(exposition.rows("b")[0].value.to_bits(), (-1500.0_f64).to_bits());
    assert!(exposition.rows("c").is_empty());
}

#[test]
fn what_the_format_forbids_is_refused_with_its_line() {
    for (line, reason) in [
        ("a", "a sample has no value"),
        ("1a 1", "this is no name of a metric"),
        ("<html> 1", "this is no name of a metric"),
        ("a{x=\"1\" 1", "a comma or a brace is missing after a label"),
        ("a{x=\"1\"y=\"2\"} 1", "a comma or a brace is missing after a label"),
        ("a{x} 1", "a label has no value"),
        ("a{x:y=\"1\"} 1", "this is no name of a label"),
        ("a{x=1} 1", "a label's value has no quotes"),
        ("a{x=\"1} 1", "a label's value has no closing quote"),
        ("a{x=\"\\t\"} 1", "a backslash escapes nothing"),
        ("a{x=\"1\",x=\"2\"} 1", "a label stands twice"),
        ("a{x=\"1\"}", "the value is no number"),
        ("a one", "the value is no number"),
        ("a 1 soon", "something else than a time follows the value"),
        ("a 1 2 3", "something else than a time follows the value"),
        ("first 2", "this series stands above already"),
    ] {
        let error = Exposition::parse(&format!("first 1\n\n{line}\nlast 1\n")).unwrap_err();
        assert_eq!(error, ParseError { line: 3, reason }, "{line}");
    }
}

#[test]
fn no_text_has_no_samples() {
    assert_eq!(Exposition::parse(""), Ok(Exposition::default()));
}

/// Every character that a label may hold, the troublesome ones often.
fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![any::<char>(), prop::sample::select(vec!['"', '\\', '\n', ',', '}', '='])], 0..8)
        .prop_map(|characters| value::label(characters.iter().collect::<String>().as_bytes()))
}

proptest! {
    #[test]
    fn what_the_encoder_writes_is_read_back(
        rows_in in prop::collection::vec((0..METRICS.len(), prop::collection::vec(text(), 12), any::<i32>()), 0..8),
    ) {
        let suppressed = Suppressed::default();
        let mut rows = Rows::new(ROWS_MAX, &suppressed);
        let mut expected: BTreeMap<(MetricId, Vec<String>), f64> = BTreeMap::new();
        let numbers = METRICS.iter().filter(|metric| metric.kind.name() != "histogram").collect::<Vec<_>>();
        for (metric, values, number) in &rows_in {
            let metric = numbers[metric % numbers.len()];
            let values: Vec<&str> = values[..metric.label_count()].iter().map(String::as_str).collect();
            rows.add(metric.id, &values, f64::from(*number));
            *expected.entry((metric.id, values.iter().map(ToString::to_string).collect())).or_default() +=
                f64::from(*number);
        }
        let encoded = encode(&rows);
        let exposition = Exposition::parse(std::str::from_utf8(&encoded).unwrap()).unwrap();
        let found: usize = exposition.samples.values().map(Vec::len).sum();
        prop_assert_eq!(found, expected.len());
        for ((id, values), number) in &expected {
            let names = id.metric().labels().map(|label| label.name);
            let labels: Vec<_> = names.zip(values.iter().map(String::as_str)).collect();
            let same = exposition.rows(id.metric().name).iter().filter(|sample| sample.has(&labels));
            let values: Vec<f64> = same.map(|sample| sample.value).collect();
            prop_assert_eq!(values, vec![*number]);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let _ = Exposition::parse(&text);
    }
}

#[test]
fn a_text_may_come_in_any_pieces() {
    let text = "a{x=\"1\"} 3\r\n\n# c\nb 2\na{x=\"\u{e9}\"} 4";
    let whole = Exposition::parse(text).unwrap();
    assert_eq!((whole.rows("a").len(), whole.rows("b").len()), (2, 1));
    for size in 1..text.len() {
        let mut building = Building::new(|_| true);
        text.as_bytes().chunks(size).for_each(|chunk| building.feed(chunk).unwrap());
        assert_eq!(building.end().unwrap(), whole, "{size}");
    }
}

#[test]
fn what_no_agent_writes_ends_the_reading() {
    let value = "x".repeat(VALUE_BYTES_MAX);
    assert!(Exposition::parse(&format!("a{{b=\"{value}\"}} 1\n")).is_ok());
    let fails = |text: &str, line, reason| {
        assert_eq!(Exposition::parse(text).unwrap_err(), ParseError { line, reason });
    };
    fails(&format!("a 1\na{{b=\"{value}x\"}} 1\n"), 2, "a label's value is longer than any of an agent");
    fails(&format!("a 1\n# {}\n", "x".repeat(LINE_BYTES_MAX)), 2, "the line is longer than any of an agent");
    let mut building = Building::new(|_| true);
    let endless = std::iter::repeat_with(|| building.feed(&[b'x'; 4096])).take(100).find_map(Result::err);
    assert_eq!(endless.unwrap().reason, "the line is longer than any of an agent");
    let mut building = Building::new(|_| true);
    assert_eq!(building.feed(b"a 1\n\xff\n").unwrap_err(), ParseError { line: 2, reason: "this is no text" });
    let many = (0..900_000).fold(String::new(), |text, number| text + &format!("a{{b=\"{number}\"}} 1\n"));
    assert_eq!(Exposition::parse(&many).unwrap_err().reason, BEYOND_DEFAULTS);
    let mut building = Building::new(|name| name != "a");
    building.feed(many.as_bytes()).unwrap();
    assert_eq!(building.end().unwrap(), Exposition::default(), "what nobody asks for is not kept");
}
