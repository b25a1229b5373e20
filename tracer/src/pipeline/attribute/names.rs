//! Which names a workload gets, and that it keeps them.
//!
//! Owns the rule that makes labels of a cgroup path's ids and of container logs' names, and the memory that
//! keeps a workload's labels the same for its life: a series whose labels change is two series. Takes a
//! [`Workload`]; time is passed in. Logs nothing.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cgroup_path::Workload;
use super::log_listing::LogListing;
use super::log_names::ContainerName;
use super::{GONE_KEPT, OWNERS_MAX, Owner};

/// How much of a container's id is shown, as the runtimes' own lists do.
const CONTAINER_DIGITS: usize = 12;

/// How long a workload waits for its names. kubelet makes the log's name right after the container starts;
/// ten seconds are two passes, or a node so slow that it has other worries.
pub const NAMES_AWAITED: Duration = Duration::from_secs(10);

/// The shortest time from one look for forgettable workloads to the next when there is no room.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// An answer to whose something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This owner's, for good.
    Named(Arc<Owner>),
    /// Nothing names anybody.
    Nobody,
    /// Names may still come: ask again.
    Later,
}

struct Known {
    /// `None` while its names are awaited.
    owner: Option<Arc<Owner>>,
    since: Instant,
    asked: Instant,
}

/// Names by workload.
pub struct Names {
    logs: LogListing,
    known: HashMap<Workload, Known>,
    swept: Option<Instant>,
}

impl Names {
    /// With nothing known yet.
    #[must_use]
    pub fn new(logs: LogListing) -> Self {
        Self { logs, known: HashMap::new(), swept: None }
    }

    /// The owner that a workload's labels name. The first answer but [`Found::Later`] stands.
    pub fn owner(&mut self, workload: &Workload, now: Instant) -> Found {
        if workload.pod_uid.is_none() && workload.container_id.is_none() {
            let container = workload.delegated_container.as_deref().map(digits).unwrap_or_default();
            let named =
                |unit: &String| Owner { unit: unit.clone(), container: container.to_owned(), ..Owner::default() };
            return workload.unit.as_ref().map_or(Found::Nobody, |unit| Found::Named(Arc::new(named(unit))));
        }
        let mut since = now;
        if let Some(known) = self.known.get_mut(workload) {
            known.asked = now;
            since = known.since;
            if let Some(owner) = &known.owner {
                return Found::Named(Arc::clone(owner));
            }
        }
        let owner = self.look(workload, now);
        let waits = now.saturating_duration_since(since) < NAMES_AWAITED && self.logs.is_kept();
        let owner = match owner {
            Ok(owner) => Some(owner),
            Err(incomplete) => (!waits).then_some(incomplete),
        };
        let owner = owner.map(Arc::new);
        // Who cannot be remembered as waiting would wait for ever.
        match (self.remember(workload, owner.clone(), since, now), owner) {
            (_, Some(owner)) => Found::Named(owner),
            (true, None) => Found::Later,
            (false, None) => Found::Named(Arc::new(self.labels(workload).unwrap_or_else(|incomplete| incomplete))),
        }
    }

    /// Whether namespaces without a process may get one of a pod: a kubelet works here.
    pub fn awaits_pods(&mut self, now: Instant) -> bool {
        self.logs.refresh(now);
        self.logs.is_kept()
    }

    /// The directory of logs that was not listed the last time, and why.
    #[must_use]
    pub fn trouble(&self) -> Option<(&Path, &io::Error)> {
        self.logs.trouble()
    }

    /// How many workloads are remembered, and names of containers and pods held.
    #[must_use]
    pub fn sizes(&self) -> [usize; 3] {
        let [containers, pods] = self.logs.sizes();
        [self.known.len(), containers, pods]
    }

    /// The labels, after another listing if the last one does not tell them all.
    fn look(&mut self, workload: &Workload, now: Instant) -> Result<Owner, Owner> {
        let known = self.labels(workload);
        if known.is_err() && self.logs.refresh(now) { self.labels(workload) } else { known }
    }

