//! Walks over the node's sockets: which iterators a pass needs, how one is run, and the maps in which
//! the socket pass leaves its counts.
//!
//! A walk runs on the calling thread, in the kernel; `agent::socket_pass` says when. What the counts
//! mean is `pipeline::sockets`' business.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
};

use aya::{
    Ebpf,
    programs::{Iter, Program},
};
use tracer_ebpf::{
    counter::{CLOSE_WAIT_SEEN_MAX, ListenerSocket, SHARED_SOCKETS_MAX, SocketWalk, SocketsKey, SocketsRow},
    state,
};
use zerocopy::FromBytes;

use super::{
    hooks::{Attach, Report, Signal},
    identity::Identity,
    load::Kernel,
    maps::Fill,
    sys::{self, Map, Update},
    table::Table,
};

/// What one `read()` asks for: more than the 32 KiB that the kernel gathers, so that it never stops
/// a walk sooner than it must.
pub(super) const READ_BYTES: usize = 64 << 10;

/// Counts the sockets of one namespace.
const COUNTS_BY_NETNS: &str = "sockets_by_netns";

/// The programs of one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walks {
    /// Walks the whole node at once.
    pub node: Option<&'static str>,
    /// Walks the namespace of the calling thread, so once in each.
    pub netns: Option<&'static str>,
    /// Whether the node's walk tells of listeners, else the namespaces' ones do.
    pub node_has_listeners: bool,
    /// What finds the listeners that no open file leads to, once in each namespace.
    pub table: Option<ListeningTable>,
    /// Whether sockets are counted.
    pub counts_sockets: bool,
}

/// How the kernel's table of listening sockets is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListeningTable {
    /// It is asked for.
    SockDiag,
    /// By a walk over all sockets of the namespace, so only where one is missing.
    Walk(&'static str),
}

impl ListeningTable {
    /// `None` where the listeners' own walk shows all of it.
    fn choose(report: &Report) -> Option<Self> {
        let hooks = &report.of(Signal::ListenerPass).filter(|pass| pass.rung.is_some())?.hooks;
        let has = |attach: Attach| hooks.contains(&attach.describe());
        if !has(Attach::Iterator("task_file")) {
            None
        } else if has(Attach::SockDiag) {
            Some(Self::SockDiag)
        } else {
            has(Attach::Iterator("tcp")).then_some(Self::Walk("listeners_by_netns"))
        }
    }
}

impl Walks {
    /// Whether sockets are counted by a walk in each namespace.
    #[must_use]
    pub fn counts_by_netns(&self) -> bool {
        self.netns == Some(COUNTS_BY_NETNS)
    }

    /// The fewest walks that list listeners and, if it is their turn, count sockets.
    #[must_use]
    pub fn plan(report: &Report, sockets_are_due: bool) -> Self {
        let stands = |signal, rung| report.stands_on(signal, rung);
        let sockets = |rung| sockets_are_due && stands(Signal::SocketPass, rung);
        let (by_task, by_netns) = (sockets("task_file"), sockets("tcp"));
        // The programs that count sockets write listeners too.
        let choose = |counts, lists, counting, listing| {
            if counts {
                Some(counting)
            } else if lists {
                Some(listing)
            } else {
                None
            }
        };
        let listeners = |rung| stands(Signal::ListenerPass, rung);
        Self {
            node: choose(by_task, listeners("task_file"), "sockets_by_task", "listeners_by_task"),
            netns: choose(by_netns, listeners("tcp"), COUNTS_BY_NETNS, "listeners_by_netns"),
            node_has_listeners: listeners("task_file"),
            table: ListeningTable::choose(report),
            counts_sockets: by_task || by_netns,
        }
    }
}

/// The loaded iterators, for whichever thread walks. A walk shows the namespace of the thread that begins it.
#[derive(Clone, Debug)]
pub struct Walker(Arc<Iterators>);

#[derive(Debug)]
pub(super) struct Iterators {
    pub(super) programs: BTreeMap<String, OwnedFd>,
    pub(super) identity: Identity,
    pub(super) reads_cgroups: bool,
}

