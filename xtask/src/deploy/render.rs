//! What kustomize and Helm make of deploy/, as values.
//!
//! Owns the list of variants: each overlay with the chart's values that mean the same. The rendered texts stay
//! under `target/deploy/rendered` to be looked at.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::tools::{Tools, directory};
use crate::process;

/// The chart, and the name and namespace that kustomize's objects have.
pub(super) const CHART: &str = "deploy/helm/tracer";
const RELEASE: &[&str] = &["template", "tracer", CHART, "--namespace", "tracer", "--kube-version", "1.35"];

/// Reads YAML and writes JSON: a list of objects for each file.
const TO_JSON: &str = "
import json, sys, yaml
read = lambda path: [found for found in yaml.safe_load_all(open(path)) if found]
print(json.dumps({path: read(path) for path in sys.argv[1:]}))
";

/// An overlay, and the values with which the chart renders the same.
pub(super) struct Variant {
    pub(super) name: &'static str,
    directory: &'static str,
    values: &'static str,
}

pub(super) const LEAST_PRIVILEGE: &str = "least-privilege";

const VARIANTS: &[Variant] = &[
    Variant { name: "base", directory: "deploy/base", values: "" },
    Variant { name: LEAST_PRIVILEGE, directory: "deploy/overlays/least-privilege", values: "leastPrivilege=true" },
    Variant {
        name: "prometheus-operator",
        directory: "deploy/overlays/prometheus-operator",
        values: "podMonitor.enabled=true,prometheusRule.enabled=true",
    },
    Variant { name: "annotations", directory: "deploy/overlays/annotations", values: "scrapeAnnotations=true" },
    Variant { name: "grafana", directory: "deploy/overlays/grafana", values: "grafanaDashboards.enabled=true" },
];

/// The objects of a variant, by either way.
pub(super) struct Rendered {
    pub(super) variant: &'static Variant,
    pub(super) kustomize: Vec<Value>,
    pub(super) helm: Vec<Value>,
}

/// Renders every variant twice.
pub(super) fn variants(tools: &Tools) -> Result<Vec<Rendered>> {
    let mut files = Vec::new();
    for variant in VARIANTS {
        files.push(kustomize(tools, variant)?);
        files.push(helm(tools, &format!("helm-{}", variant.name), &["--set", variant.values])?);
    }
    let mut objects = objects(tools, &files)?;
    let mut take = |prefix: &str, variant: &Variant| objects.remove(&file(&format!("{prefix}-{}", variant.name)));
    let rendered = VARIANTS.iter().map(|variant| {
        let (kustomize, helm) = (take("kustomize", variant), take("helm", variant));
        let both = kustomize.zip(helm).with_context(|| format!("{} was not rendered", variant.name))?;
        Ok(Rendered { variant, kustomize: both.0, helm: both.1 })
    });
    rendered.collect()
}

/// Kustomize's DaemonSet of the least-privilege variant.
pub(super) fn least_privilege(tools: &Tools) -> Result<Value> {
    let variant = VARIANTS.iter().find(|variant| variant.name == LEAST_PRIVILEGE).context("a variant of that name")?;
    let file = kustomize(tools, variant)?;
    let objects = objects(tools, &[file])?.into_values().flatten();
    objects.into_iter().find(|object| object["kind"] == "DaemonSet").context("the overlay has a DaemonSet")
}

/// Renders the chart with these arguments into a file of this name.
pub(super) fn helm(tools: &Tools, name: &str, arguments: &[&str]) -> Result<PathBuf> {
    // It says of each file that is reached by a link that it is.
    keep(name, &process::capture_quietly(tools.helm().args(RELEASE).args(arguments))?)
}

fn kustomize(tools: &Tools, variant: &Variant) -> Result<PathBuf> {
    let text = process::capture(tools.kubectl().args(["kustomize", variant.directory]))?;
    keep(&format!("kustomize-{}", variant.name), &text)
}

/// The objects in YAML files.
pub(super) fn objects(tools: &Tools, files: &[PathBuf]) -> Result<BTreeMap<PathBuf, Vec<Value>>> {
    let json = process::capture(tools.python().args(["-c", TO_JSON]).args(files))?;
    serde_json::from_str(&json).context("reading rendered objects")
}

fn file(name: &str) -> PathBuf {
    directory().join("rendered").join(format!("{name}.yaml"))
}

fn keep(name: &str, text: &str) -> Result<PathBuf> {
    let file = file(name);
    fs::create_dir_all(file.parent().unwrap_or(Path::new("")))?;
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}