    /// The labels that the last listing tells; an error holds what there is without all the names.
    fn labels(&self, workload: &Workload) -> Result<Owner, Owner> {
        let unit = workload.unit.clone().unwrap_or_default();
        let id = workload.container_id.as_deref();
        let pod = workload.pod_uid.as_deref().map(|uid| self.logs.pod(uid));
        // A name is of the container in whose cgroup its id is, in the pod that the log is of.
        let is_of_pod = |names: &&ContainerName| pod.flatten().is_none_or(|pod| *pod == names.pod);
        if let Some(names) = id.and_then(|id| self.logs.container(id)).filter(is_of_pod) {
            let (namespace, pod) = (names.pod.namespace.to_string(), names.pod.pod.to_string());
            return Ok(Owner { unit, container: names.container.to_string(), namespace, pod });
        }
        let digits = id.map_or("", digits).to_owned();
        let Some(pod) = pod.flatten() else {
            return Err(Owner { unit, container: digits, ..Owner::default() });
        };
        // A pod's sandbox is a container that kubelet keeps no log of.
        let container = if self.logs.has_containers() { String::new() } else { digits };
        let owner = Owner { unit, container, namespace: pod.namespace.to_string(), pod: pod.pod.to_string() };
        if id.is_none() { Ok(owner) } else { Err(owner) }
    }

    /// Whether there was room.
    fn remember(&mut self, workload: &Workload, owner: Option<Arc<Owner>>, since: Instant, now: Instant) -> bool {
        self.sweep(now);
        if self.known.len() >= OWNERS_MAX && !self.known.contains_key(workload) {
            return false;
        }
        self.known.insert(workload.clone(), Known { owner, since, asked: now });
        true
    }

    /// Forgets whom nobody asked for lately: containers that are gone.
    pub fn sweep(&mut self, now: Instant) {
        let interval = if self.known.len() >= OWNERS_MAX { SWEEP_INTERVAL } else { GONE_KEPT };
        let swept = *self.swept.get_or_insert(now);
        if now.saturating_duration_since(swept) >= interval {
            self.swept = Some(now);
            self.known.retain(|_, known| now.saturating_duration_since(known.asked) < GONE_KEPT);
        }
    }
}

