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

/// Alerts about the agent: no limit of TCP binds, and events are those of other alerts.
const OF_THE_AGENT: [&str; 12] = [
    "TracerAgentAbsent",
    "TracerAgentDown",
    "TracerCountsDiffer",
    "TracerCountsLost",
    "TracerCountsUnattributed",
    "TracerEventsLost",
    "TracerHookLost",
    "TracerPassObstacles",
    "TracerPassesCostly",
    "TracerPassesLate",
    "TracerScrapesRefused",
    "TracerSeriesSuppressed",
];

/// Alerts about limits that no event tells of, and why.
const WITHOUT_EVENTS: [(&str, &str); 6] = [
    ("TracerFileHandlesNearLimit", "open files are not TCP's alone"),
    ("TracerMemoryNearLimit", "the memory of all sockets is a level"),
    ("TracerMemoryPressure", "the memory of all sockets is a level"),
    ("TracerReceiveQueueDrops", "a counter of the kernel, without a hook"),
    ("TracerSoftnetDrops", "the packets never come to TCP"),
    ("TracerZeroWindow", "a counter of the kernel, without a hook"),
];

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

/// What stands below a heading, up to the next one of its level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let rest = text.split_once(&format!("\n{heading}\n")).unwrap().1;
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

/// Pages about a limit of TCP.
fn pages_of_limits() -> impl Iterator<Item = (String, String)> {
    pages().into_iter().filter(|(name, _)| name != ENTRANCE && !OF_THE_AGENT.contains(&name.as_str()))
}

#[test]
fn every_runbook_about_a_limit_is_confirmed_by_events() {
    for (name, text) in pages_of_limits() {
        let has_events = section(&text, "## Confirm").contains("\n# tracer events --kind ");
        let is_exception = WITHOUT_EVENTS.iter().any(|(exception, _)| *exception == name);
        assert_ne!(has_events, is_exception, "{name}: tracer events under Confirm: {has_events}");
    }
}

/// The fragment by which a heading of a page is linked to.
fn fragment(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_runbook_about_a_limit_leads_to_its_tuning() {
    let tuning = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tuning.md")).unwrap();
    let sections: Vec<_> = tuning.split("\n## ").skip(1).filter_map(|section| section.split_once('\n')).collect();
    for (name, text) in pages_of_limits() {
        let linked: BTreeSet<String> = section(&text, "## Change")
            .split("](../tuning.md#")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .map(str::to_owned)
            .collect();
        let about = sections.iter().filter(|(_, section)| section.contains(&format!("`{name}`")));
        let about: BTreeSet<String> = about.map(|(heading, _)| fragment(heading)).collect();
        assert!(!about.is_empty(), "docs/tuning.md does not name {name}");
        assert_eq!(linked, about, "{name}: sections that are linked, and that name it");
    }
}

#[test]
fn the_lists_of_exceptions_name_alerts() {
    let alerts: BTreeSet<String> = rules::alerts().into_iter().map(|alert| alert.name).collect();
    for name in OF_THE_AGENT.into_iter().chain(WITHOUT_EVENTS.map(|(name, _)| name)) {
        assert!(alerts.contains(name), "there is no alert {name}");
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
