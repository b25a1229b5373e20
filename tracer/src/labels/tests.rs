//! Names of listeners, of namespaces' tenants, and who inherits whose series.

use std::{fs, path::Path, time::Duration};

use tempfile::TempDir;
use tracer_ebpf::counter::{Counter, CounterKey, ListenerSocket};
use zerocopy::FromZeros;

use super::*;
use crate::agent::legacy::Legacy;
use crate::pipeline::{
    attribute::{cgroup_tree::CgroupTree, log_listing::LogListing, process::Processes},
    kernel_counters::{Segments, Sockstat, Sysctls},
    reconcile::Books,
    snapshot,
};

const KEY: ListenerKey = ListenerKey { netns: 1, cgroup: 1, address: [0; 4], port: 80, zero: [0; 3] };

fn labels(proc: &Path) -> Labels {
    Labels::new(Attributor::new(None, Processes::new(proc), LogListing::new(proc.join("log"))))
}

fn namespace() -> Namespace {
    Namespace {
        id: 1,
        inum: 1,
        label: "host".into(),
        name: String::new(),
        is_host: true,
        lowest_pid: None,
        life: 0,
        owner: Arc::default(),
        alive: true,
        is_stale: false,
        books: Books::default(),
        counters: Arc::default(),
        segments: Segments::default(),
        sockstat: Sockstat::default(),
        sysctls: Sysctls::default(),
        settings: None,
    }
}

/// What a pass saw: one socket, held by these processes.
fn view(holders: &[(u32, [u8; 16])]) -> View {
    view_of(&holders.iter().map(|&(tgid, comm)| (tgid, comm, KEY.cgroup)).collect::<Vec<_>>())
}

