//! The node's network namespaces: which there are, and how the worker thread enters one.
//!
//! Owns discovery ([`discover`]) and the visit ([`visit`]). Reads `/proc/<pid>/ns/net` and the directories
//! in which `ip netns`, CNI plugins and Docker mount namespaces; hands inode numbers and paths to the
//! worker. Keeps no state, logs nothing, and holds no namespace's descriptor beyond a visit: it would keep
//! a dead pod's interfaces alive.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, fs, io};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;

use super::{shortage, sys};
use crate::errand::{Errands, Limits};

mod host;

#[cfg(test)]
pub(crate) mod scratch;
#[cfg(test)]
mod tests;

/// `NSFS_MAGIC`: the file system of namespace files. A file left behind in `/run/netns` after its mount
/// went away is on another one.
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// How many paths are kept for one namespace. One is enough in nearly all cases; the others serve when the
/// process behind the first ends before the visit.
const PATHS_MAX: usize = 4;

/// How many names are kept for one namespace.
const NAMES_MAX: usize = 4;

/// How many namespaces are kept: far more than the few hundred pods of a node, and a few MB at most.
const NAMESPACES_MAX: usize = 16_384;

/// Where namespaces are looked for.
#[derive(Clone, Debug)]
pub struct Roots {
    /// The proc file system of the host's PID namespace.
    pub proc: PathBuf,
    /// Directories of mounted namespaces; the file's name becomes the namespace's, first directory first.
    pub netns_dirs: Vec<PathBuf>,
    /// Reads those, each by itself: what is mounted there may hang.
    pub reader: MountReader,
}

/// The thread that reads directories of mounted namespaces.
#[derive(Clone)]
pub struct MountReader(Arc<Mutex<Errands<PathBuf>>>);

/// A directory is read in a millisecond. Each may be left behind once.
const READER_LIMITS: Limits = Limits { time: Duration::from_secs(2), left_behind: 4 };

impl Default for MountReader {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Errands::new("mounts", READER_LIMITS))))
    }
}

impl fmt::Debug for MountReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MountReader")
    }
}

impl MountReader {
    fn read(&self, dir: &Path) -> io::Result<Vec<Mount>> {
        let path = dir.to_owned();
        let mut reader = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reader.run(path.clone(), move || mounts(&path)).flatten()
    }
}

/// A file below a directory of mounted namespaces, and which one it is, if any.
type Mount = (PathBuf, io::Result<Option<u32>>);

fn mounts(dir: &Path) -> io::Result<Vec<Mount>> {
    // A directory lists in an order of its own, which changes when files come.
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    Ok(paths.into_iter().map(|path| (path.clone(), mount_inum(&path))).collect())
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            netns_dirs: ["/run/netns", "/var/run/netns", "/run/docker/netns"].map(PathBuf::from).into(),
            reader: MountReader::default(),
        }
    }
}

/// A network namespace as found in one scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsRef {
    /// The inode number; the kernel reuses it as soon as the namespace is gone.
    pub inum: u32,
    /// Files that open it, the most durable first (a mount outlives processes). Never empty, at most four.
    pub paths: Vec<PathBuf>,
    /// The names of its mounted files, such as one given to `ip netns add`: those of the first directory first, then
    /// from A. At most four.
    pub names: Vec<String>,
    /// The lowest PID of a process inside; `None` when only a mount keeps the namespace.
    pub lowest_pid: Option<u32>,
}

/// What one scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The inode number of the host's namespace: that of PID 1, or of kernel threads where PID 1 is shielded.
    pub host: u32,
    /// All namespaces, the host's among them, by inode number.
    pub namespaces: BTreeMap<u32, NetnsRef>,
    /// Processes and files that could not be read for want of rights: namespaces may be missing.
    pub denied: usize,
    /// Sightings of namespaces beyond the limit of 16 384, which were left out.
    pub beyond_limit: usize,
    /// Directories that were not read.
    pub unread: Vec<Unread>,
}

/// A directory of mounted namespaces that was not read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Which.
    pub path: PathBuf,
    /// `TimedOut` if it hangs.
    pub kind: io::ErrorKind,
    /// In words.
    pub cause: String,
}

