//! The rule that picks the evidence, and what is remembered, on made-up trees.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tempfile::TempDir;

use super::names::NAMES_AWAITED;
use super::*;

const ID: &str = "4f2c1e0d9b8a7766554433221100ffeeddccbbaa99887766554433221100abcd";
const UID: &str = "6b1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
const UID_: &str = "6b1a2c3d_4e5f_4a6b_8c7d_9e0f1a2b3c4d";
const STATIC: &str = "0123456789abcdef0123456789abcdef";
const SANDBOX: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const NO_CGROUP: u64 = u64::MAX;

/// A cgroup hierarchy and a proc file system.
struct Host {
    dir: TempDir,
    start: Instant,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("cgroup")).unwrap();
        Self { dir, start: Instant::now() }
    }

    fn mount(&self) -> PathBuf {
        self.dir.path().join("cgroup")
    }

    fn attributor(&self) -> Attributor {
        Attributor::new(Some(CgroupTree::at(self.mount())), self.processes(), self.logs())
    }

    fn logs(&self) -> LogListing {
        LogListing::new(self.dir.path().join("log"))
    }

    /// What kubelet makes for the pod with a container `app`.
    fn add_names(&self) {
        let logs = self.dir.path().join("log");
        fs::create_dir_all(logs.join(format!("pods/shop_web-0_{UID}/app"))).unwrap();
        fs::create_dir_all(logs.join(format!("pods/kube-system_etcd-node1_{STATIC}/etcd"))).unwrap();
        fs::create_dir_all(logs.join("containers")).unwrap();
        fs::write(logs.join(format!("containers/web-0_shop_app-{ID}.log")), "").unwrap();
    }

    fn processes(&self) -> Processes {
        Processes::new(self.dir.path())
    }

    fn add_cgroup(&self, path: &str) -> u64 {
        let dir = self.mount().join(path);
        fs::create_dir_all(&dir).unwrap();
        fs::metadata(&dir).unwrap().ino()
    }

    fn add_process(&self, pid: u32, cgroup: &str) {
        let dir = self.dir.path().join(pid.to_string());
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
    }

    fn after(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }
}

static HOST: LazyLock<Arc<Owner>> = LazyLock::new(Arc::default);

fn by_cgroup(cgroup_id: u64) -> Evidence<'static> {
    Evidence { cgroup_id, holder_tgid: None, tenant: &HOST }
}

fn unit(name: &str) -> Owner {
    Owner { unit: name.into(), ..Owner::default() }
}

fn ask(attributor: &mut Attributor, evidence: Evidence<'_>, now: Instant) -> Option<Owner> {
    attributor.owner(&evidence, now).map(|owner| (*owner).clone())
}

#[test]
fn a_cgroup_number_outweighs_processes() {
    let host = Host::new();
    let id = host.add_cgroup(&format!("kubepods/burstable/pod{UID}/{ID}"));
    host.add_process(5, "/system.slice/other.service");
    let evidence = Evidence { holder_tgid: Some(5), ..by_cgroup(id) };
    let expected = Owner { container: "4f2c1e0d9b8a".into(), ..Owner::default() };
    assert_eq!(ask(&mut host.attributor(), evidence, host.start), Some(expected));
}

#[test]
fn in_the_root_cgroup_the_holder_tells_then_the_namespace() {
    let host = Host::new();
    host.add_process(5, "/system.slice/web.service");
    host.add_process(6, &format!("/docker/{ID}"));
    let mut attributor = host.attributor();
    let docker = attributor.tenant(6, host.start).unwrap().owner;
    assert_eq!(*docker, Owner { container: "4f2c1e0d9b8a".into(), ..Owner::default() });
    let rows = [
        (0, Some(5), &docker, unit("web.service")),
        (1, Some(5), &HOST, unit("web.service")),
        // The holder has ended.
        (1, Some(4), &docker, (*docker).clone()),
        (1, None, &docker, (*docker).clone()),
        (1, None, &HOST, Owner::default()),
    ];
    for (cgroup_id, holder_tgid, tenant, expected) in rows {
        let evidence = Evidence { cgroup_id, holder_tgid, tenant };
        assert_eq!(ask(&mut attributor, evidence, host.start), Some(expected), "{evidence:?}");
    }
    assert_eq!(attributor.remembered(), 0);
}

