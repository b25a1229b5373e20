//! Which labels a row gets: joins keys of the maps with namespaces, processes and workloads.
//!
//! A listener keeps the labels it once had for as long as its row lives, so that a series is not cut
//! in two when its process ends; but where another process listens by now, or the same one from another cgroup, they
//! are that one's. So does a namespace keep its tenant's. Where a listener's labels cannot be told yet its row is held back for a
//! few passes; a workload's counts are shown for its namespace until then.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use tracer_ebpf::counter::{CGROUP_OTHER, CounterKey, ListenerKey, ListenerStats};

use self::provisional::{CGROUP_OF_NAMESPACE, Provisional};
use self::tenants::{Tenants, Verdict};
use crate::{
    obstacles::Obstacles,
    pipeline::{
        attribute::{Attributor, CacheFill, Evidence, Owner},
        counters::Counts,
        decode::ip_address,
        snapshot::{Holder, Listener},
    },
    view::{Namespace, View},
};

pub mod provisional;
mod tenants;

#[cfg(test)]
mod tests;

/// Value of the process or port label in the row of what found no room.
pub const OTHER: &str = "_other";

/// Finds labels and remembers those of listeners and namespaces.
pub struct Labels {
    attributor: Attributor,
    tenants: Tenants,
    listeners: HashMap<ListenerKey, Known>,
    provisional: Provisional,
}

/// What is remembered of a listener.
struct Known {
    labels: Arc<ListenerLabels>,
    /// The cgroup whose owner they name.
    cgroup: u64,
}

/// Labels of a listener beyond its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerLabels {
    /// Whose it is.
    pub owner: Arc<Owner>,
    /// Name of the process, raw bytes without the trailing zeroes.
    pub process: Vec<u8>,
    /// Bound address.
    pub address: String,
    /// Bound port.
    pub port: String,
}

impl Known {
    /// Whether the labels name a process that holds the listener, and its owner, as far as the pass could tell. While a
    /// service manager holds it alone, for the service that it will start again, they stay the service's.
    fn is_of(&self, seen: &Listener) -> bool {
        let process = &self.labels.process;
        // On v1 and hybrid hosts all are in the root of v2.
        let is_named =
            |holder: &Holder| name(&holder.comm) == *process && (holder.cgroup == 0 || holder.cgroup == self.cgroup);
        let mut servers = seen.holders.iter().filter(|holder| !holder.is_manager()).peekable();
        !process.is_empty() && (servers.peek().is_none() || servers.any(is_named))
    }
}

impl Labels {
    /// With nothing remembered.
    #[must_use]
    pub fn new(attributor: Attributor) -> Self {
        Self { attributor, tenants: Tenants::default(), listeners: HashMap::new(), provisional: Provisional::default() }
    }

    /// The workload behind a socket's cgroup. `None`: ask again at the next scrape.
    pub fn workload(&mut self, cgroup: u64, namespace: &Namespace, now: Instant) -> Option<Arc<Owner>> {
        self.owner(cgroup, None, namespace, now)
    }

    /// The same for a socket that a process is known to hold.
    pub fn workload_of_holder(
        &mut self,
        cgroup: u64,
        holder: Option<u32>,
        namespace: &Namespace,
        now: Instant,
    ) -> Option<Arc<Owner>> {
        self.owner(cgroup, holder, namespace, now)
    }

    /// Puts counts of workloads without a name yet to their namespaces' own, and leaves there what was shown so. `counts`
    /// are as read from the maps, before `now`.
    pub fn show_at_once(&mut self, counts: &mut Counts, view: &View, now: Instant) {
        let namespaces: HashMap<u64, &Namespace> =
            view.namespaces.iter().map(|namespace| (namespace.id, namespace)).collect();
        let mut provisional = std::mem::take(&mut self.provisional);
        provisional.split(&mut counts.counters, |netns, cgroup| {
            // One that is not in the view has no rows at all.
            namespaces.get(&netns).is_none_or(|namespace| self.workload(cgroup, namespace, now).is_some())
        });
        self.provisional = provisional;
    }

