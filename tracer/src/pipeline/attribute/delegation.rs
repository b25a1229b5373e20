//! Which cgroups only root can make.
//!
//! Whoever may write to a cgroup's directory makes cgroups in it by any name, a pod's or another unit's. Root gives
//! directories to others when it delegates a subtree: to a user's manager, to a container in a user namespace. Looks at
//! directories; keeps no state, logs nothing.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Who owns a hierarchy.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    uid: u32,
    gid: u32,
}

impl Root {
    /// The owner of the hierarchy with this root directory.
    #[must_use]
    pub fn of(root: &Metadata) -> Self {
        Self { uid: root.uid(), gid: root.gid() }
    }

    /// Whether nobody else can make cgroups in a directory.
    #[must_use]
    pub fn alone_writes(self, directory: &Metadata) -> bool {
        const BY_GROUP: u32 = 0o020;
        const BY_OTHERS: u32 = 0o002;
        let mode = directory.mode();
        directory.uid() == self.uid && mode & BY_OTHERS == 0 && (mode & BY_GROUP == 0 || directory.gid() == self.gid)
    }
}

/// How much of a path below `mount`, in bytes, names cgroups that only root can make. A directory that cannot be looked
/// at is taken for delegated.
#[must_use]
pub fn made_by_root(mount: &Path, path: &str) -> usize {
    let Ok(root) = fs::metadata(mount) else { return 0 };
    let root = Root::of(&root);
    let (mut directory, mut end) = (mount.to_owned(), 0);
    for segment in path.split('/').skip(1) {
        if !fs::metadata(&directory).is_ok_and(|metadata| root.alone_writes(&metadata)) {
            break;
        }
        directory.push(segment);
        end += 1 + segment.len();
    }
    end
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_lies_in_a_directory_of_others_is_not_roots() {
        let mount = tempfile::tempdir().unwrap();
        let path = "/user.slice/given/sshd.service/inner";
        fs::create_dir_all(mount.path().join(&path[1..])).unwrap();
        assert_eq!(made_by_root(mount.path(), path), path.len());
        let given = mount.path().join("user.slice/given");
        for (mode, is_given) in [(0o755, false), (0o775, false), (0o757, true), (0o777, true)] {
            fs::set_permissions(&given, Permissions::from_mode(mode)).unwrap();
            let expected = if is_given { "/user.slice/given" } else { path };
            assert_eq!(&path[..made_by_root(mount.path(), path)], expected, "{mode:o}");
        }
    }

    #[test]
    fn root_is_who_owns_the_hierarchy() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = fs::metadata(dir.path()).unwrap();
        let root = Root::of(&metadata);
        assert!(root.alone_writes(&metadata));
        assert!(!Root { uid: root.uid + 1, ..root }.alone_writes(&metadata));
        fs::set_permissions(dir.path(), Permissions::from_mode(0o775)).unwrap();
        let shared = fs::metadata(dir.path()).unwrap();
        assert!(root.alone_writes(&shared) && !Root { gid: root.gid + 1, ..root }.alone_writes(&shared));
    }

    #[test]
    fn what_is_gone_is_not_roots() {
        let mount = tempfile::tempdir().unwrap();
        fs::create_dir(mount.path().join("a")).unwrap();
        assert_eq!(made_by_root(mount.path(), "/a/b/c"), "/a/b".len());
        assert_eq!(made_by_root(&mount.path().join("none"), "/a"), 0);
        assert_eq!(made_by_root(mount.path(), "/"), 1);
    }
}
