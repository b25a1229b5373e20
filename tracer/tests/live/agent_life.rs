//! The agent itself: fewer hooks, a flooded ring, two at once, and what is left when it ends.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::{Closing, assert_closes};
use crate::lab::counters::Watch;
use crate::lab::equations::DROPS;
use crate::lab::load::churn;
use crate::lab::netns::Netns;
use crate::lab::rungs::Signal;
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::until;

const PORT: u16 = 8093;
const PASS_INTERVAL: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(5);
const FLOOD_LIMIT: Duration = Duration::from_secs(20);
/// Enough for their settings to take the first pass longer than its share of an interval allows.
const NAMESPACES: usize = 80;
/// More than an interval, and less than what the settings of so many namespaces put off.
const SECOND_PASS_LIMIT: Duration = Duration::from_secs(3);

fn address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
}

/// 12 clients for a queue that holds 3.
fn nine_drops(netns: &Netns) -> Listener {
    let listener = Listener::open(netns, address(), 2);
    drop(Client::connect_many(netns, address(), 12));
    listener
}

#[test]
fn without_hooks_for_drops_namespace_totals_remain() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::with(PASS_INTERVAL, &["--no-packet-hook", "--disable-hooks", "fentry,kprobe"]);
    // The row is there before its first drop.
    let unknown = [("netns", watch.inode.as_str()), ("reason", "unknown")];
    assert_eq!(agent.scrape().one(DROPS, &unknown), Ok(0.0));
    let _listener = nine_drops(&netns);
    // All nine are drops of a reason unknown; whether they were overflows this rung cannot tell.
    assert_closes(&agent, &[&watch]);
    assert_eq!((watch.delta("ListenDrops"), agent.scrape().sum(DROPS, &unknown)), (9, 9));
}

#[test]
fn flooded_ring_loses_events_and_no_counts() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::with(PASS_INTERVAL, &["--ring-bytes", "4096", "--rate-limit", "0"]);
    let listener = Listener::open(&netns, address(), 2);
    until("the ring to overflow", FLOOD_LIMIT, || {
        churn(&netns, &listener, address(), 2, Duration::from_secs(2));
        let scrape = agent.scrape();
        let lost = scrape.sum("tracer_events_lost_total", &[("stage", "ring")]);
        if lost > 0 { Ok(()) } else { Err(scrape.show("tracer_events", &[])) }
    });
    Closing::at_the_edge(&agent, &[&watch]).check();
    assert!(watch.delta("ListenDrops") > 0);
}

#[test]
fn two_agents_say_the_same() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agents = [Agent::start(), Agent::start()];
    let listener = Listener::open(&netns, address(), 2);
    churn(&netns, &listener, address(), 1, Duration::from_secs(1));
    for agent in &agents {
        Closing::at_the_edge(agent, &[&watch]).check();
    }
}

fn loaded_programs() -> BTreeSet<u32> {
    // One that is unloaded between listing and reading is gone, which is all that matters here.
    aya::programs::loaded_programs().filter_map(|info| Some(info.ok()?.id())).collect()
}

/// Programs go away when the last reference does, which takes an RCU grace period.
fn assert_unloaded(programs: &BTreeSet<u32>) {
    assert!(!programs.is_empty(), "the agent held no program");
    until("the agent's programs to be unloaded", LIMIT, || {
        let left: Vec<u32> = loaded_programs().intersection(programs).copied().collect();
        if left.is_empty() { Ok(()) } else { Err(format!("left: {left:?}")) }
    });
}

#[test]
fn nothing_is_left_after_sigterm() {
    let _lab = Lab::enter(&[]);
    let agent = Agent::start();
    let programs = agent.program_ids();
    assert!(loaded_programs().is_superset(&programs));
    let status = agent.terminate();
    assert!(status.success(), "{status}");
    assert_unloaded(&programs);
}

#[test]
fn nothing_is_left_after_sigkill_and_the_next_one_starts() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let agent = Agent::start();
    let programs = agent.program_ids();
    assert_eq!(agent.kill().signal(), Some(9));
    assert_unloaded(&programs);

    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let _listener = nine_drops(&netns);
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("ListenDrops"), 9);
}

/// The first pass reads the settings of every namespace, which no other does again. Its cost does not put off the second,
/// so that what began to listen meanwhile is not left out for longer than an interval.
#[test]
fn the_first_pass_does_not_put_off_the_second() {
    let _lab = Lab::enter(&[]);
    let _namespaces: Vec<_> = (0..NAMESPACES).map(|_| Netns::single()).collect();
    let agent = Agent::with(Duration::from_secs(2), &["--pass-cpu-percent", "1"]);
    // Settings are as old as the first pass.
    until("a second pass", SECOND_PASS_LIMIT, || {
        let scrape = agent.scrape();
        let age = |pass| scrape.one("tracer_pass_age_seconds", &[("pass", pass)]);
        if age("settings")? - age("namespaces")? > 1.0 { Ok(()) } else { Err(scrape.show("tracer_pass_", &[])) }
    });
}
