//! The tables of docs/kernels.md, written from what guests found.
//!
//! They stand between two marks; everything outside is written by hand. Refuses to write half a matrix:
//! every kernel must have passed with all tests on the rungs that differ by kernel, and one kernel on each
//! of the others, and all of them with the same code. Asked for an unfinished one, it names what has not run, and the
//! code of each guest where they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, bail};

use super::results::{Found, Ladder, Refusal};
use super::rung::Rung;
use crate::kernels::Series;
use crate::workspace;

const PAGE: &str = "docs/kernels.md";
const BEGIN: &str = "<!-- written by `cargo xtask kernels-doc` -->\n";
const END: &str = "<!-- end of what `cargo xtask kernels-doc` writes -->\n";

/// The signals that have ladders, by their names in doctor's output, and what the page calls them.
const SIGNALS: &[(&str, &str)] = &[
    ("connections", "Transitions"),
    ("listen_drops", "Listener drops"),
    ("retransmits", "Retransmits"),
    ("synack_retransmits", "SYN-ACKs again"),
    ("time_wait_overflows", "TIME_WAIT overflows"),
    ("bind_failures", "Binds in vain"),
    ("connect_errors", "Errors of connects"),
    ("resets", "Resets"),
    ("listener_pass", "Listener pass"),
    ("socket_pass", "Socket pass"),
    ("ephemeral_ports", "Ephemeral ports"),
    ("map_rows", "Reading of counts"),
    ("namespaces", "Namespaces"),
];

/// The metrics whose rows have a reason or a cause, and what the page calls them.
const REASONS: &[(&str, &str)] = &[
    ("tracer_tcp_listen_drops_total", "Reasons of drops"),
    ("tracer_tcp_retransmitted_segments_total", "Causes of retransmits"),
    ("tracer_tcp_resets_total", "Reasons of resets"),
    ("tracer_tcp_connection_timeouts_total", "Causes of time-outs"),
];

