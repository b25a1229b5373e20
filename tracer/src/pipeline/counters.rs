//! One reading of the maps, and its sums by namespace and signal. Pure.

use std::collections::HashMap;

use serde::Serialize;
use tracer_ebpf::{
    counter::{
        Counter, CounterKey, DropReason, ListenerKey, ListenerStats, NetnsSeen, PendingHandshake, RetransmitCause,
    },
    reset::Direction,
    state,
};

/// A handshake is judged within one softirq. Younger ones than this may still be under way, on a
/// virtual CPU that is kept waiting too. Below the shortest interval between two passes.
pub const OVERDUE_NS: u64 = 20_000_000;

/// One reading of all maps that count.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Rows of listeners.
    pub listeners: Vec<(ListenerKey, ListenerStats)>,
    /// Rows of workloads and namespaces.
    pub counters: Vec<(CounterKey, u64)>,
    /// Rows of what found no room under its own key.
    pub other: Vec<(CounterKey, u64)>,
    /// Namespaces that hooks have met, by id.
    pub netns: Vec<(u64, NetnsSeen)>,
    /// Handshakes that were dropped, but which the kernel side will count only with the next packet.
    pub pending: Vec<PendingHandshake>,
    /// Handshakes that were under way, or counted while the rows were read: the rows may have them or
    /// not, and the kernel may have dropped them or not.
    pub undecided: Vec<PendingHandshake>,
    /// Counts that found no room in any map, by kind: their namespace is lost.
    pub lost: Vec<(Counter, u64)>,
}

/// A signal that has a counter of the kernel to be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(usize)]
pub enum Closing {
    /// `ListenDrops`
    ListenDrops,
    /// `ListenOverflows`
    ListenOverflows,
    /// `TCPReqQFullDrop`
    SynQueueFullDrops,
    /// `RetransSegs`
    RetransmittedSegments,
    /// `TCPSynRetrans`
    SynRetransmits,
    /// `TCPRetransFail`
    RetransmitsFailed,
    /// `TCPTimeWaitOverflow`
    TimeWaitOverflows,
    /// `PassiveOpens`
    PassiveOpens,
    /// `EstabResets`
    EstablishedResets,
    /// `OutRsts`
    ResetsSent,
    /// `TCPAbortOnTimeout`
    ConnectionTimeouts,
}

impl Closing {
    /// All signals, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::ListenDrops,
        Self::ListenOverflows,
        Self::SynQueueFullDrops,
        Self::RetransmittedSegments,
        Self::SynRetransmits,
        Self::RetransmitsFailed,
        Self::TimeWaitOverflows,
        Self::PassiveOpens,
        Self::EstablishedResets,
        Self::ResetsSent,
        Self::ConnectionTimeouts,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The signal as a metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ListenDrops => "listen_drops",
            Self::ListenOverflows => "listen_overflows",
            Self::SynQueueFullDrops => "syn_queue_full_drops",
            Self::RetransmittedSegments => "retransmitted_segments",
            Self::SynRetransmits => "syn_retransmits",
            Self::RetransmitsFailed => "retransmits_failed",
            Self::TimeWaitOverflows => "time_wait_overflows",
            Self::PassiveOpens => "passive_opens",
            Self::EstablishedResets => "established_resets",
            Self::ResetsSent => "resets_sent",
            Self::ConnectionTimeouts => "connection_timeouts",
        }
    }

    /// Whether what no hook attributed gets a row of its own. The others are parts of those
    /// (`ListenOverflows` of `ListenDrops`).
    #[must_use]
    pub const fn has_unknown_row(self) -> bool {
        !matches!(self, Self::ListenOverflows | Self::SynQueueFullDrops | Self::SynRetransmits)
    }
}

/// One number for each signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals([u64; Closing::COUNT]);

impl Totals {
    /// The number of a signal.
    #[must_use]
    pub fn get(&self, signal: Closing) -> u64 {
        self.0[signal as usize]
    }

