//! The licences of everything that is linked or used to build: the agent is given to others.

use super::Finding;
use super::manifests::Metadata;

/// Licences that ask for no more than a notice. `LLVM-exception` only takes demands away.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Each package that is shipped can be used under allowed licences alone.
pub(super) fn are_allowed(metadata: &Metadata) -> Vec<Finding> {
    let refused = metadata.shipped().into_iter().filter_map(|package| {
        let problem = match &package.license {
            None => "names no licence".to_owned(),
            Some(licence) if is_allowed(licence) => return None,
            Some(licence) => {
                format!("licence `{licence}` is not in the list of xtask/src/tidy/licences.rs")
            }
        };
        Some(Finding::new("Cargo.lock", 1, format!("{} {}: {problem}", package.name, package.version)))
    });
    refused.collect()
}

/// Whether one can comply with the SPDX expression by the allowed licences.
fn is_allowed(expression: &str) -> bool {
    // Some old crates write `MIT/Apache-2.0` for OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words };
    parser.any() && parser.words.is_empty()
}

/// SPDX expressions: AND binds tighter than OR, WITH tighter than both.
struct Parser<'a> {
    words: &'a [&'a str],
}

impl Parser<'_> {
    /// `all OR all …`. Both sides are read whatever the first gave.
    fn any(&mut self) -> bool {
        let mut allowed = self.all();
        while self.take("OR") {
            allowed |= self.all();
        }
        allowed
    }

    /// `one AND one …`.
    fn all(&mut self) -> bool {
        let mut allowed = self.one();
        while self.take("AND") {
            allowed &= self.one();
        }
        allowed
    }

    /// A licence, perhaps WITH an exception, or an expression in parentheses.
    fn one(&mut self) -> bool {
        if self.take("(") {
            let allowed = self.any();
            return self.take(")") && allowed;
        }
        let Some((licence, rest)) = self.words.split_first() else {
            return false;
        };
        self.words = rest;
        if !self.take("WITH") {
            return ALLOWED.contains(licence);
        }
        let Some((exception, rest)) = self.words.split_first() else {
            return false;
        };
        self.words = rest;
        ALLOWED.contains(&format!("{licence} WITH {exception}").as_str())
    }

    fn take(&mut self, word: &str) -> bool {
        match self.words.split_first() {
            Some((first, rest)) if *first == word => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_choice_is_enough() {
        for licence in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "Apache-2.0 WITH LLVM-exception OR LGPL-2.1",
            "(MIT OR GPL-2.0-only) AND (MIT OR Apache-2.0)",
            "GPL-2.0-only AND ISC OR Zlib",
        ] {
            assert!(is_allowed(licence), "{licence}");
        }
    }

    #[test]
    fn demands_that_cannot_be_avoided_are_refused() {
        for licence in [
            "",
            "GPL-3.0-only",
            "MIT AND GPL-2.0-only",
            "GPL-2.0-only WITH Classpath-exception-2.0",
            "(MIT OR ISC) AND (GPL-2.0-only OR LGPL-2.1)",
            "MIT Apache-2.0",
            "(MIT",
        ] {
            assert!(!is_allowed(licence), "{licence}");
        }
    }
}
