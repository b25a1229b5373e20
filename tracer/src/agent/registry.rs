//! Namespaces by identity, their books, and when they are closed. No I/O: readings are passed in.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_ebpf::counter::ListenerKey;

use super::settings::SettingsReading;
use crate::{
    kernel::netns::Discovery,
    pipeline::{
        counters::{Closing, Counts, Totals},
        kernel_counters::{KernelCounters, Segments, Sockstat, Sysctls},
        reconcile::{BaselineFinder, Books, Closed, KernelFigures, Observation},
        snapshot::Listener,
        sockets::Sockets,
    },
    view::Namespace,
};

/// What was read inside one namespace.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Identity in the maps.
    pub id: u64,
    /// Inode number.
    pub inum: u32,
    /// MIBs.
    pub counters: Arc<KernelCounters>,
    /// Sockets in use.
    pub sockstat: Sockstat,
    /// Settings that are read in each pass.
    pub sysctls: Sysctls,
    /// All settings, if it was their turn.
    pub settings: Option<SettingsReading>,
}

impl Reading {
    /// The MIBs that are compared.
    fn figures(&self) -> KernelFigures {
        let counters = &self.counters;
        KernelFigures::default()
            .with(Closing::ListenDrops, counters.listen_drops)
            .with(Closing::ListenOverflows, counters.listen_overflows)
            .with(Closing::SynQueueFullDrops, counters.req_q_full_drop)
            .with(Closing::RetransmittedSegments, counters.retrans_segs)
            .with(Closing::SynRetransmits, counters.syn_retrans)
            .with(Closing::RetransmitsFailed, counters.retrans_fail)
            .with(Closing::TimeWaitOverflows, counters.time_wait_overflow)
            .with(Closing::PassiveOpens, counters.passive_opens)
            .with(Closing::EstablishedResets, counters.estab_resets)
            .with(Closing::ResetsSent, counters.out_rsts)
            .with(Closing::ConnectionTimeouts, counters.abort_on_timeout)
    }
}

/// What the hooks in force leave open.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Signals that they cannot tell.
    pub untold: Vec<Closing>,
    /// By namespace, the one listener that discarded packets since the last pass.
    pub suspects: HashMap<u64, ListenerKey>,
}

struct Entry {
    inum: u32,
    /// Its name: the first that was found, for as long as it has that one.
    name: String,
    books: Books,
    counters: Arc<KernelCounters>,
    segments: Segments,
    sockstat: Sockstat,
    sysctls: Sysctls,
    settings: Option<SettingsReading>,
    alive: bool,
    /// Whether the last pass read it.
    is_read: bool,
    /// How often another namespace has taken over the identity.
    life: u32,
    /// Passes that hooks or the listener pass knew of it and could not read it; `None` once it was read.
    unread: Option<u32>,
    /// Since when it was not found, and what its rows added up to then; any change starts anew.
    quiet: Option<(Instant, Totals)>,
}

/// All namespaces, living and lately dead.
#[derive(Default)]
pub struct Registry {
    entries: BTreeMap<u64, Entry>,
    baselines: BTreeMap<u64, Baseline>,
    /// Inode numbers of namespaces that are older than the agent and were not read when baselines were.
    older: HashSet<u32>,
}

/// What a namespace had counted when the agent started.
#[derive(Default)]
struct Baseline {
    finder: BaselineFinder,
    /// Candidates for TIME_WAIT overflows by cgroup.
    candidates: Vec<(u64, u64)>,
    /// As first read: nearest to when the hooks began to count.
    segments: Option<Segments>,
}

impl Registry {
    /// Takes a bracketed reading for the baselines; true once no further one could improve them.
    pub fn observe_baselines(&mut self, readings: &[Reading], before: &Counts, after: &Counts) -> bool {
        let (before, candidates, after) = (before.totals(), after.time_wait_candidates(), after.totals_at_most());
        for reading in readings {
            let baseline = self.baselines.entry(reading.id).or_default();
            baseline.finder.observe(&of(&before, reading.id), &reading.figures(), &of(&after, reading.id));
            baseline.candidates = candidates.get(&reading.id).cloned().unwrap_or_default();
            baseline.segments.get_or_insert_with(|| Segments::baseline(&reading.counters));
        }
        self.baselines.values().all(|baseline| baseline.finder.is_settled())
    }

