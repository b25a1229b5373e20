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
that was there before; where they are the kernel's own from an earlier time, their meaning says so. A row that the hooks in force cannot tell is absent, never zero; rows they can
tell start at zero. The `_other` rows, which collect what found no room of its own, are there at zero once half of the room for
listeners or for workloads is used, so `sum(increase())` is right while it fills. What a workload's own row begins with is in
no increase, as of any series: those rows come with their first count. Every scrape is complete: no metric depends on the ring of events.
";

/// Prefixes in the order of the page; a metric belongs to the first that fits.
const SECTIONS: [(&str, &str); 3] = [
    ("tracer_tcp_", "What TCP does, by listener, workload or network namespace."),
    ("tracer_", "The node and its settings, whether the numbers close, and how the agent fares."),
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
    for (name, meanings) in label_meanings() {
        let are_several = meanings.len() > 1;
        for (values, metrics) in meanings {
            let of = if are_several { format!(" of `{}`", metrics.join("`, `")) } else { String::new() };
            lines.push(format!("| `{name}`{of} | {values} |"));
        }
    }
    lines
}

/// What each label's values are, in the order of the metrics: a reason to drop is none to abort.
fn label_meanings() -> BTreeMap<&'static str, Vec<(String, Vec<&'static str>)>> {
    let mut labels: BTreeMap<_, Vec<(String, Vec<_>)>> = BTreeMap::new();
    for metric in METRICS {
        for label in metric.labels() {
            let values = match label.values {
                Values::Text(meaning) => meaning.to_owned(),
                Values::OneOf(values) => format!("`{}`", values.join("`, `")),
            };
            let meanings = labels.entry(label.name).or_default();
            match meanings.iter_mut().find(|(known, _)| *known == values) {
                Some((_, metrics)) => metrics.push(metric.name),
                None => meanings.push((values, vec![metric.name])),
            }
        }
    }
    labels
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
    fn a_label_of_several_meanings_names_its_metrics() {
        let lines = labels();
        let starts_with = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
        assert_eq!(starts_with("| `netns` | "), 1);
        assert_eq!(starts_with("| `reason` of `tracer_tcp_listen_drops_total` | `accept_queue_full_syn`, "), 1);
        assert_eq!(starts_with("| `reason` of `tracer_tcp_aborts_total` | `data`, "), 1);
        assert_eq!(starts_with("| `reason` | "), 0);
    }

    /// Joins and honorLabels rely on these.
    #[test]
    fn labels_of_groups_mean_one_thing() {
        let meanings = label_meanings();
        for label in LISTENER {
            assert_eq!(meanings[label.name].len(), 1, "{}", label.name);
        }
    }
}
