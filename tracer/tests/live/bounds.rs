//! Bounds that bite: what finds no room under its own labels counts in the `_other` row, and every
//! sum stays exact. One namespace takes no more than its share.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::equations::{DROPS, RETRANSMITS};
use crate::lab::firewall::Firewall;
use crate::lab::herd::{Cgroups, Wanderer};
use crate::lab::netns::{Netns, Pair, SERVER_V4};
use crate::lab::rungs::{Drops, Signal};
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::{equal, until};
use crate::lab::{Lab, own_process_name};

const PORT: u16 = 8094;
const PASS_INTERVAL: Duration = Duration::from_millis(200);

#[test]
fn more_listeners_than_there_is_room_for() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    // The agent's own listener is one already.
    let agent = Agent::with(PASS_INTERVAL, &["--max-listeners", "3"]);
    let addresses: Vec<_> = (0..6).map(|number| SocketAddr::from((Ipv4Addr::LOCALHOST, PORT + number))).collect();
    let listeners: Vec<_> = addresses.iter().map(|address| Listener::open(&netns, *address, 2)).collect();
    for address in &addresses {
        drop(Client::connect_many(&netns, *address, 5));
    }
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("ListenDrops"), 6 * 2);
    let scrape = agent.scrape();
    // At most two of the six have a row of their own.
    let other = scrape.sum(DROPS, &[("netns", &watch.inode), ("process", "_other")]);
    let shown = scrape.show(DROPS, &[("netns", &watch.inode)]);
    match agent.rungs().drops {
        Drops::Outcomes | Drops::Packets => assert!(other >= 4 * 2, "{shown}"),
        // The sum is all that is known; a pass between two loads may have found a suspect.
        Drops::Totals => {
            let unknown = scrape.sum(DROPS, &[("netns", &watch.inode), ("reason", "unknown")]);
            assert_eq!(unknown, 6 * 2, "{shown}");
        }
    }
    drop(listeners);
}

/// Rows that were refused for want of a share, by table.
fn refused(agent: &Agent, map: &str) -> u64 {
    agent.scrape().sum("tracer_rows_refused_total", &[("map", map)])
}

#[test]
fn a_greedy_namespace_leaves_listeners_room() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let (greedy, newcomer) = (Netns::single(), Netns::single());
    let watch = Watch::from_now(&newcomer);
    let agent = Agent::with(PASS_INTERVAL, &["--max-listeners", "640"]);
    let address = |number| SocketAddr::from((Ipv4Addr::LOCALHOST, PORT + number));
    let _many: Vec<_> = (0..700).map(|number| Listener::open(&greedy, address(number), 2)).collect();
    agent.await_two_passes();
    let _late = Listener::open(&newcomer, address(0), 2);
    drop(Client::connect_many(&newcomer, address(0), 5));
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("ListenDrops"), 2);
    let scrape = agent.scrape();
    let shown = scrape.show(DROPS, &[("netns", &watch.inode)]);
    if !matches!(agent.rungs().drops, Drops::Totals) {
        assert_eq!(scrape.sum(DROPS, &[("netns", &watch.inode), ("process", &own_process_name())]), 2, "{shown}");
    }
    assert!(refused(&agent, "listeners") > 0);
    assert_eq!(refused(&agent, "workloads"), 0);
}

/// Rows that the agent makes, of listeners older than itself, that the hooks make and that the agent removes: the number
/// of rows never drifts from what there is, so each time the namespace gets its three quarters and no row more.
#[test]
fn rows_that_are_removed_are_room_again() {
    let _lab = Lab::enter(&[Signal::ListenerPass]);
    let greedy = Netns::single();
    let open = || -> Vec<_> {
        let address = |number| SocketAddr::from((Ipv4Addr::LOCALHOST, PORT + number));
        (0..80).map(|number| Listener::open(&greedy, address(number), 2)).collect()
    };
    let mut listeners = open();
    let agent = Agent::with(PASS_INTERVAL, &["--max-listeners", "64", "--retain", "1s"]);
    let rows = || agent.scrape().sum("tracer_map_entries", &[("map", "listeners")]);
    for _ in 0..3 {
        agent.await_two_passes();
        // The agent's own listener is one of the 48, or the one for which there is room beyond.
        assert!((48..=49).contains(&rows()), "{} rows", rows());
        listeners.clear();
        until("the rows of what is gone to be removed", Duration::from_secs(10), || {
            if rows() < 24 { Ok(()) } else { Err(format!("{} rows", rows())) }
        });
        listeners = open();
    }
}

/// Refused connects from one cgroup after the other, in one namespace and then from one more in another.
#[test]
fn a_greedy_namespace_leaves_workloads_room() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let (greedy, newcomer) = (Netns::single(), Netns::single());
    let agent = Agent::with(PASS_INTERVAL, &["--max-workloads", "640"]);
    let cgroups = Cgroups::make(701);
    // Nobody listens there.
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    Wanderer { netns: &greedy, cgroups: &cgroups, to }.visit(0..700);
    agent.await_two_passes();
    Wanderer { netns: &newcomer, cgroups: &cgroups, to }.visit(700..701);
    until("the newcomer's refused connect", Duration::from_secs(5), || {
        let (scrape, netns) = (agent.scrape(), newcomer.inode());
        let labels = [("netns", netns.as_str()), ("unit", "owner-700.service"), ("error", "refused")];
        let failures = scrape.sum("tracer_tcp_connect_failures_total", &labels);
        equal("refused connects", &failures, &1)
    });
    assert!(refused(&agent, "workloads") > 0);
}

#[test]
fn more_workloads_than_there_is_room_for() {
    let _lab = Lab::enter(&[Signal::Retransmits]);
    let pairs = [Pair::new(), Pair::new()];
    let watches = [Watch::from_now(&pairs[0].client), Watch::from_now(&pairs[1].client)];
    let agent = Agent::with(PASS_INTERVAL, &["--max-workloads", "1"]);
    let firewalls = [&pairs[0], &pairs[1]].map(|pair| Firewall::install(&pair.server, "input", "tcp flags syn drop"));
    let to = SocketAddr::from((SERVER_V4, PORT));
    let clients = [&pairs[0], &pairs[1]].map(|pair| Client::connect_many(&pair.client, to, 3));
    until("SYNs to be sent again", Duration::from_secs(5), || {
        let again = [watches[0].delta("TCPSynRetrans"), watches[1].delta("TCPSynRetrans")];
        if again.iter().all(|count| *count >= 3) { Ok(()) } else { Err(format!("{again:?}")) }
    });
    drop(clients);
    assert_closes(&agent, &[&watches[0], &watches[1]]);
    let scrape = agent.scrape();
    let in_other = |watch: &Watch<'_>| scrape.sum(RETRANSMITS, &[("netns", &watch.inode), ("unit", "_other")]);
    let other = in_other(&watches[0]) + in_other(&watches[1]);
    assert!(other >= 3, "{}", scrape.show(RETRANSMITS, &[]));
    drop(firewalls);
}
