//! Windows and buffers: throughput is window by round-trip time.

use super::super::amount::Unit;
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{RECEIVE_QUEUE_DROPS, RMEM, WINDOW_SCALING, ZERO_WINDOW};
use super::super::remedy::set;
use super::super::subject::Scope;
use super::Rule;

/// Document 004, section 3.2: without scaling a window ends at 64 KiB.
pub(super) const WINDOW_SCALING_RULE: Rule = Rule {
    id: "window_scaling",
    title: "window scaling that is off",
    background: "document 004, sections 3.1 and 3.2",
    needs: &[Need::Setting(WINDOW_SCALING)],
    examine: window_scaling,
};

/// Document 004, section 3.3; 001, tuning of sockets.
pub(super) const RECEIVE_QUEUE: Rule = Rule {
    id: "receive_queue",
    title: "receive queues that were full",
    background: "document 004, sections 3.1 and 3.3; document 001",
    needs: &[Need::Metric(RECEIVE_QUEUE_DROPS)],
    examine: receive_queue,
};

/// What a window without scaling allows at 40 ms, in bytes a second (004, section 3.1: LTE).
const UNSCALED_WINDOW: f64 = 65_535.0;

fn window_scaling(facts: &Facts) -> Vec<Finding> {
    let off = facts.namespaces_with(&[WINDOW_SCALING]).into_iter();
    let off = off.filter(|subject| facts.setting(&subject.netns, WINDOW_SCALING) == Some(0.0));
    off.map(|subject| {
        let summary = "No window is larger than 64 KiB: throughput is at most that for each round trip.";
        Finding::new(Severity::Risk, &subject, summary)
            .set_to(WINDOW_SCALING, Some(0.0))
            .seen("most in 1 s at 40 ms round trip", WINDOW_SCALING, UNSCALED_WINDOW / 0.04, Unit::Bytes)
            .advise(set(&subject, "Turn it on, for connections from then on.", WINDOW_SCALING, "1"))
    })
    .collect()
}

fn receive_queue(facts: &Facts) -> Vec<Finding> {
    let zero_windows = facts.by_subject(ZERO_WINDOW, Scope::Namespace, &[("direction", "to_zero")]);
    let dropped = facts.by_subject(RECEIVE_QUEUE_DROPS, Scope::Namespace, &[]).into_iter().filter(|(_, n)| *n > 0.0);
    dropped
        .map(|(subject, n)| {
            let max = facts.setting_at(&subject.netns, RMEM, "2");
            let summary = "Segments were dropped because a receive queue was full: an application reads more \
             slowly than data comes.";
            Finding::new(Severity::Note, &subject, summary)
                .weighing(n)
                .seen("segments dropped, ever", RECEIVE_QUEUE_DROPS, n, Unit::Of("segments"))
                .seen_if(
                    "windows closed to zero, \
                 ever",
                    ZERO_WINDOW,
                    zero_windows.get(&subject).copied(),
                    Unit::Of("times"),
                )
                .seen_if("net.ipv4.tcp_rmem, max", RMEM, max, Unit::Bytes)
                .say(
                    "Find who does not read: a large Recv-Q of `ss -tnp`. Where it keeps up on average, \
                 tcp_rmem's max must hold bandwidth × round-trip time.",
                )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings, setting};
    use super::*;
    use Severity::{Note, Risk};

    #[test]
    fn windows_that_do_not_scale() {
        check(
            &WINDOW_SCALING_RULE,
            "",
            &[("off", &setting("host", WINDOW_SCALING, 0), &[Risk]), ("on", &setting("host", WINDOW_SCALING, 1), &[])],
        );
        let finding = &findings(&WINDOW_SCALING_RULE, &setting("host", WINDOW_SCALING, 0))[0];
        assert_eq!(finding.evidence[1].unit.show(finding.evidence[1].value), "1.6 MiB");
    }

    #[test]
    fn receive_queues_that_were_full() {
        let drops = |n| format!("tracer_tcp_receive_queue_drops_total{{netns=\"host\"}} {n}\n");
        check(&RECEIVE_QUEUE, "", &[("some", &drops(3), &[Note]), ("none", &drops(0), &[])]);
        let more = drops(3)
            + "tracer_tcp_zero_window_total{netns=\"host\",direction=\"to_zero\"} 7\n\
               tracer_sysctl_value{netns=\"host\",name=\"net.ipv4.tcp_rmem\",index=\"2\"} 6291456\n";
        assert_eq!(findings(&RECEIVE_QUEUE, &more)[0].evidence.len(), 3);
    }
}
