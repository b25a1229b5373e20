//! `cargo xtask build`: the static agent, at target/release/tracer, or for another architecture in
//! the directory of its target.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::process::{self, cargo};
use crate::setup;
use crate::workspace::{self, Arch};

/// Options of `cargo xtask build`.
#[derive(Args)]
pub(crate) struct Opts {
    /// The architecture that the agent is to run on [default: this machine's]
    #[arg(long, value_name = "ARCHITECTURE")]
    arch: Option<Arch>,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    let native = Arch::native()?;
    let agent = match opts.arch.filter(|&arch| arch != native) {
        Some(foreign) => compile(foreign)?,
        None => agent()?,
    };
    let bytes = fs::metadata(&agent)?.len();
    println!("{}: {:.1} MB", agent.display(), megabytes(bytes));
    Ok(())
}

/// Sets up what is missing, builds this machine's agent and gives back where it is.
pub(crate) fn agent() -> Result<PathBuf> {
    let built = compile(Arch::native()?)?;
    let agent = target_dir().join("release/tracer");
    install(&built, &agent).with_context(|| format!("copying the agent to {}", agent.display()))?;
    Ok(agent)
}

/// Sets up what is missing and compiles the agent. The eBPF programs follow the target.
fn compile(arch: Arch) -> Result<PathBuf> {
    setup::toolchain()?;
    setup::static_target(arch)?;
    let target = arch.static_target();
    process::run(
        cargo()
            .args(["build", "--locked", "--release", "--package", "tracer", "--target", target])
            .arg("--target-dir")
            .arg(target_dir()),
    )?;
    Ok(target_dir().join(target).join("release/tracer"))
}

fn target_dir() -> PathBuf {
    workspace::root().join("target")
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
