//! The passes: one thread that enters namespaces, reads counters and listeners, keeps the books and
//! publishes a [`View`]. It owns the loaded programs, since their iterators run in the namespace of
//! the thread that opens them; when it ends, everything is detached.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use tracer_ebpf::counter::ListenerKey;

use super::{
    descriptors::{self, Descriptors},
    late_ipv6::LateIpv6,
    legacy::Legacy,
    listening,
    outage::{self, Outage},
    ports::PortPass,
    reaper::{DeadWorkload, Reaper},
    registry::{Evidence, Reading, Registry},
    settings::{self, SettingsReading},
    socket_pass::SocketPass,
};
use crate::{
    kernel::{
        hooks::{Report, Signal},
        load::Kernel,
        maps::Maps,
        netns::{self, Discovery, NetnsRef, Roots, VisitError},
        walk::Walks,
    },
    labels::Labels,
    pipeline::{
        counters::{Closing, Counts, Totals},
        kernel_counters::{KernelCounters, Sockstat, Sysctls},
        node,
        snapshot::{Found, Listener},
        sysctls::{Settings, Whose},
    },
    view::{Pass, View},
};

/// What the worker is given.
pub struct Worker {
    /// The loaded programs.
    pub kernel: Kernel,
    /// What became of the hooks.
    pub report: Arc<Report>,
    /// The maps.
    pub maps: Arc<Maps>,
    /// Labels, shared with the exporter.
    pub labels: Arc<Mutex<Labels>>,
    /// Where the result goes.
    pub view: Arc<Mutex<Arc<View>>>,
    /// Time between two passes.
    pub interval: Duration,
    /// Percent of a core that passes may take; they stretch their interval to keep to it.
    pub cpu_percent: u32,
    /// Where namespaces are found.
    pub roots: Roots,
    /// Namespaces and their books.
    pub registry: Registry,
    /// Rows of what is gone.
    pub reaper: Reaper,
    /// Values that heirs have taken over.
    pub legacy: Legacy,
    /// When open sockets are counted.
    pub socket_pass: SocketPass,
    /// Walks that count ephemeral ports.
    pub ports: PortPass,
    /// The node's own figures.
    pub node: node::Reader,
    /// Open files of processes that listen.
    pub descriptors: Descriptors,
    /// Namespaces whose own table of listening sockets must be walked in the next pass, where it cannot be asked for.
    pub unlisted: HashSet<u64>,
    /// Passes made, by which namespaces have their settings read; `None` while baselines are.
    pub turn: Option<u64>,
    /// Whether IPv6 may still be loaded, after the hooks.
    pub late_ipv6: LateIpv6,
    /// Why a pass failed, as far as that was said.
    pub outage: Outage,
    /// Why the listeners of some namespace could not be listed in this pass.
    pub list_failed: Option<io::Error>,
    /// Why this thread must not go on, if so.
    pub stranded: Option<VisitError>,
}

/// Tells the worker to end.
#[derive(Debug)]
pub struct Stop;

impl Worker {
    /// Reads baselines: for a few rounds, until no hook counts while the kernel is read.
    pub fn baseline(&mut self) -> io::Result<()> {
        const ROUNDS_MAX: usize = 5;
        for _ in 0..ROUNDS_MAX {
            let discovery = netns::discover(&self.roots)?;
            let before = self.maps.read()?;
            let readings = self.visit_all(&discovery, Walks::default(), &mut Found::default());
            let after = self.maps.read()?;
            if self.registry.observe_baselines(&readings, &before, &after) {
                break;
            }
        }
        self.registry.open_books();
        Ok(())
    }