#[test]
fn a_namespace_is_its_pods_and_none_of_its_containers() {
    let host = Host::new();
    host.add_names();
    host.add_process(7, &format!("/kubepods/pod{UID}/{ID}"));
    host.add_process(8, &format!("/kubepods/pod{UID}/{SANDBOX}"));
    host.add_process(9, &format!("/kubepods/pod{STATIC}/{SANDBOX}"));
    let mut attributor = host.attributor();
    let owner = |namespace: &str, pod: &str| {
        Arc::new(Owner { namespace: namespace.into(), pod: pod.into(), ..Owner::default() })
    };
    let rows = [
        (7, owner("shop", "web-0"), Some(UID)),
        (8, owner("shop", "web-0"), Some(UID)),
        (9, owner("kube-system", "etcd-node1"), Some(STATIC)),
        (4, Arc::default(), None),
    ];
    for (pid, owner, uid) in rows {
        let expected = Some(Tenant { owner, pod_uid: uid.map(str::to_owned) });
        assert_eq!(attributor.tenant(pid, host.start), expected, "{pid}");
    }
}

/// From the line in `/proc/<pid>/cgroup` to the labels, for every shape that runtimes give to paths.
#[test]
fn every_shape_of_a_path_comes_to_its_labels() {
    let host = Host::new();
    host.add_names();
    let mut attributor = host.attributor();
    let slice = format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice");
    let digits = &ID[..12];
    let app = ["shop", "web-0", "app", ""];
    let sandbox = ["shop", "web-0", "", ""];
    let rows = [
        (format!("0::/kubepods/pod{UID}/{ID}"), app),
        (format!("0::/kubepods/burstable/pod{UID}/{ID}"), app),
        (format!("0::/kubepods/besteffort/pod{UID}/{ID}/child"), app),
        (format!("0::{slice}/cri-containerd-{ID}.scope"), app),
        (format!("0::{slice}/crio-{ID}.scope"), app),
        (format!("0::{slice}/docker-{ID}.scope"), app),
        (format!("0::{slice}/crio-{ID}.scope/container"), app),
        (format!("0::/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}"), app),
        (format!("0::/system.slice/containerd.service/kubepods-burstable-pod{UID}.slice:cri-containerd:{ID}"), app),
        // From another cgroup namespace; the id alone is enough.
        (format!("0::/../../kubepods-besteffort-pod{UID_}.slice/cri-containerd-{ID}.scope"), app),
        (format!("0::/../../pod{UID}/{ID}"), app),
        (format!("0::/../cri-containerd-{ID}.scope"), app),
        // v1 and hybrid.
        (format!("4:memory:/kubepods/burstable/pod{UID}/{ID}\n1:name=systemd:/\n0::/"), app),
        (format!("1:name=systemd:{slice}/docker-{ID}.scope\n0::/"), app),
        // No container's: the sandbox, a monitor, the pod itself.
        (format!("0::{slice}/cri-containerd-{SANDBOX}.scope"), sandbox),
        (format!("0::/kubepods/burstable/pod{UID}/{SANDBOX}"), sandbox),
        (format!("0::{slice}/crio-conmon-{ID}.scope"), sandbox),
        (format!("0::{slice}"), sandbox),
        (format!("0::/kubepods/burstable/pod{STATIC}/{SANDBOX}"), ["kube-system", "etcd-node1", "", ""]),
        // No pod's.
        (format!("0::/system.slice/crio-conmon-{ID}.scope"), [""; 4]),
        (format!("0::/docker/{}", ID.replace('4', "5")), ["", "", &digits.replace('4', "5"), ""]),
        (format!("0::/system.slice/docker-{}.scope", ID.replace('4', "5")), ["", "", &digits.replace('4', "5"), ""]),
        (format!("0::/machine.slice/libpod-{}.scope", ID.replace('4', "5")), ["", "", &digits.replace('4', "5"), ""]),
        ("0::/system.slice/foo.service".to_owned(), ["", "", "", "foo.service"]),
        ("0::/".to_owned(), [""; 4]),
    ];
    for (pid, (text, expected)) in (100..).zip(rows) {
        let dir = host.dir.path().join(pid.to_string());
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("cgroup"), format!("{text}\n")).unwrap();
        let evidence = Evidence { holder_tgid: Some(pid), ..by_cgroup(0) };
        // Who has no name gets none in ten seconds.
        let owner = ask(&mut attributor, evidence, host.start);
        let owner = owner.or_else(|| ask(&mut attributor, evidence, host.start + NAMES_AWAITED)).unwrap();
        assert_eq!([owner.namespace, owner.pod, owner.container, owner.unit], expected, "{text}");
    }
}

