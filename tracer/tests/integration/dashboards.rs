//! The dashboards name only what the agent exports, and can be imported as they are. Belongs here:
//! what holds for every `dashboards/*.json`.

use std::collections::HashSet;
use std::fs;

use serde_json::{Value, json};

use crate::names::Known;
use crate::promql::{self, Matcher};
use crate::rules;

/// Kinds of panels that hold queries.
const PANELS: [&str; 3] = ["stat", "table", "timeseries"];

/// Charts that show no limit, and why.
const CHARTS_WITHOUT_LIMIT: [(&str, &str); 20] = [
    ("Accept queue, connections that wait", "each listener has its own limit; the share of it is beside"),
    ("Connections accepted", "as many as there are"),
    ("Connections ended by this side, by reason", "all but memory are everyday"),
    ("Connects that failed, by error", "refused is everyday; no_port has a chart of its own"),
    ("Connects that failed, by workload and error", "refused is everyday; no_port has a chart of its own"),
    ("Descriptors of the agent", "each agent has its own limit; the share of it is in the table"),
    ("Events, by kind", "as many as there are"),
    ("File handles of the node", "each node has its own limit; the share of it is above"),
    ("Hooks in force, by signal", "compared with the past; degraded is no alert"),
    ("Not verified", "what no kernel counter can confirm any more; no alert"),
    ("Orphans against their limit", "the limit is a line of the chart"),
    ("Passes: time taken", "their age has the limit"),
    ("Resets, by direction", "everyday"),
    ("Resets, by workload and reason", "everyday"),
    ("Scrapes: time taken", "the limit is of Prometheus"),
    ("Segments", "as many as there are"),
    ("Segments sent again, by cause", "the share of what was sent has the limit"),
    ("Sockets in TIME_WAIT", "each namespace has its own limit; the share of it is beside"),
    ("Sockets, by state", "as many as there are; CLOSE_WAIT has a chart of its own"),
    ("TCP memory against its limits", "the limits are lines of the chart"),
];

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
        assert_eq!(dashboard["uid"].as_str(), file.strip_suffix(".json"), "a link names the file");
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
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(defaults["unit"].is_string(), "{file}: {title}");
            assert!(
                defaults["thresholds"]["steps"].as_array().is_some_and(|steps| !steps.is_empty()),
                "{file}: {title}"
            );
        }
    }
}

/// Where the colours of a panel change.
fn steps(panel: &Value) -> Vec<f64> {
    let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array().unwrap();
    steps.iter().map(|step| step["value"].as_f64().unwrap_or(f64::NEG_INFINITY)).collect()
}

#[test]
fn every_chart_shows_from_where_on_it_is_bad() {
    let mut without_limit = HashSet::new();
    for (file, dashboard) in dashboards() {
        for panel in queried_panels(&dashboard).filter(|panel| panel["type"] == "timeseries") {
            let title = panel["title"].as_str().unwrap();
            let steps = steps(panel);
            assert!(steps.is_sorted_by(|a, b| a < b), "{file}: {title}: {steps:?}");
            if CHARTS_WITHOUT_LIMIT.iter().any(|(exception, _)| *exception == title) {
                assert_eq!(steps.len(), 1, "{file}: {title} has a limit after all");
                without_limit.insert(title.to_owned());
                continue;
            }
            assert!(steps.len() >= 2, "{file}: {title} has no limit");
            let style = &panel["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"];
            assert_eq!(style, "dashed", "{file}: {title} does not draw its limit");
        }
    }
    for (title, _) in CHARTS_WITHOUT_LIMIT {
        assert!(without_limit.contains(title), "there is no chart {title}");
    }
}

/// The agent's pod may use 128 MiB: a limit beyond is never reached.
#[test]
fn the_agents_memory_turns_orange_before_its_pod_is_killed() {
    let (_, dashboard) = dashboards().into_iter().find(|(file, _)| file == "tracer-agent.json").unwrap();
    let panels: Vec<_> = queried_panels(&dashboard).filter(|panel| panel["title"] == "Memory of the agent").collect();
    assert_eq!(panels.len(), 2);
    for panel in panels {
        assert!(steps(panel).last().is_some_and(|last| (64e6..128e6).contains(last)), "{:?}", steps(panel));
    }
}