    /// Forgets a workload's row that is removed; returns how much of it was shown for the namespace.
    pub fn forget_counter(&mut self, key: &CounterKey) -> u64 {
        self.provisional.take(key)
    }

    fn owner(&mut self, cgroup: u64, holder: Option<u32>, namespace: &Namespace, now: Instant) -> Option<Arc<Owner>> {
        let tenant = &namespace.owner;
        if cgroup == CGROUP_OTHER {
            let (namespace, pod) = (tenant.namespace.clone(), tenant.pod.clone());
            return Some(Arc::new(Owner { unit: OTHER.to_owned(), namespace, pod, ..Owner::default() }));
        }
        self.attributor.owner(&Evidence { cgroup_id: cgroup, holder_tgid: holder, tenant }, now)
    }

    /// Says whose each namespace is. One whose tenant may still get a name is left out, and all its rows with
    /// it; that ends after ten seconds at most.
    pub fn name_namespaces(&mut self, namespaces: Vec<Namespace>, now: Instant) -> Vec<Namespace> {
        self.tenants.keep(&namespaces.iter().map(|namespace| namespace.id).collect());
        let mut named = Vec::with_capacity(namespaces.len());
        for mut namespace in namespaces {
            match self.tenants.ask(&namespace, &mut self.attributor, now) {
                Verdict::Same(owner) => namespace.owner = owner,
                Verdict::Other(owner) => {
                    // The number has got to another namespace, whose listeners look like those of the last one.
                    self.forget_listeners(namespace.id);
                    namespace.owner = owner;
                }
                Verdict::Later => continue,
            }
            named.push(namespace);
        }
        named
    }

    /// Looks at the owners of all rows, so that one who is gone before the next scrape has a name then, and one
    /// who waits for a name has mostly waited before. Forgets owners that are gone and have no row any more.
    pub fn meet(&mut self, counts: &Counts, view: &View, now: Instant) {
        let namespaces: HashMap<u64, &Namespace> =
            view.namespaces.iter().map(|namespace| (namespace.id, namespace)).collect();
        for (key, stats) in &counts.listeners {
            if let Some(namespace) = namespaces.get(&key.netns) {
                self.listener(key, Some(stats), view, namespace, now);
            }
        }
        let workloads: BTreeSet<(u64, u64)> = counts.counters.iter().map(|(key, _)| (key.netns, key.cgroup)).collect();
        for (netns, cgroup) in workloads {
            if let Some(namespace) = namespaces.get(&netns) {
                self.workload(cgroup, namespace, now);
            }
        }
        self.attributor.forget_gone(now);
    }

    /// Notes the directories of names that were not read the last time.
    pub fn note_obstacles(&self, met: &mut Obstacles) {
        self.attributor.note_obstacles(met);
    }

    /// How full the caches of names are.
    #[must_use]
    pub fn fills(&self) -> [CacheFill; 5] {
        self.attributor.fills()
    }

    /// The labels of a listener, from what the last pass saw of it and what was captured at
    /// `listen()`. `None`: ask again at the next scrape.
    pub fn listener(
        &mut self,
        key: &ListenerKey,
        stats: Option<&ListenerStats>,
        view: &View,
        namespace: &Namespace,
        now: Instant,
    ) -> Option<Arc<ListenerLabels>> {
        let seen = view.listeners.get(key);
        if let Some(known) = self.listeners.get(key)
            && seen.is_none_or(|seen| known.is_of(seen))
        {
            return Some(Arc::clone(&known.labels));
        }
        let (tgid, process, cgroup) = self.holder(key, stats, seen);
        let owner = self.owner(cgroup, tgid, namespace, now)?;
        let labels = Arc::new(ListenerLabels {
            owner,
            process,
            address: ip_address(&key.address).to_string(),
            port: key.port.to_string(),
        });
        // Without a process the labels may still improve with the next pass.
        if seen.is_some() || !labels.process.is_empty() {
            self.listeners.insert(*key, Known { labels: Arc::clone(&labels), cgroup });
        }
        Some(labels)
    }

