//! The queue between a network device and TCP.

use super::super::amount::Unit;
use super::super::facts::{Facts, HOST, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{NETDEV_MAX_BACKLOG, SOFTNET_DROPPED};
use super::super::remedy::{roomier, set};
use super::super::subject::Subject;
use super::Rule;

/// Document 004, section 4.2; 001, tuning of capacity.
pub(super) const BACKLOG: Rule = Rule {
    id: "device_backlog",
    title: "packets dropped before TCP saw them",
    background: "document 004, section 4.2; document 001",
    needs: &[Need::Metric(SOFTNET_DROPPED)],
    examine: backlog,
};

/// The kernel's default. Fewer packets in all the time since the boot were one burst, and not the whole of it.
const QUEUE_DEFAULT: f64 = 1000.0;

fn backlog(facts: &Facts) -> Vec<Finding> {
    let Some(dropped) = facts.sum(SOFTNET_DROPPED, &[]).filter(|dropped| *dropped > 0.0) else { return Vec::new() };
    let busiest = facts.rows(SOFTNET_DROPPED, &[]).max_by(|a, b| a.value.total_cmp(&b.value));
    let limit = facts.setting(HOST, NETDEV_MAX_BACKLOG);
    let severity = if dropped < limit.unwrap_or(QUEUE_DEFAULT) { Severity::Note } else { Severity::Risk };
    let finding = Finding::new(
        severity,
        &Subject::node(),
        "Packets were dropped because the queue from the device to the kernel was full; no application learns of it.",
    )
    .weighing(dropped)
    .seen("packets dropped since boot", SOFTNET_DROPPED, dropped, Unit::Of("packets"));
    let finding = match busiest {
        Some(row) => finding.seen(
            format!("most of them, on CPU {}", row.label("cpu")),
            SOFTNET_DROPPED,
            row.value,
            Unit::Of("packets"),
        ),
        None => finding,
    };
    let finding = finding.set_to(NETDEV_MAX_BACKLOG, limit);
    let larger = roomier(limit.unwrap_or(QUEUE_DEFAULT), 1 << 18);
    vec![
        finding
            .advise(set(
                &Subject::node(),
                "Allow a longer queue: memory is all it \
             costs.",
                NETDEV_MAX_BACKLOG,
                &larger,
            ))
            .say("If one CPU has nearly all, spread the device's queues over CPUs (RSS, or RPS in rps_cpus)."),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings, setting};
    use super::*;

    fn softnet(first: u32, second: u32) -> String {
        format!(
            "tracer_softnet_dropped_packets_total{{cpu=\"0\"}} \
             {first}\ntracer_softnet_dropped_packets_total{{cpu=\"1\"}} {second}\n"
        )
    }

    #[test]
    fn packets_dropped() {
        check(
            &BACKLOG,
            "",
            &[
                ("many", &softnet(2, 998), &[Severity::Risk]),
                ("a few", &softnet(0, 999), &[Severity::Note]),
                ("none", &softnet(0, 0), &[]),
            ],
        );
        let finding = &findings(&BACKLOG, &(softnet(2, 9) + &setting("host", NETDEV_MAX_BACKLOG, 1000)))[0];
        assert_eq!(finding.evidence[1].fact, "most of them, on CPU 1");
        assert_eq!(finding.remedy[0].command.as_deref(), Some("sysctl -w net.core.netdev_max_backlog=4096"));
    }
}
