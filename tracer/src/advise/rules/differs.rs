//! Settings that were changed on the host and do not reach a network namespace.

use std::collections::{BTreeMap, HashMap};

use super::super::amount::Unit;
use super::super::facts::{Facts, HOST, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{
    FIN_TIMEOUT, KEEPALIVE_TIME, MAX_SYN_BACKLOG, MAX_TW_BUCKETS, SOMAXCONN, SYN_RETRIES, SYNCOOKIES, SYSCTL,
    TIMESTAMPS, TW_REUSE,
};
use super::super::subject::Subject;
use super::Rule;

/// Document 004, sections 4.2 and 5.2: what people raise with `sysctl -w` on the host.
pub(super) const DIFFERS: Rule = Rule {
    id: "namespace_differs",
    title: "settings that differ between the host and a network namespace",
    background: "document 004, sections 4.2 and 5.2",
    needs: &[Need::Metric(SYSCTL)],
    examine: differs,
};

/// What operators change on the host, and each namespace has for itself.
const COMPARED: [&str; 9] = [
    SOMAXCONN,
    MAX_SYN_BACKLOG,
    SYNCOOKIES,
    MAX_TW_BUCKETS,
    TW_REUSE,
    TIMESTAMPS,
    FIN_TIMEOUT,
    KEEPALIVE_TIME,
    SYN_RETRIES,
];

/// Namespaces shown by name; the rest is a number.
const NAMED_MAX: usize = 3;

/// A setting that a namespace has for itself: name, value there, value of the host.
type Own = (&'static str, f64, f64);

fn differs(facts: &Facts) -> Vec<Finding> {
    let mut namespaces: BTreeMap<Subject, Vec<Own>> = BTreeMap::new();
    for name in COMPARED {
        let Some(host) = facts.setting(HOST, name) else { continue };
        for row in facts.rows(SYSCTL, &[("name", name)]).filter(|row| row.value.total_cmp(&host).is_ne()) {
            namespaces.entry(facts.namespace(row.label("netns"))).or_default().push((name, row.value, host));
        }
    }
    // Many pods have the same: one finding for all of them.
    let mut alike: Vec<(Vec<Own>, Vec<Subject>)> = Vec::new();
    let mut places: HashMap<Vec<(&str, u64)>, usize> = HashMap::new();
    for (subject, own) in namespaces {
        // The host's value is the same for all.
        let values = own.iter().map(|(name, value, _)| (*name, value.to_bits())).collect();
        let place = *places.entry(values).or_insert(alike.len());
        match alike.get_mut(place) {
            Some((_, subjects)) => subjects.push(subject),
            None => alike.push((own, vec![subject])),
        }
    }
    alike.iter().map(|(own, subjects)| of(own, subjects)).collect()
}

fn of(own: &[Own], subjects: &[Subject]) -> Finding {
    let mut names: Vec<String> = subjects.iter().take(NAMED_MAX).map(Subject::describe).collect();
    if subjects.len() > NAMED_MAX {
        names.push(format!("{} more", subjects.len() - NAMED_MAX));
    }
    let summary = format!("Settings of the host do not hold in {}.", names.join("; "));
    let subject = if let [one] = subjects { one.clone() } else { Subject::node() };
    #[expect(clippy::cast_precision_loss, reason = "a node has a few thousand namespaces at most")]
    let count = subjects.len() as f64;
    let mut finding = Finding::new(Severity::Note, &subject, summary).weighing(count);
    for (name, there, host) in own {
        finding = finding.seen(format!("{name}, there"), SYSCTL, *there, Unit::Setting).seen(
            format!("{name}, host"),
            SYSCTL,
            *host,
            Unit::Setting,
        );
    }
    finding.seen("such namespaces", SYSCTL, count, Unit::Of("namespaces")).say(
        "Where the host's value was meant for them, set it in each: pods by spec.securityContext.sysctls, \
         containers by --sysctl, others as they are made.",
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings, setting};
    use super::*;
    use Severity::Note;

    #[test]
    fn settings_that_do_not_reach() {
        let host = setting("host", SOMAXCONN, 4096);
        check(
            &DIFFERS,
            &host,
            &[
                ("one", &setting("7", SOMAXCONN, 128), &[Note]),
                ("the same", &setting("7", SOMAXCONN, 4096), &[]),
                ("a setting that is not the namespace's", &setting("7", "net.ipv4.tcp_retries1", 2), &[]),
                ("two values", &(setting("7", SOMAXCONN, 128) + &setting("8", SOMAXCONN, 64)), &[Note, Note]),
                (
                    "two settings",
                    &(setting("7", SOMAXCONN, 128) + &setting("host", SYNCOOKIES, 1) + &setting("7", SYNCOOKIES, 0)),
                    &[Note],
                ),
            ],
        );
    }

    #[test]
    fn many_pods_are_one_finding() {
        let pods: String = (1..=5).map(|netns| setting(&netns.to_string(), SOMAXCONN, 128)).collect();
        let found = findings(&DIFFERS, &(setting("host", SOMAXCONN, 4096) + &pods));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].summary, "Settings of the host do not hold in netns 1; netns 2; netns 3; 2 more.");
        assert_eq!(found[0].subject, Subject::node());
    }
}