    /// Adds to a signal's number.
    pub fn add(&mut self, signal: Closing, n: u64) {
        self.0[signal as usize] += n;
    }

    /// Replaces a signal's number.
    pub fn set(&mut self, signal: Closing, n: u64) {
        self.0[signal as usize] = n;
    }

    /// Adds all numbers of `other`.
    pub fn add_all(&mut self, other: &Self) {
        for signal in Closing::ALL {
            self.add(signal, other.get(signal));
        }
    }

    fn add_drop(&mut self, reason: DropReason, n: u64) {
        self.add(Closing::ListenDrops, n);
        match reason {
            DropReason::AcceptQueueFullSyn | DropReason::AcceptQueueFullAck => self.add(Closing::ListenOverflows, n),
            DropReason::SynQueueFull => self.add(Closing::SynQueueFullDrops, n),
            DropReason::Other | DropReason::Unknown => {}
        }
    }

    fn add_synack_retransmits(&mut self, n: u64) {
        self.add(Closing::RetransmittedSegments, n);
        self.add(Closing::SynRetransmits, n);
    }

    /// What one listener's row adds up to.
    #[must_use]
    pub fn of_listener(stats: &ListenerStats) -> Self {
        let mut totals = Self::default();
        for (reason, n) in DropReason::ALL.iter().zip(stats.drops) {
            totals.add_drop(*reason, n);
        }
        totals.add_synack_retransmits(stats.synack_retransmits);
        totals
    }

    /// What one counter's row adds up to. Candidates for TIME_WAIT overflows count nothing until
    /// they are confirmed.
    #[must_use]
    pub fn of_counter(key: &CounterKey, n: u64) -> Self {
        let mut totals = Self::default();
        match Counter::from_u8(key.counter) {
            // The kernel counts an attempt before it knows whether it succeeds, and so do the hooks.
            Some(Counter::Retransmit) => {
                totals.add(Closing::RetransmittedSegments, n);
                if key.a == RetransmitCause::Syn as u8 {
                    totals.add(Closing::SynRetransmits, n);
                }
            }
            Some(Counter::RetransmitFailed) => totals.add(Closing::RetransmitsFailed, n),
            Some(Counter::TimeWaitOverflow) => totals.add(Closing::TimeWaitOverflows, n),
            Some(Counter::Transition) => totals.add_transitions(key.a, key.b, n),
            Some(Counter::ListenDrop) => {
                totals.add_drop(DropReason::from_u8(key.a).unwrap_or(DropReason::Unknown), n);
            }
            Some(Counter::SynackRetransmit) => totals.add_synack_retransmits(n),
            Some(Counter::Reset) if key.a == Direction::Sent as u8 => totals.add(Closing::ResetsSent, n),
            Some(Counter::ConnectionTimeout) => totals.add(Closing::ConnectionTimeouts, n),
            Some(
                Counter::ConnectRetries
                | Counter::ConnectRetriesSum
                | Counter::ConnectFailure
                | Counter::TimeWaitCandidate
                | Counter::Accepted
                | Counter::BindFailure
                | Counter::Reset,
            )
            | None => {}
        }
        totals
    }

    fn add_transitions(&mut self, old: u8, new: u8, n: u64) {
        const CLOSE_WAIT: u8 = 8;
        match (old, new) {
            // A child has the state of its listener at first: CLOSE, if that closes meanwhile on another CPU.
            (state::LISTEN | state::CLOSE, state::SYN_RECV) => self.add(Closing::PassiveOpens, n),
            (state::ESTABLISHED | CLOSE_WAIT, state::CLOSE) => self.add(Closing::EstablishedResets, n),
            _ => {}
        }
    }
}

