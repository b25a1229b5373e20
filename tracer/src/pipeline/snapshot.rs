//! Listening sockets as a pass finds them, one entry for each metric identity, and who owns one. Pure.

use std::cmp::Reverse;

use tracer_ebpf::counter::{self, ListenerKey};

pub use self::{
    found::{Found, LeftOut, SOCKETS_MAX, join},
    gathered::Gathered,
};

mod found;
mod gathered;
#[cfg(test)]
mod tests;

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

    /// Where a holder is, or else belongs, in the order of ids.
    fn place_of(&self, tgid: u32) -> Result<usize, usize> {
        self.holders.binary_search_by_key(&tgid, |holder| holder.tgid)
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