#[test]
fn a_cgroup_that_names_nobody_leaves_it_to_the_namespace() {
    let host = Host::new();
    let pod = Arc::new(Owner { pod: "web-0".into(), ..Owner::default() });
    let unnamed = host.add_cgroup("some/where");
    let mut attributor = host.attributor();
    for (second, cgroup_id) in [(0, unnamed), (1, NO_CGROUP), (2, unnamed)] {
        let evidence = Evidence { tenant: &pod, ..by_cgroup(cgroup_id) };
        assert_eq!(ask(&mut attributor, evidence, host.after(second)), Some((*pod).clone()));
    }
    // The same cgroup in the host's namespace says nothing.
    assert_eq!(ask(&mut attributor, by_cgroup(unnamed), host.start), Some(Owner::default()));
}

#[test]
fn a_container_waits_for_its_name_and_keeps_it() {
    let host = Host::new();
    let id = host.add_cgroup(&format!("kubepods/burstable/pod{UID}/{ID}"));
    fs::create_dir_all(host.dir.path().join("log/pods")).unwrap();
    let mut attributor = host.attributor();
    assert_eq!(ask(&mut attributor, by_cgroup(id), host.start), None);
    host.add_names();
    let owner = ask(&mut attributor, by_cgroup(id), host.after(1)).unwrap();
    assert_eq!((&*owner.pod, &*owner.container), ("web-0", "app"));
    fs::remove_dir_all(host.dir.path().join("log")).unwrap();
    ask(&mut attributor, by_cgroup(NO_CGROUP), host.after(5));
    assert_eq!(ask(&mut attributor, by_cgroup(id), host.after(5)), Some(owner));
}

#[test]
fn a_number_that_was_anothers_does_not_join_the_two() {
    let host = Host::new();
    let id = host.add_cgroup("b.service");
    let mut attributor = host.attributor();
    let before = Remembered { path: "/a.service".into(), owner: Some(Arc::new(unit("a.service"))), asked: host.start };
    attributor.owners.insert(id, before);
    assert_eq!(ask(&mut attributor, by_cgroup(id), host.start), Some(unit("a.service")));
    // Any look at the hierarchy shows it.
    ask(&mut attributor, by_cgroup(NO_CGROUP), host.start);
    assert_eq!(ask(&mut attributor, by_cgroup(id), host.start), Some(unit("b.service")));
}

#[test]
fn without_a_hierarchy_processes_tell() {
    let host = Host::new();
    host.add_process(5, "/system.slice/web.service");
    let mut attributor = Attributor::new(None, host.processes(), host.logs());
    let evidence = Evidence { holder_tgid: Some(5), ..by_cgroup(77) };
    assert_eq!(ask(&mut attributor, evidence, host.start), Some(unit("web.service")));
}

