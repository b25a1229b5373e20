//! The rules for Prometheus: that they load, name only what there is, and do what their tests say.
//! Belongs here: what holds for every rule of `dashboards/rules` and for the tests beside them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::names::{AGENT_LABELS, Known, metric};
use crate::promql;

/// A rule as it stands in a file.
#[derive(Debug)]
pub struct Rule {
    pub name: String,
    pub is_alert: bool,
    pub expression: String,
    /// All its lines.
    pub text: String,
}

pub fn directory() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards/rules")).to_owned()
}

fn read(file: &str) -> String {
    fs::read_to_string(directory().join(file)).unwrap()
}

/// The rules of a file. Reads the layout that these files keep, not any YAML: promtool reads them as well, and
/// must count as many.
pub fn rules(file: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut is_in_expression = false;
    for line in read(file).lines() {
        let begun = [("      - alert: ", true), ("      - record: ", false)];
        let begun = begun.iter().find_map(|(key, is_alert)| Some((line.strip_prefix(key)?, *is_alert)));
        if let Some((name, is_alert)) = begun {
            rules.push(Rule { name: name.to_owned(), is_alert, expression: String::new(), text: String::new() });
        }
        let Some(rule) = rules.last_mut() else { continue };
        is_in_expression &= line.starts_with("          ");
        if is_in_expression {
            rule.expression.push_str(line.trim_start());
            rule.expression.push('\n');
        } else if let Some(rest) = line.strip_prefix("        expr: ") {
            is_in_expression = rest == "|";
            rule.expression.push_str(if is_in_expression { "" } else { rest });
        }
        rule.text.push_str(line);
        rule.text.push('\n');
    }
    rules
}

pub fn alerts() -> Vec<Rule> {
    rules("tracer-alerts.yaml")
}

/// What alerts and recording rules may name.
fn known() -> Known {
    let mut known = Known::to_rules();
    for rule in rules("tracer-recording.yaml") {
        known.record(&rule.name, &promql::names(&rule.expression).unwrap());
    }
    known
}

/// A case of promtool's: an alert, and what is expected of it.
#[derive(Debug)]
struct Case {
    alert: String,
    fires: bool,
    /// The series that are put in, as they stand there.
    series: Vec<String>,
    expected: String,
}

fn test_files() -> Vec<PathBuf> {
    let entries = fs::read_dir(directory().join("tests")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn cases() -> Vec<Case> {
    let texts = test_files().into_iter().map(|path| fs::read_to_string(path).unwrap());
    texts.flat_map(|text| text.split("\n  - interval: ").skip(1).map(case).collect::<Vec<_>>()).collect()
}

fn case(text: &str) -> Case {
    let (given, expected) = text.split_once("    alert_rule_test:\n").unwrap();
    let series = given.lines().filter_map(|line| line.trim().strip_prefix("- series: '")?.strip_suffix('\''));
    let alert = expected.lines().find_map(|line| line.strip_prefix("      - alertname: ")).unwrap();
    Case {
        alert: alert.to_owned(),
        fires: expected.contains("- exp_labels:"),
        series: series.map(str::to_owned).collect(),
        expected: expected.to_owned(),
    }
}

/// Whether promtool is content, and what it says.
fn promtool(arguments: &[&str], files: &[PathBuf]) -> (bool, String) {
    let output = Command::new("promtool")
        .args(arguments)
        .args(files)
        .output()
        .expect("promtool is missing: apt-get install prometheus, or run cargo xtask test, which does");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn prometheus_loads_every_rule() {
    for file in ["tracer-recording.yaml", "tracer-alerts.yaml"] {
        let (is_valid, said) = promtool(&["check", "rules"], &[directory().join(file)]);
        assert!(is_valid, "{said}");
        assert!(said.contains(&format!("SUCCESS: {} rules found", rules(file).len())), "{file}: {said}");
    }
}

#[test]
fn every_alert_does_what_its_cases_say() {
    // They take some seconds, one after the other.
    let runs: Vec<_> =
        test_files().into_iter().map(|file| thread::spawn(|| promtool(&["test", "rules"], &[file]))).collect();
    assert!(!runs.is_empty());
    for run in runs {
        let (is_right, said) = run.join().unwrap();
        assert!(is_right, "{said}");
    }
}

#[test]
fn every_alert_has_a_case_that_fires_and_one_that_does_not() {
    let cases = cases();
    for alert in alerts() {
        for fires in [true, false] {
            let has_case = cases.iter().any(|case| case.alert == alert.name && case.fires == fires);
            assert!(has_case, "{} has no case with fires={fires}", alert.name);
        }
    }
    let names: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    for case in cases {
        assert!(names.contains(&case.alert), "there is no alert {}", case.alert);
    }
}

#[test]
fn rules_name_only_what_is_exported_or_recorded() {
    let known = known();
    let recording = rules("tracer-recording.yaml");
    assert!(recording.iter().all(|rule| !rule.is_alert && rule.name.split(':').count() == 3));
    for rule in recording.into_iter().chain(alerts()) {
        let names = promql::names(&rule.expression).unwrap();
        assert!(!names.selectors.is_empty(), "{} looks at nothing", rule.name);
        assert_eq!(known.misnamed(&names), [""; 0], "{}", rule.name);
    }
}

#[test]
fn annotations_name_only_labels_that_there_are() {
    let known = known();
    for alert in alerts() {
        let names = promql::names(&alert.expression).unwrap();
        let labels = alert.text.split("$labels.").skip(1);
        for label in labels.map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap()) {
            assert!(known.has(&names, label), "{}: no label {label}", alert.name);
        }
        for key in ["severity", "summary", "description", "runbook_url"] {
            assert!(alert.text.contains(&format!("          {key}: ")), "{} has no {key}", alert.name);
        }
    }
}

/// In a cluster, a series carries those labels of the agent's pod that it has not itself. So it does in the cases,
/// and no alert shows them.
#[test]
fn no_alert_names_the_agents_own_pod() {
    for case in cases() {
        for series in &case.series {
            let names = promql::names(series).unwrap();
            let selector = &names.selectors[0];
            let is_given = |label: &str| selector.matchers.iter().any(|one| one.label == label);
            if !selector.matchers.iter().any(|one| one.label == "job" && one.value == "tracer") {
                continue;
            }
            for label in AGENT_LABELS.into_iter().filter(|label| !has(&selector.metric, label)) {
                assert!(is_given(label), "{}: {series} has no {label}", case.alert);
            }
        }
        for own in ["monitoring", "tracer-x7k2p", "tracer-9qz4d", "container: 'tracer'", "endpoint: "] {
            assert!(!case.expected.contains(own), "{} names the agent's pod by {own}", case.alert);
        }
    }
}

/// Whether the agent gives the series such a label.
fn has(series: &str, label: &str) -> bool {
    metric(series).is_some_and(|(metric, _)| metric.labels().any(|one| one.name == label))
}

#[test]
fn the_layout_of_a_rule_is_read() {
    let alert = alerts().into_iter().find(|alert| alert.name == "TracerListenDropRatio").unwrap();
    assert!(alert.is_alert);
    assert!(alert.expression.contains(":ratio10m > 0.05\nand listener:"), "{}", alert.expression);
    assert!(alert.text.contains("severity: critical") && !alert.expression.contains("severity"));
}
