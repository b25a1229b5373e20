//! The passes: one thread that enters namespaces, reads counters and listeners, keeps the books and
//! publishes a [`View`]. It owns the loaded programs, since their iterators run in the namespace of
//! the thread that opens them; when it ends, everything is detached.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use tracer_ebpf::counter::{ListenerKey, ListenerSocket};

use super::{
    descriptors::{self, Descriptors},
    inside::{self, Seen, Wanted},
    late_ipv6::LateIpv6,
    legacy::Legacy,
    listening,
    outage::{self, Outage},
    ports::PortPass,
    reaper::Reaper,
    registry::{Evidence, Reading, Registry},
    settings,
    socket_pass::{SocketPass, Walked},
    visits::{self, Visits},
};
use crate::{
    errand::thread_cpu_time,
    kernel::{
        hooks::{Report, Signal},
        load::Kernel,
        maps::Maps,
        netns::{self, Discovery, NetnsRef, Roots},
        proc_sys::ProcSys,
        shortage,
        viewpoint::proc_has_hosts_numbers,
        walk::{Walker, Walks},
    },
    labels::Labels,
    obstacles::{Obstacle, Obstacles},
    pipeline::{
        counters::{Closing, Counts},
        node,
        snapshot::{Found, Listener},
        sysctls::Whose,
    },
    view::{Budget, Pass, View, WITH_ZEROS_MAX},
};

/// The longest time between two passes, unless a longer one is configured: within it a new namespace is read. Where it
/// is too short for the share of a core that passes are to keep to, they take more, and say so.
const INTERVAL_MAX: Duration = Duration::from_secs(30);

/// What the worker is given.
pub struct Worker {
    /// The loaded programs.
    pub kernel: Kernel,
    /// Their iterators, for the thread that visits.
    pub walker: Walker,
    /// Enters namespaces and reads.
    pub visits: Visits,
    /// Enters namespaces and walks over their sockets.
    pub walking: Visits,
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
    /// What passes spend on settings.
    pub slice: settings::Slice,
    /// The time until the next pass, by the last one.
    pub until_next: Duration,
    /// Whether no pass has ended yet.
    pub is_first: bool,
    /// Whether IPv6 may still be loaded, after the hooks.
    pub late_ipv6: LateIpv6,
    /// Why a pass failed, as far as that was said.
    pub outage: Outage,
    /// What failed in this pass and kept it from nothing else.
    pub failed: Option<io::Error>,
    /// What this pass could not do.
    pub met: Obstacles,
    /// What the last one could not do, for the exporter.
    pub obstacles: Arc<Mutex<Obstacles>>,
    /// Passes in a row that showed nothing new.
    pub lost_passes: usize,
}

/// Tells the worker to end.
#[derive(Debug)]
pub struct Stop;

impl Worker {
    /// Reads baselines: for a few rounds, until no hook counts while the kernel is read.
    pub fn baseline(&mut self) -> io::Result<()> {
        const ROUNDS_MAX: usize = 5;
        let (mut found, mut read) = (HashSet::new(), HashSet::new());
        for _ in 0..ROUNDS_MAX {
            let discovery = netns::discover(&self.roots)?;
            let before = self.maps.read()?;
            let readings = self.visit_all(&discovery, Walks::default(), &mut Found::default());
            let after = self.maps.read()?;
            found.extend(discovery.namespaces.keys().copied());
            read.extend(readings.iter().map(|reading| reading.inum));
            if self.registry.observe_baselines(&readings, &before, &after) {
                break;
            }
        }
        self.registry.open_books();
        self.registry.note_older(found.difference(&read).copied());
        Ok(())
    }