impl Counts {
    /// Takes the handshakes that waited on each CPU before and after the rows were read. False if one
    /// that was dropped has been counted meanwhile, so that the rows may lack it.
    pub fn take_handshakes(&mut self, first: &[PendingHandshake], last: &[PendingHandshake], now_ns: u64) -> bool {
        let waits = |handshake: &&PendingHandshake| handshake.since_ns != 0;
        let is_dropped = |handshake: &PendingHandshake| now_ns.saturating_sub(handshake.since_ns) > OVERDUE_NS;
        let moved: Vec<_> = first
            .iter()
            .zip(last)
            .filter(|(first, last)| first.since_ns != last.since_ns)
            .map(|(first, _)| *first)
            .filter(|first| waits(&first))
            .collect();
        let is_consistent = !moved.iter().any(is_dropped);
        let (pending, young): (Vec<_>, Vec<_>) = last.iter().filter(waits).partition(|last| is_dropped(last));
        self.pending = pending;
        self.undecided = [moved, young].concat();
        is_consistent
    }

    /// Sums by namespace id: no less than what the kernel had counted when the reading began.
    #[must_use]
    pub fn totals_at_most(&self) -> HashMap<u64, Totals> {
        let mut sums = self.totals();
        add_handshakes(&mut sums, &self.undecided);
        sums
    }

    /// Sums by namespace id.
    #[must_use]
    pub fn totals(&self) -> HashMap<u64, Totals> {
        let mut sums: HashMap<u64, Totals> = HashMap::new();
        for (key, stats) in &self.listeners {
            sums.entry(key.netns).or_default().add_all(&Totals::of_listener(stats));
        }
        for (key, n) in self.counters.iter().chain(&self.other) {
            sums.entry(key.netns).or_default().add_all(&Totals::of_counter(key, *n));
        }
        add_handshakes(&mut sums, &self.pending);
        sums
    }

    /// The same without what the kernel side has yet to count.
    #[must_use]
    pub fn without_pending(&self) -> Self {
        Self { pending: Vec::new(), ..self.clone() }
    }

    /// Candidates for TIME_WAIT overflows by cgroup, of one namespace.
    #[must_use]
    pub fn time_wait_candidates(&self) -> HashMap<u64, Vec<(u64, u64)>> {
        let mut candidates: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
        for (key, n) in self.counters.iter().chain(&self.other) {
            if key.counter == Counter::TimeWaitCandidate as u8 {
                candidates.entry(key.netns).or_default().push((key.cgroup, *n));
            }
        }
        candidates
    }
}