fn digits(id: &str) -> &str {
    id.get(..CONTAINER_DIGITS).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const UID: &str = "6b1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
    const SECOND: Duration = Duration::from_secs(1);

    /// Kubelet's directories.
    struct Logs {
        root: TempDir,
        start: Instant,
    }

    impl Logs {
        fn new() -> Self {
            Self { root: tempfile::tempdir().unwrap(), start: Instant::now() }
        }

        fn add_pod(&self) {
            fs::create_dir_all(self.root.path().join(format!("pods/shop_web-0_{UID}"))).unwrap();
        }

        fn add_container(&self, number: u32) {
            let directory = self.root.path().join("containers");
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(format!("web-0_shop_app-{number:064x}.log")), "").unwrap();
        }

        fn names(&self) -> Names {
            Names::new(LogListing::new(self.root.path()))
        }
    }

    fn container(number: u32) -> Workload {
        let container_id = Some(format!("{number:064x}"));
        Workload { pod_uid: Some(UID.into()), container_id, ..Workload::default() }
    }

    fn named(namespace: &str, pod: &str, container: &str) -> Found {
        let text = str::to_owned;
        let owner =
            Owner { namespace: text(namespace), pod: text(pod), container: text(container), ..Owner::default() };
        Found::Named(Arc::new(owner))
    }

    #[test]
    fn a_log_names_the_container_and_its_pod() {
        let logs = Logs::new();
        logs.add_container(1);
        let mut names = logs.names();
        assert_eq!(names.owner(&container(1), logs.start), named("shop", "web-0", "app"));
        // Where the path shows no pod.
        let alone = Workload { pod_uid: None, ..container(1) };
        assert_eq!(names.owner(&alone, logs.start), named("shop", "web-0", "app"));
    }

    #[test]
    fn a_container_waits_for_a_name_that_comes_late_and_has_one_name_for_life() {
        let logs = Logs::new();
        logs.add_pod();
        let mut names = logs.names();
        assert_eq!(names.owner(&container(1), logs.start), Found::Later);
        logs.add_container(1);
        assert_eq!(names.owner(&container(1), logs.start + SECOND), named("shop", "web-0", "app"));
        // The log goes with the pod, the labels of the last words stay.
        fs::remove_dir_all(logs.root.path()).unwrap();
        assert_eq!(names.owner(&container(2), logs.start + SECOND * 2), named("", "", "000000000000"));
        assert_eq!(names.owner(&container(1), logs.start + SECOND * 2), named("shop", "web-0", "app"));
    }

    #[test]
    fn who_gets_no_name_in_time_settles_with_the_id() {
        let logs = Logs::new();
        fs::create_dir(logs.root.path().join("containers")).unwrap();
        let mut names = logs.names();
        let id = named("", "", "000000000000");
        for (second, expected) in [(0, Found::Later), (9, Found::Later), (10, id.clone())] {
            assert_eq!(names.owner(&container(1), logs.start + SECOND * second), expected, "{second} s");
        }
        logs.add_pod();
        logs.add_container(1);
        assert_eq!(names.owner(&container(1), logs.start + SECOND * 60), id, "labels do not change");
    }

    #[test]
    fn in_a_look_nobody_waits() {
        let logs = Logs::new();
        logs.add_pod();
        logs.add_container(1);
        let mut names = Names::new(LogListing::new(logs.root.path()).as_it_is());
        assert_eq!(names.owner(&container(1), logs.start), named("shop", "web-0", "app"));
        assert_eq!(names.owner(&container(2), logs.start), named("shop", "web-0", ""), "the sandbox");
        assert!(!names.awaits_pods(logs.start));
    }

    #[test]
    fn without_a_kubelet_nobody_waits() {
        let logs = Logs::new();
        let docker = Workload { pod_uid: None, ..container(1) };
        assert_eq!(logs.names().owner(&docker, logs.start), named("", "", "000000000000"));
        let unit = Workload { unit: Some("a.service".into()), ..Workload::default() };
        let owner = Owner { unit: "a.service".into(), ..Owner::default() };
        assert_eq!(logs.names().owner(&unit, logs.start), Found::Named(Arc::new(owner)));
        assert_eq!(logs.names().owner(&Workload::default(), logs.start), Found::Nobody);
    }

    #[test]
    fn the_sandbox_has_a_pod_and_no_container() {
        let logs = Logs::new();
        logs.add_pod();
        logs.add_container(1);
        let mut names = logs.names();
        assert_eq!(names.owner(&container(2), logs.start), Found::Later);
        assert_eq!(names.owner(&container(2), logs.start + NAMES_AWAITED), named("shop", "web-0", ""));
        // Where no container has a log, none is known to be the sandbox.
        fs::remove_dir_all(logs.root.path().join("containers")).unwrap();
        let mut names = logs.names();
        assert_eq!(names.owner(&container(2), logs.start), Found::Later);
        assert_eq!(names.owner(&container(2), logs.start + NAMES_AWAITED), named("shop", "web-0", "000000000000"));
    }

    #[test]
    fn a_pod_alone_is_named_by_its_uid() {
        let logs = Logs::new();
        logs.add_pod();
        let pod = Workload { container_id: None, ..container(1) };
        assert_eq!(logs.names().owner(&pod, logs.start), named("shop", "web-0", ""));
    }

    #[test]
    fn memory_is_bounded() {
        let logs = Logs::new();
        logs.add_pod();
        let mut names = logs.names();
        let known = || Known { owner: Some(Arc::default()), since: logs.start, asked: logs.start };
        names.known.extend((0..u32::try_from(OWNERS_MAX).unwrap()).map(|number| (container(number), known())));
        let late = container(u32::MAX);
        // No room to wait in: it settles with what there is.
        assert_eq!(names.owner(&late, logs.start), named("shop", "web-0", "000000000000"));
        assert_eq!(names.sizes()[0], OWNERS_MAX);
        // Nobody asked for the others for a while.
        assert_eq!(names.owner(&late, logs.start + GONE_KEPT), Found::Later);
        assert_eq!(names.sizes()[0], 1);
    }
}
