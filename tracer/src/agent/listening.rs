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
        maps::{Admission, Maps},
        walk::{ListeningTable, Walker, Walks},
    },
    pipeline::{
        counters::Counts,
        snapshot::{Gathered, Listener, Queue, SOCKETS_MAX, TableSocket},
    },
};

/// Adds the listeners of the namespace that the thread is in, as far as they are not left to the walk over the node.
/// `is_due`: whether a table that must be walked for is wanted.
pub(super) fn list(
    kernel: &Walker,
    walks: Walks,
    (id, netns_inum): (u64, u32),
    is_due: bool,
    found: &mut Gathered,
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
            let told = listening_sockets(SOCKETS_MAX).map_err(outage::of("asking for the listening sockets"))?;
            let reads_cgroups = kernel.reads_cgroups();
            let sockets = told.sockets.iter().map(|socket| in_table(socket, (id, netns_inum), reads_cgroups));
            found.set_table(sockets.collect(), told.is_whole);
        }
        Some(ListeningTable::Walk(program)) if is_due => kernel.walk(program, |record| found.add(record))?,
        _ => {}
    }
    Ok(())
}

/// A socket of the table as the programs tell one.
fn in_table(socket: &ListeningSocket, (netns, netns_inum): (u64, u32), reads_cgroups: bool) -> TableSocket {
    TableSocket {
        key: ListenerKey {
            netns,
            cgroup: if reads_cgroups { socket.cgroup } else { 0 },
            address: socket.address,
            port: socket.port,
            zero: [0; 3],
        },
        netns_inum,
        inode: socket.inode,
        accept_queue: Queue { length: socket.accept_queue_length, limit: socket.accept_queue_limit },
        sk_drops: socket.sk_drops,
    }
}

/// Gives the listeners that have no row one, as far as their namespaces may have more.
pub(super) fn admit(maps: &Maps, counts: &Counts, listeners: &BTreeMap<ListenerKey, Listener>) -> io::Result<()> {
    let have_rows: HashSet<&ListenerKey> = counts.listeners.iter().map(|(key, _)| key).collect();
    let mut full = HashSet::new();
    for (key, listener) in listeners.iter().filter(|(key, _)| !have_rows.contains(key)) {
        if !full.contains(&key.netns) && maps.admit_listener(key, listener.sockets)? == Admission::NoRoom {
            full.insert(key.netns);
        }
    }
    Ok(())
}

/// Namespaces with a listener that counts and that no walk over open files has found.
pub(super) fn unlisted(counts: &Counts, listeners: &BTreeMap<ListenerKey, Listener>) -> HashSet<u64> {
    let missing = counts.listeners.iter().filter(|(key, _)| !listeners.contains_key(key));
    let unheld = listeners.iter().filter(|(_, listener)| listener.without_holder > 0);
    missing.map(|(key, _)| key.netns).chain(unheld.map(|(key, _)| key.netns)).collect()
}
