//! Whose a socket is: from numbers and PIDs to the owner's names.
//!
//! Owns the rule that picks the evidence and the memory of past answers. Takes a socket's cgroup number, its
//! holder and the owner of its namespace from the counters and the snapshot; hands an [`Owner`] to the collector.
//! The parsers ([`cgroup_path`], [`log_names`]) are pure, I/O is in [`cgroup_tree`], [`process`] and [`log_listing`];
//! time is passed in. Logs nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::cgroup_path::{CgroupPath, Workload};
use self::cgroup_tree::{CgroupTree, DIRECTORIES_MAX, Lookup, ROOT_ID};
use self::log_listing::{LogListing, NAMES_MAX};
use self::names::{Found, Names};
use self::process::Processes;

use crate::obstacles::Obstacles;

pub mod cgroup_mounts;
pub mod cgroup_path;
pub mod cgroup_tree;
pub mod delegation;
pub mod log_listing;
pub mod log_names;
pub mod names;
pub mod process;

/// How many owners are remembered: three times the default limit of workloads, for those that come and go.
const OWNERS_MAX: usize = 16_384;

/// How long an owner outlives its cgroup unasked: some intervals of a scrape or of a stretched pass, so that
/// the last words of a closed listener keep their labels.
const GONE_KEPT: Duration = Duration::from_mins(5);

/// How often a pass looks for owners that are gone: whoever was not asked for costs a look at a directory.
const GONE_INTERVAL: Duration = Duration::from_mins(1);

/// The labels that name an owner; empty where there is nothing to name. Owners with the same labels have the
/// same series.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// The systemd unit.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// The container's name in its pod, or the first 12 digits of its id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// The pod's Kubernetes namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The pod's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
}

/// What is known of a socket whose owner is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The number of the socket's cgroup; 0 or 1 on v1 and hybrid hosts.
    pub cgroup_id: u64,
    /// The process that holds it.
    pub holder_tgid: Option<u32>,
    /// Whose its network namespace is, for when nothing else tells. Empty for the host's, which says nothing.
    pub tenant: &'a Arc<Owner>,
}

/// Whose a network namespace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The labels.
    pub owner: Arc<Owner>,
    /// The pod, if it is one's: pods keep their namespace to themselves.
    pub pod_uid: Option<String>,
}

/// How full one of the caches is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheFill {
    /// Its name as a metric label.
    pub cache: &'static str,
    /// Entries held.
    pub entries: usize,
    /// Entries it has room for.
    pub capacity: usize,
}

struct Remembered {
    /// Where the cgroup was; empty if it was gone before it was seen.
    path: String,
    /// Whose it is; `None` if nothing names anybody.
    owner: Option<Arc<Owner>>,
    asked: Instant,
}

/// Finds owners and remembers those found by cgroup number, which the kernel never uses twice.
pub struct Attributor {
    tree: Option<CgroupTree>,
    processes: Processes,
    names: Names,
    owners: HashMap<u64, Remembered>,
    /// The walk of the tree after which `owners` was last swept.
    swept: u64,
    /// When those that are gone were last looked for.
    looked: Option<Instant>,
}

impl Attributor {
    /// Without a `tree` (no cgroup-v2 mount in sight) processes are the only evidence.
    #[must_use]
    pub fn new(tree: Option<CgroupTree>, processes: Processes, logs: LogListing) -> Self {
        Self { tree, processes, names: Names::new(logs), owners: HashMap::new(), swept: 0, looked: None }
    }

    /// The owner; `None` while a cgroup that was just made waits for the next look at the hierarchy, which
    /// happens at most once a second, or a container for its name. The owner is empty when nothing is known and
    /// nothing will be.
    pub fn owner(&mut self, evidence: &Evidence<'_>, now: Instant) -> Option<Arc<Owner>> {
        let found = if evidence.cgroup_id > ROOT_ID && self.tree.is_some() {
            self.owner_by_cgroup(evidence.cgroup_id, now)
        } else {
            evidence.holder_tgid.map_or(Found::Nobody, |tgid| self.owner_by_process(tgid, now))
        };
        match found {
            Found::Named(owner) => Some(owner),
            Found::Nobody => Some(Arc::clone(evidence.tenant)),
            Found::Later => None,
        }
    }

