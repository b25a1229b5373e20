//! The file system that a guest boots into: one archive of the kernel's format (cpio, newc).
//!
//! Takes directories, files and bytes; knows only where they go. Not compressed: unpacking would take
//! an emulated processor longer than the bytes take to copy.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use cpio::NewcBuilder;
use cpio::newc::ModeFileType;

/// Old packages have files in directories that are links into /usr now.
const MERGED: &[&str] = &["bin", "lib", "lib64", "sbin"];

/// An archive that is being written.
pub(super) struct Initramfs {
    out: BufWriter<File>,
    directories: BTreeSet<String>,
    inode: u32,
}

impl Initramfs {
    pub(super) fn create(file: &Path) -> Result<Self> {
        let out = File::create(file).with_context(|| format!("creating {}", file.display()))?;
        let mut archive = Self { out: BufWriter::new(out), directories: BTreeSet::new(), inode: 0 };
        for name in MERGED {
            archive.link(name, format!("usr/{name}").as_bytes())?;
        }
        // Where file systems are mounted.
        for name in ["dev", "proc", "run", "sys", "tmp", "var"] {
            archive.directory(name)?;
        }
        Ok(archive)
    }

    /// Adds what is below a directory, as far as it is needed.
    pub(super) fn tree(&mut self, root: &Path, is_needed: impl Copy + Fn(&str) -> bool) -> Result<()> {
        self.level(root, root, is_needed)
    }

    fn level(&mut self, root: &Path, directory: &Path, is_needed: impl Copy + Fn(&str) -> bool) -> Result<()> {
        let entries = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.level(root, &path, is_needed)?;
            } else if is_needed(&name) {
                let place = merged(&name);
                if kind.is_symlink() {
                    self.link(&place, fs::read_link(&path)?.as_os_str().as_bytes())?;
                } else {
                    self.copy(&path, &place)?;
                }
            }
        }
        Ok(())
    }

    /// Adds a copy of a file, with its permissions.
    pub(super) fn copy(&mut self, file: &Path, place: &str) -> Result<()> {
        let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let mode = fs::metadata(file)?.permissions().mode();
        self.file(place, &bytes, mode & 0o7777)
    }

    /// Adds a file with these bytes.
    pub(super) fn file(&mut self, place: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.parents(place)?;
        self.entry(place, ModeFileType::Regular, mode, bytes)
    }

    /// Writes the end of the archive.
    pub(super) fn finish(self) -> Result<()> {
        let mut out = cpio::newc::trailer(self.out)?;
        Ok(out.flush()?)
    }

    fn link(&mut self, place: &str, target: &[u8]) -> Result<()> {
        self.parents(place)?;
        self.entry(place, ModeFileType::Symlink, 0o777, target)
    }

    fn directory(&mut self, place: &str) -> Result<()> {
        self.parents(place)?;
        if self.directories.insert(place.to_owned()) {
            self.entry(place, ModeFileType::Directory, 0o755, &[])?;
        }
        Ok(())
    }

    /// The kernel makes no directory that is not in the archive.
    fn parents(&mut self, place: &str) -> Result<()> {
        match place.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, place: &str, kind: ModeFileType, mode: u32, bytes: &[u8]) -> Result<()> {
        self.inode += 1;
        let builder = NewcBuilder::new(place).ino(self.inode).mode(mode).set_mode_file_type(kind);
        let mut writer = builder.write(&mut self.out, u32::try_from(bytes.len())?);
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }
}

/// The place of a file in a system whose `/bin` and the like are links into `/usr`.
fn merged(name: &str) -> String {
    let is_moved = name.split_once('/').is_some_and(|(first, _)| MERGED.contains(&first));
    if is_moved { format!("usr/{name}") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_directories_are_merged_into_usr() {
        assert_eq!(merged("bin/dash"), "usr/bin/dash");
        assert_eq!(merged("lib/x86_64-linux-gnu/libc.so.6"), "usr/lib/x86_64-linux-gnu/libc.so.6");
        assert_eq!(merged("usr/bin/perl"), "usr/bin/perl");
        assert_eq!(merged("etc/bin"), "etc/bin");
    }

    #[test]
    fn every_directory_stands_before_what_it_holds() {
        let scratch = crate::workspace::root().join("target/tmp");
        fs::create_dir_all(&scratch).unwrap();
        let path = scratch.join(format!("initramfs-{}.cpio", std::process::id()));
        let mut archive = Initramfs::create(&path).unwrap();
        archive.file("usr/lib/modules/veth.ko", b"module", 0o644).unwrap();
        archive.file("usr/lib/two", b"2", 0o755).unwrap();
        archive.finish().unwrap();
        let mut file = File::open(&path).unwrap();
        let mut seen = Vec::new();
        loop {
            let reader = cpio::NewcReader::new(file).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            seen.push(reader.entry().name().to_owned());
            file = reader.finish().unwrap();
        }
        fs::remove_file(path).unwrap();
        let place = |name: &str| seen.iter().position(|seen| seen == name).unwrap();
        assert!(place("usr") < place("usr/lib") && place("usr/lib/modules") < place("usr/lib/modules/veth.ko"));
        assert_eq!(seen.iter().filter(|name| *name == "usr/lib").count(), 1, "{seen:?}");
    }
}