    /// Makes passes until told to stop; the first at once.
    pub fn run(mut self, stop: &mpsc::Receiver<Stop>) {
        loop {
            let (started, cpu) = (Instant::now(), self.cpu_time());
            self.late_ipv6.look();
            let share = self.ports.share_of_others(self.cpu_percent);
            self.slice.begin(self.until_next, share, self.is_first);
            self.met = Obstacles::default();
            let outcome = self.pass(cpu);
            self.lost_passes = if outcome.is_ok() { 0 } else { self.lost_passes + 1 };
            let error = outcome.err().or(self.failed.take());
            self.say(error.as_ref());
            self.tell_obstacles(error.as_ref());
            self.until_next = self.stretched(self.cpu_time().saturating_sub(cpu));
            self.slice.end();
            self.is_first = false;
            match stop.recv_timeout(self.until_next.saturating_sub(started.elapsed())) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Ok(Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Says what failed when it begins, when it changes and when it ends.
    fn say(&mut self, error: Option<&io::Error>) {
        match error {
            None if self.outage.ends() => tracing::info!("passes end well again"),
            None => {}
            Some(error) => {
                if let Some(cause) = self.outage.begins(error) {
                    tracing::warn!(cause, "a pass failed; each next one tries again");
                }
            }
        }
    }

    /// Says what passes cannot do when that begins and ends, and shows it to the exporter.
    fn tell_obstacles(&mut self, error: Option<&io::Error>) {
        let cause = error.map(|error| shortage::explain(error)).unwrap_or_default();
        self.met.note_many(Obstacle::PassFailed, self.lost_passes, cause);
        let mut told = lock(&self.obstacles);
        for met in self.met.new_since(&told).filter(|met| met.obstacle != Obstacle::PassFailed) {
            tracing::warn!(reason = met.obstacle.name(), "{met}");
        }
        for met in told.new_since(&self.met).filter(|met| met.obstacle != Obstacle::PassFailed) {
            tracing::info!(reason = met.obstacle.name(), "over: {}", met.obstacle.what());
        }
        told.clone_from(&self.met);
    }

    /// CPU time of this thread and of the visits that it had made.
    pub(super) fn cpu_time(&self) -> Duration {
        thread_cpu_time() + self.visits.cpu_time() + self.walking.cpu_time()
    }

    /// The time between two passes that keeps those of this cost to their share of a core, as far as that is no longer
    /// than [`INTERVAL_MAX`].
    fn stretched(&mut self, cpu: Duration) -> Duration {
        // The first pass reads and names what none does again: it belongs to the start, and the second is not put off.
        let cpu = if self.is_first { Duration::ZERO } else { self.slice.usual_cost(self.ports.cpu_of_others(cpu)) };
        let share = self.ports.share_of_others(self.cpu_percent);
        self.socket_pass.stretch(self.interval, self.interval.max(INTERVAL_MAX), cpu, share)
    }

    /// What passes take of a processor, and may.
    fn budget(&self) -> Budget {
        let limit = f64::from(self.cpu_percent.max(1)) / 100.0;
        Budget { interval: self.interval, taken: self.socket_pass.taken, limit }
    }

    /// One pass over namespaces, listeners and rows. `cpu` is the thread's CPU time at its start.
    fn pass(&mut self, cpu: Duration) -> io::Result<()> {
        let started = Instant::now();
        let discovery = netns::discover(&self.roots).map_err(outage::of("finding the namespaces"))?;
        let before = self.maps.read().map_err(outage::of("reading the maps"))?;
        let walks = self.socket_pass.plan(&self.report, &self.maps, self.walks_hang(), started)?;
        let mut found = Found::new(&before.listeners);
        let readings = self.visit_all(&discovery, walks, &mut found);
        found.unlisted.extend(self.registry.unread(&readings));
        let after = self.maps.read().map_err(outage::of("reading the maps"))?;
        let namespaces_done = Instant::now();
        if let Some(program) = walks.node {
            self.maps.begin_listener_walk()?;
            let add = |record: &ListenerSocket| {
                if walks.node_has_listeners {
                    found.add(record);
                }
            };
            let (walk, walked) = Walked::of(|| self.walker.walk(program, add));
            self.socket_pass.add(walked);
            walk?;
            found.left_out.processes += self.maps.processes_left_out()?;
        }
        self.socket_pass.finish(&self.maps, self.walks_hang())?;
        let unlisted = std::mem::take(&mut found.unlisted);
        let (listeners, left_out) = found.join();
        self.unlisted = listening::unlisted(&after, &listeners);
        let listeners_done = Instant::now();
        self.walk_ports(&discovery, &readings);
        self.note_walks();
        let ports_done = Instant::now();
        let node = self.node.read();
        let node_done = Instant::now();
        let holders = if proc_has_hosts_numbers() { descriptors::holders(&listeners, &after) } else { BTreeSet::new() };
        let open_files = self.descriptors.read(&holders);
        let open_files_done = Instant::now();
        let evidence = self.evidence(&listeners, &after);
        self.registry.enter(&discovery, &readings, &before, &after, &evidence, started);
        let is_complete = discovery.is_complete() && readings.len() == discovery.namespaces.len();
        // Among thousands of namespaces megabytes, which the view needs now.
        drop(readings);
        self.registry.note_listeners(&listeners);
        self.socket_pass.found.iter().for_each(|found| self.registry.note_sockets(found));
        listening::admit(&self.maps, &after, &listeners)?;
        if self.sees_listeners() && unlisted.is_empty() && is_complete {
            self.maps.set_listed()?;
        }
        let mut fills = self.maps.fill(&after).map_err(outage::of("reading how full the maps are"))?;
        fills.extend_from_slice(&self.socket_pass.fills);
        fills.extend(self.ports.fill);
        let shared = Arc::clone(&self.labels);
        // Held until the view is out: a scrape would miss what has left the maps and is not yet in it. Nothing fails from
        // here on, or the view would not come out.
        let mut labels = lock(&shared);
        self.reap(&after, &listeners, &unlisted, &mut labels, namespaces_done);
        let interval = self.stretched(self.cpu_time().saturating_sub(cpu));
        let pass = |name, from: Instant, to: Instant| Pass { name, duration: to - from, ended: to, interval };
        let namespaces = labels.name_namespaces(self.registry.view(&discovery), started);
        let beyond = namespaces.len().saturating_sub(WITH_ZEROS_MAX);
        self.met.note_many(Obstacle::ManyNamespaces, beyond, format_args!("{} in all", namespaces.len()));
        let mut passes = vec![
            pass("namespaces", started, namespaces_done),
            pass("listeners", namespaces_done, listeners_done),
            pass("node", ports_done, node_done),
            pass("open_files", node_done, open_files_done),
        ];
        passes.extend(self.socket_pass.pass());
        passes.extend(self.ports.row(interval));
        passes.extend(settings::round(&namespaces, interval.max(self.interval * settings::ROUND_PASSES)));
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
            budget: self.budget(),
            namespaces_denied: discovery.denied,
        };
        labels.meet(&after, &view, namespaces_done);
        labels.note_obstacles(&mut self.met);
        replace(&self.view, Arc::new(view));
        Ok(())
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
    pub(super) fn sees_listeners(&self) -> bool {
        self.report.of(Signal::ListenerPass).is_some_and(|pass| pass.rung.is_some())
    }

    /// Reads every namespace that can be entered.
    fn visit_all(&mut self, discovery: &Discovery, walks: Walks, found: &mut Found<'_>) -> Vec<Reading> {
        visits::note_unseen(discovery, &mut self.met);
        let wanted = Arc::new(self.wanted(walks, discovery.namespaces.len()));
        let mut readings = Vec::with_capacity(discovery.namespaces.len());
        for namespace in discovery.namespaces.values() {
            let Some(seen) = self.visit(namespace, namespace.inum == discovery.host, &wanted) else { continue };
            self.socket_pass.add(seen.walked);
            found.add_gathered(seen.reading.id, seen.gathered);
            if let Some(error) = seen.unlisted {
                found.unlisted.insert(seen.reading.id);
                let cause = shortage::explain(&error);
                self.met.note(Obstacle::Unlisted, format_args!("namespace {}: {cause}", namespace.inum));
                self.failed = Some(error);
            }
            if let Some(settings) = &seen.reading.settings {
                self.slice.add(settings);
            }
            readings.push(seen.reading);
        }
        self.walk_each(discovery, &readings, &wanted, found);
        readings
    }

    /// What this pass wants of each namespace.
    fn wanted(&self, walks: Walks, namespaces: usize) -> Wanted {
        let known = self.registry.known();
        let listed = known.difference(&self.unlisted).copied().collect();
        // A pass that comes a little early would put a reading off by a whole interval.
        let age = (self.interval * settings::ROUND_PASSES).saturating_sub(self.interval / 2);
        let fresh = settings::fresh(self.registry.settings_read(), self.slice.affords(), age, Instant::now());
        Wanted { walker: self.walker.clone(), walks, listed, proc_sys: ProcSys::for_namespaces(namespaces), fresh }
    }

    fn visit(&mut self, namespace: &NetnsRef, is_host: bool, wanted: &Arc<Wanted>) -> Option<Seen> {
        let whose = if is_host { Whose::Host } else { Whose::Other };
        let (wanted, may_read_settings) = (Arc::clone(wanted), self.slice.has_time());
        let visited =
            self.visits.visit(namespace, move |inside| inside::read(&wanted, inside, whose, may_read_settings));
        visits::noted(namespace.inum, visited, &mut self.met)
    }
}

/// Locks without regard to a panic elsewhere: all state behind the agent's locks is valid at every step.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn replace<T>(slot: &Mutex<T>, value: T) {
    *lock(slot) = value;
}
