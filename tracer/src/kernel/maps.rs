//! Handles of the maps, and one reading of all of them.
//!
//! Handles are duplicated descriptors: they stay valid whatever becomes of the loader. A reading is
//! not an instant: rows may count on while it runs, which the reconcile stage brackets.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tracer_ebpf::{
    counter::{
        Counter, CounterKey, EventTally, ListenerKey, ListenerStats, ListenerWalk, LostCounts, NetnsSeen,
        PendingHandshake, PortKey, WorkloadKey,
    },
    event::Kind,
    settings::switch,
};

use super::{
    load::LoadError,
    ports::PortMaps,
    quota::{Change, Quotas, Shared},
    shortage,
    sys::{Map, PerCpuArray, Update},
    table::Table,
    viewpoint::monotonic_ns,
    walk::SocketMaps,
};
use crate::pipeline::counters::Counts;

/// Duplicated descriptors of all maps.
#[derive(Debug)]
pub struct Maps {
    listeners: Table,
    counters: Table,
    other: Table,
    lost_counts: OwnedFd,
    workloads: Table,
    ports: Table,
    netns: Table,
    tallies: OwnedFd,
    pending: OwnedFd,
    reads_handshakes: AtomicBool,
    switches: OwnedFd,
    sockets: Table,
    sockets_other: Table,
    socket_walk: OwnedFd,
    listener_walk: OwnedFd,
    /// How many rows one namespace may have.
    pub quotas: Quotas,
    /// Held while rows are read and while they are removed: a row that goes can hide another one.
    rows: Mutex<()>,
    /// Of the walk that counts ephemeral ports.
    pub port_walk: PortMaps,
}

/// Whether a listener has a row now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It has one.
    Has,
    /// Its namespace has its share of the table, or the table is full.
    NoRoom,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The map's name as a metric label.
    pub map: &'static str,
    /// Entries in use.
    pub entries: usize,
    /// Entries it can hold.
    pub capacity: u32,
}

impl Maps {
    /// Opens all maps through `fd`, which finds one by its name in the object.
    pub fn open(mut fd: impl FnMut(&'static str) -> Result<OwnedFd, LoadError>) -> Result<Self, LoadError> {
        Ok(Self {
            listeners: Table::new(fd("LISTENERS")?),
            counters: Table::new(fd("COUNTERS")?),
            other: Table::new(fd("OTHER")?),
            lost_counts: fd("LOST_COUNTS")?,
            workloads: Table::new(fd("WORKLOADS")?),
            ports: Table::new(fd("PORTS")?),
            netns: Table::new(fd("NETNS")?),
            tallies: fd("TALLIES")?,
            pending: fd("PENDING")?,
            reads_handshakes: AtomicBool::new(false),
            switches: fd("SWITCHES")?,
            sockets: Table::new(fd("SOCKETS")?),
            sockets_other: Table::new(fd("SOCKETS_OTHER")?),
            socket_walk: fd("SOCKET_WALK")?,
            listener_walk: fd("LISTENER_WALK")?,
            quotas: Quotas::open(&mut fd)?,
            rows: Mutex::default(),
            port_walk: PortMaps::open(fd)?,
        })
    }

    /// From now on reads rows by the iterators that `program` finds by their names; all or none.
    pub fn read_by(&self, mut program: impl FnMut(&'static str) -> io::Result<OwnedFd>) -> io::Result<()> {
        let mut links = Vec::new();
        for (tables, name) in [
            (&[&self.listeners][..], "rows_of_listeners"),
            (&[&self.counters, &self.other], "rows_of_counters"),
            (&[&self.netns], "rows_of_netns"),
            (&[&self.workloads], "rows_of_workloads"),
            (&[&self.ports], "rows_of_ports"),
            (&[&self.sockets, &self.sockets_other], "rows_of_sockets"),
        ] {
            let program = program(name)?;
            for &table in tables {
                links.push((table, table.link(program.as_fd())?));
            }
        }
        for (table, link) in links {
            table.read_by(link);
        }
        Ok(())
    }

    fn lock_rows(&self) -> MutexGuard<'_, ()> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_listeners(&self) -> io::Result<Map<'_, ListenerKey, ListenerStats>> {
        self.listeners.map()
    }

    fn map_counters(&self) -> io::Result<Map<'_, CounterKey, u64>> {
        self.counters.map()
    }

    fn map_netns(&self) -> io::Result<Map<'_, u64, NetnsSeen>> {
        self.netns.map()
    }

