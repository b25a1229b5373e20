//! What every file of the checkout looks like, whatever it holds.

use super::Finding;
use super::source::Source;
use crate::workspace;

/// A module longer than this holds more than one idea. Unit tests at its end do not count.
const LINES_MAX: usize = 500;

/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[];

/// Words that say that something is not done. Put together, or this file would be found.
const LATER: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("for ", "now")];

/// Where people's files are on one machine alone.
const HOMES: &[&str] = &[concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/")];

/// Each Rust file begins by saying what it owns.
pub(super) fn opens_with_a_doc(sources: &[Source]) -> Vec<Finding> {
    let silent = sources.iter().filter(|source| source.is_rust() && !source.text.starts_with("//! "));
    silent.map(|source| Finding::new(&source.path, 1, "does not open with `//!`")).collect()
}

/// Each Rust file is short enough to be read at once.
pub(super) fn fits_its_length(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let lines = source.product().count();
        let is_listed = LONG.iter().any(|(path, reason)| *path == source.path && !reason.is_empty());
        if lines > LINES_MAX && !is_listed {
            let message = format!("{lines} lines without its tests, more than {LINES_MAX}: split it by idea");
            findings.push(Finding::new(&source.path, LINES_MAX, message));
        }
    }
    findings
}

/// What is not done is an issue, not a remark in a file.
pub(super) fn leaves_nothing_for_later(sources: &[Source]) -> Vec<Finding> {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    let is_word = |before: &str, after: &str| !before.ends_with(joins) && !after.starts_with(joins);
    find(sources, LATER, is_word, "is left for later: do it or open an issue")
}

/// No path that exists on one machine alone.
pub(super) fn names_no_machine(sources: &[Source]) -> Vec<Finding> {
    let root = format!("{}/", workspace::root().display());
    let paths = machine_paths(&root);
    let is_absolute = |before: &str, _: &str| !before.ends_with(|c: char| c.is_alphanumeric() || "_-.}/*".contains(c));
    find(sources, &paths, is_absolute, "exists on one machine alone")
}

/// The beginnings of such paths, the checkout's own among them. Not if that is `/src/` or the like,
/// which may well stand for something else.
fn machine_paths(root: &str) -> Vec<&str> {
    let own = (root.matches('/').count() > 2).then_some(root);
    HOMES.iter().copied().chain(own).collect()
}

/// The lines that hold one of the words where `counts` agrees with what is before and after it.
fn find(sources: &[Source], words: &[&str], counts: impl Fn(&str, &str) -> bool, problem: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| is_written_here(source)) {
        for (number, line) in source.lines() {
            let holds = |word: &&&str| {
                line.match_indices(**word).any(|(at, word)| counts(&line[..at], &line[at + word.len()..]))
            };
            let found = words.iter().filter(holds);
            findings.extend(found.map(|word| Finding::new(&source.path, number, format!("`{word}` {problem}"))));
        }
    }
    findings
}

/// Lock files and licence texts are not ours to word.
fn is_written_here(source: &Source) -> bool {
    !source.has_extension("lock") && !source.path.starts_with("LICENSE")
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    #[test]
    fn a_file_without_a_doc_is_found() {
        assert_eq!(opens_with_a_doc(&sample("a.rs", "fn main() {}\n")).len(), 1);
        assert_eq!(opens_with_a_doc(&sample("a.rs", "//! Owns a.\n")), []);
        assert_eq!(opens_with_a_doc(&sample("a.md", "text\n")), []);
    }

    #[test]
    fn a_long_module_is_found() {
        let line = "let a = 1;\n";
        assert_eq!(fits_its_length(&sample("a.rs", &line.repeat(LINES_MAX + 1))).len(), 1);
        assert_eq!(fits_its_length(&sample("a.rs", &line.repeat(LINES_MAX))), []);
        let tested = format!("{}#[cfg(test)]\n{}", line.repeat(LINES_MAX), line.repeat(LINES_MAX));
        assert_eq!(fits_its_length(&sample("a.rs", &tested)), []);
    }

    #[test]
    fn what_is_left_for_later_is_found() {
        for word in LATER {
            assert_eq!(leaves_nothing_for_later(&sample("a.md", &format!("x\n({word} y)\n")))[0].line, 2);
        }
        let other_word = format!("wait {}here", LATER[3]);
        assert_eq!(leaves_nothing_for_later(&sample("a.md", &other_word)), []);
        assert_eq!(leaves_nothing_for_later(&sample("Cargo.lock", LATER[0])), []);
    }

    #[test]
    fn a_machine_path_is_found() {
        for home in HOMES {
            assert_eq!(names_no_machine(&sample("a.rs", &format!("\"{home}a/b\""))).len(), 1);
            assert_eq!(names_no_machine(&sample("a.rs", &format!("target{home}x"))), []);
        }
    }

    #[test]
    fn the_checkout_is_a_machine_path_unless_its_name_is_common() {
        assert!(machine_paths("/builds/tracer/").contains(&"/builds/tracer/"));
        assert!(!machine_paths("/src/").contains(&"/src/"));
    }
}
