//! Manifests and chart: both render the same, Kubernetes' and the operator's schemas accept it, and what is
//! made from dashboards/ means what dashboards/ says.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::render::{self, CHART, Rendered};
use super::tools::{Tools, directory};
use super::{compare, generate, operator};
use crate::image::version;
use crate::process;
use crate::run::CAPABILITIES;

/// `kubectl apply` keeps a copy of the object in an annotation, and all annotations together may hold this.
const APPLIED_BYTES_MAX: usize = 262_144;

/// The oldest Kubernetes with all fields, and the newest with a schema.
const KUBERNETES: &[&str] = &["1.30", "1.37"];

/// The operator's kinds, which Kubernetes' own schemas do not have.
const OPERATOR_API: &str = "monitoring.coreos.com/v1";

/// What the chart must refuse, and the word that its refusal has to have.
const REFUSED: &[(&str, &str)] = &[
    ("leastPriviledge=true", "leastPriviledge"),
    ("image.digest=x", "digest"),
    ("port=0", "port"),
    ("listenAddress=", "listenAddress"),
    ("prometheusRule.runbookBaseUrl=https://x/", "runbookBaseUrl"),
];

pub(super) fn check() -> Result<()> {
    generate::check()?;
    let tools = Tools::install()?;
    let rendered = render::variants(&tools)?;
    for both in &rendered {
        agree(both)?;
        fits(&both.kustomize)?;
        println!("{}: {} objects, the same by kustomize and Helm", both.variant.name, both.kustomize.len());
    }
    versions_agree(&rendered)?;
    capabilities_agree(&rendered)?;
    errors_are_seen(&rendered)?;
    rules_agree(&tools, &rendered)?;
    validate(&tools, &rendered)?;
    operator::check(&tools, &of_operator(&rendered))?;
    chart(&tools)
}

fn agree(both: &Rendered) -> Result<()> {
    let differences = compare::differences(&both.kustomize, &both.helm);
    if differences.is_empty() {
        return Ok(());
    }
    bail!("{} differs:\n{}", both.variant.name, differences.join("\n"));
}

/// Each object can be applied by `kubectl apply`.
fn fits(objects: &[Value]) -> Result<()> {
    for object in objects {
        let bytes = object.to_string().len();
        if bytes > APPLIED_BYTES_MAX {
            bail!(
                "{} {} has {bytes} bytes, more than `kubectl apply` can keep ({APPLIED_BYTES_MAX})",
                object["kind"],
                object["metadata"]["name"]
            );
        }
    }
    Ok(())
}

/// The image is that of this version.
fn versions_agree(rendered: &[Rendered]) -> Result<()> {
    let expected = format!("localhost/tracer:{}", version());
    for daemonset in
        rendered.iter().flat_map(|both| both.kustomize.iter().chain(&both.helm)).filter(|object| is_daemonset(object))
    {
        let image = &daemonset["spec"]["template"]["spec"]["containers"][0]["image"];
        if *image != expected.as_str() {
            bail!("the DaemonSet has {image} and not {expected}: see deploy/base/kustomization.yaml and {CHART}");
        }
    }
    Ok(())
}

/// Manifests grant what `cargo xtask run` asks for, by one list.
fn capabilities_agree(rendered: &[Rendered]) -> Result<()> {
    let mut listed: Vec<_> = CAPABILITIES.iter().filter_map(|(_, name)| name.strip_prefix("CAP_")).collect();
    listed.sort_unstable();
    let least = rendered.iter().filter(|both| both.variant.name == render::LEAST_PRIVILEGE);
    for daemonset in least.flat_map(|both| &both.kustomize).filter(|object| is_daemonset(object)) {
        let added = &daemonset["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]["add"];
        let mut added: Vec<_> = added.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        added.sort_unstable();
        if added != listed {
            bail!("the least-privilege manifest grants {added:?} and the list in xtask/src/run.rs has {listed:?}");
        }
    }
    Ok(())
}

/// What is wrong on a node is said by the agent, where `kubectl` shows it: kubelet neither refuses the pod for a directory
/// that the agent can do without, nor ends it in its first pass.
fn errors_are_seen(rendered: &[Rendered]) -> Result<()> {
    let objects = rendered.iter().flat_map(|both| both.kustomize.iter().chain(&both.helm));
    for daemonset in objects.filter(|object| is_daemonset(object)) {
        let pod = &daemonset["spec"]["template"]["spec"];
        let agent = &pod["containers"][0];
        if agent["terminationMessagePolicy"] != "FallbackToLogsOnError" || agent["startupProbe"].is_null() {
            bail!("the agent has no startupProbe, or its last words are not its terminationMessage: {agent}");
        }
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            let host = &volume["hostPath"];
            // The hierarchy is on every node.
            if host["type"] == "Directory" && host["path"] != "/sys/fs/cgroup" {
                bail!("kubelet refuses the pod where {} is missing", host["path"]);
            }
        }
    }
    Ok(())
}

fn is_daemonset(object: &Value) -> bool {
    object["kind"] == "DaemonSet"
}

