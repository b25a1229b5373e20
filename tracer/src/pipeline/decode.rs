//! Ring records to typed events. Pure: bytes in, event or the reason against it out.

use std::net::{IpAddr, Ipv6Addr};

use serde::Serialize;
use thiserror::Error;
use tracer_ebpf::{
    counter::{ConnectResult, DropReason, RetransmitCause, Role},
    event::{
        Connect, Connection, Header, Kind, Listen, ListenDrop, Reset, Retransmit, State, SynackRetransmit,
        TimeWaitOverflow,
    },
    reset, state,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Why a record was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Shorter than the common header.
    #[error("{0} bytes are too short for a header")]
    Header(usize),
    /// No such kind.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// The kind is known and the size is not its own.
    #[error("a {} record has {size} bytes", kind.name())]
    Size {
        /// The kind.
        kind: Kind,
        /// Bytes in the record.
        size: usize,
    },
    /// A number that stands for no value of its enum.
    #[error("a {} record holds an unknown value {value}", kind.name())]
    Value {
        /// The kind.
        kind: Kind,
        /// The value.
        value: u8,
    },
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// CLOCK_MONOTONIC in nanoseconds.
    pub time_ns: u64,
    /// Namespace id, as in the maps.
    pub netns: u64,
    /// Inode number of the namespace.
    pub netns_inum: u32,
    /// cgroup v2 id of the socket.
    pub cgroup: u64,
    /// Socket state.
    pub state: &'static str,
    /// Local end; `None` where the hook cannot see it.
    pub local: Option<Endpoint>,
    /// Remote end; `None` where the hook cannot see it.
    pub remote: Option<Endpoint>,
    /// What happened.
    #[serde(flatten)]
    pub detail: Detail,
}

/// One end of a connection. IPv4 is shown as such, also on an IPv6 socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
}

/// What happened, by kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Detail {
    /// A handshake was dropped.
    ListenDrop {
        /// Why.
        reason: &'static str,
        /// Accept-queue length, connections.
        queue_length: u32,
        /// Accept-queue limit.
        queue_limit: u32,
        /// SYN-queue length.
        syn_queue_length: u32,
    },
    /// A segment was sent again.
    Retransmit {
        /// Why.
        cause: &'static str,
        /// Which end we are.
        role: &'static str,
        /// Segments sent.
        segments: u32,
        /// errno of a failed attempt, 0 for none.
        error: u16,
    },
    /// A SYN-ACK was sent again.
    SynackRetransmit,
    /// A `connect()` ended.
    Connect {
        /// How.
        result: &'static str,
        /// SYNs sent again.
        retries: u32,
        /// `sk_err`, 0 for none.
        error: u16,
    },
    /// A close found the TIME_WAIT table full.
    TimeWaitOverflow {
        /// Whether the kernel is known to have refused the TIME_WAIT socket.
        confirmed: bool,
    },
    /// A listener opened or closed.
    Listen {
        /// Opened, else closed.
        opened: bool,
        /// Thread-group id of the caller of `listen()`.
        tgid: u32,
        /// Its leader's name.
        process: String,
    },
    /// A connection was reset.
    Reset {
        /// Which way.
        direction: &'static str,
        /// Why, as far as can be told.
        reason: &'static str,
    },
    /// A socket changed its state.
    State {
        /// Before.
        old: &'static str,
        /// After.
        new: &'static str,
    },
}

impl Detail {
    /// The event's kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::ListenDrop { .. } => Kind::ListenDrop,
            Self::Retransmit { .. } => Kind::Retransmit,
            Self::SynackRetransmit => Kind::SynackRetransmit,
            Self::Connect { .. } => Kind::Connect,
            Self::TimeWaitOverflow { .. } => Kind::TimeWaitOverflow,
            Self::Listen { .. } => Kind::Listen,
            Self::Reset { .. } => Kind::Reset,
            Self::State { .. } => Kind::State,
        }
    }
}

