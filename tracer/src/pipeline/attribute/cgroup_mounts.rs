//! Where cgroup hierarchies are mounted.
//!
//! Owns the reading of `mountinfo`. Pure: no I/O.

use std::path::PathBuf;

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMount {
    /// Options of the file system, among which are a v1 hierarchy's controllers and name. `None` for v2.
    v1: Option<String>,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Whether the mount begins at the hierarchy's root, as far as the reader may know of it.
    pub is_whole: bool,
}

impl CgroupMount {
    /// Whether it is of the v2 hierarchy.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.v1.is_none()
    }

    /// Whether it is of the hierarchy that `/proc/<pid>/cgroup` describes with these controllers: none for v2.
    #[must_use]
    pub fn has(&self, controllers: &str) -> bool {
        match &self.v1 {
            None => controllers.is_empty(),
            Some(options) => {
                let first = controllers.split(',').next().unwrap_or_default();
                options.split(',').any(|option| option == first)
            }
        }
    }
}

/// The hierarchies in the text of a `mountinfo` file, in its order.
#[must_use]
pub fn cgroup_mounts(mountinfo: &[u8]) -> Vec<CgroupMount> {
    String::from_utf8_lossy(mountinfo).lines().filter_map(cgroup_mount).collect()
}

/// `<id> <parent> <device> <root> <mount point> <options> [<tags>] - <type> <source> <options>`
fn cgroup_mount(line: &str) -> Option<CgroupMount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut file_system = file_system.split(' ');
    let v1 = match file_system.next()? {
        "cgroup2" => None,
        "cgroup" => Some(file_system.nth(1)?.to_owned()),
        _ => return None,
    };
    let mut fields = mount.split(' ').skip(3);
    let is_whole = fields.next()? == "/";
    let point = unescape(fields.next()?).into();
    Some(CgroupMount { v1, point, is_whole })
}

/// Undoes the kernel's `\040` for a space, and the like.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        rest = if let Some(code) = code {
            plain.push(char::from(code));
            &after[3..]
        } else {
            plain.push('\\');
            after
        };
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
";

    #[test]
    fn mounts_are_known_by_their_type() {
        let mounts = cgroup_mounts(HYBRID.as_bytes());
        let points: Vec<&Path> = mounts.iter().map(|mount| mount.point.as_path()).collect();
        let expected = ["systemd", "unified", "cpu,cpuacct"].map(|name| Path::new("/sys/fs/cgroup").join(name));
        assert_eq!(points, expected);
        assert_eq!(mounts.iter().map(CgroupMount::is_v2).collect::<Vec<_>>(), [false, true, false]);
        let tagged = b"30 23 0:26 /../.. /a\\040b\\134 ro shared:4 master:1 - cgroup2 cgroup rw,nsdelegate";
        assert_eq!(cgroup_mounts(tagged)[0].point, Path::new("/a b\\"));
        for odd in ["", "cgroup2", " - cgroup2", "1 2 3 - cgroup2 x", "1 2 3 / /cgroup2 rw - tmpfs cgroup2 rw"] {
            assert!(cgroup_mounts(odd.as_bytes()).is_empty(), "{odd:?}");
        }
    }

    #[test]
    fn a_hierarchy_is_known_by_its_controllers() {
        let mounts = cgroup_mounts(HYBRID.as_bytes());
        let found = |controllers| mounts.iter().position(|mount| mount.has(controllers));
        let asked = ["name=systemd", "", "cpu,cpuacct", "cpuacct", "pids"];
        assert_eq!(asked.map(found), [Some(0), Some(1), Some(2), Some(2), None]);
    }

    proptest! {
        #[test]
        fn any_mountinfo_is_survived(text in "(\\\\|0|4|9| |-|cgroup2?|/|\n|\\PC){0,60}") {
            for mount in cgroup_mounts(text.as_bytes()) {
                prop_assert!(text.len() >= mount.point.as_os_str().len() || text.contains('\\'));
            }
        }

        #[test]
        fn what_needs_no_escape_stays(text in "[^\\\\]{0,40}") {
            prop_assert_eq!(unescape(&text), text);
        }
    }
}
