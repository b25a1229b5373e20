//! Cgroups of a test: directories in the v2 hierarchy, removed on drop.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::setting::patient;

/// A cgroup, and those around it that were made for it.
pub(crate) struct Cgroup {
    path: PathBuf,
    /// Outermost first.
    made: Vec<PathBuf>,
}

/// Where the v2 hierarchy is mounted.
pub(crate) fn root() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let Some(mount) = mount.and_then(|line| line.split(' ').nth(1)) else {
        panic!("owners by cgroup need cgroup v2 mounted");
    };
    PathBuf::from(mount)
}

impl Cgroup {
    /// Makes `name`, a path below the hierarchy's root, which must not exist.
    pub(crate) fn make(name: &str) -> Self {
        let path = root().join(name);
        let missing = path.ancestors().take_while(|path| !path.exists());
        let mut made: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        made.reverse();
        assert!(!made.is_empty(), "{} exists", path.display());
        for directory in &made {
            std::fs::create_dir(directory).unwrap();
        }
        Self { path, made }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in self.made.iter().rev() {
            remove(directory);
        }
    }
}

fn remove(directory: &Path) {
    // A process that was waited for may still be counted for a moment.
    let deadline = Instant::now() + patient(Duration::from_secs(1));
    while Instant::now() < deadline {
        if std::fs::remove_dir(directory).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!("could not remove {}", directory.display());
}
