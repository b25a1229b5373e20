//! The calls against the running kernel: BPF maps of every shape, and network namespaces that last
//! as long as the thread that made them. Needs root and says so.

use std::{
    collections::BTreeMap,
    fs::File,
    net::UdpSocket,
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;

const HASH: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Key {
    port: u32,
    address: [u8; 8],
}

fn key(port: u32) -> Key {
    Key { port, address: u64::from(port).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes() }
}

/// A fresh map; the tests here change the running kernel, so they say when they may not.
fn new_map<K, V>(map_type: u32, max_entries: u32) -> OwnedFd {
    assert!(rustix::process::geteuid().is_root(), "needs root: this test creates BPF maps and network namespaces");
    create_map(map_type, size_of::<K>().try_into().unwrap(), size_of::<V>().try_into().unwrap(), max_entries).unwrap()
}

#[test]
fn three_thousand_entries_are_read_in_batches_of_any_size() {
    let fd = new_map::<Key, u64>(HASH, 4096);
    let map = Map::<Key, u64>::new(fd.as_fd()).unwrap();
    let expected: BTreeMap<Key, u64> = (0..3000).map(|port| (key(port), u64::from(port) << 32)).collect();
    for (key, value) in &expected {
        map.update(key, value, Update::NoExist).unwrap();
    }
    let mut entries = vec![(key(9999), 1)];
    // One entry a batch is less than some buckets hold, so the batch has to grow.
    for batch_len in [1, 7, BATCH_LEN, 3000, 5000] {
        map.read_in_batches(&mut entries, batch_len).unwrap();
        assert_eq!(entries.len(), 3000, "batches of {batch_len}");
        assert_eq!(entries.iter().copied().collect::<BTreeMap<_, _>>(), expected);
    }
    for key in expected.keys().skip(1) {
        assert!(map.delete(key).unwrap());
        assert!(!map.delete(key).unwrap());
    }
    map.read_all(&mut entries).unwrap();
    assert_eq!(entries, [(key(0), 0)]);
    map.delete(&key(0)).unwrap();
    map.read_all(&mut entries).unwrap();
    assert_eq!((entries.len(), map.max_entries()), (0, 4096));
}

#[test]
fn a_drained_map_hands_over_each_entry_once_and_is_empty() {
    let fd = new_map::<Key, u64>(HASH, 4096);
    let map = Map::<Key, u64>::new(fd.as_fd()).unwrap();
    for port in 0..3000 {
        map.update(&key(port), &u64::from(port), Update::NoExist).unwrap();
    }
    let mut taken = Vec::new();
    map.drain(|(_, value)| taken.push(value)).unwrap();
    taken.sort_unstable();
    assert!(taken.into_iter().eq(0..3000));
    let mut left = vec![(key(1), 1)];
    map.read_all(&mut left).unwrap();
    assert_eq!(left, []);
    map.drain(|entry| panic!("{entry:?}")).unwrap();
}

#[test]
fn one_entry_at_a_time() {
    let fd = new_map::<Key, u64>(HASH, 1);
    let map = Map::<Key, u64>::new(fd.as_fd()).unwrap();
    assert_eq!(map.lookup(&key(1)).unwrap(), None);
    assert_eq!(map.update(&key(1), &5, Update::Exist).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    map.update(&key(1), &5, Update::Any).unwrap();
    assert_eq!(map.update(&key(1), &6, Update::NoExist).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    assert_eq!(map.update(&key(2), &6, Update::Any).unwrap_err().raw_os_error(), Some(libc::E2BIG));
    assert_eq!(map.lookup(&key(1)).unwrap(), Some(5));
}

#[test]
fn maps_of_another_shape_are_refused() {
    let fd = new_map::<Key, u64>(HASH, 1);
    let error = Map::<Key, u32>::new(fd.as_fd()).unwrap_err();
    assert_eq!(error.to_string(), "the map has keys of 12 and values of 8 bytes instead of 12 and 4");
    assert_eq!(PerCpuArray::<u64>::new(fd.as_fd()).unwrap_err().to_string(), "map type 1 is not a per-CPU array");
    let fd = new_map::<u32, u64>(PER_CPU_ARRAY, 1);
    assert_eq!(Map::<u32, u64>::new(fd.as_fd()).unwrap_err().to_string(), "map type 6 has a value for each CPU");
    let file = File::open("/proc/self/status").unwrap();
    assert!(Map::<u32, u64>::new(file.as_fd()).is_err());
}

#[test]
fn per_cpu_values_come_one_for_each_cpu() {
    let fd = new_map::<u32, [u8; 12]>(PER_CPU_ARRAY, 2);
    let array = PerCpuArray::<[u8; 12]>::new(fd.as_fd()).unwrap();
    let cpus = possible_cpus().unwrap();
    // The kernel wants a padded value for each CPU here as well.
    let written: Vec<[u8; 16]> = (0..cpus).map(|cpu| [u8::try_from(cpu).unwrap() + 1; 16]).collect();
    let mut attr = elem_attr(fd.as_fd(), &1_u32, address(written.as_ptr()), 0);
    // SAFETY: `written` holds one padded value for each possible CPU.
    unsafe { bpf(Command::MapUpdateElem, &mut attr) }.unwrap();
    let expected: Vec<[u8; 12]> = written.iter().map(|value| [value[0]; 12]).collect();
    assert_eq!(array.lookup(1).unwrap(), expected);
    assert_eq!(array.lookup(0).unwrap(), vec![[0; 12]; cpus]);
    assert!(array.lookup(2).is_err());
}

#[test]
fn lists_of_cpus() {
    for (list, count) in [("0\n", 1), ("0-1\n", 2), ("0-3,8", 5), ("0-63,128-191\n", 128)] {
        assert_eq!(cpu_count(list), Some(count), "{list}");
    }
    for list in ["", "x", "3-1", "0-", "0-18446744073709551615"] {
        assert_eq!(cpu_count(list), None, "{list}");
    }
    assert!(possible_cpus().unwrap() >= 1);
}

fn own_cookie() -> u64 {
    netns_cookie(UdpSocket::bind("0.0.0.0:0").unwrap().as_fd()).unwrap()
}

#[test]
fn live_the_cookie_tells_namespaces_apart_and_follows_the_thread() {
    assert!(rustix::process::geteuid().is_root(), "needs root: this test creates a network namespace");
    let (netns, cookie) = thread::spawn(|| {
        // SAFETY: a thread of its own leaves the others' file tables and credentials alone.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        (File::open("/proc/thread-self/ns/net").unwrap(), own_cookie())
    })
    .join()
    .unwrap();
    let here = own_cookie();
    assert_eq!(own_cookie(), here);
    assert_ne!(cookie, here);
    let entered = thread::spawn(move || {
        enter_netns(netns.as_fd()).unwrap();
        own_cookie()
    });
    assert_eq!(entered.join().unwrap(), cookie);
    assert_eq!(own_cookie(), here, "the other thread stays where it is");
}

#[test]
fn only_a_network_namespace_can_be_entered() {
    let other = File::open("/proc/self/ns/uts").unwrap();
    assert_eq!(enter_netns(other.as_fd()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn root_may_create_maps() {
    assert!(rustix::process::geteuid().is_root(), "needs root: this test creates a BPF map");
    try_map_create().unwrap();
}