    /// Whose the network namespace of this process is; `None` while it waits for a name. A namespace of a pod
    /// is the pod's: its containers share it, and its first process is mostly the sandbox's.
    pub fn tenant(&mut self, pid: u32, now: Instant) -> Option<Tenant> {
        let workload = workload_in(self.processes.cgroup_of(pid));
        let pod_uid = workload.pod_uid.clone();
        let workload = match pod_uid.clone() {
            Some(uid) => Workload { pod_uid: Some(uid), ..Workload::default() },
            None => workload,
        };
        match self.names.owner(&workload, now) {
            Found::Named(owner) => Some(Tenant { owner, pod_uid }),
            Found::Nobody => Some(Tenant { owner: Arc::default(), pod_uid: None }),
            Found::Later => None,
        }
    }

    /// Whether a namespace without a process may get one of a pod: a kubelet works here.
    pub fn awaits_pods(&mut self, now: Instant) -> bool {
        self.names.awaits_pods(now)
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

    /// Forgets who is gone and was not asked for lately. In each pass: on a node where nothing new comes there is no
    /// walk that would show it.
    pub fn forget_gone(&mut self, now: Instant) {
        self.names.sweep(now);
        let Some(tree) = &self.tree else { return };
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < GONE_INTERVAL) {
            return;
        }
        self.looked = Some(now);
        self.owners.retain(|id, remembered| {
            let is_asked_for = now.saturating_duration_since(remembered.asked) < GONE_KEPT;
            is_asked_for || (tree.contains(*id) && !tree.has_gone(*id))
        });
    }

    /// How many owners are remembered by cgroup.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.owners.len()
    }

    /// Notes the directories of names that were not read the last time.
    pub fn note_obstacles(&self, met: &mut Obstacles) {
        if let Some((path, error)) = self.names.trouble() {
            met.note_directory(path, error.kind(), error);
        }
        if let Some((path, error)) = self.tree.as_ref().and_then(CgroupTree::trouble) {
            met.note_directory(path, error.kind(), error);
        }
    }

    /// How full the caches are.
    #[must_use]
    pub fn fills(&self) -> [CacheFill; 5] {
        let [workloads, containers, pods] = self.names.sizes();
        let directories = self.tree.as_ref().map_or(0, CgroupTree::len);
        let fill = |cache, entries, capacity| CacheFill { cache, entries, capacity };
        [
            fill("cgroups", directories, DIRECTORIES_MAX),
            fill("owners", self.owners.len(), OWNERS_MAX),
            fill("workloads", workloads, OWNERS_MAX),
            fill("container_names", containers, NAMES_MAX),
            fill("pod_names", pods, NAMES_MAX),
        ]
    }

    fn owner_by_cgroup(&mut self, id: u64, now: Instant) -> Found {
        if let Some(remembered) = self.owners.get_mut(&id) {
            remembered.asked = now;
            return remembered.owner.clone().map_or(Found::Nobody, Found::Named);
        }
        let looked = self.tree.as_mut().map_or(Lookup::Gone, |tree| tree.lookup(id, now));
        let (path, found) = match looked {
            Lookup::Found(path) => {
                let found = self.names.owner(&cgroup_path::parse(&path), now);
                (path.as_str().to_owned(), found)
            }
            // What lies beyond the limit of a walk may be found by another.
            Lookup::Gone if self.tree.as_ref().is_some_and(CgroupTree::is_truncated) => return Found::Nobody,
            Lookup::Gone => (String::new(), Found::Nobody),
            Lookup::TooEarly => return Found::Later,
        };
        let owner = match &found {
            Found::Named(owner) => Some(Arc::clone(owner)),
            Found::Nobody => None,
            Found::Later => return Found::Later,
        };
        self.sweep(now);
        if self.owners.len() < OWNERS_MAX {
            self.owners.insert(id, Remembered { path, owner, asked: now });
        }
        found
    }

    /// Forgets owners whose cgroup the latest walk did not see and whom nobody asked for lately. One that it saw
    /// elsewhere is another: the kernel does not use numbers twice, but nothing here rests on that.
    fn sweep(&mut self, now: Instant) {
        let Some(tree) = &self.tree else { return };
        if self.swept == tree.walks() {
            return;
        }
        self.swept = tree.walks();
        self.owners.retain(|id, remembered| match tree.path_of(*id) {
            Some(path) => path.as_str() == remembered.path,
            None => now.saturating_duration_since(remembered.asked) < GONE_KEPT,
        });
    }

    fn owner_by_process(&mut self, tgid: u32, now: Instant) -> Found {
        self.names.owner(&workload_in(self.processes.cgroup_of_told(tgid)), now)
    }
}

/// Nobody's if the process has ended.
fn workload_in(path: Option<CgroupPath>) -> Workload {
    path.map(|path| cgroup_path::parse(&path)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
