//! Whose a socket is: from numbers and PIDs to the owner's names.
//!
//! Owns the rule that picks the evidence and the memory of past answers. Takes a socket's cgroup number, its
//! holder and its namespace from the counters and the snapshot; hands an [`Owner`] to the collector. The
//! parser ([`cgroup_path`]) is pure, I/O is in [`cgroup_tree`] and [`process`]; time is passed in. Logs nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::cgroup_path::Workload;
use self::cgroup_tree::{CgroupTree, Lookup, ROOT_ID};
use self::process::Processes;

pub mod cgroup_path;
pub mod cgroup_tree;
pub mod process;

/// How many owners are remembered: three times the default limit of workloads, for those that come and go.
const OWNERS_MAX: usize = 16_384;

/// How long an owner outlives its cgroup unasked: some intervals of a scrape or of a stretched pass, so that
/// the last words of a closed listener keep their labels.
const GONE_KEPT: Duration = Duration::from_mins(5);

/// How much of a container's id is shown, as the runtimes' own lists do.
const CONTAINER_DIGITS: usize = 12;

/// The labels that name an owner; empty where there is nothing to name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// The systemd unit.
    pub unit: String,
    /// The first 12 digits of the container's id.
    pub container: String,
    /// The pod's UID; not a label, but the key to the pod's names.
    pub pod_uid: String,
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
}

impl Owner {
    fn new(workload: Workload) -> Self {
        let mut container = workload.container_id.unwrap_or_default();
        container.truncate(CONTAINER_DIGITS);
        Self {
            unit: workload.unit.unwrap_or_default(),
            container,
            pod_uid: workload.pod_uid.unwrap_or_default(),
            ..Self::default()
        }
    }
}

/// The network namespace of a socket, as evidence of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Netns {
    /// The host's: it says nothing, as unrelated processes share it.
    Host,
    /// Another one, and a process that lives in it.
    Other {
        /// The lowest PID inside, if any.
        pid: Option<u32>,
    },
}

/// What is known of a socket whose owner is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The number of the socket's cgroup; 0 or 1 on v1 and hybrid hosts.
    pub cgroup_id: u64,
    /// The process that holds it.
    pub holder_tgid: Option<u32>,
    /// Where it lives.
    pub netns: Netns,
}

struct Remembered {
    owner: Arc<Owner>,
    asked: Instant,
}

/// Finds owners and remembers those found by cgroup number, which is never used twice.
pub struct Attributor {
    tree: Option<CgroupTree>,
    processes: Processes,
    owners: HashMap<u64, Remembered>,
    /// The walk of the tree after which `owners` was last swept.
    swept: u64,
}

impl Attributor {
    /// Without a `tree` (no cgroup-v2 mount in sight) processes are the only evidence.
    #[must_use]
    pub fn new(tree: Option<CgroupTree>, processes: Processes) -> Self {
        Self { tree, processes, owners: HashMap::new(), swept: 0 }
    }

    /// The owner; `None` while a cgroup that was just made waits for the next look at the hierarchy, which
    /// happens at most once a second. The owner is empty when nothing is known and nothing will be.
    pub fn owner(&mut self, evidence: &Evidence, now: Instant) -> Option<Arc<Owner>> {
        if evidence.cgroup_id > ROOT_ID && self.tree.is_some() {
            return self.owner_by_cgroup(evidence.cgroup_id, now);
        }
        Some(Arc::new(Owner::new(self.workload_by_process(evidence))))
    }

    /// The name of a process that is still there.
    #[must_use]
    pub fn process_name(&self, tgid: u32) -> Option<Vec<u8>> {
        self.processes.comm(tgid)
    }

    /// Whether a cgroup is gone for good; false where that cannot be told.
    #[must_use]
    pub fn has_gone(&self, cgroup_id: u64) -> bool {
        cgroup_id > ROOT_ID
            && match &self.tree {
                Some(tree) if tree.contains(cgroup_id) => tree.has_gone(cgroup_id),
                // A later walk did not find it, though it was found before.
                Some(tree) => tree.walks() > 0 && !tree.is_truncated() && self.owners.contains_key(&cgroup_id),
                None => false,
            }
    }

    /// How many owners are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.owners.len()
    }

    fn owner_by_cgroup(&mut self, id: u64, now: Instant) -> Option<Arc<Owner>> {
        if let Some(remembered) = self.owners.get_mut(&id) {
            remembered.asked = now;
            return Some(Arc::clone(&remembered.owner));
        }
        let workload = match self.tree.as_mut()?.lookup(id, now) {
            Lookup::Found(path) => cgroup_path::parse(&path),
            Lookup::Gone => Workload::default(),
            Lookup::TooEarly => return None,
        };
        let owner = Arc::new(Owner::new(workload));
        self.sweep(now);
        if self.owners.len() < OWNERS_MAX {
            self.owners.insert(id, Remembered { owner: Arc::clone(&owner), asked: now });
        }
        Some(owner)
    }

    /// Forgets owners whose cgroup the latest walk did not see and whom nobody asked for lately.
    fn sweep(&mut self, now: Instant) {
        let Some(tree) = &self.tree else { return };
        if self.swept == tree.walks() {
            return;
        }
        self.swept = tree.walks();
        self.owners
            .retain(|id, remembered| tree.contains(*id) || now.saturating_duration_since(remembered.asked) < GONE_KEPT);
    }

    fn workload_by_process(&self, evidence: &Evidence) -> Workload {
        let workload_of = |pid: u32| self.processes.cgroup_of(pid).map(|path| cgroup_path::parse(&path));
        if let Some(workload) = evidence.holder_tgid.and_then(workload_of) {
            return workload;
        }
        let Netns::Other { pid: Some(pid) } = evidence.netns else {
            return Workload::default();
        };
        let workload = workload_of(pid).unwrap_or_default();
        if workload.pod_uid.is_some() {
            // The pod's containers share the namespace; its first process is mostly the pause container's.
            return Workload { pod_uid: workload.pod_uid, ..Workload::default() };
        }
        workload
    }
}

#[cfg(test)]
mod tests;
