//! Packages from Debian's archive, for any release and architecture, beside the system's own.
//!
//! Owns a private apt: its sources, lists and cache are under `target/debian/`, and it knows of no
//! installed package, so nothing on this system is changed or asked. apt checks the signatures.
//! What comes out are `.deb` files and directories that they were unpacked into. Must not know what
//! the packages are for.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::workspace::{self, Arch};

/// The key that Debian signs its releases with, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Lists older than this are fetched again.
const LISTS_AGE_MAX: Duration = Duration::from_hours(12);

/// Releases, with the archive that each is in.
const SUITES: &[(&str, &str)] = &[
    ("bullseye", "debian"),
    ("bullseye-security", "debian-security"),
    ("bookworm", "debian"),
    ("bookworm-security", "debian-security"),
    ("bookworm-backports", "debian"),
    ("trixie", "debian"),
    ("trixie-security", "debian-security"),
    ("trixie-backports", "debian"),
    ("sid", "debian"),
];

/// Debian's archive, seen as a machine of one architecture.
pub(crate) struct Archive {
    arch: Arch,
    state: PathBuf,
}

impl Archive {
    /// Sets up the private apt and brings its lists up to date.
    pub(crate) fn open(arch: Arch) -> Result<Self> {
        for program in ["apt-get", "dpkg-deb"] {
            if process::find(program).is_none() {
                bail!("kernels and their userland come from Debian's archive, and `{program}` is not on this system");
            }
        }
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing; as root, type `apt-get install debian-archive-keyring`");
        }
        let archive = Self { arch, state: workspace::root().join("target/debian").join(arch.debian()) };
        archive.write_configuration()?;
        if archive.lists_are_old() {
            println!("debian: fetching the lists of packages for {}", arch.debian());
            match process::run(archive.apt("apt-get").args(["update", "-qq"])) {
                Ok(()) => fs::write(archive.stamp(), "")?,
                // What is unpacked already needs no network.
                Err(error) if archive.stamp().exists() => {
                    eprintln!("debian: {error:#}; going on with the lists of before");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(archive)
    }

    /// A directory for what was made of the packages of this architecture.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// All versions of the package in the archive.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = process::capture(self.apt("apt-cache").args(["madison", package]))?;
        let versions: BTreeSet<_> = table.lines().filter_map(madison_version).map(str::to_owned).collect();
        Ok(versions.into_iter().collect())
    }

    /// Names of the packages that this version depends on; alternatives all.
    pub(crate) fn dependencies(&self, package: &str, version: &str) -> Result<Vec<String>> {
        let record = process::capture(self.apt("apt-cache").args(["show", &format!("{package}={version}")]))?;
        Ok(dependencies(&record))
    }

    /// Fetches the packages, each `name` or `name=version`, without what they depend on. Gives their files.
    pub(crate) fn download(&self, packages: &[String], into: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(into)?;
        process::run(self.apt("apt-get").args(["download", "-qq"]).args(packages).current_dir(into))?;
        debs(into)
    }

    /// Fetches the packages of a release with all that they depend on. Gives their files.
    pub(crate) fn download_closure(&self, release: &str, packages: &[&str], into: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(into.join("partial"))?;
        process::run(
            self.apt("apt-get")
                .args(["install", "-qq", "--yes", "--download-only", "--no-install-recommends"])
                .arg("-o")
                .arg(format!("APT::Default-Release={release}"))
                .arg("-o")
                .arg(format!("Dir::Cache::archives={}", into.display()))
                .args(packages),
        )?;
        debs(into)
    }

    /// An apt program that knows this archive alone.
    fn apt(&self, program: &str) -> Command {
        let mut command = process::command(program);
        command.env("APT_CONFIG", self.state.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    fn write_configuration(&self) -> Result<()> {
        for directory in ["lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d"] {
            fs::create_dir_all(self.state.join(directory))?;
        }
        // No package is installed there.
        self.write("status", "")?;
        self.write("sources.list", &sources(self.arch))?;
        self.write("apt.conf", &configuration(self.arch, &self.state))
    }

    /// Writes a file unless it is there: another process may be in the middle of using it.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.state.join(name);
        if fs::read_to_string(&file).is_ok_and(|found| found == text) {
            return Ok(());
        }
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    }

    fn lists_are_old(&self) -> bool {
        let age = fs::metadata(self.stamp()).and_then(|stamp| stamp.modified()).map(|then| then.elapsed());
        !matches!(age, Ok(Ok(age)) if age < LISTS_AGE_MAX)
    }

    fn stamp(&self) -> PathBuf {
        self.state.join("lists.stamp")
    }
}

/// Unpacks a package's files into a directory.
pub(crate) fn unpack(deb: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    process::run(process::command("dpkg-deb").arg("--extract").arg(deb).arg(into))
}

/// A mirror that lags behind lets the date of a release's signature run out. The packages are signed
/// all the same, and old ones do no harm in a guest without a network.
fn sources(arch: Arch) -> String {
    let mut list = String::new();
    for (suite, archive) in SUITES {
        let _ = writeln!(
            list,
            "deb [arch={} signed-by={KEYRING} check-valid-until=no] http://deb.debian.org/{archive} {suite} main",
            arch.debian()
        );
    }
    list
}

fn configuration(arch: Arch, state: &Path) -> String {
    let (arch, state) = (arch.debian(), state.display());
    // Root stays root while fetching: the directories may be in a place that `_apt` cannot read.
    format!(
        "Dir::State \"{state}\";\nDir::State::status \"{state}/status\";\nDir::Cache \"{state}/cache\";\n\
         Dir::Etc \"{state}/etc\";\nDir::Etc::sourcelist \"{state}/sources.list\";\nDir::Etc::sourceparts \"-\";\n\
         APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\nAPT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n"
    )
}

/// The version in a line ` package | version | source` of `apt-cache madison`.
fn madison_version(line: &str) -> Option<&str> {
    line.split('|').nth(1).map(str::trim)
}

/// The names in the fields `Depends` of a package's record.
fn dependencies(record: &str) -> Vec<String> {
    let field = record.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
    let names = field.split([',', '|']).filter_map(|item| item.split_whitespace().next());
    names.map(|name| name.split(':').next().unwrap_or(name).to_owned()).collect()
}

fn debs(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "deb"));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_line() {
        let line = "linux-image-cloud-amd64 |   7.2.13-1 | http://deb.debian.org/debian sid/main amd64 Packages";
        assert_eq!(madison_version(line), Some("7.2.13-1"));
        assert_eq!(madison_version(""), None);
    }

    #[test]
    fn dependencies_without_versions_and_architectures() {
        let record = "Package: a\nDepends: linux-base:any (>= 4), x | y (= 2), z\nRecommends: r\n";
        assert_eq!(dependencies(record), ["linux-base", "x", "y", "z"]);
        assert!(dependencies("Package: a\n").is_empty());
    }

    #[test]
    fn every_source_is_signed() {
        let list = sources(Arch::Aarch64);
        assert_eq!(list.lines().count(), SUITES.len());
        assert!(list.lines().all(|line| line.contains("signed-by=") && line.contains("arch=arm64")), "{list}");
    }
}
