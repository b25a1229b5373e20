//! The files that tidy reads: those that git tracks or would track.

use std::fs;

use anyhow::{Context as _, Result};

use crate::process::{self, command};
use crate::workspace;

/// A file of the checkout.
pub(super) struct Source {
    /// Relative to the root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl Source {
    pub(super) fn is_rust(&self) -> bool {
        self.has_extension("rs")
    }

    pub(super) fn has_extension(&self, extension: &str) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, found)| found == extension)
    }

    /// The lines with their numbers.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// The lines of code without comments, up to the unit tests at the end of the file. A file
    /// `tests.rs` is unit tests as a whole.
    pub(super) fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_tests = self.path.ends_with("/tests.rs");
        self.lines()
            .take_while(move |(_, line)| !is_tests && *line != "#[cfg(test)]")
            .map(|(number, line)| (number, line.split_once("//").map_or(line, |(code, _)| code)))
    }
}

/// Reads the checkout. Files that are not text are left out.
pub(super) fn checkout() -> Result<Vec<Source>> {
    let listed =
        process::capture(command("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
    let mut sources = Vec::new();
    for path in listed.split_terminator('\0') {
        let file = workspace::root().join(path);
        // A file that was deleted is listed until the deletion is staged.
        if !file.is_file() {
            continue;
        }
        let bytes = fs::read(&file).with_context(|| format!("reading {path}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(sources)
}

#[cfg(test)]
pub(super) fn sample(path: &str, text: &str) -> Vec<Source> {
    vec![Source { path: path.to_owned(), text: text.to_owned() }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_ends_at_the_tests_and_has_no_comments() {
        let sources = sample("a.rs", "use a; // why\n#[cfg(test)]\nmod tests {}\n");
        assert_eq!(sources[0].product().collect::<Vec<_>>(), [(1, "use a; ")]);
    }

    #[test]
    fn a_file_of_unit_tests_is_no_product() {
        assert_eq!(sample("a/tests.rs", "use a;\n")[0].product().count(), 0);
        assert_eq!(sample("a/attests.rs", "use a;\n")[0].product().count(), 1);
    }

    #[test]
    fn the_checkout_holds_this_file() {
        let sources = checkout().unwrap();
        assert!(sources.iter().any(|source| source.path == "xtask/src/tidy/source.rs"));
    }
}
