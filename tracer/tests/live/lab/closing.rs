//! The check that ends every test: metric, kernel counter and the agent's own account of both
//! agree to the last unit, for every signal, in every namespace of the test.
//!
//! A comparison counts only if the kernel's counters stood still around the scrape. The sums may
//! take a few passes to close, but then they must stay closed.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::Duration;

use super::agent::Agent;
use super::counters::{Counters, Watch};
use super::equations::{
    DROP_SIGNALS, DROPS, EQUATIONS, Equation, RESETS, RETRANSMITS, TIMEOUTS, TRANSITIONS, as_value,
};
use super::machine::machine;
use super::results::{forget_hidden, note_closed, note_difference, note_reason, note_unknown};
use super::rungs::{Drops, resets_have_reasons};
use super::scrape::{Sample, Scrape};
use super::setting::is_slow;
use super::unknown::{
    DROPS_UNKNOWN, ExcuseOnPanic, Fault, REFUSED_RETRANSMITS_UNKNOWN, RESETS_UNKNOWN, RETRANSMITS_UNKNOWN,
    TIMEOUTS_UNKNOWN, TRANSITIONS_UNKNOWN, UnknownKind,
};
use super::wait::{equal, until};

/// Passes are 200 ms apart in most tests, and an unattributed count must stand in two of them; but
/// one that was slow under load puts off the next, because passes keep to a share of a core.
pub(crate) const CLOSING_LIMIT: Duration = Duration::from_secs(30);

/// Timers of half-open connections may fire during the check: seconds apart, and ever rarer.
const QUIET_ATTEMPTS: u32 = 6;

/// The closing check, with what a test has a reason to expect differently.
pub(crate) struct Closing<'a> {
    agent: &'a Agent,
    watches: Vec<&'a Watch<'a>>,
    /// Drops that no hook can tell the reason of.
    unknown_drops: u64,
    /// Signals that are not asked for at all.
    exceptions: Vec<&'static str>,
    /// Whether hooks may misjudge a drop now and then.
    inexact_drops: bool,
    /// What the last comparison found hidden by the kernel, if it found nothing else wrong.
    unshown: Cell<Option<String>>,
}

