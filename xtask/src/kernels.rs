//! The kernels of the matrix: Debian's cloud kernels, one of each generation.
//!
//! Fetches the newest package of a series, unpacks it under `target/debian/` and says where its parts
//! are. Takes packages from `debian`; gives files to `vm` (which boots them) and to `tidy --kernels`
//! (which reads their types).

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::debian::{self, Archive};
use crate::workspace::Arch;

/// A generation of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Series {
    /// Debian 11: the oldest that the agent runs on.
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13.
    #[value(name = "6.12")]
    V6_12,
    /// The newest that sid or backports give.
    #[value(name = "newest")]
    Newest,
}

impl Series {
    /// Oldest first.
    pub(crate) const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::Newest];

    /// The name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        }
    }

    /// The versions of the series among Debian's versions.
    fn newest_first(self, versions: &[String]) -> Vec<&String> {
        let of_series = |version: &&String| match self {
            Self::Newest => true,
            _ => upstream(version).starts_with(&format!("{}.", self.name())),
        };
        let mut versions: Vec<_> = versions.iter().filter(of_series).collect();
        versions.sort_by_key(|version| Reverse(number(upstream(version))));
        versions
    }
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) series: Series,
    pub(crate) arch: Arch,
    /// Upstream's version, as in 6.1.192.
    pub(crate) version: String,
    /// The image to boot.
    pub(crate) vmlinuz: PathBuf,
    /// The directory with `kernel/` and the list of what is built in.
    pub(crate) modules: PathBuf,
}

impl Package {
    /// Finds the parts of an unpacked kernel.
    fn open(root: &Path, series: Series, version: &str, arch: Arch) -> Result<Self> {
        Ok(Self {
            series,
            arch,
            version: upstream(version).to_owned(),
            vmlinuz: find(root, |name| name.starts_with("vmlinuz")).context("the package holds no vmlinuz")?,
            modules: modules(root).context("the package holds no modules")?,
        })
    }
}

/// Fetches and unpacks the newest kernel of the series, unless it is there.
pub(crate) fn fetch(archive: &Archive, series: Series, arch: Arch) -> Result<Package> {
    let meta = format!("linux-image-cloud-{}", arch.debian());
    let versions = archive.versions(&meta)?;
    for version in series.newest_first(&versions) {
        let root = archive.directory("kernels").join(version);
        if !root.join("complete").exists() {
            println!("kernels: fetching {version} for {}", arch.debian());
            if let Err(error) = fetch_into(archive, &meta, version, &root) {
                // A mirror's lists may be ahead of its packages, or behind.
                eprintln!("kernels: {version} cannot be had: {error:#}");
                continue;
            }
        }
        return Package::open(&root, series, version, arch);
    }
    bail!("the archive has no {meta} of series {} that can be fetched (it has {})", series.name(), versions.join(", "))
}

fn fetch_into(archive: &Archive, meta: &str, version: &str, root: &Path) -> Result<()> {
    if root.exists() {
        // Left over from a fetch that was cut off.
        fs::remove_dir_all(root)?;
    }
    let packages = parts(archive, meta, version)?;
    for deb in archive.download(&packages, &root.join("debs"))? {
        debian::unpack(&deb, root)?;
    }
    fs::remove_dir_all(root.join("debs"))?;
    fs::write(root.join("complete"), "")?;
    Ok(())
}

/// The packages that the kernel is spread over, as `name=version`: one up to 6.18, and from 6.19 on
/// the image and the modules each in its own.
fn parts(archive: &Archive, meta: &str, version: &str) -> Result<Vec<String>> {
    let mut parts = vec![];
    let mut open = vec![meta.to_owned()];
    while let Some(package) = open.pop() {
        let part = format!("{package}={version}");
        if parts.contains(&part) {
            continue;
        }
        open.extend(archive.dependencies(&package, version)?.into_iter().filter(|name| is_part(name)));
        parts.push(part);
    }
    // The first holds nothing but the names of the others.
    parts.remove(0);
    Ok(parts)
}

fn is_part(package: &str) -> bool {
    let prefixes = ["linux-image-", "linux-binary-", "linux-modules-"];
    let rest = prefixes.iter().find_map(|prefix| package.strip_prefix(prefix));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Upstream's part of a Debian version.
fn upstream(version: &str) -> &str {
    version.split(['-', '+', '~']).next().unwrap_or(version)
}

/// The version as numbers, for comparing.
fn number(upstream: &str) -> Vec<u32> {
    upstream.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// The one directory of /lib/modules, which is below /usr in newer packages.
fn modules(root: &Path) -> Option<PathBuf> {
    let places = ["usr/lib/modules", "lib/modules"].map(|place| root.join(place));
    let mut entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    entries.find(|entry| entry.path().join("kernel").is_dir()).map(|entry| entry.path())
}

/// A file below the directory whose name fits.
pub(crate) fn find(directory: &Path, fits: impl Copy + Fn(&str) -> bool) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        // Links to directories may lead round in circles.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if let Some(found) = find(&path, fits) {
                return Some(found);
            }
        } else if entry.file_name().to_str().is_some_and(fits) {
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions() -> Vec<String> {
        ["5.10.223-1", "5.10.262-1", "6.1.176-1", "6.12.95-1~bpo12+1", "6.12.117-1", "7.2.13-1", "7.2.12-1~bpo13+1"]
            .map(str::to_owned)
            .to_vec()
    }

    #[test]
    fn the_newest_of_each_series() {
        let versions = versions();
        let newest = Series::ALL.map(|series| series.newest_first(&versions)[0].as_str());
        assert_eq!(newest, ["5.10.262-1", "6.1.176-1", "6.12.117-1", "7.2.13-1"]);
        assert_eq!(Series::V6_12.newest_first(&versions), ["6.12.117-1", "6.12.95-1~bpo12+1"]);
        assert!(Series::V6_1.newest_first(&["6.12.1-1".to_owned()]).is_empty());
    }

    #[test]
    fn parts_have_a_number() {
        for name in ["linux-image-7.2.13+deb14-cloud-amd64", "linux-binary-7.2.13+deb14-cloud-amd64"] {
            assert!(is_part(name), "{name}");
        }
        for name in ["linux-base", "linux-initramfs-tool", "linux-image-cloud-amd64", "linux-base-7.2.13+deb14"] {
            assert!(!is_part(name), "{name}");
        }
    }
}
