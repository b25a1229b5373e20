//! Figures: medians of repeated measurements, and the table in which they are printed.

use std::fmt;

/// Repeated measurements of one thing.
#[derive(Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = f64> {
        self.0.iter().copied()
    }

    /// NaN when nothing was measured.
    pub(super) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The smallest and the greatest.
    pub(super) fn range(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN))
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// What a figure is to keep to.
#[derive(Clone, Copy)]
pub(super) enum Target {
    None,
    AtMost(f64, &'static str),
    AtLeast(f64, &'static str),
}

impl Target {
    fn verdict(self, value: f64) -> &'static str {
        match self {
            Self::None => "",
            Self::AtMost(limit, _) if value <= limit => "met",
            Self::AtLeast(limit, _) if value >= limit => "met",
            _ => "missed",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::AtMost(limit, unit) => write!(f, "≤ {limit} {unit}"),
            Self::AtLeast(limit, unit) => write!(f, "≥ {limit} {unit}"),
        }
    }
}

/// The table; a row is four texts.
#[derive(Default)]
pub(super) struct Table(Vec<[String; 4]>);

impl Table {
    /// Adds a row; `value` is what the target is about, `figure` how it reads.
    pub(super) fn add(&mut self, measure: impl Into<String>, value: f64, figure: impl Into<String>, target: Target) {
        let verdict = target.verdict(value).to_owned();
        self.0.push([measure.into(), figure.into(), target.to_string(), verdict]);
    }

    /// Adds a row for what could not be measured.
    pub(super) fn add_missing(&mut self, measure: impl Into<String>, why: impl fmt::Display) {
        self.0.push([measure.into(), format!("not measured: {why}"), String::new(), String::new()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["measure", "figure", "target", "verdict"].map(str::to_owned);
        let rows = || std::iter::once(&head).chain(&self.0);
        let width = |column: usize| rows().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (measure, figure, target) = (width(0), width(1), width(2));
        for [a, b, c, d] in rows() {
            let line = format!("{a:measure$}  {b:figure$}  {c:target$}  {d}");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_middle_two() {
        assert!(Samples(vec![3.0, 1.0, 2.0]).median().total_cmp(&2.0).is_eq());
        assert!(Samples(vec![4.0, 1.0, 2.0, 3.0]).median().total_cmp(&2.5).is_eq());
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn verdicts_follow_the_direction_of_the_target() {
        assert_eq!(Target::AtMost(25.0, "ns").verdict(25.0), "met");
        assert_eq!(Target::AtMost(25.0, "ns").verdict(25.1), "missed");
        assert_eq!(Target::AtLeast(98.0, "%").verdict(97.9), "missed");
        assert_eq!(Target::AtLeast(98.0, "%").verdict(f64::NAN), "missed");
    }

    #[test]
    fn columns_are_aligned_by_characters() {
        let mut table = Table::default();
        table.add("a", 1.0, "1 µs", Target::AtMost(2.0, "µs"));
        table.add_missing("longer", "no wrk");
        let text = table.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "measure  figure                target  verdict");
        assert_eq!(lines[1], "a        1 µs                  ≤ 2 µs  met");
        assert_eq!(lines[2], "longer   not measured: no wrk");
    }
}
