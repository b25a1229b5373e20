//! The listener pass's records, joined into one entry for each metric identity. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
};

use tracer_ebpf::counter::{self, ListenerKey, ListenerSocket};

/// All listening sockets of one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Sockets (several in a `SO_REUSEPORT` group).
    pub sockets: u32,
    /// Those of them that no process is known to hold.
    pub without_holder: u32,
    /// The fullest socket's accept queue: connections that wait for accept(), and `sk_max_ack_backlog`.
    pub accept_queue: Queue,
    /// The SYN queue of the socket with the fullest one: handshakes under way, and the backlog that limits it. `None`
    /// if only the kernel's table of listening sockets knows of the listener: the table does not tell.
    pub syn_queue: Option<Queue>,
    /// `sk_drops` summed over the sockets, modulo 2^32.
    pub sk_drops: u32,
    /// Network namespace inode number.
    pub netns_inum: u32,
    /// Processes that hold a socket, lowest thread-group id first. Empty after a namespace-bound walk.
    pub holders: Vec<Holder>,
}

/// A queue of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Connections in it.
    pub length: u32,
    /// Its limit; it holds one more.
    pub limit: u32,
}

impl Queue {
    /// Whether this queue uses more of its room than the other one; of two equal ones, the longer; of two empty ones,
    /// the one with the shorter limit, which is the first to be reached.
    fn is_fuller_than(self, other: Self) -> bool {
        if counter::is_fuller(self.length, self.limit, other.length, other.limit) {
            return true;
        }
        let (own, others) = ((self.length, Reverse(self.limit)), (other.length, Reverse(other.limit)));
        !counter::is_fuller(other.length, other.limit, self.length, self.limit) && own > others
    }

    /// The fuller one of the two.
    #[must_use]
    pub fn or_fuller(self, other: Self) -> Self {
        if other.is_fuller_than(self) { other } else { self }
    }
}

/// A socket of the kernel's table of listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSocket {
    /// Its metric identity.
    pub key: ListenerKey,
    /// Network namespace inode number.
    pub netns_inum: u32,
    /// Inode number of its file; 0 if it has none.
    pub inode: u64,
    /// Its accept queue.
    pub accept_queue: Queue,
    /// `sk_drops`, wraps.
    pub sk_drops: u32,
}

/// A process that holds a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Thread-group id.
    pub tgid: u32,
    /// cgroup v2 id.
    pub cgroup: u64,
    /// `comm` of the thread-group leader.
    pub comm: [u8; 16],
}

impl Holder {
    /// Whether it is a service manager, which holds sockets for others: those of a service that it starts on the
    /// first connection, and it keeps them to start the service again.
    #[must_use]
    pub fn is_manager(&self) -> bool {
        self.tgid == 1 || self.comm == *b"systemd\0\0\0\0\0\0\0\0\0"
    }
}

/// Joins the records of a walk that is all that was asked.
#[must_use]
pub fn join(records: &[ListenerSocket]) -> BTreeMap<ListenerKey, Listener> {
    join_all(records, &[])
}

/// What one pass found of listeners.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Records of the walks.
    pub records: Vec<ListenerSocket>,
    /// The kernel's tables of the namespaces that were asked for it.
    pub table: Vec<TableSocket>,
    /// Namespaces whose listeners could not be listed.
    pub unlisted: HashSet<u64>,
}

impl Found {
    /// Joins all into one entry for each metric identity. A socket that several processes hold counts once, and so
    /// does one that a walk and the table have.
    #[must_use]
    pub fn join(&self) -> BTreeMap<ListenerKey, Listener> {
        join_all(&self.records, &self.table)
    }
}

fn join_all(records: &[ListenerSocket], table: &[TableSocket]) -> BTreeMap<ListenerKey, Listener> {
    // A record without a socket tells of a holder alone.
    let (sockets, holders): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.sock != 0);
    let mut listeners = of_walks(&sockets);
    let walked: HashSet<u64> = sockets.iter().filter(|record| record.inode > 0).map(|record| record.inode).collect();
    for socket in table.iter().filter(|socket| !walked.contains(&socket.inode)) {
        let listener = listeners.entry(socket.key).or_insert_with(|| Listener::empty(socket.netns_inum));
        listener.add_socket(socket.accept_queue, None, socket.sk_drops);
        let mut holders = holders.iter().filter(|holder| socket.is_held_by(holder)).peekable();
        listener.without_holder += u32::from(holders.peek().is_none());
        holders.for_each(|holder| listener.add_holder(holder));
    }
    listeners
}

fn of_walks(sockets: &[&ListenerSocket]) -> BTreeMap<ListenerKey, Listener> {
    let mut listeners: BTreeMap<ListenerKey, Listener> = BTreeMap::new();
    let mut seen = HashSet::new();
    let held: HashSet<u64> = sockets.iter().filter(|record| record.holder_tgid > 0).map(|record| record.sock).collect();
    for record in sockets {
        let listener = listeners.entry(record.key).or_insert_with(|| Listener::empty(record.netns_inum));
        if seen.insert(record.sock) {
            let queue = |length| Queue { length, limit: record.accept_queue_limit };
            let (accept_queue, syn_queue) = (queue(record.accept_queue_length), queue(record.syn_queue_length));
            listener.add_socket(accept_queue, Some(syn_queue), record.sk_drops);
            listener.without_holder += u32::from(!held.contains(&record.sock));
        }
        listener.add_holder(record);
    }
    listeners
}

