//! System calls that no safe crate offers: typed access to BPF maps, and the namespace cookie of a
//! socket. Entering a namespace is here too, since it belongs beside them, but needs no unsafe.
//!
//! All unsafe code of user space but one call in `pipeline/ring.rs`. Holds no policy: callers say which map and when.
//! aya's own map types want keys and values that promise to be plain data by an unsafe trait; the
//! wire records promise the same through zerocopy, checked by the compiler, and aya cannot read a
//! map in batches (10 000 entries one by one take seven times as long).

#![expect(unsafe_code, reason = "system calls that exchange memory with the kernel by address")]

mod iterator;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    ptr,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

pub use self::iterator::{link_iterator, link_map_iterator, open_iterator};

/// Commands of `bpf(2)`, numbered as in the kernel's `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Command {
    MapCreate = 0,
    MapLookupElem = 1,
    MapUpdateElem = 2,
    MapDeleteElem = 3,
    ProgLoad = 5,
    ObjGetInfoByFd = 15,
    MapLookupBatch = 24,
    MapLookupAndDeleteBatch = 25,
    LinkCreate = 28,
    IterCreate = 33,
}

/// Map types that hold one value for each possible CPU, so that a look-up fills a larger buffer.
const PER_CPU_HASH: u32 = 5;
const PER_CPU_ARRAY: u32 = 6;
const LRU_PER_CPU_HASH: u32 = 10;
const PER_CPU_CGROUP_STORAGE: u32 = 21;

const ARRAY: u32 = 2;

/// Entries asked for at once: a call's fixed cost is spread thin, and the buffers stay small (some
/// 200 KB for the largest rows).
const BATCH_LEN: usize = 1024;

/// `bpf_attr` of the commands on one entry.
#[derive(IntoBytes)]
#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `bpf_attr` of the batch commands.
#[derive(IntoBytes)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `bpf_attr` of `BPF_OBJ_GET_INFO_BY_FD`.
#[derive(IntoBytes)]
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `bpf_attr` of `BPF_MAP_CREATE`, as far as it is needed; the kernel takes the rest as zero.
#[derive(IntoBytes)]
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// `bpf_attr` of `BPF_PROG_LOAD`, as far as it is needed; the kernel takes the rest as zero.
#[derive(IntoBytes)]
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// `BPF_PROG_TYPE_SOCKET_FILTER`.
const SOCKET_FILTER: u32 = 1;

/// `r0 = 0; exit`, as `struct bpf_insn` has them.
const SMALLEST_PROGRAM: [u64; 2] =
    [u64::from_ne_bytes([0xb7, 0, 0, 0, 0, 0, 0, 0]), u64::from_ne_bytes([0x95, 0, 0, 0, 0, 0, 0, 0])];

/// The beginning of `struct bpf_map_info`.
#[derive(FromBytes)]
#[repr(C)]
struct MapInfo {
    map_type: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

const MAP_INFO_LEN: u32 = 24;
const _: () = assert!(size_of::<MapInfo>() == MAP_INFO_LEN as usize);

/// How [`Map::update`] treats a key that exists or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Update {
    /// Create or replace.
    Any = 0,
    /// Only create; EEXIST if the key exists.
    NoExist = 1,
    /// Only replace; ENOENT if the key is absent.
    Exist = 2,
}

/// A BPF map with one value for each key, whose keys are `K` and values `V`.
#[derive(Debug)]
pub struct Map<'fd, K, V> {
    fd: BorrowedFd<'fd>,
    max_entries: u32,
    entry: PhantomData<(K, V)>,
}

