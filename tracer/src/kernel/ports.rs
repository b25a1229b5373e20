//! The maps of the port pass: prepared before a walk, read and emptied after it.
//!
//! Owns their descriptors. Knows nothing of namespaces and budgets; the worker says when.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use tracer_ebpf::destination::{DestinationKey, DestinationUse, PORT_WORDS, PortWalk};
use zerocopy::FromZeros as _;

use super::{
    load::LoadError,
    maps::Fill,
    sys::{Map, Update},
};

/// Duplicated descriptors of the maps.
#[derive(Debug)]
pub struct PortMaps {
    destinations: OwnedFd,
    walk: OwnedFd,
}

/// What a walk left beside the destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Sockets of destinations that found no room.
    pub refused: u32,
    /// No such destination has more sockets than this.
    pub refused_most: u32,
    /// A bit for each port that no connect() is given, as [`PortWalk::bound`] has it.
    pub bound: Box<[u64; PORT_WORDS]>,
    /// How full the map was.
    pub fill: Fill,
}

impl PortMaps {
    /// Opens the maps through `fd`, which finds one by its name in the object.
    pub fn open(mut fd: impl FnMut(&'static str) -> Result<OwnedFd, LoadError>) -> Result<Self, LoadError> {
        Ok(Self { destinations: fd("DESTINATIONS")?, walk: fd("PORT_WALK")? })
    }

    fn map_destinations(&self) -> io::Result<Map<'_, DestinationKey, DestinationUse>> {
        Map::new(self.destinations.as_fd())
    }

    fn map_walk(&self) -> io::Result<Map<'_, u32, PortWalk>> {
        Map::new(self.walk.as_fd())
    }

    /// Empties what a walk that failed may have left, and tells the next one its range.
    pub fn prepare(&self, (first, last): (u16, u16)) -> io::Result<()> {
        self.map_destinations()?.drain(|_| {})?;
        let mut walk = PortWalk::new_zeroed();
        (walk.first, walk.last) = (first, last);
        self.map_walk()?.update(&0, &walk, Update::Any)
    }

    /// Takes the destinations of the last walk out of the map, one by one: they may be many.
    pub fn collect(&self, mut each: impl FnMut(&DestinationKey, DestinationUse)) -> io::Result<Walked> {
        let map = self.map_destinations()?;
        let mut entries = 0;
        map.drain(|(key, usage)| {
            entries += 1;
            each(&key, usage);
        })?;
        let walk = self.map_walk()?.lookup(&0)?.ok_or_else(|| io::Error::other("an array without its entry"))?;
        Ok(Walked {
            bound: Box::new(walk.bound),
            refused: walk.refused,
            refused_most: walk.refused_slots.into_iter().max().unwrap_or(0),
            fill: Fill { map: "destinations", entries, capacity: map.max_entries() },
        })
    }
}
