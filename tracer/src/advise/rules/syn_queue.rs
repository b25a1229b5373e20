//! The SYN queue: handshakes under way, and the settings that forbid cookies and shrink it where there are none.

use std::collections::BTreeMap;

use super::super::amount::Unit;
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{ACCEPT_LIMIT, LISTEN_DROPS, MAX_SYN_BACKLOG, SYN_LENGTH, SYN_LIMIT, SYNCOOKIES};
use super::super::remedy::{restart, roomier, set};
use super::super::subject::Scope;
use super::Rule;

/// Document 002: spoofed SYNs pile up in SYN_RECV until the queue is full.
pub(super) const FULL: Rule = Rule {
    id: "syn_queue_full",
    title: "SYNs that found the SYN queue full and got no cookie",
    background: "document 002; document 001",
    needs: &[Need::Metric(LISTEN_DROPS)],
    examine: full,
};

/// Document 004, section 4.2; 002 on how it differs from somaxconn.
pub(super) const MAX_SYN_BACKLOG_RULE: Rule = Rule {
    id: "max_syn_backlog",
    title: "a tcp_max_syn_backlog that keeps SYN queues shorter than their backlog",
    background: "document 004, section 4.2; document 002",
    needs: &[Need::Metric(ACCEPT_LIMIT), Need::Setting(MAX_SYN_BACKLOG), Need::Setting(SYNCOOKIES)],
    examine: max_syn_backlog,
};

/// Row 14 of the project's table of limits; 002 on SYNs that fill a queue. None of the documents treats the setting.
pub(super) const COOKIES_OFF: Rule = Rule {
    id: "syn_cookies_off",
    title: "SYN cookies that are off",
    background: "this project's table of limits, row 14; document 002",
    needs: &[Need::Setting(SYNCOOKIES)],
    examine: cookies_off,
};

fn full(facts: &Facts) -> Vec<Finding> {
    let drops = facts.by_subject(LISTEN_DROPS, Scope::Listener, &[("reason", "syn_queue_full")]);
    let limits = facts.highest(SYN_LIMIT, Scope::Listener, &[]);
    let lengths = facts.highest(SYN_LENGTH, Scope::Listener, &[]);
    let dropped = drops.into_iter().filter(|(_, n)| *n > 0.0);
    dropped
        .map(|(subject, n)| {
            let syncookies = facts.setting(&subject.netns, SYNCOOKIES);
            let finding = Finding::new(Severity::Binds, &subject, "The SYN queue was full and dropped SYNs.")
                .weighing(n)
                .seen("dropped, SYN queue full", LISTEN_DROPS, n, Unit::Of("packets"))
                .seen_if("SYN queue limit", SYN_LIMIT, limits.get(&subject).copied(), Unit::Of("connections"))
                .seen_if("SYN queue length now", SYN_LENGTH, lengths.get(&subject).copied(), Unit::Of("connections"))
                .set_to(SYNCOOKIES, syncookies)
                .set_to(MAX_SYN_BACKLOG, facts.setting(&subject.netns, MAX_SYN_BACKLOG));
            let finding = if syncookies == Some(0.0) {
                finding.advise(set(&subject, "Answer with cookies when the queue is full.", SYNCOOKIES, "1"))
            } else {
                finding.say(
                    "Find out where the SYNs come from; a queue that fills with cookies on is a flood \
                 or a lost path back.",
                )
            };
            finding.advise(restart(&subject, "with a larger backlog, which limits the SYN queue too."))
        })
        .collect()
}

/// Namespaces in which `tcp_max_syn_backlog` limits SYN queues: the largest backlog there, and how many
/// listeners are concerned. With cookies the setting does nothing: the backlog alone limits the queue.
fn shortened(facts: &Facts) -> BTreeMap<String, (f64, f64)> {
    let mut largest: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for (subject, backlog) in facts.highest(ACCEPT_LIMIT, Scope::Listener, &[]) {
        let setting = |name| facts.setting(&subject.netns, name);
        if let (Some(max), Some(0.0)) = (setting(MAX_SYN_BACKLOG), setting(SYNCOOKIES))
            && max * 0.75 < backlog
        {
            let (highest, listeners) = largest.entry(subject.netns.clone()).or_default();
            *highest = highest.max(backlog);
            *listeners += 1.0;
        }
    }
    largest
}

