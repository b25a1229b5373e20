//! The kernel's own counters of one namespace: the truth that metrics are compared with.
//!
//! Read from `/proc/thread-self/net`, because `/proc/net` stays the namespace of the process's
//! main thread.

use std::collections::BTreeMap;

use super::netns::Netns;

/// TCP's counters of `/proc/net/snmp` and `/proc/net/netstat`, by the kernel's names.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Counters(BTreeMap<String, u64>);

impl Counters {
    pub(crate) fn read(netns: &Netns) -> Self {
        let (snmp, netstat) = netns.run(|| {
            let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
            (read("snmp"), read("netstat"))
        });
        let mut counters = BTreeMap::new();
        for (text, section) in [(&snmp, "Tcp:"), (&netstat, "TcpExt:")] {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(section));
            let names = lines.next().unwrap().split_whitespace();
            let values = lines.next().unwrap().split_whitespace();
            // MaxConn is -1 and no counter; whatever is asked for and missing fails in `get`.
            counters.extend(names.zip(values).filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))));
        }
        Self(counters)
    }

    pub(crate) fn get(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("the kernel has no counter {name}"))
    }
}

/// What the kernel counted in a namespace since the agent's baseline.
pub(crate) struct Watch<'a> {
    pub(crate) netns: &'a Netns,
    /// Value of the label `netns`.
    pub(crate) inode: String,
    /// `None`: the namespace is younger than the agent, everything counts.
    baseline: Option<Counters>,
}

impl<'a> Watch<'a> {
    /// For a namespace that exists before the agent starts; no traffic may come in between.
    pub(crate) fn from_now(netns: &'a Netns) -> Self {
        Self { netns, inode: netns.inode(), baseline: Some(Counters::read(netns)) }
    }

    /// For a namespace made while the agent runs.
    pub(crate) fn from_birth(netns: &'a Netns) -> Self {
        Self { netns, inode: netns.inode(), baseline: None }
    }

    pub(crate) fn delta(&self, name: &str) -> u64 {
        self.delta_of(&Counters::read(self.netns), name)
    }

    /// The same for counters read before.
    pub(crate) fn delta_of(&self, now: &Counters, name: &str) -> u64 {
        now.get(name) - self.baseline.as_ref().map_or(0, |baseline| baseline.get(name))
    }
}