/// The operator's rules are those of dashboards/rules, all of them.
fn rules_agree(tools: &Tools, rendered: &[Rendered]) -> Result<()> {
    let files = generate::rule_files()?;
    let read = render::objects(tools, &files)?;
    let groups = |object: &Value, at: &str| object.pointer(at).and_then(Value::as_array).cloned().unwrap_or_default();
    let sources: Vec<_> = files.iter().filter_map(|file| read.get(file)).flatten().collect();
    let expected: Vec<_> = sources.iter().flat_map(|source| groups(source, "/groups")).collect();
    let rule = rendered.iter().flat_map(|both| &both.kustomize).find(|object| object["kind"] == "PrometheusRule");
    let found = groups(rule.context("no overlay has a PrometheusRule")?, "/spec/groups");
    if expected.is_empty() || found != expected {
        bail!("the PrometheusRule has {} groups which are not the {} of dashboards/rules", found.len(), expected.len());
    }
    println!("rules: {} groups as in dashboards/rules", found.len());
    Ok(())
}

/// Kubernetes' own schemas, without a property that they do not have.
fn validate(tools: &Tools, rendered: &[Rendered]) -> Result<()> {
    let mut files = Vec::new();
    for both in rendered {
        let mut text = String::new();
        for object in both.kustomize.iter().filter(|object| object["apiVersion"] != OPERATOR_API) {
            // JSON is YAML.
            writeln!(text, "---\n{object}")?;
        }
        let file = directory().join("rendered").join(format!("{}.json", both.variant.name));
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        files.push(file);
    }
    for version in KUBERNETES {
        let mut validate = tools.kubernetes_validate();
        validate.args(["--strict", "--quiet", "--kubernetes-version", version]).args(&files);
        process::run(&mut validate)?;
        println!("kubernetes-validate --strict: {} variants are valid for {version}", files.len());
    }
    Ok(())
}

fn of_operator(rendered: &[Rendered]) -> Vec<&Value> {
    let objects = rendered.iter().flat_map(|both| &both.kustomize);
    objects.filter(|object| object["apiVersion"] == OPERATOR_API).collect()
}

/// The chart by itself: Helm's own opinion, what it must refuse, and that it is whole when packed.
fn chart(tools: &Tools) -> Result<()> {
    process::capture_quietly(tools.helm().args(["lint", "--strict", "--quiet", CHART]))?;
    for (value, word) in REFUSED {
        match render::helm(tools, "refused", &["--set", value]) {
            Ok(_) => bail!("the chart takes {value}"),
            Err(error) if !format!("{error:#}").contains(word) => {
                bail!("the chart refuses {value} for another reason: {error:#}")
            }
            Err(_) => {}
        }
    }
    runbooks(tools)?;
    packed(tools)
}

/// Every alert's runbook is below the given address.
fn runbooks(tools: &Tools) -> Result<()> {
    const BASE: &str = "https://runbooks.example/tracer";
    let values = format!("prometheusRule.enabled=true,prometheusRule.runbookBaseUrl={BASE}");
    let file = render::helm(tools, "helm-runbooks", &["--set", &values])?;
    let objects = render::objects(tools, &[file])?;
    let rule = objects.values().flatten().find(|object| object["kind"] == "PrometheusRule");
    let groups = rule.context("the chart has a PrometheusRule")?["spec"]["groups"].as_array();
    let rules = groups.into_iter().flatten().filter_map(|group| group["rules"].as_array()).flatten();
    let mut alerts = 0;
    for alert in rules.filter(|rule| rule["alert"].is_string()) {
        let runbook = alert["annotations"]["runbook_url"].as_str().unwrap_or_default();
        if runbook != format!("{BASE}/docs/runbooks/{}.md", alert["alert"].as_str().unwrap_or_default()) {
            bail!("the runbook of {} is at {runbook:?}", alert["alert"]);
        }
        alerts += 1;
    }
    if alerts == 0 {
        bail!("the chart's rules have no alert");
    }
    println!("chart: runbooks of {alerts} alerts below the given address");
    Ok(())
}

/// A packed chart renders what the directory does: the links to dashboards/ were followed.
fn packed(tools: &Tools) -> Result<()> {
    const VALUES: &str = "grafanaDashboards.enabled=true,prometheusRule.enabled=true";
    process::capture_quietly(tools.helm().args(["package", CHART, "--destination"]).arg(directory()))?;
    let archive = directory().join(format!("tracer-{}.tgz", version()));
    let from_directory = render::helm(tools, "helm-directory", &["--set", VALUES])?;
    let mut template = tools.helm();
    template.args(["template", "tracer"]).arg(&archive).args([
        "--namespace",
        "tracer",
        "--kube-version",
        "1.35",
        "--set",
        VALUES,
    ]);
    if process::capture_quietly(&mut template)? != fs::read_to_string(from_directory)? {
        bail!("{} renders something else than {CHART}", archive.display());
    }
    println!("chart: packed, it renders the same");
    Ok(())
}
