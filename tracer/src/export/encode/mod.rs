//! Rows to the text that Prometheus reads, format 0.0.4.
//!
//! Takes [`Rows`], gives bytes: families in the table's order, rows in the order of their labels, so
//! that two scrapes can be compared line by line. Families without rows are left out. Reads nothing
//! else and keeps nothing.
//!
//! The crate `prometheus` has an encoder too. It takes an owned string for every label name and
//! value of every row and writes a row in some fifty pieces: 48 ms for a thousand listeners in the
//! static binary, where this takes 3. It is the oracle in the tests below: the bytes are the same.

use std::io::Write;

use bytes::Bytes;

use super::metrics::{LISTENER, Label, Metric};
use super::rows::{Family, Histogram, Rows, SEPARATOR, Sample};

/// Renders `rows` in the text format 0.0.4.
#[must_use]
pub fn encode(rows: &Rows<'_>) -> Bytes {
    let groups = render_groups(rows);
    let mut text = Vec::new();
    for (metric, family) in rows.families() {
        push_family(&mut text, metric, family, &groups);
    }
    text.into()
}

/// The labels that a listener's or a workload's rows share, escaped once for all metrics.
#[derive(Clone, Default)]
struct Group {
    /// Where the group stands among all, in the order of label values.
    rank: u32,
    /// `name="value",` for each label.
    text: Vec<u8>,
}

/// Every group of `rows`, at the index of its number.
fn render_groups(rows: &Rows<'_>) -> Vec<Group> {
    let mut groups = vec![Group::default(); rows.groups().len()];
    for (rank, (values, number)) in (0..).zip(rows.groups()) {
        let group = &mut groups[number as usize];
        group.rank = rank;
        // Every group is a beginning of the longest one.
        push_labels(&mut group.text, LISTENER, values);
    }
    groups
}

fn push_family(text: &mut Vec<u8>, metric: &Metric, family: &Family, groups: &[Group]) {
    for piece in ["# HELP ", metric.name, " ", metric.help, "\n# TYPE ", metric.name, " ", metric.kind.name(), "\n"] {
        push(text, piece.as_bytes());
    }
    let mut rows: Vec<_> =
        family.iter().map(|((group, own), sample)| (&groups[*group as usize], own, sample)).collect();
    rows.sort_by(|(group_a, own_a, _), (group_b, own_b, _)| (group_a.rank, own_a).cmp(&(group_b.rank, own_b)));
    for (group, own, sample) in rows {
        let row = Row { metric, group: &group.text, own };
        match sample {
            Sample::Number(number) => row.push_line(text, "", None, *number),
            Sample::Histogram(histogram) => row.push_histogram(text, histogram),
        }
    }
}

/// What the lines of one row begin with.
struct Row<'a> {
    metric: &'a Metric,
    /// The group's labels as text.
    group: &'a [u8],
    /// The values of the metric's own labels.
    own: &'a str,
}

impl Row<'_> {
    fn push_line(&self, text: &mut Vec<u8>, suffix: &str, upper: Option<&str>, number: f64) {
        push(text, self.metric.name.as_bytes());
        push(text, suffix.as_bytes());
        text.push(b'{');
        push(text, self.group);
        push_labels(text, self.metric.own, self.own);
        if let Some(upper) = upper {
            text.extend_from_slice(b"le=\"");
            push(text, upper.as_bytes());
            text.extend_from_slice(b"\",");
        }
        // The last label's comma gives way to the closing brace; without labels no brace stays.
        if text.pop() == Some(b',') {
            text.push(b'}');
        }
        text.push(b' ');
        push_number(text, number);
        text.push(b'\n');
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are exact below 2^53, as everywhere in Prometheus")]
    fn push_histogram(&self, text: &mut Vec<u8>, histogram: &Histogram) {
        for (upper, count) in &histogram.buckets {
            self.push_line(text, "_bucket", Some(&upper.to_string()), *count as f64);
        }
        self.push_line(text, "_bucket", Some("+Inf"), histogram.count as f64);
        self.push_line(text, "_sum", None, histogram.sum);
        self.push_line(text, "_count", None, histogram.count as f64);
    }
}

/// Appends `name="value",` for each of `values`, which [`SEPARATOR`] ends.
fn push_labels(text: &mut Vec<u8>, labels: &[Label], values: &str) {
    for (label, value) in labels.iter().zip(values.split_terminator(SEPARATOR)) {
        push(text, label.name.as_bytes());
        text.extend_from_slice(b"=\"");
        push_escaped(text, value);
        text.extend_from_slice(b"\",");
    }
}

fn push_escaped(text: &mut Vec<u8>, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        let (plain, special) = rest.split_at(at);
        let (special, after) = special.split_at(1);
        push(text, plain.as_bytes());
        text.push(b'\\');
        push(text, if special == "\n" { b"n" } else { special.as_bytes() });
        rest = after;
    }
    push(text, rest.as_bytes());
}

/// Appends a number in the shortest form that reads back as the same.
fn push_number(text: &mut Vec<u8>, number: f64) {
    /// Below 2^53 every whole number is exact, and writing it as an integer takes a third of the time.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.is_sign_positive() && number < EXACT && number.fract() == 0.0 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number from 0 to 2^53")]
        return push_whole(text, number as u64);
    }
    let written = write!(text, "{number}");
    debug_assert!(written.is_ok(), "writing to memory does not fail");
}

/// Most rows are a digit or two: not worth the machinery of `write!`.
fn push_whole(text: &mut Vec<u8>, whole: u64) {
    if whole >= 10 {
        push_whole(text, whole / 10);
    }
    text.push(b"0123456789"[(whole % 10) as usize]);
}

/// Appends a piece of some ten to hundred bytes. In blocks of a fixed length, which the compiler
/// copies in place: musl's memcpy takes longer to start than to copy a label, and a row has a dozen.
fn push(text: &mut Vec<u8>, piece: &[u8]) {
    const BLOCK: usize = 16;
    text.reserve(piece.len());
    let (blocks, rest) = piece.as_chunks::<BLOCK>();
    for block in blocks {
        text.extend_from_slice(block);
    }
    for &byte in rest {
        text.push(byte);
    }
}

#[cfg(test)]
mod tests;