impl<'fd, K, V> Map<'fd, K, V>
where
    K: FromBytes + IntoBytes + Immutable + Copy,
    V: FromBytes + IntoBytes + Immutable + Copy,
{
    /// Takes a map's descriptor, after asking the kernel whether its sizes are those of `K` and `V`.
    /// That answer is what makes every other call safe; it cannot change later.
    pub fn new(fd: BorrowedFd<'fd>) -> io::Result<Self> {
        let info = map_info(fd)?;
        if matches!(info.map_type, PER_CPU_HASH | PER_CPU_ARRAY | LRU_PER_CPU_HASH | PER_CPU_CGROUP_STORAGE) {
            return Err(invalid(format!("map type {} has a value for each CPU", info.map_type)));
        }
        check_sizes::<K, V>(&info)?;
        Ok(Self { fd, max_entries: info.max_entries, entry: PhantomData })
    }

    /// How many entries the map can hold.
    #[must_use]
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// The value of a key, if the map has it.
    pub fn lookup(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::new_zeroed();
        let mut attr = elem_attr(self.fd, key, address(&raw mut value), 0);
        // SAFETY: `attr` names `key` and `value`, both alive and of the map's sizes (see `new`).
        let found = unsafe { bpf(Command::MapLookupElem, &mut attr) };
        some_unless_absent(found).map(|found| found.map(|_| value))
    }

    /// Sets the value of a key.
    pub fn update(&self, key: &K, value: &V, how: Update) -> io::Result<()> {
        let mut attr = elem_attr(self.fd, key, address(value), how as u64);
        // SAFETY: the kernel only reads `key` and `value`, both alive and of the map's sizes.
        unsafe { bpf(Command::MapUpdateElem, &mut attr) }.map(drop)
    }

    /// Removes a key; false if it was not there.
    pub fn delete(&self, key: &K) -> io::Result<bool> {
        let mut attr = elem_attr(self.fd, key, 0, 0);
        // SAFETY: the kernel only reads `key`, which is alive and of the map's size.
        let deleted = unsafe { bpf(Command::MapDeleteElem, &mut attr) };
        some_unless_absent(deleted).map(|deleted| deleted.is_some())
    }

    /// Replaces the content of `out` by all entries of a hash map, in no order. An entry that comes
    /// or goes meanwhile may be missed; one that stays is read exactly once.
    pub fn read_all(&self, out: &mut Vec<(K, V)>) -> io::Result<()> {
        self.read_in_batches(out, BATCH_LEN)
    }

    fn read_in_batches(&self, out: &mut Vec<(K, V)>, batch_len: usize) -> io::Result<()> {
        out.clear();
        self.batches(Command::MapLookupBatch, batch_len, |entry| out.push(entry))
    }

    /// Takes all entries out of a hash map and hands over each, in no order.
    pub fn drain(&self, each: impl FnMut((K, V))) -> io::Result<()> {
        self.batches(Command::MapLookupAndDeleteBatch, BATCH_LEN, each)
    }

    fn batches(&self, command: Command, batch_len: usize, mut each: impl FnMut((K, V))) -> io::Result<()> {
        let mut batch = Batch::new(batch_len);
        loop {
            match batch.next(self.fd, command) {
                Ok(at_end) => {
                    batch.entries().for_each(&mut each);
                    if at_end {
                        return Ok(());
                    }
                }
                // One bucket of the hash holds more than a batch: ask again with a larger one.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && batch.len() < self.max_entries as usize => {
                    batch.double();
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A BPF array with one value for each possible CPU.
#[derive(Debug)]
pub struct PerCpuArray<'fd, V> {
    fd: BorrowedFd<'fd>,
    cpus: usize,
    value: PhantomData<V>,
}

impl<'fd, V: FromBytes + IntoBytes + Immutable + Copy> PerCpuArray<'fd, V> {
    /// Takes a map's descriptor, after asking the kernel for its type and sizes.
    pub fn new(fd: BorrowedFd<'fd>) -> io::Result<Self> {
        let info = map_info(fd)?;
        if info.map_type != PER_CPU_ARRAY {
            return Err(invalid(format!("map type {} is not a per-CPU array", info.map_type)));
        }
        check_sizes::<u32, V>(&info)?;
        Ok(Self { fd, cpus: possible_cpus()?, value: PhantomData })
    }

    /// The value at `index` of each possible CPU, in the order of their numbers.
    pub fn lookup(&self, index: u32) -> io::Result<Vec<V>> {
        // The kernel pads each CPU's value to eight bytes.
        let words_per_cpu = size_of::<V>().div_ceil(8);
        let mut words = vec![0_u64; words_per_cpu * self.cpus];
        let mut attr = elem_attr(self.fd, &index, address(words.as_mut_ptr()), 0);
        // SAFETY: `words` has room for a padded value of each possible CPU, which is what the kernel
        // writes for a map of this type and value size (see `new`).
        unsafe { bpf(Command::MapLookupElem, &mut attr) }?;
        let values =
            words.chunks_exact(words_per_cpu.max(1)).filter_map(|words| V::read_from_prefix(words.as_bytes()).ok());
        Ok(values.map(|(value, _)| value).collect())
    }
}

/// Buffers of a batched read, and where it stands.
struct Batch<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// How many entries the last call filled in.
    filled: usize,
    /// The kernel's cursor. A hash map's is a bucket number; other types use a key.
    cursor: Vec<u8>,
    started: bool,
}

impl<K, V> Batch<K, V>
where
    K: FromBytes + IntoBytes + Immutable + Copy,
    V: FromBytes + IntoBytes + Immutable + Copy,
{
    fn new(len: usize) -> Self {
        Self {
            keys: vec![K::new_zeroed(); len],
            values: vec![V::new_zeroed(); len],
            filled: 0,
            cursor: vec![0; size_of::<K>().max(size_of::<u32>())],
            started: false,
        }
    }

    fn len(&self) -> usize {
        self.keys.len()
    }

    fn double(&mut self) {
        let len = self.len() * 2;
        self.keys.resize(len, K::new_zeroed());
        self.values.resize(len, V::new_zeroed());
    }

    fn entries(&self) -> impl Iterator<Item = (K, V)> + '_ {
        let pairs = self.keys.iter().copied().zip(self.values.iter().copied());
        pairs.take(self.filled)
    }

    /// Fetches the next entries from a map that [`Map::new`] accepted, by one of the two commands that
    /// do; true when there are no more.
    fn next(&mut self, fd: BorrowedFd<'_>, command: Command) -> io::Result<bool> {
        let cursor = address(self.cursor.as_mut_ptr());
        let mut attr = BatchAttr {
            in_batch: if self.started { cursor } else { 0 },
            out_batch: cursor,
            keys: address(self.keys.as_mut_ptr()),
            values: address(self.values.as_mut_ptr()),
            count: u32::try_from(self.len()).unwrap_or(u32::MAX),
            map_fd: raw(fd),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: `attr` names buffers of `count` keys and values of the map's sizes and a cursor at
        // least as large as the kernel's; all belong to `self` and stay where they are.
        let result = unsafe { bpf(command, &mut attr) };
        let at_end = some_unless_absent(result)?.is_none();
        self.filled = attr.count as usize;
        self.started = true;
        Ok(at_end)
    }
}

/// Tries whether this process may use BPF at all, by creating the smallest map there is.
pub fn try_map_create() -> io::Result<()> {
    create_map(ARRAY, 4, 4, 1).map(drop)
}

/// Tries whether this process may load programs, by the smallest there is.
pub fn try_program_load() -> io::Result<()> {
    let license = c"GPL";
    let mut attr = LoadAttr {
        prog_type: SOCKET_FILTER,
        insn_cnt: 2,
        insns: address(SMALLEST_PROGRAM.as_ptr()),
        license: address(license.as_ptr()),
    };
    // SAFETY: `attr` names as many instructions as it says and a licence that ends with zero; the kernel only reads them.
    let fd = unsafe { bpf(Command::ProgLoad, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

fn create_map(map_type: u32, key_size: u32, value_size: u32, max_entries: u32) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr { map_type, key_size, value_size, max_entries };
    // SAFETY: `attr` holds no address.
    let fd = unsafe { bpf(Command::MapCreate, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::new_zeroed();
    let mut attr = InfoAttr { bpf_fd: raw(fd), info_len: MAP_INFO_LEN, info: address(&raw mut info) };
    // SAFETY: `attr` names `info` and its length; the kernel writes no more than that.
    unsafe { bpf(Command::ObjGetInfoByFd, &mut attr) }?;
    Ok(info)
}

fn check_sizes<K, V>(info: &MapInfo) -> io::Result<()> {
    let (key, value) = (info.key_size as usize, info.value_size as usize);
    if (key, value) == (size_of::<K>(), size_of::<V>()) {
        return Ok(());
    }
    let (want_key, want_value) = (size_of::<K>(), size_of::<V>());
    Err(invalid(format!(
        "the map has keys of {key} and values of {value} bytes instead of {want_key} and {want_value}"
    )))
}

fn elem_attr<K>(map: BorrowedFd<'_>, key: &K, value: u64, flags: u64) -> ElemAttr {
    ElemAttr { map_fd: raw(map), padding: 0, key: address(key), value, flags }
}

/// # Safety
/// Every address in `attr` must point to live memory of the size that the command reads or writes
/// there, and not be in use by anyone else while the kernel writes.
unsafe fn bpf<A: IntoBytes>(command: Command, attr: &mut A) -> io::Result<RawFd> {
    let attr: *mut A = attr;
    // SAFETY: `attr` is alive and as large as the kernel is told; the caller vouches for the rest.
    let result = unsafe { libc::syscall(libc::SYS_bpf, libc::c_long::from(command as u8), attr, size_of::<A>()) };
    RawFd::try_from(result).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)
}

/// ENOENT as `None`.
fn some_unless_absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// How many CPUs the kernel keeps per-CPU values for, present or not.
pub fn possible_cpus() -> io::Result<usize> {
    let list = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    cpu_count(&list).ok_or_else(|| invalid(format!("unintelligible list of CPUs {list:?}")))
}

/// Counts the CPUs of a list such as `0-3,8`.
fn cpu_count(list: &str) -> Option<usize> {
    list.trim().split(',').try_fold(0_usize, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        count.checked_add(last.checked_sub(first)?)?.checked_add(1)
    })
}

/// The cookie of the network namespace that a socket belongs to, which is never used twice until
/// the machine restarts. ENOPROTOOPT before 5.14.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = u64::BITS / 8;
    // SAFETY: `cookie` and `len` are alive, and `len` says how large `cookie` is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Moves the calling thread into a network namespace, given as an open `/proc/PID/ns/net` or a file
/// that such a link is bound to. Other threads stay where they are.
pub fn enter_netns(netns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?)
}

/// Ends the process without waiting for anything: no thread, no buffer, no lock.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}
