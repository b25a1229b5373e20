//! What a pass finds of listeners beyond its walk over open files: the kernel's own table of a namespace, and where
//! that table must be walked for.

use std::collections::{BTreeMap, HashSet};

use tracer_ebpf::counter::ListenerKey;

use crate::{
    kernel::listening::{ListeningSocket, listening_sockets},
    pipeline::{
        counters::Counts,
        snapshot::{Listener, Queue, TableSocket},
    },
};

/// The table of listening sockets of the namespace that the thread is in.
pub(super) fn table(id: u64, netns_inum: u32) -> Vec<TableSocket> {
    let told = listening_sockets()
        .inspect_err(|error| tracing::debug!(inum = netns_inum, %error, "no table of listening sockets"));
    let socket = |socket: ListeningSocket| TableSocket {
        key: ListenerKey { netns: id, cgroup: socket.cgroup, address: socket.address, port: socket.port, zero: [0; 3] },
        netns_inum,
        inode: socket.inode,
        accept_queue: Queue { length: socket.accept_queue_length, limit: socket.accept_queue_limit },
        sk_drops: socket.sk_drops,
    };
    told.unwrap_or_default().into_iter().map(socket).collect()
}

/// Namespaces with a listener that counts and that no walk over open files has found.
pub(super) fn unlisted(counts: &Counts, listeners: &BTreeMap<ListenerKey, Listener>) -> HashSet<u64> {
    let missing = counts.listeners.iter().filter(|(key, _)| !listeners.contains_key(key));
    let unheld = listeners.iter().filter(|(_, listener)| listener.without_holder > 0);
    missing.map(|(key, _)| key.netns).chain(unheld.map(|(key, _)| key.netns)).collect()
}
