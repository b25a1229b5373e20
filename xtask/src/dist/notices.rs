//! The licences of the crates that are linked into the agent, which ask to go where their code goes.
//!
//! Comes from cargo's metadata and from the licence files in the crates' sources. Which licences are allowed is
//! `cargo xtask tidy`'s business.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::process::{self, cargo};
use crate::workspace::Arch;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    /// Absent for what is linked.
    kind: Option<String>,
}

/// The notices: a list of crates, then each text once, with the crates that it is for.
pub(super) fn text(arch: Arch) -> Result<String> {
    let metadata = process::capture(
        cargo().args(["metadata", "--locked", "--format-version", "1", "--filter-platform"]).arg(arch.static_target()),
    )?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("reading cargo's metadata")?;
    let mut crates = linked(&metadata);
    crates.sort_by_key(|package| (&package.name, &package.version));
    let mut list = String::new();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in crates {
        let name = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref().unwrap_or("see its text");
        writeln!(list, "  {name}: {licence}")?;
        let directory = package.manifest_path.parent().context("a manifest has a directory")?;
        for text in licence_texts(directory)? {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    written(&list, &texts)
}

fn written(list: &str, texts: &BTreeMap<String, Vec<String>>) -> Result<String> {
    let mut out = format!("The agent has these crates linked in, each under its own licence:\n\n{list}");
    // By the crates' names: the order of texts says nothing to anybody.
    let mut texts: Vec<_> = texts.iter().map(|(text, names)| (names.join(", "), text)).collect();
    texts.sort();
    for (names, text) in texts {
        let rule = "-".repeat(78);
        write!(out, "\n{rule}\n{names}\n{rule}\n\n{}\n", text.trim_end())?;
    }
    Ok(out)
}

/// The packages of others that the agent reaches through dependencies that are linked.
fn linked(metadata: &Metadata) -> Vec<&Package> {
    let edges: HashMap<_, _> = metadata.resolve.nodes.iter().map(|node| (&node.id, &node.deps)).collect();
    let is_agent = |package: &&Package| package.name == "tracer" && package.source.is_none();
    let mut open: Vec<&String> = metadata.packages.iter().filter(is_agent).map(|package| &package.id).collect();
    let mut reached = HashSet::new();
    while let Some(id) = open.pop() {
        if reached.insert(id) {
            let deps = edges.get(id).into_iter().copied().flatten();
            let links = deps.filter(|edge| edge.dep_kinds.iter().any(|edge| edge.kind.is_none()));
            open.extend(links.map(|edge| &edge.pkg));
        }
    }
    metadata.packages.iter().filter(|package| package.source.is_some() && reached.contains(&package.id)).collect()
}

/// The texts of the files beside a manifest that are called licence, copying or notice.
fn licence_texts(directory: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let is_licence =
            ["license", "licence", "copying", "notice", "unlicense"].iter().any(|word| name.starts_with(word));
        if is_licence && path.is_file() {
            texts.push(String::from_utf8_lossy(&fs::read(&path)?).replace('\r', ""));
        }
    }
    texts.sort();
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_noticed_and_what_builds_or_tests_is_not() {
        let text = text(Arch::X86_64).unwrap();
        for name in ["aya ", "clap ", "tokio ", "zerocopy "] {
            assert!(text.contains(&format!("\n  {name}")), "{name}");
        }
        for name in ["aya-build ", "proptest ", "btf-rs ", "cpio "] {
            assert!(!text.contains(&format!("\n  {name}")), "{name}");
        }
        assert!(text.contains("Permission is hereby granted"));
    }
}