impl TableSocket {
    /// By the file, or where there is none by where it listens.
    fn is_held_by(&self, holder: &ListenerSocket) -> bool {
        if self.inode > 0 { self.inode == holder.inode } else { self.key == holder.key }
    }
}

impl Listener {
    /// One of which no socket was seen yet.
    #[must_use]
    pub fn empty(netns_inum: u32) -> Self {
        Self {
            sockets: 0,
            without_holder: 0,
            accept_queue: Queue::default(),
            syn_queue: None,
            sk_drops: 0,
            netns_inum,
            holders: Vec::new(),
        }
    }

    fn add_socket(&mut self, accept_queue: Queue, syn_queue: Option<Queue>, sk_drops: u32) {
        let first = self.sockets == 0;
        self.accept_queue = if first { accept_queue } else { self.accept_queue.or_fuller(accept_queue) };
        self.syn_queue = fuller(self.syn_queue, syn_queue);
        self.sockets += 1;
        self.sk_drops = self.sk_drops.wrapping_add(sk_drops);
    }

    fn add_holder(&mut self, record: &ListenerSocket) {
        if record.holder_tgid == 0 || self.holders.iter().any(|holder| holder.tgid == record.holder_tgid) {
            return;
        }
        let holder = Holder { tgid: record.holder_tgid, cgroup: record.holder_cgroup, comm: record.holder_comm };
        let place = self.holders.partition_point(|other| other.tgid < holder.tgid);
        self.holders.insert(place, holder);
    }

    /// Joins the queues of another entry that gets the same labels.
    pub fn merge_queues(&mut self, other: &Self) {
        self.accept_queue = self.accept_queue.or_fuller(other.accept_queue);
        self.syn_queue = fuller(self.syn_queue, other.syn_queue);
        self.sockets += other.sockets;
    }

    /// The process that owns the listener, given the caller of `listen()` (0 = unknown) and the
    /// socket's cgroup. If every holder sits in another cgroup than the socket (socket activation),
    /// the holder is the owner; otherwise the caller, or the oldest holder in the socket's cgroup. A service
    /// manager owns what nobody else holds.
    #[must_use]
    pub fn owner(&self, caller_tgid: u32, socket_cgroup: u64) -> Option<&Holder> {
        let managers_alone = self.holders.iter().all(Holder::is_manager);
        let servers = || self.holders.iter().filter(|holder| managers_alone || !holder.is_manager());
        let in_cgroup = |holder: &&Holder| holder.cgroup == socket_cgroup;
        let caller = servers().filter(in_cgroup).find(|holder| holder.tgid == caller_tgid);
        caller.or_else(|| servers().find(in_cgroup)).or_else(|| servers().next())
    }
}

/// The fuller one of two queues that may not be known.
fn fuller(a: Option<Queue>, b: Option<Queue>) -> Option<Queue> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.or_fuller(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
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
        let found = Found { records: records.to_vec(), ..Found::default() };
        found.join().into_values().next().unwrap()
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
        let found = Found {
            records: vec![socket(1, 10, 7, 2, 5)],
            table: vec![in_table(1001, 2, 5), in_table(77, 6, 5)],
            ..Found::default()
        };
        let listener = found.join().into_values().next().unwrap();
        assert_eq!((listener.sockets, listener.without_holder), (2, 1));
        assert_eq!((listener.accept_queue, listener.syn_queue), (queue(6, 5), Some(queue(1, 5))));
        let found = Found { table: vec![in_table(0, 6, 5)], ..Found::default() };
        let listener = found.join().into_values().next().unwrap();
        assert_eq!((listener.sockets, listener.without_holder, listener.syn_queue), (1, 1, None));
    }

    #[test]
    fn a_holder_of_an_unread_socket_is_joined_by_its_file_or_its_address() {
        let holder = ListenerSocket { inode: 77, ..socket(0, 10, 7, 0, 0) };
        for (inode, without_holder) in [(77, 0), (78, 1), (0, 0)] {
            let found = Found { records: vec![holder], table: vec![in_table(inode, 6, 5)], ..Found::default() };
            let listener = found.join().into_values().next().unwrap();
            assert_eq!((listener.sockets, listener.without_holder), (1, without_holder), "{inode}");
            assert_eq!(listener.holders.len(), usize::from(without_holder == 0));
        }
        assert!(Found { records: vec![holder], ..Found::default() }.join().is_empty(), "it may listen no more");
    }

    #[test]
    fn a_walk_over_sockets_and_one_over_files_show_a_socket_once() {
        let listener = only(&[socket(1, 10, 7, 2, 5), ListenerSocket { inode: 0, ..socket(1, 0, 0, 2, 5) }]);
        assert_eq!((listener.sockets, listener.without_holder), (1, 0));
    }
}
