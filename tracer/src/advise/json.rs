//! Advice for scripts: one object. Its fields are a contract and stand in docs/advise.md; fields may
//! be added, none is renamed.

use serde_json::{Value, json};

use super::destinations::Destination;
use super::finding::{Evidence, Severity};
use super::{Advice, Ruled, Source};

/// The object.
#[must_use]
pub fn value(source: &Source, agent_version: Option<&str>, advice: &Advice) -> Value {
    let untold = advice.untold.iter().map(|untold| json!({ "rule": untold.rule.id, "missing": untold.missing }));
    json!({
        "verdict": verdict(advice.worst()),
        "source": {
            "kind": source.origin.kind(),
            "place": source.origin.place(),
            "agent_version": agent_version,
            "since": source.since,
            "seconds": source.seconds,
        },
        "findings": advice.findings.iter().map(finding).collect::<Vec<_>>(),
        "findings_left_out": advice.left_out.len(),
        "cannot_tell": untold.collect::<Vec<_>>(),
    })
}

/// The most urgent severity that asks for something to be done.
const fn verdict(worst: Option<Severity>) -> &'static str {
    match worst {
        Some(Severity::Binds) => "binds",
        Some(Severity::Risk) => "risk",
        Some(Severity::Note) | None => "clear",
    }
}

fn finding(Ruled { rule, finding }: &Ruled) -> Value {
    json!({
        "rule": rule.id,
        "title": rule.title,
        "severity": finding.severity,
        "subject": finding.subject,
        "summary": finding.summary,
        "evidence": finding.evidence.iter().map(evidence).collect::<Vec<_>>(),
        "remedy": finding.remedy,
        "background": rule.background,
    })
}

fn evidence(evidence: &Evidence) -> Value {
    let mut object = json!({
        "fact": evidence.fact,
        "source": evidence.source,
        "value": number(evidence.value),
        "unit": evidence.unit.name(),
    });
    if let Some(towards) = &evidence.destination {
        object["destination"] = destination(towards);
    }
    object
}

fn destination(towards: &Destination) -> Value {
    json!({
        "address": towards.destination.ip(),
        "port": towards.destination.port(),
        "from": towards.source,
        "time_wait": towards.time_wait,
    })
}

/// Whole numbers without a fraction, as scripts compare them; what is no number is null.
fn number(value: f64) -> Value {
    /// Up to here every whole number is exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
        let whole = value as i64;
        return json!(whole);
    }
    json!(value)
}

#[cfg(test)]
mod tests {
    use super::super::destinations::Destinations;
    use super::super::exposition::Exposition;
    use super::super::facts::Facts;
    use super::super::{Origin, Source};
    use super::*;

    #[test]
    fn the_object_is_the_documented_one() {
        let text = "tracer_build_info{version=\"0.1.0\",revision=\"x\"} 1\n\
            tracer_sysctl_value{netns=\"host\",name=\"net.ipv4.tcp_window_scaling\",index=\"0\"} 0\n";
        let facts = Facts::new(Exposition::parse(text).unwrap(), None);
        let source = Source { origin: Origin::Snapshot, since: None, seconds: Some(10) };
        let mut object = value(&source, facts.agent_version(), &Advice::on(&facts));
        let untold = object["cannot_tell"].as_array().unwrap();
        assert!(untold.iter().any(|untold| untold["rule"] == "keepalive" && untold["missing"][0] == "--lb-idle"));
        object["cannot_tell"] = json!([]);
        let expected = json!({
            "verdict": "risk",
            "source": { "kind": "snapshot", "place": null, "agent_version": "0.1.0", "since": null, "seconds": 10 },
            "findings": [{
                "rule": "window_scaling",
                "title": "window scaling that is off",
                "severity": "risk",
                "subject": { "netns": "host" },
                "summary": "No window is larger than 64 KiB: throughput is at most that for each round trip.",
                "evidence": [
                    { "fact": "net.ipv4.tcp_window_scaling", "source": "net.ipv4.tcp_window_scaling", "value": 0, "unit": "" },
                    { "fact": "most in 1 s at 40 ms round \
                     trip", "source": "net.ipv4.tcp_window_scaling", "value": 1_638_375, "unit": "bytes" },
                ],
                "remedy": [{
                    "text": "Turn it on, for connections from then on.",
                    "command": "sysctl -w net.ipv4.tcp_window_scaling=1",
                }],
                "background": "document 004, sections 3.1 and 3.2",
            }],
            "cannot_tell": [],
            "findings_left_out": 0,
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn a_destination_is_taken_apart() {
        let text = "tracer_tcp_ephemeral_ports_used{netns=\"host\"} 90\ntracer_tcp_ephemeral_ports_available{netns=\"host\"} 100\n";
        let status = r#"{ "ports": [{ "netns": "host", "destinations": [
            { "source": "2001:db8::1", "destination": "[2001:db8::2]:80", "used": 90, "time_wait": 80 }] }] }"#;
        let facts = Facts::new(Exposition::parse(text).unwrap(), None).beside(Destinations::parse(status));
        let finding = finding(&Advice::on(&facts).findings[0]);
        let expected = json!({
            "fact": "now to [2001:db8::2]:80",
            "source": "/status",
            "value": 90,
            "unit": "ports",
            "destination": { "address": "2001:db8::2", "port": 80, "from": "2001:db8::1", "time_wait": 80 },
        });
        assert_eq!(finding["evidence"][2], expected);
    }

    #[test]
    fn what_is_no_number_is_null() {
        assert_eq!([number(3.0), number(0.5), number(f64::NAN)], [json!(3), json!(0.5), Value::Null]);
    }
}
