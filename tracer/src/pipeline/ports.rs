//! Ephemeral ports by destination: which namespace is walked next, and what its walk found. Pure.
//!
//! A walk visits the hash of the whole node, whatever the namespace holds, so only a namespace whose
//! sockets are near its range is walked, one in a pass, and so seldom that walks keep to a share of a
//! core. Fed by the worker with the figures of each pass; read by the exporter.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use tracer_ebpf::destination::{DestinationKey, DestinationUse};

/// A namespace is near its range when its sockets are at least this part of it: 1 / 8. They bound what
/// any destination can use, and an eighth leaves time to look before the range is used up.
pub const NEAR_SHARE: u64 = 8;

/// Destinations kept of each walk, the busiest first.
pub const DESTINATIONS_KEPT: usize = 10;

/// What a pass knows of a namespace without walking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Identity in the maps.
    pub id: u64,
    /// Inode number.
    pub inum: u32,
    /// TCP sockets, those in `TIME_WAIT` among them.
    pub sockets: u64,
    /// `ip_local_port_range`, both ends inclusive.
    pub range: (u16, u16),
}

impl Candidate {
    /// Ports in the range.
    fn ports(&self) -> u64 {
        ports(self.range)
    }

    /// Whether a walk is worth its cost.
    #[must_use]
    pub fn is_near(&self) -> bool {
        self.sockets > 0 && self.sockets * NEAR_SHARE >= self.ports()
    }

    /// How much of the range its sockets would take if all were towards one destination, at most 1.
    fn fullness(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rank, and sockets are fewer than 2^53")]
        let fullness = self.sockets as f64 / self.ports().max(1) as f64;
        fullness.min(1.0)
    }
}

fn ports((first, last): (u16, u16)) -> u64 {
    (u64::from(last) + 1).saturating_sub(u64::from(first))
}

/// One destination as seen from one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Local address.
    pub source: IpAddr,
    /// Remote address and port.
    pub destination: SocketAddr,
    /// Ephemeral ports in use.
    pub used: u32,
    /// Those of them in `TIME_WAIT`.
    pub time_wait: u32,
}

/// How many ports a bitmap of them holds, those left out that are set aside (`ip_local_reserved_ports`): nobody may
/// have those anyway.
#[must_use]
pub fn bound_ports(bitmap: &[u64], reserved: &[(u16, u16)]) -> u32 {
    let is_set = |port: &u16| bitmap.get(usize::from(port >> 6)).is_some_and(|word| word >> (port & 63) & 1 == 1);
    let all: u32 = bitmap.iter().map(|word| word.count_ones()).sum();
    let set_aside = reserved.iter().flat_map(|&(first, last)| first..=last).filter(is_set);
    set_aside.fold(all, |left, _| left - 1)
}

impl Destination {
    fn new(key: &DestinationKey, usage: DestinationUse) -> Self {
        Self {
            source: address(key.source),
            destination: SocketAddr::new(address(key.destination), key.port),
            used: usage.used,
            time_wait: usage.time_wait,
        }
    }
}

/// Words in memory order.
fn address(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(bytes).to_canonical()
}

/// The busiest destinations, kept while all are handed in.
#[derive(Clone, Debug, Default)]
pub struct Busiest {
    destinations: Vec<Destination>,
    /// Ports that one destination uses and that others may still be given, at most.
    most_of_its_own: u32,
}

impl Busiest {
    /// Takes a destination in if it is among the busiest so far.
    pub fn add(&mut self, key: &DestinationKey, usage: DestinationUse) {
        self.most_of_its_own = self.most_of_its_own.max(usage.used.saturating_sub(usage.bound));
        // By far the most are not, and cost a comparison each.
        let least = self.destinations.last().map_or(0, |least| least.used);
        if self.destinations.len() == DESTINATIONS_KEPT && least >= usage.used {
            return;
        }
        let place = self.destinations.partition_point(|other| other.used >= usage.used);
        self.destinations.insert(place, Destination::new(key, usage));
        self.destinations.truncate(DESTINATIONS_KEPT);
    }
}

/// What a walk over one namespace found.
#[derive(Clone, Debug)]
pub struct PortUse {
    /// When the walk ended.
    pub read: Instant,
    /// `ip_local_port_range` at the time.
    pub range: (u16, u16),
    /// The busiest destinations, first the one that uses most.
    pub destinations: Vec<Destination>,
    /// Ports that `bind()` or `listen()` took from all destinations.
    pub bound: u32,
    /// Ports that one destination uses beside those, at most.
    most_of_its_own: u32,
    /// Sockets of destinations that found no room in the map.
    pub refused: u32,
    /// No destination without room uses more than this.
    pub refused_most: u32,
}

