//! Ring records: one struct per kind, all beginning with [`Header`].
//!
//! A record is a copy with detail for people. No metric depends on it: losing one loses detail,
//! and the loss is counted in [`crate::counter::EventTally`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire_enum;

wire_enum! {
    /// Kinds of ring records.
    Kind {
        /// A listener dropped a handshake: [`ListenDrop`].
        ListenDrop = 0, "listen_drop";
        /// A segment was sent again: [`Retransmit`].
        Retransmit = 1, "retransmit";
        /// A SYN-ACK was sent again: [`SynackRetransmit`].
        SynackRetransmit = 2, "synack_retransmit";
        /// A `connect()` failed, or needed more than one SYN: [`Connect`].
        Connect = 3, "connect";
        /// A socket could not enter TIME_WAIT: [`TimeWaitOverflow`].
        TimeWaitOverflow = 4, "time_wait_overflow";
        /// A listener opened or closed: [`Listen`].
        Listen = 5, "listen";
        /// A reset was sent, or came: [`Reset`].
        Reset = 6, "reset";
        /// A socket changed its state: [`State`]. Only where [`crate::settings::Settings::kinds`] asks for it.
        State = 7, "state";
    }
}

impl Kind {
    /// The kind as a bit of [`crate::settings::Settings::kinds`].
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// Size of the largest record in bytes.
pub const SIZE_MAX: usize = {
    let mut max = 0;
    let mut index = 0;
    while index < Kind::COUNT {
        let size = size_of_kind(Kind::ALL[index]);
        if size > max {
            max = size;
        }
        index += 1;
    }
    max
};

/// Size of a record of this kind in bytes.
#[must_use]
pub const fn size_of_kind(kind: Kind) -> usize {
    match kind {
        Kind::ListenDrop => size_of::<ListenDrop>(),
        Kind::Retransmit => size_of::<Retransmit>(),
        Kind::SynackRetransmit => size_of::<SynackRetransmit>(),
        Kind::Connect => size_of::<Connect>(),
        Kind::TimeWaitOverflow => size_of::<TimeWaitOverflow>(),
        Kind::Listen => size_of::<Listen>(),
        Kind::Reset => size_of::<Reset>(),
        Kind::State => size_of::<State>(),
    }
}

/// First bytes of every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// When it happened: `bpf_ktime_get_ns` (CLOCK_MONOTONIC), nanoseconds.
    pub time_ns: u64,
    /// Network namespace, as in [`crate::counter::ListenerKey::netns`].
    pub netns: u64,
    /// cgroup v2 id of the socket.
    pub cgroup: u64,
    /// [`Kind`].
    pub kind: u8,
    /// Address family of the connection: 2 = AF_INET, 10 = AF_INET6.
    pub family: u8,
    /// Socket state, numbered as in [`crate::state`].
    pub state: u8,
    /// Always zero.
    pub zero: u8,
    /// Inode number of the network namespace.
    pub netns_inum: u32,
}

/// The two ends of a connection. Addresses in network order, IPv4 as `::ffff:a.b.c.d`; all zero
/// where the hook cannot see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Connection {
    /// Local address.
    pub local: [u32; 4],
    /// Remote address.
    pub remote: [u32; 4],
    /// Local port, host order.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// Always zero.
    pub zero: u32,
}

/// A dropped SYN or handshake ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListenDrop {
    /// Common part.
    pub header: Header,
    /// Listener and client.
    pub connection: Connection,
    /// Accept-queue length at the drop, in connections.
    pub queue_length: u32,
    /// Accept-queue limit (`sk_max_ack_backlog`).
    pub queue_limit: u32,
    /// SYN-queue length at the drop.
    pub syn_queue_length: u32,
    /// [`crate::counter::DropReason`].
    pub reason: u8,
    /// Always zero.
    pub zero: [u8; 3],
}

/// A retransmitted segment (or several under one GSO header).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Retransmit {
    /// Common part.
    pub header: Header,
    /// The connection.
    pub connection: Connection,
    /// Segments sent again (`tcp_gso_segs`).
    pub segments: u32,
    /// 0, or the errno with which the attempt failed (kernel ≥ 6.17).
    pub error: u16,
    /// [`crate::counter::RetransmitCause`].
    pub cause: u8,
    /// [`crate::counter::Role`].
    pub role: u8,
}

/// A SYN-ACK sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SynackRetransmit {
    /// Common part.
    pub header: Header,
    /// Listener and client.
    pub connection: Connection,
}

/// The end of a `connect()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Connect {
    /// Common part.
    pub header: Header,
    /// The connection.
    pub connection: Connection,
    /// SYNs sent again before this end.
    pub retries: u32,
    /// What the program was told or is to be told, 0 for nothing.
    pub error: u16,
    /// [`crate::counter::ConnectResult`].
    pub result: u8,
    /// Always zero.
    pub zero: u8,
}

/// A close that found the TIME_WAIT table full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TimeWaitOverflow {
    /// Common part.
    pub header: Header,
    /// The connection.
    pub connection: Connection,
    /// 1 = the kernel refused the TIME_WAIT socket; 0 = the table was at its limit at this close.
    pub confirmed: u8,
    /// Always zero.
    pub zero: [u8; 7],
}

/// A listener that opened or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Listen {
    /// Common part.
    pub header: Header,
    /// The bound address; the remote end is zero.
    pub connection: Connection,
    /// 1 = opened, 0 = closed.
    pub opened: u8,
    /// Always zero.
    pub zero: [u8; 3],
    /// Thread-group id of the caller of `listen()`, 0 at close.
    pub tgid: u32,
    /// Name of its thread-group leader.
    pub comm: [u8; 16],
}

/// A reset. Of one without a socket the hook sees neither end, and family, state and cgroup are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reset {
    /// Common part.
    pub header: Header,
    /// The connection.
    pub connection: Connection,
    /// [`crate::reset::Direction`].
    pub direction: u8,
    /// [`crate::reset::Reason`].
    pub reason: u8,
    /// Always zero.
    pub zero: [u8; 6],
}

/// A change of state, as the kernel made it. The header's state is the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct State {
    /// Common part.
    pub header: Header,
    /// The connection.
    pub connection: Connection,
    /// State before, numbered as in [`crate::state`].
    pub old: u8,
    /// State after.
    pub new: u8,
    /// Always zero.
    pub zero: [u8; 6],
}
