//! Whether the Prometheus operator would take its objects: by its schemas, and by its types, which know every
//! field. The schemas alone pass over a field that is misspelt.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::tools::Tools;
use crate::process;

/// Kinds that are checked; they name both the type and its module.
const KINDS: &[&str] = &["PodMonitor", "PrometheusRule"];

pub(super) fn check(tools: &Tools, objects: &[&Value]) -> Result<()> {
    for kind in KINDS {
        if !objects.iter().any(|object| object["kind"] == *kind) {
            bail!("no overlay has a {kind}");
        }
    }
    let directory = tools.node_directory();
    let program = directory.join("objects.ts");
    fs::write(&program, source(objects)?).with_context(|| format!("writing {}", program.display()))?;
    types(directory)?;
    process::run(process::command("node").arg("objects.js").current_dir(directory))?;
    println!("prometheus-operator: {} objects are valid", objects.len());
    Ok(())
}

/// Compiles it, which compares each literal with its type.
fn types(directory: &Path) -> Result<()> {
    let mut compiler = process::command("node");
    compiler.args(["node_modules/typescript/bin/tsc", "--strict", "--skipLibCheck", "--target", "es2022"]);
    compiler.args(["--module", "nodenext", "objects.ts"]).current_dir(directory);
    process::run(&mut compiler)
}

/// A program that fails unless each object is valid.
fn source(objects: &[&Value]) -> Result<String> {
    let mut text = String::new();
    for kind in KINDS {
        writeln!(
            text,
            "import {{ {kind}, type I{kind} }} from \"@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/{kind}\";"
        )?;
    }
    for (number, object) in objects.iter().enumerate() {
        let kind = object["kind"].as_str().context("an object has a kind")?;
        writeln!(text, "const object{number}: I{kind} = {object};\nnew {kind}(object{number}).validate();")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_object_is_a_literal_of_its_type() {
        let object = json!({"kind": "PodMonitor"});
        let text = source(&[&object]).unwrap();
        assert!(
            text.contains(
                "const object0: IPodMonitor = {\"kind\":\"PodMonitor\"};\nnew PodMonitor(object0).validate();"
            ),
            "{text}"
        );
    }
}
