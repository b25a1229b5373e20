//! Which number stands for a network namespace in the maps, and how the worker learns it inside of one.
//!
//! Inode numbers are given out again at once, so that two owners would be one. From Linux 5.14 on the cookie is
//! asked for. Before, the programs take the namespace's random number for hashes together with the inode number, and
//! one of them, run inside the namespace, tells what that comes to.

use std::{
    fs::File,
    io::{self, Read as _},
};

use aya::Ebpf;
use tracer_ebpf::counter::NetnsIdentity;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::{
    hooks::NETNS_IDENTITY,
    netns::Inside,
    walk::{Walker, open_iterator},
};

/// How namespaces are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// `net_cookie`, which user space can ask for.
    Cookie,
    /// `hash_mix` and the inode number, which [`NETNS_IDENTITY`] tells.
    HashMix,
    /// The inode number alone: a namespace that gets another's number is taken for it, until its counters fall.
    Inode,
}

impl Walker {
    /// The number by which the programs know the namespace that the calling thread is in.
    pub fn netns_id(&self, inside: &Inside<'_>) -> io::Result<u64> {
        match self.identity() {
            Identity::Cookie => inside.net_cookie()?.ok_or_else(|| io::ErrorKind::Unsupported.into()),
            Identity::HashMix => identified(&ask(self.open(NETNS_IDENTITY.program)?)?, inside.inum()),
            Identity::Inode => Ok(inside.inum().into()),
        }
    }
}

/// What [`NETNS_IDENTITY`], which is loaded, says of the namespace that the calling thread is in. One short read: for
/// more the kernel would go on through the netlink sockets of all namespaces.
fn ask(mut walk: File) -> io::Result<NetnsIdentity> {
    let mut record = NetnsIdentity::new_zeroed();
    walk.read_exact(record.as_mut_bytes())?;
    Ok(record)
}

/// The number of the namespace that the calling thread is in, by the loaded program.
pub(super) fn own(ebpf: &mut Ebpf) -> io::Result<u64> {
    let inum = rustix::fs::stat("/proc/thread-self/ns/net")?.st_ino;
    identified(&ask(open_iterator(ebpf, NETNS_IDENTITY.program)?)?, u32::try_from(inum).map_err(io::Error::other)?)
}

/// The number of the namespace `inum`, if that is what the record is of.
fn identified(record: &NetnsIdentity, inum: u32) -> io::Result<u64> {
    if record.inum == inum { Ok(record.netns) } else { Err(io::Error::other("it tells of another network namespace")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_must_be_of_the_namespace() {
        let record = NetnsIdentity { netns: 7 << 32 | 5, inum: 5, zero: 0 };
        assert_eq!(identified(&record, 5).unwrap(), 7 << 32 | 5);
        assert!(identified(&record, 6).is_err());
    }
}