    /// Remembers which namespaces were there and could not be read with the baselines: the first reading of theirs will be
    /// one.
    pub fn note_older(&mut self, inums: impl Iterator<Item = u32>) {
        self.older.extend(inums);
    }

    /// The living namespaces that these readings leave out.
    #[must_use]
    pub fn unread(&self, readings: &[Reading]) -> Vec<u64> {
        let read: HashSet<u64> = readings.iter().map(|reading| reading.id).collect();
        self.known().difference(&read).copied().collect()
    }

    /// Opens the books of the namespaces that were there when the agent started. Any found later
    /// counts from zero.
    pub fn open_books(&mut self) {
        for (id, baseline) in std::mem::take(&mut self.baselines) {
            let mut books = Books::open(baseline.finder.baseline());
            books.reject_candidates(&baseline.candidates);
            let segments = baseline.segments.unwrap_or_default();
            self.entries.insert(id, Entry { segments, ..Entry::new(0, books) });
        }
    }

    /// The namespaces that a pass has met.
    #[must_use]
    pub fn known(&self) -> HashSet<u64> {
        self.entries.iter().filter(|(_, entry)| entry.alive).map(|(id, _)| *id).collect()
    }

    /// When the settings of the living namespaces were read, if they were.
    pub fn settings_read(&self) -> impl Iterator<Item = (u64, Instant)> {
        let living = self.entries.iter().filter(|(_, entry)| entry.alive);
        living.filter_map(|(id, entry)| Some((*id, entry.settings.as_ref()?.read)))
    }

    /// Enters a pass's readings into the books.
    pub fn enter(
        &mut self,
        discovery: &Discovery,
        readings: &[Reading],
        before: &Counts,
        after: &Counts,
        evidence: &Evidence,
        now: Instant,
    ) {
        let (candidates_before, candidates_after) = (before.time_wait_candidates(), after.time_wait_candidates());
        let (before_totals, after_totals) = (before.totals(), after.totals_at_most());
        for reading in readings {
            let figures = reading.figures();
            let is_older = self.older.remove(&reading.inum);
            let entry = self
                .entries
                .entry(reading.id)
                .or_insert_with(|| Entry::new(reading.inum, Books::open(KernelFigures::ZERO)));
            if is_older && !entry.alive {
                entry.unread = Some(u32::MAX);
            }
            let (before, after) = (of(&before_totals, reading.id), of(&after_totals, reading.id));
            entry.take(reading, &before, &after);
            entry.books.enter(&Observation {
                before,
                kernel: figures,
                after,
                candidates_before: candidates_before.get(&reading.id).cloned().unwrap_or_default(),
                candidates_after: candidates_after.get(&reading.id).cloned().unwrap_or_default(),
                untold: evidence.untold.clone(),
                sole_suspect: evidence.suspects.get(&reading.id).copied(),
            });
        }
        self.older.retain(|inum| discovery.namespaces.contains_key(inum));
        let counted = after.totals();
        self.note_seen_by_hooks(after, &counted);
        self.note_missing(discovery, readings, &counted, now);
        for entry in self.entries.values_mut() {
            entry.name_by(discovery);
        }
    }

    /// A listener may live in a namespace that neither a path leads to nor a hook has met.
    pub fn note_listeners(&mut self, listeners: &BTreeMap<ListenerKey, Listener>) {
        for (key, listener) in listeners {
            let entry = self.entries.entry(key.netns).or_insert_with(|| Entry::met(listener.netns_inum));
            // Somebody listens there: it lives, though nothing leads to it.
            entry.quiet = None;
        }
    }

    /// The same for sockets: the last that a process holds may be all that keeps a namespace.
    pub fn note_sockets(&mut self, sockets: &Sockets) {
        for owner in &sockets.owners {
            let entry = self.entries.entry(owner.netns).or_insert_with(|| Entry::met(owner.netns_inum));
            entry.quiet = None;
        }
    }

