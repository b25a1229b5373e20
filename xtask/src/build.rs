//! `cargo xtask build`: the static agent, at target/release/tracer.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::process::{self, cargo};
use crate::{setup, workspace};

/// Options of `cargo xtask build`.
#[derive(Args)]
pub(crate) struct Opts {}

pub(crate) fn run(_: &Opts) -> Result<()> {
    let agent = agent()?;
    let bytes = fs::metadata(&agent)?.len();
    println!("{}: {:.1} MB", agent.display(), megabytes(bytes));
    Ok(())
}

/// Sets up what is missing, builds the agent and gives back where it is.
pub(crate) fn agent() -> Result<PathBuf> {
    setup::toolchain()?;
    let target = workspace::static_target()?;
    let target_dir = workspace::root().join("target");
    process::run(
        cargo()
            .args(["build", "--locked", "--release", "--package", "tracer", "--target", target])
            .arg("--target-dir")
            .arg(&target_dir),
    )?;
    let agent = target_dir.join("release/tracer");
    install(&target_dir.join(target).join("release/tracer"), &agent)
        .with_context(|| format!("copying the agent to {}", agent.display()))?;
    Ok(agent)
}

/// Puts a copy in place in one step: an agent that is running keeps its own file.
fn install(built: &Path, agent: &Path) -> Result<()> {
    let directory = agent.parent().context("a file has a directory")?;
    fs::create_dir_all(directory)?;
    let new = agent.with_extension("new");
    fs::copy(built, &new)?;
    Ok(fs::rename(&new, agent)?)
}

#[expect(clippy::cast_precision_loss, reason = "a file's size shown with one decimal")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