/// Decodes one ring record.
pub fn decode(record: &[u8]) -> Result<Event, DecodeError> {
    let (header, _) = Header::read_from_prefix(record).map_err(|_| DecodeError::Header(record.len()))?;
    let kind = Kind::from_u8(header.kind).ok_or(DecodeError::Kind(header.kind))?;
    let (connection, detail) = match kind {
        Kind::ListenDrop => listen_drop(&sized(kind, record)?)?,
        Kind::Retransmit => retransmit(&sized(kind, record)?)?,
        Kind::SynackRetransmit => (sized::<SynackRetransmit>(kind, record)?.connection, Detail::SynackRetransmit),
        Kind::Connect => connect(&sized(kind, record)?)?,
        Kind::TimeWaitOverflow => {
            let record: TimeWaitOverflow = sized(kind, record)?;
            (record.connection, Detail::TimeWaitOverflow { confirmed: record.confirmed != 0 })
        }
        Kind::Listen => listen(&sized(kind, record)?),
        Kind::Reset => reset_of(&sized(kind, record)?)?,
        Kind::State => {
            let record: State = sized(kind, record)?;
            (record.connection, Detail::State { old: state::name(record.old), new: state::name(record.new) })
        }
    };
    Ok(Event {
        time_ns: header.time_ns,
        netns: header.netns,
        netns_inum: header.netns_inum,
        cgroup: header.cgroup,
        state: state::name(header.state),
        local: endpoint(&connection.local, connection.local_port),
        remote: endpoint(&connection.remote, connection.remote_port),
        detail,
    })
}

fn sized<T: FromBytes + KnownLayout + Immutable>(kind: Kind, record: &[u8]) -> Result<T, DecodeError> {
    T::read_from_bytes(record).map_err(|_| DecodeError::Size { kind, size: record.len() })
}

fn listen_drop(record: &ListenDrop) -> Result<(Connection, Detail), DecodeError> {
    let unknown = DecodeError::Value { kind: Kind::ListenDrop, value: record.reason };
    let detail = Detail::ListenDrop {
        reason: DropReason::from_u8(record.reason).ok_or(unknown)?.name(),
        queue_length: record.queue_length,
        queue_limit: record.queue_limit,
        syn_queue_length: record.syn_queue_length,
    };
    Ok((record.connection, detail))
}

fn retransmit(record: &Retransmit) -> Result<(Connection, Detail), DecodeError> {
    let unknown = |value| DecodeError::Value { kind: Kind::Retransmit, value };
    let detail = Detail::Retransmit {
        cause: RetransmitCause::from_u8(record.cause).ok_or(unknown(record.cause))?.name(),
        role: Role::from_u8(record.role).ok_or(unknown(record.role))?.name(),
        segments: record.segments,
        error: record.error,
    };
    Ok((record.connection, detail))
}

fn connect(record: &Connect) -> Result<(Connection, Detail), DecodeError> {
    let unknown = DecodeError::Value { kind: Kind::Connect, value: record.result };
    let detail = Detail::Connect {
        result: ConnectResult::from_u8(record.result).ok_or(unknown)?.name(),
        retries: record.retries,
        error: record.error,
    };
    Ok((record.connection, detail))
}

fn listen(record: &Listen) -> (Connection, Detail) {
    let end = record.comm.iter().position(|&byte| byte == 0).unwrap_or(record.comm.len());
    let detail = Detail::Listen {
        opened: record.opened != 0,
        tgid: record.tgid,
        process: String::from_utf8_lossy(&record.comm[..end]).into_owned(),
    };
    (record.connection, detail)
}

fn reset_of(record: &Reset) -> Result<(Connection, Detail), DecodeError> {
    let unknown = |value| DecodeError::Value { kind: Kind::Reset, value };
    let detail = Detail::Reset {
        direction: reset::Direction::from_u8(record.direction).ok_or(unknown(record.direction))?.name(),
        reason: reset::Reason::from_u8(record.reason).ok_or(unknown(record.reason))?.name(),
    };
    Ok((record.connection, detail))
}

