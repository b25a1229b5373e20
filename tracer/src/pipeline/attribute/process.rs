//! What `/proc` tells about one process: its cgroup and its name.
//!
//! Owns the reading of `/proc/<pid>/cgroup` and `/proc/<pid>/comm`. A process that has ended, or that may
//! not be looked at, has neither. Keeps no state, logs nothing.

use std::fs;
use std::path::PathBuf;

use super::cgroup_mounts::{CgroupMount, cgroup_mounts};
use super::cgroup_path::CgroupPath;
use super::delegation::made_by_root;

/// The v1 hierarchies to ask, best first, when the v2 one does not tell processes apart.
const V1_HIERARCHIES: [&str; 4] = ["name=systemd", "pids", "memory", "cpu"];

/// A proc file system.
#[derive(Clone, Debug)]
pub struct Processes {
    proc: PathBuf,
    /// The hierarchies in sight.
    mounts: Vec<CgroupMount>,
    /// Whether the kernel's programs number processes as this file system does.
    has_hosts_numbers: bool,
}

impl Processes {
    /// Reads below `proc`, which is `/proc` outside tests.
    #[must_use]
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        let proc = proc.into();
        let mounts = fs::read(proc.join("self/mountinfo")).map(|text| cgroup_mounts(&text)).unwrap_or_default();
        Self { proc, mounts, has_hosts_numbers: true }
    }

    /// A file system that numbers processes otherwise than the kernel's programs: by a number of theirs it would show
    /// another process, so it shows none.
    #[must_use]
    pub fn with_other_numbers(self) -> Self {
        Self { has_hosts_numbers: false, ..self }
    }

    /// The path of the cgroup of a process that a program told.
    #[must_use]
    pub fn cgroup_of_told(&self, tgid: u32) -> Option<CgroupPath> {
        self.has_hosts_numbers.then(|| self.cgroup_of(tgid)).flatten()
    }

    /// The path of the cgroup of a process that this file system lists, as seen from the agent's cgroup namespace. Where the hierarchy is not in sight,
    /// or the cgroup lies outside of that namespace, nothing tells what is delegated: then all of it is taken for root's.
    #[must_use]
    pub fn cgroup_of(&self, pid: u32) -> Option<CgroupPath> {
        let text = self.read(pid, "cgroup")?;
        let text = String::from_utf8_lossy(&text);
        let Hierarchy { controllers, path } = telling(&text)?;
        let is_outside = path.split('/').any(|segment| segment == "..");
        let mount = self.mounts.iter().find(|mount| !is_outside && mount.is_whole && mount.has(controllers));
        let by_root = mount.map_or(path.len(), |mount| made_by_root(&mount.point, path));
        Some(CgroupPath::new(path.to_owned(), by_root))
    }

    /// The name of a process that a program told: up to 15 bytes that it may have chosen itself, of any value but zero.
    #[must_use]
    pub fn comm(&self, tgid: u32) -> Option<Vec<u8>> {
        let mut name = self.has_hosts_numbers.then(|| self.read(tgid, "comm")).flatten()?;
        name.pop_if(|last| *last == b'\n');
        Some(name)
    }

    fn read(&self, pid: u32, file: &str) -> Option<Vec<u8>> {
        fs::read(self.proc.join(pid.to_string()).join(file)).ok()
    }
}

/// The most telling path in the text of a `cgroup` file: the v2 one, but on hybrid hosts, where all
/// processes are in its root, that of a v1 hierarchy.
fn telling(text: &str) -> Option<Hierarchy<'_>> {
    let hierarchies: Vec<Hierarchy> = text.lines().filter_map(Hierarchy::parse).collect();
    let v2 = hierarchies.iter().find(|one| one.controllers.is_empty());
    let v1 = V1_HIERARCHIES.iter().filter_map(|name| hierarchies.iter().find(|one| one.has(name)));
    let telling = v2.into_iter().chain(v1).find(|one| one.path != "/");
    telling.or(hierarchies.first()).copied()
}

/// One line: `<number>:<controllers>:<path>`, without controllers for v2.
#[derive(Clone, Copy)]
struct Hierarchy<'a> {
    controllers: &'a str,
    path: &'a str,
}

impl<'a> Hierarchy<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        // The kernel's mark on a cgroup that was removed while the process is a zombie.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        path.starts_with('/').then_some(Self { controllers, path })
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|one| one == controller)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_telling_hierarchy_wins() {
        for (text, expected) in [
            ("0::/system.slice/a.service\n", Some("/system.slice/a.service")),
            ("0::/\n", Some("/")),
            ("1:name=systemd:/b.service\n0::/a.service\n", Some("/a.service")),
            ("3:memory:/m\n2:pids:/p\n1:name=systemd:/b.service\n0::/\n", Some("/b.service")),
            ("9:name=systemd:/\n8:pids:/\n4:memory:/m\n1:cpu:/c\n0::/\n", Some("/m")),
            ("4:cpu,cpuacct:/docker/x\n3:cpuset:/s\n", Some("/docker/x")),
            ("4:cpuacct:/docker/x\n1:name=systemd:/\n0::/\n", Some("/docker/x")),
            ("0::/../../pod/x\n", Some("/../../pod/x")),
            ("0::/a:b/c:d\n", Some("/a:b/c:d")),
            ("0::/gone.service (deleted)\n", Some("/gone.service")),
            ("garbage\n0:\n0::relative\n", None),
            ("", None),
        ] {
            assert_eq!(telling(text).map(|one| one.path), expected, "{text:?}");
        }
    }

    #[test]
    fn files_are_read_as_bytes_and_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let process = dir.path().join("7");
        fs::create_dir(&process).unwrap();
        fs::write(process.join("comm"), b"a\"b\n\xff\n\n").unwrap();
        fs::write(process.join("cgroup"), b"0::/\xff.service\n").unwrap();
        let processes = Processes::new(dir.path());
        assert_eq!(processes.comm(7).unwrap(), b"a\"b\n\xff\n");
        assert_eq!(processes.cgroup_of(7).unwrap().as_str(), "/\u{fffd}.service");
        assert_eq!((processes.comm(8), processes.cgroup_of(8)), (None, None));
        assert_eq!(processes.cgroup_of_told(7), processes.cgroup_of(7));
        let processes = processes.with_other_numbers();
        assert_eq!((processes.comm(7), processes.cgroup_of_told(7)), (None, None), "7 is another process");
        assert!(processes.cgroup_of(7).is_some(), "7 is the one that is listed");
    }

    #[test]
    fn the_own_process_has_a_name_and_a_cgroup() {
        let processes = Processes::new("/proc");
        let pid = std::process::id();
        assert!(!processes.comm(pid).unwrap().is_empty());
        assert!(processes.cgroup_of(pid).unwrap().as_str().starts_with('/'));
    }

    proptest! {
        #[test]
        fn a_path_is_absolute_whatever_the_text(text in "([0-9]:|:|/|name=systemd|cpu|,|\n|\\PC){0,60}") {
            if let Some(Hierarchy { path, .. }) = telling(&text) {
                prop_assert!(path.starts_with('/'));
            }
        }
    }
}
