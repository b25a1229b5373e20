//! The share of segments that were sent again.

use super::super::amount::Unit;
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{RETRANSMITS, SEGMENTS_SENT};
use super::super::subject::Scope;
use super::Rule;

/// Document 003, chapter 9: each retransmit costs 200 ms or more.
pub(super) const SHARE: Rule = Rule {
    id: "retransmits",
    title: "the share of segments that were sent again",
    background: "document 003, chapter 9",
    needs: &[Need::Metric(RETRANSMITS), Need::Metric(SEGMENTS_SENT)],
    examine: share,
};

/// Fewer say nothing about a share.
const SEGMENTS_MIN: f64 = 100.0;
const NOTE_PERCENT: f64 = 1.0;
const RISK_PERCENT: f64 = 5.0;

fn share(facts: &Facts) -> Vec<Finding> {
    let sent = facts.by_subject(SEGMENTS_SENT, Scope::Namespace, &[]);
    let causes = ["syn", "rto", "fast", "tail_loss_probe"]
        .map(|cause| (cause, facts.by_subject(RETRANSMITS, Scope::Namespace, &[("cause", cause)])));
    let mut findings = Vec::new();
    for (subject, again) in facts.by_subject(RETRANSMITS, Scope::Namespace, &[]) {
        let Some(sent) = sent.get(&subject).copied() else { continue };
        // Segments sent leave retransmits out.
        let percent = 100.0 * again / (sent + again).max(1.0);
        if again < SEGMENTS_MIN || percent < NOTE_PERCENT {
            continue;
        }
        let severity = if percent >= RISK_PERCENT { Severity::Risk } else { Severity::Note };
        let mut finding = Finding::new(
            severity,
            &subject,
            "Many segments were sent again; each that waits for its timer costs 200 ms or more.",
        )
        .weighing(percent)
        .seen("share of all segments", RETRANSMITS, percent, Unit::Percent)
        .seen("segments sent again", RETRANSMITS, again, Unit::Of("segments"))
        .seen("segments sent", SEGMENTS_SENT, sent, Unit::Of("segments"));
        for (cause, of_cause) in &causes {
            let n = of_cause.get(&subject).copied().filter(|n| *n > 0.0);
            finding = finding.seen_if(format!("cause {cause}"), RETRANSMITS, n, Unit::Of("segments"));
        }
        findings.push(
            finding
                .say(
                    "The metric's labels name workload and port. Mostly syn: peers that do not answer or drop, \
                 and no loss. Mostly rto: a path that loses bursts or dies.",
                )
                .say("Look for drops on the way: `ip -s link`, `ethtool -S`, and policers beyond the node."),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings};
    use super::*;
    use Severity::{Note, Risk};

    fn segments(again: u32, sent: u32) -> String {
        format!(
            "tracer_tcp_retransmitted_segments_total{{netns=\"host\",unit=\"a\",role=\"client\",port=\"80\",cause=\"rto\"}} {again}\n\
             tracer_tcp_retransmitted_segments_total{{netns=\"host\",role=\"unknown\",cause=\"unknown\"}} 0\n\
             tracer_tcp_segments_sent_total{{netns=\"host\"}} {sent}\n"
        )
    }

    #[test]
    fn segments_sent_again() {
        check(
            &SHARE,
            "",
            &[
                ("one in ten", &segments(1000, 9000), &[Risk]),
                ("two in a hundred", &segments(200, 9800), &[Note]),
                ("few in a thousand", &segments(200, 99_800), &[]),
                ("too few to tell", &segments(99, 100), &[]),
            ],
        );
        let finding = &findings(&SHARE, &segments(1000, 9000))[0];
        assert_eq!(finding.evidence[0].unit.show(finding.evidence[0].value), "10.0 %");
        assert_eq!(finding.evidence.last().unwrap().fact, "cause rto");
    }
}