impl Kernel {
    /// The iterators that are loaded by now.
    pub fn walker(&mut self) -> io::Result<Walker> {
        let (identity, reads_cgroups) = (self.identity(), self.reads_cgroups());
        let mut programs = BTreeMap::new();
        for (name, program) in self.ebpf_mut().programs() {
            if let Program::Iter(program) = program
                && let Ok(fd) = program.fd()
            {
                programs.insert(name.to_owned(), fd.as_fd().try_clone_to_owned()?);
            }
        }
        Ok(Walker(Arc::new(Iterators { programs, identity, reads_cgroups })))
    }

    /// Runs an iterator to its end; hands on each listener as it is read.
    pub fn walk(&mut self, program: &str, each: impl FnMut(&ListenerSocket)) -> io::Result<()> {
        self.walker()?.walk(program, each)
    }
}

impl Walker {
    /// Runs an iterator to its end; hands on each listener as it is read.
    pub fn walk(&self, program: &str, each: impl FnMut(&ListenerSocket)) -> io::Result<()> {
        let named = |error: io::Error| io::Error::new(error.kind(), WalkFailed { program: program.to_owned(), error });
        self.run_to_end(program, each).map_err(named)
    }

    /// Whether programs read the cgroups of sockets.
    #[must_use]
    pub fn reads_cgroups(&self) -> bool {
        self.0.reads_cgroups
    }

    pub(super) fn identity(&self) -> Identity {
        self.0.identity
    }

    /// Starts a walk in the namespace of the calling thread; reading the file goes on with it.
    pub(super) fn open(&self, program: &str) -> io::Result<File> {
        let absent = || io::Error::other("the iterator is not loaded");
        let program = self.0.programs.get(program).ok_or_else(absent)?;
        sys::open_iterator(sys::link_iterator(program.as_fd())?.as_fd())
    }

