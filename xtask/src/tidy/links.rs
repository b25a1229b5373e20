//! The links between the documents: each leads to a file of the checkout.

use super::Finding;
use super::source::Source;
use crate::workspace;

/// Relative links of Markdown files lead to files or directories that exist.
pub(super) fn files_exist(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.has_extension("md")) {
        for (number, target) in links(source) {
            let file = target.split('#').next().unwrap_or_default();
            let is_remote = target.contains("://") || target.starts_with("mailto:");
            if file.is_empty() || is_remote {
                continue;
            }
            let directory = source.path.rsplit_once('/').map_or("", |(directory, _)| directory);
            if !workspace::root().join(directory).join(file).exists() {
                findings.push(Finding::new(&source.path, number, format!("`{target}` leads nowhere")));
            }
        }
    }
    findings
}

/// The targets of `[text](target)` outside code blocks, with their lines.
fn links(source: &Source) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in source.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        found.extend(targets.map(|target| (number, target)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    #[test]
    fn a_link_to_nowhere_is_found() {
        let text = "[a](Cargo.toml) and [b](gone.md)\n[c](xtask/src)\n[d](also-gone.md#part)\n";
        let found = files_exist(&sample("README.md", text));
        assert_eq!(found.iter().map(|f| f.line).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn links_are_relative_to_their_file() {
        assert_eq!(files_exist(&sample("xtask/x.md", "[a](src/main.rs) [b](../Cargo.toml \"title\")\n")), []);
        assert_eq!(files_exist(&sample("xtask/x.md", "[a](xtask/src/main.rs)\n")).len(), 1);
    }

    #[test]
    fn addresses_anchors_and_code_are_not_files() {
        assert_eq!(files_exist(&sample("a.md", "[a](https://x.org/y) [b](#part)\n```\n[c](gone)\n```\n")), []);
    }
}
