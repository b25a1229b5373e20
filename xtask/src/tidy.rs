//! `cargo xtask tidy`: the rules of the code base that no compiler knows.
//!
//! Owns the list of checks and the report: all violations are shown, not just the first. Each check
//! is a pure function over the files of the checkout; the rules and the reasons for exceptions are
//! tables at the head of the file that checks them. Only the comparison with kernels reads more, their
//! images, and is made on request.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::debian::Archive;
use crate::kernels::{self, Series};
use crate::process::{self, cargo};
use crate::setup;
use crate::workspace::Arch;
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
#[derive(Args, Default)]
pub(crate) struct Opts {
    /// Compare the prototypes above the eBPF programs with the types of kernels as well: of those that
    /// `cargo xtask vm` boots, or of the ones named here.
    #[arg(long, value_name = "VERSION=VMLINUZ", value_parser = kernel, num_args = 0..)]
    pub(crate) kernels: Option<Vec<Kernel>>,
}

/// A kernel, by upstream's version, and the image that it boots from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    version: String,
    vmlinuz: PathBuf,
}

fn kernel(text: &str) -> Result<Kernel, &'static str> {
    let (version, vmlinuz) = text.split_once('=').ok_or("not of the form 6.1.192=path/of/vmlinuz")?;
    Ok(Kernel { version: version.to_owned(), vmlinuz: vmlinuz.into() })
}

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
    probes::agree_with_the_ladders,
    probes::quote_the_kernel_prototype,
    text::opens_with_a_doc,
    text::fits_its_length,
    text::leaves_nothing_for_later,
    text::names_no_machine,
];

pub(crate) fn run(opts: &Opts) -> Result<()> {
    let sources = source::checkout()?;
    let metadata = process::capture(cargo().args(["metadata", "--locked", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("reading cargo's metadata")?;

    let mut findings: Vec<_> = CHECKS.iter().flat_map(|check| check(&sources)).collect();
    findings.extend(manifests::dependencies_stay_few(&metadata));
    findings.extend(licences::are_allowed(&metadata));
    if let Some(kernels) = &opts.kernels {
        setup::kernel_tools()?;
        let matrix = if kernels.is_empty() { matrix()? } else { Vec::new() };
        findings.extend(against_kernels(kernels.iter().chain(&matrix), &sources)?);
    }
    for Finding { path, line, message } in &findings {
        eprintln!("{path}:{line}: {message}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("one rule is broken"),
        count => bail!("rules are broken in {count} places"),
    }
}

/// The kernels that `cargo xtask vm` boots.
fn matrix() -> Result<Vec<Kernel>> {
    let archive = Archive::open(Arch::X86_64)?;
    let packages = Series::ALL.into_iter().map(|series| kernels::fetch(&archive, series, Arch::X86_64));
    packages.map(|package| package.map(|kernel| Kernel { version: kernel.version, vmlinuz: kernel.vmlinuz })).collect()
}

/// Compares the prototypes above the programs with these kernels' types.
fn against_kernels<'a>(kernels: impl Iterator<Item = &'a Kernel>, sources: &[Source]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for program in probes::left_out(sources) {
        println!("{program}: left out");
    }
    for Kernel { version, vmlinuz } in kernels {
        println!("comparing prototypes with {version}");
        findings.extend(probes::compare(version, vmlinuz, sources)?);
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_a_version_and_an_image() {
        let expected = Kernel { version: "6.1.192".to_owned(), vmlinuz: PathBuf::from("a=b/vmlinuz") };
        assert_eq!(kernel("6.1.192=a=b/vmlinuz"), Ok(expected));
        assert!(kernel("vmlinuz").is_err());
    }
}