    /// Makes passes until told to stop; the first at once. An error means that this thread is of no
    /// further use.
    pub fn run(mut self, stop: &mpsc::Receiver<Stop>) -> Result<(), VisitError> {
        loop {
            let (started, cpu) = (Instant::now(), thread_cpu_time());
            self.late_ipv6.look();
            match self.pass(cpu) {
                Ok(()) if self.outage.ends() => tracing::info!("passes end well again"),
                Ok(()) => {}
                Err(error) => {
                    if let Some(cause) = self.outage.begins(&error) {
                        tracing::warn!(cause, "a pass failed; each next one tries again");
                    }
                }
            }
            if let Some(stranded) = self.stranded.take() {
                return Err(stranded);
            }
            let interval = self.stretched(thread_cpu_time().saturating_sub(cpu));
            match stop.recv_timeout(interval.saturating_sub(started.elapsed())) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Ok(Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// The time between two passes that keeps those of this cost to their share of a core. The first one reads what none
    /// reads again, all settings of all namespaces: it belongs to the start, and the second is not put off for it.
    fn stretched(&mut self, cpu: Duration) -> Duration {
        let cpu = if self.turn == Some(0) { Duration::ZERO } else { cpu };
        let share = self.ports.share_of_others(self.cpu_percent);
        self.socket_pass.stretch(self.interval, self.ports.cpu_of_others(cpu), share)
    }

    /// One pass over namespaces, listeners and rows. `cpu` is the thread's CPU time at its start.
    fn pass(&mut self, cpu: Duration) -> io::Result<()> {
        let started = Instant::now();
        self.turn = Some(self.turn.map_or(0, |turn| turn.wrapping_add(1)));
        let discovery = netns::discover(&self.roots).map_err(outage::of("finding the namespaces"))?;
        let before = self.maps.read().map_err(outage::of("reading the maps"))?;
        let walks = self.socket_pass.plan(&self.report, &self.maps, started)?;
        let mut found = Found::new(&before.listeners);
        let readings = self.visit_all(&discovery, walks, &mut found);
        if self.stranded.is_some() {
            return Err(io::Error::other("the worker cannot return to the host's namespace"));
        }
        let after = self.maps.read().map_err(outage::of("reading the maps"))?;
        let namespaces_done = Instant::now();
        if let Some(program) = walks.node {
            self.maps.begin_listener_walk()?;
            self.socket_pass.time(|| {
                self.kernel.walk(program, |record| {
                    if walks.node_has_listeners {
                        found.add(record);
                    }
                })
            })?;
            found.left_out.processes += self.maps.processes_left_out()?;
        }
        self.socket_pass.finish(&self.maps)?;
        let unlisted = std::mem::take(&mut found.unlisted);
        let (listeners, left_out) = found.join();
        self.unlisted = listening::unlisted(&after, &listeners);
        let listeners_done = Instant::now();
        self.walk_ports(&discovery, &readings);
        let ports_done = Instant::now();
        let node = self.node.read();
        let node_done = Instant::now();
        let open_files = self.descriptors.read(&descriptors::holders(&listeners, &after));
        let open_files_done = Instant::now();
        let evidence = self.evidence(&listeners, &after);
        self.registry.enter(&discovery, &readings, &before, &after, &evidence, started);
        self.registry.note_listeners(&listeners);
        self.socket_pass.found.iter().for_each(|found| self.registry.note_sockets(found));
        listening::admit(&self.maps, &after, &listeners)?;
        let is_complete = discovery.is_complete() && readings.len() == discovery.namespaces.len();
        if self.sees_listeners() && unlisted.is_empty() && is_complete {
            self.maps.set_listed()?;
        }
        let shared = Arc::clone(&self.labels);
        // Held until the view is out: a scrape would miss what has left the maps and is not yet in it.
        let mut labels = lock(&shared);
        self.reap(&after, &listeners, &unlisted, &mut labels, namespaces_done)?;
        let interval = self.stretched(thread_cpu_time().saturating_sub(cpu));
        let pass = |name, from: Instant, to: Instant| Pass { name, duration: to - from, ended: to, interval };
        let namespaces = labels.name_namespaces(self.registry.view(&discovery), started);
        let mut passes = vec![
            pass("namespaces", started, namespaces_done),
            pass("listeners", namespaces_done, listeners_done),
            pass("node", ports_done, node_done),
            pass("open_files", node_done, open_files_done),
        ];
        passes.extend(self.socket_pass.pass());
        passes.extend(self.ports.row(interval));
        passes.extend(settings::round(&namespaces, interval));
        let mut fills = self.maps.fill(&after)?;
        fills.extend_from_slice(&self.socket_pass.fills);
        fills.extend(self.ports.fill);
        let view = View {
            namespaces,
            listeners,
            left_out,
            sockets: self.socket_pass.found.clone(),
            open_files,
            node,
            retired: self.reaper.retired,
            unverified: self.reaper.unverified,
            legacy: self.legacy.clone(),
            passes,
            ports: self.ports.ports.found(),
            fills,
            programs: self.kernel.program_stats(),
            namespaces_denied: discovery.denied,
        };
        labels.meet(&after, &view, namespaces_done);
        replace(&self.view, Arc::new(view));
        self.list_failed.take().map_or(Ok(()), Err)
    }

    /// What must make up for hooks that are not in force.
    fn evidence(&mut self, listeners: &BTreeMap<ListenerKey, Listener>, counts: &Counts) -> Evidence {
        let stands = |signal| self.report.of(signal).is_some_and(|ladder| ladder.rung.is_some());
        let mut evidence = Evidence::default();
        if !stands(Signal::ListenDrops) {
            evidence.untold.extend([Closing::ListenOverflows, Closing::SynQueueFullDrops]);
            evidence.suspects = self.reaper.sole_suspects(listeners, counts);
        }
        if !stands(Signal::Retransmits) || !stands(Signal::SynackRetransmits) {
            evidence.untold.push(Closing::SynRetransmits);
        }
        evidence
    }

    /// Whether passes list the listeners.
    fn sees_listeners(&self) -> bool {
        self.report.of(Signal::ListenerPass).is_some_and(|pass| pass.rung.is_some())
    }

    /// Removes the rows of what is gone for good.
    fn reap(
        &mut self,
        counts: &Counts,
        listeners: &BTreeMap<ListenerKey, Listener>,
        unlisted: &HashSet<u64>,
        labels: &mut Labels,
        now: Instant,
    ) -> io::Result<()> {
        // Whole namespaces first: their rows must not be retired one by one as well.
        let mut closed_ids = HashSet::new();
        for (id, closed) in self.registry.close_dead(counts, self.reaper.retain, now) {
            self.reaper.retired.add_all(&closed.exported);
            self.reaper.retired.add_all(&self.legacy.end_namespace(id));
            self.reaper.unverified.add_all(&closed.unverified);
            labels.forget_namespace(id);
            remove_rows(&self.maps, counts, id)?;
            closed_ids.insert(id);
        }
        if self.sees_listeners() {
            let dead = self.reaper.dead_listeners(counts, listeners, now);
            // Where listing failed, a listener is not known to be gone.
            let is_left = |netns: &u64| closed_ids.contains(netns) || unlisted.contains(netns);
            for (key, stats) in dead.into_iter().filter(|(key, _)| !is_left(&key.netns)) {
                if !self.maps.remove_listener_if_still(&key, &stats)? {
                    continue;
                }
                let totals = Totals::of_listener(&stats);
                self.registry.retire(key.netns, &totals);
                let heir = labels.heir_of_listener(&key, listeners.keys());
                self.reaper.retired.add(Closing::ListenDrops, self.registry.retire_suspect(&key, heir));
                if let Some(heir) = heir {
                    self.legacy.bequeath_listener(&key, &stats, heir);
                } else {
                    self.reaper.retired.add_all(&totals);
                    self.reaper.retired.add_all(&self.legacy.end_listener(&key));
                }
                labels.forget_listener(&key);
            }
        }
        let dead = self.reaper.dead_workloads(counts, |cgroup| labels.cgroup_has_gone(cgroup), now);
        for workload in dead.into_iter().filter(|workload| !closed_ids.contains(&workload.netns)) {
            self.bury_workload(&workload, counts, labels, now)?;
        }
        Ok(())
    }

    /// Removes a workload's rows; their value goes to a living one with the same labels, if any.
    fn bury_workload(
        &mut self,
        workload: &DeadWorkload,
        counts: &Counts,
        labels: &mut Labels,
        now: Instant,
    ) -> io::Result<()> {
        // Removed before they are accounted for: if removing fails, they are still there to be.
        for (key, _) in &workload.rows {
            self.maps.remove_counter(key)?;
        }
        self.registry.retire(workload.netns, &workload.totals());
        let (shown, workload) = workload.split(|key| labels.forget_counter(key));
        for (key, n) in &shown {
            self.reaper.retired.add_all(&self.legacy.leave_to_namespace(key, *n));
        }
        let neighbours = counts.counters.iter().filter(|(key, _)| key.netns == workload.netns && key.cgroup > 0);
        let living: BTreeSet<u64> =
            neighbours.map(|(key, _)| key.cgroup).filter(|cgroup| !labels.cgroup_has_gone(*cgroup)).collect();
        if let Some(heir) = labels.heir_of_cgroup(workload.netns, workload.cgroup, living, now) {
            self.reaper.retired.add_all(&self.legacy.bequeath_counters(&workload.rows, heir));
            self.registry.bequeath_cgroup(workload.netns, workload.cgroup, heir);
        } else {
            self.reaper.retired.add_all(&workload.totals());
            self.reaper.retired.add_all(&self.legacy.end_workload(workload.netns, workload.cgroup));
            let confirmed = self.registry.retire_cgroup(workload.netns, workload.cgroup);
            self.reaper.retired.add(Closing::TimeWaitOverflows, confirmed);
        }
        Ok(())
    }

    /// Reads every namespace that can be entered.
    fn visit_all(&mut self, discovery: &Discovery, walks: Walks, found: &mut Found<'_>) -> Vec<Reading> {
        let mut readings = Vec::with_capacity(discovery.namespaces.len());
        for namespace in discovery.namespaces.values() {
            let whose = if namespace.inum == discovery.host { Whose::Host } else { Whose::Other };
            match self.visit(namespace, whose, walks, found) {
                Ok(Some(reading)) => readings.push(reading),
                // A namespace that dies meanwhile is none of anybody's errors.
                Ok(None) | Err(VisitError::Gone) => {}
                // The thread is in a namespace that it cannot leave: whatever it read now would be another's.
                Err(error @ VisitError::Stranded { .. }) => {
                    self.stranded = Some(error);
                    break;
                }
                Err(error) => tracing::debug!(inum = namespace.inum, %error, "cannot enter a namespace"),
            }
        }
        readings
    }

    fn visit(
        &mut self,
        namespace: &NetnsRef,
        whose: Whose,
        walks: Walks,
        found: &mut Found<'_>,
    ) -> Result<Option<Reading>, VisitError> {
        let kernel = &mut self.kernel;
        let socket_pass = &mut self.socket_pass;
        let (registry, turn, unlisted) = (&self.registry, self.turn, &self.unlisted);
        let list_failed = &mut self.list_failed;
        netns::visit(namespace, |inside| {
            let id = kernel
                .netns_id(inside)
                .inspect_err(|error| tracing::debug!(inum = namespace.inum, %error, "a namespace is not told"))
                .ok()?;
            let counters = KernelCounters::read().ok()?;
            let is_due = !registry.knows(id) || unlisted.contains(&id);
            let listed = socket_pass.time(|| listening::list(kernel, walks, (id, namespace.inum), is_due, found));
            if let Err(error) = listed {
                found.unlisted.insert(id);
                *list_failed = Some(error);
            }
            Some(Reading {
                id,
                inum: namespace.inum,
                counters,
                sockstat: Sockstat::read().unwrap_or_default(),
                sysctls: Sysctls::read().unwrap_or_default(),
                settings: turn.is_some_and(|turn| registry.settings_are_due(id, turn)).then(|| read_settings(whose)),
            })
        })
    }
}

fn read_settings(whose: Whose) -> SettingsReading {
    let read = Instant::now();
    let settings = Arc::new(Settings::read(whose));
    SettingsReading { settings, read, took: read.elapsed() }
}

/// CPU time of this thread, in the kernel's walks as well. (Wall time would make a busy node's passes
/// rarer than they need be.)
pub(super) fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn remove_rows(maps: &Maps, counts: &Counts, id: u64) -> io::Result<()> {
    for (key, _) in counts.listeners.iter().filter(|(key, _)| key.netns == id) {
        maps.remove_listener(key)?;
    }
    for (key, _) in counts.counters.iter().chain(&counts.other).filter(|(key, _)| key.netns == id) {
        maps.remove_counter(key)?;
    }
    maps.remove_netns(id)?;
    Ok(())
}

/// Locks without regard to a panic elsewhere: all state behind the agent's locks is valid at every step.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn replace<T>(slot: &Mutex<T>, value: T) {
    *lock(slot) = value;
}