/// The same, with the cgroup that each is in.
fn view_of(holders: &[(u32, [u8; 16], u64)]) -> View {
    let record = |&(holder_tgid, holder_comm, holder_cgroup)| ListenerSocket {
        key: KEY,
        sock: 1,
        inode: 1,
        holder_cgroup,
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
    let mut labels = labels(nowhere.path());
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
fn a_process_that_moves_takes_the_listener_with_it() {
    let node = Node::new();
    node.add_pod(5);
    node.add_pod(6);
    let [here, there] = [5, 6].map(|pod| node.add_container(pod, pod));
    let mut labels = node.labels();
    let server = *b"server\0\0\0\0\0\0\0\0\0\0";
    for (holders, expected, what) in [
        (&[(10, server, here)][..], "pod-5", "where it was when it was seen first"),
        (&[(10, server, there)], "pod-6", "it moved"),
        (&[(11, server, here), (10, server, there)], "pod-6", "another of that name is elsewhere"),
        (&[], "pod-6", "it is gone, and its row is not"),
        (&[(10, server, 0)], "pod-6", "where it is cannot be told"),
    ] {
        let found = labels.listener(&KEY, None, &view_of(holders), &namespace(), node.start).unwrap();
        assert_eq!(found.owner.pod, expected, "{what}");
    }
}

#[test]
fn a_thread_that_listens_is_named_by_its_process() {
    let proc = tempfile::tempdir().unwrap();
    fs::create_dir(proc.path().join("42")).unwrap();
    fs::write(proc.path().join("42/comm"), "server\n").unwrap();
    let comm = *b"worker-1\0\0\0\0\0\0\0\0";
    for (owner_tgid, owner_comm_is_of_thread, expected, what) in [
        (42, 1, "server", "only the thread's name was captured"),
        (43, 1, "worker-1", "the process has ended"),
        (42, 0, "worker-1", "the process's name was captured"),
    ] {
        let mut labels = labels(proc.path());
        let stats =
            ListenerStats { owner_tgid, owner_comm_is_of_thread, owner_comm: comm, ..ListenerStats::new_zeroed() };
        let found = labels.listener(&KEY, Some(&stats), &view(&[]), &namespace(), Instant::now()).unwrap();
        assert_eq!(String::from_utf8_lossy(&found.process), expected, "{what}");
    }
}

#[test]
fn an_activated_service_names_the_listener_and_keeps_it_while_it_rests() {
    let nowhere = tempfile::tempdir().unwrap();
    let mut labels = labels(nowhere.path());
    let (manager, service) = (*b"systemd\0\0\0\0\0\0\0\0\0", *b"service\0\0\0\0\0\0\0\0\0");
    for (view, expected, what) in [
        (view(&[(1, manager)]), "systemd", "nobody has connected"),
        (view(&[(1, manager), (10, service)]), "service", "it was started"),
        (view(&[(1, manager)]), "service", "it rests until the next connection"),
        (view(&[(1, manager), (11, service)]), "service", "it was started again"),
    ] {
        let found = labels.listener(&KEY, None, &view, &namespace(), Instant::now()).unwrap();
        assert_eq!(String::from_utf8_lossy(&found.process), expected, "{what}");
    }
}

/// A node with pods: processes, cgroups and logs.
struct Node {
    dir: TempDir,
    start: Instant,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for path in ["cgroup", "log/containers", "log/pods"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        Self { dir, start: Instant::now() }
    }

    fn labels(&self) -> Labels {
        let tree = CgroupTree::at(self.dir.path().join("cgroup"));
        let logs = LogListing::new(self.dir.path().join("log"));
        Labels::new(Attributor::new(Some(tree), Processes::new(self.dir.path()), logs))
    }

    /// A pod `pod-<number>` with a process that has the pod's number for a PID.
    fn add_pod(&self, number: u32) {
        let uid = uid(number);
        fs::create_dir(self.dir.path().join(format!("log/pods/shop_pod-{number}_{uid}"))).unwrap();
        let process = self.dir.path().join(number.to_string());
        fs::create_dir(&process).unwrap();
        fs::write(process.join("cgroup"), format!("0::/kubepods/pod{uid}/{:064x}\n", 0xabc)).unwrap();
    }

    /// One life of the pod's container `app`; the number of its cgroup.
    fn add_container(&self, pod: u32, id: u32) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let log = self.dir.path().join(format!("log/containers/pod-{pod}_shop_app-{id:064x}.log"));
        fs::write(log, "").unwrap();
        let cgroup = self.dir.path().join(format!("cgroup/kubepods/pod{}/{id:064x}", uid(pod)));
        fs::create_dir_all(&cgroup).unwrap();
        fs::metadata(cgroup).unwrap().ino()
    }

    fn after(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }
}

fn uid(pod: u32) -> String {
    format!("6b1a2c3d-4e5f-4a6b-8c7d-{pod:012x}")
}

fn of_pod(id: u64, inum: u32, lowest_pid: Option<u32>) -> Namespace {
    Namespace { id, inum, label: inum.to_string(), is_host: false, lowest_pid, ..namespace() }
}

/// The pods' names; `-` for a namespace that waits.
fn pods(labels: &mut Labels, namespaces: &[Namespace], now: Instant) -> Vec<String> {
    let named = labels.name_namespaces(namespaces.to_vec(), now);
    let pod = |id| named.iter().find(|named| named.id == id).map_or("-".to_owned(), |named| named.owner.pod.clone());
    namespaces.iter().map(|namespace| pod(namespace.id)).collect()
}

#[test]
fn a_pod_keeps_its_namespace_when_its_processes_are_gone() {
    let node = Node::new();
    node.add_pod(5);
    node.add_pod(6);
    let mut labels = node.labels();
    assert_eq!(pods(&mut labels, &[of_pod(7, 70, Some(5))], node.start), ["pod-5"]);
    assert_eq!(pods(&mut labels, &[of_pod(7, 70, None)], node.after(1)), ["pod-5"]);
    assert_eq!(pods(&mut labels, &[of_pod(7, 70, Some(6))], node.after(2)), ["pod-5"], "a guest");
}

#[test]
fn a_namespace_waits_for_its_first_process_and_the_pod_for_its_name() {
    let node = Node::new();
    let mut labels = node.labels();
    let empty = of_pod(7, 70, None);
    assert_eq!(pods(&mut labels, std::slice::from_ref(&empty), node.start), ["-"]);
    assert_eq!(pods(&mut labels, &[empty], node.after(10)), [""], "for ten seconds");
    node.add_pod(5);
    let log = node.dir.path().join(format!("log/pods/shop_pod-5_{}", uid(5)));
    fs::remove_dir(&log).unwrap();
    assert_eq!(pods(&mut labels, &[of_pod(7, 70, Some(5))], node.after(11)), ["-"]);
    fs::create_dir(&log).unwrap();
    assert_eq!(pods(&mut labels, &[of_pod(7, 70, Some(5))], node.after(12)), ["pod-5"]);
    let host = Namespace { lowest_pid: Some(5), ..namespace() };
    assert_eq!(pods(&mut labels, &[host], node.after(12)), [""], "the host's is nobody's");
}

#[test]
fn the_same_inode_with_another_cookie_is_another_pods() {
    let node = Node::new();
    node.add_pod(5);
    node.add_pod(6);
    let mut labels = node.labels();
    assert_eq!(pods(&mut labels, &[of_pod(7, 70, Some(5))], node.start), ["pod-5"]);
    let both = [of_pod(7, 70, None), of_pod(8, 70, Some(6))];
    assert_eq!(pods(&mut labels, &both, node.after(1)), ["pod-5", "pod-6"]);
    labels.forget_namespace(7);
    assert_eq!(pods(&mut labels, &both[1..], node.after(2)), ["pod-6"]);
}

#[test]
fn without_cookies_a_new_life_has_new_labels() {
    let node = Node::new();
    node.add_pod(5);
    node.add_pod(6);
    let key = ListenerKey { netns: 70, cgroup: 0, ..KEY };
    let (server, seen) = (*b"server\0\0\0\0\0\0\0\0\0\0", view(&[]));
    let stats = ListenerStats { owner_tgid: 99, owner_comm: server, ..ListenerStats::new_zeroed() };
    // Either the counters fell, or all that shows is that another process lives there.
    for life in [1, 0] {
        let mut labels = node.labels();
        let mut pod_of_listener = |namespace: Namespace, now| {
            let named = labels.name_namespaces(vec![namespace], now);
            labels.listener(&key, Some(&stats), &seen, &named[0], now).unwrap().owner.pod.clone()
        };
        assert_eq!(pod_of_listener(of_pod(70, 70, Some(5)), node.start), "pod-5");
        assert_eq!(pod_of_listener(of_pod(70, 70, Some(5)), node.after(1)), "pod-5");
        let next = Namespace { life, ..of_pod(70, 70, Some(6)) };
        assert_eq!(pod_of_listener(next, node.after(2)), "pod-6", "life {life}");
    }
}

#[test]
fn a_container_that_restarts_inherits_its_series() {
    let node = Node::new();
    node.add_pod(5);
    let mut labels = node.labels();
    let namespace = of_pod(7, 70, Some(5));
    let lives: Vec<u64> = (1..=2).map(|id| node.add_container(5, id)).collect();
    let key = |cgroup| ListenerKey { netns: 7, cgroup, ..KEY };
    let stats = |drops, comm| ListenerStats {
        drops: [drops, 0, 0, 0, 0],
        owner_tgid: 99,
        owner_comm: comm,
        ..ListenerStats::new_zeroed()
    };
    let row = |cgroup, n| {
        let counter = Counter::RetransmitFailed as u8;
        (CounterKey { netns: 7, cgroup, port: 0, role: 0, counter, a: 0, b: 0, zero: 0 }, n)
    };
    let server = *b"server\0\0\0\0\0\0\0\0\0\0";
    let counts = Counts {
        listeners: vec![(key(lives[0]), stats(3, server)), (key(lives[1]), stats(4, server))],
        counters: vec![row(lives[0], 5), row(lives[1], 6)],
        ..Counts::default()
    };
    let named = labels.name_namespaces(vec![namespace], node.start);
    let view = View { namespaces: named, ..View::default() };
    labels.meet(&counts, &view, node.start);
    let owners: Vec<Arc<Owner>> =
        lives.iter().map(|cgroup| labels.workload(*cgroup, &view.namespaces[0], node.start).unwrap()).collect();
    assert_eq!(owners[0], owners[1]);
    assert_eq!((&*owners[0].pod, &*owners[0].container), ("pod-5", "app"));

    // The first life's rows go; the sums must not.
    let mut legacy = Legacy::default();
    let heir = labels.heir_of_listener(&key(lives[0]), [&key(lives[1])]).unwrap();
    legacy.bequeath_listener(&key(lives[0]), &stats(3, server), heir);
    let heir = labels.heir_of_cgroup(7, lives[0], [lives[1]], node.after(1)).unwrap();
    legacy.bequeath_counters(&[row(lives[0], 5)], heir);
    let mut left = Counts {
        listeners: vec![(key(lives[1]), stats(4, server))],
        counters: vec![row(lives[1], 6)],
        ..Counts::default()
    };
    legacy.add_to(&mut left);
    assert_eq!(left.listeners[0].1.drops[0], 7);
    assert_eq!(left.counters.iter().map(|(_, n)| n).sum::<u64>(), 11);
}

#[test]
fn what_found_no_room_is_the_namespaces_pods() {
    let node = Node::new();
    node.add_pod(5);
    let mut labels = node.labels();
    let named = labels.name_namespaces(vec![of_pod(7, 70, Some(5))], node.start);
    let other = labels.workload(CGROUP_OTHER, &named[0], node.start).unwrap();
    assert_eq!((&*other.namespace, &*other.pod, &*other.unit), ("shop", "pod-5", OTHER));
}

/// `tracer_owner_cache_entries` of owners by cgroup and by container.
fn remembered(labels: &Labels) -> [usize; 2] {
    ["owners", "workloads"].map(|cache| labels.fills().iter().find(|fill| fill.cache == cache).unwrap().entries)
}

#[test]
fn who_is_gone_leaves_the_caches_some_passes_after_the_last_row() {
    let node = Node::new();
    node.add_pod(5);
    let mut labels = node.labels();
    let lives: Vec<u64> = (1..=2).map(|id| node.add_container(5, id)).collect();
    let namespaces = labels.name_namespaces(vec![of_pod(7, 70, Some(5))], node.start);
    let view = View { namespaces, ..View::default() };
    let row = |cgroup| {
        let counter = Counter::RetransmitFailed as u8;
        (CounterKey { netns: 7, cgroup, port: 0, role: 0, counter, a: 0, b: 0, zero: 0 }, 1)
    };
    let counts =
        |cgroups: &[u64]| Counts { counters: cgroups.iter().map(|id| row(*id)).collect(), ..Counts::default() };
    labels.meet(&counts(&lives), &view, node.start);
    let [both, names] = remembered(&labels);
    assert_eq!(both, 2);

    // One ends. No new cgroup comes, so nothing makes a walk.
    fs::remove_dir(node.dir.path().join(format!("cgroup/kubepods/pod{}/{:064x}", uid(5), 1))).unwrap();
    labels.meet(&counts(&lives), &view, node.after(200));
    labels.meet(&counts(&lives[1..]), &view, node.after(400));
    assert_eq!(remembered(&labels)[0], 2, "it had a row until lately");
    labels.meet(&counts(&lives[1..]), &view, node.after(510));
    assert_eq!(remembered(&labels)[0], 1, "its last row is gone for five minutes");
    // The other one is quiet, and lives.
    labels.meet(&counts(&[]), &view, node.after(2000));
    let [owners, left] = remembered(&labels);
    assert_eq!(owners, 1);
    assert!(left < names, "{left} of {names} containers and pods");
}
