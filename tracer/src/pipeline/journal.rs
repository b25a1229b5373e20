//! The last events, for `/status`, and what could not be decoded. Bounded; no I/O.

use std::collections::{HashMap, VecDeque};

use tracer_ebpf::event::Kind;

use super::decode::{DecodeError, Event};

/// Events kept. Enough for a screen of the live view; a node under fire makes more each millisecond.
const EVENTS_MAX: usize = 256;

/// Recent events and decode losses.
#[derive(Debug, Default)]
pub struct Journal {
    recent: VecDeque<Event>,
    losses: Losses,
}

/// How many records could not be decoded, by kind.
#[derive(Clone, Debug, Default)]
pub struct Losses(HashMap<Option<Kind>, u64>);

impl Losses {
    /// Those of a kind; `None` = of no known kind.
    #[must_use]
    pub fn of(&self, kind: Option<Kind>) -> u64 {
        self.0.get(&kind).copied().unwrap_or(0)
    }
}

impl Journal {
    /// Takes the result of decoding one record.
    pub fn record(&mut self, decoded: Result<Event, DecodeError>) {
        match decoded {
            Ok(event) => {
                if self.recent.len() == EVENTS_MAX {
                    self.recent.pop_front();
                }
                self.recent.push_back(event);
            }
            Err(error) => *self.losses.0.entry(kind_of(error)).or_default() += 1,
        }
    }

    /// The last `n` events, newest first.
    pub fn newest(&self, n: usize) -> impl Iterator<Item = &Event> {
        self.recent.iter().rev().take(n)
    }

    /// Records that could not be decoded.
    #[must_use]
    pub fn losses(&self) -> &Losses {
        &self.losses
    }
}

fn kind_of(error: DecodeError) -> Option<Kind> {
    match error {
        DecodeError::Header(_) | DecodeError::Kind(_) => None,
        DecodeError::Size { kind, .. } | DecodeError::Value { kind, .. } => Some(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::decode::Detail;

    fn event(time_ns: u64) -> Event {
        Event {
            time_ns,
            netns: 1,
            netns_inum: 1,
            cgroup: 1,
            state: "LISTEN",
            local: None,
            remote: None,
            detail: Detail::SynackRetransmit,
        }
    }

    #[test]
    fn keeps_the_newest_and_no_more() {
        let mut journal = Journal::default();
        for time in 0..1000 {
            journal.record(Ok(event(time)));
        }
        assert_eq!(journal.newest(2).map(|event| event.time_ns).collect::<Vec<_>>(), vec![999, 998]);
        assert_eq!(journal.newest(usize::MAX).count(), EVENTS_MAX);
    }

    #[test]
    fn counts_what_it_cannot_decode() {
        let mut journal = Journal::default();
        journal.record(Err(DecodeError::Kind(77)));
        journal.record(Err(DecodeError::Size { kind: Kind::Connect, size: 1 }));
        journal.record(Err(DecodeError::Size { kind: Kind::Connect, size: 2 }));
        assert_eq!(journal.losses().of(None), 1);
        assert_eq!(journal.losses().of(Some(Kind::Connect)), 2);
        assert_eq!(journal.newest(1).count(), 0);
    }
}
