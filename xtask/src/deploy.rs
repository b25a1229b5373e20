//! `cargo xtask deploy`: whether what is in deploy/ builds, agrees with itself, and works.
//!
//! Owns the order of the checks; each is in a file of its own. `manifests` needs no root: it renders and
//! validates. `container` runs the image as the least-privilege manifest says and lets it see real drops.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::build;
use crate::workspace::Arch;

mod compare;
mod container;
mod generate;
mod manifests;
mod operator;
mod render;
mod tools;
mod unit;

/// Options of `cargo xtask deploy`.
#[derive(Args)]
pub(crate) struct Opts {
    /// Write the files that are made from dashboards/ anew, and check nothing.
    #[arg(long)]
    write: bool,
    /// Run the image as well, as root.
    #[arg(long, conflicts_with = "write")]
    container: bool,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    if opts.write {
        return generate::write();
    }
    manifests()?;
    if opts.container { container(&build::compile(Arch::native()?)?) } else { Ok(()) }
}

/// Manifests, chart and unit, without running any.
pub(crate) fn manifests() -> Result<()> {
    manifests::check()?;
    unit::check()
}

/// The image of this agent, under the rights that the least-privilege manifest grants.
pub(crate) fn container(agent: &Path) -> Result<()> {
    container::check(agent)
}
