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

/// A walk over the sockets of one namespace.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// What walks.
    pub program: &'static str,
    /// Whether its records are wanted, or only what it counts.
    pub has_listeners: bool,
}

/// The walks of one namespace. `is_due`: whether a table that must be walked for is wanted.
pub(super) fn walks(walks: Walks, is_due: bool) -> Vec<Walk> {
    let all = walks.netns.map(|program| Walk { program, has_listeners: !walks.node_has_listeners });
    let table = match walks.table {
        Some(ListeningTable::Walk(program)) if is_due => Some(Walk { program, has_listeners: true }),
        _ => None,
    };
    all.into_iter().chain(table).collect()
}

/// Adds the listeners in the table of the namespace that the thread is in, where that can be asked for.
pub(super) fn ask(kernel: &Walker, walks: Walks, (id, netns_inum): (u64, u32), found: &mut Gathered) -> io::Result<()> {
    if walks.table == Some(ListeningTable::SockDiag) {
        let told = listening_sockets(SOCKETS_MAX).map_err(outage::of("asking for the listening sockets"))?;
        let reads_cgroups = kernel.reads_cgroups();
        let sockets = told.sockets.iter().map(|socket| in_table(socket, (id, netns_inum), reads_cgroups));
        found.set_table(sockets.collect(), told.is_whole);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_walked_only_for_what_nothing_else_tells() {
        let programs = |plan: Walks, is_due| {
            walks(plan, is_due).iter().map(|walk| (walk.program, walk.has_listeners)).collect::<Vec<_>>()
        };
        let asked = Walks { table: Some(ListeningTable::SockDiag), node_has_listeners: true, ..Walks::default() };
        assert_eq!(programs(asked, true), []);
        let table = Walks { table: Some(ListeningTable::Walk("table")), ..asked };
        assert_eq!((programs(table, false), programs(table, true)), (vec![], vec![("table", true)]));
        let counting = Walks { netns: Some("sockets"), ..asked };
        assert_eq!(programs(counting, true), [("sockets", false)]);
        let alone = Walks { netns: Some("listeners"), ..Walks::default() };
        assert_eq!(programs(alone, false), [("listeners", true)]);
    }
}
