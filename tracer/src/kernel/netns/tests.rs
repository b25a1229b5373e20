//! Discovery in a made-up tree and in the real one; visits to a real namespace (root).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::scratch::ScratchNetns;
use super::*;

fn process(proc: &Path, pid: u32, link: &str) {
    let ns = proc.join(pid.to_string()).join("ns");
    fs::create_dir_all(&ns).unwrap();
    symlink(link, ns.join("net")).unwrap();
}

fn roots(base: &Path) -> Roots {
    let roots = Roots {
        proc: base.join("proc"),
        netns_dirs: vec![base.join("netns"), base.join("again"), base.join("missing")],
        ..Roots::default()
    };
    fs::create_dir_all(&roots.proc).unwrap();
    fs::create_dir_all(&roots.netns_dirs[0]).unwrap();
    fs::create_dir_all(&roots.netns_dirs[1]).unwrap();
    roots
}

#[test]
fn processes_are_grouped_by_namespace_lowest_pid_first() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(dir.path());
    for pid in [1, 9, 10, 200, 7] {
        process(&roots.proc, pid, "net:[4026531840]");
    }
    process(&roots.proc, 31, "net:[4026532200]");
    process(&roots.proc, 30, "net:[4026532200]");

    let found = discover(&roots).unwrap();

    assert_eq!(found.host, 4_026_531_840);
    assert_eq!(found.namespaces.len(), 2);
    assert_eq!(found.namespaces[&found.host].lowest_pid, Some(1));
    let paths = [1, 7, 9, 10].map(|pid| roots.proc.join(format!("{pid}/ns/net")));
    assert_eq!(found.namespaces[&found.host].paths, paths);
    assert_eq!(found.namespaces[&4_026_532_200].lowest_pid, Some(30));
}

#[test]
fn what_is_no_namespace_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(dir.path());
    process(&roots.proc, 1, "net:[1]");
    // A process that ended between the listing and the look, and links that say something else.
    fs::create_dir(roots.proc.join("2")).unwrap();
    process(&roots.proc, 3, "mnt:[5]");
    process(&roots.proc, 4, "net:[99999999999]");
    process(&roots.proc, 5, "net:[]");
    fs::create_dir(roots.proc.join("irq")).unwrap();
    fs::write(roots.netns_dirs[0].join("left-over"), "").unwrap();
    symlink("/nowhere", roots.netns_dirs[0].join("dangling")).unwrap();

    let found = discover(&roots).unwrap();

    assert_eq!(found.namespaces.keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!((found.denied, found.beyond_limit), (0, 0));
}

#[test]
fn a_mount_names_its_namespace_and_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(dir.path());
    // The link is magic: followed, it leads to a namespace file as a mount does.
    symlink("/proc/self/ns/net", roots.netns_dirs[0].join("blue")).unwrap();
    symlink("/proc/self/ns/net", roots.netns_dirs[1].join("green")).unwrap();
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    process(&roots.proc, 1, own.to_str().unwrap());

    let found = discover(&roots).unwrap();

    let netns = &found.namespaces[&found.host];
    assert_eq!(netns.names, ["blue", "green"]);
    assert_eq!(netns.paths, [roots.netns_dirs[0].join("blue"), roots.proc.join("1/ns/net")]);
}

/// Ten names, made in no order: file systems list them in orders of their own.
#[test]
fn names_come_in_one_order_whatever_order_a_directory_lists_them_in() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(dir.path());
    for name in ["e", "b", "j", "a", "h", "c", "i", "d", "g", "f"] {
        symlink("/proc/self/ns/net", roots.netns_dirs[0].join(name)).unwrap();
    }
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    process(&roots.proc, 1, own.to_str().unwrap());
    let found = discover(&roots).unwrap();
    assert_eq!(found.namespaces[&found.host].names, ["a", "b", "c", "d"]);
}

#[test]
fn without_pid_1_the_error_names_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let error = discover(&roots(dir.path())).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let text = error.to_string();
    assert!(text.contains("CAP_SYS_PTRACE") && text.contains("hostPID"), "{text}");
}

#[test]
fn a_kernel_thread_stands_in_for_a_shielded_pid_1() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(dir.path());
    process(&roots.proc, 2, "net:[4026531840]");
    let stat = roots.proc.join("2/stat");
    // As in a container, where PID 2 is any process and may take any name.
    fs::write(&stat, "2 (kthreadd) S 0) S 0 0 0 0 -1 4194560 0 0").unwrap();
    assert!(discover(&roots).is_err());
    fs::write(&stat, "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0").unwrap();
    assert_eq!(discover(&roots).unwrap().host, 4_026_531_840);
}

#[test]
fn a_path_that_leads_elsewhere_is_not_entered() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("left-over");
    fs::write(&file, "").unwrap();
    let own_inum = link_inum(Path::new("/proc/self/ns/net")).unwrap();
    let netns = NetnsRef {
        // The inode number of a real namespace, but not of this one.
        inum: own_inum ^ 1,
        paths: vec!["/proc/self/ns/net".into(), file, dir.path().join("vanished")],
        names: Vec::new(),
        lowest_pid: None,
    };
    let mut entered = false;
    let result = visit(&netns, |_| entered = true);
    assert!(matches!(result, Err(VisitError::Gone)), "{result:?}");
    assert!(!entered);
}

#[test]
fn a_file_with_the_right_inode_on_another_file_system_is_not_entered() {
    use std::os::unix::fs::MetadataExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    let inum = u32::try_from(file.as_file().metadata().unwrap().ino()).unwrap();
    let paths = vec![file.path().to_owned()];
    let netns = NetnsRef { inum, paths, names: Vec::new(), lowest_pid: None };
    assert!(matches!(visit(&netns, |_| ()), Err(VisitError::Gone)));
}

fn thread_inum() -> u32 {
    link_inum(Path::new("/proc/thread-self/ns/net")).unwrap()
}

#[test]
fn live_a_visit_leads_in_and_back() {
    let scratch = ScratchNetns::add("visit");
    let netns = scratch.find();
    let home = thread_inum();
    assert_ne!(netns.inum, home);
    assert_eq!(netns.lowest_pid, None);

    let (inside, cookie) = visit(&netns, |inside| (thread_inum(), inside.net_cookie().unwrap())).unwrap();
    assert_eq!((inside, thread_inum()), (netns.inum, home));

    let found = discover(&Roots::default()).unwrap();
    let host = &found.namespaces[&found.host];
    let host_cookie = visit(host, |inside| inside.net_cookie().unwrap()).unwrap();
    // Both are `None` before 5.14, where `kernel::identity` tells them apart by other means.
    assert_eq!(cookie == host_cookie, cookie.is_none());

    drop(scratch);
    assert!(matches!(visit(&netns, |_| ()), Err(VisitError::Gone)));
}

#[test]
fn live_a_panic_inside_does_not_strand_the_thread() {
    let scratch = ScratchNetns::add("panic");
    let netns = scratch.find();
    let home = thread_inum();
    let outcome = std::panic::catch_unwind(|| visit(&netns, |_| panic!("on purpose")));
    assert!(outcome.is_err());
    assert_eq!(thread_inum(), home);
}
