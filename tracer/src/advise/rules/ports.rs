//! Ephemeral ports: how many one destination uses, and what lets them be used again.

use std::rc::Rc;

use super::super::amount::{Unit, plain};
use super::super::destinations::{Cause, Destinations, PortUse, STATUS};
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity, Step};
use super::super::names::{
    BIND_FAILURES, CONNECT_FAILURES, PORT_RANGE, PORTS_AVAILABLE, PORTS_USED, TIME_WAIT, TIMESTAMPS, TW_REUSE,
};
use super::super::remedy::{look, set};
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
    let in_vain = facts.by_subject(BIND_FAILURES, Scope::Namespace, &[]);
    let mut namespaces: Vec<&Rc<Subject>> = used.keys().chain(failed.keys()).chain(in_vain.keys()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let mut findings = Vec::new();
    for subject in namespaces {
        let (used, available) = (used.get(subject).copied(), available.get(subject).copied());
        let (failed, in_vain) = (failed.get(subject).copied(), in_vain.get(subject).copied());
        let near = matches!((used, available), (Some(used), Some(available)) if fullness(used, available) >= NEAR);
        let (severity, summary) = if failed.unwrap_or(0.0) > 0.0 {
            (Severity::Binds, "connect() failed with EADDRNOTAVAIL: one destination used up the ephemeral ports.")
        } else if in_vain.unwrap_or(0.0) > 0.0 {
            (Severity::Binds, "bind() for any port failed with EADDRINUSE: the address used up the ephemeral ports.")
        } else if near {
            (
                Severity::Risk,
                "One destination uses nearly all ephemeral ports; beyond them connect() fails with EADDRNOTAVAIL, and \
                 bind() for any port with EADDRINUSE.",
            )
        } else {
            continue;
        };
        let setting = |name| facts.setting(&subject.netns, name);
        let range = |index| facts.setting_at(&subject.netns, PORT_RANGE, index);
        let time_wait = facts.highest(TIME_WAIT, Scope::Namespace, &[]).get(subject).copied();
        let finding = Finding::new(severity, subject, summary)
            .weighing(failed.unwrap_or(0.0) + in_vain.unwrap_or(0.0))
            .seen_if("connects without a port", CONNECT_FAILURES, failed, Unit::Of("connections"))
            .seen_if("binds without a port", BIND_FAILURES, in_vain, Unit::Of("calls"))
            .seen_if("ports used by one destination", PORTS_USED, used, Unit::Of("ports"))
            .seen_if("ports in the range", PORTS_AVAILABLE, available, Unit::Of("ports"));
        let finding = name_destinations(finding, &facts.destinations)
            .seen_if("sockets in TIME_WAIT now", TIME_WAIT, time_wait, Unit::Of("sockets"))
            .set_to(TW_REUSE, setting(TW_REUSE))
            .set_to(TIMESTAMPS, setting(TIMESTAMPS));
        let finding = finding.say("Best: keep connections in a pool, so that none is opened for each request.");
        let is_bound = in_vain.unwrap_or(0.0) > 0.0 || takes_from_all(&facts.destinations, subject, used);
        let finding = if is_bound { finding.say(LATE_PORT) } else { finding };
        let steps = reuse(subject, setting(TW_REUSE), setting(TIMESTAMPS)).into_iter();
        let steps = steps.chain(wider(subject, range("0"), range("1")));
        findings.push(steps.fold(finding, Finding::advise));
    }
    findings
}

const LATE_PORT: &str = "Bind no port before connect(): bind() takes it from all destinations, and TIME_WAIT keeps it from \
     them. With IP_BIND_ADDRESS_NO_PORT the address alone is bound, and connect() chooses the port.";

/// Whether half of the ports in use are such as `bind()` or `listen()` took from all destinations.
fn takes_from_all(destinations: &Destinations, subject: &Subject, used: Option<f64>) -> bool {
    let bound = destinations.of(&subject.netns).map_or(0, |found| found.bound);
    used.is_some_and(|used| bound > 0 && f64::from(bound) * 2.0 >= used)
}

