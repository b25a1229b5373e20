//! What cargo knows of the packages, and the rules on who depends on what.

use serde::Deserialize;

use super::Finding;

/// A package of the lock file, as `cargo metadata` describes it.
#[derive(Deserialize)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) license: Option<String>,
    /// Absent for the members of the workspace.
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// The platforms that it is for; absent when it is for all.
    target: Option<String>,
}

/// The packages in the output of `cargo metadata`.
pub(super) fn parse(metadata: &str) -> serde_json::Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    Ok(serde_json::from_str::<Metadata>(metadata)?.packages)
}

/// The wire format depends on zerocopy alone, since it is compiled for the kernel too; xtask
/// depends on neither crate, since it builds what they need.
pub(super) fn dependencies_stay_few(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages.iter().filter(|package| package.source.is_none()) {
        let manifest = format!("{}/Cargo.toml", package.name);
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let message = match package.name.as_str() {
                "tracer-ebpf" if dependency.target.is_none() && name != "zerocopy" => {
                    "the wire format depends on zerocopy alone"
                }
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

    fn findings(name: &str, dependencies: &str) -> usize {
        let metadata = format!(
            r#"{{"packages":[{{"name":"{name}","version":"1.0.0","license":null,"source":null,"dependencies":{dependencies}}}]}}"#
        );
        dependencies_stay_few(&parse(&metadata).unwrap()).len()
    }

    #[test]
    fn a_new_dependency_of_the_wire_format_is_found() {
        assert_eq!(
            findings("tracer-ebpf", r#"[{"name":"libc","target":null}]"#),
            1
        );
        assert_eq!(
            findings("tracer-ebpf", r#"[{"name":"zerocopy","target":null}]"#),
            0
        );
        assert_eq!(
            findings(
                "tracer-ebpf",
                r#"[{"name":"aya-ebpf","target":"cfg(target_arch = \"bpf\")"}]"#
            ),
            0
        );
    }

    #[test]
    fn xtask_on_the_agent_is_found() {
        assert_eq!(
            findings(
                "xtask",
                r#"[{"name":"tracer","target":null},{"name":"anyhow","target":null}]"#
            ),
            1
        );
    }
}
