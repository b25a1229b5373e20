//! Far more listeners and owners than there is room for: the exposition stays within its budget, no
//! series is folded into another, and `sum(increase())` is right across the moment in which the room
//! is used up. Prometheus's own arithmetic is the judge, by `promtool test rules`.
//!
//! Not for guests: it takes promtool, and minutes of an emulated processor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::counters::Watch;
use crate::lab::equations::DROPS;
use crate::lab::herd::{Cgroups, Herd, Wanderer};
use crate::lab::netns::Netns;
use crate::lab::rungs::Signal;
use crate::lab::scrape::{Sample, Scrape};
use crate::lab::sockets::Client;
use crate::lab::wait::{equal, until};

/// The defaults, of which the manual speaks.
const LISTENERS_MAX: usize = 10_000;
const WORKLOADS_MAX: usize = 5_000;
const MEMORY_MAX: f64 = 96.0 * 1024.0 * 1024.0;
/// 15 series a listener; a full table has 14, and those of the namespace and the node.
const SERIES_MAX: usize = 15 * LISTENERS_MAX;
/// 160 bytes a series.
const BYTES_MAX: usize = 160 * SERIES_MAX;

const LIMIT: Duration = Duration::from_mins(1);
const PASS_INTERVAL: Duration = Duration::from_secs(1);
const CONNECT_FAILURES: &str = "tracer_tcp_connect_failures_total";

/// The backlog of every listener: two connections fill its queue.
const BACKLOG: u16 = 1;
const FIRST_PORT: u16 = 2_000;
/// Sockets of one process, below the usual hard limit of descriptors.
const PER_PROCESS: u16 = 7_000;

/// Values of one metric's series at one scrape, by their labels.
type Series = BTreeMap<String, u64>;

/// Rows of a metric in a namespace, without those that the agent made for want of an owner.
fn series(scrape: &Scrape, metric: &str, watch: &Watch<'_>) -> Series {
    let rows = scrape.rows(metric, &[]).filter(|row| row.label("netns") == watch.inode);
    rows.map(|row| (name(row), row.count())).collect()
}

/// A series as Prometheus writes it.
fn name(row: &Sample) -> String {
    let labels: Vec<_> = row.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{}{{{}}}", row.name, labels.join(","))
}

/// Distinct values of the labels that tell one owner or listener from another.
fn distinct(scrape: &Scrape, metric: &str, watch: &Watch<'_>, labels: [&str; 3]) -> usize {
    let rows = scrape.rows(metric, &[]).filter(|row| row.label("netns") == watch.inode);
    rows.map(|row| labels.map(|label| row.label(label).to_owned())).collect::<BTreeSet<_>>().len()
}

/// A counter's series must not fall, and none may go while its listener lives.
fn assert_none_falls(before: &Series, after: &Series) {
    for (series, value) in before {
        let now = after.get(series).unwrap_or_else(|| panic!("{series} is gone"));
        assert!(now >= value, "{series} fell from {value} to {now}");
    }
}

/// How many series go into one of promtool's tests: it refuses queries that read more than 10 000 samples.
const SERIES_PER_TEST: usize = 4_000;

/// What Prometheus makes of each two scrapes that follow each other, as if an hour lay between them.
/// Returns the increase from scrape to scrape, over all series.
fn increases(metric: &str, scrapes: &[Series]) -> Vec<u64> {
    let all: BTreeSet<&String> = scrapes.iter().flat_map(BTreeMap::keys).collect();
    let all: Vec<&String> = all.into_iter().collect();
    let mut file = "evaluation_interval: 1h\ntests:\n".to_owned();
    let mut sums = vec![0; scrapes.len() - 1];
    for some in all.chunks(SERIES_PER_TEST) {
        let increases: Vec<u64> = scrapes.windows(2).map(|pair| increase(some, &pair[0], &pair[1])).collect();
        add_test(&mut file, metric, some, scrapes, &increases);
        sums.iter_mut().zip(increases).for_each(|(sum, increase)| *sum += increase);
    }
    promtool_agrees(&file);
    sums
}

