//! How long `connect()` tries.

use super::super::amount::{Unit, seconds};
use super::super::facts::{Facts, HOST, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{CONNECT_FAILURES, SYN_LINEAR_TIMEOUTS, SYN_RETRIES};
use super::super::remedy::set;
use super::super::subject::{Scope, Subject};
use super::Rule;

/// Document 002: 1+2+4+8+16+32+64 = 127 s; 003, chapter 9.
pub(super) const SYN_RETRIES_RULE: Rule = Rule {
    id: "syn_retries",
    title: "how long connect() hangs before it fails",
    background: "document 002; document 003, chapter 9",
    needs: &[Need::Setting(SYN_RETRIES)],
    examine: syn_retries,
};

/// RTO_MAX: no pause is longer.
const PAUSE_MAX_SECONDS: f64 = 120.0;
/// One SYN lost and one SYN-ACK lost are to be survived (003: a time-out of 3 s).
const RETRIES_MIN: f64 = 2.0;

/// Seconds until `connect()` gives up with ETIMEDOUT: a pause of one second for each linear timeout (from 6.5),
/// then 1, 2, 4 … s, one more than there are retries.
fn patience_seconds(retries: f64, linear: f64) -> f64 {
    let (mut pause, mut total, mut left) = (1.0, linear, retries);
    while left >= 0.0 {
        total += pause;
        pause = f64::min(pause * 2.0, PAUSE_MAX_SECONDS);
        left -= 1.0;
    }
    total
}

fn syn_retries(facts: &Facts) -> Vec<Finding> {
    let timed_out = facts.by_subject(CONNECT_FAILURES, Scope::Namespace, &[("error", "timed_out")]);
    let mut namespaces = facts.namespaces_with(&[SYN_RETRIES]);
    namespaces.extend(timed_out.iter().filter(|(_, n)| **n > 0.0).map(|(subject, _)| Subject::clone(subject)));
    namespaces.sort_unstable();
    namespaces.dedup();
    namespaces.iter().filter_map(|subject| judge(facts, subject, timed_out.get(subject).copied())).collect()
}

fn judge(facts: &Facts, subject: &Subject, timed_out: Option<f64>) -> Option<Finding> {
    let retries = facts.setting(&subject.netns, SYN_RETRIES)?;
    let linear = facts.setting(&subject.netns, SYN_LINEAR_TIMEOUTS);
    let patience = patience_seconds(retries, linear.unwrap_or(0.0));
    let own = facts.setting(HOST, SYN_RETRIES) != Some(retries) || subject.netns == HOST;
    let (severity, summary) = if timed_out.unwrap_or(0.0) > 0.0 {
        (
            Severity::Risk,
            format!(
                "connect() got no answer and failed with ETIMEDOUT, after up to {} each \
             time.",
                seconds(patience)
            ),
        )
    } else if retries < RETRIES_MIN && own {
        (
            Severity::Risk,
            format!("connect() gives up after {}: one lost SYN and one lost SYN-ACK fail it.", seconds(patience)),
        )
    } else {
        return None;
    };
    let finding = Finding::new(severity, subject, summary)
        .weighing(timed_out.unwrap_or(0.0))
        .seen_if("connects that timed out", CONNECT_FAILURES, timed_out, Unit::Of("connections"))
        .set_to(SYN_RETRIES, Some(retries))
        .set_to(SYN_LINEAR_TIMEOUTS, linear)
        .seen("connect() hangs at most", SYN_RETRIES, patience, Unit::Seconds);
    Some(if retries < RETRIES_MIN {
        finding.advise(set(subject, "Allow retries again, and limit the wait in the application.", SYN_RETRIES, "6"))
    } else {
        finding
            .say("Look at who was called: a wrong address, a firewall that drops, or a listener whose queue is full.")
            .say(
                "Give the application a connect timeout of its own, 3 s or more, so that a retry or two still \
             counts.",
            )
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings, setting};
    use super::*;
    use Severity::Risk;

    #[test]
    fn the_ladder_is_the_documents_and_the_kernels() {
        for (retries, linear, expected) in
            [(6.0, 0.0, 127.0), (6.0, 4.0, 131.0), (0.0, 0.0, 1.0), (1.0, 0.0, 3.0), (7.0, 0.0, 247.0)]
        {
            let patience = patience_seconds(retries, linear);
            assert!((patience - expected).abs() < 1e-9, "{retries} {linear}: {patience}");
        }
    }

    #[test]
    fn connects_that_hang() {
        let failed = |n| {
            format!(
                "tracer_tcp_connect_failures_total{{netns=\"host\",port=\"80\",error=\"timed_out\"}} {n}\n\
                 tracer_tcp_connect_failures_total{{netns=\"host\",port=\"80\",error=\"refused\"}} 5\n"
            )
        };
        let (six, one) = (setting("host", SYN_RETRIES, 6), setting("host", SYN_RETRIES, 1));
        check(
            &SYN_RETRIES_RULE,
            "",
            &[
                ("timed out", &(six.clone() + &failed(3)), &[Risk]),
                ("none timed out", &(six.clone() + &failed(0)), &[]),
                ("too impatient", &(one + &failed(0)), &[Risk]),
            ],
        );
        let text = six + &setting("host", SYN_LINEAR_TIMEOUTS, 4) + &failed(3);
        assert!(findings(&SYN_RETRIES_RULE, &text)[0].summary.contains("2m 11s each time"));
    }

    #[test]
    fn a_namespace_that_follows_the_host_is_not_named_for_it() {
        let info = "tracer_netns_info{netns=\"7\",name=\"blue\"} 1\n";
        let failed = "tracer_tcp_connect_failures_total{netns=\"7\",port=\"80\",error=\"timed_out\"} 1\n";
        let named = |text: &str| -> Vec<String> {
            findings(&SYN_RETRIES_RULE, text).into_iter().map(|finding| finding.subject.netns).collect()
        };
        assert_eq!(named(&(setting("host", SYN_RETRIES, 1) + info)), ["host"]);
        assert_eq!(named(&(setting("host", SYN_RETRIES, 6) + info + failed)), ["7"]);
    }
}
