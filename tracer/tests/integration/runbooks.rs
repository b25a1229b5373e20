//! The runbooks: one for each alert, about metrics that there are. Belongs here: what holds for every
//! `docs/runbooks/*.md`.

use std::collections::BTreeSet;
use std::fs;

use crate::names::{Known, metric};
use crate::promql;
use crate::rules;

/// Explains what the others have in common.
const ENTRANCE: &str = "README";

/// Headings of every runbook, in this order; a page may have more.
const HEADINGS: [&str; 5] = ["## Confirm", "## Change", "## Do not", "## False alarms", "## Related"];

/// All pages, with the names of their files.
fn pages() -> Vec<(String, String)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/runbooks");
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// The selectors of metrics in a text for people.
fn metrics(text: &str) -> Vec<&str> {
    let joins = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = text.match_indices("tracer_").map(|(at, _)| at).filter(|&at| !text[..at].ends_with(joins));
    begins
        .map(|at| {
            let rest = &text[at..];
            let name = rest.find(|c| !joins(c)).unwrap_or(rest.len());
            let matchers = rest[name..].starts_with('{').then(|| rest[name..].find('}')).flatten();
            &rest[..name + matchers.map_or(0, |end| end + 1)]
        })
        .collect()
}

/// Whether it is a metric, a part of its name that is searched for, or a family of them.
fn is_known(selector: &str) -> bool {
    let Ok(names) = promql::names(selector) else { return false };
    let series = names.selectors[0].metric.as_str();
    let is_part = tracer::export::metrics::METRICS.iter().any(|metric| metric.name.starts_with(series));
    let is_series = metric(series).is_some() || is_part && !selector.contains('{');
    is_series && (is_part && metric(series).is_none() || Known::exported().misnamed(&names).is_empty())
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let alerts: BTreeSet<String> = rules::alerts().into_iter().map(|alert| alert.name).collect();
    let pages: BTreeSet<String> = pages().into_iter().map(|(name, _)| name).filter(|name| name != ENTRANCE).collect();
    assert_eq!(alerts, pages);
    for alert in rules::alerts() {
        let link = format!("          runbook_url: docs/runbooks/{}.md\n", alert.name);
        assert!(alert.text.contains(&link), "{}", alert.name);
    }
}

#[test]
fn every_runbook_says_what_one_needs_at_night() {
    for (name, text) in pages().into_iter().filter(|(name, _)| name != ENTRANCE) {
        assert!(text.starts_with(&format!("# {name}\n\n")), "{name}");
        let places: Vec<_> = HEADINGS.map(|heading| text.find(&format!("\n{heading}\n"))).into();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{name}: {places:?}");
        assert!(text.contains("```console\n"), "{name} has nothing to type");
    }
}

#[test]
fn every_metric_in_a_runbook_is_exported() {
    for (name, text) in pages() {
        for selector in metrics(&text) {
            assert!(is_known(selector), "{name}: {selector}");
        }
    }
}

#[test]
fn a_metric_that_is_misspelt_is_found() {
    assert_eq!(
        metrics("see `tracer_a_total{b=\"c\"}` and xtracer_b, tracer_d."),
        ["tracer_a_total{b=\"c\"}", "tracer_d"]
    );
    assert!(is_known("tracer_count_difference"));
    assert!(is_known("tracer_tcp_aborts_total{reason=\"memory\"}"));
    assert!(is_known("tracer_events"));
    for wrong in
        ["tracer_count_diference", "tracer_tcp_aborts_total{reason=\"lack\"}", "tracer_tcp_aborts_total{why=\"x\"}"]
    {
        assert!(!is_known(wrong), "{wrong}");
    }
}
