//! A memory cgroup with the limit that the unit, the manifests and the chart give the agent, removed on drop.
//!
//! Both versions: v1 (and hybrid hosts) by its own hierarchy, v2 below its root.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cgroup;

/// Limit of the agent's unit, manifests and chart.
const LIMIT_BYTES: u64 = 128 << 20;

/// Files of a memory cgroup, by version.
struct Files {
    limit: &'static str,
    peak: &'static str,
}

const V1: Files = Files { limit: "memory.limit_in_bytes", peak: "memory.max_usage_in_bytes" };
/// `memory.peak` is there from 5.19 on.
const V2: Files = Files { limit: "memory.max", peak: "memory.peak" };

/// The cgroup.
pub(crate) struct MemoryCgroup {
    path: PathBuf,
    files: Files,
}

impl MemoryCgroup {
    /// `None`, and a line that says so, where this machine has no memory controller to be used.
    pub(crate) fn make() -> Option<Self> {
        let (root, files) = hierarchy()?;
        let path = root.join(format!("tracer-live-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let cgroup = Self { path, files };
        std::fs::write(cgroup.path.join(cgroup.files.limit), LIMIT_BYTES.to_string()).unwrap();
        Some(cgroup)
    }

    /// The same command, run in this cgroup from its first instruction on.
    pub(crate) fn confine(&self, command: &Command) -> Command {
        let mut confined = Command::new("sh");
        confined.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(self.path.join("cgroup.procs"));
        confined.arg(command.get_program()).args(command.get_args());
        confined
    }

    /// The most that was charged at any time: the process, its page cache, and the kernel's memory for it, maps among
    /// that. `None` if the kernel does not tell.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        let peak = std::fs::read_to_string(self.path.join(self.files.peak)).ok()?;
        Some(peak.trim().parse().unwrap())
    }
}

fn hierarchy() -> Option<(PathBuf, Files)> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let v1 = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let v1 = v1.into_iter().find(|mount| mount[2] == "cgroup" && mount[3].split(',').any(|option| option == "memory"));
    if let Some(mount) = v1 {
        return Some((PathBuf::from(mount[1]), V1));
    }
    let root = cgroup::root();
    if has_memory(&root.join("cgroup.controllers")) {
        std::fs::write(root.join("cgroup.subtree_control"), "+memory").unwrap();
        return Some((root, V2));
    }
    println!("no memory controller here: the agent's resident memory alone is held against the bound");
    None
}

fn has_memory(controllers: &Path) -> bool {
    std::fs::read_to_string(controllers).is_ok_and(|list| list.split_whitespace().any(|name| name == "memory"))
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        cgroup::remove(&self.path);
    }
}
