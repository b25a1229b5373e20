//! `cargo xtask dist`: what is given to others, at target/dist/: a tarball that unpacks into a prefix such as
//! /usr/local, a Debian package, and their checksums.
//!
//! Owns the order of things and the names of the files. The same commit gives the same bytes on the same machine:
//! times are those of SOURCE_DATE_EPOCH or of the commit, owners are root, names are sorted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::process::{self, command};
use crate::workspace::{self, Arch};
use crate::{build, setup};

mod check;
mod deb;
mod notices;
mod prefix;
mod scripts;
mod shells;
mod tree;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const SUMS: &str = "SHA256SUMS";

/// Options of `cargo xtask dist`.
#[derive(Args)]
pub(crate) struct Opts {
    /// The architecture that the agent is to run on [default: this machine's]
    #[arg(long, value_name = "ARCHITECTURE")]
    arch: Option<Arch>,
    /// Try the packages of this machine's agent as well, as `cargo xtask test` does.
    #[arg(long)]
    check: bool,
}

/// What is packed.
struct Release {
    arch: Arch,
    /// The agent of that architecture.
    agent: PathBuf,
    /// The agent of this machine, which writes the manual pages and the completions.
    speaker: PathBuf,
    /// The time of everything in the packages, in seconds since the Unix epoch.
    epoch: u64,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    setup::package_tools()?;
    let native = Arch::native()?;
    let arch = opts.arch.unwrap_or(native);
    let speaker = build::agent()?;
    let agent = if arch == native { speaker.clone() } else { build::compile(arch)? };
    let release = Release { arch, agent, speaker, epoch: epoch()? };
    let into = workspace::root().join("target/dist");
    for file in pack(&release, &into)? {
        println!("{}: {:.1} MB", file.display(), build::megabytes(fs::metadata(&file)?.len()));
    }
    println!("{}", into.join(SUMS).display());
    if opts.check { check::run(&release.speaker) } else { Ok(()) }
}

/// The step of `cargo xtask test`: what is tried is the agent that the live tests run.
pub(crate) fn step() -> Result<()> {
    check::run(&build::guest_parts(Arch::native()?)?.agent)
}

/// Packs the release into the directory, beside those of other architectures, and gives its files.
fn pack(release: &Release, into: &Path) -> Result<Vec<PathBuf>> {
    let target = release.arch.static_target();
    let name = format!("tracer-{VERSION}-{target}");
    let stage = into.join("stage").join(target);
    let prefix = prefix::stage(release, &stage.join(&name))?;
    let tarball = into.join(format!("{name}.tar.gz"));
    archive(&stage, &name, release.epoch, &tarball)?;
    let deb = deb::build(release, &prefix, &stage.join("deb"), into)?;
    sum(into)?;
    Ok(vec![tarball, deb])
}

/// Writes the directory as a tarball that shows neither the order in which its files were made nor by whom.
fn archive(parent: &Path, name: &str, epoch: u64, file: &Path) -> Result<()> {
    process::run(
        command("tar")
            .args(["--create", "--format=ustar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{epoch}"))
            .args(["--use-compress-program", "gzip --no-name --best"])
            .arg("--file")
            .arg(file)
            .arg("--directory")
            .arg(parent)
            .arg(name),
    )
}

/// Writes the checksums of all packages in the directory.
fn sum(directory: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_package(&name) {
            names.push(name);
        }
    }
    names.sort();
    let sums = process::capture(command("sha256sum").args(&names).current_dir(directory))?;
    fs::write(directory.join(SUMS), sums).context("writing the checksums")
}

fn is_package(name: &str) -> bool {
    let path = Path::new(name);
    path.extension().is_some_and(|extension| extension == "deb" || extension == "gz")
}

/// The time that the packages carry.
fn epoch() -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => process::probe(command("git").args(["log", "-1", "--format=%ct"]))
            .context("no commit gives the packages a time; set SOURCE_DATE_EPOCH to seconds since 1970")?,
    };
    text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH={text} is no number of seconds"))
}

/// The epoch as `date` writes it in this format.
fn date(epoch: u64, format: &str) -> Result<String> {
    let date =
        process::capture(command("date").args(["--utc", &format!("--date=@{epoch}"), format]).env("LC_ALL", "C"))?;
    Ok(date.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_of_packages_alone() {
        assert!(is_package("tracer-0.1.0-x86_64-unknown-linux-musl.tar.gz") && is_package("tracer_0.1.0-1_arm64.deb"));
        assert!(!is_package(SUMS) && !is_package("stage"));
    }

    #[test]
    fn dates_are_those_of_the_epoch() {
        assert_eq!(date(86_400, "+%Y-%m-%d").unwrap(), "1970-01-02");
        assert_eq!(date(86_400, "--rfc-email").unwrap(), "Fri, 02 Jan 1970 00:00:00 +0000");
    }
}
