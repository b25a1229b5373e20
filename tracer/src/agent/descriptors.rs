//! Open files of the processes that listen, and how many each may have.
//!
//! Owns the reading of `/proc/<pid>/fd`, `limits` and `comm`, once for each process and pass, and its bounds.
//! The worker says which processes; the exporter finds them in the view by their id. A process that has ended,
//! or that may not be looked at, is absent.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use tracer_ebpf::counter::ListenerKey;

use crate::pipeline::{counters::Counts, snapshot::Listener};

/// Processes looked at in one pass: some 30 µs each. Nodes have a few hundred that listen.
const PROCESSES_MAX: usize = 2048;

/// Descriptors listed in one pass, where the kernel does not tell their number (before 6.2): about a
/// microsecond each.
const LISTED_MAX: u64 = 65_536;

/// A process's open files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// Name of the process, to be compared with that in labels: ids are used again.
    pub comm: Vec<u8>,
    /// Descriptors that are open.
    pub open: u64,
    /// `RLIMIT_NOFILE`, the soft one: no descriptor has this number or a higher one.
    pub limit: u64,
}

/// Open files by process; `None` for one that the bounds left out.
pub type ByProcess = HashMap<u32, Option<OpenFiles>>;

/// Reads below a proc file system, that of the host's PID namespace.
#[derive(Clone, Debug)]
pub struct Descriptors {
    proc: PathBuf,
    processes_max: usize,
    listed_max: u64,
}

impl Descriptors {
    /// Reads below `proc`, which is `/proc` outside tests.
    #[must_use]
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), processes_max: PROCESSES_MAX, listed_max: LISTED_MAX }
    }

    /// The open files of these processes.
    #[must_use]
    pub fn read(&self, processes: &BTreeSet<u32>) -> ByProcess {
        let mut list_left = self.listed_max;
        let mut found = ByProcess::with_capacity(processes.len());
        for (number, tgid) in processes.iter().enumerate() {
            if number >= self.processes_max {
                found.insert(*tgid, None);
            } else if let Ok(open_files) = self.of(*tgid, &mut list_left) {
                found.insert(*tgid, open_files);
            }
        }
        found
    }

    /// One process; `None` if it has more descriptors than may still be listed.
    fn of(&self, tgid: u32, list_left: &mut u64) -> io::Result<Option<OpenFiles>> {
        let process = self.proc.join(tgid.to_string());
        let mut comm = fs::read(process.join("comm"))?;
        comm.pop_if(|last| *last == b'\n');
        let limits = fs::read_to_string(process.join("limits"))?;
        let limit = soft_limit(&limits).ok_or(io::ErrorKind::InvalidData)?;
        Ok(count(&process.join("fd"), list_left)?.map(|open| OpenFiles { comm, open, limit }))
    }
}

/// The entries of a descriptor directory: the directory's size from Linux 6.2 on, else one by one.
fn count(directory: &Path, list_left: &mut u64) -> io::Result<Option<u64>> {
    let metadata = fs::metadata(directory)?;
    // Who listens has a descriptor, so zero means that the kernel does not tell. Sizes of directories in
    // other file systems are no counts, which only tests have here.
    if metadata.len() > 0 && is_proc(directory) {
        return Ok(Some(metadata.len()));
    }
    let mut open = 0;
    for entry in fs::read_dir(directory)? {
        entry?;
        if *list_left == 0 {
            return Ok(None);
        }
        *list_left -= 1;
        open += 1;
    }
    Ok(Some(open))
}

