//! The equations that must hold in every namespace: a counter of the kernel on one side, rows of
//! metrics on the other. Pure; what may differ on which rung is [`super::closing`]'s business.

use super::counters::Watch;
use super::scrape::{Sample, Scrape};

pub(crate) const DROPS: &str = "tracer_tcp_listen_drops_total";
pub(crate) const RETRANSMITS: &str = "tracer_tcp_retransmitted_segments_total";
pub(crate) const RETRANSMITS_FAILED: &str = "tracer_tcp_retransmits_failed_total";
pub(crate) const TIME_WAIT_OVERFLOWS: &str = "tracer_tcp_time_wait_overflows_total";
pub(crate) const TRANSITIONS: &str = "tracer_tcp_state_transitions_total";
pub(crate) const RESETS: &str = "tracer_tcp_resets_total";
pub(crate) const TIMEOUTS: &str = "tracer_tcp_connection_timeouts_total";
pub(crate) const MISSED_RUNS: &str = "tracer_program_missed_runs_total";

/// One equation: how the kernel counts a signal and which metric rows make up the same number.
pub(super) struct Equation {
    /// Value of the label `signal`.
    pub(super) signal: &'static str,
    /// The kernel's counter.
    pub(super) counter: &'static str,
    /// Metrics and label values (any of them) whose sum is the same.
    parts: &'static [Part],
}

/// Rows of one metric: all, or those with one of the given sets of label values.
struct Part {
    metric: &'static str,
    /// Empty = every row.
    labels: &'static [&'static [(&'static str, &'static str)]],
}

/// All drops, and the parts of them that the kernel counts.
pub(super) const DROP_SIGNALS: [&str; 3] = ["listen_drops", "listen_overflows", "syn_queue_full_drops"];

pub(super) const EQUATIONS: &[Equation] = &[
    Equation { signal: "listen_drops", counter: "ListenDrops", parts: &[Part { metric: DROPS, labels: &[] }] },
    Equation {
        signal: "listen_overflows",
        counter: "ListenOverflows",
        parts: &[Part {
            metric: DROPS,
            labels: &[&[("reason", "accept_queue_full_syn")], &[("reason", "accept_queue_full_ack")]],
        }],
    },
    Equation {
        signal: "syn_queue_full_drops",
        counter: "TCPReqQFullDrop",
        parts: &[Part { metric: DROPS, labels: &[&[("reason", "syn_queue_full")]] }],
    },
    // Attempts, as the kernel counts them: what did not leave the host is among them.
    Equation {
        signal: "retransmitted_segments",
        counter: "RetransSegs",
        parts: &[Part { metric: RETRANSMITS, labels: &[] }],
    },
    Equation {
        signal: "syn_retransmits",
        counter: "TCPSynRetrans",
        parts: &[Part { metric: RETRANSMITS, labels: &[&[("cause", "syn")]] }],
    },
    Equation {
        signal: "retransmits_failed",
        counter: "TCPRetransFail",
        parts: &[Part { metric: RETRANSMITS_FAILED, labels: &[] }],
    },
    Equation {
        signal: "time_wait_overflows",
        counter: "TCPTimeWaitOverflow",
        parts: &[Part { metric: TIME_WAIT_OVERFLOWS, labels: &[] }],
    },
    Equation {
        signal: "passive_opens",
        counter: "PassiveOpens",
        parts: &[Part {
            metric: TRANSITIONS,
            labels: &[
                &[("from", "LISTEN"), ("to", "SYN_RECV")],
                &[("from", "CLOSE"), ("to", "SYN_RECV")],
                &[("from", "unknown"), ("to", "SYN_RECV")],
            ],
        }],
    },
    Equation {
        signal: "established_resets",
        counter: "EstabResets",
        parts: &[Part {
            metric: TRANSITIONS,
            labels: &[
                &[("from", "ESTABLISHED"), ("to", "CLOSE")],
                &[("from", "CLOSE_WAIT"), ("to", "CLOSE")],
                &[("from", "unknown"), ("to", "CLOSE")],
            ],
        }],
    },
    Equation {
        signal: "resets_sent",
        counter: "OutRsts",
        parts: &[Part { metric: RESETS, labels: &[&[("direction", "sent")]] }],
    },
    Equation {
        signal: "connection_timeouts",
        counter: "TCPAbortOnTimeout",
        parts: &[Part { metric: TIMEOUTS, labels: &[] }],
    },
];