    /// Reads all counts. A dropped handshake counts in its row or as pending. One that moves from here
    /// to there meanwhile would be missed by this reading, and counters fall: then the rows are read
    /// again. With drops all the time it hardly matters, and the last attempt is taken as it is.
    pub fn read(&self) -> io::Result<Counts> {
        const ATTEMPTS_MAX: usize = 3;
        // Short of descriptors, what is read beside the maps would look absent.
        shortage::check_descriptors(&self.switches)?;
        let mut counts = Counts::default();
        for _ in 0..ATTEMPTS_MAX {
            let first = self.handshakes()?;
            self.read_rows(&mut counts)?;
            let now_ns = monotonic_ns();
            if counts.take_handshakes(&first, &self.handshakes()?, now_ns) {
                break;
            }
        }
        Ok(counts)
    }

    fn read_rows(&self, counts: &mut Counts) -> io::Result<()> {
        let _reading = self.lock_rows();
        self.listeners.read_all(&mut counts.listeners)?;
        self.counters.read_all(&mut counts.counters)?;
        self.other.read_all(&mut counts.other)?;
        self.netns.read_all(&mut counts.netns)?;
        counts.lost = self.lost()?;
        Ok(())
    }

    /// From now on [`Self::handshakes`] reads them: only the packet rung leaves any.
    pub fn expect_handshakes(&self) {
        self.reads_handshakes.store(true, Ordering::Relaxed);
    }

    /// The handshake that waits on each CPU, if any.
    pub fn handshakes(&self) -> io::Result<Vec<PendingHandshake>> {
        if !self.reads_handshakes.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        PerCpuArray::new(self.pending.as_fd())?.lookup(0)
    }

    fn lost(&self) -> io::Result<Vec<(Counter, u64)>> {
        let lost = Map::<u32, LostCounts>::new(self.lost_counts.as_fd())?.lookup(&0)?.unwrap_or_default();
        Ok(Counter::ALL.iter().map(|&counter| (counter, lost[counter as usize])).collect())
    }

    /// What became of the ring records, summed over CPUs, by kind.
    pub fn tallies(&self) -> io::Result<Vec<(Kind, EventTally)>> {
        let by_cpu = PerCpuArray::<[EventTally; Kind::COUNT]>::new(self.tallies.as_fd())?.lookup(0)?;
        let sum = |kind: Kind| {
            by_cpu.iter().map(|tallies| tallies[kind as usize]).fold(EventTally::default(), |mut sum, tally| {
                sum.emitted += tally.emitted;
                sum.lost_ring += tally.lost_ring;
                sum.lost_rate += tally.lost_rate;
                sum
            })
        };
        Ok(Kind::ALL.iter().map(|&kind| (kind, sum(kind))).collect())
    }

    /// How full the hash maps are; `counts` is a reading of them.
    pub fn fill(&self, counts: &Counts) -> io::Result<Vec<Fill>> {
        let (mut workloads, mut ports) = (Vec::<(WorkloadKey, u64)>::new(), Vec::<(PortKey, u64)>::new());
        let reading = self.lock_rows();
        self.workloads.read_all(&mut workloads)?;
        self.ports.read_all(&mut ports)?;
        drop(reading);
        let map_workloads = self.workloads.map::<WorkloadKey, u64>()?;
        let map_ports = self.ports.map::<PortKey, u64>()?;
        let other = self.other.map::<CounterKey, u64>()?.max_entries();
        Ok(vec![
            Fill { map: "listeners", entries: counts.listeners.len(), capacity: self.map_listeners()?.max_entries() },
            Fill { map: "counters", entries: counts.counters.len(), capacity: self.map_counters()?.max_entries() },
            Fill { map: "other", entries: counts.other.len(), capacity: other },
            Fill { map: "workloads", entries: workloads.len(), capacity: map_workloads.max_entries() },
            Fill { map: "ports", entries: ports.len(), capacity: map_ports.max_entries() },
            Fill { map: "netns", entries: counts.netns.len(), capacity: self.map_netns()?.max_entries() },
        ])
    }

