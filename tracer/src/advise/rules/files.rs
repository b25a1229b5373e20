//! Descriptors: of each process that listens, and of the whole node.

use super::super::amount::Unit;
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity, Step};
use super::super::names::{
    ACCEPT_LENGTH, ACCEPT_LIMIT, FILE_HANDLES, FILE_HANDLES_LIMIT, OPEN_FILES, OPEN_FILES_LIMIT,
};
use super::super::remedy::{quote, restart, roomier, set};
use super::super::subject::{Scope, Subject};
use super::{NEAR, Rule, fullness};

/// Document 000: stuck at some 930 sockets with a limit of 1024; 004, section 4.1.
pub(super) const OPEN_FILES_RULE: Rule = Rule {
    id: "open_files",
    title: "a listening process near its limit of open files",
    background: "document 000, the C10K test; document 004, section 4.1",
    needs: &[Need::Metric(OPEN_FILES), Need::Metric(OPEN_FILES_LIMIT)],
    examine: open_files,
};

/// Document 004, section 4.1; 001, tuning of capacity.
pub(super) const FILE_HANDLES_RULE: Rule = Rule {
    id: "file_handles",
    title: "the node's open files against fs.file-max",
    background: "document 004, section 4.1; document 001",
    needs: &[Need::Metric(FILE_HANDLES), Need::Metric(FILE_HANDLES_LIMIT)],
    examine: file_handles,
};

/// The name of the setting, for commands; its value comes with [`FILE_HANDLES_LIMIT`].
const FILE_MAX: &str = "fs.file-max";

fn open_files(facts: &Facts) -> Vec<Finding> {
    let highest = |metric| facts.highest(metric, Scope::Process, &[]);
    let (open, limits) = (highest(OPEN_FILES), highest(OPEN_FILES_LIMIT));
    let (backlogs, queued) = (highest(ACCEPT_LIMIT), highest(ACCEPT_LENGTH));
    let mut findings = Vec::new();
    for (subject, open) in open {
        let Some(limit) = limits.get(&subject).copied() else { continue };
        let backlog = backlogs.get(&subject).copied();
        let room = limit - open;
        let (severity, summary) = if room <= 0.0 {
            (Severity::Binds, "The process has no descriptor left: accept() fails with EMFILE, and its queue fills.")
        } else if fullness(open, limit) >= NEAR {
            (Severity::Risk, "The process nears its limit of open files, where accept() fails with EMFILE.")
        } else if backlog.is_some_and(|backlog| backlog > room) {
            (Severity::Note, "The accept queue holds more connections than the process has descriptors left for.")
        } else {
            continue;
        };
        let finding = Finding::new(severity, &subject, summary)
            .weighing(fullness(open, limit))
            .seen("open files", OPEN_FILES, open, Unit::Of("descriptors"))
            .seen("limit of open files (soft)", OPEN_FILES_LIMIT, limit, Unit::Of("descriptors"))
            .seen_if("accept queue limit", ACCEPT_LIMIT, backlog, Unit::Of("connections"))
            .seen_if(
                "accept queue length \
             now",
                ACCEPT_LENGTH,
                queued.get(&subject).copied(),
                Unit::Of("connections"),
            );
        findings.push(raise(&subject, limit).into_iter().fold(finding, Finding::advise));
    }
    findings
}

fn raise(subject: &Subject, limit: f64) -> [Step; 2] {
    let larger = roomier(limit.max(16_384.0), 1 << 20);
    let step = if subject.unit.ends_with(".service") && subject.pod.is_empty() {
        Step {
            text: format!("Raise the unit's limit: LimitNOFILE={larger} under [Service]."),
            command: Some(format!("systemctl edit {}", quote(&subject.unit))),
        }
    } else {
        let text = format!(
            "Raise its limit to {larger} where it is started (ulimit -Sn, the container runtime, or setrlimit() \
             of its own)."
        );
        Step { text, command: None }
    };
    [step, restart(subject, "it has its limits from its start.")]
}

fn file_handles(facts: &Facts) -> Vec<Finding> {
    let (Some(open), Some(limit)) = (facts.sum(FILE_HANDLES, &[]), facts.sum(FILE_HANDLES_LIMIT, &[])) else {
        return Vec::new();
    };
    let full = fullness(open, limit);
    let (severity, summary) = if full >= 1.0 {
        (Severity::Binds, "The node has no file handle left: open(), socket() and accept() fail with ENFILE.")
    } else if full >= NEAR {
        (Severity::Risk, "The node nears its limit of file handles, where accept() fails with ENFILE.")
    } else {
        return Vec::new();
    };
    let finding = Finding::new(severity, &Subject::node(), summary)
        .weighing(full)
        .seen("file handles in use", FILE_HANDLES, open, Unit::Of("handles"))
        .seen(FILE_MAX, FILE_HANDLES_LIMIT, limit, Unit::Of("handles"))
        .advise(set(&Subject::node(), "Raise the limit.", FILE_MAX, &roomier(limit, 1 << 24)))
        .say(
            "Find who holds them: it is rarely sockets alone (`lsof -nP | awk '{print $1}' | sort | uniq -c | \
         sort -n`).",
        );
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings};
    use super::*;
    use Severity::{Binds, Note, Risk};

    fn process(open: u32, limit: u32, backlog: u32) -> String {
        let row = |metric: &str, port: u32, value: u32| {
            format!(
                "{metric}{{netns=\"host\",unit=\"a.service\",process=\"a\",address=\"::\",port=\"{port}\"}} {value}\n"
            )
        };
        // The same process behind two ports: one finding.
        [80, 81]
            .map(|port| {
                row("tracer_tcp_listener_open_files", port, open)
                    + &row("tracer_tcp_listener_open_files_limit", port, limit)
                    + &row("tracer_tcp_accept_queue_limit", port, backlog)
            })
            .concat()
    }

    #[test]
    fn descriptors_of_a_process() {
        check(
            &OPEN_FILES_RULE,
            "",
            &[
                ("none left", &process(1024, 1024, 128), &[Binds]),
                ("near", &process(930, 1024, 5), &[Risk]),
                ("backlog beyond", &process(200, 1024, 4096), &[Note]),
                ("roomy", &process(200, 1024, 511), &[]),
            ],
        );
        let commands: Vec<_> = findings(&OPEN_FILES_RULE, &process(1024, 1024, 128))[0]
            .remedy
            .iter()
            .filter_map(|step| step.command.clone())
            .collect();
        assert_eq!(commands, ["systemctl edit a.service", "systemctl restart a.service"]);
    }

    #[test]
    fn handles_of_the_node() {
        let node = |open| format!("tracer_file_handles {open}\ntracer_file_handles_limit 775052\n");
        check(
            &FILE_HANDLES_RULE,
            "",
            &[("none left", &node(775_052), &[Binds]), ("near", &node(700_000), &[Risk]), ("far", &node(5024), &[])],
        );
    }
}
