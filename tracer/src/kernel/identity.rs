//! Which number stands for a network namespace in the maps, and how the worker learns it inside of one.
//!
//! Inode numbers are given out again at once, so that two owners would be one. From Linux 5.14 on the cookie is
//! asked for. Before, the programs take the namespace's random number for hashes together with the inode number, and
//! one of them, run inside the namespace, tells what that comes to.

use std::io;

use tracer_ebpf::counter::NetnsIdentity;
use zerocopy::FromBytes;

use super::{hooks::NETNS_IDENTITY, load::Kernel, netns::Inside};

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

impl Kernel {
    /// The number by which the programs know the namespace that the calling thread is in.
    pub fn netns_id(&mut self, inside: &Inside<'_>) -> io::Result<u64> {
        match self.identity() {
            Identity::Cookie => inside.net_cookie()?.ok_or_else(|| io::ErrorKind::Unsupported.into()),
            Identity::HashMix => identified(&self.read_iterator(NETNS_IDENTITY.program)?, inside.inum()),
            Identity::Inode => Ok(inside.inum().into()),
        }
    }
}

/// The number in what [`NETNS_IDENTITY`] wrote about the namespace `inum`.
fn identified(written: &[u8], inum: u32) -> io::Result<u64> {
    let record = NetnsIdentity::read_from_prefix(written).ok().map(|(record, _)| record);
    let record = record.filter(|record| record.inum == inum);
    record.map(|record| record.netns).ok_or_else(|| io::Error::other("the namespace's netlink sockets do not tell it"))
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;

    #[test]
    fn the_first_record_tells_and_must_be_of_the_namespace() {
        let records = [NetnsIdentity { netns: 7 << 32 | 5, inum: 5, zero: 0 }; 2];
        assert_eq!(identified(records.as_bytes(), 5).unwrap(), 7 << 32 | 5);
        assert!(identified(records.as_bytes(), 6).is_err());
        assert!(identified(&[], 5).is_err());
    }
}