impl Equation {
    pub(super) fn sum(&self, scrape: &Scrape, netns: &str) -> u64 {
        self.parts.iter().flat_map(|part| part.rows(scrape, netns)).map(Sample::count).sum()
    }

    /// The same without what has the reason `unknown`.
    pub(super) fn told(&self, scrape: &Scrape, netns: &str) -> u64 {
        let rows = self.parts.iter().flat_map(|part| part.rows(scrape, netns));
        rows.filter(|row| row.label("reason") != "unknown").map(Sample::count).sum()
    }

    /// Whether the kernel counts the same events in another counter too: then what no hook told is in the unknown row of
    /// that one, and here it is a difference.
    pub(super) fn is_part(&self) -> bool {
        self.whole().is_some()
    }

    /// How many events of the whole are of an unknown kind in a namespace: so many may be lacking here.
    pub(super) fn unknown_of_the_whole(&self, scrape: &Scrape, netns: &str) -> u64 {
        let of = |(metric, label)| scrape.sum(metric, &[("netns", netns), (label, "unknown")]);
        self.whole().map_or(0, of)
    }

    /// The metric that the signal is a part of, and its label of kinds.
    fn whole(&self) -> Option<(&'static str, &'static str)> {
        match self.signal {
            "listen_overflows" | "syn_queue_full_drops" => Some((DROPS, "reason")),
            "syn_retransmits" => Some((RETRANSMITS, "cause")),
            _ => None,
        }
    }

    /// How many rows make up the sum.
    pub(super) fn rows(&self, scrape: &Scrape, netns: &str) -> usize {
        self.parts.iter().map(|part| part.rows(scrape, netns).count()).sum()
    }

    /// The agent's account of the kernel's count, what its rows add up to, and the difference.
    pub(super) fn account(
        &self,
        scrape: &Scrape,
        watch: &Watch<'_>,
    ) -> (Result<i64, String>, i64, Result<i64, String>) {
        let labels = [("netns", watch.inode.as_str()), ("signal", self.signal)];
        let value = |metric| scrape.one(metric, &labels).map(as_integer);
        let sum = self.sum(scrape, &watch.inode).cast_signed();
        (value("tracer_kernel_count_total"), sum, value("tracer_count_difference"))
    }

    pub(super) fn describe(&self, watch: &Watch<'_>) -> String {
        format!("netns {} ({}), {} = {}", watch.inode, watch.netns.name(), self.signal, self.counter)
    }

    pub(super) fn show(&self, scrape: &Scrape, netns: &str) -> String {
        self.parts.iter().map(|part| scrape.show(part.metric, &[("netns", netns)])).collect()
    }
}

impl Part {
    fn rows<'a>(&'a self, scrape: &'a Scrape, netns: &'a str) -> impl Iterator<Item = &'a Sample> {
        let fits = |row: &&Sample| {
            let has = |labels: &&[(&str, &str)]| labels.iter().all(|(name, value)| row.label(name) == *value);
            self.labels.is_empty() || self.labels.iter().any(has)
        };
        scrape.rows(self.metric, &[]).filter(move |row| row.label("netns") == netns).filter(fits)
    }
}

/// The value of a gauge that counts and may be negative.
#[expect(clippy::cast_possible_truncation, reason = "checked before the cast")]
fn as_integer(value: f64) -> i64 {
    assert!(value.fract() == 0.0 && value.abs() < 9e15, "not an integer: {value}");
    value as i64
}

/// A count as the exposition format carries it.
#[expect(clippy::cast_precision_loss, reason = "test counts stay far below 2^53")]
pub(crate) fn as_value(count: u64) -> f64 {
    count as f64
}