    fn run_to_end(&self, program: &str, mut each: impl FnMut(&ListenerSocket)) -> io::Result<()> {
        let mut file = self.open(program)?;
        let (mut buffer, mut filled) = (vec![0; READ_BYTES], 0);
        loop {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => return Ok(()),
                Ok(read) => filled = take_records(&mut buffer, filled + read, &mut each),
                // The kernel takes a break after a million files that wrote nothing.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Hands on the whole records of what was read; moves the rest to the front and returns how much that is.
fn take_records(buffer: &mut [u8], filled: usize, each: &mut impl FnMut(&ListenerSocket)) -> usize {
    let records = buffer[..filled].chunks_exact(size_of::<ListenerSocket>());
    let rest = records.remainder().len();
    records.filter_map(|record| ListenerSocket::read_from_bytes(record).ok()).for_each(|record| each(&record));
    buffer.copy_within(filled - rest..filled, 0);
    rest
}

/// Which walk failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("the walk `{program}`: {error}")]
struct WalkFailed {
    program: String,
    #[source]
    error: io::Error,
}

/// Starts a walk in the namespace of the calling thread; reading the file goes on with it.
pub(super) fn open_iterator(ebpf: &mut Ebpf, program: &str) -> io::Result<File> {
    let Some(Program::Iter(program)) = ebpf.program_mut(program) else {
        return Err(io::Error::other("the iterator is not in the eBPF object"));
    };
    start_walk(program)
}

/// The same, of a program that is loaded.
pub(super) fn start_walk(program: &mut Iter) -> io::Result<File> {
    let link = program.attach().and_then(|id| program.take_link(id)).map_err(io::Error::other)?;
    link.into_file().map_err(io::Error::other)
}

/// The maps of the socket pass.
#[derive(Debug)]
pub struct SocketMaps<'fd> {
    rows: &'fd Table,
    other: &'fd Table,
    walk: Map<'fd, u32, SocketWalk>,
}

/// What one walk left there.
#[derive(Clone, Debug, Default)]
pub struct WalkCounts {
    /// The walk itself.
    pub walk: SocketWalk,
    /// Its rows.
    pub rows: Vec<(SocketsKey, SocketsRow)>,
    /// How full the maps were.
    pub fills: Vec<Fill>,
}

impl<'fd> SocketMaps<'fd> {
    pub(super) fn new(rows: &'fd Table, other: &'fd Table, walk: BorrowedFd<'fd>) -> io::Result<Self> {
        Ok(Self { rows, other, walk: Map::new(walk)? })
    }

    /// Tells the programs that another walk begins.
    pub fn begin(&self, generation: u32) -> io::Result<()> {
        self.walk.update(&0, &SocketWalk { generation, ..SocketWalk::default() }, Update::Any)
    }

    /// Reads what the walk left, and removes the rows of owners that it did not meet.
    pub fn read(&self) -> io::Result<WalkCounts> {
        let walk = self.walk.lookup(&0)?.unwrap_or_default();
        let mut rows = live_rows(self.rows, walk.generation)?;
        let mut other = live_rows(self.other, walk.generation)?;
        let close_wait = rows.iter().chain(&other).map(|(_, row)| row.counts[usize::from(state::CLOSE_WAIT)]).sum();
        let fill = |map, entries, capacity| Fill { map, entries, capacity };
        let fills = vec![
            fill("sockets", rows.len(), max_entries(self.rows)?),
            fill("sockets_other", other.len(), max_entries(self.other)?),
            fill("shared_sockets", walk.shared as usize, SHARED_SOCKETS_MAX),
            fill("close_wait_seen", CLOSE_WAIT_SEEN_MAX.min(close_wait) as usize, CLOSE_WAIT_SEEN_MAX),
        ];
        rows.append(&mut other);
        Ok(WalkCounts { walk, rows, fills })
    }
}

fn max_entries(table: &Table) -> io::Result<u32> {
    Ok(table.map::<SocketsKey, SocketsRow>()?.max_entries())
}

/// Nobody else removes rows of sockets, so there is nothing to be kept from it meanwhile.
fn live_rows(table: &Table, generation: u32) -> io::Result<Vec<(SocketsKey, SocketsRow)>> {
    let mut rows: Vec<(SocketsKey, SocketsRow)> = Vec::new();
    table.read_all(&mut rows)?;
    let map = table.map::<SocketsKey, SocketsRow>()?;
    for (key, _) in rows.extract_if(.., |(_, row)| row.generation != generation) {
        map.delete(&key)?;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::hooks::{LADDERS, LadderReport};

    /// A report in which the two passes stand on these rungs.
    fn report(listeners: Option<usize>, sockets: Option<usize>) -> Report {
        let ladders = LADDERS.iter().map(|ladder| LadderReport {
            signal: ladder.signal,
            rung: match ladder.signal {
                Signal::ListenerPass => listeners,
                Signal::SocketPass => sockets,
                _ => None,
            },
            in_force: String::new(),
            cost: String::new(),
            hooks: Vec::new(),
            refusals: Vec::new(),
            ipv4_alone: false,
        });
        Report { ladders: ladders.collect() }
    }

    #[test]
    fn one_walk_serves_both_where_it_can() {
        const TASK_FILE: Option<usize> = Some(0);
        const TCP: Option<usize> = Some(1);
        for (listeners, sockets, due, node, netns) in [
            (TASK_FILE, TASK_FILE, true, Some("sockets_by_task"), None),
            (TASK_FILE, TASK_FILE, false, Some("listeners_by_task"), None),
            (TASK_FILE, None, true, Some("listeners_by_task"), None),
            (TCP, TCP, true, None, Some("sockets_by_netns")),
            (TCP, TCP, false, None, Some("listeners_by_netns")),
            (TASK_FILE, TCP, true, Some("listeners_by_task"), Some("sockets_by_netns")),
            (None, None, true, None, None),
        ] {
            let walks = Walks::plan(&report(listeners, sockets), due);
            assert_eq!((walks.node, walks.netns), (node, netns), "{listeners:?} {sockets:?} {due}");
            assert_eq!(walks.counts_sockets, due && sockets.is_some());
            assert_eq!(walks.counts_by_netns(), due && sockets == TCP);
            assert_eq!(walks.node_has_listeners, listeners == TASK_FILE);
        }
    }
}
