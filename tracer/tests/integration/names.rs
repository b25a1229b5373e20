//! Which series and labels there are: those that the agent exports, and those that rules record from
//! them. Belongs here: what is wrong with the names of an expression, wherever it stands.

use std::collections::{BTreeMap, BTreeSet};

use tracer::export::metrics::{Kind, METRICS, Metric, Values};

use crate::promql::{Matcher, Names, Selector};

/// Labels that Prometheus adds to every series of a target.
const TARGET_LABELS: [&str; 2] = ["instance", "job"];

/// Labels of a pod that Prometheus adds to the series of an agent in a cluster which have none of their own.
pub const AGENT_LABELS: [&str; 4] = ["namespace", "pod", "container", "endpoint"];

/// The series that an expression may name.
#[derive(Debug, Default)]
pub struct Known {
    /// Labels by recorded series; empty where rules are not at hand.
    recorded: BTreeMap<String, BTreeSet<String>>,
}

impl Known {
    /// What the agent exports, and nothing else.
    pub fn exported() -> Self {
        Self::default()
    }

    /// What rules may use besides: whether a target is up.
    pub fn to_rules() -> Self {
        let labels = TARGET_LABELS.map(str::to_owned).into();
        Self { recorded: BTreeMap::from([("up".to_owned(), labels)]) }
    }

    /// Adds what a rule records from `names`: it has no other labels than those, and what is made there.
    pub fn record(&mut self, series: &str, names: &Names) {
        let labels = names.selectors.iter().filter_map(|selector| self.labels(&selector.metric)).flatten();
        let labels = labels.chain(names.made.iter().cloned()).collect();
        self.recorded.insert(series.to_owned(), labels);
    }

    /// What is wrong with the names in an expression.
    pub fn misnamed(&self, names: &Names) -> Vec<String> {
        let mut wrong = Vec::new();
        for selector in &names.selectors {
            match self.labels(&selector.metric) {
                None => wrong.push(format!("no metric {}", selector.metric)),
                Some(labels) => wrong.extend(selector.matchers.iter().filter_map(|one| misfit(selector, one, &labels))),
            }
        }
        wrong.extend(names.grouped_by.iter().filter_map(|label| {
            // A rule may drop the labels of the agent's pod, which are not in the table.
            let is_dropped = !self.recorded.is_empty() && AGENT_LABELS.contains(&label.as_str());
            (!is_dropped && !self.has(names, label)).then(|| format!("no label {label}"))
        }));
        wrong
    }

    /// Whether the result of the expression can have the label.
    pub fn has(&self, names: &Names, label: &str) -> bool {
        let is_of = |selector: &Selector| self.labels(&selector.metric).is_some_and(|labels| labels.contains(label));
        names.made.iter().any(|made| made == label) || names.selectors.iter().any(is_of)
    }

    /// The labels of a series, if there is one.
    pub fn labels(&self, series: &str) -> Option<BTreeSet<String>> {
        if let Some(labels) = self.recorded.get(series) {
            return Some(labels.clone());
        }
        let (metric, own) = metric(series)?;
        let labels = metric.labels().map(|label| label.name).chain(own).chain(TARGET_LABELS);
        Some(labels.map(str::to_owned).collect())
    }
}

/// The metric of a series' name: a histogram has three, one of them with a label of its own.
pub fn metric(series: &str) -> Option<(&'static Metric, Option<&'static str>)> {
    let plain = METRICS.iter().find(|metric| metric.name == series && metric.kind != Kind::Histogram);
    if let Some(metric) = plain {
        return Some((metric, None));
    }
    let (name, suffix) = series.rsplit_once('_')?;
    let metric = METRICS.iter().find(|metric| metric.name == name && metric.kind == Kind::Histogram)?;
    match suffix {
        "bucket" => Some((metric, Some("le"))),
        "sum" | "count" => Some((metric, None)),
        _ => None,
    }
}

/// What is wrong with a matcher: its label, or a value that the label never takes.
fn misfit(selector: &Selector, matcher: &Matcher, labels: &BTreeSet<String>) -> Option<String> {
    let Matcher { label, operator, value } = matcher;
    if !labels.contains(label) {
        return Some(format!("{} has no label {label}", selector.metric));
    }
    let is_plain = value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '|');
    let alternatives: Vec<&str> = match operator.as_str() {
        "=" | "!=" if !value.contains('$') => vec![value],
        "=~" | "!~" if is_plain => value.split('|').collect(),
        _ => return None,
    };
    let (metric, _) = metric(&selector.metric)?;
    match metric.labels().find(|known| known.name == *label)?.values {
        Values::OneOf(values) => {
            let never = alternatives.into_iter().find(|value| !values.contains(value))?;
            Some(format!("{label} is never {never}"))
        }
        Values::Text(_) => None,
    }
}