/// The width of a column that an override of the panel gives it, in pixels.
fn given_width(panel: &Value, heading: &str) -> Option<f64> {
    let overrides = panel["fieldConfig"]["overrides"].as_array().unwrap();
    let of_column = overrides.iter().filter(|one| one["matcher"] == json!({"id": "byName", "options": heading}));
    let mut properties = of_column.filter_map(|one| one["properties"].as_array()).flatten();
    properties.find(|property| property["id"] == "custom.width")?["value"].as_f64()
}

/// On a page of 1600 pixels, of which the panels have 1568. Columns without a width share what the others leave.
#[test]
fn headings_of_tables_fit() {
    for (file, dashboard) in dashboards() {
        for panel in queried_panels(&dashboard).filter(|panel| panel["type"] == "table") {
            let transformations = panel["transformations"].as_array().unwrap();
            let organize = transformations.iter().find(|one| one["id"] == "organize").unwrap();
            let renamed = organize["options"]["renameByName"].as_object().unwrap();
            let headings: Vec<_> = renamed.values().filter_map(Value::as_str).collect();
            let given: Vec<_> = headings.iter().filter_map(|heading| given_width(panel, heading)).collect();
            let room = panel["gridPos"]["w"].as_f64().unwrap() / 24.0 * 1568.0 - given.iter().sum::<f64>();
            let share = room / f64::from(u32::try_from(headings.len() - given.len()).unwrap());
            let is_filterable = panel["fieldConfig"]["defaults"]["custom"]["filterable"] == true;
            for heading in headings {
                // A letter takes 8 pixels, the padding 14, and the symbol of the filter 26.
                let letters = f64::from(u32::try_from(heading.len()).unwrap());
                let needed = 8.0 * letters + if is_filterable { 40.0 } else { 14.0 };
                let width = given_width(panel, heading).unwrap_or(share);
                assert!(width >= needed, "{file}: {}: {heading} has {width:.0} pixels of {needed}", panel["title"]);
            }
        }
    }
}

/// Which signals of a metric's rows the expression looks at.
fn signals(expression: &str) -> Vec<Matcher> {
    let selectors = promql::names(expression).unwrap().selectors;
    let selectors = selectors.into_iter().filter(|selector| selector.metric == "tracer_count_difference");
    selectors.flat_map(|selector| selector.matchers).filter(|matcher| matcher.label == "signal").collect()
}

#[test]
fn differences_that_may_stay_are_shown_no_more_than_they_fire() {
    let alert = rules::alerts().into_iter().find(|alert| alert.name == "TracerCountsDiffer").unwrap();
    let fires = signals(&alert.expression);
    assert_eq!(fires.len(), 1);
    let mut shown = 0;
    for (file, dashboard) in dashboards() {
        for panel in queried_panels(&dashboard) {
            let expressions = panel["targets"].as_array().unwrap().iter().filter_map(|target| target["expr"].as_str());
            for expression in expressions.filter(|expression| expression.contains("tracer_count_difference")) {
                assert_eq!(signals(expression), fires, "{file}: {}", panel["title"]);
                shown += 1;
            }
        }
    }
    assert!(shown >= 4, "{shown}");
}

#[test]
fn every_choice_offers_all() {
    for (file, dashboard) in dashboards() {
        let names: Vec<_> = variables(&dashboard).filter_map(|variable| variable["name"].as_str()).collect();
        assert!(names.starts_with(&["datasource", "node"]), "{file}: {names:?}");
        for variable in variables(&dashboard).filter(|variable| variable["type"] == "query") {
            let is_all = (&variable["includeAll"], &variable["allValue"]) == (&json!(true), &json!(".*"));
            assert!(is_all, "{file}: ${}", variable["name"]);
        }
        assert_eq!(dashboard["links"][0]["tags"], json!(["tracer"]), "{file} leads to no other");
    }
}

/// The page is 24 columns wide.
#[test]
fn panels_lie_beside_each_other() {
    for (file, dashboard) in dashboards() {
        let mut taken = HashSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
            assert!(x + w <= 24, "{file}: {} is too wide", panel["title"]);
            for cell in (y..y + h).flat_map(|row| (x..x + w).map(move |column| (row, column))) {
                assert!(taken.insert(cell), "{file}: {} lies on another panel", panel["title"]);
            }
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