/// Destinations that are named: the one that matters, and what tells that it stands out.
const NAMED: usize = 3;

/// Says who uses the ports, or else why that is not known and how to find out.
fn name_destinations(finding: Finding, destinations: &Destinations) -> Finding {
    match destinations.of(&finding.subject.netns) {
        Ok(found) => named(finding, found),
        Err(cause) => {
            let step = count_by_hand(&finding.subject, &cause);
            finding.advise(step)
        }
    }
}

fn named(finding: Finding, found: &PortUse) -> Finding {
    let busiest = &found.destinations[..found.destinations.len().min(NAMED)];
    let is_ambiguous = |to| busiest.iter().filter(|other| other.destination == to).count() > 1;
    let finding = busiest.iter().fold(finding, |finding, destination| {
        let to = destination.destination;
        let from = if is_ambiguous(to) { format!(" from {}", destination.source) } else { String::new() };
        finding.seen_towards(format!("now to {to}{from}"), destination)
    });
    let at_most = found.uncounted_at_most().map(f64::from);
    let bound = (found.bound > 0).then(|| f64::from(found.bound));
    let finding = finding.seen_if("now taken from all by bind() or listen()", STATUS, bound, Unit::Of("ports"));
    finding.seen_if("now to one not counted apart, at most", STATUS, at_most, Unit::Of("ports"))
}

