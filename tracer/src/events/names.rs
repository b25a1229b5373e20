//! Whose an event is: the names that were learned of namespaces, owners and listeners, asked by event.
//!
//! Names are learned from a live node (`agent::origins`) or from a recording, as the same [`Name`]s, so that a
//! replay tells the same owners. Bounded: a table that is full is emptied, and learned anew. Pure.

use std::{collections::HashMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::pipeline::{
    attribute::Owner,
    decode::{Detail, Event},
};

/// Entries of each table: a node has hundreds of namespaces and some thousand workloads and listeners.
const ENTRIES_MAX: usize = 16_384;
/// Listeners on one port of one namespace: each has an address of its own.
const ADDRESSES_MAX: usize = 256;
/// What all names may take, whatever a recording holds: five times those of a node that fills every table.
const BYTES_MAX: usize = 16 << 20;
/// What an entry takes beside its text, at most.
const ENTRY_BYTES: usize = 256;

/// Something that was learned. Recordings hold it as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Name {
    /// About a network namespace.
    Namespace {
        /// Its identity in records.
        netns: u64,
        /// What it is called.
        #[serde(flatten)]
        named: Namespace,
    },
    /// Whose a cgroup's sockets in a namespace are.
    Owner {
        /// The namespace.
        netns: u64,
        /// The cgroup.
        cgroup: u64,
        /// Whose.
        #[serde(flatten)]
        owner: Owner,
    },
    /// Who listens.
    Listener {
        /// The namespace.
        netns: u64,
        /// The port.
        port: u16,
        /// What else is known.
        #[serde(flatten)]
        listener: Listener,
    },
}

/// What a network namespace is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Inode number.
    pub inode: u32,
    /// Whether it is the one of PID 1.
    #[serde(default)]
    pub is_host: bool,
    /// Name under /run/netns, empty if it has none.
    #[serde(default)]
    pub name: String,
    /// Further names of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_names: Vec<String>,
}

impl Namespace {
    /// Whether this is one of its names.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.other_names.iter().any(|other| other == name)
    }

    fn bytes(&self) -> usize {
        let others = self.other_names.iter().map(|other| size_of::<String>() + other.len());
        ENTRY_BYTES + self.name.len() + others.sum::<usize>()
    }
}

impl Listener {
    fn bytes(&self) -> usize {
        self.process.len() + owner_bytes(&self.owner)
    }
}

fn owner_bytes(owner: &Owner) -> usize {
    let Owner { unit, container, namespace, pod } = owner;
    ENTRY_BYTES + [unit, container, namespace, pod].map(String::len).iter().sum::<usize>()
}

/// A process that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Bound address.
    pub address: IpAddr,
    /// Name of the process.
    pub process: String,
    /// Whose it is; all empty where only the socket's cgroup tells.
    #[serde(flatten)]
    pub owner: Owner,
}

/// Whose an event is, as far as names are known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin<'a> {
    /// Inode number of the namespace; 0 where not even that is known.
    pub inode: u32,
    /// The namespace.
    pub namespace: Option<&'a Namespace>,
    /// The workload.
    pub owner: Option<&'a Owner>,
    /// The process that listens.
    pub process: Option<&'a str>,
}

/// Names by what records carry.
#[derive(Debug, Default)]
pub struct Names {
    namespaces: HashMap<u64, Namespace>,
    owners: HashMap<(u64, u64), Owner>,
    listeners: HashMap<(u64, u16), Vec<Listener>>,
    /// What was learned takes no more than this.
    bytes_at_most: usize,
}

impl Names {
    /// Takes what was learned; the last word counts.
    pub fn learn(&mut self, name: Name) {
        self.bytes_at_most += match &name {
            Name::Namespace { named, .. } => named.bytes(),
            Name::Owner { owner, .. } => owner_bytes(owner),
            Name::Listener { listener, .. } => listener.bytes(),
        };
        if self.bytes_at_most > BYTES_MAX {
            self.make_room();
        }
        match name {
            Name::Namespace { netns, named } => insert(&mut self.namespaces, netns, named),
            Name::Owner { netns, cgroup, owner } => insert(&mut self.owners, (netns, cgroup), owner),
            Name::Listener { netns, port, listener } => self.learn_listener((netns, port), listener),
        }
    }

