//! What one pass finds of listeners, joined while it is read into one entry for each metric identity. Pure.
//!
//! Memory grows with listening sockets, up to a bound, and neither with descriptors nor with processes. Listeners that
//! have a row are found in any case, so that no bound makes a living one look dead.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap, HashSet},
};

use tracer_ebpf::counter::{HOLDERS_EACH, HOLDERS_MORE, ListenerKey, ListenerSocket, ListenerStats};

use super::{Gathered, Holder, Listener, Queue, TableSocket};

/// Listening sockets told apart in one pass, and as many of the kernel's tables: ten of a web server's with 100 ports and
/// 64 workers. Some 100 bytes each, during the pass.
pub const SOCKETS_MAX: usize = 65_536;

/// Sockets of its kernel's table that a namespace may add when the room is taken: as many as most have at all, so that
/// these are listed beside any number of others.
const TABLE_LEAST: usize = 8;

/// Identities kept from one pass to the next, beside those that have a row: three times the rows of a default table.
/// Some 200 bytes each, twice during a pass.
const LISTENERS_MAX: usize = 32_768;

/// Processes kept beyond the few that each listener has, which `HOLDERS_EACH` says. Twice what one walk tells: the walk
/// tells callers of `listen()` beside.
const MORE_HOLDERS_MAX: usize = 2 * HOLDERS_MORE as usize;

/// What the bounds left out of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Namespaces whose table of listening sockets was not read to its end.
    pub namespaces: u64,
    /// Descriptors of listening sockets.
    pub descriptors: u64,
    /// Processes that hold a listener, each as often as the walk met it with another listener in between.
    pub processes: u64,
}

/// What one pass found of listeners.
#[derive(Debug, Default)]
pub struct Found<'rows> {
    rows: Rows<'rows>,
    bounds: Bounds,
    listeners: BTreeMap<ListenerKey, Listener>,
    /// Sockets that walks showed, by their address, and whether a process is known to hold each.
    sockets: HashMap<u64, bool>,
    /// Inode numbers of their files.
    inodes: HashSet<u64>,
    /// Holders of sockets that the walks could not read, by the inode number of the file.
    unread: HashMap<u64, (ListenerKey, Vec<Holder>)>,
    table: Vec<TableSocket>,
    more_holders: usize,
    /// Namespaces whose listeners could not be listed.
    pub unlisted: HashSet<u64>,
    /// What found no room.
    pub left_out: LeftOut,
}

/// How much there may be; the tests have less.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    sockets: usize,
    listeners: usize,
    more_holders: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { sockets: SOCKETS_MAX, listeners: LISTENERS_MAX, more_holders: MORE_HOLDERS_MAX }
    }
}

/// Listeners that have a row.
#[derive(Debug, Default)]
struct Rows<'rows> {
    all: &'rows [(ListenerKey, ListenerStats)],
    /// Made when a bound bites, which it hardly ever does.
    keys: OnceCell<HashSet<&'rows ListenerKey>>,
}

impl Rows<'_> {
    fn contains(&self, key: &ListenerKey) -> bool {
        self.keys.get_or_init(|| self.all.iter().map(|(key, _)| key).collect()).contains(key)
    }
}

impl<'rows> Found<'rows> {
    /// Nothing found yet, of a pass that must find the listeners with these rows.
    #[must_use]
    pub fn new(rows: &'rows [(ListenerKey, ListenerStats)]) -> Self {
        Self { rows: Rows { all: rows, keys: OnceCell::new() }, ..Self::default() }
    }

    /// Adds what the visit to the namespace `id` gathered. What found no room there may be a listener that has a row, so
    /// the whole namespace counts as not listed.
    pub fn add_gathered(&mut self, id: u64, gathered: Gathered) {
        gathered.records.iter().for_each(|record| self.add(record));
        let room = self.room_in_table();
        if gathered.is_cut || gathered.table.len() > room {
            self.unlisted.insert(id);
            self.left_out.namespaces += 1;
        }
        self.table.extend(gathered.table.into_iter().take(room));
        if gathered.left_out > 0 {
            self.unlisted.insert(id);
            self.left_out.descriptors += gathered.left_out;
        }
    }

    /// Adds a record of a walk. A socket that several processes hold counts once.
    pub fn add(&mut self, record: &ListenerSocket) {
        // A record without a socket tells of a holder alone.
        if record.sock == 0 {
            self.add_unread(record);
            return;
        }
        let is_held = record.holder_tgid > 0;
        match self.sockets.get(&record.sock).copied() {
            None if !self.add_socket(record, is_held) => self.left_out.descriptors += 1,
            // Shown before by a walk that names no holder.
            Some(false) if is_held => {
                self.sockets.insert(record.sock, true);
                if let Some(listener) = self.listeners.get_mut(&record.key) {
                    listener.without_holder = listener.without_holder.saturating_sub(1);
                }
            }
            None | Some(_) => {}
        }
        if record.inode > 0 && self.inodes.len() < self.bounds.sockets {
            self.inodes.insert(record.inode);
        }
        if let Some(listener) = self.listeners.get_mut(&record.key) {
            add_holder(&mut listener.holders, record, (&mut self.more_holders, self.bounds), &mut self.left_out);
        }
    }

