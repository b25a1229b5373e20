//! Which path a cgroup's number belongs to.
//!
//! Owns the search for the cgroup-v2 mount and the picture of its directories. The number that the programs
//! read from a socket's cgroup is the directory's inode number. Does I/O on `/proc/self/mountinfo` and below
//! the mount; time is passed in. Logs nothing.

use std::collections::HashMap;
use std::fs::{DirEntry, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, iter};

use super::cgroup_mounts::{CgroupMount, cgroup_mounts};
use super::cgroup_path::CgroupPath;
use super::delegation::Root;

/// The number of the hierarchy's root. On v1 and hybrid hosts sockets carry it, or 0.
pub const ROOT_ID: u64 = 1;

/// How many directories a walk looks at: a hundred times a busy node, some 10 MB of names.
pub const DIRECTORIES_MAX: usize = 100_000;

/// How deep a path may be: more than `PATH_MAX` has room for.
const DEPTH_MAX: usize = 2048;

/// The shortest time from one walk to the next. A walk of a thousand cgroups takes milliseconds.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// How much longer than a walk the time to the next is at least: whoever may make cgroups can make very many, and a new
/// one each second.
const REST_FACTOR: u32 = 50;

/// The longest that a walk is put off: listeners wait as long for the names of new cgroups.
const REST_MAX: Duration = Duration::from_secs(10);

/// A cgroup as its parent knows it; paths are put together on demand, since most are never asked for.
#[derive(Debug)]
struct Directory {
    parent: u64,
    name: Box<str>,
    /// Whether only root can make cgroups in it.
    is_roots: bool,
}

/// The answer for one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The cgroup's path below the mount, beginning with a slash.
    Found(CgroupPath),
    /// There is no such cgroup (unless the walk was truncated), and as numbers are not used twice there will
    /// be none.
    Gone,
    /// Not in the last walk, and it is too early for another, or that one failed: ask again.
    TooEarly,
}

/// The directories of the cgroup-v2 hierarchy as of the last walk.
#[derive(Debug)]
pub struct CgroupTree {
    mount: PathBuf,
    directories: HashMap<u64, Directory>,
    /// When the last walk began, whether it succeeded or not.
    tried: Option<Instant>,
    /// When the walk began that took the picture.
    walked: Option<Instant>,
    /// The shortest time from the last walk to the next.
    rest: Duration,
    truncated: bool,
    walks: u64,
    /// Why the last walk failed, if it did.
    trouble: Option<io::Error>,
}

impl CgroupTree {
    /// The tree of the cgroup-v2 mount that `mountinfo` (`/proc/self/mountinfo`) lists; `None` without one.
    ///
    /// A container sees its own part of the hierarchy and, given the host's, the whole: the whole is taken.
    pub fn locate(mountinfo: &Path) -> io::Result<Option<Self>> {
        let mut mounts = cgroup_mounts(&fs::read(mountinfo)?);
        mounts.retain(CgroupMount::is_v2);
        let is_whole = |mount: &&CgroupMount| fs::metadata(&mount.point).is_ok_and(|root| root.ino() == ROOT_ID);
        let mount = mounts.iter().find(is_whole).or(mounts.first());
        Ok(mount.map(|mount| Self::at(mount.point.clone())))
    }

    /// The tree below `mount`; nothing is read yet.
    #[must_use]
    pub fn at(mount: PathBuf) -> Self {
        let directories = HashMap::new();
        Self {
            mount,
            directories,
            tried: None,
            walked: None,
            rest: REFRESH_INTERVAL,
            truncated: false,
            walks: 0,
            trouble: None,
        }
    }

