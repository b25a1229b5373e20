//! Counts whose reason, cause or former state is `unknown`: how many there may be, and what excuses more.

use std::cell::Cell;

use super::agent::Agent;
use super::equations::{DROPS, MISSED_RUNS, RESETS, RETRANSMITS, RETRANSMITS_FAILED, TIMEOUTS, TRANSITIONS};
use super::machine::machine;
use super::results::{note_hidden, say_unshown};
use super::rungs::Signal;
use super::scrape::{Sample, Scrape};

/// What is wrong with counts of an unknown kind.
pub(super) enum Fault {
    /// Nothing excuses it.
    Plain(String),
    /// The kernel hides events of this kind and does not say how many.
    Unshown(String),
}

/// Says so when a check fails for nothing but what the kernel hid.
pub(super) struct ExcuseOnPanic<'a>(&'a Cell<Option<String>>);

impl<'a> ExcuseOnPanic<'a> {
    /// `unshown` is what the last comparison found hidden, if it found nothing else wrong.
    pub(super) fn of(unshown: &'a Cell<Option<String>>) -> Self {
        Self(unshown)
    }
}

impl Drop for ExcuseOnPanic<'_> {
    fn drop(&mut self) {
        if let Some(unshown) = self.0.take().filter(|_| std::thread::panicking()) {
            say_unshown(&unshown);
        }
    }
}

/// Counts of one kind whose reason, cause or former state is `unknown`, and the programs that would have told it.
pub(super) struct UnknownKind {
    pub(super) what: &'static str,
    pub(super) metric: &'static str,
    pub(super) label: &'static str,
    /// Beginnings of their names.
    programs: &'static [&'static str],
}

pub(super) const DROPS_UNKNOWN: UnknownKind = UnknownKind {
    what: "drops",
    metric: DROPS,
    label: "reason",
    programs: &["tcp_conn_request", "tcp_v4_syn_recv_sock", "tcp_v6_syn_recv_sock", "tcp_req_err", "kfree_skb"],
};
pub(super) const RETRANSMITS_UNKNOWN: UnknownKind =
    UnknownKind { what: "retransmits", metric: RETRANSMITS, label: "cause", programs: &["tcp_retransmit"] };
pub(super) const REFUSED_RETRANSMITS_UNKNOWN: UnknownKind = UnknownKind {
    what: "refused retransmits",
    metric: RETRANSMITS_FAILED,
    label: "cause",
    programs: &["tcp_retransmit"],
};
pub(super) const TRANSITIONS_UNKNOWN: UnknownKind =
    UnknownKind { what: "transitions", metric: TRANSITIONS, label: "from", programs: &["inet_sock_set_state"] };
pub(super) const TIMEOUTS_UNKNOWN: UnknownKind =
    UnknownKind { what: "time-outs", metric: TIMEOUTS, label: "cause", programs: &["inet_sock_set_state"] };
pub(super) const RESETS_UNKNOWN: UnknownKind =
    UnknownKind { what: "resets", metric: RESETS, label: "reason", programs: &["tcp_send_reset"] };

/// Overflows of TIME_WAIT that the kernel counted in a namespace have an owner, but for those that it says it did not
/// show to the programs that tell the owner.
#[track_caller]
pub(crate) fn assert_time_wait_overflows_are_owned(agent: &Agent, owned: u64, kernel: u64) {
    let rung = &agent.rungs().ladders[&Signal::TimeWaitOverflows];
    let by_kprobe = rung.hooks.iter().any(|hook| hook.starts_with("kprobe/"));
    let programs: &[&str] = if rung.hooks.is_empty() { &["inet_sock_set_state"] } else { &["inet_twsk_alloc"] };
    let missed = missed_runs(&agent.scrape(), programs);
    let lacking = kernel.checked_sub(owned);
    let text =
        format!("{kernel} overflows, {owned} with an owner; the kernel says that it did not show {missed} events");
    match lacking {
        Some(0) => {}
        Some(lacking) if lacking <= missed => note_hidden("TIME_WAIT overflows", lacking),
        Some(_) if machine().hides_pid_1 || by_kprobe && machine().kernel < (6, 7, 0) => {
            say_unshown(&text);
            panic!("{text}");
        }
        _ => panic!("{text}"),
    }
}

/// From 6.1 on the kernel does not show a program an event that an interrupt brings in the middle of
/// another one: rare, but emulated processors take long over each. It counts them for each program, and
/// nothing else is an excuse for a count of an unknown kind.
fn missed_runs(scrape: &Scrape, programs: &[&str]) -> u64 {
    let is_of = |name: &str| programs.iter().any(|program| name.starts_with(program));
    scrape.rows(MISSED_RUNS, &[]).filter(|row| is_of(row.label("program"))).map(Sample::count).sum()
}

/// Kprobes by which drops are told. (`tcp_req_err` is another, which most rungs have: it is asked about ICMP errors
/// alone.)
const TOLD_BY_KPROBES: [&str; 3] =
    ["kprobe/tcp_conn_request", "kprobe/tcp_v4_syn_recv_sock", "kprobe/tcp_v6_syn_recv_sock"];

impl UnknownKind {
    /// Of this kind `here` counts are unknown, and `expected` have to be. More may be unknown only as far as the kernel
    /// says that it did not show events to the programs that count them: each run that was missed excuses one count,
    /// once, wherever on this machine that count is.
    pub(super) fn check(&self, agent: &Agent, scrape: &Scrape, here: u64, expected: u64) -> Result<(), Fault> {
        if here == expected {
            return Ok(());
        }
        let elsewhere = scrape.sum(self.metric, &[(self.label, "unknown")]) - here;
        let missed = missed_runs(scrape, self.programs);
        let text = format!(
            "{} of an unknown kind: {here}, expected {expected}; elsewhere on this machine {elsewhere}; the kernel says \
             that it did not show {missed} events",
            self.what
        );
        match here.checked_sub(expected) {
            Some(more) if more + elsewhere <= missed => {
                note_hidden(self.what, more);
                Ok(())
            }
            Some(_) if self.is_hidden_without_a_word(agent) => Err(Fault::Unshown(text)),
            _ => Err(Fault::Plain(text)),
        }
    }

    /// Whether the kernel keeps events of this kind from programs and counts that nowhere: a kernel that hides PID 1,
    /// and kprobes before 6.7, which rest while a map operation or another program runs on their processor.
    fn is_hidden_without_a_word(&self, agent: &Agent) -> bool {
        let hooks = &agent.rungs().ladders[&Signal::ListenDrops].hooks;
        let by_kprobe = self.metric == DROPS && TOLD_BY_KPROBES.iter().any(|hook| hooks.contains(*hook));
        machine().hides_pid_1 || by_kprobe && machine().kernel < (6, 7, 0)
    }
}
