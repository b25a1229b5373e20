//! Joining, owners, and bounds.

use std::collections::BTreeMap;

use tracer_ebpf::counter::{HOLDERS_EACH, HOLDERS_MORE, ListenerSocket, ListenerStats};

use super::*;

fn socket(sock: u64, tgid: u32, cgroup: u64, length: u32, limit: u32) -> ListenerSocket {
    ListenerSocket {
        key: ListenerKey { netns: 1, cgroup: 7, address: [0; 4], port: 80, zero: [0; 3] },
        sock,
        inode: sock + 1000,
        holder_cgroup: cgroup,
        holder_tgid: tgid,
        netns_inum: 42,
        accept_queue_length: length,
        accept_queue_limit: limit,
        syn_queue_length: length / 2,
        sk_drops: 3,
        holder_comm: *b"server\0\0\0\0\0\0\0\0\0\0",
    }
}

fn only(records: &[ListenerSocket]) -> Listener {
    joined(records, &[]).into_values().next().unwrap()
}

fn joined(records: &[ListenerSocket], table: &[TableSocket]) -> BTreeMap<ListenerKey, Listener> {
    let mut found = Found::default();
    let mut gathered = Gathered::default();
    gathered.set_table(table.to_vec(), true);
    found.add_gathered(1, gathered);
    for record in records {
        found.add(record);
    }
    let (listeners, left_out) = found.join();
    assert_eq!(left_out, LeftOut::default());
    listeners
}

fn at_port(port: u16) -> ListenerKey {
    ListenerKey { port, ..socket(0, 0, 0, 0, 0).key }
}

fn queue(length: u32, limit: u32) -> Queue {
    Queue { length, limit }
}

/// What the table says of the socket that `socket` makes, or of another one.
fn in_table(inode: u64, length: u32, limit: u32) -> TableSocket {
    let ListenerSocket { key, netns_inum, .. } = socket(0, 0, 0, 0, 0);
    TableSocket { key, netns_inum, inode, accept_queue: queue(length, limit), sk_drops: 3 }
}

#[test]
fn a_group_shows_its_fullest_socket() {
    let listener = only(&[socket(1, 10, 7, 90, 100), socket(2, 10, 7, 6, 5), socket(3, 10, 7, 0, 5)]);
    assert_eq!((listener.accept_queue, listener.syn_queue), (queue(6, 5), Some(queue(3, 5))));
    assert_eq!(listener.sockets, 3);
    assert_eq!(listener.sk_drops, 9);
}

#[test]
fn a_socket_held_twice_counts_once() {
    let listener = only(&[socket(1, 11, 7, 6, 5), socket(1, 10, 7, 6, 5)]);
    assert_eq!((listener.sockets, listener.sk_drops), (1, 3));
    assert_eq!(listener.holders.iter().map(|holder| holder.tgid).collect::<Vec<_>>(), vec![10, 11]);
}

#[test]
fn the_caller_of_listen_owns_it_while_it_holds_it() {
    let listener = only(&[socket(1, 10, 7, 0, 5), socket(1, 11, 7, 0, 5)]);
    assert_eq!(listener.owner(11, 7).unwrap().tgid, 11);
    assert_eq!(listener.owner(99, 7).unwrap().tgid, 10, "the caller is gone");
}

#[test]
fn with_socket_activation_the_holder_owns_it() {
    let listener = only(&[socket(1, 9, 7, 0, 5), socket(1, 11, 8, 0, 5)]);
    assert_eq!(listener.owner(9, 7).unwrap().tgid, 9, "the activator still holds it");
    let handed_over = only(&[socket(1, 11, 8, 0, 5)]);
    assert_eq!(handed_over.owner(9, 7).unwrap().tgid, 11);
}

#[test]
fn a_service_manager_owns_what_nobody_else_holds() {
    let both = only(&[socket(1, 1, 7, 0, 5), socket(1, 11, 8, 0, 5)]);
    assert_eq!(both.owner(1, 7).unwrap().tgid, 11, "PID 1 keeps it for the next start");
    assert_eq!(only(&[socket(1, 1, 7, 0, 5)]).owner(1, 7).unwrap().tgid, 1);
    let user_manager = ListenerSocket { holder_comm: *b"systemd\0\0\0\0\0\0\0\0\0", ..socket(1, 10, 7, 0, 5) };
    assert_eq!(only(&[user_manager, socket(1, 11, 8, 0, 5)]).owner(10, 7).unwrap().tgid, 11);
}

