//! The text of `/metrics`, format 0.0.4, as samples by name.
//!
//! The inverse of [`crate::export::encode`], and strict as Prometheus is: a line that it would refuse
//! fails the whole text with its number, since advice on half a scrape could be wrong. Reads
//! nothing but the text it is given, and keeps no help and no types, which no rule asks for.
//! [`Lines`] and [`read_line`] hand over line by line without a copy, for who reads the text of ten thousand listeners
//! every other second and needs a few metrics of it. No text, whoever wrote it, takes more memory than an agent's.
//!
//! The crate `prometheus-parse` passes over lines that it does not understand, and brings a calendar and
//! regular expressions along; what is needed here is less than what it leaves to its caller.

use std::borrow::Cow;
use std::collections::BTreeMap;

use thiserror::Error;

pub use self::kept::Sample;
use self::kept::Sets;

mod kept;

/// The longest line: twelve labels of an agent's longest values (names of files have 255 bytes) are a tenth of it.
const LINE_BYTES_MAX: usize = 64 << 10;

/// The longest value of a label: three times the longest name of a file, unit or pod.
const VALUE_BYTES_MAX: usize = 1024;

/// Why a text is not read to its end that an agent may have written all the same.
pub const BEYOND_DEFAULTS: &str = "that is more than an agent writes with the default --max-listeners and \
    --max-workloads; of one with higher limits read a part: curl its /metrics, \
    grep -e '^tracer_build_info' -e 'netns=\"host\"', and --from -";

/// All samples of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition {
    samples: BTreeMap<String, Vec<Sample>>,
}

/// Why a text is none.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
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
        let mut building = Building::new(|_| true);
        building.feed(text.as_bytes())?;
        building.end()
    }

    /// Samples of this name; none if there is none.
    #[must_use]
    pub fn rows(&self, name: &str) -> &[Sample] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }
}

/// An exposition as its text comes in, of which no more than the samples is kept.
#[derive(Debug)]
pub struct Building<K> {
    keeps: K,
    lines: Lines,
    samples: BTreeMap<String, (Vec<Sample>, Vec<u32>)>,
    sets: Sets,
}

impl<K: Fn(&str) -> bool> Building<K> {
    /// Nothing read yet. Samples of names that `keeps` refuses are read, and not kept.
    pub fn new(keeps: K) -> Self {
        Self { keeps, lines: Lines::default(), samples: BTreeMap::new(), sets: Sets::default() }
    }

    /// Takes the next bytes of the text.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), ParseError> {
        let Self { keeps, lines, samples, sets } = self;
        lines.feed(chunk, |number, line| keep(keeps, samples, sets, number, line))
    }

    /// All samples, once the text is at its end.
    pub fn end(mut self) -> Result<Exposition, ParseError> {
        let Self { keeps, lines, samples, sets } = &mut self;
        lines.end(|number, line| keep(keeps, samples, sets, number, line))?;
        let mut kept = BTreeMap::new();
        for (name, (samples, lines)) in self.samples {
            if let Some(line) = kept::repeated(&samples, &lines) {
                return Err(ParseError { line, reason: "this series stands above already" });
            }
            kept.insert(name, samples);
        }
        Ok(Exposition { samples: kept })
    }
}

fn keep(
    keeps: &impl Fn(&str) -> bool,
    samples: &mut BTreeMap<String, (Vec<Sample>, Vec<u32>)>,
    sets: &mut Sets,
    number: usize,
    line: &str,
) -> Result<(), &'static str> {
    read_line(
        line,
        |_| true,
        |line| {
            if !keeps(line.name) {
                return Ok(());
            }
            let sample = sets.sample(line)?;
            if !samples.contains_key(line.name) {
                samples.insert(line.name.to_owned(), (Vec::new(), Vec::new()));
            }
            if let Some((samples, lines)) = samples.get_mut(line.name) {
                samples.push(sample);
                lines.push(u32::try_from(number).unwrap_or(u32::MAX));
            }
            Ok(())
        },
    )
}

/// Lines of a text that comes in pieces.
#[derive(Debug, Default)]
pub struct Lines {
    /// What came of a line that has not ended.
    rest: Vec<u8>,
    number: usize,
}

impl Lines {
    /// Hands each line that ends in this piece to `each`, with its number.
    pub fn feed(
        &mut self,
        chunk: &[u8],
        mut each: impl FnMut(usize, &str) -> Result<(), &'static str>,
    ) -> Result<(), ParseError> {
        let mut pieces = chunk.split(|byte| *byte == b'\n');
        // What follows the last end of a line is a beginning, perhaps of no bytes.
        let beginning = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            if self.rest.is_empty() {
                self.line(piece, &mut each)?;
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(piece);
                self.line(&whole, &mut each)?;
                whole.clear();
                self.rest = whole;
            }
        }
        self.rest.extend_from_slice(beginning);
        if self.rest.len() > LINE_BYTES_MAX {
            return Err(self.wrong("the line is longer than any of an agent"));
        }
        Ok(())
    }

    /// Hands on the last line, which need not end.
    pub fn end(&mut self, mut each: impl FnMut(usize, &str) -> Result<(), &'static str>) -> Result<(), ParseError> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { Ok(()) } else { self.line(&rest, &mut each) }
    }

    fn line(
        &mut self,
        line: &[u8],
        each: &mut impl FnMut(usize, &str) -> Result<(), &'static str>,
    ) -> Result<(), ParseError> {
        if line.len() > LINE_BYTES_MAX {
            return Err(self.wrong("the line is longer than any of an agent"));
        }
        let text = std::str::from_utf8(line).map_err(|_| self.wrong("this is no text"))?;
        each(self.number + 1, text).map_err(|reason| self.wrong(reason))?;
        self.number += 1;
        Ok(())
    }

    const fn wrong(&self, reason: &'static str) -> ParseError {
        ParseError { line: self.number + 1, reason }
    }
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
}

/// Reads one line and hands its sample to `each` if its name is wanted; of others no more than the name is looked at.
/// Whether a label or a series stands twice is left to `each`.
pub fn read_line(
    line: &str,
    wants: impl FnOnce(&str) -> bool,
    each: impl FnOnce(&Line<'_>) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let line = line.trim_matches([' ', '\t', '\r']);
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    let (name, rest) = read_name(line)?;
    if !wants(name) {
        return Ok(());
    }
    let mut sample = Line { name, labels: Labels::new(), value: 0.0 };
    read_sample(rest, &mut sample)?;
    each(&sample)
}

/// The name, and what follows it.
fn read_name(line: &str) -> Result<(&str, &str), &'static str> {
    let end = line.find(['{', ' ', '\t']).ok_or("a sample has no value")?;
    let (name, rest) = line.split_at(end);
    if is_name(name, true) { Ok((name, rest)) } else { Err("this is no name of a metric") }
}

/// Labels and value.
fn read_sample<'a>(rest: &'a str, sample: &mut Line<'a>) -> Result<(), &'static str> {
    let rest = rest.trim_start_matches([' ', '\t']);
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
        if value.len() > VALUE_BYTES_MAX {
            return Err("a label's value is longer than any of an agent");
        }
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
mod tests;
