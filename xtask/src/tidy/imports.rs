//! The paths that a Rust file imports, read from its text.

use super::source::Source;

/// Every path that a `use` of the file names, with the line where the `use` begins: groups are
/// taken apart, `use a::{b, c::d};` gives `a::b` and `a::c::d`.
pub(super) fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = source.product();
    while let Some((number, line)) = lines.next() {
        let Some(start) = tree_of_use(line) else {
            continue;
        };
        let mut tree = start.to_owned();
        while !tree.contains(';') {
            let Some((_, more)) = lines.next() else { break };
            tree.push_str(more.trim());
        }
        let tree = tree.split(';').next().unwrap_or_default();
        flatten("", tree, &mut |path| found.push((number, path)));
    }
    found
}

/// What follows `use` in a line that begins with it, whatever its visibility.
fn tree_of_use(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1.trim_start(),
        Some(rest) => rest.trim_start(),
        None => line,
    };
    line.strip_prefix("use ")
}

fn flatten(prefix: &str, tree: &str, found: &mut impl FnMut(String)) {
    let tree = tree.trim();
    if let Some((head, group)) = tree.split_once('{') {
        let group = group.trim_end().strip_suffix('}').unwrap_or(group);
        for branch in branches(group) {
            flatten(&format!("{prefix}{}", head.trim()), branch, found);
        }
    } else if !tree.is_empty() {
        let path = tree.split(" as ").next().unwrap_or(tree).trim();
        found(format!("{prefix}{path}"));
    }
}

/// The parts of a group, split at the commas that are not inside an inner group.
fn branches(group: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    group
        .split(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        imports(&sample("a.rs", text)[0]).into_iter().map(|(_, path)| path).collect()
    }

    #[test]
    fn takes_groups_apart() {
        assert_eq!(
            paths("use a::{self, b, c::{d, e as f},\n    g,\n};\npub(crate) use h::i;\n"),
            ["a::self", "a::b", "a::c::d", "a::c::e", "a::g", "h::i"]
        );
    }

    #[test]
    fn code_is_not_an_import() {
        assert!(paths("let user = used::path();\n// use a::b;\n").is_empty());
    }
}
