//! `cargo xtask tidy`: the rules of the code base that no compiler knows.
//!
//! Owns the list of checks and the report: all violations are shown, not just the first. Each check
//! is a pure function over the files of the checkout; the rules and the reasons for exceptions are
//! tables at the head of the file that checks them.

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::process::{self, cargo};
use manifests::Metadata;
use source::Source;

mod imports;
mod layers;
mod licences;
mod links;
mod manifests;
mod probes;
mod source;
mod text;

/// Options of `cargo xtask tidy`.
#[derive(Args)]
pub(crate) struct Opts {}

/// One violation, at a line that an editor can jump to.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

/// A rule over the whole checkout: gives back where it is broken.
type Check = fn(&[Source]) -> Vec<Finding>;

const CHECKS: &[Check] = &[
    layers::crates_stay_home,
    layers::pure_modules_do_no_io,
    layers::stages_do_not_import_each_other,
    links::files_exist,
    probes::quote_the_kernel_prototype,
    text::opens_with_a_doc,
    text::fits_its_length,
    text::leaves_nothing_for_later,
    text::names_no_machine,
];

pub(crate) fn run(_: &Opts) -> Result<()> {
    let sources = source::checkout()?;
    let metadata = process::capture(cargo().args(["metadata", "--locked", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("reading cargo's metadata")?;

    let mut findings: Vec<_> = CHECKS.iter().flat_map(|check| check(&sources)).collect();
    findings.extend(manifests::dependencies_stay_few(&metadata));
    findings.extend(licences::are_allowed(&metadata));
    for Finding { path, line, message } in &findings {
        eprintln!("{path}:{line}: {message}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("one rule is broken"),
        count => bail!("rules are broken in {count} places"),
    }
}