/// Whether `path` is in a proc file system.
fn is_proc(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// The first number of the line `Max open files  1024  4096  files`.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The processes that hold listeners: those that the pass found, else the caller of `listen()`.
#[must_use]
pub fn holders<'a>(
    listeners: impl IntoIterator<Item = (&'a ListenerKey, &'a Listener)>,
    counts: &Counts,
) -> BTreeSet<u32> {
    let mut held = BTreeSet::new();
    let mut unheld = Vec::new();
    for (key, listener) in listeners {
        held.extend(listener.holders.iter().map(|holder| holder.tgid));
        if listener.holders.is_empty() {
            unheld.push(key);
        }
    }
    if !unheld.is_empty() {
        let callers: HashMap<_, _> = counts.listeners.iter().map(|(key, stats)| (key, stats.owner_tgid)).collect();
        held.extend(unheld.iter().filter_map(|key| callers.get(key)).filter(|tgid| **tgid != 0));
    }
    held
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracer_ebpf::counter::{ListenerSocket, ListenerStats};

    use super::*;
    use crate::pipeline::snapshot;

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max processes             7821                 7821                 processes 
Max open files            1024                 524288               files     
Max locked memory         8388608              8388608              bytes     
";

    /// A process's directory with this many descriptors.
    fn process(proc: &Path, tgid: u32, open: u32) {
        let dir = proc.join(tgid.to_string());
        fs::create_dir_all(dir.join("fd")).unwrap();
        fs::write(dir.join("comm"), "server\n").unwrap();
        fs::write(dir.join("limits"), LIMITS).unwrap();
        for fd in 0..open {
            fs::write(dir.join("fd").join(fd.to_string()), "").unwrap();
        }
    }

    /// How many files a process has open; 0 if a bound left it out.
    fn open_of(found: &ByProcess, tgid: u32) -> u64 {
        found[&tgid].as_ref().map_or(0, |files| files.open)
    }

    #[test]
    fn the_soft_limit_is_the_first_number() {
        assert_eq!(soft_limit(LIMITS), Some(1024));
        for odd in ["", "Max open files", "Max open files unlimited unlimited files"] {
            assert_eq!(soft_limit(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn descriptors_are_listed_where_their_number_is_not_told() {
        let proc = tempfile::tempdir().unwrap();
        process(proc.path(), 7, 3);
        fs::create_dir(proc.path().join("8")).unwrap();
        let found = Descriptors::new(proc.path()).read(&BTreeSet::from([7, 8, 9]));
        let expected = OpenFiles { comm: b"server".to_vec(), open: 3, limit: 1024 };
        assert_eq!(found, ByProcess::from([(7, Some(expected))]), "the others cannot be read");
    }

    #[test]
    fn bounds_leave_out_and_say_so() {
        let proc = tempfile::tempdir().unwrap();
        for tgid in [7, 8, 9] {
            process(proc.path(), tgid, 3);
        }
        let all = BTreeSet::from([7, 8, 9]);
        let read = |processes_max, listed_max| {
            let descriptors = Descriptors { processes_max, listed_max, ..Descriptors::new(proc.path()) };
            let found = descriptors.read(&all);
            [7, 8, 9].map(|tgid| open_of(&found, tgid))
        };
        assert_eq!(read(2, 100), [3, 3, 0]);
        assert_eq!(read(3, 6), [3, 3, 0]);
        assert_eq!(read(3, 5), [3, 0, 0]);
    }

    #[test]
    fn the_kernel_tells_of_this_process() {
        let pid = std::process::id();
        let held: Vec<_> = (0..40).map(|_| fs::File::open("/proc/self/comm").unwrap()).collect();
        let found = Descriptors::new("/proc").read(&BTreeSet::from([pid]));
        let files = found[&pid].as_ref().unwrap();
        assert!(files.open >= 40 && files.open <= files.limit, "{files:?}");
        let listed = fs::read_dir("/proc/self/fd").unwrap().count();
        // Other tests open and close theirs at the same time.
        assert!(listed.abs_diff(usize::try_from(files.open).unwrap()) < 40, "{files:?}, {listed} listed");
        drop(held);
    }

    #[test]
    fn holders_are_those_that_the_pass_found_or_the_caller() {
        let key = |port| ListenerKey { netns: 1, cgroup: 7, address: [0; 4], port, zero: [0; 3] };
        let socket = |port, holder_tgid| ListenerSocket {
            key: key(port),
            sock: u64::from(port),
            inode: u64::from(port),
            holder_cgroup: 7,
            holder_tgid,
            netns_inum: 42,
            accept_queue_length: 0,
            accept_queue_limit: 5,
            syn_queue_length: 0,
            sk_drops: 0,
            holder_comm: [0; 16],
        };
        let stats = |owner_tgid| ListenerStats { owner_tgid, ..ListenerStats::default() };
        let counts = Counts {
            listeners: vec![(key(80), stats(99)), (key(81), stats(30)), (key(82), stats(0)), (key(83), stats(50))],
            ..Counts::default()
        };
        let listeners = snapshot::join(&[socket(80, 10), socket(80, 11), socket(81, 0), socket(82, 0)]);
        assert_eq!(holders(&listeners, &counts), BTreeSet::from([10, 11, 30]));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(Max open files|[0-9]{1,20}|[ \n]|\\PC){0,20}") {
            let _ = soft_limit(&text);
        }
    }
}
