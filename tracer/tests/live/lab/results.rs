//! What each passing test proved, as one line of JSON, for tables by kernel and rung.
//!
//! The tests take turns, so there is one record at a time: [`super::Lab`] opens and writes it, agents
//! and closing checks add to it. A test that fails leaves no line. One entry is read back: how many drops
//! were hidden ([`hidden`]).
//!
//! | Field | Meaning |
//! |---|---|
//! | `test` | its name |
//! | `kernel`, `architecture` | the machine, `6.1.192` and `x86_64` |
//! | `signals` | what the test is about, as `/status` names signals |
//! | `rungs`, `hooks` | what these signals stood on, and by which hooks |
//! | `closed` | signals that equalled the kernel's counters to the unit, as `tracer_count_difference` names them |
//! | `counts` | what the kernel had counted of these at the last check; zero proves that nothing was counted too much |
//! | `unknown` | counts that were of an unknown reason or cause, by signal |
//! | `hidden` | counts that are unknown because the kernel says that it did not show the event, by kind |
//! | `differences` | differences from the kernel that the test allows, as seen |
//! | `reasons` | by metric, the reasons or causes that have rows |

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::machine::machine;
use super::rungs::{Rungs, Signal};
use super::setting::{results_file, unshown_file};

#[derive(Default)]
struct Record {
    signals: Vec<Signal>,
    rungs: BTreeMap<&'static str, String>,
    hooks: BTreeMap<&'static str, BTreeSet<String>>,
    closed: BTreeSet<&'static str>,
    counts: BTreeMap<&'static str, u64>,
    unknown: BTreeMap<&'static str, u64>,
    hidden: BTreeMap<&'static str, u64>,
    differences: BTreeMap<&'static str, i64>,
    reasons: BTreeMap<&'static str, BTreeSet<String>>,
}

static RECORD: Mutex<Option<Record>> = Mutex::new(None);

/// Opens the record of a test that is about `signals`.
pub(super) fn open(signals: &[Signal]) {
    *RECORD.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(Record { signals: signals.to_vec(), ..Record::default() });
}

/// What an agent of the test stands on.
pub(super) fn note_rungs(rungs: &Rungs) {
    note(|record| {
        for signal in &record.signals {
            let rung = &rungs.ladders[signal];
            record.rungs.insert(signal.name(), rung.in_force.clone());
            record.hooks.insert(signal.name(), rung.hooks.clone());
        }
    });
}

/// A signal closed to the unit, at this count.
pub(super) fn note_closed(signal: &'static str, count: u64) {
    note(|record| {
        record.closed.insert(signal);
        record.counts.insert(signal, count);
    });
}

/// So many counts of a signal had to be of an unknown reason or cause.
pub(super) fn note_unknown(signal: &'static str, count: u64) {
    note(|record| _ = record.unknown.insert(signal, count));
}

/// Forgets what was hidden at an earlier comparison.
pub(super) fn forget_hidden() {
    note(|record| record.hidden.clear());
}

/// So many counts of a kind are unknown because the kernel did not show the event, and says so.
pub(super) fn note_hidden(kind: &'static str, count: u64) {
    note(|record| _ = record.hidden.insert(kind, count));
}

/// How many counts of a kind the last comparison found to be hidden.
pub(super) fn hidden(kind: &'static str) -> u64 {
    let mut hidden = 0;
    note(|record| hidden = record.hidden.get(kind).copied().unwrap_or(0));
    hidden
}

/// What the kernel had more of (or, negative, less), where a test allows that.
pub(crate) fn note_difference(signal: &'static str, difference: i64) {
    note(|record| _ = record.differences.insert(signal, difference));
}

/// A reason or cause that rows of a metric have.
pub(super) fn note_reason(metric: &'static str, reason: &str) {
    note(|record| _ = record.reasons.entry(metric).or_default().insert(reason.to_owned()));
}

/// Says that this test fails for nothing but events that the kernel hid: whoever runs it may run it once more.
pub(super) fn say_unshown(what: &str) {
    let Some(file) = unshown_file() else { return };
    let line = format!("{}: {what}", std::thread::current().name().unwrap_or_default());
    // The test panics already, and a second panic would end all tests.
    if let Err(error) = add_line(&file, &line) {
        eprintln!("cannot write to {}: {error}", file.display());
    }
}

fn add_line(file: &OsStr, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// Writes the record of a test that passed.
pub(super) fn write() {
    let record = RECORD.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (Some(record), Some(file)) = (record, results_file()) else { return };
    add_line(&file, &record.to_json().to_string()).unwrap();
}

fn note(add: impl FnOnce(&mut Record)) {
    // A test of the laboratory itself has no record.
    if let Some(record) = RECORD.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        add(record);
    }
}

impl Record {
    fn to_json(&self) -> Value {
        let (major, minor, patch) = machine().kernel;
        json!({
            "test": std::thread::current().name(),
            "kernel": format!("{major}.{minor}.{patch}"),
            "architecture": machine().architecture,
            "signals": self.signals.iter().map(|signal| signal.name()).collect::<Vec<_>>(),
            "rungs": self.rungs,
            "hooks": self.hooks,
            "closed": self.closed,
            "counts": self.counts,
            "unknown": self.unknown,
            "hidden": self.hidden,
            "differences": self.differences,
            "reasons": self.reasons,
        })
    }
}
