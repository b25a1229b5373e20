//! What a guest found, kept as one file for each kernel, architecture and rung in `target/vm/`.
//!
//! The fields of tests are those that `tracer/tests/live/lab/results.rs` writes, the fields of doctor those of
//! `tracer doctor --output json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::kernels::Package;
use crate::process::{self, command};
use crate::workspace;

/// One guest's findings.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Found {
    pub(super) series: String,
    pub(super) version: String,
    /// What was tested, as [`code_under_test`] names it.
    #[serde(default)]
    pub(super) code: String,
    pub(super) arch: String,
    pub(super) rung: String,
    /// Whether all tests ran.
    pub(super) is_whole: bool,
    pub(super) has_passed: bool,
    /// Whether the kernel stopped the first time, of itself.
    #[serde(default)]
    pub(super) booted_again: bool,
    /// Tests that passed, if at all, at the second try, each with what the kernel hid at the first.
    #[serde(default)]
    pub(super) tried_again: Vec<String>,
    pub(super) doctor: Doctor,
    /// Those that passed.
    pub(super) tests: Vec<Test>,
}

/// The agent's own account of its hooks.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Doctor {
    #[serde(default)]
    pub(super) signals: Vec<Ladder>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Ladder {
    pub(super) signal: String,
    pub(super) in_force: String,
    pub(super) cost: String,
    pub(super) refusals: Vec<Refusal>,
}

#[derive(Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Refusal {
    pub(super) hook: String,
    pub(super) stage: String,
    pub(super) cause: String,
}

/// What one test proved.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Test {
    #[serde(rename = "test")]
    pub(super) name: String,
    pub(super) closed: BTreeSet<String>,
    pub(super) counts: BTreeMap<String, u64>,
    pub(super) unknown: BTreeMap<String, u64>,
    /// Counts of an unknown kind that the kernel says it did not show, by kind.
    #[serde(default)]
    pub(super) hidden: BTreeMap<String, u64>,
    pub(super) differences: BTreeMap<String, i64>,
    pub(super) reasons: BTreeMap<String, BTreeSet<String>>,
}

/// What makes a guest: the agent, the eBPF programs and their tests, and what builds and boots them.
const PATHS: &[&str] = &[
    "tracer",
    "tracer-ebpf",
    "xtask/src/vm",
    "xtask/src/vm.rs",
    ".cargo",
    "rust-toolchain.toml",
    "Cargo.lock",
    "Cargo.toml",
];

/// The mark of code that no commit holds.
const DIRTY: &str = "-dirty";

/// The last commit that touched [`PATHS`], with [`DIRTY`] where they have changed since.
pub(super) fn code_under_test() -> Result<String> {
    let of_paths = |words: &[&str]| {
        let words = words.iter().chain(&["--"]).chain(PATHS);
        process::capture_quietly(command("git").current_dir(workspace::root()).args(words))
    };
    let commit = of_paths(&["log", "-1", "--abbrev=12", "--format=%h"])?;
    let is_dirty = !of_paths(&["status", "--porcelain"])?.trim().is_empty();
    Ok(format!("{}{}", commit.trim(), if is_dirty { DIRTY } else { "" }))
}

fn file(directory: &Path, series: &str, arch: &str, rung: &str) -> PathBuf {
    directory.join(format!("{series}-{arch}-{rung}.json"))
}

impl Found {
    /// Whether it may stand for a release: passed, with all tests, and of code that a commit holds.
    pub(super) fn is_proof(&self) -> bool {
        self.has_passed && self.is_whole && !self.code.ends_with(DIRTY)
    }

    /// Forgets what the same kind of guest found before, so that a guest that crashes leaves nothing.
    pub(super) fn forget(directory: &Path, package: &Package, rung: &str) -> Result<()> {
        let file = file(directory, package.series.name(), package.arch.name(), rung);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", file.display()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let file = file(directory, &self.series, &self.arch, &self.rung);
        fs::write(&file, serde_json::to_vec_pretty(self)?).with_context(|| format!("writing {}", file.display()))
    }

    /// All that is there.
    pub(super) fn read_all(directory: &Path) -> Result<Vec<Self>> {
        let entries = fs::read_dir(directory)
            .with_context(|| format!("listing {}; `cargo xtask vm` fills it", directory.display()))?;
        let mut all = Vec::new();
        for entry in entries {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "json") {
                let found = serde_json::from_slice(&fs::read(&file)?);
                all.push(found.with_context(|| format!("reading {}", file.display()))?);
            }
        }
        Ok(all)
    }
}
