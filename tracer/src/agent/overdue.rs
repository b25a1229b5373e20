//! Drops that the packet rung has not told yet: a dropped handshake is known to be one when the next packet for a
//! listener comes to the same CPU, which may be never.
//!
//! Owns the memory of those that were shown early, so that none is shown twice. Takes readings of the map of
//! pending handshakes; gives the records that the programs will make of them, byte for byte.

use std::collections::VecDeque;

use tracer_ebpf::{
    counter::{DropReason, PendingHandshake},
    event::{Connection, Header, Kind, ListenDrop},
    state,
};
use zerocopy::IntoBytes;

use crate::pipeline::counters::OVERDUE_NS;

/// Records remembered. Each CPU has one that waits, and makes a record of it before the next one does.
const SHOWN_MAX: usize = 4096;

/// What was shown before its time.
#[derive(Debug, Default)]
pub struct Overdue(VecDeque<[u8; size_of::<ListenDrop>()]>);

impl Overdue {
    /// Records of the handshakes that have waited too long for any answer to come, each once.
    pub fn take(&mut self, pending: &[PendingHandshake], now_ns: u64) -> Vec<[u8; size_of::<ListenDrop>()]> {
        let is_dropped =
            |one: &&PendingHandshake| one.since_ns != 0 && now_ns.saturating_sub(one.since_ns) > OVERDUE_NS;
        let records = pending.iter().filter(is_dropped).map(record);
        let new: Vec<_> = records.filter(|record| !self.0.contains(record)).collect();
        for record in &new {
            if self.0.len() >= SHOWN_MAX {
                self.0.pop_front();
            }
            self.0.push_back(*record);
        }
        new
    }

    /// Whether a record from the ring was shown before.
    pub fn was_shown(&mut self, record: &[u8]) -> bool {
        let place = self.0.iter().position(|shown| shown.as_slice() == record);
        place.is_some_and(|place| self.0.remove(place).is_some())
    }
}

/// As `packet::resolve_as_dropped` makes it.
fn record(pending: &PendingHandshake) -> [u8; size_of::<ListenDrop>()] {
    let reason = DropReason::from_u8(pending.reason).filter(|reason| (*reason as u8) < DropReason::Other as u8);
    let drop = ListenDrop {
        header: Header {
            time_ns: pending.since_ns,
            netns: pending.listener.netns,
            cgroup: pending.listener.cgroup,
            kind: Kind::ListenDrop as u8,
            family: pending.family,
            state: state::LISTEN,
            zero: 0,
            netns_inum: pending.netns_inum,
        },
        connection: Connection {
            local: pending.local,
            remote: pending.remote,
            local_port: pending.listener.port,
            remote_port: pending.remote_port,
            zero: 0,
        },
        queue_length: pending.queue_length,
        queue_limit: pending.queue_limit,
        syn_queue_length: pending.syn_queue_length,
        reason: reason.unwrap_or(DropReason::Other) as u8,
        zero: [0; 3],
    };
    let mut bytes = [0; size_of::<ListenDrop>()];
    bytes.copy_from_slice(drop.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    const NOW: u64 = 10 * OVERDUE_NS;

    fn pending(since_ns: u64, remote_port: u16) -> PendingHandshake {
        PendingHandshake { since_ns, remote_port, ..PendingHandshake::new_zeroed() }
    }

    #[test]
    fn what_waits_too_long_is_shown_once() {
        let mut overdue = Overdue::default();
        let waiting = [pending(0, 0), pending(5, 1), pending(NOW - 1, 2)];
        let shown = overdue.take(&waiting, NOW);
        assert_eq!(shown, [record(&waiting[1])]);
        assert!(overdue.take(&waiting, NOW).is_empty());
        assert!(!overdue.was_shown(&record(&waiting[2])));
        assert!(overdue.was_shown(&shown[0]), "the programs' own record of it");
        assert!(!overdue.was_shown(&shown[0]), "which comes once");
    }

    #[test]
    fn the_record_says_what_was_pending() {
        let waiting =
            PendingHandshake { queue_length: 6, queue_limit: 5, reason: 1, netns_inum: 77, ..pending(5, 4711) };
        let event = crate::pipeline::decode::decode(&record(&waiting)).unwrap();
        assert_eq!((event.time_ns, event.netns_inum, event.state), (5, 77, "LISTEN"));
        assert_eq!(event.remote.map(|end| end.port), Some(4711));
        let detail = crate::pipeline::decode::Detail::ListenDrop {
            reason: "accept_queue_full_ack",
            queue_length: 6,
            queue_limit: 5,
            syn_queue_length: 0,
        };
        assert_eq!(event.detail, detail);
    }
}