fn count_by_hand(subject: &Subject, cause: &Cause) -> Step {
    // A listener's peer ends in an asterisk.
    let count = "ss -Htan | awk '$5 !~ /[*]$/ {print $5}' | sort | uniq -c | sort -rn | head -n 3";
    look(subject, format!("{cause} Count connections by destination."), count)
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
    use serde_json::json;

    use super::super::tests::{check, findings_beside, setting};
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

    /// Who binds before it connects is told so, by the calls that failed or by what the ports are taken for.
    #[test]
    fn ports_that_bind_took() {
        let in_vain = "tracer_tcp_bind_failures_total{netns=\"host\",unit=\"a\"} 4\n";
        let status = |bound: u32| {
            let row = json!({ "netns": "host", "bound": bound, "destinations": [] });
            Destinations::parse(&json!({ "ports": [row] }).to_string())
        };
        for (text, destinations, severity, summary, is_told) in [
            (ports(0, 0) + in_vain, Destinations::default(), Binds, "bind() for any port failed", true),
            (ports(23_000, 0), status(11_500), Risk, "nearly all", true),
            (ports(23_000, 0), status(11_499), Risk, "nearly all", false),
        ] {
            let finding = &findings_beside(&EPHEMERAL_PORTS, &text, destinations)[0];
            assert!(finding.severity == severity && finding.summary.contains(summary), "{finding:?}");
            let told = finding.remedy.iter().any(|step| step.text.contains("IP_BIND_ADDRESS_NO_PORT"));
            assert_eq!(told, is_told, "{:?}", finding.remedy);
        }
        let found = &findings_beside(&EPHEMERAL_PORTS, &ports(23_000, 0), status(7))[0];
        assert_eq!(named(found), [("now taken from all by bind() or listen()", "7 ports".to_owned())]);
    }

    /// `/status` with these destinations of the host's namespace: from, to, ports used.
    fn towards(destinations: &[(&str, &str, u32)]) -> Destinations {
        let rows = destinations
            .iter()
            .map(|(source, to, used)| json!({ "source": source, "destination": to, "used": used, "time_wait": 7 }));
        let ports = json!({ "netns": "host", "destinations": rows.collect::<Vec<_>>() });
        Destinations::parse(&json!({ "ports": [ports] }).to_string())
    }

    /// Facts that rest on `/status`, with their numbers.
    fn named(finding: &Finding) -> Vec<(&str, String)> {
        let rows = finding.evidence.iter().filter(|evidence| evidence.source == STATUS);
        rows.map(|evidence| (evidence.fact.as_str(), evidence.unit.show(evidence.value))).collect()
    }

    #[test]
    fn the_largest_destinations_are_named() {
        let v4 = ("10.0.0.1", "10.0.0.2:80", 28_232);
        for (what, text, destinations, expected) in [
            ("one", ports(28_232, 5), &[v4][..], &[("now to 10.0.0.2:80", "28232 ports")][..]),
            (
                "more than are named",
                ports(23_000, 0),
                &[v4, ("::1", "[::1]:443", 9), ("10.0.0.1", "10.0.0.3:80", 2), ("10.0.0.1", "10.0.0.4:80", 1)],
                &[
                    ("now to 10.0.0.2:80", "28232 ports"),
                    ("now to [::1]:443", "9 ports"),
                    ("now to 10.0.0.3:80", "2 ports"),
                ],
            ),
            (
                "one from two addresses",
                ports(28_232, 0),
                &[v4, ("10.0.0.9", "10.0.0.2:80", 5), ("10.0.0.9", "10.0.0.3:80", 1)],
                &[
                    ("now to 10.0.0.2:80 from 10.0.0.1", "28232 ports"),
                    ("now to 10.0.0.2:80 from 10.0.0.9", "5 ports"),
                    ("now to 10.0.0.3:80", "1 port"),
                ],
            ),
        ] {
            let finding = &findings_beside(&EPHEMERAL_PORTS, &text, towards(destinations))[0];
            let expected: Vec<_> = expected.iter().map(|(fact, number)| (*fact, (*number).to_owned())).collect();
            assert_eq!(named(finding), expected, "{what}");
            assert!(finding.remedy[0].text.starts_with("Best: "), "{what}: {:?}", finding.remedy);
        }
        assert_eq!(findings_beside(&EPHEMERAL_PORTS, &ports(9, 0), towards(&[v4])), [], "no reason to name anybody");
    }

    #[test]
    fn the_busiest_may_be_one_that_was_not_counted_apart() {
        let incomplete = r#"{ "ports": [{ "netns": "host", "incomplete": { "used_at_most": 9 },
            "destinations": [{ "source": "10.0.0.1", "destination": "10.0.0.2:80", "used": 8, "time_wait": 0 }] }] }"#;
        let finding = &findings_beside(&EPHEMERAL_PORTS, &ports(0, 5), Destinations::parse(incomplete))[0];
        assert_eq!(named(finding)[1], ("now to one not counted apart, at most", "9 ports".to_owned()));
    }

    #[test]
    fn who_is_not_named_can_be_counted_by_hand() {
        for (destinations, why) in [
            (Destinations::default(), "/metrics does not name the destination: a running agent does (--from http"),
            (
                Destinations::Unknown(Cause::NotServed("a/status answered 404 Not Found".to_owned())),
                "The agent's /status would name the destination, but could not be fetched (a/status answered 404 Not Found). Count",
            ),
            (Destinations::parse("{}"), "(missing field `ports` at line 1 column 2): is the agent older? Count"),
            (towards(&[]), "No walk over this namespace has counted a destination's ports by now. Count"),
        ] {
            let finding = &findings_beside(&EPHEMERAL_PORTS, &ports(28_232, 5), destinations)[0];
            assert_eq!(named(finding), []);
            let step = &finding.remedy[0];
            assert!(
                step.text.contains(why) && step.text.ends_with("Count connections by destination."),
                "{}",
                step.text
            );
            assert!(step.command.as_deref().is_some_and(|command| command.starts_with("ss -Htan | ")), "{step:?}");
        }
    }

    #[test]
    fn the_cure_depends_on_the_settings() {
        let commands = |text: &str| -> Vec<String> {
            let known = towards(&[("10.0.0.1", "10.0.0.2:80", 9)]);
            let finding = &findings_beside(&EPHEMERAL_PORTS, text, known)[0];
            finding.remedy.iter().filter_map(|step| step.command.clone()).collect()
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
