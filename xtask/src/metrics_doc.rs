//! `cargo xtask metrics-doc`: writes docs/metrics.md from the agent's table of metrics.

use std::fs;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::process::{self, cargo};
use crate::{setup, workspace};

/// Options of `cargo xtask metrics-doc`.
#[derive(Args)]
pub(crate) struct Opts {}

pub(crate) fn run(_: &Opts) -> Result<()> {
    setup::toolchain()?;
    let page = process::capture(cargo().args(["run", "--quiet", "--package", "tracer", "--", "metrics-doc"]))?;
    let file = workspace::root().join("docs/metrics.md");
    fs::write(&file, page).with_context(|| format!("writing {}", file.display()))
}
