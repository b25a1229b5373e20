//! The check that ends every test: metric, kernel counter and the agent's own account of both
//! agree to the last unit, for every signal, in every namespace of the test.
//!
//! A comparison counts only if the kernel's counters stood still around the scrape. The sums may
//! take a few passes to close, but then they must stay closed.

use std::fmt::Write as _;
use std::time::Duration;

use super::agent::Agent;
use super::counters::{Counters, Watch};
use super::scrape::Scrape;
use super::wait::{equal, until};

/// Passes are 200 ms apart in most tests, and an unattributed count must stand in two of them; but
/// one that was slow under load puts off the next, because passes keep to a share of a core.
pub(crate) const CLOSING_LIMIT: Duration = Duration::from_secs(30);

/// Timers of half-open connections may fire during the check: seconds apart, and ever rarer.
const QUIET_ATTEMPTS: u32 = 6;

/// One signal: how the kernel counts it and which metric rows make up the same number.
struct Signal {
    /// Value of the label `signal`.
    name: &'static str,
    /// The kernel's counter.
    counter: &'static str,
    /// Metrics and label values (any of them) whose sum is the same.
    parts: &'static [Part],
}

/// Rows of one metric: all, or those with one of the given sets of label values.
struct Part {
    metric: &'static str,
    /// Empty = every row.
    labels: &'static [&'static [(&'static str, &'static str)]],
}

pub(crate) const DROPS: &str = "tracer_tcp_listen_drops_total";
pub(crate) const RETRANSMITS: &str = "tracer_tcp_retransmitted_segments_total";
pub(crate) const RETRANSMITS_FAILED: &str = "tracer_tcp_retransmits_failed_total";
pub(crate) const TIME_WAIT_OVERFLOWS: &str = "tracer_tcp_time_wait_overflows_total";
pub(crate) const TRANSITIONS: &str = "tracer_tcp_state_transitions_total";

const SIGNALS: &[Signal] = &[
    Signal { name: "listen_drops", counter: "ListenDrops", parts: &[Part { metric: DROPS, labels: &[] }] },
    Signal {
        name: "listen_overflows",
        counter: "ListenOverflows",
        parts: &[Part {
            metric: DROPS,
            labels: &[&[("reason", "accept_queue_full_syn")], &[("reason", "accept_queue_full_ack")]],
        }],
    },
    Signal {
        name: "syn_queue_full_drops",
        counter: "TCPReqQFullDrop",
        parts: &[Part { metric: DROPS, labels: &[&[("reason", "syn_queue_full")]] }],
    },
    // Attempts, as the kernel counts them: what did not leave the host is among them.
    Signal {
        name: "retransmitted_segments",
        counter: "RetransSegs",
        parts: &[Part { metric: RETRANSMITS, labels: &[] }],
    },
    Signal {
        name: "syn_retransmits",
        counter: "TCPSynRetrans",
        parts: &[Part { metric: RETRANSMITS, labels: &[&[("cause", "syn")]] }],
    },
    Signal {
        name: "retransmits_failed",
        counter: "TCPRetransFail",
        parts: &[Part { metric: RETRANSMITS_FAILED, labels: &[] }],
    },
    Signal {
        name: "time_wait_overflows",
        counter: "TCPTimeWaitOverflow",
        parts: &[Part { metric: TIME_WAIT_OVERFLOWS, labels: &[] }],
    },
    Signal {
        name: "passive_opens",
        counter: "PassiveOpens",
        parts: &[Part { metric: TRANSITIONS, labels: &[&[("from", "LISTEN"), ("to", "SYN_RECV")]] }],
    },
    Signal {
        name: "established_resets",
        counter: "EstabResets",
        parts: &[Part {
            metric: TRANSITIONS,
            labels: &[&[("from", "ESTABLISHED"), ("to", "CLOSE")], &[("from", "CLOSE_WAIT"), ("to", "CLOSE")]],
        }],
    },
];

/// The closing check, with what a test has a reason to expect differently.
pub(crate) struct Closing<'a> {
    agent: &'a Agent,
    watches: Vec<&'a Watch<'a>>,
    /// Drops that no hook can tell the reason of.
    unknown_drops: u64,
    /// Signals that are not asked for at all.
    exceptions: Vec<&'static str>,
}