fn max_syn_backlog(facts: &Facts) -> Vec<Finding> {
    shortened(facts)
        .into_iter()
        .map(|(netns, (backlog, listeners))| {
            let subject = facts.namespace(&netns);
            let summary = "Without cookies, unproven clients get three quarters of tcp_max_syn_backlog, which \
             is less than listeners ask for.";
            Finding::new(Severity::Risk, &subject, summary)
                .weighing(listeners)
                .set_to(MAX_SYN_BACKLOG, facts.setting(&netns, MAX_SYN_BACKLOG))
                .set_to(SYNCOOKIES, Some(0.0))
                .seen("largest backlog", ACCEPT_LIMIT, backlog, Unit::Of("connections"))
                .seen("listeners above three quarters", ACCEPT_LIMIT, listeners, Unit::Of("listeners"))
                .advise(set(
                    &subject,
                    "Answer with cookies when a queue is full: then the setting does not \
                 matter.",
                    SYNCOOKIES,
                    "1",
                ))
                .advise(set(&subject, "Or raise it.", MAX_SYN_BACKLOG, &roomier(backlog / 2.0, 1 << 20)))
        })
        .collect()
}

fn cookies_off(facts: &Facts) -> Vec<Finding> {
    let shortened = shortened(facts);
    let off = facts.namespaces_with(&[SYNCOOKIES]).into_iter().filter(|subject| {
        // Where it shortens queues as well, the rule before says so, with the same remedy.
        facts.setting(&subject.netns, SYNCOOKIES) == Some(0.0) && !shortened.contains_key(&subject.netns)
    });
    off.map(|subject| {
        let summary = "A SYN queue that is full drops SYNs instead of answering with cookies: a small flood stops a \
             listener.";
        Finding::new(Severity::Risk, &subject, summary).set_to(SYNCOOKIES, Some(0.0)).advise(set(
            &subject,
            "Answer with cookies when a queue is full, as by default.",
            SYNCOOKIES,
            "1",
        ))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings, setting};
    use super::*;
    use Severity::{Binds, Risk};

    fn drops(n: u32) -> String {
        format!(
            "tracer_tcp_listen_drops_total{{netns=\"host\",process=\"web\",port=\"80\",reason=\"syn_queue_full\"}} {n}\n"
        )
    }

    #[test]
    fn a_full_syn_queue() {
        check(&FULL, "", &[("dropped", &drops(3), &[Binds]), ("nothing dropped", &drops(0), &[])]);
        let command = |text: &str| findings(&FULL, text)[0].remedy[0].command.clone();
        assert_eq!(
            command(&(drops(3) + &setting("host", SYNCOOKIES, 0))).as_deref(),
            Some("sysctl -w net.ipv4.tcp_syncookies=1")
        );
        assert_eq!(command(&(drops(3) + &setting("host", SYNCOOKIES, 1))), None);
    }

    #[test]
    fn a_short_max_syn_backlog() {
        let text = |max, cookies, backlog| {
            setting("host", MAX_SYN_BACKLOG, max)
                + &setting("host", SYNCOOKIES, cookies)
                + &format!("tracer_tcp_accept_queue_limit{{netns=\"host\",port=\"80\"}} {backlog}\n")
        };
        check(
            &MAX_SYN_BACKLOG_RULE,
            "",
            &[
                ("below the backlog, no cookies", &text(128, 0, 511), &[Risk]),
                ("exactly three quarters", &text(128, 0, 96), &[]),
                ("with cookies it does nothing", &text(128, 1, 511), &[]),
            ],
        );
    }

    #[test]
    fn cookies_that_are_off() {
        let text = |netns, cookies, max| {
            setting(netns, SYNCOOKIES, cookies)
                + &setting(netns, MAX_SYN_BACKLOG, max)
                + &format!("tracer_tcp_accept_queue_limit{{netns=\"{netns}\",port=\"80\"}} 511\n")
        };
        check(
            &COOKIES_OFF,
            "",
            &[
                ("off", &text("host", 0, 4096), &[Risk]),
                ("queues are shortened too, which is another rule's", &text("host", 0, 128), &[]),
                ("when a queue is full", &text("host", 1, 4096), &[]),
                ("always", &text("host", 2, 4096), &[]),
                ("in a namespace alone", &(text("host", 1, 4096) + &setting("7", SYNCOOKIES, 0)), &[Risk]),
                ("but in a namespace", &(text("host", 0, 4096) + &setting("7", SYNCOOKIES, 1)), &[Risk]),
            ],
        );
        let off = &findings(&COOKIES_OFF, &(text("host", 1, 4096) + &setting("7", SYNCOOKIES, 0)))[0];
        assert_eq!(off.subject.netns, "7");
    }
}