#[test]
fn entries_under_one_label_show_the_fullest_queue() {
    let mut full = only(&[socket(1, 10, 7, 6, 5)]);
    full.merge_queues(&only(&[socket(2, 11, 7, 50, 100)]));
    assert_eq!((full.accept_queue, full.sockets), (queue(6, 5), 2));
    let mut empty = only(&[socket(2, 11, 7, 50, 100)]);
    empty.merge_queues(&only(&[socket(1, 10, 7, 6, 5)]));
    assert_eq!((empty.accept_queue, empty.sockets), (queue(6, 5), 2));
}

#[test]
fn nobody_owns_what_a_namespace_bound_walk_found() {
    assert!(only(&[socket(1, 0, 0, 0, 5)]).owner(0, 7).is_none());
}

#[test]
fn fullness_compares_shares_not_lengths() {
    assert!(queue(6, 5).is_fuller_than(queue(90, 100)));
    assert!(!queue(0, 0).is_fuller_than(queue(1, 5)));
    assert!(queue(200, 199).is_fuller_than(queue(100, 99)), "both are full: the longer one");
    assert!(queue(0, 5).is_fuller_than(queue(0, 100)), "both are empty: the shorter one");
    assert!(!queue(0, 100).is_fuller_than(queue(0, 5)));
    assert!(queue(u32::MAX, u32::MAX).is_fuller_than(queue(0, u32::MAX)));
}

#[test]
fn the_table_adds_what_no_walk_found() {
    let only = |records: &[_], table: &[_]| joined(records, table).into_values().next().unwrap();
    let listener = only(&[socket(1, 10, 7, 2, 5)], &[in_table(1001, 2, 5), in_table(77, 6, 5)]);
    assert_eq!((listener.sockets, listener.without_holder), (2, 1));
    assert_eq!((listener.accept_queue, listener.syn_queue), (queue(6, 5), Some(queue(1, 5))));
    let listener = only(&[], &[in_table(0, 6, 5)]);
    assert_eq!((listener.sockets, listener.without_holder, listener.syn_queue), (1, 1, None));
}

#[test]
fn a_holder_of_an_unread_socket_is_joined_by_its_file_or_its_address() {
    let holder = ListenerSocket { inode: 77, ..socket(0, 10, 7, 0, 0) };
    for (inode, without_holder) in [(77, 0), (78, 1), (0, 0)] {
        let listener = joined(&[holder], &[in_table(inode, 6, 5)]).into_values().next().unwrap();
        assert_eq!((listener.sockets, listener.without_holder), (1, without_holder), "{inode}");
        assert_eq!(listener.holders.len(), usize::from(without_holder == 0));
    }
    assert!(joined(&[holder], &[]).is_empty(), "it may listen no more");
}

#[test]
fn a_walk_over_sockets_and_one_over_files_show_a_socket_once() {
    let listener = only(&[socket(1, 10, 7, 2, 5), ListenerSocket { inode: 0, ..socket(1, 0, 0, 2, 5) }]);
    assert_eq!((listener.sockets, listener.without_holder), (1, 0));
}

#[test]
fn a_bound_on_holders_keeps_some_of_each_listener() {
    let mut found = Found::default();
    let processes = HOLDERS_MORE * 2 + 100;
    for tgid in 1..=processes {
        found.add(&socket(1, tgid, 7, 0, 5));
        // Once more, as by another descriptor.
        found.add(&socket(1, tgid.min(HOLDERS_EACH), 7, 0, 5));
    }
    let later = |sock, tgid| ListenerSocket { key: at_port(90), ..socket(sock, tgid, 7, 0, 5) };
    for tgid in 1..=100 {
        found.add(&later(2, tgid));
    }
    let (listeners, left_out) = found.join();
    let holders: Vec<usize> = listeners.values().map(|listener| listener.holders.len()).collect();
    let each = HOLDERS_EACH as usize;
    assert_eq!(holders, [HOLDERS_MORE as usize * 2 + each, each]);
    assert_eq!(listeners.values().map(|listener| listener.without_holder).sum::<u32>(), 0);
    assert_eq!(left_out, LeftOut { processes: 100 - 8 + 92, ..LeftOut::default() });
}