/// What these series rose by; one that begins with the second scrape has not risen.
fn increase(some: &[&String], before: &Series, after: &Series) -> u64 {
    some.iter().filter_map(|series| Some(after.get(*series)? - before.get(*series)?)).sum()
}

fn add_test(test: &mut String, metric: &str, some: &[&String], scrapes: &[Series], increases: &[u64]) {
    test.push_str("- interval: 1h\n  input_series:\n");
    for series in some {
        let values: Vec<_> =
            scrapes.iter().map(|scrape| scrape.get(*series).map_or("_".to_owned(), u64::to_string)).collect();
        let _ = writeln!(test, "  - series: '{series}'\n    values: '{}'", values.join(" "));
    }
    test.push_str("  promql_expr_test:\n");
    for (number, increase) in increases.iter().enumerate() {
        // A window as long as the interval holds both scrapes in some versions and one in others; what a
        // millisecond more of an hour adds to the extrapolated sum is rounded away.
        let expression = format!("round(sum(increase({metric}[3600001ms])))");
        let time = number + 1;
        // No series at all have no sum.
        let pair = &scrapes[number..=time];
        let samples = if some.iter().any(|series| pair.iter().all(|scrape| scrape.contains_key(*series))) {
            format!("\n    - value: {increase}\n      labels: '{{}}'")
        } else {
            " []".to_owned()
        };
        let _ = writeln!(test, "  - expr: {expression}\n    eval_time: {time}h\n    exp_samples:{samples}");
    }
}

fn promtool_agrees(test: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("increase.yaml");
    std::fs::write(&file, test).unwrap();
    let output = Command::new("promtool").args(["test", "rules"]).arg(&file).output().unwrap_or_else(|error| {
        panic!("promtool ({error}): `apt-get install prometheus`, or `cargo xtask test`, which does")
    });
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{}", said.chars().take(4_000).collect::<String>());
}

/// So many connections to each listener, closed at once.
fn knock(netns: &Netns, herds: &[&Herd], times: usize) {
    netns.run(|| {
        for address in herds.iter().flat_map(|herd| herd.addresses()) {
            for _ in 0..times {
                drop(Client::connect_here(address));
            }
        }
    });
}

/// Waits until the rows add up to what the kernel counted, and gives them back.
fn settled(agent: &Agent, watch: &Watch<'_>) -> (Scrape, Series) {
    until("the sum of all listeners", LIMIT, || {
        let kernel = watch.delta("ListenDrops");
        let scrape = agent.scrape();
        let series = series(&scrape, DROPS, watch);
        equal("the sum", &series.values().sum::<u64>(), &kernel)?;
        Ok((scrape, series))
    })
}

fn assert_within_budget(agent: &Agent, scrape: &Scrape, watch: &Watch<'_>) {
    // The `_other` row and that of the unknown come on top.
    let listeners = distinct(scrape, DROPS, watch, ["process", "address", "port"]);
    assert!(listeners <= LISTENERS_MAX + 2, "{listeners} listeners have rows");
    let memory = scrape.one("process_resident_memory_bytes", &[]).unwrap();
    assert!(memory <= MEMORY_MAX, "the agent takes {memory} bytes");
    let peak = agent.peak_memory_bytes();
    assert!(peak <= MEMORY_MAX, "the agent took {peak} bytes");
    // Full maps fold new rows into `_other`: that is no reason to leave series out of a scrape.
    assert_eq!(scrape.sum("tracer_series_suppressed_total", &[]), 0);
    let (series, bytes) = (scrape.len(), scrape.bytes());
    assert!(series <= SERIES_MAX, "a scrape has {series} series");
    assert!(bytes <= BYTES_MAX, "a scrape has {bytes} bytes");
    agent.assert_sound();
}