/// Writes the tables into the page.
pub(super) fn write(all: &[Found], unfinished: bool) -> Result<()> {
    let failed = failed(all);
    if !failed.is_empty() {
        bail!(
            "these guests are no proof (failed, some tests only, or code that no commit holds): {}",
            failed.join(", ")
        );
    }
    let missing = missing(all);
    if !missing.is_empty() && !unfinished {
        bail!(
            "these have not passed with all tests, so the table would be half a matrix: {}; `cargo xtask vm` runs them",
            missing.join(", ")
        );
    }
    let codes = codes(all);
    if codes.len() > 1 && !unfinished {
        bail!(
            "the guests ran different code ({}), so the table would claim a release that nobody saw; `cargo xtask vm` runs \
             them all",
            codes.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    let file = workspace::root().join(PAGE);
    let page = fs::read_to_string(&file).with_context(|| format!("reading {PAGE}"))?;
    let page =
        replaced(&page, &tables(all, &missing)).with_context(|| format!("{PAGE} lacks the marks of the tables"))?;
    fs::write(file, page)?;
    println!("{PAGE}: written from {} guests", all.len());
    Ok(())
}

/// Guests that ran and prove nothing: a table of the others would hide them.
fn failed(all: &[Found]) -> Vec<String> {
    all.iter()
        .filter(|found| !found.is_proof())
        .map(|found| format!("{} {} {} of {}", found.series, found.arch, found.rung, found.code))
        .collect()
}

/// What the matrix on x86-64 lacks.
fn missing(all: &[Found]) -> Vec<String> {
    let has = |series: Series, rung: Rung| {
        let is_it = |found: &&Found| {
            (found.series.as_str(), found.rung.as_str(), found.arch.as_str()) == (series.name(), rung.name(), "x86_64")
        };
        all.iter().any(|found| is_it(&found))
    };
    let mut missing = Vec::new();
    for rung in Rung::ALL {
        let lacking: Vec<_> = Series::ALL.into_iter().filter(|&series| !has(series, rung)).collect();
        if rung.is_of_every_kernel() {
            missing.extend(lacking.iter().map(|series| format!("{} {}", series.name(), rung.name())));
        } else if lacking.len() == Series::ALL.len() {
            missing.push(format!("any kernel {}", rung.name()));
        }
    }
    missing
}

/// What the guests ran.
fn codes(all: &[Found]) -> BTreeSet<&str> {
    all.iter().map(|found| found.code.as_str()).collect()
}

fn replaced(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}

fn tables(all: &[Found], missing: &[String]) -> String {
    let mut sorted: Vec<&Found> = all.iter().collect();
    sorted.sort_by_key(|found| (found.arch != "x86_64", version(&found.version), place(&found.rung)));
    let mut origin = match codes(all).into_iter().collect::<Vec<_>>()[..] {
        [code] => format!("Every guest ran the code of commit `{code}`.\n"),
        _ => "The guests ran the code of several commits, as the column says: no single one has passed the whole matrix.\n"
            .to_owned(),
    };
    if !missing.is_empty() {
        let _ = writeln!(origin, "Nothing is claimed of what has not run: {}.", missing.join(", "));
    }
    [origin, rungs(&sorted), exactness(&sorted), refusals(&sorted)].join("\n")
}

fn version(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// The rung's place in the order of the command line.
fn place(rung: &str) -> usize {
    Rung::ALL.iter().position(|known| known.name() == rung).unwrap_or(Rung::ALL.len())
}

/// Kernel × signal → rung.
fn rungs(all: &[&Found]) -> String {
    let mut table = String::from("### Rungs in force\n\n| Kernel | Guest | Commit |");
    for (_, name) in SIGNALS {
        let _ = write!(table, " {name} |");
    }
    table.push_str(" Tests passed |\n|---|---|---|");
    table.push_str(&"---|".repeat(SIGNALS.len() + 1));
    table.push('\n');
    for found in all {
        let _ = write!(table, "| {} | {} | `{}` |", kernel(found), found.rung, found.code);
        for (signal, _) in SIGNALS {
            let ladder = found.doctor.signals.iter().find(|ladder| ladder.signal == *signal);
            // A guest that ran older code may know nothing of it.
            let without = if found.doctor.signals.is_empty() { "refuses to start" } else { "–" };
            let _ = write!(table, " {} |", ladder.map_or(without, |ladder| short(&ladder.in_force)));
        }
        let _ = writeln!(table, " {} |", count_of_tests(found));
    }
    table
}

fn count_of_tests(found: &Found) -> String {
    if found.doctor.signals.is_empty() { "its own".to_owned() } else { found.tests.len().to_string() }
}

/// The rung without what its cost says elsewhere.
fn short(in_force: &str) -> &str {
    in_force.split(';').next().unwrap_or(in_force)
}

fn kernel(found: &Found) -> String {
    format!("{} {}", found.version, found.arch)
}

/// Which reasons can be told, and how exactly; guests that say the same share a row.
fn exactness(all: &[&Found]) -> String {
    let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut order = Vec::new();
    for found in all.iter().filter(|found| !found.doctor.signals.is_empty()) {
        let row = exactness_of(found);
        let guests = rows.entry(row.clone()).or_default();
        if guests.is_empty() {
            order.push(row);
        }
        guests.push(format!("{} {}", kernel(found), found.rung));
    }
    let mut table = String::from(
        "### What can be told, and how exactly\n\n\
         Reasons and causes that have rows; for each of the kernel's counters, in how many tests the rows equalled it to \
         the unit and how much that was together; what the tests had to allow, and why.\n\n\
         | Guests |",
    );
    for (_, name) in REASONS {
        let _ = write!(table, " {name} |");
    }
    table.push_str(" Closed to the unit | Otherwise |\n|---|");
    table.push_str(&"---|".repeat(REASONS.len() + 2));
    table.push('\n');
    for row in order {
        let _ = writeln!(table, "| {} {row}", rows[&row].join("<br>"));
    }
    table
}

fn exactness_of(found: &Found) -> String {
    let mut row = String::from("|");
    for (metric, _) in REASONS {
        let reasons: BTreeSet<_> =
            found.tests.iter().filter_map(|test| test.reasons.get(*metric)).flatten().map(String::as_str).collect();
        let _ = write!(row, " {} |", reasons.into_iter().collect::<Vec<_>>().join(", "));
    }
    let _ = write!(row, " {} | {} |", closed_to_the_unit(found), otherwise(found));
    row
}

/// Signals with the number of tests in which they closed, and the counts of these together.
fn closed_to_the_unit(found: &Found) -> String {
    let mut signals: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for test in &found.tests {
        for signal in &test.closed {
            let (tests, counts) = signals.entry(signal).or_default();
            *tests += 1;
            *counts += test.counts.get(signal).unwrap_or(&0);
        }
    }
    let parts: Vec<_> =
        signals.iter().map(|(signal, (tests, counts))| format!("{signal}: {tests} tests, {counts}")).collect();
    parts.join("<br>")
}

/// What tests allowed and saw, and the agent's own words for why.
fn otherwise(found: &Found) -> String {
    let mut parts = Vec::new();
    let unknown = found.tests.iter().filter(|test| test.unknown.values().any(|&count| count > 0)).count();
    if unknown > 0 {
        parts.push(format!("counts of an unknown reason or cause in {unknown} tests"));
    }
    for test in &found.tests {
        for (kind, count) in &test.hidden {
            parts.push(format!("`{}`: {count} {kind} that the kernel says it did not show", test.name));
        }
        for (signal, difference) in test.differences.iter().filter(|(_, difference)| **difference != 0) {
            parts.push(format!("`{}`: {signal} {difference:+}", test.name));
        }
    }
    if found.booted_again {
        parts.push("the kernel stopped once at a breakpoint of its own while it changed its code".to_owned());
    }
    if !found.tried_again.is_empty() {
        parts.push(format!("passed at the second try: {}", found.tried_again.join("; ")));
    }
    let cost = |ladder: &Ladder| Some(ladder.cost.clone()).filter(|cost| !cost.is_empty());
    parts.extend(found.doctor.signals.iter().filter_map(cost));
    if parts.is_empty() { "–".to_owned() } else { parts.join("; ") }
}

/// Hooks that a kernel has and does not let the agent use.
fn refusals(all: &[&Found]) -> String {
    let mut causes: BTreeMap<&str, BTreeMap<String, BTreeSet<&str>>> = BTreeMap::new();
    for found in all {
        let refused = found.doctor.signals.iter().flat_map(|ladder| &ladder.refusals);
        for Refusal { hook, cause, .. } in refused.filter(|refusal| refusal.stage != "switched_off") {
            causes
                .entry(cause)
                .or_default()
                .entry(format!("{} {}", kernel(found), found.rung))
                .or_default()
                .insert(hook);
        }
    }
    let mut table = String::from("### Hooks that were refused\n\n| Guest | Hooks | Why |\n|---|---|---|\n");
    for (cause, guests) in causes {
        for (guest, hooks) in guests {
            let hooks: Vec<_> = hooks.into_iter().map(|hook| format!("`{hook}`")).collect();
            let _ = writeln!(table, "| {guest} | {} | {cause} |", hooks.join(", "));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::results::{Doctor, Test};
    use super::*;

    fn found(series: &str, rung: &str) -> Found {
        let refusal = |stage: &str| Refusal { hook: "fexit/f".into(), stage: stage.into(), cause: "too many".into() };
        let ladder = Ladder {
            signal: "listen_drops".into(),
            in_force: "outcomes (kprobe)".into(),
            cost: String::new(),
            refusals: vec![refusal("attach"), refusal("switched_off")],
        };
        let test = Test {
            name: "a::b".into(),
            closed: BTreeSet::from(["listen_drops".into()]),
            counts: BTreeMap::from([("listen_drops".into(), 14)]),
            unknown: BTreeMap::new(),
            hidden: BTreeMap::from([("retransmits".into(), 2)]),
            differences: BTreeMap::from([("listen_drops".into(), -3)]),
            reasons: BTreeMap::from([("tracer_tcp_listen_drops_total".into(), BTreeSet::from(["other".into()]))]),
        };
        Found {
            series: series.into(),
            version: format!("{series}.1"),
            code: "c0de".into(),
            arch: "x86_64".into(),
            rung: rung.into(),
            is_whole: true,
            has_passed: true,
            booted_again: false,
            tried_again: Vec::new(),
            doctor: Doctor { signals: vec![ladder] },
            tests: vec![test],
        }
    }

    fn matrix() -> Vec<Found> {
        let pairs = Series::ALL.iter().flat_map(|series| Rung::ALL.map(|rung| (series.name(), rung.name())));
        pairs.map(|(series, rung)| found(series, rung)).collect()
    }

    #[test]
    fn half_a_matrix_is_none() {
        let mut all = matrix();
        assert!(missing(&all).is_empty());
        all.drain(..3);
        assert_eq!(missing(&all), ["5.10 best", "5.10 kprobe", "5.10 packet"]);
        all.retain(|found| found.rung != "lockdown" && (found.rung != "totals" || found.series == "6.12"));
        assert_eq!(missing(&all).last().map(String::as_str), Some("any kernel lockdown"));
        assert_eq!(missing(&all).len(), 4);
    }

    #[test]
    fn a_guest_that_proves_nothing_is_named() {
        let mut all = matrix();
        assert!(failed(&all).is_empty());
        all[0].has_passed = false;
        all[1].is_whole = false;
        all[2].code = "c0de-dirty".into();
        let named = ["5.10 x86_64 best of c0de", "5.10 x86_64 kprobe of c0de", "5.10 x86_64 packet of c0de-dirty"];
        assert_eq!(failed(&all), named);
    }

    #[test]
    fn the_page_keeps_what_is_written_by_hand() {
        let page = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(replaced(&page, "new\n").unwrap(), format!("before\n{BEGIN}\nnew\n\n{END}after\n"));
        assert!(replaced("no marks", "new").is_none());
    }

    #[test]
    fn tables_show_rungs_differences_and_refusals() {
        let all = [found("6.12", "best"), found("6.1", "kprobe"), found("6.1", "best")];
        let tables = tables(&all, &["any kernel totals".into()]);
        assert!(tables.starts_with("Every guest ran the code of commit `c0de`.\n"));
        let at = |words: &str| tables.find(words).unwrap_or_else(|| panic!("no {words:?} in\n{tables}"));
        assert!(at("| 6.1.1 x86_64 | best | `c0de` |") < at("| 6.1.1 x86_64 | kprobe |"));
        assert!(at("| 6.1.1 x86_64 | kprobe |") < at("| 6.12.1 x86_64 | best |"));
        at("has not run: any kernel totals.");
        at("outcomes (kprobe)");
        at("listen_drops: 1 tests, 14");
        at("`a::b`: listen_drops -3");
        at("`a::b`: 2 retransmits that the kernel says it did not show");
        // A signal that these guests' code did not know.
        at("| – |");
        assert!(!tables.contains("refuses to start"), "{tables}");
        assert_eq!(tables.matches("`fexit/f`").count(), 3, "{tables}");
    }

    #[test]
    fn guests_of_different_code_are_told_apart() {
        let mut all = matrix();
        assert_eq!(codes(&all).len(), 1);
        all[3].code = "1234".into();
        assert_eq!(codes(&all).into_iter().collect::<Vec<_>>(), ["1234", "c0de"]);
        let tables = tables(&all, &[]);
        assert!(tables.starts_with("The guests ran the code of several commits"), "{tables}");
        assert!(tables.contains("| 5.10.1 x86_64 | totals | `1234` |"), "{tables}");
    }
}
