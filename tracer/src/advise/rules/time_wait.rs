//! TIME_WAIT: the number of buckets, and the setting that is often mistaken for their time.

use super::super::amount::Unit;
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{FIN_TIMEOUT, MAX_TW_BUCKETS, TIME_WAIT, TIME_WAIT_LIMIT, TIME_WAIT_OVERFLOWS};
use super::super::remedy::{roomier, set};
use super::super::subject::{Scope, Subject};
use super::{NEAR, Rule, fullness};

/// Document 004, section 5.2: beyond the limit a socket is destroyed at once, and what it had not sent with it.
pub(super) const BUCKETS: Rule = Rule {
    id: "time_wait_buckets",
    title: "TIME_WAIT sockets against tcp_max_tw_buckets",
    background: "document 004, section 5.2",
    needs: &[Need::Metric(TIME_WAIT), Need::Metric(TIME_WAIT_LIMIT)],
    examine: buckets,
};

/// Document 004, section 5.1: the minute in TIME_WAIT is a constant of the kernel, and this is the time in FIN_WAIT2.
pub(super) const FIN_TIMEOUT_RULE: Rule = Rule {
    id: "fin_timeout",
    title: "a tcp_fin_timeout lowered as if it shortened TIME_WAIT",
    background: "document 004, section 5.1",
    needs: &[Need::Metric(TIME_WAIT), Need::Setting(FIN_TIMEOUT)],
    examine: fin_timeout,
};

/// So many sockets in TIME_WAIT are what makes people look for a shorter one: a third of the ports that one
/// destination has by default.
const MANY: f64 = 10_000.0;
/// The kernel's default, in seconds.
const FIN_TIMEOUT_DEFAULT: f64 = 60.0;
/// Memory is all that buckets cost: some 250 bytes each. The document's own figure.
const BUCKETS_MAX: u32 = 1_800_000;

fn buckets(facts: &Facts) -> Vec<Finding> {
    let levels = facts.highest(TIME_WAIT, Scope::Namespace, &[]);
    let overflows = facts.by_subject(TIME_WAIT_OVERFLOWS, Scope::Namespace, &[]);
    let mut findings = Vec::new();
    for (subject, limit) in facts.highest(TIME_WAIT_LIMIT, Scope::Namespace, &[]) {
        let Some(level) = levels.get(&subject).copied() else { continue };
        let overflowed = overflows.get(&subject).copied();
        let lost = overflowed.unwrap_or(0.0);
        let (severity, summary) = if lost > 0.0 {
            (
                Severity::Binds,
                "No bucket was left for closing sockets: they were destroyed at once, with what they had not sent.",
            )
        } else if fullness(level, limit) >= NEAR {
            (
                Severity::Risk,
                "TIME_WAIT buckets are nearly used up; beyond the limit closing sockets are destroyed at once.",
            )
        } else {
            continue;
        };
        let finding = Finding::new(severity, &subject, summary)
            .weighing(lost)
            .seen("sockets in TIME_WAIT now", TIME_WAIT, level, Unit::Of("sockets"))
            .seen(MAX_TW_BUCKETS, TIME_WAIT_LIMIT, limit, Unit::Of("sockets"))
            .seen_if("sockets without a bucket", TIME_WAIT_OVERFLOWS, overflowed, Unit::Of("sockets"));
        let finding = victims(facts, &subject, finding);
        findings.push(
            finding
                .advise(set(
                    &subject,
                    "Allow more: memory is all they cost.",
                    MAX_TW_BUCKETS,
                    &roomier(limit, BUCKETS_MAX),
                ))
                .say("Keep connections open for more than one request, so that fewer are closed."),
        );
    }
    findings
}

/// The workload that lost most.
fn victims(facts: &Facts, namespace: &Subject, finding: Finding) -> Finding {
    let workloads = facts.by_subject(TIME_WAIT_OVERFLOWS, Scope::Workload, &[("netns", &namespace.netns)]);
    let named =
        workloads.into_iter().filter(|(owner, n)| *n > 0.0 && !(owner.unit.is_empty() && owner.container.is_empty()));
    match named.max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((owner, n)) => {
            let who = if owner.unit.is_empty() { &owner.container } else { &owner.unit };
            finding.seen(format!("most of them, by {who}"), TIME_WAIT_OVERFLOWS, n, Unit::Of("sockets"))
        }
        None => finding,
    }
}

fn fin_timeout(facts: &Facts) -> Vec<Finding> {
    let crowded = facts.highest(TIME_WAIT, Scope::Namespace, &[]).into_iter().filter(|(_, level)| *level >= MANY);
    crowded
        .filter_map(|(subject, level)| {
            let timeout =
                facts.setting(&subject.netns, FIN_TIMEOUT).filter(|timeout| *timeout < FIN_TIMEOUT_DEFAULT)?;
            let summary = "tcp_fin_timeout is lowered while TIME_WAIT is high; it limits FIN_WAIT2, and \
             TIME_WAIT lasts 60 s whatever it says.";
            Some(
                Finding::new(Severity::Note, &subject, summary)
                    .weighing(level)
                    .seen(FIN_TIMEOUT, FIN_TIMEOUT, timeout, Unit::Seconds)
                    .seen("sockets in TIME_WAIT now", TIME_WAIT, level, Unit::Of("sockets"))
                    .advise(set(
                        &subject,
                        "Set it back; peers that are slow to close need the \
                     time.",
                        FIN_TIMEOUT,
                        "60",
                    ))
                    .say("TIME_WAIT is no fault. Where it uses up ports, pool connections or use tcp_tw_reuse."),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings, setting};
    use super::*;
    use Severity::{Binds, Note, Risk};

    fn level(level: u32, limit: u32, overflows: u32) -> String {
        format!(
            "tracer_tcp_time_wait_sockets{{netns=\"host\"}} \
             {level}\ntracer_tcp_time_wait_limit{{netns=\"host\"}} {limit}\n\
             tracer_tcp_time_wait_overflows_total{{netns=\"host\",unit=\"a.service\"}} {overflows}\n\
             tracer_tcp_time_wait_overflows_total{{netns=\"host\"}} 0\n"
        )
    }

    #[test]
    fn buckets_that_run_out() {
        check(
            &BUCKETS,
            "",
            &[
                ("overflowed", &level(4, 4, 46), &[Binds]),
                ("near", &level(80, 100, 0), &[Risk]),
                ("far", &level(79, 100, 0), &[]),
            ],
        );
        let finding = &findings(&BUCKETS, &level(65_536, 65_536, 46))[0];
        let victim = finding.evidence.last().unwrap();
        assert_eq!(
            (victim.fact.as_str(), victim.unit.show(victim.value)),
            ("most of them, by a.service", "46 sockets".into())
        );
        assert_eq!(finding.remedy[0].command.as_deref(), Some("sysctl -w net.ipv4.tcp_max_tw_buckets=262144"));
    }

    #[test]
    fn a_fin_timeout_that_is_no_time_wait() {
        check(
            &FIN_TIMEOUT_RULE,
            "",
            &[
                ("lowered, high", &(level(20_000, 65_536, 0) + &setting("host", FIN_TIMEOUT, 10)), &[Note]),
                ("lowered, low", &(level(9_999, 65_536, 0) + &setting("host", FIN_TIMEOUT, 10)), &[]),
                ("default, high", &(level(20_000, 65_536, 0) + &setting("host", FIN_TIMEOUT, 60)), &[]),
            ],
        );
    }
}
