//! Bounds that bite: what finds no room under its own labels counts in the `_other` row, and every
//! sum stays exact.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::equations::{DROPS, RETRANSMITS};
use crate::lab::firewall::Firewall;
use crate::lab::netns::{Netns, Pair, SERVER_V4};
use crate::lab::rungs::{Drops, Signal};
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::until;

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