/// Finds every network namespace that a process lives in or a file is mounted from.
///
/// Threads that left their process's namespace are not looked at. What vanishes during the scan is passed
/// over. Fails when the host's namespace or the list of processes cannot be read.
pub fn discover(roots: &Roots) -> io::Result<Discovery> {
    let mut found = Discovery {
        host: host::inum(&roots.proc)?,
        namespaces: BTreeMap::new(),
        denied: 0,
        beyond_limit: 0,
        unread: Vec::new(),
    };
    for dir in &roots.netns_dirs {
        found.take_mounts(dir, roots.reader.read(dir));
    }
    found.scan_processes(&roots.proc)?;
    Ok(found)
}

/// The inode number in a link such as `net:[4026531840]`, read without following it.
fn link_inum(path: &Path) -> io::Result<u32> {
    let target = fs::read_link(path)?;
    target
        .to_str()
        .and_then(|link| link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a link to a network namespace"))
}

/// The inode number of a mounted namespace file; `None` for any other file.
fn mount_inum(path: &Path) -> io::Result<Option<u32>> {
    if rustix::fs::statfs(path)?.f_type != NSFS_MAGIC {
        return Ok(None);
    }
    Ok(u32::try_from(rustix::fs::stat(path)?.st_ino).ok())
}

impl Discovery {
    /// Whether nothing was passed over.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.denied == 0 && self.beyond_limit == 0 && self.unread.is_empty()
    }

    fn take_mounts(&mut self, dir: &Path, mounts: io::Result<Vec<Mount>>) {
        let mounts = match mounts {
            Ok(mounts) => mounts,
            // Where nobody mounts namespaces there is no directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let (kind, cause) = (error.kind(), shortage::explain(&error));
                return self.unread.push(Unread { path: dir.to_owned(), kind, cause });
            }
        };
        for (path, inum) in mounts {
            match inum {
                Ok(Some(inum)) => self.saw_mount(inum, path),
                Ok(None) => {}
                Err(error) => self.passed_over(&error),
            }
        }
    }

    fn scan_processes(&mut self, proc: &Path) -> io::Result<()> {
        let mut pids: Vec<u32> =
            fs::read_dir(proc)?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        for pid in pids {
            let path = proc.join(format!("{pid}/ns/net"));
            match link_inum(&path) {
                Ok(inum) => self.saw_process(inum, pid, path),
                Err(error) => self.passed_over(&error),
            }
        }
        Ok(())
    }

    /// A directory that does not exist and a process that ended are no news; missing rights are.
    fn passed_over(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::PermissionDenied {
            self.denied += 1;
        }
    }

    fn saw_mount(&mut self, inum: u32, path: PathBuf) {
        let Some(netns) = self.namespace(inum) else {
            return;
        };
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { return };
        // `/var/run` is mostly a link to `/run`: the second sighting adds nothing.
        if netns.names.len() < NAMES_MAX && !netns.names.contains(&name) {
            netns.names.push(name);
            // One of them leads there as well as the others.
            if netns.paths.is_empty() {
                netns.paths.push(path);
            }
        }
    }

    /// To be called in the order of PIDs.
    fn saw_process(&mut self, inum: u32, pid: u32, path: PathBuf) {
        let Some(netns) = self.namespace(inum) else {
            return;
        };
        netns.lowest_pid.get_or_insert(pid);
        if netns.paths.len() < PATHS_MAX {
            netns.paths.push(path);
        }
    }

    /// The entry of `inum`, made on first sight while there is room.
    fn namespace(&mut self, inum: u32) -> Option<&mut NetnsRef> {
        if self.namespaces.len() >= NAMESPACES_MAX && !self.namespaces.contains_key(&inum) {
            self.beyond_limit += 1;
            return None;
        }
        Some(self.namespaces.entry(inum).or_insert_with(|| NetnsRef {
            inum,
            paths: Vec::new(),
            names: Vec::new(),
            lowest_pid: None,
        }))
    }
}