#[test]
fn a_new_cgroup_waits_for_the_next_walk() {
    let host = Host::new();
    let first = host.add_cgroup("a.service");
    let mut attributor = host.attributor();
    assert_eq!(ask(&mut attributor, by_cgroup(first), host.start), Some(unit("a.service")));
    let second = host.add_cgroup("b.service");
    assert_eq!(ask(&mut attributor, by_cgroup(second), host.start + Duration::from_millis(500)), None);
    assert_eq!(ask(&mut attributor, by_cgroup(second), host.after(1)), Some(unit("b.service")));
}

#[test]
fn the_dead_keep_their_names_while_asked_for() {
    let host = Host::new();
    let id = host.add_cgroup("a.service");
    let mut attributor = host.attributor();
    let expected = Some(unit("a.service"));
    assert_eq!(ask(&mut attributor, by_cgroup(id), host.start), expected);
    fs::remove_dir(host.mount().join("a.service")).unwrap();

    // Each miss makes a walk, and each walk finds the directory gone.
    assert_eq!(ask(&mut attributor, by_cgroup(NO_CGROUP), host.after(10)), Some(Owner::default()));
    assert_eq!(ask(&mut attributor, by_cgroup(id), host.after(290)), expected);
    assert_eq!(ask(&mut attributor, by_cgroup(NO_CGROUP - 1), host.after(500)), Some(Owner::default()));
    assert_eq!(ask(&mut attributor, by_cgroup(id), host.after(500)), expected);

    ask(&mut attributor, by_cgroup(NO_CGROUP - 2), host.after(900));
    assert_eq!(attributor.remembered(), 1);
    assert_eq!(ask(&mut attributor, by_cgroup(id), host.after(901)), Some(Owner::default()));
}

#[test]
fn a_cgroup_that_is_gone_is_looked_for_once() {
    let host = Host::new();
    let mut attributor = host.attributor();
    for second in [0, 10, 20] {
        assert_eq!(ask(&mut attributor, by_cgroup(NO_CGROUP), host.after(second)), Some(Owner::default()));
    }
    assert_eq!(attributor.tree.as_ref().unwrap().walks(), 1);
}

#[test]
fn memory_is_bounded() {
    let host = Host::new();
    let living = host.add_cgroup("a.service");
    let mut attributor = host.attributor();
    ask(&mut attributor, by_cgroup(living), host.start);
    let entry = || Remembered { path: String::new(), owner: None, asked: host.start };
    let fill = (NO_CGROUP - OWNERS_MAX as u64..NO_CGROUP).map(|id| (id, entry()));
    attributor.owners.extend(fill.take(OWNERS_MAX - 1));
    assert_eq!(attributor.remembered(), OWNERS_MAX);

    // There is no room, but an answer there is.
    let other = host.add_cgroup("b.service");
    assert_eq!(ask(&mut attributor, by_cgroup(other), host.after(10)), Some(unit("b.service")));
    assert_eq!(attributor.remembered(), OWNERS_MAX);
    // The next walk after a while makes room; the living one stays.
    ask(&mut attributor, by_cgroup(NO_CGROUP), host.after(400));
    assert_eq!(attributor.remembered(), 2);
    assert!(attributor.owners.contains_key(&living));
}

#[test]
fn this_process_is_attributed_without_a_panic() {
    let tree = CgroupTree::locate(Path::new("/proc/self/mountinfo")).unwrap();
    let mut attributor = Attributor::new(tree, Processes::new("/proc"), LogListing::new("/nonexistent"));
    let evidence = Evidence { holder_tgid: Some(std::process::id()), ..by_cgroup(1) };
    let owner = ask(&mut attributor, evidence, Instant::now()).unwrap();
    assert_eq!((owner.namespace, owner.pod), (String::new(), String::new()));
}