/// Checks every signal of the namespaces; nothing may be unknown but what the rung in force leaves.
#[track_caller]
pub(crate) fn assert_closes(agent: &Agent, watches: &[&Watch<'_>]) {
    Closing::of(agent, watches).check();
}

impl<'a> Closing<'a> {
    pub(crate) fn of(agent: &'a Agent, watches: &[&'a Watch<'a>]) -> Self {
        Self {
            agent,
            watches: watches.to_vec(),
            unknown_drops: 0,
            exceptions: Vec::new(),
            inexact_drops: false,
            unshown: Cell::new(None),
        }
    }

    /// For drops while accept() runs at the queue's edge. Packets tell them by the answer that did not
    /// come. Before 6.15 that of a last ACK is a child, which may be missing for another reason; before
    /// 6.6 cgroup programs do not see SYN-ACKs over IPv6, and those with a cookie carry no socket on any
    /// kernel, so that the queue's length has to decide. Cookies come into play where processors are so
    /// slow that handshakes queue up; elsewhere they are no excuse.
    pub(crate) fn at_the_edge(agent: &'a Agent, watches: &[&'a Watch<'a>]) -> Self {
        let cookies = || watches.iter().any(|watch| watch.delta("TCPReqQFullDoCookies") > 0);
        let inexact_drops =
            agent.rungs().drops == Drops::Packets && (machine().kernel < (6, 15, 0) || is_slow() && cookies());
        Self { inexact_drops, ..Self::of(agent, watches) }
    }

    /// Expects exactly this many drops with the reason `unknown` over all namespaces. Where the rung
    /// tells no reason, all of them are.
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

    pub(crate) fn is_exact(&self) -> bool {
        !self.inexact_drops
    }

    /// Drops may be misjudged, one in two hundred at most (twice what was ever measured); but what is counted too much or not known
    /// is shown to the unit.
    pub(crate) fn inexact_drops(mut self) -> Self {
        self.inexact_drops = true;
        self
    }

    #[track_caller]
    pub(crate) fn check(&self) {
        let _excuse = ExcuseOnPanic::of(&self.unshown);
        self.agent.assert_sound();
        self.agent.await_two_passes();
        let limit = CLOSING_LIMIT.max(self.agent.pass_interval * 4);
        for _ in 0..QUIET_ATTEMPTS {
            until("metrics and kernel counters to agree", limit, || self.compare());
            let closed = self.read();
            self.agent.await_two_passes();
            let again = self.compare();
            if self.read() == closed {
                // Closed sums stay closed while nothing happens.
                again.unwrap_or_else(|reason| {
                    panic!("sums that had closed opened again\n{reason}\n{}", self.agent.log())
                });
                self.note();
                return;
            }
        }
        self.unshown.set(None);
        panic!("the kernel's counters never stood still for two passes");
    }

    fn read(&self) -> Vec<Counters> {
        self.watches.iter().map(|watch| Counters::read(watch.netns)).collect()
    }

    fn compare(&self) -> Result<(), String> {
        self.unshown.set(None);
        forget_hidden();
        let before = self.read();
        let scrape = self.agent.scrape();
        if before != self.read() {
            return Err("the kernel's counters moved around the scrape".to_owned());
        }
        let mut faults = String::new();
        for equation in EQUATIONS.iter().filter(|equation| !self.exceptions.contains(&equation.signal)) {
            if self.is_untold(equation) {
                self.compare_untold(&scrape, equation, &before, &mut faults);
            } else if self.may_differ(equation) {
                self.compare_inexact(&scrape, equation, &before, &mut faults);
            } else {
                self.compare_equation(&scrape, equation, &before, &mut faults);
            }
        }
        for watch in &self.watches {
            check_ports(&scrape, watch, &mut faults);
        }
        let unshown = self.check_unknown(&scrape, &before, &mut faults);
        let is_nothing_else = faults.is_empty() && !unshown.is_empty();
        self.unshown.set(is_nothing_else.then(|| unshown.join("; ")));
        faults.extend(unshown);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn compare_equation(&self, scrape: &Scrape, equation: &Equation, now: &[Counters], faults: &mut String) {
        let mut missing = 0;
        let refused = self.refused_retransmits(now);
        for (watch, now) in self.watches.iter().zip(now) {
            let kernel = watch.delta_of(now, equation.counter);
            let labels = [("netns", watch.inode.as_str()), ("signal", equation.signal)];
            let account = scrape.one("tracer_kernel_count_total", &labels);
            let difference = scrape.one("tracer_count_difference", &labels);
            let sum = equation.sum(scrape, &watch.inode);
            let too_much = sum > kernel;
            let short = kernel.saturating_sub(sum);
            // Only what the kernel hid excuses a part. What has to be unknown anyway, drops that no hook tells and segments
            // that the host refused, does not.
            let is_drops = DROP_SIGNALS.contains(&equation.signal);
            let expected = if is_drops { self.unknown_drops } else { refused };
            let unknown = equation.unknown_of_the_whole(scrape, &watch.inode).saturating_sub(expected);
            let in_unknown = short <= unknown;
            let expected = if in_unknown { as_value(short) } else { 0.0 };
            missing += if in_unknown { 0 } else { short };
            if too_much || account.as_ref() != Ok(&as_value(kernel)) || difference != Ok(expected) {
                let _ = writeln!(
                    faults,
                    "{}: kernel {kernel}, metric {sum}, kernel_count {account:?}, difference {difference:?}",
                    equation.describe(watch),
                );
                faults.push_str(&equation.show(scrape, &watch.inode));
            }
        }
        // Series of closed listeners may have been removed; then their counts are here, whole.
        let retired = scrape.sum("tracer_retired_total", &[("signal", equation.signal)]);
        if missing != 0 && missing != retired {
            for watch in &self.watches {
                let _ = writeln!(
                    faults,
                    "{}: the metric lacks {missing} of the kernel's count, {retired} were retired",
                    equation.describe(watch),
                );
                faults.push_str(&equation.show(scrape, &watch.inode));
            }
        }
    }

    /// Parts of the drops that a rung without reasons cannot tell apart.
    fn is_untold(&self, equation: &Equation) -> bool {
        self.agent.rungs().drops == Drops::Totals && DROP_SIGNALS[1..].contains(&equation.signal)
    }

    fn may_differ(&self, equation: &Equation) -> bool {
        self.inexact_drops && DROP_SIGNALS.contains(&equation.signal)
    }

    /// What a rung cannot tell is absent: neither zero nor a difference that never closes.
    fn compare_untold(&self, scrape: &Scrape, equation: &Equation, now: &[Counters], faults: &mut String) {
        for (watch, now) in self.watches.iter().zip(now) {
            let kernel = watch.delta_of(now, equation.counter);
            let labels = [("netns", watch.inode.as_str()), ("signal", equation.signal)];
            let account = scrape.one("tracer_kernel_count_total", &labels);
            let differences = scrape.rows("tracer_count_difference", &labels).count();
            let rows = equation.rows(scrape, &watch.inode);
            if account.as_ref() != Ok(&as_value(kernel)) || differences != 0 || rows != 0 {
                let _ = writeln!(
                    faults,
                    "{}, which cannot be told: kernel {kernel}, kernel_count {account:?}, {differences} differences, \
                     {rows} rows",
                    equation.describe(watch),
                );
            }
        }
    }

    fn compare_inexact(&self, scrape: &Scrape, equation: &Equation, now: &[Counters], faults: &mut String) {
        for (watch, now) in self.watches.iter().zip(now) {
            let kernel = watch.delta_of(now, equation.counter);
            let error = error(equation, scrape, watch, kernel);
            let (account, sum, difference) = equation.account(scrape, watch);
            let kernel = kernel.cast_signed();
            if account != Ok(kernel) || difference != Ok(kernel - sum) || error.abs() * 200 > kernel {
                let _ = writeln!(
                    faults,
                    "{}, inexact by {error}: kernel {kernel}, metric {sum}, kernel_count {account:?}, \
                     difference {difference:?}",
                    equation.describe(watch),
                );
            }
        }
    }

    /// Returns separately the faults that the kernel may have hidden without counting them.
    fn check_unknown(&self, scrape: &Scrape, now: &[Counters], faults: &mut String) -> Vec<String> {
        let drops = match self.agent.rungs().drops {
            Drops::Totals => {
                let known = self.all(scrape, DROPS).filter(|row| row.label("reason") != "unknown").count();
                equal("rows of drops for a known reason", &known, &0).map_err(Fault::Plain)
            }
            // How far that may go is said there.
            _ if self.inexact_drops => Ok(()),
            _ => self.unknown_are(scrape, &DROPS_UNKNOWN, self.unknown_drops),
        };
        let refused = self.refused_retransmits(now);
        let checks = [
            drops,
            self.unknown_are(scrape, &RETRANSMITS_UNKNOWN, refused),
            self.unknown_are(scrape, &REFUSED_RETRANSMITS_UNKNOWN, refused),
            self.unknown_are(scrape, &TRANSITIONS_UNKNOWN, 0),
            self.unknown_are(scrape, &TIMEOUTS_UNKNOWN, 0),
            self.resets_are_known(scrape),
        ];
        let mut unshown = Vec::new();
        for fault in checks.into_iter().filter_map(Result::err) {
            match fault {
                Fault::Plain(fault) => _ = writeln!(faults, "{fault}"),
                Fault::Unshown(fault) => unshown.push(fault),
            }
        }
        unshown
    }

    fn unknown_are(&self, scrape: &Scrape, kind: &UnknownKind, expected: u64) -> Result<(), Fault> {
        kind.check(self.agent, scrape, self.sum(scrape, kind.metric, (kind.label, "unknown")), expected)
    }

    /// Segments that were to be sent again and that the host itself refused. Where the hook is shown only what was sent,
    /// it does not see them, and `TCPRetransFail` says how many they are.
    fn refused_retransmits(&self, now: &[Counters]) -> u64 {
        if self.agent.rungs().sees_refused_retransmits() {
            return 0;
        }
        self.watches.iter().zip(now).map(|(watch, now)| watch.delta_of(now, "TCPRetransFail")).sum()
    }

    /// Before 6.10 the kernel shows some of the resets that it sends, and of none why.
    fn resets_are_known(&self, scrape: &Scrape) -> Result<(), Fault> {
        if resets_have_reasons(machine()) { self.unknown_are(scrape, &RESETS_UNKNOWN, 0) } else { Ok(()) }
    }

    /// Rows of a metric in all namespaces of the check.
    fn all<'s>(&'s self, scrape: &'s Scrape, metric: &'static str) -> impl Iterator<Item = &'s Sample> {
        scrape.rows(metric, &[]).filter(|row| self.watches.iter().any(|watch| row.label("netns") == watch.inode))
    }

    fn sum(&self, scrape: &Scrape, metric: &'static str, (label, value): (&str, &str)) -> u64 {
        self.all(scrape, metric).filter(|row| row.label(label) == value).map(Sample::count).sum()
    }

    /// Enters what held into the test's results.
    fn note(&self) {
        let scrape = self.agent.scrape();
        for equation in EQUATIONS.iter().filter(|equation| !self.exceptions.contains(&equation.signal)) {
            let count = self.watches.iter().map(|watch| watch.delta(equation.counter)).sum();
            let error = |watch: &&Watch<'_>| error(equation, &scrape, watch, watch.delta(equation.counter));
            match self.watches.iter().map(error).sum() {
                _ if self.is_untold(equation) => {}
                error @ (..=-1 | 1..) if self.may_differ(equation) || equation.is_part() => {
                    note_difference(equation.signal, error);
                }
                _ => note_closed(equation.signal, count),
            }
        }
        for (signal, metric, label) in [
            ("listen_drops", DROPS, "reason"),
            ("retransmitted_segments", RETRANSMITS, "cause"),
            ("resets_sent", RESETS, "reason"),
            ("connection_timeouts", TIMEOUTS, "cause"),
        ] {
            match self.sum(&scrape, metric, (label, "unknown")) {
                0 => {}
                count => note_unknown(signal, count),
            }
            for row in self.all(&scrape, metric) {
                note_reason(metric, row.label(label));
            }
        }
        match self.sum(&scrape, TRANSITIONS, ("from", "unknown")) {
            0 => {}
            count => note_unknown("transitions", count),
        }
    }
}

fn assert_known(signal: &str) {
    assert!(EQUATIONS.iter().any(|known| known.signal == signal), "no signal {signal}");
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

/// What the agent says of one namespace's drops: its account of the kernel's count, what its rows add
/// up to, and the difference.
pub(crate) fn account_of_drops(agent: &Agent, watch: &Watch<'_>) -> Result<[i64; 3], String> {
    let (account, sum, difference) = EQUATIONS[0].account(&agent.scrape(), watch);
    Ok([account?, sum, difference?])
}

/// What the kernel counted and no hook told.
fn error(equation: &Equation, scrape: &Scrape, watch: &Watch<'_>, kernel: u64) -> i64 {
    kernel.cast_signed() - equation.told(scrape, &watch.inode).cast_signed()
}
