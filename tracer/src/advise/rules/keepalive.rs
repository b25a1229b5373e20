//! Keepalive against a load balancer that forgets idle connections.

use super::super::amount::{Unit, seconds};
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{KEEPALIVE_INTVL, KEEPALIVE_PROBES, KEEPALIVE_TIME};
use super::super::remedy::set;
use super::super::subject::Subject;
use super::Rule;

/// Document 003, chapter 8: 60 s and 3 × 10 s under an idle time of 120 s.
pub(super) const KEEPALIVE: Rule = Rule {
    id: "keepalive",
    title: "keepalive against the idle time of a load balancer (--lb-idle)",
    background: "document 003, chapter 8",
    needs: &[
        Need::LbIdle,
        Need::Setting(KEEPALIVE_TIME),
        Need::Setting(KEEPALIVE_INTVL),
        Need::Setting(KEEPALIVE_PROBES),
    ],
    examine: keepalive,
};

fn keepalive(facts: &Facts) -> Vec<Finding> {
    let namespaces = facts.namespaces_with(&[KEEPALIVE_TIME, KEEPALIVE_INTVL, KEEPALIVE_PROBES]);
    namespaces.iter().filter_map(|subject| judge(facts, subject)).collect()
}

fn judge(facts: &Facts, subject: &Subject) -> Option<Finding> {
    let idle = facts.lb_idle?.as_secs_f64();
    let setting = |name| facts.setting(&subject.netns, name);
    let (time, interval, probes) = (setting(KEEPALIVE_TIME)?, setting(KEEPALIVE_INTVL)?, setting(KEEPALIVE_PROBES)?);
    let noticed = time + interval * probes;
    let (severity, summary) = if time >= idle {
        let summary = format!(
            "The first probe comes after {} of silence, when the load balancer has forgotten the connection: \
             the next request is reset.",
            seconds(time)
        );
        (Severity::Risk, summary)
    } else if noticed > idle {
        let summary = format!(
            "A dead connection is noticed after {}, later than the load balancer forgets it.",
            seconds(noticed)
        );
        (Severity::Note, summary)
    } else {
        return None;
    };
    let half = (idle / 2.0).floor().max(1.0);
    let each = (idle / 12.0).floor().max(1.0);
    let finding = Finding::new(severity, subject, summary)
        .seen("idle time of the load balancer", "--lb-idle", idle, Unit::Seconds)
        .seen(KEEPALIVE_TIME, KEEPALIVE_TIME, time, Unit::Seconds)
        .seen(KEEPALIVE_INTVL, KEEPALIVE_INTVL, interval, Unit::Seconds)
        .seen(KEEPALIVE_PROBES, KEEPALIVE_PROBES, probes, Unit::Of("probes"))
        .seen("a dead peer is noticed after", KEEPALIVE_TIME, noticed, Unit::Seconds);
    Some(
        finding
            .advise(set(subject, "Probe at half of the idle time.", KEEPALIVE_TIME, &half.to_string()))
            .advise(set(subject, "Give up within it.", KEEPALIVE_INTVL, &each.to_string()))
            .advise(set(subject, "With three probes.", KEEPALIVE_PROBES, "3"))
            .say(
                "Only sockets with SO_KEEPALIVE send probes, and TCP_KEEPIDLE of an application wins: look at \
             its configuration.",
            ),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::facts::Facts;
    use super::super::tests::{check_behind, findings_behind, setting};
    use super::*;
    use Severity::{Note, Risk};

    fn settings(time: i64, interval: i64, probes: i64) -> String {
        setting("host", KEEPALIVE_TIME, time)
            + &setting("host", KEEPALIVE_INTVL, interval)
            + &setting("host", KEEPALIVE_PROBES, probes)
    }

    #[test]
    fn keepalive_under_an_idle_time() {
        let idle = Some(Duration::from_mins(2));
        check_behind(
            &KEEPALIVE,
            "",
            idle,
            &[
                ("the defaults", &settings(7200, 75, 9), &[Risk]),
                ("the first probe when it is forgotten", &settings(120, 1, 1), &[Risk]),
                ("noticed after it is forgotten", &settings(60, 75, 9), &[Note]),
                ("the document's", &settings(60, 10, 3), &[]),
            ],
        );
        let steps: Vec<_> = findings_behind(&KEEPALIVE, &settings(7200, 75, 9), idle)[0]
            .remedy
            .iter()
            .filter_map(|step| step.command.clone())
            .collect();
        assert_eq!(
            steps,
            [
                "sysctl -w net.ipv4.tcp_keepalive_time=60",
                "sysctl -w net.ipv4.tcp_keepalive_intvl=10",
                "sysctl -w net.ipv4.tcp_keepalive_probes=3"
            ]
        );
    }

    #[test]
    fn without_an_idle_time_it_cannot_tell() {
        assert!(KEEPALIVE.missing(&Facts::default()).contains(&"--lb-idle"));
    }
}