    /// Counts what is there, since names that were learned again took the place of others; forgets all if it is much.
    fn make_room(&mut self) {
        let namespaces = self.namespaces.values().map(Namespace::bytes).sum::<usize>();
        let owners = self.owners.values().map(owner_bytes).sum::<usize>();
        let listeners = self.listeners.values().flatten().map(Listener::bytes).sum::<usize>();
        self.bytes_at_most = namespaces + owners + listeners;
        if self.bytes_at_most > BYTES_MAX / 2 {
            *self = Self::default();
        }
    }

    fn learn_listener(&mut self, key: (u64, u16), listener: Listener) {
        if let Some(there) = self.listeners.get_mut(&key) {
            there.retain(|other| other.address != listener.address);
            if there.len() >= ADDRESSES_MAX {
                there.clear();
            }
            there.push(listener);
        } else {
            insert(&mut self.listeners, key, vec![listener]);
        }
    }

    /// Whether the namespace has been heard of.
    #[must_use]
    pub fn knows_namespace(&self, netns: u64) -> bool {
        self.namespaces.contains_key(&netns)
    }

    /// Whether the owner has been asked for, and the answer was not to ask again.
    #[must_use]
    pub fn knows_owner(&self, netns: u64, cgroup: u64) -> bool {
        self.owners.contains_key(&(netns, cgroup))
    }

    /// The listener that an event is about, or whose connection it is about.
    #[must_use]
    pub fn listener(&self, event: &Event) -> Option<&Listener> {
        let local = event.local.filter(|_| may_be_servers(event))?;
        let there = self.listeners.get(&(event.netns, local.port))?;
        let bound_to = |wanted: IpAddr| there.iter().find(|listener| listener.address == wanted);
        bound_to(local.address).or_else(|| there.iter().find(|listener| listener.address.is_unspecified()))
    }

    /// Whose the event is.
    #[must_use]
    pub fn origin<'a>(&'a self, event: &'a Event) -> Origin<'a> {
        let listener = self.listener(event);
        let namespace = self.namespaces.get(&event.netns);
        let own = match &event.detail {
            Detail::Listen { process, .. } if !process.is_empty() => Some(process.as_str()),
            _ => None,
        };
        Origin {
            inode: namespace.map_or(event.netns_inum, |namespace| namespace.inode),
            namespace,
            owner: listener
                .map(|listener| &listener.owner)
                .filter(|owner| **owner != Owner::default())
                .or_else(|| self.owners.get(&(event.netns, event.cgroup))),
            process: own
                .or_else(|| listener.map(|listener| listener.process.as_str()))
                .filter(|process| !process.is_empty()),
        }
    }
}

/// Whether the local end may be a listener's; a socket that connects has a port of its own.
fn may_be_servers(event: &Event) -> bool {
    match &event.detail {
        Detail::Connect { .. } => false,
        Detail::State { old, new } => ![old, new].contains(&&"SYN_SENT"),
        Detail::Retransmit { role, .. } => *role != "client",
        _ => true,
    }
}

