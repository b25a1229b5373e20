//! `cargo xtask image`: the container image, made of the static agent and the licences.
//!
//! Owns the image's context, its name, and the storage under `target/containers` that it is built into, so that
//! the system's images are left alone. What is in the image is said by deploy/image/Containerfile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::process::{self, command};
use crate::workspace::{self, Arch};
use crate::{build, setup};

/// The licences of the agent and of the programs in it.
const LICENCES: &[&str] = &["LICENSE-APACHE", "LICENSE-GPL2", "LICENSE-MIT"];

/// Options of `cargo xtask image`.
#[derive(Args)]
pub(crate) struct Opts {
    /// The architecture of the nodes [default: this machine's]
    #[arg(long, value_name = "ARCHITECTURE")]
    arch: Option<Arch>,
    /// Write the image into an OCI archive under target/, for `podman load`, `ctr images import` or skopeo.
    #[arg(long)]
    save: bool,
    /// Push the image under this name, such as registry.example/tracer:0.1.0; log in by `buildah login`.
    #[arg(long, value_name = "NAME:TAG")]
    push: Option<String>,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    let arch = opts.arch.map_or_else(Arch::native, Ok)?;
    setup::image_tools()?;
    let image = build(arch, &build::compile(arch)?)?;
    println!("{image}: in {}", storage().display());
    if opts.save {
        let archive = workspace::root().join("target").join(archive_name(arch));
        if archive.exists() {
            // buildah refuses to add to one.
            fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))?;
        }
        push(&image, &format!("oci-archive:{}:{image}", archive.display()))?;
        println!("{}", archive.display());
    }
    if let Some(name) = &opts.push {
        push(&image, &format!("docker://{name}"))?;
    }
    Ok(())
}

/// Builds the image of an agent for the architecture. Gives the image's name.
pub(crate) fn build(arch: Arch, agent: &Path) -> Result<String> {
    let context = workspace::root().join("target/image").join(arch.debian());
    fill(&context, agent).with_context(|| format!("filling {}", context.display()))?;
    let image = name(arch);
    let mut build = stored("buildah");
    build.args(["build", "--isolation", "chroot", "--format", "oci", "--arch", arch.debian()]);
    build.args(["--label", &format!("org.opencontainers.image.version={}", version())]);
    // Outside a checkout, as in an unpacked archive of sources, there is nothing to say.
    if let Some(commit) = process::probe(command("git").args(["rev-parse", "HEAD"])) {
        build.args(["--label", &format!("org.opencontainers.image.revision={commit}")]);
    }
    if let Some(seconds) = process::probe(command("git").args(["log", "-1", "--format=%ct"])) {
        // The same sources make the same image.
        build.args(["--timestamp", &seconds]);
    }
    build.args(["--quiet", "--tag", &image, "--file", "deploy/image/Containerfile"]).arg(&context);
    // It prints the image's number.
    process::capture_quietly(&mut build)?;
    Ok(image)
}

/// The command with the storage that images are built into. Copies of whole layers work on every file system.
pub(crate) fn stored(program: &str) -> Command {
    let mut command = command(program);
    command.arg("--root").arg(storage().join("storage")).arg("--runroot").arg(storage().join("run"));
    command.args(["--storage-driver", "vfs"]);
    command
}

fn storage() -> PathBuf {
    workspace::root().join("target/containers")
}

fn push(image: &str, destination: &str) -> Result<()> {
    process::run(stored("buildah").args(["push", "--quiet", image, destination]))
}

fn fill(context: &Path, agent: &Path) -> Result<()> {
    let licences = context.join("licenses");
    fs::create_dir_all(&licences)?;
    fs::copy(agent, context.join("tracer"))?;
    for licence in LICENCES {
        fs::copy(workspace::root().join(licence), licences.join(licence))?;
    }
    Ok(())
}

/// The version of the whole workspace.
pub(crate) const fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// `tracer:0.1.0` for this machine; foreign ones say so.
fn name(arch: Arch) -> String {
    let suffix = match Arch::native() {
        Ok(native) if native == arch => String::new(),
        _ => format!("-{}", arch.debian()),
    };
    format!("localhost/tracer:{}{suffix}", version())
}

fn archive_name(arch: Arch) -> String {
    format!("tracer-{}-{}.oci.tar", version(), arch.debian())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_there() {
        assert!(LICENCES.iter().all(|licence| workspace::root().join(licence).is_file()));
    }

    #[test]
    fn only_foreign_images_name_their_architecture() {
        let native = Arch::native().unwrap();
        let foreign = if native == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
        assert_eq!(name(native), format!("localhost/tracer:{}", version()));
        assert_eq!(name(foreign), format!("localhost/tracer:{}-{}", version(), foreign.debian()));
    }
}
