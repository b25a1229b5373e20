//! What the walk over one namespace's sockets counts: ephemeral ports by destination.
//!
//! Owns the layout of the map of destinations and of the state that a walk keeps. Written by
//! `probes::ports`, read and emptied by the agent after each walk.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Slots in which sockets of destinations without room are counted, by a hash of the destination. A
/// power of two, so that the verifier sees the index's bound. 4 096 of them keep a hundred thousand
/// such sockets, spread evenly, to some dozens a slot.
pub const REFUSED_SLOTS: usize = 4096;

/// A bit for each port.
pub const PORT_WORDS: usize = 65_536 / 64;

/// The one kind of thing that has a range of ephemeral ports to itself: no two of its sockets can have
/// one local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DestinationKey {
    /// Local address, network order; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u32; 4],
    /// Remote address, likewise.
    pub destination: [u32; 4],
    /// Remote port, host order.
    pub port: u16,
    /// Always zero: padding would be part of the key.
    pub zero: u16,
}

/// Sockets towards one [`DestinationKey`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DestinationUse {
    /// Local ports in use, which are as many as sockets.
    pub used: u32,
    /// Those of them in `TIME_WAIT`. (The kernel keeps FIN_WAIT2 in the same small socket for a while;
    /// that is not counted here.)
    pub time_wait: u32,
    /// Those whose port is taken from every destination (see [`PortWalk::bound`]).
    pub bound: u32,
}

/// What one walk is told and what it leaves, beside the destinations.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortWalk {
    /// Ports that somebody listens on. Listeners come first in a walk.
    pub listening: [u64; PORT_WORDS],
    /// Ports of the range that `bind()` or `listen()` took: `connect()` gives none of them out, whatever the destination.
    pub bound: [u64; PORT_WORDS],
    /// Sockets that found no room in the map of destinations, by a hash of theirs: none of these
    /// destinations has more sockets than its slot.
    pub refused_slots: [u32; REFUSED_SLOTS],
    /// Sockets with an ephemeral port, towards any destination.
    pub counted: u32,
    /// Those of them that found no room.
    pub refused: u32,
    /// First port of `ip_local_port_range`.
    pub first: u16,
    /// Last port of it.
    pub last: u16,
    /// Always zero.
    pub zero: u32,
}

const _: () = assert!(REFUSED_SLOTS.is_power_of_two());
const _: () = assert!(size_of::<DestinationKey>() == 36);
const _: () = assert!(size_of::<DestinationUse>() == 12);
const _: () = assert!(size_of::<PortWalk>() == 2 * 8 * PORT_WORDS + 4 * REFUSED_SLOTS + 16);