    /// A namespace that only hooks have met: it came and went between two passes, or no path leads
    /// to it. Nothing confirms its counts.
    fn note_seen_by_hooks(&mut self, counts: &Counts, totals: &HashMap<u64, Totals>) {
        for (id, seen) in &counts.netns {
            self.entries.entry(*id).or_insert_with(|| Entry::met(seen.inum));
        }
        for id in totals.keys() {
            self.entries.entry(*id).or_insert_with(|| Entry::met(0));
        }
    }

    fn note_missing(
        &mut self,
        discovery: &Discovery,
        readings: &[Reading],
        totals: &HashMap<u64, Totals>,
        now: Instant,
    ) {
        let ids: HashSet<u64> = readings.iter().map(|reading| reading.id).collect();
        let inums: HashMap<u32, u64> = readings.iter().map(|reading| (reading.inum, reading.id)).collect();
        for (id, entry) in &mut self.entries {
            let read = ids.contains(id);
            // Found but not entered this time: neither alive nor dead can be said, so nothing changes.
            let reused = inums.get(&entry.inum).is_some_and(|now| now != id);
            // Only one that has a name is kept by a file in a directory that was not read: those that live by their
            // processes come and go without end.
            let may_be_kept = !discovery.unread.is_empty() && !entry.name.is_empty();
            let found = (discovery.namespaces.contains_key(&entry.inum) || may_be_kept) && !reused;
            entry.is_read = read;
            if read || (found && entry.alive) {
                entry.alive = true;
                entry.quiet = None;
                continue;
            }
            entry.alive = false;
            entry.unread = entry.unread.map(|passes| passes.saturating_add(1));
            let rows = of(totals, *id);
            match entry.quiet {
                Some((_, then)) if then == rows => {}
                _ => entry.quiet = Some((now, rows)),
            }
        }
    }

    /// Takes over a row that is removed while its namespace lives.
    pub fn retire(&mut self, id: u64, totals: &Totals) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.books.retire(totals);
        }
    }

    /// Takes over drops that evidence gave to a listener that is gone; returns how many were not for
    /// its heir.
    pub fn retire_suspect(&mut self, gone: &ListenerKey, heir: Option<ListenerKey>) -> u64 {
        self.entries.get_mut(&gone.netns).map_or(0, |entry| entry.books.retire_suspect(gone, heir))
    }

    /// Takes over what was confirmed for a workload that is gone; returns how many TIME_WAIT overflows.
    pub fn retire_cgroup(&mut self, id: u64, cgroup: u64) -> u64 {
        self.entries.get_mut(&id).map_or(0, |entry| entry.books.retire_cgroup(cgroup))
    }

    /// Another workload of the namespace takes over what was confirmed for one that is gone.
    pub fn bequeath_cgroup(&mut self, id: u64, cgroup: u64, heir: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.books.bequeath_cgroup(cgroup, heir);
        }
    }

    /// Closes namespaces that are gone and whose rows stood still for `retain`; at once if another
    /// namespace has got the inode number, which both would be labelled with. One whose rows `are_removed` could not
    /// remove stays open.
    pub fn close_dead(
        &mut self,
        counts: &Counts,
        retain: Duration,
        now: Instant,
        mut are_removed: impl FnMut(u64) -> bool,
    ) -> Vec<(u64, Closed)> {
        let totals = counts.totals();
        let living: Vec<u32> = self.entries.values().filter(|entry| entry.alive).map(|entry| entry.inum).collect();
        let is_over = |id: &u64, entry: &Entry| {
            let quiet = entry.quiet.is_some_and(|(since, rows)| {
                rows == of(&totals, *id) && now.saturating_duration_since(since) >= retain
            });
            let waiting = counts.pending.iter().any(|pending| pending.listener.netns == *id);
            !entry.alive && ((quiet && !waiting) || living.contains(&entry.inum))
        };
        let mut over: Vec<u64> =
            self.entries.iter().filter(|(id, entry)| is_over(id, entry)).map(|(id, _)| *id).collect();
        over.retain(|id| are_removed(*id));
        if over.is_empty() {
            return Vec::new();
        }
        // A handshake that is still pending will be counted in a new row, and close with that.
        let (settled, at_most) = (counts.without_pending().totals(), counts.totals_at_most());
        let close = |id: u64| {
            self.entries.remove(&id).map(|entry| (id, entry.books.close(&of(&settled, id), &of(&at_most, id))))
        };
        over.into_iter().filter_map(close).collect()
    }

    /// All namespaces as the exporter reads them.
    #[must_use]
    pub fn view(&self, discovery: &Discovery) -> Vec<Namespace> {
        self.entries.iter().map(|(id, entry)| entry.view(*id, discovery)).collect()
    }
}

