//! The dashboards name only what the agent exports, and can be imported as they are. Belongs here:
//! what holds for every `dashboards/*.json`.

use std::collections::HashSet;
use std::fs;

use serde_json::{Value, json};

use crate::names::Known;
use crate::promql;

/// Kinds of panels that hold queries.
const PANELS: [&str; 3] = ["stat", "table", "timeseries"];

/// All dashboards, with their file names.
fn dashboards() -> Vec<(String, Value)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    files
        .map(|path| {
            let text = fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_slice(&text).unwrap())
        })
        .collect()
}

/// The labels in `{{label}}` of a legend.
fn legend_labels(legend: &str) -> Vec<&str> {
    legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).map(str::trim).collect()
}

/// What is wrong with a panel's query.
fn misnamed_in_target(target: &Value) -> Vec<String> {
    let expression = target["expr"].as_str().unwrap_or_default();
    let names = match promql::names(expression) {
        Ok(names) => names,
        Err(error) => return vec![error],
    };
    let known = Known::exported();
    let mut wrong = known.misnamed(&names);
    if names.selectors.is_empty() {
        wrong.push(format!("no metric in `{expression}`"));
    }
    let legend = target["legendFormat"].as_str().unwrap_or_default();
    // After an aggregation only the labels it names are left.
    let unknown = |label: &&str| !names.grouped_by.iter().any(|kept| kept == label);
    wrong.extend(legend_labels(legend).into_iter().filter(unknown).map(|label| format!("legend: no label {label}")));
    let rates = expression.matches("rate(").count() + expression.matches("increase(").count();
    if rates != expression.matches("[$__rate_interval]").count() {
        wrong.push("a rate over another range than $__rate_interval".to_owned());
    }
    wrong
}

/// What is wrong with a variable's `label_values(metric, label)`.
fn misnamed_in_variable(variable: &Value) -> Vec<String> {
    let query = variable["query"]["query"].as_str().unwrap_or_default();
    let parts = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')?.rsplit_once(','));
    let Some((selector, label)) = parts else { return vec![format!("not label_values(metric, label): {query}")] };
    let mut names = match promql::names(selector) {
        Ok(names) => names,
        Err(error) => return vec![error],
    };
    names.grouped_by.push(label.trim().to_owned());
    Known::exported().misnamed(&names)
}

fn queried_panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().into_iter().flatten().filter(|panel| panel["type"] != "row")
}

fn variables(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["templating"]["list"].as_array().into_iter().flatten()
}

#[test]
fn every_name_in_a_dashboard_is_exported() {
    let dashboards = dashboards();
    assert!(!dashboards.is_empty());
    for (file, dashboard) in &dashboards {
        let mut targets = 0;
        for panel in queried_panels(dashboard) {
            for target in panel["targets"].as_array().unwrap() {
                assert_eq!(misnamed_in_target(target), [""; 0], "{file}: {}", panel["title"]);
                targets += 1;
            }
        }
        for variable in variables(dashboard).filter(|variable| variable["type"] == "query") {
            assert_eq!(misnamed_in_variable(variable), [""; 0], "{file}: ${}", variable["name"]);
        }
        assert!(targets > 0, "{file} shows nothing");
    }
}

#[test]
fn every_variable_in_a_dashboard_is_declared() {
    for (file, dashboard) in dashboards() {
        let declared: HashSet<&str> = variables(&dashboard).filter_map(|variable| variable["name"].as_str()).collect();
        let text = dashboard.to_string();
        let used = text.split('$').skip(1).map(|rest| {
            let rest = rest.strip_prefix('{').unwrap_or(rest);
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default()
        });
        // $1 is a group of a regular expression.
        let is_own = |name: &&str| !name.starts_with("__") && !name.starts_with(|first: char| first.is_ascii_digit());
        for variable in used.filter(is_own) {
            assert!(declared.contains(variable), "{file}: ${variable}");
        }
    }
}

#[test]
fn every_dashboard_can_be_imported_as_it_is() {
    let datasource = json!({"type": "prometheus", "uid": "${datasource}"});
    for (file, dashboard) in dashboards() {
        assert_eq!(dashboard["id"], Value::Null, "{file}");
        assert!(dashboard["uid"].as_str().is_some_and(|uid| !uid.is_empty()), "{file}");
        assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| (39..=42).contains(&version)), "{file}");
        assert!(dashboard.get("__inputs").is_none(), "{file}");
        let mut ids = HashSet::new();
        for panel in queried_panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: {title}: its id is taken");
            assert!(PANELS.contains(&panel["type"].as_str().unwrap()), "{file}: {title}");
            assert_eq!(panel["datasource"], datasource, "{file}: {title}");
            assert!(panel["targets"].as_array().unwrap().iter().all(|target| target["datasource"] == datasource));
            assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{file}: {title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{file}: {title}");
        }
    }
}

#[test]
fn a_misspelt_name_is_found() {
    let drops = "tracer_tcp_listen_drops_total";
    for (expression, legend, found) in [
        (format!("sum(rate({drops}[$__rate_interval]))"), "", vec![]),
        (format!("sum by (port) ({drops}{{reason=\"other\", instance=\"a\"}})"), "{{port}}", vec![]),
        ("sum by (le) (tracer_tcp_connect_syn_retries_bucket)".to_owned(), "", vec![]),
        ("tracer_tcp_listen_drop_total".to_owned(), "", vec!["no metric tracer_tcp_listen_drop_total"]),
        ("tracer_tcp_connect_syn_retries".to_owned(), "", vec!["no metric tracer_tcp_connect_syn_retries"]),
        (format!("{drops}{{prot=\"80\"}}"), "", vec!["tracer_tcp_listen_drops_total has no label prot"]),
        (format!("{drops}{{reason=\"full\"}}"), "", vec!["reason is never full"]),
        (format!("{drops}{{reason=~\"other|full\"}}"), "", vec!["reason is never full"]),
        (format!("sum by (pod, endpoint) ({drops})"), "", vec!["no label endpoint"]),
        (format!("sum by (prot) ({drops})"), "", vec!["no label prot"]),
        (format!("sum by (port) ({drops})"), "{{process}}", vec!["legend: no label process"]),
        (format!("rate({drops}[5m])"), "", vec!["a rate over another range than $__rate_interval"]),
        ("vector(1)".to_owned(), "", vec!["no metric in `vector(1)`"]),
    ] {
        let target = json!({"expr": expression, "legendFormat": legend});
        assert_eq!(misnamed_in_target(&target), found, "{expression}");
    }
}

#[test]
fn a_misspelt_name_in_a_variable_is_found() {
    for (query, found) in [
        ("label_values(tracer_netns_info, netns)", vec![]),
        ("label_values(tracer_netns_info{instance=~\"$instance\"}, netns)", vec![]),
        ("label_values(tracer_netns_inf, netns)", vec!["no metric tracer_netns_inf", "no label netns"]),
        ("label_values(tracer_netns_info, netnamespace)", vec!["no label netnamespace"]),
        ("label_names()", vec!["not label_values(metric, label): label_names()"]),
    ] {
        assert_eq!(misnamed_in_variable(&json!({"query": {"query": query}})), found, "{query}");
    }
}