/// Why a visit did not take place or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// No known path leads to that namespace any more. Namespaces die: nothing to log.
    #[error("the network namespace is gone")]
    Gone,
    /// The namespace is there but could not be entered.
    #[error("cannot enter network namespace {inum} (it takes CAP_SYS_ADMIN and CAP_SYS_PTRACE)")]
    Enter {
        /// The namespace that was to be visited.
        inum: u32,
        /// The refusal.
        source: io::Error,
    },
    /// Entering or reading it hangs.
    #[error("network namespace {inum} is not read: entering or reading it hangs")]
    Hung {
        /// The namespace that was to be visited.
        inum: u32,
    },
    /// The thread could not return to its own namespace and must not be used any further.
    #[error("cannot return to the thread's own network namespace")]
    Stranded {
        /// The refusal.
        source: io::Error,
    },
}

/// The proof that the calling thread is inside a namespace.
#[derive(Debug)]
pub struct Inside<'a> {
    netns: &'a NetnsRef,
}

impl Inside<'_> {
    /// The inode number of the namespace that the thread is in.
    #[must_use]
    pub fn inum(&self) -> u32 {
        self.netns.inum
    }

    /// The namespace's cookie, which unlike the inode number is never used again; `None` before Linux 5.14.
    pub fn net_cookie(&self) -> io::Result<Option<u64>> {
        // UDP, as a TCP socket would show in the namespace's sockstat, and no port is taken without bind().
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        match sys::netns_cookie(socket.as_fd()) {
            Ok(cookie) => Ok(Some(cookie)),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Runs `pass` with the calling thread inside `netns`, then brings the thread back.
///
/// Only for threads that nobody else relies on (the worker's): what `pass` spawns is born inside, and
/// `/proc/net` still shows the main thread's namespace, so `pass` reads `/proc/thread-self/net`.
pub fn visit<T>(netns: &NetnsRef, pass: impl FnOnce(&Inside<'_>) -> T) -> Result<T, VisitError> {
    let target = open(netns)?;
    let refused = |source| VisitError::Enter { inum: netns.inum, source };
    let home = Home::remember().map_err(refused)?;
    enter(target.as_fd()).map_err(refused)?;
    drop(target);
    let result = pass(&Inside { netns });
    home.go_back().map_err(|source| VisitError::Stranded { source })?;
    Ok(result)
}

/// Opens `netns` by the first of its paths that still leads to it.
fn open(netns: &NetnsRef) -> Result<OwnedFd, VisitError> {
    let mut refusal = None;
    for path in &netns.paths {
        match open_if_same(path, netns.inum) {
            Ok(Some(file)) => return Ok(file),
            Ok(None) | Err(Errno::NOENT | Errno::SRCH | Errno::NOTDIR) => {}
            Err(error) => refusal = Some(error),
        }
    }
    Err(refusal.map_or(VisitError::Gone, |error| VisitError::Enter { inum: netns.inum, source: error.into() }))
}

/// Opens `path` if it is the namespace `inum`; PIDs and file names find new owners, hence the look at what
/// was opened.
fn open_if_same(path: &Path, inum: u32) -> Result<Option<OwnedFd>, Errno> {
    // NONBLOCK: whatever has taken the file's place, a FIFO too, must not hold up the worker.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let same = rustix::fs::fstatfs(&file)?.f_type == NSFS_MAGIC && rustix::fs::fstat(&file)?.st_ino == u64::from(inum);
    Ok(same.then_some(file))
}

fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// The namespace that the thread came from; returns there when dropped, so that a panic cannot strand it.
struct Home(Option<OwnedFd>);

impl Home {
    fn remember() -> io::Result<Self> {
        fs::File::open("/proc/thread-self/ns/net").map(|file| Self(Some(file.into())))
    }

    fn go_back(mut self) -> io::Result<()> {
        self.0.take().map_or(Ok(()), |home| enter(home.as_fd()))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(home) = self.0.take() {
            // Reached by a panic, or when the thread never left: nobody is there to be told.
            let _ = enter(home.as_fd());
        }
    }
}