impl PortUse {
    /// The result of a walk; `refused` are the sockets of destinations without room, and how many one of these has at most.
    #[must_use]
    pub fn new(read: Instant, range: (u16, u16), busiest: Busiest, bound: u32, refused: [u32; 2]) -> Self {
        let Busiest { destinations, most_of_its_own } = busiest;
        let [refused, refused_most] = refused;
        Self { read, range, destinations, bound, most_of_its_own, refused, refused_most }
    }

    /// Ports that the busiest destination cannot have any more: its own, and those that are taken from all. `None` if the
    /// busiest may be one without room, whose use nobody knows.
    #[must_use]
    pub fn largest(&self) -> Option<u32> {
        (self.most_of_its_own >= self.refused_most).then_some(self.bound + self.most_of_its_own)
    }

    /// Ports in the range at the time.
    #[must_use]
    pub fn ports(&self) -> u64 {
        ports(self.range)
    }
}

/// A namespace that is near its range.
#[derive(Clone, Debug)]
struct Entry {
    /// When it was last walked, in vain or not.
    tried: Instant,
    found: Option<PortUse>,
}

/// What walks cost, and when there may be another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spent {
    duration: Duration,
    rest: Duration,
    ended: Instant,
}

/// When which namespace is walked, and what the last walk of each found.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    entries: BTreeMap<u64, Entry>,
    /// Namespaces that are near their range now.
    near: usize,
    spent: Option<Spent>,
}

/// The walks as one pass, for the exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkPass {
    /// How long the last walk took.
    pub duration: Duration,
    /// When the oldest of the results was read.
    pub ended: Instant,
    /// Time after which each namespace has its turn again.
    pub interval: Duration,
}

impl Ports {
    /// Takes the figures of a pass: the result of a namespace that is not near its range any more goes.
    /// Returns the namespace whose turn it is, if there is one and the last walk's cost has been rested
    /// off: one that was never walked before all others, else the one with the longest wait, weighed by
    /// how full it may be.
    pub fn next(&mut self, candidates: &[Candidate], now: Instant) -> Option<Candidate> {
        let near: BTreeMap<u64, &Candidate> =
            candidates.iter().filter(|candidate| candidate.is_near()).map(|near| (near.id, near)).collect();
        self.near = near.len();
        self.entries.retain(|id, _| near.contains_key(id));
        if self.spent.is_some_and(|spent| now.saturating_duration_since(spent.ended) < spent.rest) {
            return None;
        }
        let urgency = |candidate: &Candidate| match self.entries.get(&candidate.id) {
            None => (true, candidate.fullness()),
            Some(entry) => (false, candidate.fullness() * now.saturating_duration_since(entry.tried).as_secs_f64()),
        };
        let by_urgency = |a: &Candidate, b: &Candidate| {
            let (a, b) = (urgency(a), urgency(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        };
        // Of equals the one that came first.
        near.values()
            .map(|near| (**near, Reverse(near.id)))
            .max_by(|a, b| by_urgency(&a.0, &b.0).then(a.1.cmp(&b.1)))
            .map(|(next, _)| next)
    }

    /// Takes the outcome of a walk (`None`: it failed), what it cost of a core, and the share of a core
    /// that walks may have, in percent.
    pub fn note(&mut self, id: u64, found: Option<PortUse>, walk: Walk, percent: f64) {
        self.spent =
            Some(Spent { duration: walk.duration, rest: walk.cpu.mul_f64(100.0 / percent), ended: walk.ended });
        self.entries.insert(id, Entry { tried: walk.ended, found });
    }

    /// Whether any namespace is near its range, so that walks have their share of the passes' budget.
    #[must_use]
    pub fn are_wanted(&self) -> bool {
        self.near > 0
    }

    /// Results by namespace.
    #[must_use]
    pub fn found(&self) -> BTreeMap<u64, PortUse> {
        self.entries.iter().filter_map(|(id, entry)| Some((*id, entry.found.clone()?))).collect()
    }

    /// How the walks went; `None` while there are no results. `passes` is the time between two passes,
    /// in each of which one walk has room.
    #[must_use]
    pub fn pass(&self, passes: Duration) -> Option<WalkPass> {
        let spent = self.spent?;
        let oldest = self.entries.values().filter_map(|entry| Some(entry.found.as_ref()?.read)).min()?;
        let turns = u32::try_from(self.near).unwrap_or(u32::MAX);
        Some(WalkPass {
            duration: spent.duration,
            ended: oldest,
            interval: spent.rest.max(passes).saturating_mul(turns),
        })
    }
}

/// One walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// How long it took.
    pub duration: Duration,
    /// Processor time that it took.
    pub cpu: Duration,
    /// When it ended.
    pub ended: Instant,
}

#[cfg(test)]
mod tests;
