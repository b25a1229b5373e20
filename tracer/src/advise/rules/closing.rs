//! The ends of connections: never closed, closed and not yet gone, cut off.

use super::super::amount::Unit;
use super::super::facts::{Facts, HOST, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{ABORTS, CLOSE_WAIT_OLDEST, MAX_ORPHANS, ORPHAN_RETRIES, ORPHANS, ORPHANS_LIMIT, SOCKETS};
use super::super::remedy::{restart, roomier, set};
use super::super::subject::{Scope, Subject};
use super::{Rule, fullness};

/// Document 001 on CLOSE_WAIT; 000: a server that does not close after `read()` gave 0.
pub(super) const CLOSE_WAIT: Rule = Rule {
    id: "close_wait",
    title: "connections that the peer closed and the application keeps",
    background: "document 001, CLOSE_WAIT; document 000, close",
    needs: &[Need::Metric(CLOSE_WAIT_OLDEST)],
    examine: close_wait,
};

/// Document 003, chapter 9: orphans are the kernel's until their FIN is answered.
pub(super) const ORPHANS_RULE: Rule = Rule {
    id: "orphans",
    title: "orphaned sockets against tcp_max_orphans",
    background: "document 003, chapter 9",
    needs: &[Need::Metric(ORPHANS), Need::Metric(ORPHANS_LIMIT)],
    examine: orphans,
};

/// Document 004, section 5.6: linger with a time of 0 sends RST instead of FIN.
pub(super) const LINGER: Rule = Rule {
    id: "linger_zero",
    title: "connections cut off by their own side while data was on the way",
    background: "document 004, section 5.6",
    needs: &[Need::Metric(ABORTS)],
    examine: linger,
};

/// A request may take its time after the client has stopped sending; five minutes are no request.
const OLD_SECONDS: f64 = 300.0;
/// So many at once are a leak, not one slow request.
const MANY: f64 = 10.0;
/// The kernel counts an orphan that has not been answered for long up to four times.
const ORPHANS_NEAR: f64 = 0.5;
/// A few cut connections are how some programs end.
const CUT_MANY: f64 = 100.0;

fn close_wait(facts: &Facts) -> Vec<Finding> {
    let counts = facts.by_subject(SOCKETS, Scope::Workload, &[("state", "CLOSE_WAIT")]);
    let mut findings = Vec::new();
    for (subject, oldest) in facts.highest(CLOSE_WAIT_OLDEST, Scope::Workload, &[]) {
        if oldest < OLD_SECONDS {
            continue;
        }
        let count = counts.get(&subject).copied();
        let severity = if count.is_some_and(|count| count >= MANY) { Severity::Risk } else { Severity::Note };
        let summary = "The peer has closed and the application has not: CLOSE_WAIT has no timeout, and each holds a \
             descriptor.";
        findings.push(
            Finding::new(severity, &subject, summary)
                .weighing(count.unwrap_or(0.0))
                .seen("oldest in CLOSE_WAIT", CLOSE_WAIT_OLDEST, oldest, Unit::Seconds)
                .seen_if("sockets in CLOSE_WAIT", SOCKETS, count, Unit::Of("sockets"))
                .say(
                    "Mend the application: when read() gives 0 it must call close(). Which sockets: `ss -tnp \
                 state close-wait`.",
                )
                .advise(restart(&subject, "until then, that alone sets them free.")),
        );
    }
    findings
}

fn orphans(facts: &Facts) -> Vec<Finding> {
    let (Some(level), Some(limit)) = (facts.sum(ORPHANS, &[]), facts.sum(ORPHANS_LIMIT, &[])) else {
        return Vec::new();
    };
    let full = fullness(level, limit);
    let (severity, summary) = if full >= 1.0 {
        (
            Severity::Binds,
            "There are too many orphans: the kernel ends more of them with RST, and their last data is lost.",
        )
    } else if full >= ORPHANS_NEAR {
        (
            Severity::Risk,
            "Orphans near their limit; those that wait long count up to four times, and are then ended with RST.",
        )
    } else {
        return Vec::new();
    };
    let node = Subject::node();
    let finding = Finding::new(severity, &node, summary)
        .weighing(full)
        .seen("orphaned sockets now", ORPHANS, level, Unit::Of("sockets"))
        .seen(MAX_ORPHANS, ORPHANS_LIMIT, limit, Unit::Of("sockets"))
        .seen_if(
            "connections closed for memory, ever",
            ABORTS,
            facts.sum(ABORTS, &[("reason", "memory")]),
            Unit::Of("connections"),
        )
        .set_to(ORPHAN_RETRIES, facts.setting(HOST, ORPHAN_RETRIES))
        .say("Find out why peers do not answer the FIN: a dead path, or a load balancer that forgot the connection.")
        .advise(set(&node, "Or allow more; each may hold up to 64 KiB.", MAX_ORPHANS, &roomier(limit, 1 << 20)));
    vec![finding]
}

fn linger(facts: &Facts) -> Vec<Finding> {
    let cut = facts.by_subject(ABORTS, Scope::Namespace, &[("reason", "data")]);
    let cut = cut.into_iter().filter(|(_, n)| *n >= CUT_MANY);
    cut.map(|(subject, n)| {
        let summary = "Connections were closed with RST instead of FIN, by linger 0 or with data still coming: \
         what was on the way is lost.";
        Finding::new(Severity::Note, &subject, summary)
            .weighing(n)
            .seen("connections cut off, ever", ABORTS, n, Unit::Of("connections"))
            .say(
                "Leave SO_LINGER alone in the application. If it is there against TIME_WAIT: tcp_tw_reuse or a \
             pool of connections does that without loss.",
            )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use Severity::{Binds, Note, Risk};

    #[test]
    fn connections_never_closed() {
        let leak = |oldest, count| {
            format!(
                "tracer_tcp_close_wait_oldest_seconds{{netns=\"host\",unit=\"a.service\"}} {oldest}\n\
                 tracer_tcp_sockets{{netns=\"host\",unit=\"a.service\",state=\"CLOSE_WAIT\"}} {count}\n\
                 tracer_tcp_sockets{{netns=\"host\",unit=\"a.service\",state=\"ESTABLISHED\"}} 500\n"
            )
        };
        check(
            &CLOSE_WAIT,
            "",
            &[
                ("old and many", &leak(301, 40), &[Risk]),
                ("old and few", &leak(301, 2), &[Note]),
                ("young and many", &leak(299, 40), &[]),
            ],
        );
    }

    #[test]
    fn orphans_near_their_limit() {
        let orphans = |n| format!("tracer_tcp_orphan_sockets {n}\ntracer_tcp_orphan_limit 100\n");
        check(
            &ORPHANS_RULE,
            "",
            &[("full", &orphans(100), &[Binds]), ("near", &orphans(50), &[Risk]), ("far", &orphans(49), &[])],
        );
    }

    #[test]
    fn connections_cut_off() {
        let aborts = |n| {
            format!(
                "tracer_tcp_aborts_total{{netns=\"host\",reason=\"data\"}} \
                 {n}\ntracer_tcp_aborts_total{{netns=\"host\",reason=\"close\"}} 900\n"
            )
        };
        check(&LINGER, "", &[("many", &aborts(100), &[Note]), ("few", &aborts(99), &[])]);
    }
}
