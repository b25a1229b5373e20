//! The text of `/metrics`, format 0.0.4, as samples by name.
//!
//! The inverse of [`crate::export::encode`], and strict as Prometheus is: a line that it would refuse
//! fails the whole text with its number, since advice on half a scrape could be wrong. Reads
//! nothing but the text it is given, and keeps no help and no types, which no rule asks for.
//! [`scan`] hands over line by line without a copy, for who reads the text of ten thousand listeners
//! every other second and needs a few metrics of it.
//!
//! The crate `prometheus-parse` passes over lines that it does not understand, and brings a calendar and
//! regular expressions along; what is needed here is less than what it leaves to its caller.

use std::borrow::Cow;
use std::collections::BTreeMap;

use thiserror::Error;

/// One sample line without its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Names and values of labels, sorted.
    labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// The value of a label, empty when absent: Prometheus makes no difference.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }

    /// Whether it carries all of `labels`.
    #[must_use]
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == *value)
    }
}

/// All samples of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition {
    samples: BTreeMap<String, Vec<Sample>>,
}

/// Why a text is none.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line}: {reason}")]
pub struct ParseError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Exposition {
    /// Takes the text apart.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut exposition = Self::default();
        // The lines of samples, so that the error about one that came before can name it.
        let mut lines: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        scan(
            text,
            |_| true,
            |number, line| {
                let sample = line.sample()?;
                match exposition.samples.get_mut(line.name) {
                    Some(samples) => samples.push(sample),
                    None => _ = exposition.samples.insert(line.name.to_owned(), vec![sample]),
                }
                lines.entry(line.name).or_default().push(number);
                Ok(())
            },
        )?;
        for (name, samples) in &exposition.samples {
            let numbers = lines.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            if let Some(line) = repeated(samples, numbers) {
                return Err(ParseError { line, reason: "this series stands above already" });
            }
        }
        Ok(exposition)
    }

    /// Samples of this name; none if there is none.
    #[must_use]
    pub fn rows(&self, name: &str) -> &[Sample] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }
}

/// The line of a series that came before.
fn repeated(samples: &[Sample], lines: &[usize]) -> Option<usize> {
    let mut sorted: Vec<_> = samples.iter().zip(lines).map(|(sample, line)| (&sample.labels, *line)).collect();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1)
}

/// One sample line, borrowed from the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    /// The metric's name.
    pub name: &'a str,
    /// Names and values of labels, in the order of the line.
    labels: Labels<'a>,
    /// The value.
    pub value: f64,
}

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

impl Line<'_> {
    /// The value of a label, empty when absent.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value)
    }

    /// A copy to keep.
    fn sample(&self) -> Result<Sample, &'static str> {
        let labels = self.labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into_owned()));
        let mut labels: Vec<(String, String)> = labels.collect();
        labels.sort_unstable();
        if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("a label stands twice");
        }
        Ok(Sample { labels, value: self.value })
    }
}

/// Hands every sample whose name is wanted to `each`, with the number of its line. Of other lines no more than
/// the name is looked at. Whether a label or a series stands twice is left to `each`.
pub fn scan<'a>(
    text: &'a str,
    wants: impl Fn(&str) -> bool,
    mut each: impl FnMut(usize, &Line<'a>) -> Result<(), &'static str>,
) -> Result<(), ParseError> {
    let mut sample = Line { name: "", labels: Labels::new(), value: 0.0 };
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let read = read_name(line).and_then(|(name, rest)| {
            if !wants(name) {
                return Ok(());
            }
            sample.name = name;
            read_sample(rest, &mut sample)?;
            each(number, &sample)
        });
        read.map_err(|reason| ParseError { line: number, reason })?;
    }
    Ok(())
}

/// The name, and what follows it.
fn read_name(line: &str) -> Result<(&str, &str), &'static str> {
    let end = line.find(['{', ' ', '\t']).ok_or("a sample has no value")?;
    let (name, rest) = line.split_at(end);
    if is_name(name, true) { Ok((name, rest)) } else { Err("this is no name of a metric") }
}

/// Labels and value, into the room of the line before.
fn read_sample<'a>(rest: &'a str, sample: &mut Line<'a>) -> Result<(), &'static str> {
    let rest = rest.trim_start_matches([' ', '\t']);
    sample.labels.clear();
    let rest = match rest.strip_prefix('{') {
        Some(rest) => read_labels(rest, &mut sample.labels)?,
        None => rest,
    };
    let mut words = rest.split_ascii_whitespace();
    sample.value = words.next().and_then(|word| word.parse().ok()).ok_or("the value is no number")?;
    // A time stamp may follow, which an agent never writes and no rule reads.
    if words.next().is_some_and(|word| word.parse::<i64>().is_err()) || words.next().is_some() {
        return Err("something else than a time follows the value");
    }
    Ok(())
}

/// Reads `a="b",c="d"}` and gives back what follows the brace.
fn read_labels<'a>(text: &'a str, labels: &mut Labels<'a>) -> Result<&'a str, &'static str> {
    const BLANK: [char; 2] = [' ', '\t'];
    let mut rest = text.trim_start_matches(BLANK);
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(after);
        }
        let (name, value) = rest.split_once('=').ok_or("a label has no value")?;
        let name = name.trim_end_matches(BLANK);
        if !is_name(name, false) {
            return Err("this is no name of a label");
        }
        let quoted = value.trim_start_matches(BLANK).strip_prefix('"').ok_or("a label's value has no quotes")?;
        let (value, after) = unquote(quoted)?;
        labels.push((name, value));
        rest = after.trim_start_matches(BLANK);
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start_matches(BLANK),
            None if rest.starts_with('}') => {}
            None => return Err("a comma or a brace is missing after a label"),
        }
    }
}

/// Undoes the escapes of a label's value, and copies it only if it has some; gives back what follows the
/// closing quote.
fn unquote(text: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    let open = "a label's value has no closing quote";
    let end = text.find(['"', '\\']).ok_or(open)?;
    if text.as_bytes().get(end) == Some(&b'"') {
        return Ok((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((Cow::Owned(value), &text[at + 1..])),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, escaped @ ('\\' | '"'))) => escaped,
                _ => return Err("a backslash escapes nothing"),
            }),
            plain => value.push(plain),
        }
    }
    Err(open)
}

fn is_name(name: &str, may_have_colon: bool) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || (c == ':' && may_have_colon))
}

#[cfg(test)]
mod tests {
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
        prop::collection::vec(
            prop_oneof![any::<char>(), prop::sample::select(vec!['"', '\\', '\n', ',', '}', '='])],
            0..8,
        )
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
}