fn endpoint(address: &[u32; 4], port: u16) -> Option<Endpoint> {
    let address = ip_address(address);
    // A wildcard without a port says nothing, as which a listener has its other end.
    let seen = port != 0 || !address.is_unspecified();
    seen.then_some(Endpoint { address, port })
}

/// The 16-byte form of the wire as an address; `::ffff:a.b.c.d` becomes `a.b.c.d`.
#[must_use]
pub fn ip_address(address: &[u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (place, word) in bytes.chunks_exact_mut(4).zip(address) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(bytes).to_canonical()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracer_ebpf::event::SIZE_MAX;
    use zerocopy::IntoBytes;

    use super::*;

    fn header(kind: Kind) -> Header {
        Header { time_ns: 1, netns: 2, cgroup: 3, kind: kind as u8, family: 2, state: 10, zero: 0, netns_inum: 4 }
    }

    fn v4(a: u8, b: u8, c: u8, d: u8) -> [u32; 4] {
        [0, 0, 0xffff_0000, u32::from_ne_bytes([a, b, c, d])]
    }

    fn drop_record(reason: u8) -> ListenDrop {
        ListenDrop {
            header: header(Kind::ListenDrop),
            connection: Connection {
                local: [0; 4],
                remote: v4(10, 0, 0, 2),
                local_port: 80,
                remote_port: 4711,
                zero: 0,
            },
            queue_length: 6,
            queue_limit: 5,
            syn_queue_length: 1,
            reason,
            zero: [0; 3],
        }
    }

    #[test]
    fn a_drop_comes_out_whole() {
        let event = decode(drop_record(0).as_bytes()).unwrap();
        assert_eq!(event.state, "LISTEN");
        assert_eq!(event.local.unwrap().address.to_string(), "::");
        assert_eq!(event.remote.unwrap().address.to_string(), "10.0.0.2");
        assert_eq!(event.remote.unwrap().port, 4711);
        let detail = Detail::ListenDrop {
            reason: "accept_queue_full_syn",
            queue_length: 6,
            queue_limit: 5,
            syn_queue_length: 1,
        };
        assert_eq!(event.detail, detail);
    }

    #[test]
    fn an_end_that_the_hook_cannot_see_is_absent() {
        let mut record = drop_record(0);
        record.connection.remote = [0; 4];
        record.connection.remote_port = 0;
        assert_eq!(decode(record.as_bytes()).unwrap().remote, None);
        record.connection.remote = v4(0, 0, 0, 0);
        assert_eq!(decode(record.as_bytes()).unwrap().remote, None);
    }

    #[test]
    fn each_fault_has_its_error() {
        assert_eq!(decode(&[0; 3]), Err(DecodeError::Header(3)));
        let mut record = drop_record(0);
        record.header.kind = 200;
        assert_eq!(decode(record.as_bytes()), Err(DecodeError::Kind(200)));
        let record = drop_record(0);
        let short = &record.as_bytes()[..64];
        assert_eq!(decode(short), Err(DecodeError::Size { kind: Kind::ListenDrop, size: 64 }));
        let unknown = DecodeError::Value { kind: Kind::ListenDrop, value: 99 };
        assert_eq!(decode(drop_record(99).as_bytes()), Err(unknown));
    }

    #[test]
    fn every_kind_decodes_at_its_size() {
        for &kind in Kind::ALL {
            let mut record = vec![0; tracer_ebpf::event::size_of_kind(kind)];
            record[..size_of::<Header>()].copy_from_slice(header(kind).as_bytes());
            assert_eq!(decode(&record).unwrap().detail.kind(), kind);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..SIZE_MAX * 2)) {
            let _ = decode(&bytes);
        }
    }
}