fn insert<K: std::hash::Hash + Eq, V>(table: &mut HashMap<K, V>, key: K, value: V) {
    if table.len() >= ENTRIES_MAX && !table.contains_key(&key) {
        table.clear();
    }
    table.insert(key, value);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::pipeline::decode::Endpoint;

    const PORT: u16 = 80;

    fn event(address: [u8; 4], detail: Detail) -> Event {
        Event {
            time_ns: 0,
            netns: 7,
            netns_inum: 70,
            cgroup: 3,
            state: "LISTEN",
            local: Some(Endpoint { address: Ipv4Addr::from(address).into(), port: PORT }),
            remote: None,
            detail,
        }
    }

    fn listener(address: &str, process: &str, unit: &str) -> Name {
        let owner = Owner { unit: unit.to_owned(), ..Owner::default() };
        let listener = Listener { address: address.parse().unwrap(), process: process.to_owned(), owner };
        Name::Listener { netns: 7, port: PORT, listener }
    }

    #[test]
    fn the_bound_address_wins_over_the_wildcard() {
        let mut names = Names::default();
        let process =
            |names: &Names, address| names.origin(&event(address, Detail::SynackRetransmit)).process.map(str::to_owned);
        assert_eq!(process(&names, [10, 0, 0, 1]), None);
        names.learn(listener("::", "any", ""));
        names.learn(listener("10.0.0.1", "one", ""));
        assert_eq!(process(&names, [10, 0, 0, 1]).as_deref(), Some("one"));
        assert_eq!(process(&names, [10, 0, 0, 2]).as_deref(), Some("any"));
        names.learn(listener("10.0.0.1", "next", ""));
        assert_eq!(process(&names, [10, 0, 0, 1]).as_deref(), Some("next"), "the last word counts");
    }

    #[test]
    fn a_client_is_not_taken_for_a_server() {
        let mut names = Names::default();
        names.learn(listener("::", "server", "a.service"));
        let process = |detail| names.origin(&event([10, 0, 0, 1], detail)).process.is_some();
        let retransmit = |role| Detail::Retransmit { cause: "rto", role, segments: 1, error: 0 };
        assert!(process(retransmit("server")) && !process(retransmit("client")));
        assert!(!process(Detail::Connect { result: "refused", retries: 0, error: 111 }));
        assert!(!process(Detail::State { old: "SYN_SENT", new: "ESTABLISHED" }));
        assert!(process(Detail::State { old: "ESTABLISHED", new: "CLOSE_WAIT" }));
    }

    #[test]
    fn the_listeners_owner_comes_before_that_of_the_sockets_cgroup() {
        let mut names = Names::default();
        let owner = Owner { unit: "init.scope".into(), ..Owner::default() };
        names.learn(Name::Owner { netns: 7, cgroup: 3, owner });
        let unit = |names: &Names| {
            names.origin(&event([0; 4], Detail::SynackRetransmit)).owner.map(|owner| owner.unit.clone())
        };
        assert_eq!(unit(&names).as_deref(), Some("init.scope"));
        names.learn(listener("0.0.0.0", "web", "web.service"));
        assert_eq!(unit(&names).as_deref(), Some("web.service"));
        names.learn(listener("0.0.0.0", "web", ""));
        assert_eq!(unit(&names).as_deref(), Some("init.scope"), "where the listener's tells nothing");
    }

    #[test]
    fn long_names_are_bounded_as_well() {
        let mut names = Names::default();
        let long = "x".repeat(8000);
        let mut most = 0;
        for port in 0..=u16::MAX {
            let Name::Listener { listener, .. } = listener("::", &long, &long) else { panic!("another name") };
            names.learn(Name::Listener { netns: 7, port, listener });
            most = most.max(names.listeners.len());
        }
        assert!(most * 16_000 < BYTES_MAX, "{most}");
        // What is learned again takes no more room, so that nothing is forgotten.
        let mut names = Names::default();
        names.learn(Name::Namespace { netns: 1, named: Namespace::default() });
        for _ in 0..10 * BYTES_MAX / 16_000 {
            names.learn(listener("::", &long, &long));
        }
        assert!(names.knows_namespace(1));
    }

    #[test]
    fn tables_are_bounded() {
        let mut names = Names::default();
        for netns in 0..ENTRIES_MAX as u64 * 2 + 5 {
            names.learn(Name::Namespace { netns, named: Namespace::default() });
        }
        assert_eq!(names.namespaces.len(), 5);
        for last in 0..=u16::MAX {
            let [high, low] = last.to_be_bytes();
            names.learn(listener(&format!("10.0.{high}.{low}"), "x", ""));
        }
        assert!(names.listeners[&(7, PORT)].len() <= ADDRESSES_MAX);
    }
}
