//! Which labels a row gets: joins keys of the maps with namespaces, processes and workloads.
//!
//! A listener keeps the labels it once had for as long as its row lives, so that a series is not cut
//! in two when its process ends. Labels that cannot be told yet hold the row back for a scrape.

use std::{collections::HashMap, sync::Arc, time::Instant};

use tracer_ebpf::counter::{CGROUP_OTHER, ListenerKey, ListenerStats};

use crate::{
    pipeline::{
        attribute::{Attributor, Evidence, Netns, Owner},
        decode::ip_address,
        snapshot::Listener,
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
        if let Some(labels) = self.listeners.get(key)
            && (!labels.process.is_empty() || !view.listeners.contains_key(key))
        {
            return Some(Arc::clone(labels));
        }
        let seen = view.listeners.get(key);
        let (tgid, process, cgroup) = holder(key, stats, seen);
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

/// Process and cgroup that own a listener: the holder that the pass found, else the caller of
/// `listen()`.
fn holder(key: &ListenerKey, stats: Option<&ListenerStats>, seen: Option<&Listener>) -> (Option<u32>, Vec<u8>, u64) {
    let caller = stats.map_or(0, |stats| stats.owner_tgid);
    match seen.and_then(|listener| listener.owner(caller, key.cgroup)) {
        Some(holder) => (Some(holder.tgid), name(&holder.comm), owning_cgroup(key, holder.cgroup)),
        None => match stats.filter(|stats| stats.owner_tgid != 0) {
            Some(stats) => (Some(stats.owner_tgid), name(&stats.owner_comm), key.cgroup),
            None => (None, Vec::new(), key.cgroup),
        },
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
