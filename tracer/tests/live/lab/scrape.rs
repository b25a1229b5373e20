//! One scrape of `/metrics`: the exposition text, parsed strictly and asked by name and labels.
//!
//! The parser refuses what Prometheus would refuse (a sample without TYPE, a bad escape, the same
//! series twice), so every test also proves that the text is valid.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Labels by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// One sample line.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) value: f64,
}

/// All samples of one scrape.
pub(crate) struct Scrape {
    samples: Vec<Sample>,
    bytes: usize,
}

impl Scrape {
    /// Parses exposition text; panics with the line that is wrong.
    pub(crate) fn parse(text: &str) -> Self {
        let mut families = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut samples = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix('#') {
                let mut words = comment.split_whitespace();
                if words.next() == Some("TYPE") {
                    let family = words.next().unwrap_or_else(|| panic!("TYPE without a name: {line}"));
                    assert!(families.insert(family.to_owned()), "two TYPE lines for {family}");
                }
                continue;
            }
            let sample = parse_sample(line).unwrap_or_else(|reason| panic!("{reason}: {line}"));
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| sample.name.strip_suffix(suffix));
            let typed = families.contains(&sample.name) || family.is_some_and(|family| families.contains(family));
            assert!(typed, "no TYPE before: {line}");
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "the same series twice: {line}");
            samples.push(sample);
        }
        Self { samples, bytes: text.len() }
    }

    /// How many samples there are.
    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }

    /// Length of the text.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Samples of `name` that carry all of `labels`.
    pub(crate) fn rows<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name && sample.has(labels))
    }

    /// Sum over [`Self::rows`]; 0 when there are none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.rows(name, labels).map(Sample::count).sum()
    }

    /// The value of the one row; an error that lists the rows when there is not exactly one.
    pub(crate) fn one(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64, String> {
        let rows: Vec<&Sample> = self.rows(name, labels).collect();
        match rows.as_slice() {
            [row] => Ok(row.value),
            _ => Err(format!(
                "{name} with {labels:?}: {} rows instead of one\n{}",
                rows.len(),
                self.show(name, &labels[..labels.len().min(1)])
            )),
        }
    }

    /// All samples that carry all of `labels`.
    pub(crate) fn with<'a>(&'a self, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.has(labels))
    }

    /// Rows whose name contains `part`, for failure messages; zeros left out.
    pub(crate) fn show(&self, part: &str, labels: &[(&str, &str)]) -> String {
        let mut text = String::new();
        for sample in self.with(labels).filter(|sample| sample.name.contains(part) && sample.value != 0.0) {
            let labels: Vec<String> = sample
                .labels
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| format!("{name}={value:?}"))
                .collect();
            let _ = writeln!(text, "  {}{{{}}} {}", sample.name, labels.join(","), sample.value);
        }
        text
    }
}

impl Sample {
    /// The value of a label, empty when absent (Prometheus makes no difference).
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The value as a count; a fraction or a negative number is a fault of the agent.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before the cast")]
    pub(crate) fn count(&self) -> u64 {
        assert!(self.value >= 0.0 && self.value.fract() == 0.0 && self.value < 9e15, "not a count: {self:?}");
        self.value as u64
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == *value)
    }
}

fn parse_sample(line: &str) -> Result<Sample, String> {
    let name_end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (Labels::new(), rest),
    };
    let value = rest.trim().parse().map_err(|_| "bad value".to_owned())?;
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// Parses `a="b",c="d"}` and returns what follows the brace.
fn parse_labels(mut rest: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"").ok_or("label without value")?;
        let (value, after) = unquote(quoted)?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("label {name} twice"));
        }
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// Undoes the escapes of a label value; returns what follows the closing quote.
fn unquote(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, escaped @ ('\\' | '"'))) => escaped,
                _ => return Err("bad escape".to_owned()),
            }),
            plain => value.push(plain),
        }
    }
    Err("open quote".to_owned())
}

#[test]
fn parses_what_prometheus_parses() {
    let scrape = Scrape::parse("# HELP m text\n# TYPE m counter\nm{a=\"x\\\"\\n\\\\\",b=\"\"} 3\nm{a=\"y\"} 4\n");
    assert_eq!(scrape.sum("m", &[]), 7);
    assert_eq!(scrape.one("m", &[("a", "x\"\n\\"), ("b", "")]), Ok(3.0));
    assert!(scrape.one("m", &[]).is_err());
}

#[test]
#[should_panic(expected = "the same series twice")]
fn refuses_a_series_twice() {
    Scrape::parse("# TYPE m counter\nm{a=\"1\"} 3\nm{a=\"1\"} 3\n");
}