    /// Whether the mount shows the whole hierarchy and not a container's part: only then do programs
    /// attached to it see every socket.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        fs::metadata(&self.mount).is_ok_and(|root| root.ino() == ROOT_ID)
    }

    /// Where the hierarchy is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.mount
    }

    /// The path of the cgroup `id`, which was met before `now`. Walks the hierarchy when the last walk did not see it, at
    /// most once a second, and less often where a walk takes long. One walk answers for all that were met before it began.
    pub fn lookup(&mut self, id: u64, now: Instant) -> Lookup {
        if let Some(path) = self.path_of(id) {
            return Lookup::Found(path);
        }
        if self.walked.is_some_and(|walked| walked >= now) {
            return Lookup::Gone;
        }
        if self.tried.is_some_and(|tried| now.saturating_duration_since(tried) < self.rest) {
            return Lookup::TooEarly;
        }
        self.tried = Some(now);
        let began = Instant::now();
        self.trouble = self.walk().err();
        self.rest = rest_after(began.elapsed());
        if self.trouble.is_some() {
            return Lookup::TooEarly;
        }
        self.walked = Some(now);
        self.path_of(id).map_or(Lookup::Gone, Lookup::Found)
    }

    /// Whether the last walk saw the cgroup `id`.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.directories.contains_key(&id)
    }

    /// Whether the cgroup was there at the last walk and is no more. One look at its directory.
    #[must_use]
    pub fn has_gone(&self, id: u64) -> bool {
        let Some(path) = self.path_of(id) else { return false };
        match fs::metadata(self.mount.join(path.as_str().trim_start_matches('/'))) {
            // Numbers are not used twice, names are.
            Ok(directory) => directory.ino() != id,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// How many walks there have been: it moves when [`contains`](Self::contains) may have new answers.
    #[must_use]
    pub fn walks(&self) -> u64 {
        self.walks
    }

    /// The mount, if the last walk could not read it, and why.
    #[must_use]
    pub fn trouble(&self) -> Option<(&Path, &io::Error)> {
        self.trouble.as_ref().map(|error| (self.mount.as_path(), error))
    }

    /// Whether the last walk ended at its limit of 100 000 directories.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// How many cgroups the last walk saw.
    #[must_use]
    pub fn len(&self) -> usize {
        self.directories.len()
    }

    /// Whether it saw none, or there was no walk yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// The path of a cgroup that the last walk saw.
    #[must_use]
    pub fn path_of(&self, id: u64) -> Option<CgroupPath> {
        let entry = |id: u64| self.directories.get(&id);
        // From the inside out; it ends at the root, which has no entry.
        let directories: Vec<&Directory> =
            iter::successors(entry(id), |directory| entry(directory.parent)).take(DEPTH_MAX).collect();
        let (mut path, mut by_root) = (String::new(), None);
        for directory in directories.iter().rev() {
            path.extend(["/", &*directory.name]);
            if !directory.is_roots {
                by_root.get_or_insert(path.len());
            }
        }
        let by_root = by_root.unwrap_or(path.len());
        (!path.is_empty()).then(|| CgroupPath::new(path, by_root))
    }

    /// Takes a new picture. When the root cannot be read the old one stays.
    fn walk(&mut self) -> io::Result<()> {
        let root = fs::metadata(&self.mount)?;
        let mut walk = Walk::of(&root);
        walk.list(root.ino(), &self.mount)?;
        while let Some((id, path)) = walk.pending.pop() {
            match walk.list(id, &path) {
                // Without descriptors or memory the living would look gone.
                Err(error) if is_want(&error) => return Err(error),
                // A cgroup may be removed at any time during the walk, and its owner may close it to others.
                Ok(()) | Err(_) => {}
            }
        }
        self.directories = walk.seen;
        self.truncated = walk.truncated;
        self.walks += 1;
        Ok(())
    }
}

fn is_want(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

fn rest_after(walk: Duration) -> Duration {
    (walk * REST_FACTOR).clamp(REFRESH_INTERVAL, REST_MAX)
}

/// A walk under way.
struct Walk {
    root: Root,
    /// The hierarchy's; what is mounted over a part of it has numbers of its own.
    device: u64,
    seen: HashMap<u64, Directory>,
    /// Directories that may have subdirectories.
    pending: Vec<(u64, PathBuf)>,
    truncated: bool,
}

impl Walk {
    fn of(root: &Metadata) -> Self {
        let seen = HashMap::new();
        Self { root: Root::of(root), device: root.dev(), seen, pending: Vec::new(), truncated: false }
    }

    /// Takes in the subdirectories of `path`, whose number is `parent`.
    fn list(&mut self, parent: u64, path: &Path) -> io::Result<()> {
        for entry in fs::read_dir(path)?.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if self.seen.len() == DIRECTORIES_MAX {
                self.truncated = true;
                self.pending.clear();
                break;
            }
            if let Ok(metadata) = entry.metadata()
                && metadata.dev() == self.device
            {
                self.take(parent, &entry, &metadata);
            }
        }
        Ok(())
    }

    fn take(&mut self, parent: u64, entry: &DirEntry, metadata: &Metadata) {
        let name = entry.file_name().to_string_lossy().into();
        self.seen.insert(metadata.ino(), Directory { parent, name, is_roots: self.root.alone_writes(metadata) });
        // Two links, its name and its own dot, mean no subdirectory. Most cgroups are such leaves and hold
        // some fifty files that need not be listed.
        if metadata.nlink() != 2 {
            self.pending.push((metadata.ino(), entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn inode(path: &Path) -> u64 {
        fs::metadata(path).unwrap().ino()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_miss_walks_at_most_once_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().to_owned();
        let service = mount.join("system.slice/web.service");
        fs::create_dir_all(&service).unwrap();
        fs::write(mount.join("cgroup.procs"), "").unwrap();
        let file = inode(&mount.join("cgroup.procs"));
        let service_id = inode(&service);
        let start = Instant::now();
        let mut tree = CgroupTree::at(mount.clone());

        let path = CgroupPath::from("/system.slice/web.service");
        assert_eq!(tree.lookup(service_id, start), Lookup::Found(path.clone()));
        assert_eq!(tree.lookup(file, start), Lookup::Gone, "the walk began no earlier");
        assert_eq!(tree.lookup(file, start + SECOND / 4), Lookup::TooEarly);

        let job = mount.join("system.slice/job.service");
        fs::create_dir(&job).unwrap();
        let job_id = inode(&job);
        assert_eq!(tree.lookup(job_id, start + SECOND / 2), Lookup::TooEarly);
        assert_eq!(tree.lookup(service_id, start + SECOND / 2), Lookup::Found(path));
        assert_eq!(tree.walks(), 1);
        assert_eq!(tree.lookup(job_id, start + SECOND), Lookup::Found("/system.slice/job.service".into()));

        fs::remove_dir(&service).unwrap();
        assert_eq!(tree.lookup(file, start + SECOND * 2), Lookup::Gone);
        assert!(!tree.contains(service_id) && tree.contains(job_id));
        assert_eq!(tree.walks(), 3);
        assert!(!tree.is_truncated());
    }

    #[test]
    fn long_walks_are_rare() {
        let rests = [3, 40, 400].map(|walk_ms| rest_after(Duration::from_millis(walk_ms)));
        assert_eq!(rests, [SECOND, 2 * SECOND, 10 * SECOND]);
    }

    #[test]
    fn a_walk_sees_what_is_delegated() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("given/sshd.service/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(dir.path().join("given"), fs::Permissions::from_mode(0o777)).unwrap();
        let mut tree = CgroupTree::at(dir.path().to_owned());
        let expected = CgroupPath::new("/given/sshd.service/inner".into(), "/given".len());
        assert_eq!(tree.lookup(inode(&inner), Instant::now()), Lookup::Found(expected));
    }

    #[test]
    fn one_walk_answers_for_all_that_were_met_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<u64> = (0..60)
            .map(|number| {
                let job = dir.path().join(format!("job-{number}.service"));
                fs::create_dir(&job).unwrap();
                let id = inode(&job);
                // Kept open: the file system would give the number to the next one.
                std::mem::forget(fs::File::open(&job).unwrap());
                fs::remove_dir(&job).unwrap();
                id
            })
            .collect();
        let mut tree = CgroupTree::at(dir.path().to_owned());
        let now = Instant::now();
        assert!(ids.iter().all(|id| tree.lookup(*id, now) == Lookup::Gone));
        assert_eq!(tree.walks(), 1);
    }

    #[test]
    fn an_unreadable_mount_makes_nobody_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("unified");
        fs::create_dir_all(mount.join("a.service")).unwrap();
        let id = inode(&mount.join("a.service"));
        let start = Instant::now();
        let mut tree = CgroupTree::at(mount.clone());
        assert_eq!(tree.lookup(id, start), Lookup::Found("/a.service".into()));
        fs::remove_dir_all(&mount).unwrap();
        assert_eq!(tree.lookup(u64::MAX, start + SECOND), Lookup::TooEarly);
        assert_eq!(tree.lookup(u64::MAX, start + SECOND), Lookup::TooEarly, "that walk saw nothing");
        assert!(tree.contains(id));
    }

    #[test]
    fn without_a_mount_there_is_no_tree() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(CgroupTree::locate(file.path()).unwrap().is_none());
        assert!(CgroupTree::locate(Path::new("/proc/self/no-such-file")).is_err());
    }

    #[test]
    fn a_mount_that_shows_a_part_serves_where_there_is_no_whole() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a.service")).unwrap();
        let mountinfo = dir.path().join("mountinfo");
        let mount = dir.path().display();
        fs::write(&mountinfo, format!("1 2 0:3 / {mount} rw - cgroup2 none rw\n")).unwrap();
        let mut tree = CgroupTree::locate(&mountinfo).unwrap().unwrap();
        let id = inode(&dir.path().join("a.service"));
        assert_eq!(tree.lookup(id, Instant::now()), Lookup::Found("/a.service".into()));
    }

    /// Cgroups of this machine's hierarchy, removed innermost first.
    struct Scratch(Vec<PathBuf>);

    impl Drop for Scratch {
        fn drop(&mut self) {
            for dir in self.0.iter().rev() {
                let _ = fs::remove_dir(dir);
            }
        }
    }

    #[test]
    fn live_real_cgroups_are_found_by_their_number() {
        let mut tree = CgroupTree::locate(Path::new("/proc/self/mountinfo"))
            .unwrap()
            .expect("this test needs a cgroup-v2 mount; leave it out with `-- --skip live_`");
        assert_eq!(inode(&tree.mount), ROOT_ID);
        let outer = tree.mount.join(format!("tracer-test-{}.slice", std::process::id()));
        let inner = outer.join("inner.service");
        let scratch = Scratch(vec![outer.clone(), inner.clone()]);
        fs::create_dir(&outer).expect("making cgroups takes root; leave it out with `-- --skip live_`");
        fs::create_dir(&inner).unwrap();
        let path = format!("/tracer-test-{}.slice/inner.service", std::process::id());
        let inner_id = inode(&inner);
        let start = Instant::now();
        assert_eq!(tree.lookup(inner_id, start), Lookup::Found(path.as_str().into()));
        drop(scratch);
        assert_eq!(tree.lookup(u64::MAX, start + SECOND), Lookup::Gone);
        assert!(!tree.contains(inner_id));
    }
}
