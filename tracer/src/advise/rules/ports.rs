//! Ephemeral ports: how many one destination uses, and what lets them be used again.

use super::super::amount::{Unit, plain};
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity, Step};
use super::super::names::{CONNECT_FAILURES, PORT_RANGE, PORTS_AVAILABLE, PORTS_USED, TIME_WAIT, TIMESTAMPS, TW_REUSE};
use super::super::remedy::set;
use super::super::subject::{Scope, Subject};
use super::{NEAR, Rule, fullness};

/// Document 004, sections 4.3 (the range) and 5.3 (reuse); 003, chapter 7; 001; 000.
pub(super) const EPHEMERAL_PORTS: Rule = Rule {
    id: "ephemeral_ports",
    title: "ephemeral ports used up by one destination",
    background: "document 004, sections 4.3 and 5.3; document 003, chapter 7; document 001",
    needs: &[Need::Metric(PORTS_AVAILABLE)],
    examine: ephemeral_ports,
};

/// Document 004, section 5.3: the decision to reuse is made by timestamps.
pub(super) const REUSE_WITHOUT_TIMESTAMPS: Rule = Rule {
    id: "tw_reuse_without_timestamps",
    title: "tcp_tw_reuse without tcp_timestamps",
    background: "document 004, sections 5.3 and 5.4; document 003, chapter 7",
    needs: &[Need::Setting(TW_REUSE), Need::Setting(TIMESTAMPS)],
    examine: reuse_without_timestamps,
};

