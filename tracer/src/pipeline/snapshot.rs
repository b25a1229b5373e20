//! The listener pass's records, joined into one entry for each metric identity. Pure.

use std::collections::{BTreeMap, HashSet};

use tracer_ebpf::counter::{ListenerKey, ListenerSocket};

/// All listening sockets of one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Sockets (several in a `SO_REUSEPORT` group).
    pub sockets: u32,
    /// Accept queue of the fullest socket: connections waiting.
    pub accept_queue_length: u32,
    /// Its limit (`sk_max_ack_backlog`).
    pub accept_queue_limit: u32,
    /// SYN queue of the socket with the fullest one: handshakes under way.
    pub syn_queue_length: u32,
    /// Backlog that limits it.
    pub syn_queue_limit: u32,
    /// `sk_drops` summed over the sockets, modulo 2^32.
    pub sk_drops: u32,
    /// Network namespace inode number.
    pub netns_inum: u32,
    /// Processes that hold a socket, lowest thread-group id first. Empty after a namespace-bound walk.
    pub holders: Vec<Holder>,
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

/// Joins the records of a pass. A socket that several processes hold counts once.
#[must_use]
pub fn join(records: &[ListenerSocket]) -> BTreeMap<ListenerKey, Listener> {
    let mut listeners: BTreeMap<ListenerKey, Listener> = BTreeMap::new();
    let mut seen = HashSet::new();
    for record in records {
        let listener = listeners.entry(record.key).or_insert_with(|| Listener::empty(record.netns_inum));
        if seen.insert(record.sock) {
            listener.add_socket(record);
        }
        listener.add_holder(record);
    }
    listeners
}

impl Listener {
    fn empty(netns_inum: u32) -> Self {
        Self {
            sockets: 0,
            accept_queue_length: 0,
            accept_queue_limit: 0,
            syn_queue_length: 0,
            syn_queue_limit: 0,
            sk_drops: 0,
            netns_inum,
            holders: Vec::new(),
        }
    }

    fn add_socket(&mut self, record: &ListenerSocket) {
        let limit = record.accept_queue_limit;
        let first = self.sockets == 0;
        if first || is_fuller((record.accept_queue_length, limit), self.accept_queue()) {
            self.accept_queue_length = record.accept_queue_length;
            self.accept_queue_limit = limit;
        }
        if first || is_fuller((record.syn_queue_length, limit), self.syn_queue()) {
            self.syn_queue_length = record.syn_queue_length;
            self.syn_queue_limit = limit;
        }
        self.sockets += 1;
        self.sk_drops = self.sk_drops.wrapping_add(record.sk_drops);
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
        if is_fuller(other.accept_queue(), self.accept_queue()) {
            (self.accept_queue_length, self.accept_queue_limit) = other.accept_queue();
        }
        if is_fuller(other.syn_queue(), self.syn_queue()) {
            (self.syn_queue_length, self.syn_queue_limit) = other.syn_queue();
        }
        self.sockets += other.sockets;
    }

    fn accept_queue(&self) -> (u32, u32) {
        (self.accept_queue_length, self.accept_queue_limit)
    }

    fn syn_queue(&self) -> (u32, u32) {
        (self.syn_queue_length, self.syn_queue_limit)
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

/// Whether `a` (length, limit) uses more of its queue than `b`; of two equal ones, the longer.
/// A queue holds one connection more than its limit.
fn is_fuller(a: (u32, u32), b: (u32, u32)) -> bool {
    // Cross-multiplied: a.length / (a.limit + 1) > b.length / (b.limit + 1).
    let weigh = |length: u32, other_limit: u32| u64::from(length) * (u64::from(other_limit) + 1);
    (weigh(a.0, b.1), a.0) > (weigh(b.0, a.1), b.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(sock: u64, tgid: u32, cgroup: u64, length: u32, limit: u32) -> ListenerSocket {
        ListenerSocket {
            key: ListenerKey { netns: 1, cgroup: 7, address: [0; 4], port: 80, zero: [0; 3] },
            sock,
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
        join(records).into_values().next().unwrap()
    }

    #[test]
    fn a_group_shows_its_fullest_socket() {
        let listener = only(&[socket(1, 10, 7, 90, 100), socket(2, 10, 7, 6, 5), socket(3, 10, 7, 0, 5)]);
        assert_eq!((listener.accept_queue_length, listener.accept_queue_limit), (6, 5));
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
        assert_eq!((full.accept_queue(), full.sockets), ((6, 5), 2));
        let mut empty = only(&[socket(2, 11, 7, 50, 100)]);
        empty.merge_queues(&only(&[socket(1, 10, 7, 6, 5)]));
        assert_eq!((empty.accept_queue(), empty.sockets), ((6, 5), 2));
    }

    #[test]
    fn nobody_owns_what_a_namespace_bound_walk_found() {
        assert!(only(&[socket(1, 0, 0, 0, 5)]).owner(0, 7).is_none());
    }

    #[test]
    fn fullness_compares_shares_not_lengths() {
        assert!(is_fuller((6, 5), (90, 100)));
        assert!(!is_fuller((0, 0), (1, 5)));
        assert!(is_fuller((200, 199), (100, 99)), "both are full: the longer one");
        assert!(is_fuller((u32::MAX, u32::MAX), (0, u32::MAX)));
    }
}
