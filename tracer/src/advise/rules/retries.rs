//! How long a half-open, an established or an orphaned connection is tried for.

use std::collections::{BTreeMap, BTreeSet};

use super::super::amount::{Unit, seconds};
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{
    ABORTS, LISTEN_DROPS, ORPHAN_RETRIES, RETRIES2, SYN_COOKIES, SYN_LENGTH, SYN_LIMIT, SYNACK_RETRIES, SYNCOOKIES,
};
use super::super::remedy::set;
use super::super::subject::{Scope, Subject};
use super::Rule;
use super::syn_cookies::{SynQueue, syn_queues};

/// Document 003, chapter 9: fewer, or SYNs that nothing follows pile up in SYN_RECV.
pub(super) const SYNACK_RETRIES_RULE: Rule = Rule {
    id: "synack_retries",
    title: "how long half-open connections stay in the SYN queue",
    background: "document 003, chapter 9",
    needs: &[Need::Setting(SYNACK_RETRIES)],
    examine: synack_retries,
};

/// Document 003, chapter 9: the hard threshold.
pub(super) const RETRIES2_RULE: Rule = Rule {
    id: "retries2",
    title: "how long an unanswered connection is kept",
    background: "document 003, chapter 9",
    needs: &[Need::Setting(RETRIES2)],
    examine: retries2,
};

/// Document 003, chapter 9: 7 or more, so that a lost FIN is outlived; 0 means 8.
pub(super) const ORPHAN_RETRIES_RULE: Rule = Rule {
    id: "orphan_retries",
    title: "too few tries for the FIN of an orphaned socket",
    background: "document 003, chapter 9",
    needs: &[Need::Setting(ORPHAN_RETRIES)],
    examine: orphan_retries,
};

/// The first RTO of a handshake, RTO_MIN and RTO_MAX, in seconds.
const PAUSE_INITIAL_SECONDS: f64 = 1.0;
const PAUSE_MIN_SECONDS: f64 = 0.2;
const PAUSE_MAX_SECONDS: f64 = 120.0;
/// RFC 1122, section 4.2.3.5: at least 100 s, which are eight retries.
const RETRIES2_MIN: f64 = 8.0;
/// The kernel's default, 15 minutes and more.
const RETRIES2_DEFAULT: f64 = 15.0;
/// The kernel's default: half-open connections go after 63 s.
const SYNACK_RETRIES_DEFAULT: f64 = 5.0;
/// A SYN queue of a few is full at once, and says nothing.
const SYN_LENGTH_MIN: f64 = 8.0;
/// The document's figure: about the 60 s of TIME_WAIT.
const ORPHAN_RETRIES_MIN: f64 = 7.0;

/// Seconds until a connection is given up, from the smallest RTO on: the kernel's own reckoning.
fn patience_seconds(retries: f64) -> f64 {
    pauses_seconds(PAUSE_MIN_SECONDS, retries)
}

/// The sum of pauses that double, one for the first try and one for each retry.
fn pauses_seconds(first: f64, retries: f64) -> f64 {
    let (mut pause, mut total, mut left) = (first, 0.0, retries);
    while left >= 0.0 {
        total += pause;
        pause = f64::min(pause * 2.0, PAUSE_MAX_SECONDS);
        left -= 1.0;
    }
    total
}

/// What says that the SYN queues of a namespace were full, or nearly are.
#[derive(Default)]
struct Fullness {
    dropped: Option<f64>,
    cookies: Option<f64>,
    /// The fullest queue.
    fullest: Option<SynQueue>,
}

/// By the label of the namespace.
fn full_syn_queues(facts: &Facts) -> BTreeMap<String, Fullness> {
    let mut full: BTreeMap<String, Fullness> = BTreeMap::new();
    let counted = |metric, labels| {
        let sums = facts.by_subject(metric, Scope::Namespace, labels);
        sums.into_iter().map(|(subject, n)| (subject.netns.clone(), n)).filter(|(_, n)| *n > 0.0)
    };
    for (netns, n) in counted(LISTEN_DROPS, &[("reason", "syn_queue_full")]) {
        full.entry(netns).or_default().dropped = Some(n);
    }
    for (netns, n) in counted(SYN_COOKIES, &[("result", "sent")]) {
        // Where each SYN gets one, by setting, they say nothing of the queue.
        if facts.setting(&netns, SYNCOOKIES) != Some(2.0) {
            full.entry(netns).or_default().cookies = Some(n);
        }
    }
    for (netns, queues) in syn_queues(facts) {
        let mut nearly_full = queues.into_iter().filter(SynQueue::is_nearly_full);
        if let Some(fullest) = nearly_full.find(|queue| queue.length >= SYN_LENGTH_MIN) {
            full.entry(netns).or_default().fullest = Some(fullest);
        }
    }
    full
}

