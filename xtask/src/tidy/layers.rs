//! The direction of dependencies between the agent's modules.
//!
//! docs/architecture.md says why; the tables here are the rules as they are enforced.

use super::Finding;
use super::imports::imports;
use super::source::Source;

/// A crate, and the only parts of the agent that may know it. Paths are prefixes.
struct Home {
    krate: &'static str,
    parts: &'static [&'static str],
}

const HOMES: &[Home] = &[
    Home {
        krate: "aya",
        parts: &["tracer/src/kernel", "tracer/src/pipeline/ring", "tracer/src/pipeline/counters", "tracer/src/agent"],
    },
    Home { krate: "aya_log", parts: &["tracer/src/kernel", "tracer/src/agent"] },
    Home { krate: "prometheus", parts: &["tracer/src/export"] },
    Home { krate: "axum", parts: &["tracer/src/export"] },
    Home { krate: "ratatui", parts: &["tracer/src/top/draw", "tracer/src/command/top"] },
];

/// Modules that are handed all they work on, time included, so that a test needs no machine.
const PURE: &[&str] = &[
    "tracer/src/pipeline/decode",
    "tracer/src/pipeline/attribute/cgroup_path",
    "tracer/src/pipeline/attribute/log_names",
    "tracer/src/pipeline/journal",
    "tracer/src/pipeline/ports",
    "tracer/src/pipeline/reconcile",
    "tracer/src/kernel/hooks",
    "tracer/src/export/metrics",
    "tracer/src/advise",
    "tracer/src/events",
    "tracer/src/top",
];

/// What a pure module does without: files, sockets, the environment, clocks, logs.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::env",
    "std::process",
    "std::net::Tcp",
    "std::net::Udp",
    "rustix::",
    "libc::",
    "Instant::now",
    "SystemTime::now",
    "tracing::",
    "log::",
    "println!",
    "eprintln!",
];

/// A stage that may import another, and why.
struct Exception {
    from: &'static str,
    to: &'static str,
    reason: &'static str,
}

const STAGE_EXCEPTIONS: &[Exception] = &[
    Exception { from: "journal", to: "decode", reason: "the journal holds the events that decode defines" },
    Exception { from: "reconcile", to: "counters", reason: "reconcile compares the totals that counters defines" },
];

const PIPELINE: &str = "tracer/src/pipeline/";

/// `aya`, `prometheus` and `axum` appear only where the table says.
pub(super) fn crates_stay_home(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && source.path.starts_with("tracer/src/")) {
        for home in HOMES.iter().filter(|home| !home.parts.iter().any(|part| source.path.starts_with(part))) {
            let users = source.product().filter(|(_, line)| names_crate(line, home.krate));
            findings.extend(users.map(|(number, _)| {
                Finding::new(&source.path, number, format!("`{}` belongs in {}", home.krate, home.parts.join(", ")))
            }));
        }
    }
    findings
}

/// Pure modules do no I/O, read no clock and do not log.
pub(super) fn pure_modules_do_no_io(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for module in PURE {
        let mut found = false;
        for source in sources.iter().filter(|source| source.is_rust() && source.path.starts_with(module)) {
            found = true;
            for (number, line) in source.product() {
                findings.extend(IMPURE.iter().filter(|word| has_path(line, word)).map(|word| {
                    Finding::new(&source.path, number, format!("`{word}` in a pure module: pass the value in"))
                }));
            }
        }
        if !found {
            findings.push(Finding::new(module, 0, "listed as pure by xtask/src/tidy/layers.rs, but not there"));
        }
    }
    findings
}

/// A stage of the pipeline knows its input and output, not its neighbours: agent.rs wires them.
pub(super) fn stages_do_not_import_each_other(sources: &[Source]) -> Vec<Finding> {
    let stages: Vec<_> = sources.iter().filter_map(|source| stage_of(&source.path)).collect();
    let mut findings = Vec::new();
    for source in sources {
        let Some(stage) = stage_of(&source.path) else {
            continue;
        };
        for (number, path) in imports(source).into_iter().chain(inline_paths(source)) {
            let Some(other) = stage_in_path(&source.path, &path) else {
                continue;
            };
            let allowed = STAGE_EXCEPTIONS
                .iter()
                .any(|exception| exception.from == stage && exception.to == other && !exception.reason.is_empty());
            if other != stage && stages.contains(&other) && !allowed {
                findings.push(Finding::new(
                    &source.path,
                    number,
                    format!("stage `{stage}` imports stage `{other}`: agent.rs wires them"),
                ));
            }
        }
    }
    // One line may import several names.
    findings.dedup();
    findings
}