impl Entry {
    fn new(inum: u32, books: Books) -> Self {
        Self {
            inum,
            name: String::new(),
            books,
            counters: Arc::default(),
            segments: Segments::default(),
            sockstat: Sockstat::default(),
            sysctls: Sysctls::default(),
            settings: None,
            alive: false,
            is_read: false,
            life: 0,
            unread: None,
            quiet: None,
        }
    }

    /// One that was met and not read yet.
    fn met(inum: u32) -> Self {
        Self { unread: Some(0), ..Self::new(inum, Books::default()) }
    }

    /// Takes a reading. Where the inode number alone tells namespaces apart, counters that went backwards do.
    fn take(&mut self, reading: &Reading, before: &Totals, after: &Totals) {
        let figures = reading.figures();
        match self.unread.take() {
            // It was made during the last pass, after that had looked for namespaces.
            Some(0..=1) => self.books = Books::open(KernelFigures::ZERO),
            // It may be as old as the node: it counts from here on.
            Some(_) => {
                let mut finder = BaselineFinder::default();
                finder.observe(before, &figures, after);
                self.books = Books::open(finder.baseline());
                self.segments = Segments::baseline(&reading.counters);
            }
            None if self.books.went_backwards(&figures) => {
                self.books.begin_again();
                self.life += 1;
                // Another namespace's; its own are read in the next pass.
                self.settings = None;
            }
            None => {}
        }
        self.inum = reading.inum;
        self.counters = Arc::clone(&reading.counters);
        self.segments.take(&reading.counters);
        self.sockstat = reading.sockstat;
        self.sysctls = reading.sysctls;
        if let Some(settings) = &reading.settings {
            self.settings = Some(settings.clone());
        }
        self.alive = true;
    }

    /// Keeps the name while it is one of the namespace's: a second one is no reason for another series.
    fn name_by(&mut self, discovery: &Discovery) {
        // One that is dead or unread may have lost its number to the one that was found.
        let found = discovery.namespaces.get(&self.inum).filter(|_| self.alive);
        let names = found.map(|found| found.names.as_slice()).unwrap_or_default();
        if !names.contains(&self.name) {
            self.name = names.first().cloned().unwrap_or_default();
        }
    }

    fn view(&self, id: u64, discovery: &Discovery) -> Namespace {
        let is_host = self.inum == discovery.host;
        // One that is dead or unread may have lost its number to the one that was found.
        let found = discovery.namespaces.get(&self.inum).filter(|_| self.alive);
        Namespace {
            id,
            inum: self.inum,
            label: if is_host { "host".to_owned() } else { self.inum.to_string() },
            name: self.name.clone(),
            is_host,
            lowest_pid: found.and_then(|found| found.lowest_pid),
            life: self.life,
            owner: Arc::default(),
            alive: self.alive,
            is_stale: self.alive && !self.is_read,
            books: self.books.clone(),
            counters: Arc::clone(&self.counters),
            segments: self.segments,
            sockstat: self.sockstat,
            sysctls: self.sysctls,
            settings: self.settings.clone(),
        }
    }
}

fn of(totals: &HashMap<u64, Totals>, id: u64) -> Totals {
    totals.get(&id).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
