//! The programs of a guest: a handful of Debian packages with all that they need, unpacked.
//!
//! Taken from the archive and not from this system, so that a guest is the same wherever it is built,
//! and can be of another architecture.

use std::path::PathBuf;

use anyhow::Result;

use crate::debian::{self, Archive};

/// The release that the programs are from. Kernels run programs that are older and newer than they are.
const RELEASE: &str = "bookworm";

/// What the live tests call, and a shell.
const PACKAGES: &[&str] = &[
    "iproute2",
    "nftables",
    "ethtool",
    "perl-base",
    "util-linux",
    "mount",
    "coreutils",
    "grep",
    "sed",
    "procps",
    "dash",
];

/// Files that no test needs and that would double the size.
const LEFT_OUT: &[&str] = &["usr/share/", "usr/lib/systemd/", "var/", "etc/init.d/", "lib/systemd/", "lib/udev/"];

/// The unpacked programs.
pub(super) struct Userland {
    /// The directory that stands for `/`.
    pub(super) root: PathBuf,
}

impl Userland {
    /// Fetches and unpacks the programs, unless they are there.
    pub(super) fn fetch(archive: &Archive) -> Result<Self> {
        // Its name changes with the list, so that an old one is not taken for it.
        let name = format!("userland-{RELEASE}-{:08x}", fingerprint(PACKAGES));
        let root = archive.directory(&name);
        let complete = root.with_extension("complete");
        if !complete.exists() {
            println!("vm: fetching the guests' programs from {RELEASE}");
            let debs = root.with_extension("debs");
            for deb in archive.download_closure(RELEASE, PACKAGES, &debs)? {
                debian::unpack(&deb, &root)?;
            }
            std::fs::remove_dir_all(debs)?;
            std::fs::write(complete, "")?;
        }
        Ok(Self { root })
    }

    /// Whether a file (a path below the root) goes into a guest. Character sets take 8 MB.
    pub(super) fn is_needed(path: &str) -> bool {
        !path.contains("/gconv/") && !LEFT_OUT.iter().any(|prefix| path.starts_with(prefix))
    }
}

/// FNV-1a over the names.
fn fingerprint(names: &[&str]) -> u32 {
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_follows_the_list() {
        assert_ne!(fingerprint(&["a", "b"]), fingerprint(&["ab"]));
        assert_ne!(fingerprint(&["a", "b"]), fingerprint(&["b", "a"]));
    }

    #[test]
    fn manuals_stay_behind_and_programs_do_not() {
        assert!(Userland::is_needed("usr/lib/x86_64-linux-gnu/perl-base/Socket.pm"));
        assert!(Userland::is_needed("bin/dash"));
        assert!(!Userland::is_needed("usr/share/man/man1/ls.1.gz"));
        assert!(!Userland::is_needed("usr/lib/x86_64-linux-gnu/gconv/UTF-16.so"));
    }
}