#[test]
fn twenty_thousand_listeners() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::with(PASS_INTERVAL, &[]);
    let herd = |host| Herd::start(&netns, Ipv4Addr::new(127, 0, 0, host), FIRST_PORT, PER_PROCESS, BACKLOG);

    let first = herd(2);
    agent.await_two_passes();
    let mut scrapes = vec![settled(&agent, &watch).1];
    // Two fill the queue, the third finds it full.
    knock(&netns, &[&first], 3);
    let (scrape, series) = settled(&agent, &watch);
    assert_within_budget(&agent, &scrape, &watch);
    scrapes.push(series);

    // Now there are more listeners than room: 21 000.
    let (second, third) = (herd(3), herd(4));
    agent.await_two_passes();
    scrapes.push(settled(&agent, &watch).1);
    knock(&netns, &[&second, &third], 3);
    knock(&netns, &[&first], 1);
    let (scrape, series) = settled(&agent, &watch);
    assert_within_budget(&agent, &scrape, &watch);
    let other = scrape.sum(DROPS, &[("netns", &watch.inode), ("process", "_other")]);
    // Some clients get the port of an earlier one.
    assert!(other >= 10_900, "{other} drops in the row of those without room");
    scrapes.push(series);

    knock(&netns, &[&first, &second, &third], 1);
    scrapes.push(settled(&agent, &watch).1);

    for pair in scrapes.windows(2) {
        assert_none_falls(&pair[0], &pair[1]);
    }
    // Each sum was the kernel's count. A client that gets the port of an earlier one meets its connection and
    // not the queue, so there are a few drops fewer than knocks.
    let totals: Vec<u64> = scrapes.iter().map(|series| series.values().sum()).collect();
    let expected: Vec<u64> = totals.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let per_herd = u64::from(PER_PROCESS);
    for (drops, knocks) in expected.iter().zip([per_herd, 0, 3 * per_herd, 3 * per_herd]) {
        assert!((knocks - knocks / 100..=knocks).contains(drops), "{drops} drops of {knocks} knocks");
    }
    assert_eq!(increases(DROPS, &scrapes), expected, "all series began at zero");
    drop((first, second, third));
}

#[test]
fn fifty_thousand_owners() {
    const OWNERS: usize = 50_000;
    let _lab = Lab::enter(&[Signal::Connections]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::with(PASS_INTERVAL, &[]);
    let cgroups = Cgroups::make(OWNERS);
    // Nobody listens there: each connection is refused.
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST_PORT));
    let refused = |count: usize| {
        until("each owner's refused connections", LIMIT, || {
            let scrape = agent.scrape();
            let rows = series(&scrape, CONNECT_FAILURES, &watch);
            equal("refused", &rows.values().sum::<u64>(), &u64::try_from(count).unwrap())?;
            Ok((scrape, rows))
        })
    };
    let wanderer = Wanderer { netns: &netns, cgroups: &cgroups, to };
    // Each stretch of owners is visited twice, since a series has no increase at its first scrape.
    let mut scrapes = Vec::new();
    let mut count = 0;
    for owners in [0..3_000, 0..3_000, 0..OWNERS, 0..OWNERS] {
        if scrapes.len() == 1 {
            // More than half of the room is used: from the next pass on the `_other` rows are there, at zero.
            agent.await_two_passes();
        }
        count += wanderer.visit(owners);
        let (scrape, rows) = refused(count);
        let units = distinct(&scrape, CONNECT_FAILURES, &watch, ["unit", "container", "pod"]);
        assert!(units <= WORKLOADS_MAX + 1, "{units} owners have rows");
        assert_within_budget(&agent, &scrape, &watch);
        scrapes.push(rows);
    }
    assert_eq!(count, 106_000);
    let units = scrapes[3].keys().filter(|series| series.contains(".service")).count();
    assert!(units > 3_000, "{units} owners have rows of their own");
    for pair in scrapes.windows(2) {
        assert_none_falls(&pair[0], &pair[1]);
    }
    // A row of its own comes with its first count, which is in no increase. `_other` was there before.
    let born: Vec<_> = scrapes[2].iter().filter(|(series, _)| !scrapes[1].contains_key(*series)).collect();
    assert!(born.iter().all(|(series, count)| series.contains(".service") && **count == 1), "{born:?}");
    assert!(born.len() <= WORKLOADS_MAX - 3_000, "{} owners found room", born.len());
    let expected = [3_000, 50_000 - u64::try_from(born.len()).unwrap(), 50_000];
    assert_eq!(increases(CONNECT_FAILURES, &scrapes), expected);
}
