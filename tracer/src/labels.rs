//! Which labels a row gets: joins keys of the maps with namespaces, processes and workloads.
//!
//! A listener keeps the labels it once had for as long as its row lives, so that a series is not cut
//! in two when its process ends; but where another process listens by now, the name is that one's.
//! Labels that cannot be told yet hold the row back for a scrape.

use std::{collections::HashMap, sync::Arc, time::Instant};

use tracer_ebpf::counter::{CGROUP_OTHER, ListenerKey, ListenerStats};

use crate::{
    pipeline::{
        attribute::{Attributor, Evidence, Netns, Owner},
        decode::ip_address,
        snapshot::{Holder, Listener},
    },
    view::{Namespace, View},
};

/// Value of the process or port label in the row of what found no room.
pub const OTHER: &str = "_other";

/// Finds labels and remembers those of listeners.
pub struct Labels {
    attributor: Attributor,
    listeners: HashMap<ListenerKey, Arc<ListenerLabels>>,
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

impl ListenerLabels {
    /// Whether they name a process that holds the listener, as far as the pass could tell.
    fn are_of(&self, seen: &Listener) -> bool {
        let is_named = |holder: &Holder| name(&holder.comm) == self.process;
        !self.process.is_empty() && (seen.holders.is_empty() || seen.holders.iter().any(is_named))
    }
}

impl Labels {
    /// With nothing remembered.
    #[must_use]
    pub fn new(attributor: Attributor) -> Self {
        Self { attributor, listeners: HashMap::new() }
    }

    /// The workload behind a socket's cgroup. `None`: ask again at the next scrape.
    pub fn workload(&mut self, cgroup: u64, namespace: &Namespace, now: Instant) -> Option<Arc<Owner>> {
        self.owner(cgroup, None, namespace, now)
    }

    fn owner(&mut self, cgroup: u64, holder: Option<u32>, namespace: &Namespace, now: Instant) -> Option<Arc<Owner>> {
        if cgroup == CGROUP_OTHER {
            return Some(Arc::new(Owner { unit: OTHER.to_owned(), ..Owner::default() }));
        }
        let netns = if namespace.is_host { Netns::Host } else { Netns::Other { pid: namespace.lowest_pid } };
        self.attributor.owner(&Evidence { cgroup_id: cgroup, holder_tgid: holder, netns }, now)
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
        if let Some(labels) = self.listeners.get(key)
            && seen.is_none_or(|seen| labels.are_of(seen))
        {
            return Some(Arc::clone(labels));
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
            self.listeners.insert(*key, Arc::clone(&labels));
        }
        Some(labels)
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
        let labels = self.listeners.get(dead)?;
        let is_heir = |key: &&ListenerKey| {
            (key.netns, key.address, key.port) == (dead.netns, dead.address, dead.port)
                && *key != dead
                && self.listeners.get(key) == Some(labels)
        };
        living.into_iter().find(is_heir).copied()
    }

    /// A living cgroup that has the owner of a dead one.
    pub fn heir_of_cgroup(&mut self, dead: u64, living: impl IntoIterator<Item = u64>, now: Instant) -> Option<u64> {
        let mut owner = |cgroup_id| {
            let evidence = Evidence { cgroup_id, holder_tgid: None, netns: Netns::Host };
            self.attributor.owner(&evidence, now)
        };
        let labels = owner(dead)?;
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

    /// Forgets all listeners of a namespace.
    pub fn forget_namespace(&mut self, id: u64) {
        self.listeners.retain(|key, _| key.netns != id);
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

#[cfg(test)]
mod tests {
    use tracer_ebpf::counter::ListenerSocket;
    use zerocopy::FromZeros;

    use super::*;
    use crate::pipeline::{
        attribute::process::Processes,
        kernel_counters::{KernelCounters, Sockstat, Sysctls},
        reconcile::Books,
        snapshot,
    };

    const KEY: ListenerKey = ListenerKey { netns: 1, cgroup: 1, address: [0; 4], port: 80, zero: [0; 3] };

    fn namespace() -> Namespace {
        Namespace {
            id: 1,
            inum: 1,
            label: "host".into(),
            name: String::new(),
            is_host: true,
            lowest_pid: None,
            alive: true,
            books: Books::default(),
            counters: KernelCounters::default(),
            sockstat: Sockstat::default(),
            sysctls: Sysctls::default(),
            settings: None,
        }
    }

    /// What a pass saw: one socket, held by these processes.
    fn view(holders: &[(u32, [u8; 16])]) -> View {
        let record = |&(holder_tgid, holder_comm)| ListenerSocket {
            key: KEY,
            sock: 1,
            holder_cgroup: 1,
            holder_tgid,
            netns_inum: 1,
            accept_queue_length: 0,
            accept_queue_limit: 5,
            syn_queue_length: 0,
            sk_drops: 0,
            holder_comm,
        };
        let records: Vec<_> = holders.iter().map(record).collect();
        View { listeners: snapshot::join(&records), ..View::default() }
    }

    #[test]
    fn the_process_that_listens_names_the_listener() {
        let nowhere = tempfile::tempdir().unwrap();
        let mut labels = Labels::new(Attributor::new(None, Processes::new(nowhere.path())));
        let (first, other) = (*b"first\0\0\0\0\0\0\0\0\0\0\0", *b"other\0\0\0\0\0\0\0\0\0\0\0");
        for (view, expected, what) in [
            (view(&[(10, first)]), "first", "its holder"),
            (view(&[]), "first", "it is gone, and its row is not"),
            (view(&[(9, other), (10, first)]), "first", "it still holds the socket"),
            (view(&[(0, [0; 16])]), "first", "a walk that does not tell holders"),
            (view(&[(11, other)]), "other", "another listens there now"),
            (view(&[]), "other", "which is gone too"),
        ] {
            let found = labels.listener(&KEY, None, &view, &namespace(), Instant::now()).unwrap();
            assert_eq!(String::from_utf8_lossy(&found.process), expected, "{what}");
        }
    }

    #[test]
    fn a_thread_that_listens_is_named_by_its_process() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir(proc.path().join("42")).unwrap();
        std::fs::write(proc.path().join("42/comm"), "server\n").unwrap();
        let comm = *b"worker-1\0\0\0\0\0\0\0\0";
        for (owner_tgid, owner_comm_is_of_thread, expected, what) in [
            (42, 1, "server", "only the thread's name was captured"),
            (43, 1, "worker-1", "the process has ended"),
            (42, 0, "worker-1", "the process's name was captured"),
        ] {
            let mut labels = Labels::new(Attributor::new(None, Processes::new(proc.path())));
            let stats =
                ListenerStats { owner_tgid, owner_comm_is_of_thread, owner_comm: comm, ..ListenerStats::new_zeroed() };
            let found = labels.listener(&KEY, Some(&stats), &view(&[]), &namespace(), Instant::now()).unwrap();
            assert_eq!(String::from_utf8_lossy(&found.process), expected, "{what}");
        }
    }
}
