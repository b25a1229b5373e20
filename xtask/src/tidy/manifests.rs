//! What cargo knows of the packages, and the rules on who depends on what.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::Finding;

/// The output of `cargo metadata`.
#[derive(Deserialize)]
pub(super) struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

/// A package of the lock file.
#[derive(Deserialize)]
pub(super) struct Package {
    id: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) license: Option<String>,
    dependencies: Vec<Dependency>,
}

/// A dependency as the manifest names it.
#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// The platforms that it is for; absent when it is for all.
    target: Option<String>,
    kind: Option<Kind>,
}

/// What a dependency is for; absent when it is for the package itself.
#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Build,
    Dev,
}

/// Which package each dependency became.
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
    kind: Option<Kind>,
}

impl Metadata {
    /// The packages that are linked into what is given to others or that build it: all but those
    /// that only the tests use.
    pub(super) fn shipped(&self) -> Vec<&Package> {
        let edges: HashMap<_, _> = self.resolve.nodes.iter().map(|node| (&node.id, &node.deps)).collect();
        let mut reached = HashSet::new();
        let mut open: Vec<_> = self.workspace_members.iter().collect();
        while let Some(id) = open.pop() {
            if reached.insert(id) {
                let deps = edges.get(id).into_iter().copied().flatten();
                open.extend(deps.filter(|edge| edge.is_shipped()).map(|edge| &edge.pkg));
            }
        }
        self.packages.iter().filter(|package| reached.contains(&package.id)).collect()
    }

    fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }
}

impl Edge {
    fn is_shipped(&self) -> bool {
        self.dep_kinds.iter().any(|edge| edge.kind != Some(Kind::Dev))
    }
}

/// The wire format depends on zerocopy alone, since it is compiled for the kernel too; xtask
/// depends on neither crate, since it builds what they need.
pub(super) fn dependencies_stay_few(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in metadata.members() {
        let manifest = format!("{}/Cargo.toml", package.name);
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let is_for_all = dependency.target.is_none() && dependency.kind.is_none();
            let message = match package.name.as_str() {
                "tracer-ebpf" if is_for_all && name != "zerocopy" => "the wire format depends on zerocopy alone",
                "xtask" if name.starts_with("tracer") => "xtask depends on neither crate",
                _ => continue,
            };
            findings.push(Finding::new(&manifest, 1, format!("`{name}`: {message}")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn findings(name: &str, dependency: &str, target: Option<&str>) -> usize {
        let metadata = json!({
            "workspace_members": [name],
            "resolve": {"nodes": []},
            "packages": [{
                "id": name, "name": name, "version": "1.0.0", "license": null,
                "dependencies": [{"name": dependency, "target": target, "kind": null}],
            }],
        });
        dependencies_stay_few(&serde_json::from_value(metadata).unwrap()).len()
    }

    #[test]
    fn a_new_dependency_of_the_wire_format_is_found() {
        assert_eq!(findings("tracer-ebpf", "libc", None), 1);
        assert_eq!(findings("tracer-ebpf", "zerocopy", None), 0);
        assert_eq!(findings("tracer-ebpf", "aya-ebpf", Some("cfg(target_arch = \"bpf\")")), 0);
    }

    #[test]
    fn xtask_on_the_agent_is_found() {
        assert_eq!(findings("xtask", "tracer-ebpf", None), 1);
        assert_eq!(findings("xtask", "anyhow", None), 0);
    }

    #[test]
    fn what_only_the_tests_use_is_not_shipped() {
        let package = |id: &str| json!({"id": id, "name": id, "version": "1", "license": null, "dependencies": []});
        let edge = |id: &str, kind: Option<&str>| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let packages = ["a", "built", "linked", "tested", "under_test"].map(package);
        let metadata: Metadata = serde_json::from_value(json!({
            "workspace_members": ["a"],
            "packages": packages,
            "resolve": {"nodes": [
                {"id": "a", "deps": [edge("linked", None), edge("tested", Some("dev"))]},
                {"id": "linked", "deps": [edge("built", Some("build"))]},
                {"id": "tested", "deps": [edge("under_test", None)]},
            ]},
        }))
        .unwrap();
        let shipped: Vec<_> = metadata.shipped().into_iter().map(|package| &package.name).collect();
        assert_eq!(shipped, ["a", "built", "linked"]);
    }
}
