//! What each passing test proved, as one line of JSON, for tables by kernel and rung.
//!
//! The tests take turns, so there is one record at a time: [`super::Lab`] opens and writes it, agents
//! and closing checks add to it. It decides nothing: a test that fails leaves no line.
//!
//! | Field | Meaning |
//! |---|---|
//! | `test` | its name |
//! | `kernel`, `architecture` | the machine, `6.1.192` and `x86_64` |
//! | `signals` | what the test is about, as `/status` names signals |
//! | `rungs`, `hooks` | what these signals stood on, and by which hooks |
//! | `closed` | signals that equalled the kernel's counters to the unit, as `tracer_count_difference` names them |
//! | `counts` | what the kernel had counted of these at the last check; zero proves that nothing was counted too much |
//! | `unknown` | counts that had to be of an unknown reason or cause, by signal |
//! | `differences` | differences from the kernel that the test allows, as seen |
//! | `reasons` | by metric, the reasons or causes that have rows |

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::machine::machine;
use super::rungs::{Rungs, Signal};
use super::setting::results_file;

#[derive(Default)]
struct Record {
    signals: Vec<Signal>,
    rungs: BTreeMap<&'static str, String>,
    hooks: BTreeMap<&'static str, BTreeSet<String>>,
    closed: BTreeSet<&'static str>,
    counts: BTreeMap<&'static str, u64>,
    unknown: BTreeMap<&'static str, u64>,
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

/// What the kernel had more of (or, negative, less), where a test allows that.
pub(crate) fn note_difference(signal: &'static str, difference: i64) {
    note(|record| _ = record.differences.insert(signal, difference));
}

/// A reason or cause that rows of a metric have.
pub(super) fn note_reason(metric: &'static str, reason: &str) {
    note(|record| _ = record.reasons.entry(metric).or_default().insert(reason.to_owned()));
}

/// Writes the record of a test that passed.
pub(super) fn write() {
    let record = RECORD.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (Some(record), Some(file)) = (record, results_file()) else { return };
    let line = format!("{}\n", record.to_json());
    let mut file = OpenOptions::new().create(true).append(true).open(file).unwrap();
    file.write_all(line.as_bytes()).unwrap();
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
            "differences": self.differences,
            "reasons": self.reasons,
        })
    }
}
