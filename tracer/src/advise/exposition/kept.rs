//! Samples as they are kept: those with the same labels share them, and each text is there once. A scrape of ten
//! thousand listeners has 150 000 series, whose labels would take ten times their text.

use std::collections::HashSet;
use std::rc::Rc;

use super::{BEYOND_DEFAULTS, Line};

/// What samples, labels and texts may take together, with what rules make of them. An agent with full tables at its
/// default limits takes four fifths of it.
const BYTES_MAX: usize = 44 << 20;

/// What a sample takes with its place in lists, and an entry of a table beside what it points to.
const SAMPLE_BYTES: usize = size_of::<Sample>() + size_of::<u32>();
const ENTRY_BYTES: usize = 40;

/// What rules take for a set of labels: a subject, where it is not that of other sets too, and its places in their tables.
const SUBJECT_BYTES: usize = 250;

type Label = (Rc<str>, Rc<str>);

/// One sample line without its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Names and values of labels, sorted; those with an empty value are left out.
    labels: Rc<[Label]>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// The value of a label, empty when absent: Prometheus makes no difference.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| **label == *name).map_or("", |(_, value)| value)
    }

    /// Whether it carries all of `labels`.
    #[must_use]
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == *value)
    }
}

/// Labels and their texts, each once.
#[derive(Debug, Default)]
pub(super) struct Sets {
    labels: HashSet<Rc<[Label]>>,
    texts: HashSet<Rc<str>>,
    bytes: usize,
}

impl Sets {
    /// The sample of a line, to be kept.
    pub(super) fn sample(&mut self, line: &Line<'_>) -> Result<Sample, &'static str> {
        let mut labels: Vec<Label> = Vec::with_capacity(line.labels.len());
        for (name, value) in &line.labels {
            labels.push((self.text(name), self.text(value)));
        }
        labels.sort_unstable();
        if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("a label stands twice");
        }
        labels.retain(|(_, value)| !value.is_empty());
        let labels = self.set(labels);
        self.bytes += SAMPLE_BYTES;
        if self.bytes > BYTES_MAX {
            return Err(BEYOND_DEFAULTS);
        }
        Ok(Sample { labels, value: line.value })
    }

    fn set(&mut self, labels: Vec<Label>) -> Rc<[Label]> {
        if let Some(there) = self.labels.get(labels.as_slice()) {
            return Rc::clone(there);
        }
        let labels: Rc<[Label]> = labels.into();
        self.bytes += size_of_val(&*labels) + ENTRY_BYTES + SUBJECT_BYTES;
        self.labels.insert(Rc::clone(&labels));
        labels
    }

    fn text(&mut self, text: &str) -> Rc<str> {
        if let Some(there) = self.texts.get(text) {
            return Rc::clone(there);
        }
        let text: Rc<str> = text.into();
        self.bytes += text.len() + ENTRY_BYTES;
        self.texts.insert(Rc::clone(&text));
        text
    }
}

/// The line of a series that came before. Equal labels are the same labels here.
pub(super) fn repeated(samples: &[Sample], lines: &[u32]) -> Option<usize> {
    let mut sorted: Vec<(*const Label, u32)> =
        samples.iter().map(|sample| sample.labels.as_ptr()).zip(lines.iter().copied()).collect();
    sorted.sort_unstable();
    sorted.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1 as usize).min()
}