/// The stage that a file belongs to: the module right under `pipeline`.
fn stage_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix(PIPELINE)?;
    let stage = inside.split('/').next()?;
    Some(stage.strip_suffix(".rs").unwrap_or(stage)).filter(|stage| *stage != "mod")
}

/// The stage that a path in `file` leads to.
fn stage_in_path<'a>(file: &'a str, path: &'a str) -> Option<&'a str> {
    let mut modules: Vec<_> = file.strip_prefix("tracer/src/")?.strip_suffix(".rs")?.split('/').collect();
    let mut segments = path.split("::").peekable();
    if segments.next_if(|first| ["crate", "tracer"].contains(first)).is_some() {
        modules.clear();
    }
    while segments.next_if_eq(&"super").is_some() {
        modules.pop();
    }
    modules.extend(segments);
    match modules.as_slice() {
        ["pipeline", stage, ..] => Some(stage),
        _ => None,
    }
}

/// Paths into the pipeline that the code names without an import.
fn inline_paths(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in source.product().filter(|(_, line)| !line.trim_start().starts_with("use ")) {
        for (at, prefix) in line.match_indices("crate::pipeline::") {
            let rest = &line[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push((number, format!("{prefix}{}", &rest[..end])));
        }
    }
    found
}

/// Whether the line names the crate: as a path's first segment, or whole in an import.
fn names_crate(line: &str, krate: &str) -> bool {
    let path = format!("{krate}::");
    let first = has_path(line, &path) && !line.contains(&format!("::{path}"));
    first || line.trim() == format!("use {krate};")
}

/// Whether the path occurs as such, not as the tail of a longer word.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path)
        .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    #[test]
    fn a_crate_outside_its_home_is_found() {
        let bad = sample("tracer/src/command/run.rs", "use aya::Ebpf;\nlet x = prometheus::Registry::new();\n");
        assert_eq!(crates_stay_home(&bad).iter().map(|f| f.line).collect::<Vec<_>>(), [1, 2]);
        let good = "use aya::Ebpf;\n";
        assert_eq!(crates_stay_home(&sample("tracer/src/kernel/load.rs", good)), []);
        assert_eq!(crates_stay_home(&sample("tracer/src/pipeline/ring.rs", good)), []);
        assert_eq!(crates_stay_home(&sample("tracer/src/command/run.rs", "use crate::aya::x;\n// aya::y\n")), []);
    }

    #[test]
    fn input_and_clocks_in_a_pure_module_are_found() {
        let text = "let t = std::time::Instant::now();\nuse std::fs;\ntracing::info!(x);\nlet catalog::x = 1;\n";
        let found = pure_modules_do_no_io(&sample("tracer/src/pipeline/decode.rs", text));
        let in_file: Vec<_> = found.iter().filter(|f| f.line > 0).map(|f| f.line).collect();
        assert_eq!(in_file, [1, 2, 3]);
    }

    #[test]
    fn the_tests_of_a_pure_module_may_read_files() {
        let text = "#[cfg(test)]\nmod tests { use std::fs; }\n";
        let found = pure_modules_do_no_io(&sample("tracer/src/pipeline/decode.rs", text));
        assert!(found.iter().all(|f| f.line == 0));
    }

    #[test]
    fn a_pure_module_that_was_renamed_is_missed() {
        assert_eq!(pure_modules_do_no_io(&[]).len(), PURE.len());
    }

    fn pipeline(path: &str, text: &str) -> Vec<usize> {
        let mut sources = sample("tracer/src/pipeline/ring.rs", "");
        sources.extend(sample("tracer/src/pipeline/decode.rs", ""));
        sources.extend(sample(path, text));
        stages_do_not_import_each_other(&sources).iter().map(|f| f.line).collect()
    }

    #[test]
    fn a_stage_that_imports_another_is_found() {
        let text = "use crate::pipeline::{ring::{A, B}, snapshot};\nuse super::decode::Event;\nlet x = crate::pipeline::ring::X;\n";
        assert_eq!(pipeline("tracer/src/pipeline/snapshot.rs", text), [1, 2, 3]);
        assert_eq!(pipeline("tracer/src/pipeline/snapshot/listen.rs", "use super::super::ring::Ring;\n"), [1]);
    }

    #[test]
    fn a_stage_may_import_its_own_modules_and_the_listed_ones() {
        assert!(pipeline("tracer/src/pipeline/snapshot/listen.rs", "use super::ring::Ring;\n").is_empty());
        assert!(pipeline("tracer/src/pipeline/journal.rs", "use super::decode::Event;\n").is_empty());
        assert!(pipeline("tracer/src/agent.rs", "use crate::pipeline::{ring, decode};\n").is_empty());
    }
}