    /// Gives a listener that a pass found and that has no row one, so that its children find it.
    pub fn admit_listener(&self, key: &ListenerKey, sockets: u32) -> io::Result<Admission> {
        let map = self.map_listeners()?;
        let admitted = self.map_netns()?.lookup(&key.netns)?.map(|seen| seen.admitted);
        if !self.quotas.has_room_for_listener(key.netns, admitted, map.max_entries())? {
            return Ok(Admission::NoRoom);
        }
        let stats = ListenerStats { opened: u64::from(sockets), ..ListenerStats::default() };
        match map.update(key, &stats, Update::NoExist) {
            Ok(()) => self.quotas.note(key.netns, Shared::Listeners, Change::Made).map(|()| Admission::Has),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Admission::Has),
            // E2BIG: the map is full, which `Fill` shows.
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(Admission::NoRoom),
            Err(error) => Err(error),
        }
    }

    /// How many listeners can have rows.
    pub fn listeners_max(&self) -> io::Result<u32> {
        Ok(self.map_listeners()?.max_entries())
    }

    /// Forgets a listener that is gone.
    pub fn remove_listener(&self, key: &ListenerKey) -> io::Result<bool> {
        let _removing = self.lock_rows();
        self.delete_listener(key)
    }

    /// Forgets a listener that is gone, unless its row has changed since it was read: then it is not.
    pub fn remove_listener_if_still(&self, key: &ListenerKey, stats: &ListenerStats) -> io::Result<bool> {
        let _removing = self.lock_rows();
        if self.map_listeners()?.lookup(key)?.as_ref() == Some(stats) { self.delete_listener(key) } else { Ok(false) }
    }

    fn delete_listener(&self, key: &ListenerKey) -> io::Result<bool> {
        let was_there = self.map_listeners()?.delete(key)?;
        if was_there {
            self.quotas.note(key.netns, Shared::Listeners, Change::Removed)?;
        }
        Ok(was_there)
    }

    /// Forgets a counter of a workload that is gone, and its room.
    pub fn remove_counter(&self, key: &CounterKey) -> io::Result<bool> {
        let _removing = self.lock_rows();
        self.other.map::<CounterKey, u64>()?.delete(key)?;
        // There is none if this is a count by namespace; where sockets' cgroups cannot be read, it has cgroup 0.
        let workload = WorkloadKey { netns: key.netns, cgroup: key.cgroup };
        if self.workloads.map::<WorkloadKey, u64>()?.delete(&workload)? {
            self.quotas.note(key.netns, Shared::Workloads, Change::Removed)?;
        }
        if key.port != 0 {
            let port = PortKey { netns: key.netns, cgroup: key.cgroup, port: key.port, role: key.role, zero: [0; 5] };
            self.ports.map::<PortKey, u64>()?.delete(&port)?;
        }
        // Last: where anything is refused the count is still there, and the next pass tries again.
        self.map_counters()?.delete(key)
    }

    /// Forgets a namespace.
    pub fn remove_netns(&self, id: u64) -> io::Result<bool> {
        let _removing = self.lock_rows();
        self.quotas.forget(id)?;
        self.map_netns()?.delete(&id)
    }

    /// The maps of the socket pass.
    pub fn socket_maps(&self) -> io::Result<SocketMaps<'_>> {
        SocketMaps::new(&self.sockets, &self.sockets_other, self.socket_walk.as_fd())
    }

    /// Tells the programs that another walk over open files begins: one that meets no listener leaves nothing else.
    pub fn begin_listener_walk(&self) -> io::Result<()> {
        Map::<u32, ListenerWalk>::new(self.listener_walk.as_fd())?.update(&0, &ListenerWalk::default(), Update::Any)
    }

    /// Processes that the last walk over open files left out of what it told of their listeners.
    pub fn processes_left_out(&self) -> io::Result<u64> {
        let walk = Map::<u32, ListenerWalk>::new(self.listener_walk.as_fd())?.lookup(&0)?;
        Ok(walk.map_or(0, |walk| walk.left_out.into()))
    }

    /// Tells the programs which hooks are in force (`settings::switch`).
    pub fn set_switches(&self, bits: u64) -> io::Result<()> {
        Map::<u32, u64>::new(self.switches.as_fd())?.update(&0, &bits, Update::Any)
    }

    /// Tells the programs that every listener older than the agent has a row.
    pub fn set_listed(&self) -> io::Result<()> {
        let bits = Map::<u32, u64>::new(self.switches.as_fd())?.lookup(&0)?.unwrap_or_default();
        if bits & switch::LISTED == 0 { self.set_switches(bits | switch::LISTED) } else { Ok(()) }
    }
}
