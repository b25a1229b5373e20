//! `cargo xtask build`: the static agent, at target/release/tracer, or for another architecture in
//! the directory of its target.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Deserialize;

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

/// Sets up what is missing, builds the static agent of an architecture and gives back where it is. The eBPF programs
/// follow the target.
pub(crate) fn compile(arch: Arch) -> Result<PathBuf> {
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

/// What a test guest is given, and what the live tests of this machine take from it.
pub(crate) struct GuestParts {
    /// Its first process.
    pub(crate) init: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) live_tests: PathBuf,
}

/// Builds what a test guest of the architecture is given: static, and as it is released.
pub(crate) fn guest_parts(arch: Arch) -> Result<GuestParts> {
    setup::toolchain()?;
    setup::static_target(arch)?;
    let tests = artifacts(arch, &["test", "--no-run", "--test", "live"])?;
    // Among the tests it would be built as one.
    let init = artifacts(arch, &["build", "--example", "guest_init"])?;
    Ok(GuestParts {
        init: executable(&init, "guest_init")?,
        agent: executable(&tests, "tracer")?,
        live_tests: executable(&tests, "live")?,
    })
}

/// Builds these parts of the agent's package and gives cargo's messages on what it made.
fn artifacts(arch: Arch, parts: &[&str]) -> Result<String> {
    process::capture(
        cargo()
            .args(parts)
            .args(["--locked", "--release", "--package", "tracer", "--target", arch.static_target()])
            .args(["--message-format", "json-render-diagnostics"]),
    )
}

fn executable(messages: &str, name: &str) -> Result<PathBuf> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    let mut named = artifacts.filter(|artifact| artifact.target.as_ref().is_some_and(|target| target.name == name));
    named.find_map(|artifact| artifact.executable).with_context(|| format!("cargo built no `{name}`"))
}

/// The part of cargo's messages that says where an executable is.
#[derive(Deserialize)]
struct Artifact {
    target: Option<ArtifactTarget>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct ArtifactTarget {
    name: String,
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
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