#[test]
fn a_bound_on_sockets_leaves_out_none_that_has_a_row() {
    let rows = [(at_port(90), ListenerStats::default())];
    let mut found = Found::new(&rows);
    let sockets = 66_000_u64;
    for sock in 1..=sockets {
        let key = ListenerKey { address: [u32::try_from(sock).unwrap(); 4], ..at_port(80) };
        found.add(&ListenerSocket { key, ..socket(sock, 10, 7, 0, 5) });
    }
    found.add(&ListenerSocket { key: at_port(90), ..socket(sockets + 1, 11, 7, 2, 5) });
    let (listeners, left_out) = found.join();
    assert_eq!(listeners.len(), 32_768 + 1);
    assert_eq!(left_out, LeftOut { descriptors: sockets - 32_768, ..LeftOut::default() });
    let with_row = &listeners[&at_port(90)];
    assert_eq!((with_row.sockets, with_row.accept_queue, with_row.holders[0].tgid), (1, queue(2, 5), 11));
}

/// A visit of a namespace with so many listening sockets.
fn visit(found: &mut Found<'_>, netns: u64, sockets: u64) {
    let key = |inode| ListenerKey { netns, ..in_table(inode, 0, 5).key };
    let table = (1..=sockets).map(|inode| TableSocket { key: key(inode), ..in_table(inode, 0, 5) });
    let mut gathered = Gathered::default();
    gathered.set_table(table.collect(), true);
    found.add_gathered(netns, gathered);
}

#[test]
fn a_namespace_whose_table_is_too_long_is_not_listed_and_the_others_are() {
    let mut found = Found::default();
    visit(&mut found, 1, 70_000);
    (2..=16).for_each(|netns| visit(&mut found, netns, 1_000));
    visit(&mut found, 17, 1_025);
    assert_eq!((&found.unlisted, found.left_out.namespaces), (&[1, 17].into(), 2));
    let sockets: Vec<u32> = found.join().0.into_values().map(|listener| listener.sockets).collect();
    assert_eq!(sockets[0], 49_152);
    assert_eq!(sockets[1..16], [1_000; 15]);
    assert_eq!(sockets[16], 1_024);
}

#[test]
fn the_room_for_tables_ends() {
    let mut found = Found::default();
    (1..=17).for_each(|netns| visit(&mut found, netns, 70_000));
    assert_eq!(found.unlisted.len(), 17);
    visit(&mut found, 18, 8);
    assert!(!found.unlisted.contains(&18), "the few that most have are listed in any case");
    visit(&mut found, 18, 9);
    assert!(found.unlisted.contains(&18));
    let mut gathered = Gathered::default();
    gathered.set_table(Vec::new(), false);
    found.add_gathered(19, gathered);
    assert!(found.unlisted.contains(&19), "the visit did not see its end");
    assert_eq!(found.left_out.namespaces, 19);
}

#[test]
fn a_visit_gathers_no_more_than_a_pass_tells_apart() {
    let mut gathered = Gathered::default();
    for inode in 0..found::SOCKETS_MAX as u64 {
        gathered.add(&socket(inode + 1, 0, 0, 0, 5));
    }
    assert_eq!(gathered.left_out, 0);
    gathered.add(&socket(1 << 40, 0, 0, 0, 5));
    let mut found = Found::default();
    found.add_gathered(1, gathered);
    assert_eq!((found.left_out.descriptors, found.unlisted.contains(&1)), (1, true));
}

#[test]
fn what_visits_gather_is_joined_as_if_it_came_at_once() {
    let gathered = |sock: u64, inode: u64| {
        let mut gathered = Gathered::default();
        gathered.add(&socket(sock, 0, 7, 2, 5));
        gathered.set_table(vec![in_table(inode, 6, 5)], true);
        gathered
    };
    let mut found = Found::default();
    found.add_gathered(1, gathered(1, 1001));
    found.add_gathered(2, gathered(2, 77));
    assert!(found.unlisted.is_empty());
    let (listeners, left_out) = found.join();
    assert_eq!((listeners[&socket(1, 0, 7, 2, 5).key].sockets, left_out), (3, LeftOut::default()));
}