    /// The labels of a listener that were found before.
    #[must_use]
    pub fn known(&self, key: &ListenerKey) -> Option<Arc<ListenerLabels>> {
        self.listeners.get(key).map(|known| Arc::clone(&known.labels))
    }

    /// Process and cgroup that own a listener: the holder that the pass found, else the caller of
    /// `listen()`.
    fn holder(
        &self,
        key: &ListenerKey,
        stats: Option<&ListenerStats>,
        seen: Option<&Listener>,
    ) -> (Option<u32>, Vec<u8>, u64) {
        let caller = stats.map_or(0, |stats| stats.owner_tgid);
        match seen.and_then(|listener| listener.owner(caller, key.cgroup)) {
            Some(holder) => (Some(holder.tgid), name(&holder.comm), owning_cgroup(key, holder.cgroup)),
            None => match stats.filter(|stats| stats.owner_tgid != 0) {
                Some(stats) => (Some(stats.owner_tgid), self.caller_name(stats), key.cgroup),
                None => (None, Vec::new(), key.cgroup),
            },
        }
    }

    /// The process that called `listen()`. A thread's name says little, so where that was captured the
    /// process is asked; if it has ended, the thread's name is what there is.
    fn caller_name(&self, stats: &ListenerStats) -> Vec<u8> {
        let asked = (stats.owner_comm_is_of_thread != 0).then(|| self.attributor.process_name(stats.owner_tgid));
        asked.flatten().unwrap_or_else(|| name(&stats.owner_comm))
    }

    /// A living listener that has the labels of a dead one, so that their series are the same.
    #[must_use]
    pub fn heir_of_listener<'a>(
        &self,
        dead: &ListenerKey,
        living: impl IntoIterator<Item = &'a ListenerKey>,
    ) -> Option<ListenerKey> {
        let labels = &self.listeners.get(dead)?.labels;
        let is_heir = |key: &&ListenerKey| {
            (key.netns, key.address, key.port) == (dead.netns, dead.address, dead.port)
                && *key != dead
                && self.listeners.get(key).is_some_and(|known| known.labels == *labels)
        };
        living.into_iter().find(is_heir).copied()
    }

    /// Who has the labels of a dead cgroup in the same namespace: a living cgroup, or the namespace itself, which has what
    /// no workload could be named for.
    pub fn heir_of_cgroup(
        &mut self,
        netns: u64,
        dead: u64,
        living: impl IntoIterator<Item = u64>,
        now: Instant,
    ) -> Option<u64> {
        let tenant = self.tenants.owner(netns);
        let mut owner =
            |cgroup_id| self.attributor.owner(&Evidence { cgroup_id, holder_tgid: None, tenant: &tenant }, now);
        let labels = owner(dead)?;
        if labels == tenant {
            return Some(CGROUP_OF_NAMESPACE);
        }
        living.into_iter().find(|cgroup| *cgroup != dead && owner(*cgroup).is_some_and(|heir| heir == labels))
    }

    /// Whether a cgroup is gone for good.
    #[must_use]
    pub fn cgroup_has_gone(&self, cgroup: u64) -> bool {
        cgroup != CGROUP_OTHER && self.attributor.has_gone(cgroup)
    }

    /// Forgets a listener whose row is gone.
    pub fn forget_listener(&mut self, key: &ListenerKey) {
        self.listeners.remove(key);
    }

    /// Forgets a namespace that is gone and all its listeners.
    pub fn forget_namespace(&mut self, id: u64) {
        self.tenants.forget(id);
        self.forget_listeners(id);
        self.provisional.forget_namespace(id);
    }

    fn forget_listeners(&mut self, namespace: u64) {
        self.listeners.retain(|key, _| key.netns != namespace);
    }
}

/// The holder's cgroup where it is not the socket's (socket activation); on v1 and hybrid hosts both
/// are the root, and processes tell.
fn owning_cgroup(key: &ListenerKey, holder: u64) -> u64 {
    if holder == 0 { key.cgroup } else { holder }
}

fn name(comm: &[u8; 16]) -> Vec<u8> {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    comm[..end].to_vec()
}
