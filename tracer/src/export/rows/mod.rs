//! The rows of one scrape: numbers under label values, before they become text.
//!
//! Owns merging (two map rows may come out under the same labels), order and the bound on rows.
//! Reads no map and no clock; the collector adds, [`super::encode`] reads. A row that does not fit
//! the table is refused, logged once and counted: a scrape must come out whatever the collector did.

mod key;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use super::metrics::{Kind, METRICS, Metric, MetricId};

pub(super) use key::SEPARATOR;
use key::{Groups, key};

/// How many rows of one metric a scrape holds unless told otherwise. 10 000 listeners with five drop
/// reasons each are 50 000; four times that is 34 MB of text, and no scraper takes more.
pub const ROWS_MAX: usize = 200_000;

/// Rows refused since the agent started, by metric. Outlives scrapes, because a counter must.
#[derive(Debug)]
pub struct Suppressed([AtomicU64; MetricId::COUNT]);

impl Default for Suppressed {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; MetricId::COUNT])
    }
}

impl Suppressed {
    /// Counts one more row of `id` that was left out. Also for limits the caller keeps itself.
    /// Returns how many there were before.
    pub fn count(&self, id: MetricId) -> u64 {
        self.0[id as usize].fetch_add(1, Ordering::Relaxed)
    }

    /// Rows of `id` left out so far.
    #[must_use]
    pub fn total(&self, id: MetricId) -> u64 {
        self.0[id as usize].load(Ordering::Relaxed)
    }
}

/// A histogram as the exposition shows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Histogram {
    /// Upper bounds, ascending, with the count of all observations up to each.
    pub(super) buckets: Vec<(f64, u64)>,
    /// Sum of all observations.
    pub(super) sum: f64,
    /// Number of all observations: the bucket without an upper bound.
    pub(super) count: u64,
}

/// What stands behind the labels of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sample {
    Number(f64),
    Histogram(Box<Histogram>),
}

/// The rows of one metric: under the number of their group in [`Groups`] and the values of the
/// metric's own labels, each followed by [`SEPARATOR`].
pub(super) type Family = BTreeMap<(u32, Box<str>), Sample>;

/// The rows of one scrape.
#[derive(Debug)]
pub struct Rows<'a> {
    families: [Family; MetricId::COUNT],
    groups: Groups,
    limit: usize,
    suppressed: &'a Suppressed,
    /// Values of the label `netns` under which no count of zero is shown.
    without_zeros: HashSet<&'a str>,
}

impl<'a> Rows<'a> {
    /// No rows yet, and room for `limit` ([`ROWS_MAX`] by default) of each metric.
    #[must_use]
    pub fn new(limit: usize, suppressed: &'a Suppressed) -> Self {
        Self {
            families: [const { Family::new() }; MetricId::COUNT],
            groups: Groups::default(),
            limit,
            suppressed,
            without_zeros: HashSet::new(),
        }
    }

    /// From now on leaves out counts of zero under these values of the label `netns`: a sum is the same without them.
    pub(super) fn leave_out_zeros_of(&mut self, netns: HashSet<&'a str>) {
        self.without_zeros = netns;
    }

    /// Adds `number` under `labels`, one value for each of the metric's labels in their order.
    ///
    /// Rows with the same labels are summed, gauges too: where a sum makes no sense (a limit, a
    /// peak, an age), the caller takes the maximum before it adds.
    pub fn add(&mut self, id: MetricId, labels: &[&str], number: f64) {
        self.put(id, labels, Sample::Number(number));
    }

    /// Adds a histogram under `labels`. `buckets` are ascending upper bounds, each with the count
    /// of all observations up to it; `count` is that of all observations.
    ///
    /// Rows with the same labels are summed; they must have the same bounds.
    pub fn add_histogram(&mut self, id: MetricId, labels: &[&str], buckets: &[(f64, u64)], sum: f64, count: u64) {
        self.put(id, labels, Sample::Histogram(Box::new(Histogram { buckets: buckets.to_vec(), sum, count })));
    }