fn ephemeral_ports(facts: &Facts) -> Vec<Finding> {
    let used = facts.highest(PORTS_USED, Scope::Namespace, &[]);
    let available = facts.highest(PORTS_AVAILABLE, Scope::Namespace, &[]);
    let failed = facts.by_subject(CONNECT_FAILURES, Scope::Namespace, &[("error", "no_port")]);
    let mut namespaces: Vec<&Subject> = used.keys().chain(failed.keys()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let mut findings = Vec::new();
    for subject in namespaces {
        let (used, available) = (used.get(subject).copied(), available.get(subject).copied());
        let failed = failed.get(subject).copied();
        let near = matches!((used, available), (Some(used), Some(available)) if fullness(used, available) >= NEAR);
        let (severity, summary) = if failed.unwrap_or(0.0) > 0.0 {
            (Severity::Binds, "connect() failed with EADDRNOTAVAIL: one destination used up the ephemeral ports.")
        } else if near {
            (
                Severity::Risk,
                "One destination uses nearly all ephemeral ports; beyond them connect() fails with EADDRNOTAVAIL.",
            )
        } else {
            continue;
        };
        let setting = |name| facts.setting(&subject.netns, name);
        let range = |index| facts.setting_at(&subject.netns, PORT_RANGE, index);
        let time_wait = facts.highest(TIME_WAIT, Scope::Namespace, &[]).get(subject).copied();
        let finding = Finding::new(severity, subject, summary)
            .weighing(failed.unwrap_or(0.0))
            .seen_if("connects without a port", CONNECT_FAILURES, failed, Unit::Of("connections"))
            .seen_if("ports used by one destination", PORTS_USED, used, Unit::Of("ports"))
            .seen_if("ports in the range", PORTS_AVAILABLE, available, Unit::Of("ports"))
            .seen_if("sockets in TIME_WAIT now", TIME_WAIT, time_wait, Unit::Of("sockets"))
            .set_to(TW_REUSE, setting(TW_REUSE))
            .set_to(TIMESTAMPS, setting(TIMESTAMPS));
        let finding = finding.say("Best: keep connections in a pool, so that none is opened for each request.");
        let steps = reuse(subject, setting(TW_REUSE), setting(TIMESTAMPS)).into_iter();
        let steps = steps.chain(wider(subject, range("0"), range("1")));
        findings.push(steps.fold(finding, Finding::advise));
    }
    findings
}

/// Steps that let ports in TIME_WAIT be used again. Unknown settings are not advised upon.
fn reuse(subject: &Subject, tw_reuse: Option<f64>, timestamps: Option<f64>) -> Vec<Step> {
    let mut steps = Vec::new();
    if timestamps == Some(0.0) {
        steps.push(set(
            subject,
            "Timestamps are off, and nothing is reused without them, at either end.",
            TIMESTAMPS,
            "1",
        ));
    }
    if tw_reuse.is_some() && tw_reuse != Some(1.0) {
        let text = "Let connect() take a port that has been in TIME_WAIT for a second (2, the default, does so \
         on loopback alone).";
        steps.push(set(subject, text, TW_REUSE, "1"));
    }
    steps
}

/// A wider range, if there is one to be had.
fn wider(subject: &Subject, first: Option<f64>, last: Option<f64>) -> Option<Step> {
    /// The document's own range: all but the well-known ports.
    const WIDEST: (f64, f64) = (1024.0, 65_535.0);
    let (first, last) = (first?, last?);
    if first <= WIDEST.0 && last >= WIDEST.1 {
        return None;
    }
    let text = format!(
        "Widen the range from {} to {}; reserve the ports of services in it (net.ipv4.ip_local_reserved_ports).",
        plain(first),
        plain(last)
    );
    Some(set(subject, text, PORT_RANGE, "1024 65535"))
}

fn reuse_without_timestamps(facts: &Facts) -> Vec<Finding> {
    let namespaces = facts.namespaces_with(&[TW_REUSE, TIMESTAMPS]);
    let setting = |subject: &Subject, name| facts.setting(&subject.netns, name);
    let idle = namespaces.iter().filter(|subject| {
        // 2 is the default and for loopback: nobody set it in the hope of anything.
        setting(subject, TW_REUSE) == Some(1.0) && setting(subject, TIMESTAMPS) == Some(0.0)
    });
    idle.map(|subject| {
        let summary = "tcp_tw_reuse is on and does nothing: without timestamps no port in TIME_WAIT is used again.";
        Finding::new(Severity::Risk, subject, summary)
            .set_to(TW_REUSE, Some(1.0))
            .set_to(TIMESTAMPS, Some(0.0))
            .advise(set(subject, "Turn timestamps on; the other end must have them too.", TIMESTAMPS, "1"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings, setting};
    use super::*;
    use Severity::{Binds, Risk};

    fn ports(used: u32, failed: u32) -> String {
        format!(
            "tracer_tcp_ephemeral_ports_used{{netns=\"host\"}} {used}\n\
             tracer_tcp_ephemeral_ports_available{{netns=\"host\"}} 28232\n\
             tracer_tcp_connect_failures_total{{netns=\"host\",unit=\"a\",port=\"80\",error=\"no_port\"}} {failed}\n\
             tracer_tcp_connect_failures_total{{netns=\"host\",unit=\"a\",port=\"80\",error=\"refused\"}} 7\n"
        )
    }

    #[test]
    fn ports_that_run_out() {
        let failures_alone = "tracer_tcp_connect_failures_total{netns=\"9\",port=\"80\",error=\"no_port\"} 1\n";
        check(
            &EPHEMERAL_PORTS,
            "",
            &[
                ("none left", &ports(28_232, 5), &[Binds]),
                ("near", &ports(23_000, 0), &[Risk]),
                ("far", &ports(22_000, 0), &[]),
                ("failures alone", &(ports(0, 0) + failures_alone), &[Binds]),
            ],
        );
    }

    #[test]
    fn the_cure_depends_on_the_settings() {
        let commands = |text: &str| -> Vec<String> {
            findings(&EPHEMERAL_PORTS, text)[0].remedy.iter().filter_map(|step| step.command.clone()).collect()
        };
        let range = |first, last| {
            format!(
                "tracer_sysctl_value{{netns=\"host\",name=\"{PORT_RANGE}\",index=\"0\"}} {first}\n\
                 tracer_sysctl_value{{netns=\"host\",name=\"{PORT_RANGE}\",index=\"1\"}} {last}\n"
            )
        };
        let off = setting("host", TW_REUSE, 2) + &setting("host", TIMESTAMPS, 0) + &range(32768, 61000);
        assert_eq!(
            commands(&(ports(28_232, 5) + &off)),
            [
                "sysctl -w net.ipv4.tcp_timestamps=1",
                "sysctl -w net.ipv4.tcp_tw_reuse=1",
                "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\""
            ]
        );
        let on = setting("host", TW_REUSE, 1) + &setting("host", TIMESTAMPS, 1) + &range(1024, 65535);
        assert_eq!(commands(&(ports(28_232, 5) + &on)), Vec::<String>::new());
        assert_eq!(commands(&ports(28_232, 5)), Vec::<String>::new(), "unknown settings are not advised upon");
    }

    #[test]
    fn reuse_needs_timestamps() {
        let both = |reuse, timestamps| setting("host", TW_REUSE, reuse) + &setting("host", TIMESTAMPS, timestamps);
        check(
            &REUSE_WITHOUT_TIMESTAMPS,
            "",
            &[("idle", &both(1, 0), &[Risk]), ("works", &both(1, 1), &[]), ("the default", &both(2, 0), &[])],
        );
    }
}