/// Checks every signal of the namespaces; nothing may be unknown.
#[track_caller]
pub(crate) fn assert_closes(agent: &Agent, watches: &[&Watch<'_>]) {
    Closing::of(agent, watches).check();
}

impl<'a> Closing<'a> {
    pub(crate) fn of(agent: &'a Agent, watches: &[&'a Watch<'a>]) -> Self {
        Self { agent, watches: watches.to_vec(), unknown_drops: 0, exceptions: Vec::new() }
    }

    /// Expects exactly this many drops with the reason `unknown` over all namespaces.
    pub(crate) fn unknown_drops(mut self, count: u64) -> Self {
        self.unknown_drops = count;
        self
    }

    /// Leaves a signal out; the caller says why and checks it itself.
    pub(crate) fn without(mut self, signal: &'static str) -> Self {
        assert_known(signal);
        self.exceptions.push(signal);
        self
    }

    #[track_caller]
    pub(crate) fn check(&self) {
        self.agent.assert_sound();
        self.agent.sleep_two_passes();
        let limit = CLOSING_LIMIT.max(self.agent.pass_interval * 4);
        for _ in 0..QUIET_ATTEMPTS {
            until("metrics and kernel counters to agree", limit, || self.compare());
            let closed = self.read();
            self.agent.sleep_two_passes();
            let again = self.compare();
            if self.read() == closed {
                // Closed sums stay closed while nothing happens.
                again.unwrap_or_else(|reason| {
                    panic!("sums that had closed opened again\n{reason}\n{}", self.agent.log())
                });
                return;
            }
        }
        panic!("the kernel's counters never stood still for two passes");
    }

    fn read(&self) -> Vec<Counters> {
        self.watches.iter().map(|watch| Counters::read(watch.netns)).collect()
    }

    fn compare(&self) -> Result<(), String> {
        let before = self.read();
        let scrape = self.agent.scrape();
        if before != self.read() {
            return Err("the kernel's counters moved around the scrape".to_owned());
        }
        let mut faults = String::new();
        for signal in SIGNALS.iter().filter(|signal| !self.exceptions.contains(&signal.name)) {
            self.compare_signal(&scrape, signal, &before, &mut faults);
        }
        for watch in &self.watches {
            check_ports(&scrape, watch, &mut faults);
        }
        self.check_unknown(&scrape, &mut faults);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn compare_signal(&self, scrape: &Scrape, signal: &Signal, now: &[Counters], faults: &mut String) {
        let mut missing = 0;
        for (watch, now) in self.watches.iter().zip(now) {
            let kernel = watch.delta_of(now, signal.counter);
            let labels = [("netns", watch.inode.as_str()), ("signal", signal.name)];
            let account = scrape.one("tracer_kernel_count_total", &labels);
            let difference = scrape.one("tracer_count_difference", &labels);
            let sum = signal.sum(scrape, &watch.inode);
            let too_much = sum > kernel;
            missing += kernel.saturating_sub(sum);
            if too_much || account.as_ref() != Ok(&as_value(kernel)) || difference != Ok(0.0) {
                let _ = writeln!(
                    faults,
                    "{}: kernel {kernel}, metric {sum}, kernel_count {account:?}, difference {difference:?}",
                    signal.describe(watch),
                );
                faults.push_str(&signal.show(scrape, &watch.inode));
            }
        }
        // Series of closed listeners may have been removed; then their counts are here, whole.
        let retired = scrape.sum("tracer_retired_total", &[("signal", signal.name)]);
        if missing != 0 && missing != retired {
            for watch in &self.watches {
                let _ = writeln!(
                    faults,
                    "{}: the metric lacks {missing} of the kernel's count, {retired} were retired",
                    signal.describe(watch),
                );
                faults.push_str(&signal.show(scrape, &watch.inode));
            }
        }
    }

    fn check_unknown(&self, scrape: &Scrape, faults: &mut String) {
        let sum = |metric, label| -> u64 {
            self.watches
                .iter()
                .map(|watch| scrape.sum(metric, &[("netns", watch.inode.as_str()), (label, "unknown")]))
                .sum()
        };
        let drops = equal("drops for an unknown reason", &sum(DROPS, "reason"), &self.unknown_drops);
        let retransmits = equal("retransmits for an unknown cause", &sum(RETRANSMITS, "cause"), &0);
        for fault in [drops, retransmits].into_iter().filter_map(Result::err) {
            let _ = writeln!(faults, "{fault}");
        }
    }
}

fn assert_known(signal: &str) {
    assert!(SIGNALS.iter().any(|known| known.name == signal), "no signal {signal}");
}

/// No ephemeral port may become a label: there would be no end of series. The servers of the
/// tests all listen below the range.
fn check_ports(scrape: &Scrape, watch: &Watch<'_>, faults: &mut String) {
    let ephemeral = watch.netns.ephemeral_ports();
    for sample in scrape.with(&[("netns", &watch.inode)]) {
        if sample.label("port").parse().is_ok_and(|port| ephemeral.contains(&port)) {
            let _ = writeln!(faults, "an ephemeral port in a label: {sample:?}");
        }
    }
}

impl Signal {
    fn sum(&self, scrape: &Scrape, netns: &str) -> u64 {
        self.parts.iter().map(|part| part.sum(scrape, netns)).sum()
    }

    fn describe(&self, watch: &Watch<'_>) -> String {
        format!("netns {} ({}), {} = {}", watch.inode, watch.netns.name(), self.name, self.counter)
    }

    fn show(&self, scrape: &Scrape, netns: &str) -> String {
        self.parts.iter().map(|part| scrape.show(part.metric, &[("netns", netns)])).collect()
    }
}

impl Part {
    fn sum(&self, scrape: &Scrape, netns: &str) -> u64 {
        if self.labels.is_empty() {
            return scrape.sum(self.metric, &[("netns", netns)]);
        }
        let alternatives = self.labels.iter().map(|labels| {
            let mut wanted = vec![("netns", netns)];
            wanted.extend_from_slice(labels);
            scrape.sum(self.metric, &wanted)
        });
        alternatives.sum()
    }
}

/// What the agent says of one namespace's drops: its account of the kernel's count, what its rows add
/// up to, and the difference.
pub(crate) fn account_of_drops(agent: &Agent, watch: &Watch<'_>) -> Result<[i64; 3], String> {
    let scrape = agent.scrape();
    let signal = [("netns", watch.inode.as_str()), ("signal", "listen_drops")];
    let account = as_integer(scrape.one("tracer_kernel_count_total", &signal)?);
    let difference = as_integer(scrape.one("tracer_count_difference", &signal)?);
    Ok([account, scrape.sum(DROPS, &signal[..1]).cast_signed(), difference])
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
