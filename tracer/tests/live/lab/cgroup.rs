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

    /// Gives it to an ordinary user, as a service manager does whose unit may make cgroups of its own.
    pub(crate) fn delegate(&self) {
        const NOBODY: u32 = 65_534;
        std::os::unix::fs::chown(&self.path, Some(NOBODY), Some(NOBODY)).unwrap();
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

/// A unit that the test's own process is in, so that sockets which it makes have an owner.
pub(crate) struct Unit {
    // Left before it is removed.
    _inside: Inside,
    _cgroup: Cgroup,
    /// Value of the label `unit`.
    pub(crate) name: String,
}

impl Unit {
    pub(crate) fn enter(part: &str) -> Self {
        let name = format!("tracer-live-{}-{part}.service", std::process::id());
        let cgroup = Cgroup::make(&name);
        Self { _inside: cgroup.enter(), _cgroup: cgroup, name }
    }
}

/// The test's own process in a cgroup; back where it was on drop.
struct Inside {
    /// The `cgroup.procs` of where it was.
    before: PathBuf,
}

impl Cgroup {
    /// Moves the test's own process: sockets that it makes from now on are this cgroup's.
    fn enter(&self) -> Inside {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let before = root().join(own).join("cgroup.procs");
        move_here(&self.path.join("cgroup.procs")).unwrap();
        Inside { before }
    }
}

fn move_here(procs: &Path) -> std::io::Result<()> {
    std::fs::write(procs, std::process::id().to_string())
}

impl Drop for Inside {
    fn drop(&mut self) {
        // A test that failed must not fail again here.
        if let Err(error) = move_here(&self.before) {
            eprintln!("the test stays in its cgroup: {}: {error}", self.before.display());
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in self.made.iter().rev() {
            remove(directory);
        }
    }
}

pub(super) fn remove(directory: &Path) {
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
