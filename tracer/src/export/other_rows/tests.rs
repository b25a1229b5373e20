//! The rows at zero are those that the collector makes of what found no room: all of them, and no others.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Instant,
};

use tracer_ebpf::{
    counter::{CGROUP_OTHER, Counter, CounterKey, DropReason},
    reset::{Direction, Reason},
};

use super::*;
use crate::{
    export::{
        collector::{connect_retries, counter},
        encode::encode,
        namespace_rows::tests::namespace,
        rows::{ROWS_MAX, Suppressed},
    },
    kernel::hooks::{LADDERS, LadderReport},
    labels::Labels,
    pipeline::{
        attribute::{Attributor, log_listing::LogListing, process::Processes},
        counters::Counts,
    },
};

/// A report with this rung of each ladder in force, if it has so many.
fn report(rung: usize) -> Report {
    let ladder = |ladder: &crate::kernel::hooks::Ladder| LadderReport {
        signal: ladder.signal,
        rung: (rung < ladder.rungs.len()).then_some(rung),
        in_force: String::new(),
        cost: String::new(),
        hooks: vec![],
        refusals: vec![],
        ipv4_alone: false,
    };
    Report { ladders: LADDERS.iter().map(ladder).collect() }
}

fn fill(map: &'static str, entries: usize) -> Fill {
    Fill { map, entries, capacity: 101 }
}

fn view(fills: &[Fill]) -> View {
    let dead = Namespace { alive: false, ..namespace("9") };
    View { namespaces: vec![namespace("7"), dead], fills: fills.to_vec(), ..View::default() }
}

/// Values by series.
fn series(make: impl FnOnce(&mut Rows<'_>)) -> BTreeMap<String, String> {
    let suppressed = Suppressed::default();
    let mut rows = Rows::new(ROWS_MAX, &suppressed);
    make(&mut rows);
    let text = String::from_utf8(encode(&rows).to_vec()).unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name.into(), value.into())).collect()
}

fn row(counter: Counter, a: u8, b: u8) -> (CounterKey, u64) {
    let role = Role::Unknown as u8;
    (CounterKey { netns: 1, cgroup: CGROUP_OTHER, port: 0, role, counter: counter as u8, a, b, zero: 0 }, 1)
}

/// What the programs of the best rungs count for workloads without room.
fn of_workloads() -> Vec<(CounterKey, u64)> {
    let mut counted = vec![row(Counter::TimeWaitOverflow, 0, 0)];
    counted.extend(retransmits(Counter::Retransmit));
    counted.extend(retransmits(Counter::RetransmitFailed));
    counted.push(row(Counter::BindFailure, 0, 0));
    for result in 0..u8::try_from(ConnectResult::COUNT).unwrap() {
        counted.push(row(Counter::ConnectRetries, result, 3));
        counted.push(row(Counter::ConnectRetriesSum, result, 0));
        if result != ConnectResult::Established as u8 {
            counted.push(row(Counter::ConnectFailure, result, 0));
        }
    }
    let causes = TimeoutCause::Syn as u8..=TimeoutCause::Fin as u8;
    counted.extend(causes.map(|cause| row(Counter::ConnectionTimeout, cause, 0)));
    let sent = Reason::NotSpecified as u8..=Reason::Other as u8;
    counted.extend(sent.map(|reason| row(Counter::Reset, Direction::Sent as u8, reason)));
    counted.extend(received());
    counted
}

fn retransmits(counter: Counter) -> impl Iterator<Item = (CounterKey, u64)> {
    (0..RetransmitCause::Unknown as u8).map(move |cause| row(counter, cause, 0))
}

fn received() -> impl Iterator<Item = (CounterKey, u64)> {
    let ended = Reason::Refused as u8..=Reason::Closed as u8;
    ended.map(|reason| row(Counter::Reset, Direction::Received as u8, reason))
}

fn of_listeners() -> Vec<(CounterKey, u64)> {
    let mut counted = vec![row(Counter::Accepted, 0, 0), row(Counter::SynackRetransmit, 0, 0)];
    counted.extend((0..DropReason::Unknown as u8).map(|reason| row(Counter::ListenDrop, reason, 0)));
    counted
}

/// The series that the collector makes of these rows of the map `OTHER`.
fn shown(other: Vec<(CounterKey, u64)>) -> BTreeMap<String, String> {
    let nowhere = Path::new("/nonexistent");
    let mut labels = Labels::new(Attributor::new(None, Processes::new(nowhere), LogListing::new(nowhere)));
    let namespace = namespace("7");
    let counts = Counts { other, ..Counts::default() };
    let now = Instant::now();
    series(|rows| {
        for (key, n) in &counts.other {
            counter(rows, &mut labels, &namespace, key, *n, now);
        }
        connect_retries(rows, &mut labels, &counts, &HashMap::from([(1, &namespace)]), now);
    })
}

fn names(series: &BTreeMap<String, String>) -> Vec<&String> {
    series.keys().collect()
}

#[test]
fn every_row_of_workloads_without_room_is_there_at_zero() {
    let at_zero = series(|rows| add_workloads(rows, &report(0), &view(&[fill("workloads", 50)])));
    assert_eq!(names(&at_zero), names(&shown(of_workloads())));
    assert!(at_zero.values().all(|value| value == "0"), "{at_zero:#?}");
}

#[test]
fn every_row_of_listeners_without_room_is_there_at_zero() {
    let at_zero = series(|rows| add_listeners(rows, &report(0), &view(&[])));
    assert_eq!(names(&at_zero), names(&shown(of_listeners())));
    assert!(at_zero.values().all(|value| value == "0"), "{at_zero:#?}");
}

#[test]
fn rows_come_once_half_of_either_room_is_used() {
    for (fills, expected, what) in [
        (&[fill("workloads", 50), fill("counters", 0)][..], true, "half of the workloads"),
        (&[fill("workloads", 0), fill("counters", 50)], true, "half of their counters"),
        (&[fill("workloads", 49), fill("counters", 49)], false, "less than half of both"),
        (&[fill("listeners", 101), fill("ports", 101)], false, "the room of others"),
        (&[], false, "before the first pass"),
    ] {
        let rows = series(|rows| add_workloads(rows, &report(0), &view(fills)));
        assert_eq!(!rows.is_empty(), expected, "{what}: {rows:#?}");
    }
}

#[test]
fn what_the_hooks_in_force_cannot_tell_has_no_row() {
    let full = view(&[fill("workloads", 101)]);
    let rows = |report: &Report| series(|rows| add_workloads(rows, report, &full));
    assert!(rows(&Report::default()).is_empty());
    // Of the second rungs there are those of TIME_WAIT, of retransmits, which do not tell what the host refused, and of
    // resets, which are sent for no known reason.
    let unknown = row(Counter::Reset, Direction::Sent as u8, Reason::Unknown as u8);
    let told = received()
        .chain(retransmits(Counter::Retransmit))
        .chain([unknown, row(Counter::TimeWaitOverflow, 0, 0)])
        .collect();
    assert_eq!(names(&rows(&report(1))), names(&shown(told)));
}
