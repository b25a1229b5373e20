//! Kinds of events by the words that users type and read.

use clap::ValueEnum;
use tracer_ebpf::event::Kind;

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum EventKind {
    /// A listener dropped a SYN or the last ACK of a handshake
    Drop,
    /// A segment was sent again
    Retransmit,
    /// A SYN-ACK was sent again
    Synack,
    /// A connect() failed, or needed more than one SYN
    Connect,
    /// A close found the TIME_WAIT table full
    TimeWait,
    /// A listener opened or closed
    Listen,
    /// A reset was sent or received
    Reset,
    /// A socket changed its state, as each connection does some ten times
    State,
}

impl EventKind {
    /// Kinds that are shown live unless others are asked for; a busy node changes states all the time.
    pub const USUAL: &[Self] =
        &[Self::Drop, Self::Retransmit, Self::Synack, Self::Connect, Self::TimeWait, Self::Listen, Self::Reset];

    /// The word for a kind of record.
    #[must_use]
    pub const fn of(kind: Kind) -> Self {
        match kind {
            Kind::ListenDrop => Self::Drop,
            Kind::Retransmit => Self::Retransmit,
            Kind::SynackRetransmit => Self::Synack,
            Kind::Connect => Self::Connect,
            Kind::TimeWaitOverflow => Self::TimeWait,
            Kind::Listen => Self::Listen,
            Kind::Reset => Self::Reset,
            Kind::State => Self::State,
        }
    }

    /// The kind of record.
    #[must_use]
    pub const fn wire(self) -> Kind {
        match self {
            Self::Drop => Kind::ListenDrop,
            Self::Retransmit => Kind::Retransmit,
            Self::Synack => Kind::SynackRetransmit,
            Self::Connect => Kind::Connect,
            Self::TimeWait => Kind::TimeWaitOverflow,
            Self::Listen => Kind::Listen,
            Self::Reset => Kind::Reset,
            Self::State => Kind::State,
        }
    }

    /// The word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Retransmit => "retransmit",
            Self::Synack => "synack",
            Self::Connect => "connect",
            Self::TimeWait => "time_wait",
            Self::Listen => "listen",
            Self::Reset => "reset",
            Self::State => "state",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_word_which_is_the_one_to_type() {
        for &kind in Kind::ALL {
            let word = EventKind::of(kind);
            assert_eq!(word.wire(), kind);
            assert_eq!(EventKind::from_str(word.name(), false), Ok(word));
            assert_eq!(EventKind::USUAL.contains(&word), kind != Kind::State);
        }
        assert_eq!(EventKind::value_variants().len(), Kind::COUNT);
    }
}
