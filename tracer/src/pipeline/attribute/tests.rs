//! The rule that picks the evidence, and what is remembered, on made-up trees.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

const ID: &str = "4f2c1e0d9b8a7766554433221100ffeeddccbbaa99887766554433221100abcd";
const UID: &str = "6b1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
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
        Attributor::new(Some(CgroupTree::at(self.mount())), self.processes())
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

fn by_cgroup(cgroup_id: u64) -> Evidence {
    Evidence { cgroup_id, holder_tgid: None, netns: Netns::Host }
}

fn unit(name: &str) -> Owner {
    Owner { unit: name.into(), ..Owner::default() }
}

fn ask(attributor: &mut Attributor, evidence: Evidence, now: Instant) -> Option<Owner> {
    attributor.owner(&evidence, now).map(|owner| (*owner).clone())
}

#[test]
fn a_cgroup_number_outweighs_processes() {
    let host = Host::new();
    let id = host.add_cgroup(&format!("kubepods/burstable/pod{UID}/{ID}"));
    host.add_process(5, "/system.slice/other.service");
    let evidence = Evidence { holder_tgid: Some(5), ..by_cgroup(id) };
    let expected = Owner { container: "4f2c1e0d9b8a".into(), pod_uid: UID.into(), ..Owner::default() };
    assert_eq!(ask(&mut host.attributor(), evidence, host.start), Some(expected));
}

#[test]
fn in_the_root_cgroup_the_holder_tells_then_the_namespace() {
    let host = Host::new();
    host.add_process(5, "/system.slice/web.service");
    host.add_process(6, &format!("/docker/{ID}"));
    host.add_process(7, &format!("/kubepods/pod{UID}/{ID}"));
    let mut attributor = host.attributor();
    let docker = Owner { container: "4f2c1e0d9b8a".into(), ..Owner::default() };
    let pod = Owner { pod_uid: UID.into(), ..Owner::default() };
    let rows = [
        (0, Some(5), Netns::Other { pid: Some(6) }, unit("web.service")),
        (1, Some(5), Netns::Host, unit("web.service")),
        // The holder has ended.
        (1, Some(4), Netns::Other { pid: Some(6) }, docker.clone()),
        (1, None, Netns::Other { pid: Some(6) }, docker),
        // Which of the pod's containers it is, the namespace cannot tell.
        (1, None, Netns::Other { pid: Some(7) }, pod),
        (1, None, Netns::Other { pid: Some(4) }, Owner::default()),
        (1, None, Netns::Other { pid: None }, Owner::default()),
        (1, None, Netns::Host, Owner::default()),
    ];
    for (cgroup_id, holder_tgid, netns, expected) in rows {
        let evidence = Evidence { cgroup_id, holder_tgid, netns };
        assert_eq!(ask(&mut attributor, evidence, host.start), Some(expected), "{evidence:?}");
    }
    assert_eq!(attributor.remembered(), 0);
}

#[test]
fn without_a_hierarchy_processes_tell() {
    let host = Host::new();
    host.add_process(5, "/system.slice/web.service");
    let mut attributor = Attributor::new(None, host.processes());
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
    assert_eq!(ask(&mut attributor, by_cgroup(second), host.start), None);
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
    let entry = || Remembered { owner: Arc::default(), asked: host.start };
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
    let mut attributor = Attributor::new(tree, Processes::new("/proc"));
    let evidence = Evidence { cgroup_id: 1, holder_tgid: Some(std::process::id()), netns: Netns::Host };
    let owner = ask(&mut attributor, evidence, Instant::now()).unwrap();
    assert_eq!((owner.namespace, owner.pod), (String::new(), String::new()));
}
