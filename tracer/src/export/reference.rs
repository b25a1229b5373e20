//! docs/metrics.md, rendered from the table of metrics.
//!
//! Owns the page's wording and layout, no fact about a metric. `cargo xtask metrics-doc` writes what
//! [`markdown`] gives; a test below fails when the page in the repository differs.

use std::collections::BTreeMap;

use super::metrics::{LISTENER, METRICS, Metric, NAMESPACE, OWNER, Values};

const HEAD: &str = "\
# Metrics

<!-- Rendered from tracer/src/export/metrics/table.rs by `cargo xtask metrics-doc`; do not edit. -->

Counters count from the agent's baseline: the creation of a namespace, or the agent's start for one
that was there before. A row that the hooks in force cannot tell is absent, never zero; rows they can
tell start at zero. Every scrape is complete: no metric depends on the ring of events.
";

/// Prefixes in the order of the page; a metric belongs to the first that fits.
const SECTIONS: [(&str, &str); 3] = [
    ("tracer_tcp_", "What TCP does, by listener, workload or network namespace."),
    ("tracer_", "Whether the numbers close, and how the agent fares."),
    ("process_", "The agent's process, named as Prometheus' client libraries name it."),
];

/// Groups of labels by the name that the tables use for them.
const GROUPS: [(&str, &[super::metrics::Label]); 3] =
    [("listener", LISTENER), ("workload", OWNER), ("namespace", NAMESPACE)];

/// The page docs/metrics.md.
#[must_use]
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for (prefix, text) in SECTIONS {
        let mut lines = vec![
            format!("\n## `{prefix}*`\n\n{text}\n"),
            "| Metric | Type | Labels | Unit | From | Meaning |".to_owned(),
            "|---|---|---|---|---|---|".to_owned(),
        ];
        lines.extend(METRICS.iter().filter(|metric| section(metric) == Some(prefix)).map(row));
        push_lines(&mut page, &lines);
    }
    push_lines(&mut page, &groups());
    push_lines(&mut page, &labels());
    page
}

fn section(metric: &Metric) -> Option<&'static str> {
    SECTIONS.iter().map(|(prefix, _)| *prefix).find(|prefix| metric.name.starts_with(prefix))
}

fn row(metric: &Metric) -> String {
    let Metric { name, unit, help, .. } = metric;
    let (kind, origin) = (metric.kind.name(), metric.origin.name());
    format!("| `{name}` | {kind} | {} | {unit} | {origin} | {help} |", label_names(metric))
}

fn label_names(metric: &Metric) -> String {
    let group = GROUPS.iter().find(|(_, labels)| !metric.group.is_empty() && labels.len() == metric.group.len());
    let own = metric.own.iter().map(|label| format!("`{}`", label.name));
    let names: Vec<_> = group.map(|(name, _)| format!("*{name}*")).into_iter().chain(own).collect();
    if names.is_empty() { "–".to_owned() } else { names.join(", ") }
}

fn groups() -> Vec<String> {
    let mut lines = vec!["\n## Groups of labels\n\n| Group | Labels |\n|---|---|".to_owned()];
    for (name, labels) in GROUPS {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{}`", label.name)).collect();
        lines.push(format!("| *{name}* | {} |", labels.join(", ")));
    }
    lines
}

fn labels() -> Vec<String> {
    let mut lines = vec!["\n## Labels\n\n| Label | Values |\n|---|---|".to_owned()];
    for (name, sets) in value_sets() {
        for (values, metrics) in &sets {
            let of = if sets.len() == 1 { String::new() } else { format!(" of `{}`", metrics.join("`, `")) };
            let values = match values {
                Values::Text(meaning) => (*meaning).to_owned(),
                Values::OneOf(values) => format!("`{}`", values.join("`, `")),
            };
            lines.push(format!("| `{name}`{of} | {values} |"));
        }
    }
    lines
}

/// By the name of a label, the sets of values that it takes, each with its metrics. A label means the same
/// wherever it stands, but reasons for one thing are not reasons for another.
fn value_sets() -> BTreeMap<&'static str, Vec<(Values, Vec<&'static str>)>> {
    let mut sets: BTreeMap<_, Vec<(Values, Vec<_>)>> = BTreeMap::new();
    for metric in METRICS {
        for label in metric.labels() {
            let sets = sets.entry(label.name).or_default();
            match sets.iter_mut().find(|(values, _)| *values == label.values) {
                Some((_, metrics)) => metrics.push(metric.name),
                None => sets.push((label.values, vec![metric.name])),
            }
        }
    }
    sets
}

fn push_lines(page: &mut String, lines: &[String]) {
    for line in lines {
        page.push_str(line);
        page.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_repository_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page == markdown(), "docs/metrics.md is stale: run cargo xtask metrics-doc");
    }

    #[test]
    fn every_metric_has_a_section_and_every_group_a_name() {
        for metric in METRICS {
            assert!(section(metric).is_some(), "{}", metric.name);
            let named = GROUPS.iter().any(|(_, labels)| std::ptr::eq(*labels, metric.group));
            assert!(metric.group.is_empty() || named, "{}", metric.name);
        }
    }

    #[test]
    fn only_reasons_and_causes_differ_by_metric() {
        let differ = value_sets().into_iter().filter(|(_, sets)| sets.len() > 1);
        for (name, sets) in differ {
            assert!(["reason", "cause"].contains(&name), "{name}");
            for (values, metrics) in sets {
                assert!(matches!(values, Values::OneOf(_)), "{name}");
                assert!(markdown().contains(&format!("| `{name}` of `{}", metrics[0])), "{name}");
            }
        }
    }
}