fn synack_retries(facts: &Facts) -> Vec<Finding> {
    let full = full_syn_queues(facts);
    let with_own = facts.namespaces_with(&[SYNACK_RETRIES]).into_iter().map(|subject| subject.netns);
    let namespaces: BTreeSet<String> = with_own.chain(full.keys().cloned()).collect();
    let judge = |netns: String| {
        let (subject, retries) = (facts.namespace(&netns), facts.setting(&netns, SYNACK_RETRIES)?);
        match full.get(&netns) {
            Some(full) if retries >= SYNACK_RETRIES_DEFAULT => Some(held_too_long(&subject, retries, full)),
            None if retries > SYNACK_RETRIES_DEFAULT => Some(held_longer(&subject, retries)),
            _ => None,
        }
    };
    namespaces.into_iter().filter_map(judge).collect()
}

fn held_too_long(subject: &Subject, retries: f64, full: &Fullness) -> Finding {
    let held = pauses_seconds(PAUSE_INITIAL_SECONDS, retries);
    let summary =
        format!("SYN queues filled, and a SYN that nothing follows keeps its place in one for {}.", seconds(held));
    let finding = Finding::new(Severity::Risk, subject, summary)
        .weighing(full.dropped.unwrap_or(0.0) + full.cookies.unwrap_or(0.0))
        .set_to(SYNACK_RETRIES, Some(retries))
        .seen("a half-open connection is kept for", SYNACK_RETRIES, held, Unit::Seconds)
        .seen_if("dropped, SYN queue full", LISTEN_DROPS, full.dropped, Unit::Of("packets"))
        .seen_if("cookies sent, ever", SYN_COOKIES, full.cookies, Unit::Of("packets"));
    let finding = match &full.fullest {
        Some(queue) => {
            let whose = format!("length of the fullest SYN queue, {}", queue.listener.describe());
            finding.seen(whose, SYN_LENGTH, queue.length, Unit::Of("connections")).seen(
                "its limit",
                SYN_LIMIT,
                queue.limit,
                Unit::Of("connections"),
            )
        }
        None => finding,
    };
    finding
        .advise(set(subject, "Let half-open connections go after 15 s.", SYNACK_RETRIES, "3"))
        .say("The price is paid by clients on bad paths: leave them two retries at least.")
}

fn held_longer(subject: &Subject, retries: f64) -> Finding {
    let held = pauses_seconds(PAUSE_INITIAL_SECONDS, retries);
    let summary = format!("A SYN that nothing follows keeps its place in the SYN queue for {}.", seconds(held));
    Finding::new(Severity::Note, subject, summary)
        .set_to(SYNACK_RETRIES, Some(retries))
        .seen("a half-open connection is kept for", SYNACK_RETRIES, held, Unit::Seconds)
        .advise(set(subject, "Go back to the default, 63 s.", SYNACK_RETRIES, "5"))
}

fn retries2(facts: &Facts) -> Vec<Finding> {
    let timed_out = facts.by_subject(ABORTS, Scope::Namespace, &[("reason", "timeout")]);
    let mut findings = Vec::new();
    for subject in facts.namespaces_with(&[RETRIES2]) {
        let Some(retries) = facts.setting(&subject.netns, RETRIES2) else { continue };
        let patience = patience_seconds(retries);
        let (severity, summary, remedy) = if retries < RETRIES2_MIN {
            let summary = format!(
                "Established connections are given up after {} without an answer; RFC 1122 asks for 100 s or more.",
                seconds(patience)
            );
            (Severity::Risk, summary, "Outlive a short outage again.")
        } else if retries > RETRIES2_DEFAULT {
            let summary = format!("A dead peer is noticed only after {} of unanswered data.", seconds(patience));
            (Severity::Note, summary, "Notice dead peers as soon as by default.")
        } else {
            continue;
        };
        let timed_out = timed_out.get(&subject).copied();
        findings.push(
            Finding::new(severity, &subject, summary)
                .weighing(timed_out.unwrap_or(0.0))
                .set_to(RETRIES2, Some(retries))
                .seen("given up after, at least", RETRIES2, patience, Unit::Seconds)
                .seen_if("connections ended by timeout, ever", ABORTS, timed_out, Unit::Of("connections"))
                .advise(set(&subject, remedy, RETRIES2, "15"))
                .say("Where one application is to give up sooner, set TCP_USER_TIMEOUT on its sockets instead."),
        );
    }
    findings
}

