//! A directory that is packed: every file with its mode, all with one time.
//!
//! Knows nothing of what the files are.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// Programs and directories.
pub(super) const PROGRAM: u32 = 0o755;
/// Everything else.
pub(super) const PLAIN: u32 = 0o644;

/// A directory in the making.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty one; what was there is gone.
    pub(super) fn anew(root: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))?;
        }
        fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
        Ok(Self { root: root.to_owned() })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Puts a file there.
    pub(super) fn put(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let file = self.root.join(path);
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&file, content).with_context(|| format!("writing {}", file.display()))?;
        Ok(fs::set_permissions(&file, fs::Permissions::from_mode(mode))?)
    }

    /// Puts a copy of a file there; of a link, one with the same target.
    pub(super) fn copy(&self, path: &str, source: &Path, mode: u32) -> Result<()> {
        if source.is_symlink() {
            let link = self.root.join(path);
            if let Some(directory) = link.parent() {
                fs::create_dir_all(directory)?;
            }
            return Ok(symlink(fs::read_link(source)?, link)?);
        }
        let content = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        self.put(path, &content, mode)
    }

    /// The files and links, sorted, relative to the root.
    pub(super) fn files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        for path in below(&self.root)? {
            if !is_directory(&path) {
                files.push(path.strip_prefix(&self.root)?.to_string_lossy().into_owned());
            }
        }
        Ok(files)
    }

    /// Gives the directories their mode and everything its time, when nothing is put there any more.
    pub(super) fn settle(&self, epoch: u64) -> Result<()> {
        let time = UNIX_EPOCH + Duration::from_secs(epoch);
        // From the leaves to the root: what is in a directory changes before it.
        for path in below(&self.root)?.iter().rev().chain([&self.root]) {
            if path.is_symlink() {
                // Its own time cannot be set here; tar and dpkg-deb are told the time as well.
                continue;
            }
            if path.is_dir() {
                fs::set_permissions(path, fs::Permissions::from_mode(PROGRAM))?;
            }
            File::open(path)?.set_modified(time).with_context(|| format!("setting the time of {}", path.display()))?;
        }
        Ok(())
    }
}

fn is_directory(path: &Path) -> bool {
    path.is_dir() && !path.is_symlink()
}

/// Everything below a directory, sorted, each directory before what is in it. Links are not followed.
pub(super) fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .with_context(|| format!("listing {}", directory.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        let inside = if is_directory(&entry) { below(&entry)? } else { Vec::new() };
        found.push(entry);
        found.extend(inside);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_settled_tree_has_one_time_and_given_modes() {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::anew(&directory.path().join("tree")).unwrap();
        tree.put("b/c/run", b"x", PROGRAM).unwrap();
        tree.put("a", b"y", PLAIN).unwrap();
        symlink("b", directory.path().join("link")).unwrap();
        tree.copy("l", &directory.path().join("link"), PLAIN).unwrap();
        tree.settle(1_000_000_000).unwrap();
        assert_eq!(tree.files().unwrap(), ["a", "b/c/run", "l"]);
        for (path, mode) in [("", 0o755), ("a", 0o644), ("b", 0o755), ("b/c", 0o755), ("b/c/run", 0o755)] {
            let found = fs::metadata(tree.root().join(path)).unwrap();
            assert_eq!((found.mtime(), found.mode() & 0o777), (1_000_000_000, mode), "{path}");
        }
    }
}