fn add_handshakes(sums: &mut HashMap<u64, Totals>, handshakes: &[PendingHandshake]) {
    for pending in handshakes {
        let reason = DropReason::from_u8(pending.reason).unwrap_or(DropReason::Other);
        sums.entry(pending.listener.netns).or_default().add_drop(reason, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(netns: u64) -> ListenerKey {
        ListenerKey { netns, cgroup: 1, address: [0; 4], port: 80, zero: [0; 3] }
    }

    fn counter(netns: u64, counter: Counter, a: u8, b: u8) -> CounterKey {
        CounterKey { netns, cgroup: 1, port: 0, role: 0, counter: counter as u8, a, b, zero: 0 }
    }

    #[test]
    fn drops_count_by_reason_and_in_all() {
        let stats = ListenerStats { drops: [1, 2, 4, 8, 16], synack_retransmits: 3, ..ListenerStats::default() };
        let totals = Totals::of_listener(&stats);
        assert_eq!(totals.get(Closing::ListenDrops), 31);
        assert_eq!(totals.get(Closing::ListenOverflows), 3);
        assert_eq!(totals.get(Closing::SynQueueFullDrops), 4);
        assert_eq!(totals.get(Closing::RetransmittedSegments), 3);
        assert_eq!(totals.get(Closing::SynRetransmits), 3);
    }

    #[test]
    fn namespaces_are_kept_apart_and_other_rows_count() {
        let stats = ListenerStats { drops: [1, 0, 0, 0, 0], ..ListenerStats::default() };
        let counts = Counts {
            listeners: vec![(listener(1), stats), (listener(2), stats)],
            counters: vec![
                (counter(1, Counter::Retransmit, RetransmitCause::Syn as u8, 0), 5),
                (counter(1, Counter::Retransmit, RetransmitCause::Rto as u8, 0), 7),
                (counter(1, Counter::RetransmitFailed, 0, 0), 3),
                (counter(2, Counter::Transition, 10, 3), 8),
                (counter(2, Counter::Transition, 7, 3), 1),
                (counter(2, Counter::Transition, 8, 7), 2),
                (counter(2, Counter::TimeWaitCandidate, 0, 0), 50),
                (counter(2, Counter::Reset, Direction::Sent as u8, 2), 4),
                (counter(2, Counter::Reset, Direction::Received as u8, 23), 6),
                (counter(2, Counter::ConnectionTimeout, 3, 0), 2),
            ],
            other: vec![(counter(1, Counter::ListenDrop, DropReason::SynQueueFull as u8, 0), 11)],
            ..Counts::default()
        };
        let totals = counts.totals();
        assert_eq!(totals[&1].get(Closing::ListenDrops), 12);
        assert_eq!(totals[&1].get(Closing::SynQueueFullDrops), 11);
        assert_eq!(totals[&1].get(Closing::RetransmittedSegments), 12);
        assert_eq!(totals[&1].get(Closing::SynRetransmits), 5);
        assert_eq!(totals[&1].get(Closing::RetransmitsFailed), 3);
        assert_eq!(totals[&2].get(Closing::PassiveOpens), 9);
        assert_eq!(totals[&2].get(Closing::EstablishedResets), 2);
        assert_eq!(totals[&2].get(Closing::ConnectionTimeouts), 2);
        assert_eq!(totals[&2].get(Closing::ResetsSent), 4, "the kernel does not count those that came");
        assert_eq!(totals[&2].get(Closing::TimeWaitOverflows), 0, "a candidate is not an overflow");
        assert_eq!(counts.time_wait_candidates()[&2], vec![(1, 50)]);
    }

    fn handshake(since_ns: u64) -> PendingHandshake {
        PendingHandshake {
            listener: listener(3),
            since_ns,
            remote: [0; 4],
            local: [0; 4],
            queue_length: 6,
            queue_limit: 5,
            syn_queue_length: 0,
            netns_inum: 0,
            remote_port: 1,
            reason: DropReason::AcceptQueueFullSyn as u8,
            family: 2,
            answer_ack: 0,
        }
    }

    fn overflows((certain, at_most): (HashMap<u64, Totals>, HashMap<u64, Totals>)) -> (u64, u64) {
        let of = |totals: &HashMap<u64, Totals>| totals.get(&3).map_or(0, |sum| sum.get(Closing::ListenOverflows));
        (of(&certain), of(&at_most))
    }

    #[test]
    fn a_handshake_counts_once_it_is_overdue() {
        const NOW: u64 = 1_000_000_000;
        const YOUNG: u64 = NOW - 1_000;
        for (first, last, consistent, expected, what) in [
            (0, 0, true, (0, 0), "none"),
            (1, 1, true, (1, 1), "waits since long ago: dropped"),
            (YOUNG, YOUNG, true, (0, 1), "under way"),
            (YOUNG, 0, true, (0, 1), "answered, or counted in a row that was read before or after"),
            (YOUNG, YOUNG + 1, true, (0, 2), "the same, and another under way"),
            (1, 0, false, (0, 1), "dropped, and counted while the rows were read"),
            (NOW, NOW + 5, true, (0, 2), "younger than the clock's reading"),
        ] {
            let mut counts = Counts::default();
            assert_eq!(counts.take_handshakes(&[handshake(first)], &[handshake(last)], NOW), consistent, "{what}");
            assert_eq!(overflows((counts.totals(), counts.totals_at_most())), expected, "{what}");
        }
    }
}