fn orphan_retries(facts: &Facts) -> Vec<Finding> {
    let few = facts.namespaces_with(&[ORPHAN_RETRIES]).into_iter().filter_map(|subject| {
        let retries = facts.setting(&subject.netns, ORPHAN_RETRIES)?;
        (retries > 0.0 && retries < ORPHAN_RETRIES_MIN).then_some((subject, retries))
    });
    few.map(|(subject, retries)| {
        let summary = "A closed socket gives up early on its FIN: where it was lost, the peer's end stays open.";
        Finding::new(Severity::Note, &subject, summary)
            .set_to(ORPHAN_RETRIES, Some(retries))
            .seen("given up after, at least", ORPHAN_RETRIES, patience_seconds(retries), Unit::Seconds)
            .advise(set(&subject, "Go back to the default: 0 stands for 8 tries.", ORPHAN_RETRIES, "0"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings, setting};
    use super::*;
    use Severity::{Note, Risk};

    #[test]
    fn the_kernels_own_reckoning() {
        // Documentation/networking/ip-sysctl: 15 is 924.6 s, and 8 the least that RFC 1122 allows.
        assert!((patience_seconds(15.0) - 924.6).abs() < 1e-9);
        assert!(patience_seconds(8.0) > 100.0 && patience_seconds(7.0) < 100.0);
        // And five SYN-ACK retries are 63 s.
        assert!((pauses_seconds(PAUSE_INITIAL_SECONDS, 5.0) - 63.0).abs() < 1e-9);
    }

    #[test]
    fn half_open_connections_kept() {
        let drops = |n: u32| {
            format!("tracer_tcp_listen_drops_total{{netns=\"host\",port=\"80\",reason=\"syn_queue_full\"}} {n}\n")
        };
        let cookies =
            |netns: &str, n: u32| format!("tracer_tcp_syn_cookies_total{{netns=\"{netns}\",result=\"sent\"}} {n}\n");
        let queue = |length: u32, limit: u32| {
            format!(
                "tracer_tcp_syn_queue_length{{netns=\"host\",port=\"80\"}} {length}\n\
                 tracer_tcp_syn_queue_limit{{netns=\"host\",port=\"80\"}} {limit}\n"
            )
        };
        let retries = |n| setting("host", SYNACK_RETRIES, n);
        let always = setting("host", SYNCOOKIES, 2);
        check(
            &SYNACK_RETRIES_RULE,
            "",
            &[
                (
                    "the default, and nothing filled",
                    &(retries(5) + &drops(0) + &cookies("host", 0) + &queue(0, 128)),
                    &[],
                ),
                ("the default, and SYNs were dropped", &(retries(5) + &drops(3)), &[Risk]),
                ("the default, and cookies were sent", &(retries(5) + &cookies("host", 3)), &[Risk]),
                ("the default, and cookies are sent always", &(retries(5) + &cookies("host", 3) + &always), &[]),
                ("the default, and a queue is nearly full", &(retries(5) + &queue(103, 128)), &[Risk]),
                ("the default, and a queue has room", &(retries(5) + &queue(102, 128)), &[]),
                ("the default, and a queue of a few is full", &(retries(5) + &queue(7, 7)), &[]),
                ("more, and SYNs were dropped", &(retries(6) + &drops(3)), &[Risk]),
                ("more, and nothing filled", &retries(6), &[Note]),
                ("fewer, and SYNs were dropped", &(retries(4) + &drops(3)), &[]),
                ("the host's value, in a namespace of its own", &(retries(5) + &cookies("7", 3)), &[Risk]),
                (
                    "fewer in the namespace that filled",
                    &(retries(5) + &setting("7", SYNACK_RETRIES, 2) + &cookies("7", 3)),
                    &[],
                ),
            ],
        );
        let risk = &findings(&SYNACK_RETRIES_RULE, &(retries(5) + &drops(3) + &cookies("host", 4) + &queue(8, 9)))[0];
        assert_eq!(risk.weight.to_bits(), 7.0_f64.to_bits());
        assert!(risk.summary.contains("1m 3s"), "{}", risk.summary);
        assert_eq!(risk.evidence.len(), 6);
        assert_eq!(risk.remedy[0].command.as_deref(), Some("sysctl -w net.ipv4.tcp_synack_retries=3"));
    }

    #[test]
    fn connections_given_up() {
        let timeouts = "tracer_tcp_aborts_total{netns=\"host\",reason=\"timeout\"} 4\n";
        check(
            &RETRIES2_RULE,
            timeouts,
            &[
                ("too soon", &setting("host", RETRIES2, 5), &[Risk]),
                ("too late", &setting("host", RETRIES2, 30), &[Note]),
                ("default", &setting("host", RETRIES2, 15), &[]),
                ("the least that is right", &setting("host", RETRIES2, 8), &[]),
            ],
        );
        let found = findings(&RETRIES2_RULE, &(timeouts.to_owned() + &setting("host", RETRIES2, 5)));
        assert_eq!(found[0].weight.to_bits(), 4.0_f64.to_bits());
    }

    #[test]
    fn orphans_given_up() {
        check(
            &ORPHAN_RETRIES_RULE,
            "",
            &[
                ("few", &setting("host", ORPHAN_RETRIES, 3), &[Note]),
                ("0 is 8", &setting("host", ORPHAN_RETRIES, 0), &[]),
                ("the document's", &setting("host", ORPHAN_RETRIES, 7), &[]),
            ],
        );
    }
}