    /// Adds [`MetricId::SeriesSuppressed`] from the counts of all scrapes: a row for every metric
    /// whose number of series the node decides, and for any other that lost a row.
    pub fn add_suppressed(&mut self) {
        for metric in METRICS {
            let total = self.suppressed.total(metric.id);
            if total > 0 || !metric.group.is_empty() {
                #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
                self.add(MetricId::SeriesSuppressed, &[metric.name], total as f64);
            }
        }
    }

    /// As [`Groups::iter`].
    pub(super) fn groups(&self) -> impl ExactSizeIterator<Item = (&str, u32)> {
        self.groups.iter()
    }

    /// Every metric that has rows, in the table's order.
    pub(super) fn families(&self) -> impl Iterator<Item = (&'static Metric, &Family)> {
        METRICS.iter().zip(&self.families).filter(|(_, family)| !family.is_empty())
    }

    fn put(&mut self, id: MetricId, labels: &[&str], sample: Sample) {
        if let Some(misfit) = misfit(id.metric(), labels, &sample) {
            debug_assert!(false, "{}: {misfit}", id.metric().name);
            return self.refuse(id, misfit);
        }
        if !self.without_zeros.is_empty() && self.is_needless(id.metric(), labels, &sample) {
            return;
        }
        let (group, own) = labels.split_at(id.metric().group.len());
        let family = &mut self.families[id as usize];
        let full = family.len() >= self.limit;
        let Some(group) = self.groups.number(group, !full) else {
            self.suppressed.count(id);
            return;
        };
        match family.entry((group, key(own).into())) {
            Entry::Occupied(mut present) => {
                if !present.get_mut().merge(&sample) {
                    self.refuse(id, "a histogram with other bounds has the same labels");
                }
            }
            Entry::Vacant(free) if !full => {
                free.insert(sample);
            }
            Entry::Vacant(_) => {
                self.suppressed.count(id);
            }
        }
    }

    fn is_needless(&self, metric: &Metric, labels: &[&str], sample: &Sample) -> bool {
        let is_zero = match sample {
            Sample::Number(number) => *number == 0.0,
            Sample::Histogram(histogram) => histogram.count == 0,
        };
        let counts = metric.kind != Kind::Gauge || metric.id == MetricId::CountDifference;
        let is_of_namespace = metric.group.first().is_some_and(|label| label.name == "netns");
        is_zero && counts && is_of_namespace && self.without_zeros.contains(labels[0])
    }

    /// A row that the collector should not have made. Logged the first time only: the next scrape
    /// would make it again.
    fn refuse(&self, id: MetricId, why: &str) {
        if self.suppressed.count(id) == 0 {
            tracing::error!(metric = id.metric().name, why, "row left out of the exposition");
        }
    }
}

impl Sample {
    /// Adds `other` to this row. False if they are no two of a kind, and nothing was added.
    fn merge(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(number), Self::Number(more)) => *number += more,
            (Self::Histogram(all), Self::Histogram(more)) if all.has_bounds_of(more) => {
                for (bucket, (_, count)) in all.buckets.iter_mut().zip(&more.buckets) {
                    bucket.1 += count;
                }
                all.sum += more.sum;
                all.count += more.count;
            }
            _ => return false,
        }
        true
    }
}

impl Histogram {
    /// Whether bounds ascend and are finite, and counts never fall on the way to that of all.
    fn is_cumulative(&self) -> bool {
        self.buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1)
            && self.buckets.iter().all(|&(upper, count)| upper.is_finite() && count <= self.count)
    }

    fn has_bounds_of(&self, other: &Self) -> bool {
        let bounds = |histogram: &Self| histogram.buckets.iter().map(|(upper, _)| upper.to_bits()).collect::<Vec<_>>();
        bounds(self) == bounds(other)
    }
}

/// Why a row cannot stand under `metric`, if it cannot.
fn misfit(metric: &Metric, labels: &[&str], sample: &Sample) -> Option<&'static str> {
    if labels.len() != metric.label_count() {
        return Some("wrong number of label values");
    }
    match (metric.kind, sample) {
        (Kind::Histogram, Sample::Number(_)) => Some("a number for a histogram"),
        (Kind::Counter | Kind::Gauge, Sample::Histogram(_)) => Some("a histogram for a number"),
        (_, Sample::Histogram(histogram)) if !histogram.is_cumulative() => Some("buckets out of order"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
