//! Files of deploy/ and dashboards/ that are made from others, so that each thing is said once.
//!
//! Owns the list of ConfigMaps in dashboards/kustomization.yaml and the operator's copy of the rules. Texts go
//! in and come out; that the result means the same as its source is checked where it is rendered.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

const KUSTOMIZATION: &str = "dashboards/kustomization.yaml";
const RULE: &str = "deploy/components/prometheus-operator/prometheusrule.yaml";

/// How deep the items of `groups:` stand in the operator's object.
const ITEM_INDENT: usize = 4;

const KUSTOMIZATION_HEAD: &str = r#"# Written by `cargo xtask deploy --write`. The dashboards as ConfigMaps for the sidecar of Grafana's chart,
# one for each: `kubectl apply --namespace monitoring --kustomize dashboards`.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
generatorOptions:
  disableNameSuffixHash: true
  labels:
    app.kubernetes.io/name: tracer
    app.kubernetes.io/instance: tracer
    grafana_dashboard: "1"
configMapGenerator:
"#;

const RULE_HEAD: &str =
    "# Written by `cargo xtask deploy --write` from dashboards/rules. An operator that selects rules by label needs
# that label here.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tracer
  namespace: tracer
  labels:
    app.kubernetes.io/name: tracer
    app.kubernetes.io/instance: tracer
spec:
";

/// Writes all of them.
pub(super) fn write() -> Result<()> {
    for (path, text) in wanted()? {
        fs::write(workspace::root().join(path), text).with_context(|| format!("writing {path}"))?;
        println!("{path}");
    }
    Ok(())
}

/// Fails if one is not what its source makes it.
pub(super) fn check() -> Result<()> {
    for (path, text) in wanted()? {
        if fs::read_to_string(workspace::root().join(path)).ok().as_deref() != Some(text.as_str()) {
            bail!("{path} is not what dashboards/ makes it: type `cargo xtask deploy --write`");
        }
    }
    Ok(())
}

fn wanted() -> Result<[(&'static str, String); 2]> {
    let dashboards = files("dashboards", "json")?;
    let rules = rule_files()?;
    let texts: Vec<_> = rules.iter().map(fs::read_to_string).collect::<Result<_, _>>()?;
    Ok([(KUSTOMIZATION, kustomization(&dashboards)), (RULE, prometheus_rule(&texts)?)])
}

/// Files with Prometheus' own form of rules.
pub(super) fn rule_files() -> Result<Vec<PathBuf>> {
    files("dashboards/rules", "yaml")
}

fn files(directory: &str, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(workspace::root().join(directory)).with_context(|| format!("listing {directory}"))?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.is_file() && file.extension().is_some_and(|found| found == extension));
    files.retain(|file| !file.ends_with(KUSTOMIZATION));
    files.sort();
    Ok(files)
}

fn kustomization(dashboards: &[PathBuf]) -> String {
    let mut text = KUSTOMIZATION_HEAD.to_owned();
    for name in dashboards.iter().filter_map(|file| Path::new(file).file_stem()?.to_str()) {
        for part in ["  - name: ", name, "\n    files:\n      - ", name, ".json\n"] {
            text.push_str(part);
        }
    }
    text
}

fn prometheus_rule(rules: &[String]) -> Result<String> {
    let mut text = RULE_HEAD.to_owned();
    text.push_str("  groups:\n");
    for rule in rules {
        text.push_str(&groups(rule)?);
    }
    Ok(text)
}

/// What stands below `groups:`, as deep as the object needs it.
fn groups(rules: &str) -> Result<String> {
    let mut lines = rules.lines().skip_while(|line| line.is_empty() || line.starts_with('#') || *line == "---");
    if lines.next() != Some("groups:") {
        bail!("a file of rules begins with `groups:`");
    }
    let lines: Vec<_> = lines.collect();
    let first = lines.iter().find(|line| line.trim_start().starts_with('-')).context("a file of rules has groups")?;
    let indent = first.len() - first.trim_start().len();
    let deeper = " ".repeat(ITEM_INDENT.checked_sub(indent).context("groups stand too deep")?);
    Ok(lines
        .into_iter()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{deeper}{line}\n") })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_fresh() {
        check().unwrap();
    }

    #[test]
    fn groups_of_two_files_stand_in_one_object() {
        let first = "# About.\ngroups:\n  - name: a\n    rules: []\n\n  - name: b\n    rules: []\n".to_owned();
        let second = "groups:\n- name: c\n  rules:\n  - expr: up == 0\n".to_owned();
        let text = prometheus_rule(&[first, second]).unwrap();
        let expected = "spec:\n  groups:\n    - name: a\n      rules: []\n\n    - name: b\n      rules: []\n    \
                        - name: c\n      rules:\n      - expr: up == 0\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn what_is_no_file_of_rules_is_refused() {
        assert!(groups("alerts:\n  - name: a\n").is_err());
        assert!(groups("groups:\n").is_err());
    }

    #[test]
    fn each_dashboard_is_an_object() {
        let text = kustomization(&["x/a.json".into(), "x/b.json".into()]);
        assert!(text.ends_with("  - name: a\n    files:\n      - a.json\n  - name: b\n    files:\n      - b.json\n"));
    }
}