    /// Adds a socket that no record was about so far; false if there is no room for it.
    fn add_socket(&mut self, record: &ListenerSocket, is_held: bool) -> bool {
        let (is_known, has_room) = (self.listeners.contains_key(&record.key), self.sockets.len() < self.bounds.sockets);
        let may_begin = || self.listeners.len() < self.bounds.listeners && has_room || self.rows.contains(&record.key);
        if (is_known && !has_room) || (!is_known && !may_begin()) {
            return false;
        }
        if has_room {
            self.sockets.insert(record.sock, is_held);
        }
        let listener = self.listeners.entry(record.key).or_insert_with(|| Listener::empty(record.netns_inum));
        let queue = |length| Queue { length, limit: record.accept_queue_limit };
        let (accept_queue, syn_queue) = (queue(record.accept_queue_length), queue(record.syn_queue_length));
        listener.add_socket(accept_queue, Some(syn_queue), record.sk_drops);
        listener.without_holder += u32::from(!is_held);
        true
    }

    fn add_unread(&mut self, record: &ListenerSocket) {
        if self.unread.len() >= self.bounds.sockets && !self.unread.contains_key(&record.inode) {
            self.left_out.descriptors += 1;
            return;
        }
        let (_, holders) = self.unread.entry(record.inode).or_insert_with(|| (record.key, Vec::new()));
        add_holder(holders, record, (&mut self.more_holders, self.bounds), &mut self.left_out);
    }

    /// How many sockets of its kernel's table the next namespace may add: any number until three quarters of the room are
    /// taken and few of the rest, so that no tenant's listeners end the listing of the others'.
    fn room_in_table(&self) -> usize {
        let (taken, all) = (self.table.len(), self.bounds.sockets);
        (all - all / 4).saturating_sub(taken).max((all / 64).min(all.saturating_sub(taken))).max(TABLE_LEAST)
    }

    /// One entry for each metric identity. A socket that a walk and the table have counts once.
    #[must_use]
    pub fn join(mut self) -> (BTreeMap<ListenerKey, Listener>, LeftOut) {
        let mut unread_by_key: HashMap<ListenerKey, Vec<&Holder>> = HashMap::new();
        for (key, holders) in self.unread.values() {
            unread_by_key.entry(*key).or_default().extend(holders);
        }
        for socket in self.table.iter().filter(|socket| !self.inodes.contains(&socket.inode)) {
            if !self.listeners.contains_key(&socket.key)
                && self.listeners.len() >= self.bounds.listeners
                && !self.rows.contains(&socket.key)
            {
                self.left_out.descriptors += 1;
                continue;
            }
            let listener = self.listeners.entry(socket.key).or_insert_with(|| Listener::empty(socket.netns_inum));
            listener.add_socket(socket.accept_queue, None, socket.sk_drops);
            // By the file, or where there is none by where it listens.
            let holders: Vec<&Holder> = if socket.inode > 0 {
                self.unread.get(&socket.inode).map(|(_, holders)| holders.iter().collect()).unwrap_or_default()
            } else {
                unread_by_key.get(&socket.key).cloned().unwrap_or_default()
            };
            listener.without_holder += u32::from(holders.is_empty());
            for holder in holders {
                if let Err(place) = listener.place_of(holder.tgid) {
                    listener.holders.insert(place, holder.clone());
                }
            }
        }
        (self.listeners, self.left_out)
    }
}

/// Adds the holder that a record names, if it is not among them and there is room.
fn add_holder(
    holders: &mut Vec<Holder>,
    record: &ListenerSocket,
    (more, bounds): (&mut usize, Bounds),
    left_out: &mut LeftOut,
) {
    let tgid = record.holder_tgid;
    let Err(place) = holders.binary_search_by_key(&tgid, |holder| holder.tgid) else { return };
    if tgid == 0 {
        return;
    }
    let is_one_more = holders.len() >= HOLDERS_EACH as usize;
    if is_one_more && *more >= bounds.more_holders {
        left_out.processes += 1;
        return;
    }
    *more += usize::from(is_one_more);
    holders.insert(place, Holder { tgid, cgroup: record.holder_cgroup, comm: record.holder_comm });
}

/// Joins the records of a walk that is all that was asked.
#[must_use]
pub fn join(records: &[ListenerSocket]) -> BTreeMap<ListenerKey, Listener> {
    let mut found = Found::default();
    for record in records {
        found.add(record);
    }
    found.join().0
}
