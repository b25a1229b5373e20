//! docs/tuning.md names only what there is, and leaves no rule of `tracer advise` out. Belongs here: what pages written
//! by hand say about names that code and rules define.

use std::fs;

use tracer::advise::rules::RULES;
use tracer::export::metrics::METRICS;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../");

/// Rules that are about the agent and not about a limit.
const NO_LIMIT: [&str; 1] = ["blind_spots"];

/// What stands in backticks, outside blocks of code.
fn quoted(page: &str) -> Vec<String> {
    let page = page.replace('\n', " ");
    page.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn tuning() -> Vec<String> {
    quoted(&fs::read_to_string(format!("{ROOT}docs/tuning.md")).unwrap())
}

#[test]
fn metrics_and_labels_of_the_tuning_page_exist() {
    let mut metrics = 0;
    for word in tuning().iter().filter(|word| word.starts_with("tracer_")) {
        let (name, selector) = word.split_once('{').unwrap_or((word, ""));
        let metric = METRICS.iter().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("docs/tuning.md: no metric `{name}`"));
        for matcher in selector.trim_end_matches('}').split(',').filter(|matcher| !matcher.is_empty()) {
            let label = matcher.trim().split(['=', '!']).next().unwrap();
            assert!(metric.labels().any(|known| known.name == label), "docs/tuning.md: {name} has no label {label}");
        }
        metrics += 1;
    }
    assert!(metrics >= 30, "{metrics}");
}

#[test]
fn every_rule_about_a_limit_is_on_the_tuning_page() {
    let words = tuning();
    for rule in RULES.iter().filter(|rule| !NO_LIMIT.contains(&rule.id)) {
        assert!(words.iter().any(|word| word == rule.id), "docs/tuning.md does not mention `{}`", rule.id);
    }
}

#[test]
fn alerts_and_dashboards_of_the_tuning_page_are_shipped() {
    let rules = fs::read_to_string(format!("{ROOT}dashboards/rules/tracer-alerts.yaml")).unwrap();
    for word in tuning() {
        if word.starts_with("Tracer") {
            assert!(rules.contains(&format!("alert: {word}\n")), "docs/tuning.md: no alert `{word}`");
        } else if word.starts_with("tracer-") {
            assert!(fs::exists(format!("{ROOT}dashboards/{word}.json")).unwrap(), "docs/tuning.md: no `{word}`");
        }
    }
}
