//! How long an established or an orphaned connection is tried for.

use super::super::amount::{Unit, seconds};
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{ABORTS, ORPHAN_RETRIES, RETRIES2};
use super::super::remedy::set;
use super::super::subject::Scope;
use super::Rule;

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

/// RTO_MIN and RTO_MAX in seconds.
const PAUSE_MIN_SECONDS: f64 = 0.2;
const PAUSE_MAX_SECONDS: f64 = 120.0;
/// RFC 1122, section 4.2.3.5: at least 100 s, which are eight retries.
const RETRIES2_MIN: f64 = 8.0;
/// The kernel's default, 15 minutes and more.
const RETRIES2_DEFAULT: f64 = 15.0;
/// The document's figure: about the 60 s of TIME_WAIT.
const ORPHAN_RETRIES_MIN: f64 = 7.0;

/// Seconds until a connection is given up, at the smallest RTO: the kernel's own reckoning.
fn patience_seconds(retries: f64) -> f64 {
    let (mut pause, mut total, mut left) = (PAUSE_MIN_SECONDS, 0.0, retries);
    while left >= 0.0 {
        total += pause;
        pause = f64::min(pause * 2.0, PAUSE_MAX_SECONDS);
        left -= 1.0;
    }
    total
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
