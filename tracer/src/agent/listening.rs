//! What a pass finds of listeners beyond its walk over open files: the kernel's own table of a namespace, and where
//! that table must be walked for.

use std::{
    collections::{BTreeMap, HashSet},
    io,
};

use tracer_ebpf::counter::ListenerKey;

use super::outage;
use crate::{
    kernel::{
        listening::{ListeningSocket, listening_sockets},
        load::Kernel,
        walk::{ListeningTable, Walks},
    },
    pipeline::{
        counters::Counts,
        snapshot::{Found, Listener, Queue, TableSocket},
    },
};

/// Adds the listeners of the namespace that the thread is in, as far as they are not left to the walk over the node.
/// `is_due`: whether a table that must be walked for is wanted.
pub(super) fn list(
    kernel: &mut Kernel,
    walks: Walks,
    (id, netns_inum): (u64, u32),
    is_due: bool,
    found: &mut Found<'_>,
) -> io::Result<()> {
    if let Some(program) = walks.netns {
        kernel.walk(program, |record| {
            if !walks.node_has_listeners {
                found.add(record);
            }
        })?;
    }
    match walks.table {
        Some(ListeningTable::SockDiag) => {
            table(id, netns_inum, kernel.reads_cgroups())?.into_iter().for_each(|socket| found.add_table(socket));
        }
        Some(ListeningTable::Walk(program)) if is_due => kernel.walk(program, |record| found.add(record))?,
        _ => {}
    }
    Ok(())
}

/// The table of listening sockets of the namespace that the thread is in. Their cgroups are told as the programs tell them.
fn table(id: u64, netns_inum: u32, reads_cgroups: bool) -> io::Result<Vec<TableSocket>> {
    let told = listening_sockets().map_err(outage::of("asking for the listening sockets"))?;
    let socket = |socket: ListeningSocket| TableSocket {
        key: ListenerKey {
            netns: id,
            cgroup: if reads_cgroups { socket.cgroup } else { 0 },
            address: socket.address,
            port: socket.port,
            zero: [0; 3],
        },
        netns_inum,
        inode: socket.inode,
        accept_queue: Queue { length: socket.accept_queue_length, limit: socket.accept_queue_limit },
        sk_drops: socket.sk_drops,
    };
    Ok(told.into_iter().map(socket).collect())
}

/// Namespaces with a listener that counts and that no walk over open files has found.
pub(super) fn unlisted(counts: &Counts, listeners: &BTreeMap<ListenerKey, Listener>) -> HashSet<u64> {
    let missing = counts.listeners.iter().filter(|(key, _)| !listeners.contains_key(key));
    let unheld = listeners.iter().filter(|(_, listener)| listener.without_holder > 0);
    missing.map(|(key, _)| key.netns).chain(unheld.map(|(key, _)| key.netns)).collect()
}
