//! The memory of all sockets: `tcp_mem`, which counts pages and is often set as if it counted bytes.

use super::super::amount::{Unit, bytes};
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{ABORTS, MEMORY, MEMORY_LIMIT, MEMORY_PRESSURE, NODE_MEMORY};
use super::super::subject::Subject;
use super::{NEAR, Rule, fullness};

/// Document 004, section 3.3; 001, tuning of sockets.
pub(super) const TCP_MEMORY: Rule = Rule {
    id: "tcp_memory",
    title: "socket memory against tcp_mem",
    background: "document 004, section 3.3; document 001",
    needs: &[Need::Metric(MEMORY), Need::Metric(MEMORY_LIMIT)],
    examine: tcp_memory,
};

/// Document 004, section 3.3: "8388608 8388608 8388608" is 32 GiB.
pub(super) const IN_BYTES: Rule = Rule {
    id: "tcp_mem_in_bytes",
    title: "a tcp_mem that was meant in bytes and counts pages",
    background: "document 004, section 3.3",
    needs: &[Need::Metric(MEMORY_LIMIT), Need::Metric(NODE_MEMORY)],
    examine: in_bytes,
};

/// The kernel's own choice of max is a tenth of memory; a half leaves nothing to the rest of the node.
const SHARE_OF_NODE: f64 = 0.5;

fn limit(facts: &Facts, level: &str) -> Option<f64> {
    facts.sum(MEMORY_LIMIT, &[("level", level)])
}

fn tcp_memory(facts: &Facts) -> Vec<Finding> {
    let (Some(used), Some(pressure)) = (facts.sum(MEMORY, &[]), limit(facts, "pressure")) else { return Vec::new() };
    let entered = facts.sum(MEMORY_PRESSURE, &[]);
    let aborted = facts.sum(ABORTS, &[("reason", "memory")]);
    let (severity, summary) = if used >= pressure {
        (Severity::Binds, "TCP is under memory pressure: every socket is held to its smallest buffers.")
    } else if aborted.unwrap_or(0.0) > 0.0 {
        (Severity::Risk, "TCP ran out of memory once: the kernel closed connections to get some back.")
    } else if entered.unwrap_or(0.0) > 0.0 {
        (Severity::Risk, "TCP was under memory pressure: every socket was held to its smallest buffers meanwhile.")
    } else if fullness(used, pressure) >= NEAR {
        (
            Severity::Risk,
            "TCP's memory nears the level of pressure, where every socket falls to its smallest \
         buffers.",
        )
    } else {
        return Vec::new();
    };
    let finding = Finding::new(severity, &Subject::node(), summary)
        .seen("memory of TCP sockets now", MEMORY, used, Unit::Bytes)
        .seen("net.ipv4.tcp_mem, pressure", MEMORY_LIMIT, pressure, Unit::Bytes)
        .seen_if("net.ipv4.tcp_mem, max", MEMORY_LIMIT, limit(facts, "max"), Unit::Bytes)
        .seen_if("times under pressure, ever", MEMORY_PRESSURE, entered, Unit::Of("times"))
        .seen_if("connections closed for memory, ever", ABORTS, aborted, Unit::Of("connections"))
        .say("Find who holds it: sockets whose peer or process does not read (skmem of `ss -tmp`).")
        .say("Leave tcp_mem to the kernel, which sets it at boot by the node's memory; more memory raises it.");
    vec![finding]
}

fn in_bytes(facts: &Facts) -> Vec<Finding> {
    let (Some(max), Some(node)) = (limit(facts, "max"), facts.sum(NODE_MEMORY, &[])) else { return Vec::new() };
    let severity = if max > node {
        Severity::Risk
    } else if max > node * SHARE_OF_NODE {
        Severity::Note
    } else {
        return Vec::new();
    };
    let share =
        if severity == Severity::Risk { "more than the node has" } else { "more than half of the node's memory" };
    let summary = format!("tcp_mem lets TCP take {}, {share}: it counts pages, not bytes.", bytes(max));
    let finding = Finding::new(severity, &Subject::node(), summary)
        .seen_if("net.ipv4.tcp_mem, pressure", MEMORY_LIMIT, limit(facts, "pressure"), Unit::Bytes)
        .seen("net.ipv4.tcp_mem, max", MEMORY_LIMIT, max, Unit::Bytes)
        .seen("the node's memory", NODE_MEMORY, node, Unit::Bytes)
        .say(
            "Take the setting out of /etc/sysctl.conf and /etc/sysctl.d: the kernel sets it by the node's \
         memory at the next boot.",
        );
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings};
    use super::*;
    use Severity::{Binds, Note, Risk};

    fn limits(pressure: u64, max: u64) -> String {
        format!(
            "tracer_tcp_memory_limit_bytes{{level=\"min\"}} \
             1\ntracer_tcp_memory_limit_bytes{{level=\"pressure\"}} {pressure}\n\
             tracer_tcp_memory_limit_bytes{{level=\"max\"}} {max}\n"
        )
    }

    #[test]
    fn memory_that_runs_out() {
        let pressure = "tracer_tcp_memory_bytes 1\ntracer_tcp_memory_pressure_total{netns=\"host\"} 2\n";
        let killed = "tracer_tcp_memory_bytes 1\ntracer_tcp_aborts_total{netns=\"host\",reason=\"memory\"} 2\n";
        check(
            &TCP_MEMORY,
            &limits(1000, 1500),
            &[
                ("beyond pressure", "tracer_tcp_memory_bytes 1000\n", &[Binds]),
                ("was there", pressure, &[Risk]),
                ("connections closed", killed, &[Risk]),
                ("near", "tracer_tcp_memory_bytes 800\n", &[Risk]),
                ("far", "tracer_tcp_memory_bytes 799\n", &[]),
            ],
        );
    }

    #[test]
    fn the_documents_32_gib() {
        let max: u64 = 8_388_608 * 4096;
        check(
            &IN_BYTES,
            &limits(max, max),
            &[
                ("a node of 16 GiB", &format!("tracer_node_memory_bytes {}\n", max / 2), &[Risk]),
                ("a node of 48 GiB", &format!("tracer_node_memory_bytes {}\n", max / 2 * 3), &[Note]),
                ("a node of 512 GiB", &format!("tracer_node_memory_bytes {}\n", max * 16), &[]),
            ],
        );
        let text = limits(max, max) + "tracer_node_memory_bytes 17179869184\n";
        assert!(findings(&IN_BYTES, &text)[0].summary.contains("32.0 GiB"));
    }
}
